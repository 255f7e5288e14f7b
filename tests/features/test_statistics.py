"""What features say: against closed forms, SciPy, and counting by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sleepstage as ss
from sleepstage.features.statistics import interval, resample_people
from sleepstage.stages import STAGES


def make_table(stages, seed=0, subjects=(0,), **columns):
    """A table with the same stages for every subject; `columns` are functions of (stages, rng, subject)."""
    rng = np.random.default_rng(seed)
    parts = {}
    for subject in subjects:
        values = {name: make(np.asarray(stages), rng, subject) for name, make in columns.items()}
        part = pd.DataFrame(values, index=pd.RangeIndex(len(stages), name="epoch"))
        parts[subject, f"night of {subject}"] = part.assign(stage=np.int8(stages))
    return pd.concat(parts, names=["subject", "recording"])


ALL_STAGES = np.repeat(np.arange(5), 40)


def noise(stages, rng, subject):
    return rng.normal(size=len(stages))


def test_effect_is_cliffs_delta_counted_pair_by_pair(table):
    found = ss.separation(table[["std_uv", "mobility", "stage"]], n_bootstrap=0)
    for name, stage, against in [("std_uv", "N3", "rest"), ("mobility", "N1", "REM")]:
        code, other = STAGES.index(stage), against if against == "rest" else STAGES.index(against)
        x = table.loc[table["stage"] == code, name].to_numpy()
        y = table.loc[table["stage"] != code if other == "rest" else table["stage"] == other, name].to_numpy()
        by_hand = np.sign(x[:, None] - y).mean()
        assert found.loc[(name, stage, against), "effect"] == pytest.approx(by_hand)
        u = stats.mannwhitneyu(x, y).statistic
        assert found.loc[(name, stage, against), "effect"] == pytest.approx(2 * u / (len(x) * len(y)) - 1)


def test_effect_has_the_known_ends_and_leaves_missing_values_out():
    def gaps(stages, rng, subject):
        values = stages.astype(float)
        values[::7] = np.nan
        return values

    table = make_table(ALL_STAGES, code=lambda s, *_: s.astype(float), gaps=gaps, same=lambda s, *_: s * 0.0)
    effect = ss.separation(table, n_bootstrap=0)["effect"]
    assert effect["code", "W", "rest"] == effect["gaps", "W", "rest"] == -1
    assert effect["code", "REM", "rest"] == effect["gaps", "REM", "rest"] == 1
    assert effect["code", "N2", "rest"] == 0  # two stages above it, two below
    assert (effect["same"] == 0).all()
    assert len(effect["code"]) == 5 + 10  # each stage against the rest, and each two stages


def test_interval_is_over_people_and_covers_what_varies_between_them():
    """Each person's effect is known: W lies wholly above N1 in 12 of 16 people, wholly below in 4."""
    stages = np.repeat([0, 1], 20)
    table = make_table(
        stages, subjects=range(16), x=lambda s, _, subject: np.where(s == 0, 1.0, 0.0) * (-1) ** (subject < 4)
    )
    row = ss.separation(table, n_bootstrap=4000).loc[("x", "W", "N1")]
    assert row["effect"] == pytest.approx((12 - 4) / 16)
    assert row["n_subjects"] == 16
    low, high = stats.binom(16, 0.75).ppf([0.025, 0.975]) * 2 / 16 - 1  # a draw of people is a binomial
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.13), pytest.approx(high, abs=0.13))
    again = ss.separation(table, n_bootstrap=4000).loc[("x", "W", "N1")]
    pd.testing.assert_series_equal(row, again)


def test_people_are_drawn_with_replacement():
    drawn = resample_people(8, 20_000, seed=1)
    assert drawn.shape == (20_000, 8) and (drawn.sum(axis=1) == 8).all()
    # A person is in a sample a binomial number of times: 8 draws with a chance of 1/8 each
    for times in range(4):
        assert (drawn == times).mean() == pytest.approx(stats.binom(8, 1 / 8).pmf(times), abs=0.005)
    np.testing.assert_array_equal(drawn, resample_people(8, 20_000, seed=1))
    assert (drawn != resample_people(8, 20_000, seed=2)).any()


