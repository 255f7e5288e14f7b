"""The adapter that ships does what its card says."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.finetuning import base_model
from sleepstage.finetuning.adapter import ADAPTER_FILES, SHIPPED_ADAPTER
from sleepstage.finetuning.settings import CPU, T4
from sleepstage.staging import stager

VALIDATION = {2, 6, 10, 17, 19, 23, 27, 35, 50, 64, 70, 73, 76, 80}


@pytest.fixture(scope="module")
def figures():
    return json.loads((SHIPPED_ADAPTER / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def card():
    return (SHIPPED_ADAPTER / "README.md").read_text(encoding="utf-8")


def in_card(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".")


def test_folder_is_complete_and_small_enough_to_ship():
    sizes = {file.name: file.stat().st_size for file in SHIPPED_ADAPTER.iterdir()}
    assert set(ADAPTER_FILES) | {"README.md", "figures.json"} == set(sizes)
    assert sum(sizes.values()) < 15e6


def test_nobody_it_is_scored_on_was_trained_on():
    train = json.loads((SHIPPED_ADAPTER / "train.json").read_text(encoding="utf-8"))
    stages, _ = ss.load_validation()
    assert set(stages.index.unique("subject")) == VALIDATION
    assert set(ss.load_cohort().index.unique("subject")) == VALIDATION
    assert not {0, *VALIDATION} & set(train["subjects"])
    assert str(Path.home()) not in json.dumps(train)


@pytest.mark.slow  # a whole night in float32
def test_shipped_night_is_staged_as_well_as_the_card_says(table, figures, card):
    proba = ss.Stager.from_pretrained().predict_proba(table)
    kappa = ss.score(table["stage"], proba)["kappa"]
    stated = figures["shipped_night"]["kappa"]
    assert kappa == pytest.approx(stated, abs=0.01)
    assert in_card(stated) in card


@pytest.mark.slow  # a CPU takes a minute in float16
def test_its_answers_on_a_t4_are_the_same(table, monkeypatch):
    """A T4 computes in float16, which ends at 65,504: with a larger number inside, answers would be NaN."""
    part = table[400:480]
    known, exact = part["stage"][::16], ss.Stager.from_pretrained()
    as_t4 = replace(CPU, dtype=T4.dtype, attention=T4.attention)
    monkeypatch.setattr(base_model, "detect", lambda: as_t4)
    monkeypatch.setattr(stager, "detect", lambda: as_t4)
    rounded = ss.Stager.from_pretrained()
    assert rounded.model.dtype is T4.dtype
    one, two = (reader.predict_proba(part, known, with_prior=False) for reader in (exact, rounded))
    pd.testing.assert_frame_equal(two, one, atol=0.01, rtol=0)


@pytest.mark.parametrize("model", ["llm", "baseline", "network"])
def test_kept_answers_give_the_figures_on_the_card(model, figures, card):
    stages, answers = ss.load_validation()
    stated = figures["validation"][model]
    found = ss.cohort_figures(stages, answers[model])
    for name in ("accuracy", "macro_f1", "kappa", "log_loss", "ece"):
        rounded = 5e-3 if name == "log_loss" else 2e-3  # answers are kept with four digits
        assert found[name] == pytest.approx(stated[name], abs=rounded)
        assert in_card(stated[name]) in card
    assert found["kappa_ci"] == pytest.approx(stated["kappa_ci"], abs=2e-3)
    assert (found["n_epochs"], found["n_subjects"]) == (stated["n_epochs"], 14)
