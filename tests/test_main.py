"""The commands: what they write, and what they say about a mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace

import edfio
import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.__main__ import main
from sleepstage.course.demo import run_demo
from sleepstage.finetuning.adapter import SHIPPED_ADAPTER, read_card


def test_a_mistake_is_one_line_not_a_traceback(tmp_path, capsys):
    assert main(["stage", str(tmp_path / "no.edf"), "--out", str(tmp_path / "o.csv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sleepstage: ") and "no.edf" in error and "Traceback" not in error


def test_a_fault_of_ours_says_the_version_and_how_to_get_the_traceback(tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise KeyError("colour")

    monkeypatch.setattr("sleepstage.finetuning.base_model.prepare", fails)
    assert main(["prepare"]) == 1
    error = capsys.readouterr().err
    assert f"sleepstage {ss.__version__}: KeyError: 'colour'" in error and "--debug" in error
    with pytest.raises(KeyError):
        main(["prepare", "--debug"])


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{ss.__version__}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "n_steps is 0, expected a whole number from 1"),
        ("--minutes 0", "max_minutes is 0.0, expected a number of at least"),
        ("--minutes nan", "max_minutes is nan"),
        ("--blur 2", "blur is 2.0, expected a number from 0 to 1"),
        ("--partial nan", "partial_share is nan"),
        ("--learning-rate 0", "learning_rate is 0.0"),
        ("--margin 1000000", "margin_epochs is 1000000"),
    ],
)
def test_an_impossible_setting_is_refused_by_train(options, message, tmp_path, table, capsys):
    path = ss.save_table(table, tmp_path / "night.npz")
    assert main(["train", "--table", str(path), "--adapter", str(tmp_path / "a"), *options.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("stage n.edf --out {folder}", "folder is no file, expected the name of a file"),
        ("stage n.edf --out /dev/null", "/dev/null is no file"),
        ("stage n.edf --out {file}/new/stages.csv", "file is a file, expected a folder"),
        ("plan --json {folder}", "expected the name of a file"),
        ("evaluate --table t.npz --json {folder}", "expected the name of a file"),
        ("evaluate --table t.npz --json j --hypnodensities {file}/p.npz", "expected a folder"),
        ("demo --out {file}", "expected a folder"),
        ("train --table t.npz --adapter a --copy-to {file}", "expected a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(command, message, tmp_path, capsys):
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    places["file"].touch()
    places["folder"].mkdir()
    with pytest.raises(SystemExit):
        main(command.format(**places).split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("stage no.edf --out {new}", "there is no file"),
        ("stage {night} --channel C9 --out {new}", "has no channel 'C9'"),
        ("stage {night} --adapter no --out {new}", "no is no adapter"),
        ("train --table no.npz --adapter {new}", "there is no file"),
        ("evaluate --table no.npz --json {new}", "there is no file"),
        ("plan --table no.npz", "there is no file"),
    ],
)
def test_a_wrong_file_or_channel_is_told_before_torch_is_imported(command, message, tmp_path):
    arguments = command.format(new=tmp_path / "new", night=ss.demo_paths()[0]).split()
    code = (
        "import sys; from sleepstage.__main__ import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as stop: status = stop.code\n"
        "sys.exit(3 if 'torch' in sys.modules else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("flag", ["--untuned", "--nf4", "--no-nf4", "--fit-prior"])
def test_what_is_about_an_adapter_is_refused_without_one(flag, tmp_path, capsys):
    assert main(["evaluate", "--table", "t.npz", "--baseline", flag, "--json", str(tmp_path / "o.json")]) == 2
    assert "name it with --adapter" in capsys.readouterr().err


def test_every_option_of_train_about_a_setting_reaches_the_trainer(tmp_path, table, monkeypatch):
    configs = []
    monkeypatch.setattr("sleepstage.finetuning.trainer.finetune", lambda *given: configs.append(given[2]))
    path = ss.save_table(table, tmp_path / "night.npz")
    command = ["train", "--table", str(path), "--adapter", str(tmp_path / "adapter"), "--float32"]
    options = "--base b --minutes 3 --steps 7 --learning-rate .1 --margin 5 --partial 0.5 --seed 9 --blur 0.3"
    assert main([*command, *options.split()]) == 0
    settings = {"base": "b", "max_minutes": 3, "n_steps": 7, "learning_rate": 0.1, "margin_epochs": 5}
    settings |= {"partial_share": 0.5, "seed": 9, "blur": 0.3, "nf4": False, "start_from": None}
    assert configs[0] == replace(configs[0], **settings)


@pytest.mark.parametrize(("preset", "n_steps"), [("cpu", 2000), ("t4", 1100)])
def test_train_leaves_to_the_machine_and_to_the_model_what_is_not_asked(
    preset, n_steps, tmp_path, table, monkeypatch
):
    configs = []
    monkeypatch.setattr("sleepstage.finetuning.trainer.finetune", lambda *given: configs.append(given[2]))
    monkeypatch.setenv("SLEEPSTAGE_PRESET", preset)
    path = ss.save_table(table, tmp_path / "night.npz")
    assert main(["train", "--table", str(path), "--adapter", str(tmp_path / "adapter")]) == 0
    shipped = read_card(SHIPPED_ADAPTER)["settings"]
    assert configs[0].learning_rate is None and configs[0].n_steps == n_steps
    for name in ("warmup_steps", "class_weights", "margin_epochs", "blur", "partial_share", "hinted_share"):
        assert np.array_equal(getattr(configs[0], name), shipped[name])


def test_training_on_nobody_is_refused_as_such(tmp_path, table, capsys):
    ss.save_table(table, tmp_path / "t.npz")
    places = ["--table", str(tmp_path / "t.npz"), "--adapter", str(tmp_path / "adapter")]
    assert main(["train", *places, "--validation-subjects", "0"]) == 2
    assert "none is left to train on" in capsys.readouterr().err


def test_a_name_that_the_terminal_cannot_show_does_not_fail_the_work(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sleepstage.finetuning.base_model.prepare", lambda: "n\udce4cht/µ")
    assert main(["prepare"]) == 0
    terminal.flush()
    assert b"n\\udce4cht/\\xb5" in terminal.buffer.getvalue()


def test_prepare_says_where_the_model_is(capsys, smollm2_tokenizer):
    assert main(["prepare"]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out


def test_staged_night_says_which_epochs_have_no_stage_and_why(tmp_path, tiny_base, table, night, capsys):
    eeg_uv = night.eeg_uv.copy()
    eeg_uv[400:460] = 0  # the file's steps have no exact zero, so it comes back as flat
    signal = edfio.EdfSignal(eeg_uv.ravel(), night.sfreq_hz, label="C3", physical_dimension="uV")
    edfio.Edf([signal]).write(tmp_path / "night.edf")
    adapter = tmp_path / "adapter"
    spec = ss.PromptSpec(digits=(ss.Digit("std_uv"), ss.Digit("mobility")), window=12, look_ahead=3)
    config = ss.TrainingConfig(base=str(tiny_base), n_steps=1, nf4=False, lora_rank=4)
    ss.finetune(table, spec, config, adapter)
    command = ["stage", str(tmp_path / "night.edf"), "--channel", "C3", "--adapter", str(adapter)]
    with pytest.warns(UserWarning, match=r"60 of 841 epochs \(7 %\) cannot be measured \(flat 60\)"):
        assert main([*command, "--out", str(tmp_path / "new" / "night.csv")]) == 0
    assert "781 of 841 epochs staged" in capsys.readouterr().out
    staged = pd.read_csv(tmp_path / "new" / "night.csv")
    names = list(ss.STAGES)
    assert list(staged) == ["subject", "recording", "epoch", "predicted", *names, "quality"]
    off = staged["epoch"].between(400, 459)
    assert (staged["quality"] == np.where(off, "flat", "ok")).all()
    assert staged.loc[off, ["predicted", *names]].isna().all(axis=None)
    known = staged[~off]
    assert (known["predicted"] == known[names].idxmax(axis=1)).all()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, fast=True)


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
def test_demo_stages_the_shipped_night_again_with_ten_hints(demo, table):
    out, metrics = demo
    hints, whole = (
        metrics["shipped_adapter"]["hints"],
        metrics["shipped_adapter"]["figures"]["shipped adapter"],
    )
    unhinted = pd.read_csv(out / "hypnogram.csv").set_index(table.index)[list(ss.STAGES)]
    others = table["stage"].drop(ss.recheck(unhinted, n=10))
    assert hints["n"] == 10 and whole["n_epochs"] == len(others) + 10
    expected = ss.score(others, unhinted.loc[others.index])["kappa"]
    assert hints["kappa_others_unhinted"] == pytest.approx(expected, abs=2e-3)  # the file is rounded
    assert hints["kappa_delivered"] > whole["kappa"]


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
    psg, _ = ss.demo_paths()
    adapter, written = out / "lesson" / "adapter", tmp_path / "night.csv"
    assert main(["stage", str(psg), "--adapter", str(adapter), "--out", str(written)]) == 0
    staged = pd.read_csv(written)
    assert len(staged) == 841
    assert (staged[list(ss.STAGES)].sum(axis=1) - 1).abs().max() < 1e-6