def test_interval_holds_the_middle_95_percent_and_leaves_missing_values_out():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    gaps = np.concatenate([values, np.full(50, np.nan)])
    np.testing.assert_allclose(interval(values), [25, 975])
    np.testing.assert_allclose(interval(np.column_stack([gaps, 2 * gaps])), [[25, 50], [975, 1950]])


def test_one_person_has_no_interval_and_is_told_so():
    table = make_table(ALL_STAGES, x=noise)
    with pytest.warns(UserWarning, match="one person has no interval"):
        found = ss.separation(table)
    assert found[["low", "high"]].isna().all(axis=None)
    assert found["effect"].notna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.separation(table, n_bootstrap=0)


def test_person_with_too_little_of_a_stage_is_not_counted():
    table = make_table(np.repeat([0, 1], [30, 12]), subjects=(0, 1, 2), x=lambda s, *_: s.astype(float))
    few = table.index.get_level_values("epoch").isin(range(33, 42)) & (
        table.index.get_level_values("subject") == 2
    )
    found = ss.separation(table[~few], n_bootstrap=50).loc["x"]
    assert found.loc[("W", "N1"), "n_subjects"] == 2
    assert found.loc[("N3", "REM"), "n_subjects"] == 0
    assert np.isnan(found.loc[("N3", "REM"), "effect"])


def test_mutual_information_is_the_entropy_for_a_copy_and_nothing_for_noise():
    stages = np.repeat(np.arange(4), 250)
    table = make_table(stages, copy=lambda s, *_: s.astype(float), noise=noise)
    found = ss.mutual_information(table)
    assert found.loc["copy", "bits"] == pytest.approx(2, abs=0.03)  # four stages, equally frequent
    assert found.loc["copy", "share"] == pytest.approx(1, abs=0.015)
    assert found.loc["noise", "bits"] < 0.06


def test_mutual_information_of_two_normals_is_that_of_numerical_integration():
    stages = np.repeat([0, 1], 1500)
    table = make_table(stages, x=lambda s, rng, _: rng.normal(2.0 * s))
    x = np.linspace(-8, 10, 20001)
    p0, p1 = stats.norm.pdf(x), stats.norm.pdf(x, 2)
    mix = (p0 + p1) / 2
    bits = np.trapezoid(sum(p / 2 * np.log2(np.maximum(p, 1e-300) / mix) for p in (p0, p1)), x)
    assert ss.mutual_information(table).loc["x", "bits"] == pytest.approx(bits, abs=0.04)


def cluster_table():
    return make_table(
        ALL_STAGES,
        a=noise,
        b=noise,
        constant=lambda s, *_: s * 0.0,
    ).assign(
        a_cubed=lambda t: t["a"] ** 3, a_turned=lambda t: -np.exp(t["a"]), b_again=lambda t: 2 * t["b"] + 1
    )


def test_clusters_hold_what_is_monotone_in_each_other_whatever_the_sign():
    cluster = ss.correlation_clusters(cluster_table())
    assert cluster["a"] == cluster["a_cubed"] == cluster["a_turned"]
    assert cluster["b"] == cluster["b_again"] != cluster["a"]
    assert (cluster == cluster["constant"]).sum() == 1
    assert sorted(cluster.unique()) == [1, 2, 3]


def test_any_two_features_of_a_cluster_correlate_beyond_the_threshold(table):
    features = table[ss.feature_columns(table)]
    cluster = ss.correlation_clusters(table, threshold=0.9)
    assert sorted(cluster.index) == sorted(features.columns)
    largest = cluster.index[cluster == cluster.value_counts().index[0]]
    rho = stats.spearmanr(features[largest], nan_policy="omit").statistic
    assert np.abs(rho).min() >= 0.9
    assert (np.diff(cluster) >= 0).all()  # members stand side by side


