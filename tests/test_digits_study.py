"""The benchmark of sets of digits: its notation, its rows, and that it goes on where it stopped."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.finetuning import teacher


@pytest.fixture(scope="module")
def study():
    path = Path(__file__).parents[1] / "benchmarks" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits_study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_set_is_of_the_length_that_its_name_says_and_of_features_that_exist(study):
    for name, notation in study.SETS.items():
        digits = study.digits(notation)
        assert len(set(digits)) == len(digits) == int(name[1:])
        columns = {column for digit in digits for column in digit.column.split("/")}
        assert ss.describe_features(columns)["meaning"].notna().all()
    ratio, near = study.digits("P:rd/var D:Ls")
    assert ratio == ss.Digit("rfft_delta_uv2/var_uv2", "cohort")
    assert near == ss.Digit("sigma_log_power", "neighbours")


@pytest.mark.slow
def test_sets_get_a_row_each_and_are_trained_once(study, tmp_path, monkeypatch, smollm2_tokenizer, capsys):
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [range(6), ["night"], range(300)], names=["subject", "recording", "epoch"]
    )
    stage = np.repeat(rng.integers(0, 5, 180), 10).astype(np.int8)
    values = {"std_uv": stage + rng.normal(scale=0.2, size=1800), "ptp_uv": rng.normal(size=1800)}
    path = ss.save_table(pd.DataFrame({**values, "stage": stage}, index), tmp_path / "six.npz")
    monkeypatch.setattr(study, "SETS", {"good": "P:std N:std", "noise": "P:range"})
    monkeypatch.setattr(teacher, "N_MEMBERS", 1)
    monkeypatch.setattr(teacher.Network, "fit", partial(teacher.Network.fit, n_passes=6))
    networks = tmp_path / "networks"
    arguments = ["digits.py", "--table", str(path), "--out", str(tmp_path / "rows.csv")]
    arguments += ["--networks", str(networks), "--validation-subjects", "5"]
    monkeypatch.setattr("sys.argv", [*arguments, "--sets", "good"])
    study.main()
    monkeypatch.setattr("sys.argv", arguments)
    study.main()
    rows = pd.read_csv(tmp_path / "rows.csv").set_index("set")
    assert list(rows.index) == ["good", "noise"] and rows["tokens"].tolist() == [3, 2]
    for what in ("nights", "pieces"):
        assert rows.loc["good", f"{what} kappa"] > 0.2 > rows.loc["noise", f"{what} kappa"]
    assert len(list(networks.rglob("*.safetensors"))) == 10
    monkeypatch.setattr(teacher.Network, "fit", None)  # nothing is trained again
    (tmp_path / "rows.csv").unlink()
    study.main()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "rows.csv").set_index("set"), rows)
