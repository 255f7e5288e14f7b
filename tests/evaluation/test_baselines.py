"""Baselines against cases worked by hand, and against what they must not know."""

import warnings

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from sleepstage.evaluation.baselines import context_features, gradient_boosting_baseline, majority_baseline
from sleepstage.evaluation.metrics import score
from sleepstage.stages import STAGES


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On so little data, threads that wait for a busy processor cost more than they bring."""
    with threadpool_limits(1):
        yield


def night(n=60, subject=1, recording="A", epochs=None, seed=0, n_features=2):
    """A table whose first feature follows the stage with noise, the others being noise."""
    rng = np.random.default_rng([seed, subject])
    stage = np.repeat(rng.integers(0, 5, -(-n // 6)), 6)[:n]
    values = rng.normal(size=(n, n_features))
    values[:, 0] += 4 * stage
    index = pd.MultiIndex.from_product(
        [[subject], [recording], range(n) if epochs is None else epochs],
        names=["subject", "recording", "epoch"],
    )
    table = pd.DataFrame(values, index=index, columns=[f"f{k}" for k in range(n_features)])
    return table.assign(stage=stage.astype(np.int8))


def test_context_of_an_epoch_worked_by_hand():
    table = night(n=31, n_features=1)
    table["f0"] = x = np.random.default_rng(4).permutation(31) ** 2.0
    level = (np.sqrt(x) + 0.5) / 31  # the k-th of 31, from 0, is in the middle of its share
    seen = context_features(table).iloc[15]
    triangle = np.array([1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1])
    expected = {
        "f0": x[15],
        "f0 level": level[15],
        "f0 level -2": level[13],
        "f0 level +1": level[16],
        "f0 level centred": (triangle * level[8:23]).sum() / 64,
        "f0 level past": level[12:16].mean(),
    }
    assert seen[list(expected)].to_numpy() == pytest.approx(list(expected.values()), rel=1e-5)


def test_levels_do_not_depend_on_a_devices_gain_nor_on_quality():
    table = night(n=50)
    louder = table.assign(f0=np.exp(table["f0"]), f1=1000 * table["f1"] - 3, quality="ok")
    levels = context_features(table).filter(like="level")
    pd.testing.assert_frame_equal(context_features(louder).filter(like="level"), levels)
    assert not any("quality" in name for name in context_features(louder))


def test_equal_values_share_their_middle_level_and_missing_ones_have_none():
    table = night(n=6, n_features=1).assign(f0=[7.0, 3, 7, np.nan, 9, 7])
    expected = [2.5 / 5, 0.5 / 5, 2.5 / 5, np.nan, 4.5 / 5, 2.5 / 5]
    np.testing.assert_allclose(context_features(table)["f0 level"], expected, rtol=1e-6)


def test_nothing_reaches_across_a_gap_or_the_edge():
    whole = night(n=40, epochs=[*range(20), *range(30, 50)])
    other = whole.copy()
    other.iloc[20:, 0] = other.iloc[20:, 0].sample(frac=1, random_state=0).to_numpy()  # the levels stay
    before, after = context_features(whole), context_features(other)
    pd.testing.assert_frame_equal(before.iloc[:20], after.iloc[:20])
    for edge, step in [(19, "+1"), (18, "+2"), (20, "-1"), (39, "+1"), (0, "-2")]:
        assert np.isnan(before[f"f0 level {step}"].iloc[edge])
    smooth = before[["f0 level centred", "f0 level past"]]
    assert np.isfinite(smooth.to_numpy()).all()
    assert smooth["f0 level past"].iloc[20] == before["f0 level"].iloc[20]


def test_recordings_do_not_see_each_other_whatever_their_order():
    nights = [night(subject=s, recording=r) for s, r in [(1, "A"), (1, "B"), (2, "C")]]
    alone = [context_features(table) for table in nights]
    together = context_features(pd.concat(nights))
    pd.testing.assert_frame_equal(together, pd.concat(alone))
    shuffled = pd.concat(nights).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(context_features(shuffled), together.loc[shuffled.index])


def test_there_is_no_clock():
    """A periodic night repeats its context at every period: away from the edges, position leaves no trace."""
    table = night(n=200, n_features=3)
    table[["f0", "f1", "f2"]] = np.tile(table[["f0", "f1", "f2"]].to_numpy()[:20], (10, 1))
    inner = context_features(table).to_numpy()[20:180].reshape(8, 20, -1)
    np.testing.assert_allclose(inner, np.broadcast_to(inner[:1], inner.shape), rtol=1e-5, atol=1e-6)
    later = table.copy()
    later.index = night(n=200, epochs=range(500, 700)).index
    np.testing.assert_array_equal(context_features(later), context_features(table))


def test_constant_features_are_in_the_middle_and_missing_ones_nan():
    table = night(30, n_features=3)
    table["f1"] = 3.0
    table["f2"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = context_features(table)
    assert (seen["f1"] == 3).all()
    assert (seen.filter(regex="^f1 level").fillna(0.5) == 0.5).all(axis=None)
    assert seen.filter(regex="^f2").isna().all(axis=None)
    assert not np.isinf(seen.to_numpy()).any()


def test_an_epoch_without_a_value_does_not_spoil_its_neighbours_means():
    table = night(30)
    table.iloc[15, 0] = np.nan
    assert np.isfinite(context_features(table)["f0 level centred"]).all()


def test_a_table_with_another_index_is_refused():
    with pytest.raises(ValueError, match="expected .'subject', 'recording', 'epoch'"):
        context_features(night().reset_index(drop=True))
    with pytest.raises(ValueError, match="more than once"):
        context_features(pd.concat([night(), night()]))


def test_majority_is_the_frequency_in_training():
    train = night(4).assign(stage=[0, 0, 2, -1])
    proba = majority_baseline(train, night(3, subject=2))
    np.testing.assert_allclose(proba, [[2 / 3, 0, 1 / 3, 0, 0]] * 3)


def test_majority_needs_no_features():
    stages = night()[["stage"]]
    assert majority_baseline(stages, stages).notna().all(axis=None)


def test_trees_beat_the_majority_and_are_repeatable():
    train = pd.concat([night(240, subject=s) for s in (1, 2)])
    test = night(240, subject=3)
    proba = gradient_boosting_baseline(train, test, max_iter=15)
    assert (
        score(test["stage"], proba)["kappa"]
        > 0.5
        > score(test["stage"], majority_baseline(train, test))["kappa"]
    )
    assert proba.index.equals(test.index)
    pd.testing.assert_frame_equal(proba, gradient_boosting_baseline(train, test, max_iter=15))


def test_the_order_of_recordings_and_columns_changes_no_answer():
    train, test = night(120), pd.concat([night(60, subject=2), night(60, subject=3)])
    proba = gradient_boosting_baseline(train, test, max_iter=5)
    turned = gradient_boosting_baseline(train, test[::-1][["stage", "f1", "f0"]], max_iter=5)
    pd.testing.assert_frame_equal(turned.loc[test.index], proba)
    pd.testing.assert_frame_equal(
        gradient_boosting_baseline(train, test.drop(columns="stage"), max_iter=5), proba
    )


@pytest.mark.parametrize("known", [(1, 3), (2,)])
def test_trees_answer_with_five_columns_when_stages_are_missing(known):
    train = night(60).assign(stage=np.resize(known, 60))
    train.iloc[:5, train.columns.get_loc("stage")] = -1
    proba = gradient_boosting_baseline(train, night(30, subject=2), max_iter=3)
    assert proba.columns.tolist() == list(STAGES)
    assert np.flatnonzero(proba.sum()).tolist() == list(known)
    np.testing.assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize("baseline", [gradient_boosting_baseline, majority_baseline])
def test_baselines_have_no_answer_where_no_feature_is_known_and_do_not_learn_there(baseline):
    settings = {"max_iter": 3} if baseline is gradient_boosting_baseline else {}
    train, test = night(120), night(60, subject=2)
    test.iloc[7, :2] = np.nan
    test.iloc[9, 0] = np.nan
    train.iloc[5:25, :2] = np.nan
    proba = baseline(train, test, **settings)
    assert np.flatnonzero(proba.isna().all(axis=1)).tolist() == [7]
    np.testing.assert_allclose(proba.drop(proba.index[7]).sum(axis=1), 1)
    otherwise = train.copy()
    otherwise.iloc[5:25, -1] = (train["stage"].iloc[5:25] + 1) % 5
    pd.testing.assert_frame_equal(baseline(otherwise, test, **settings), proba)
    with pytest.raises(ValueError, match="scored and has a feature"):
        baseline(train.iloc[5:25], test, **settings)


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="f2"):
        gradient_boosting_baseline(night(n_features=3), night(subject=2))
    with pytest.raises(ValueError, match="none of the training table's 60 epochs"):
        majority_baseline(night().assign(stage=-1), night())
    with pytest.raises(ValueError, match="no column 'stage'"):
        gradient_boosting_baseline(night().drop(columns="stage"), night())
