"""The checks of the exercises: each typical mistake gets a hint of its own.

That the stubs fail and the solutions pass is tested with the notebooks, in ``test_exercises.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

import sleepstage as ss
from sleepstage.course import workshop

RNG = np.random.default_rng(0)


def hint(exercise, answer):
    verdict = ss.workshop.check(exercise, answer)
    assert not verdict.passed
    return verdict.message


def between(stages, first=None, last=None):
    (asleep,) = np.nonzero(stages > 0)
    return stages[asleep[0] if first is None else first : asleep[-1] if last is None else last]


def awake_min(stages):
    return (stages == 0).sum() / 2


def minutes_awake(stages):
    return awake_min(between(stages))


def test_verdict_is_true_or_false_and_shows_itself_as_one_line(night):
    right, wrong = ss.workshop.check("01.1", minutes_awake), ss.workshop.check("01.1", awake_min)
    assert right and not wrong
    assert repr(right).startswith(f"01.1 passed: she lay awake for {minutes_awake(night.stages):g} minutes")
    assert repr(wrong).startswith("01.1 not yet: for a small hypnogram")


def test_there_are_three_exercises_a_notebook_each_about_something_else():
    exercises = workshop.exercises()
    assert [number.split(".")[0] for number in exercises] == sorted(["01", "02", "03", "04", "05"] * 3)
    assert len(set(exercises.values())) == len(exercises)


def test_an_unknown_exercise_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="no exercise '1.1'; there are 01.1, 01.2"):
        ss.workshop.check("1.1", 3)


@pytest.mark.parametrize(
    "exercise", ["01.1", "01.2", "01.3", "02.2", "02.3", "03.2", "04.1", "04.2", "05.1", "05.3"]
)
def test_what_every_function_may_get_wrong(exercise):
    def fails(*_):
        return {}["delta"]

    assert "its name without parentheses, got 3" in hint(exercise, 3)
    assert "returns nothing" in hint(exercise, lambda *_: None)
    assert "stopped: KeyError: 'delta'" in hint(exercise, fails)
    assert "expected" in hint(exercise, lambda *_: np.zeros((3, 3)))


def test_a_function_cannot_spoil_the_night_of_the_next_check(night):
    def spoils(eeg_uv, sfreq_hz):
        eeg_uv[:] = 0
        return eeg_uv[:, 0]

    assert "kappa 0.00" in hint("01.3", spoils)
    assert "every epoch got the same value" in hint("02.3", spoils)
    assert np.array_equal(workshop.shipped_night()[0], night.eeg_uv)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (awake_min, "is all wake"),
        (lambda stages: awake_min(np.trim_zeros(stages)), "is all wake"),  # -1 taken for sleep
        (lambda stages: 2 * minutes_awake(stages), "number of epochs"),
        (lambda stages: (between(stages) <= 0).sum() / 2, "counts -1 too"),
        (lambda stages: awake_min(between(stages, last=len(stages))), "after she woke up for good"),
        (lambda stages: awake_min(between(stages, first=0)), "before she fell asleep"),
        (lambda stages: 60 * minutes_awake(stages), "between the first and the last epoch of sleep"),
    ],
)
def test_01_1_awake_in_the_night(mistake, expected):
    assert expected in hint("01.1", mistake)


def test_01_1_says_the_minutes_of_the_night(night):
    (asleep,) = np.nonzero(night.stages > 0)
    minutes = sum(night.stages[epoch] == 0 for epoch in range(asleep[0], asleep[-1])) / 2
    assert f" {minutes:g} minutes" in workshop.check("01.1", minutes_awake).message


def unit_by(size, limit_uv):
    """Make an answer that takes the unit in which the size is over a limit."""

    def to_microvolts(signal):
        return next((signal * unit for unit in (1, 1e3) if size(signal * unit) > limit_uv), 1e6 * signal)

    return to_microvolts


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (lambda x: 1e6 * x, "in mV, your values are 1e+03 times too large"),
        (lambda x: (x - x.mean()) * 1e6, "multiply by one number"),
        (unit_by(np.max, 100), "EEG is a third as large, in mV"),
        (unit_by(np.max, 30), "the electrode was loose for ten minutes (100 mV), in V"),
        (unit_by(np.std, 5), "the electrode was loose for ten minutes (100 mV), in V"),
        (unit_by(lambda x: np.median(np.abs(x)), 2), "adds a constant of 20 mV, in V"),
    ],
)
def test_01_2_units(mistake, expected):
    assert expected in hint("01.2", mistake)


def test_01_2_accepts_a_measure_that_neither_offset_nor_artefact_moves():
    assert workshop.check("01.2", unit_by(lambda x: np.diff(np.quantile(x, [0.25, 0.75]))[0], 1))


def test_01_3_deep_sleep(night):
    assert "in another order" in hint("01.3", lambda x, rate: night.stages == 3)
    assert "too strict" in hint("01.3", lambda x, rate: x.std(axis=1) > 30)
    assert "blinks are large as well" in hint("01.3", lambda x, rate: x.std(axis=1) > 15)
    assert "expected True or False" in hint("01.3", lambda x, rate: x.std(axis=1))


def test_02_1_swapped_wires():
    right = ["mean_uv", "min_uv", "max_uv", "skewness"]
    assert workshop.check("02.1", right)
    assert "rms_uv stays: " in hint("02.1", [*right, "rms_uv"])
    assert "none is wrong, 3 missing" in hint("02.1", right[:1])
    assert "'spindles' is none of mean_uv, " in hint("02.1", ["spindles"])


def edge_frequency(power=1.0, high=40, rate=None, low=0.5):
    def edge(x, sfreq, share):
        freqs, psd = signal.welch(x, rate or sfreq, nperseg=int(4 * sfreq))
        inside = (freqs >= low) & (freqs <= high)
        below = np.cumsum(psd[inside] ** power)
        return freqs[inside][np.searchsorted(below, share * below[-1])]

    return edge


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (edge_frequency(high=60), "leave out what lies outside"),
        (edge_frequency(power=0.5), "power is amplitude squared"),
        (edge_frequency(rate=100.0), "sampled at 200 Hz"),
        (lambda x, sfreq, share: edge_frequency()(x, sfreq, share) * 4, "expected 6 Hz"),
    ],
)
def test_02_2_edge_frequency(mistake, expected):
    assert workshop.check("02.2", edge_frequency())
    assert expected in hint("02.2", mistake)


def test_02_3_own_feature(night):
    assert "in another order" in hint("02.3", lambda x, rate: night.stages)
    assert "at twice the gain" in hint("02.3", lambda x, rate: x.std(axis=1))
    assert "wanted 0.80 or more" in hint("02.3", lambda x, rate: x.std(axis=1) / x.std())
    assert "epoch 0 got NaN" in hint("02.3", lambda x, rate: np.full(len(x), np.nan))


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [(744, "question is for hours"), (8192 // 10 / 120, "colon is a token"), (5, "epochs of 11 tokens")],
)
def test_03_1_hours_in_context(mistake, expected):
    assert expected in hint("03.1", mistake)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (lambda table: RNG.permutation(["test"] * 120 + ["train"] * 360), "nights are on both sides"),
        (
            lambda table: np.where(table.index.get_level_values("recording") <= "night 12", "test", "train"),
            "have one night in training",
        ),
        (lambda table: np.full(len(table), "train"), "0% are for the test"),
        (lambda table: table.index.get_level_values("subject") == "A", "expected 'train' or 'test'"),
    ],
)
def test_03_2_split_people(mistake, expected):
    assert expected in hint("03.2", mistake)


@pytest.mark.parametrize("split", [ss.split_subjects, lambda table: list(ss.split_subjects(table))])
def test_03_2_accepts_the_package_and_a_plain_list(split):
    assert workshop.check("03.2", split)


def coarse(levels):
    return 2 * (levels // 2)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (ss.night_text, "expected two functions, (write, read)"),
        ((lambda levels: levels, lambda text: text), "expected write to give a text, got ndarray"),
        ((lambda x: ss.night_text(x[:, :6]), lambda text: ss.parse_text(text, 6)), "leave nothing out"),
        ((lambda x: ss.night_text(0 * x + 5), lambda text: ss.parse_text(text, 12)), "comes back 4 off"),
        ((lambda x: ss.night_text(coarse(x)), lambda text: ss.parse_text(text, 12)), "13 tokens an epoch"),
    ],
)
def test_03_3_short_text(mistake, expected, smollm2_tokenizer):
    assert expected in hint("03.3", mistake)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (lambda shapes, mb: mb * 1e6 // sum(map(sum, shapes)), "takes four bytes"),
        (lambda shapes, mb: mb * 1e6 // 4 // sum(n for n, _ in shapes), "room for one of A and B only"),
        (lambda shapes, mb: mb * 1e6 // 4 // sum(n * m for n, m in shapes), "only A and B are"),
        (lambda shapes, mb: mb * 1e6 / 4 / sum(map(sum, shapes)), "a rank is a whole number"),
        (lambda shapes, mb: 90, "too much"),
        (lambda shapes, mb: 8, "a larger one does too"),
    ],
)
def test_04_1_the_rank_that_fits(mistake, expected):
    assert expected in hint("04.1", mistake)


def shifted(stages, ahead):
    labels = np.full(len(stages), -100)
    labels[ahead:] = stages[:-ahead]  # with 0 there is nothing before the end
    return np.where(labels == -1, -100, labels)


def scored(stages):
    return np.where(stages == -1, -100, stages)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (lambda stages, ahead: np.roll(stages, ahead), "-1 is an unscored epoch"),
        (lambda stages, ahead: scored(np.roll(stages, ahead)), "came round to the start"),
        (lambda stages, ahead: scored(np.append(stages[ahead:], [-1] * ahead)), "the wrong way"),
        (shifted, "a look-ahead of 0, stopped: ValueError"),
        (lambda stages, ahead: scored(stages), "expected [-100, -100, 0, 0, 1, -100, 2, 3]"),
    ],
)
def test_04_2_answer_labels(mistake, expected):
    assert expected in hint("04.2", mistake)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("ABCDE", "expected a list of five words, got 'ABCDE'"),
        ([" W", " N1", " N2", " N3", " REM"], "must be one token each"),
        ([" Wake", " Light", " Deep", " Deep", " REM"], "must be distinct"),
        ([*"ABCDE"], "'A' is no word of three letters"),
        ([" Wake", " Light", " Medium", " Deep", " REM"], "the untuned model gives ' REM' "),
    ],
)
def test_04_3_label_words(mistake, expected, smollm2_tokenizer):
    assert expected in hint("04.3", mistake)


def light(matrix, axis):
    return np.add.reduceat(matrix, [0, 1, 3, 4], axis=axis)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (lambda matrix: light(matrix, 0), "one side is merged only"),
        (lambda matrix: matrix, "add N2's row to N1's"),
        (lambda matrix: np.delete(np.delete(matrix, 1, 0), 1, 1), "N1's epochs are gone"),
        (lambda matrix: light(light(matrix, 0), 1)[::-1], "The order is ('W', 'light', 'N3', 'REM')"),
        (lambda matrix: light(light(matrix, 0), 1) // 2, "epochs went in"),
    ],
)
def test_05_1_four_stages(mistake, expected):
    assert expected in hint("05.1", mistake)


def middle(values):
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (
            lambda right, person: middle(RNG.choice(right, (1000, len(right))).mean(axis=1)),
            "resample people, not epochs",
        ),
        (lambda right, person: middle([right[person == one].mean() for one in set(person)]), "is too wide"),
        (lambda right, person: (70, 80), "leaves out the accuracy"),
    ],
)
def test_05_2_interval_over_people(mistake, expected):
    assert expected in hint("05.2", mistake)


def test_05_2_accepts_the_t_interval():
    def interval(right, person):
        each = np.array([right[person == one].mean() for one in set(person)])
        return each.mean() + np.array([-2.2, 2.2]) * each.std(ddof=1) / np.sqrt(len(each))

    assert workshop.check("05.2", interval)


def test_05_3_better_hypnodensity(night):
    moving = np.ones(7)
    assert "sum to 1" in hint("05.3", lambda p: np.apply_along_axis(np.convolve, 0, p, moving, "same"))
    assert "better than experts agree" in hint("05.3", lambda p: np.eye(5)[night.stages])
    assert "Do both neighbours have a say?" in hint("05.3", lambda p: p)


def test_checks_follow_the_night_and_not_fixed_numbers(night, monkeypatch):
    stages = np.where(night.stages == 0, 2, night.stages)
    stages[400:410] = 0
    monkeypatch.setattr(workshop, "shipped_night", lambda: (night.eeg_uv, stages))
    assert "for 5 minutes" in workshop.check("01.1", minutes_awake).message
