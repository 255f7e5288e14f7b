from __future__ import annotations

import json

import pandas as pd
import pytest

from sleepstage import demo_paths
from sleepstage.__main__ import main
from sleepstage.demo import run_demo


def test_a_mistake_is_one_line_not_a_traceback(tmp_path, capsys):
    status = main(
        ["stage", str(tmp_path / "no.edf"), "--adapter", str(tmp_path), "--out", str(tmp_path / "o.csv")]
    )
    assert status == 1
    error = capsys.readouterr().err
    assert error.startswith("sleepstage: ") and "no.edf" in error and "Traceback" not in error


@pytest.mark.parametrize("flag", ["--untuned", "--nf4", "--no-nf4", "--fit-prior"])
def test_what_is_about_an_adapter_is_refused_without_one(flag, tmp_path, capsys):
    assert main(["evaluate", "--table", "t.npz", "--baseline", flag, "--json", str(tmp_path / "o.json")]) == 1
    assert "name it with --adapter" in capsys.readouterr().err


def test_prepare_says_where_the_model_is(capsys, smollm2_tokenizer):
    assert main(["prepare"]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, minutes=1, n_steps=3)


@pytest.mark.slow
def test_demo_leaves_what_the_readme_says(demo):
    out, metrics = demo
    files = {"confusion_matrix.png", "hypnogram.csv", "hypnogram.png", "metrics.json"}
    assert {path.name for path in out.iterdir()} == files | {"lesson"}
    assert {path.name for path in (out / "lesson").iterdir()} == files | {"adapter"}
    lesson = json.loads((out / "lesson" / "metrics.json").read_text())
    assert lesson | {"shipped_adapter": json.loads((out / "metrics.json").read_text())} == metrics
    assert "nothing about other people" in metrics["caveat"]
    for picture in out.rglob("*.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 20_000


@pytest.mark.slow
def test_demo_scores_the_same_test_epochs_for_every_model(demo):
    out, metrics = demo
    hypnogram = pd.read_csv(out / "lesson" / "hypnogram.csv")
    tested = hypnogram[hypnogram["split"] == "test"]
    assert len(hypnogram) == 841 and hypnogram["expert"].notna().all()
    assert {figures["n_epochs"] for figures in metrics["figures"].values()} == {len(tested)}
    accuracy = (tested["expert"] == tested["predicted"]).mean()
    assert metrics["figures"]["fine-tuned LLM"]["accuracy"] == pytest.approx(accuracy)
    n2 = (tested["expert"] == "N2").mean()  # the most frequent stage of the training blocks
    assert metrics["figures"]["majority class"]["accuracy"] == pytest.approx(n2)


@pytest.mark.slow
def test_demo_adapter_stages_a_night_from_the_command_line(demo, tmp_path):
    out, _ = demo
    psg, _ = demo_paths()
    assert (
        main(
            [
                "stage",
                str(psg),
                "--adapter",
                str(out / "lesson" / "adapter"),
                "--out",
                str(tmp_path / "night.csv"),
            ]
        )
        == 0
    )
    staged = pd.read_csv(tmp_path / "night.csv")
    assert len(staged) == 841
    assert (staged[["W", "N1", "N2", "N3", "REM"]].sum(axis=1) - 1).abs().max() < 1e-6