@pytest.mark.parametrize("threshold", [0, 1, -0.5])
def test_threshold_outside_zero_to_one_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        ss.correlation_clusters(cluster_table(), threshold)


def test_intraclass_correlation_is_that_of_the_analysis_of_variance():
    """Unequal nights: mean squares by SciPy's F on the ranks, n₀ by Donner's formula."""
    table = make_table(
        np.zeros(60), subjects=range(5), x=lambda s, rng, subject: rng.normal(subject, 2, len(s))
    )
    epoch, subject = (table.index.get_level_values(name) for name in ("epoch", "subject"))
    table = table[epoch < 20 + 10 * subject]
    groups = [g.to_numpy() for _, g in table["x"].rank().groupby(level="subject")]
    n = np.array([len(g) for g in groups])
    n0 = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    f = stats.f_oneway(*groups).statistic
    found = ss.between_people(table)
    assert found.loc["x", "W"] == pytest.approx((f - 1) / (f - 1 + n0))
    assert found[["N1", "N2", "N3", "REM"]].isna().all(axis=None)
    unchanged = ss.between_people(table.assign(x=np.exp(table["x"])))
    pd.testing.assert_frame_equal(found, unchanged)  # ranks: a logarithm changes nothing


def test_people_who_are_alike_share_no_variance_and_constants_of_their_own_all_of_it():
    table = make_table(
        ALL_STAGES, subjects=range(6), alike=noise, own=lambda s, _, subject: s * 0.0 + subject
    )
    found = ss.between_people(table)
    assert (found.loc["own"] == 1).all()
    assert (found.loc["alike"].abs() < 0.08).all()
    with pytest.raises(ValueError, match="at least two subjects"):
        ss.between_people(table.loc[[0]])


def test_percentile_is_that_of_the_persons_median_among_the_others():
    cohort = make_table(
        ALL_STAGES, subjects=range(1, 12), x=lambda s, rng, subject: rng.normal(subject, 0.5, len(s))
    )
    own = make_table(ALL_STAGES, subjects=("me",), x=lambda s, rng, _: rng.normal(4 + s, 0.5), y=noise)
    found = ss.compare_with_cohort(own, cohort)
    assert list(found.index) == ["x"]  # the cohort has no y
    for code, stage in enumerate(STAGES):
        medians = cohort["x"][cohort["stage"] == code].groupby(level="subject").median()
        mine = own["x"][own["stage"] == code].median()
        assert found.loc["x", stage] == pytest.approx(stats.percentileofscore(medians, mine, "mean"))


def test_a_person_is_not_compared_with_themselves_and_rare_stages_not_at_all():
    cohort = make_table(ALL_STAGES, subjects=(0, 1, 2), x=lambda s, _, subject: s * 0.0 + subject)
    own = cohort.loc[[0]]
    assert (ss.compare_with_cohort(own, cohort) == 0).all(axis=None)  # with herself it would be 1/6
    rare = own[(own["stage"] != 3) | (own.index.get_level_values("epoch") < 125)]
    found = ss.compare_with_cohort(rare, cohort).loc["x"]
    assert np.isnan(found["N3"]) and found.drop("N3").notna().all()
    with pytest.raises(ValueError, match="3 in the night"):
        ss.compare_with_cohort(cohort, cohort)
    with pytest.raises(ValueError, match="0 others"):
        ss.compare_with_cohort(own, own)


@pytest.mark.parametrize("function", [ss.separation, ss.mutual_information])
def test_table_without_stages_or_features_is_refused(function):
    table = make_table(ALL_STAGES, x=noise)
    with pytest.raises(ValueError, match="1 features and 0 scored epochs"):
        function(table.assign(stage=np.int8(-1)))
    with pytest.raises(ValueError, match="0 features"):
        function(table[["stage"]])
