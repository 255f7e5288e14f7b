"""Hints: whoever learns nothing from them gains nothing, and what is filled in is told apart from it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

import sleepstage as ss
from sleepstage.evaluation.hints import hint_figures

N = 200


@pytest.fixture(scope="module")
def stages():
    """Three people of two nights; every tenth epoch is unscored."""
    rng = np.random.default_rng(0)
    nights = [(who, f"n{k}") for who in range(3) for k in range(2)]
    index = pd.MultiIndex.from_tuples(
        [(*night, epoch) for night in nights for epoch in range(N)], names=["subject", "recording", "epoch"]
    )
    stage = np.where(np.arange(len(index)) % 10 == 3, -1, rng.integers(0, 5, len(index)))
    return pd.Series(stage, index, name="stage")


def sure(codes, index, doubt=0.1):
    """Probabilities for these stages, with that much left to the other four."""
    proba = np.eye(5)[np.asarray(codes) % 5]
    doubt = np.broadcast_to(doubt, len(codes))[:, None]
    return pd.DataFrame(proba * (1 - doubt) + (1 - proba) * doubt / 4, index, list(ss.STAGES))


class Fake:
    """Answers without hints as told, and keeps what it was given; with hints it knows every second epoch."""

    def __init__(self, stages, unhinted, learns):
        self.stages, self.unhinted, self.learns, self.given = stages, unhinted, learns, []

    def __call__(self, known):
        if known is None:
            return self.unhinted
        self.given.append(known.copy())
        if not self.learns:
            return self.unhinted
        better = self.unhinted.copy()
        better[::2] = sure(self.stages, self.stages.index)[::2]
        return better


@pytest.fixture(scope="module")
def unhinted(stages):
    """Wrong wherever the epoch's number is a multiple of four; doubtful at ten places a night, all wrong."""
    epoch = stages.index.get_level_values("epoch").to_numpy()
    return sure(
        np.where(epoch % 4 == 0, stages + 1, stages),
        stages.index,
        np.where(epoch % 20 == 12, 0.5, 0.1),
    )


def kappa(stages, codes, rows):
    rows = rows & (stages != -1).to_numpy()
    return cohen_kappa_score(stages[rows], codes[rows])


def test_a_reader_that_learns_nothing_gains_nothing_but_the_correction(stages, unhinted):
    reader = Fake(stages, unhinted, learns=False)
    rows = hint_figures(stages, reader, [0, 10, 20])
    assert [(row["at"], row["n"]) for row in rows] == [
        ("doubt", 0), ("doubt", 10), ("doubt", 20), ("random", 0), ("random", 10), ("random", 20)
    ]  # fmt: skip
    for row in rows:
        assert row["kappa_difference"] == 0 and row["kappa_difference_ci"] == [0, 0]
        assert row["kappa_delivered"] == row["kappa_filled_in"] >= row["kappa_others"]
    codes = unhinted.to_numpy().argmax(axis=1)
    assert rows[0]["kappa_filled_in"] == pytest.approx(kappa(stages, codes, np.full(len(stages), True)))
    assert rows[0]["kappa_others"] == rows[0]["kappa_filled_in"]


def test_the_doubtful_are_asked_for_first_and_never_twice(stages, unhinted):
    reader = Fake(stages, unhinted, learns=False)
    hint_figures(stages, reader, [40], ["doubt"])
    assert len(reader.given) == 4
    epoch = stages.index.get_level_values("epoch")
    first = reader.given[0]
    assert (epoch[first != -1] % 20 == 12).all() and (first != -1).sum() == 60
    for round_, known in enumerate(reader.given, 1):
        hinted = known != -1
        assert (hinted.groupby(level=[0, 1]).sum() == 10 * round_).all()
        assert (known[hinted] == stages[hinted]).all() and (stages[hinted] != -1).all()
        assert hinted[first != -1].all()


def test_random_hints_are_read_when_they_count_and_are_the_same_for_all_readers(stages, unhinted):
    readers = [Fake(stages, unhinted, learns) for learns in (True, False)]
    for reader in readers:
        hint_figures(stages, reader, [0, 20, 40], ["random"])
    first, second = readers
    assert [(known != -1).sum() for known in first.given] == [120, 240]
    assert all(one.equals(two) for one, two in zip(first.given, second.given, strict=True))
    assert (first.given[0][first.given[0] != -1] == stages[first.given[0] != -1]).all()
    assert ((first.given[1] != -1) | (first.given[0] == -1)).all()


def test_figures_are_those_of_the_other_epochs_and_of_the_whole_night(stages, unhinted):
    reader = Fake(stages, unhinted, learns=True)
    row = hint_figures(stages, reader, [20], ["doubt"])[0]
    known = reader.given[-1].to_numpy()
    others, everywhere = known == -1, np.full(len(stages), True)
    before, after = (answers.to_numpy().argmax(axis=1) for answers in (unhinted, reader(reader.given[-1])))
    expected = {
        "kappa_others": kappa(stages, after, others),
        "kappa_others_unhinted": kappa(stages, before, others),
        "kappa_delivered": kappa(stages, np.where(others, after, known), everywhere),
        "kappa_filled_in": kappa(stages, np.where(others, before, known), everywhere),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["kappa_difference"] == pytest.approx(row["kappa_others"] - row["kappa_others_unhinted"])
    low, high = row["kappa_difference_ci"]
    assert 0 < low <= row["kappa_difference"] <= high
    scored = others & (stages != -1).to_numpy()
    confidence = reader(reader.given[-1]).to_numpy()[scored].max(axis=1)
    right = after[scored] == stages[scored]
    bins = pd.cut(pd.Series(confidence), np.linspace(0, 1, 16))
    gap = (
        pd.Series(confidence - right.to_numpy()).groupby(bins, observed=True).sum().abs().sum() / scored.sum()
    )
    assert row["ece_others"] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("counts", "places", "message"),
    [([0, 15], ["doubt"], r"got \[15\] hints .* rounds of 10"), ([10], ["end"], "cannot be given at")],
)
def test_other_numbers_and_places_are_refused_before_anything_is_read(counts, places, message, stages):
    with pytest.raises(ValueError, match=message):
        hint_figures(stages, None, counts, places)
