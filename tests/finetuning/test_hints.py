"""Which epochs a scorer is asked for, and which hints a training night has: counted, and by hand."""

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.finetuning.hints import MOST_HINTS, draw_hints, spread


def hypnodensity(*nights):
    """Nights whose epochs have these probabilities of W, and the rest of N2."""
    parts = []
    for i, wake in enumerate(nights):
        index = pd.MultiIndex.from_product(
            [[i], [f"night {i}"], range(len(wake))], names=["subject", "recording", "epoch"]
        )
        values = np.zeros((len(wake), 5))
        values[:, 0], values[:, 2] = wake, 1 - np.array(wake)
        parts.append(pd.DataFrame(values, index, list(ss.STAGES)))
    return pd.concat(parts)


def test_of_each_part_of_a_night_the_most_doubtful_epoch_is_named():
    night = [0.9, 0.6, 1.0, 0.0, 0.45, 0.2]
    asked = ss.recheck(hypnodensity(night, night[::-1]), n=2)
    assert asked.tolist() == [(0, "night 0", 1), (0, "night 0", 4), (1, "night 1", 1), (1, "night 1", 4)]


def test_what_is_known_or_has_no_answer_is_not_asked_for():
    proba = hypnodensity([0.5, 0.6, np.nan, 0.9, 0.8, 0.7])
    known = pd.Series([2, -1, -1, -1, -1, 0], proba.index)
    assert ss.recheck(proba, 2, known).get_level_values("epoch").tolist() == [1, 4]
    everything = pd.Series(2, proba.index)
    assert len(ss.recheck(proba, 2, everything)) == 0


def test_asking_for_no_epoch_is_refused():
    with pytest.raises(ValueError, match="n is 0, expected the number of epochs"):
        ss.recheck(hypnodensity([0.5]), 0)


def test_hints_of_a_night_are_one_to_forty_of_its_own_stages():
    rng = np.random.default_rng(0)
    stages = rng.integers(-1, 5, 500)
    drawn = [draw_hints(stages, None, rng, share=0.5) for _ in range(400)]
    counts = np.array([(known >= 0).sum() for known in drawn])
    assert all((known[known >= 0] == stages[known >= 0]).all() for known in drawn)
    assert np.mean(counts == 0) == pytest.approx(0.5, abs=0.08)
    assert set(counts) == set(range(MOST_HINTS + 1))


def test_half_of_the_hints_are_where_the_doubt_is():
    rng = np.random.default_rng(0)
    stages, doubt = np.zeros(400, int), np.tile([0.0, 0.0, 0.0, 0.9], 100)
    doubtful = [draw_hints(stages, doubt, rng, share=1.0)[doubt > 0].sum() for _ in range(1)]
    shares = []
    for _ in range(300):
        known = draw_hints(stages, doubt, rng, share=1.0) >= 0
        shares.append(known[doubt > 0].sum() / known.sum())
    assert doubtful and np.mean(np.array(shares) == 1) == pytest.approx(0.5, abs=0.12)
    assert np.mean(shares) == pytest.approx(0.5 * 1 + 0.5 * 0.25, abs=0.06)


def test_a_night_shorter_than_its_parts_is_asked_for_once_an_epoch():
    assert spread(np.array([0.3, 0.1]), 5).tolist() == [0, 1]
