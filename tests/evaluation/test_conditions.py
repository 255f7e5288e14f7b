"""Nights under other conditions: what the amplifier's gain moves, and what pieces and added wake hold."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.evaluation.conditions import in_pieces, under_gain, with_more_wake


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_gain_does_to_the_table_what_it_does_to_the_signal(night, table, gain):
    amplified = ss.extract_features(replace(night, eeg_uv=night.eeg_uv * gain))
    scaled = under_gain(table, gain)
    assert scaled.columns.tolist() == amplified.columns.tolist()
    assert scaled[["stage", "quality"]].equals(amplified[["stage", "quality"]])
    for name in ss.feature_columns(table):
        np.testing.assert_allclose(scaled[name], amplified[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_an_amplifier_that_cannot_be_and_a_feature_of_unknown_unit_are_refused(table):
    for gain in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"gain is {gain}, expected a positive number"):
            under_gain(table, gain)
    with pytest.raises(ValueError, match="no features .'my_own'"):
        under_gain(table.assign(my_own=1.0), 2)


@pytest.fixture
def nights():
    index = [("Ann", "n1", k) for k in range(1000)] + [("Ben", "n1", k) for k in range(10, 310)]
    index = pd.MultiIndex.from_tuples(index, names=["subject", "recording", "epoch"])
    stage = np.resize([0, 0, 2, 2, 2, 4], 1300)
    return pd.DataFrame({"std_uv": np.arange(1300.0), "stage": stage.astype(np.int8)}, index)


def test_pieces_are_four_hours_and_the_last_ends_with_the_night(nights):
    pieces = in_pieces(nights)
    lengths = pieces.groupby(level=["subject", "recording"]).size()
    assert lengths.to_dict() == {
        ("Ann", "n1-0"): 480, ("Ann", "n1-1"): 480, ("Ann", "n1-2"): 480, ("Ben", "n1-0"): 300,
    }  # fmt: skip
    assert pieces.loc[("Ann", "n1-1")].index.tolist() == list(range(480))
    assert pieces.loc[("Ann", "n1-1"), "std_uv"].tolist() == list(range(480, 960))
    assert pieces.loc[("Ann", "n1-2"), "std_uv"].tolist() == list(range(520, 1000))
    counted = pieces[pieces["stage"] != -1]
    assert counted["std_uv"].tolist() == list(range(1300))
    assert counted["stage"].tolist() == nights["stage"].tolist()


def test_added_wake_is_the_nights_own_and_unscored(nights):
    longer = with_more_wake(nights, hours=1)
    assert longer.groupby(level="subject").size().to_dict() == {"Ann": 1120, "Ben": 420}
    ann = longer.loc["Ann"]
    assert ann["std_uv"].tolist()[60:-60] == list(range(1000))
    added = np.r_[0:60, 1060:1120]
    assert (ann["stage"].iloc[added] == -1).all()
    assert (nights["stage"].iloc[ann["std_uv"].iloc[added].astype(int)] == 0).all()
    assert longer.loc["Ben"].index.get_level_values("epoch").tolist() == list(range(420))


def test_a_night_without_wake_gets_none(nights):
    asleep = nights.assign(stage=np.int8(2))
    assert len(with_more_wake(asleep)) == len(asleep)
