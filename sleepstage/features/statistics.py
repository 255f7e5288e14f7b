"""What features say: about stages, about each other, and about people.

Every function takes a feature table, of one night or of many people. The intervals come from a bootstrap over
people, not over epochs, because the epochs of one night depend on each other.
"""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import entropy, rankdata
from sklearn.feature_selection import mutual_info_classif

from ..stages import STAGE_CODES, STAGES, UNSCORED, stage_codes
from .catalogue import feature_columns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


MIN_EPOCHS = 10  # five minutes: a person with less of a stage is left out there


def separation(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Measure how well each feature separates each stage from the rest, and each two stages.

    Parameters
    ----------
    table : DataFrame
        A feature table of one person or of several; unscored epochs are left out.
    n_bootstrap : int
        Draws of people for the intervals; 0 for none.
    seed : int
        Of those draws.

    Returns
    -------
    DataFrame
        Indexed by ``(feature, stage, against)``, where `against` is another stage or ``"rest"``: ``effect``,
        Cliff's delta, the mean over people; ``low`` and ``high``, its 95 % interval, NaN for one person;
        ``n_subjects``, the people who have ten epochs of both sides.

    Raises
    ------
    ValueError
        When no epoch is scored, or there is no feature.

    Notes
    -----
    Cliff's delta (1993, doi:10.1037/0033-2909.114.3.494) is P(x > y) − P(x < y) for an epoch x of the stage
    and y of the others: 1 when every x is larger, −1 when every one is smaller, 0 when ranks say nothing. It
    is taken within each person, so that an amplitude which is the person's own does not count as a stage. The
    interval is the percentile bootstrap over people. One person has none, and a warning says so.
    """
    features, stages = scored_epochs(table)
    sides = [(stage, "rest") for stage in STAGES] + list(combinations(STAGES, 2))
    values = features.to_numpy()
    people = features.groupby(level="subject", sort=False).indices.values()
    effects = pd.DataFrame(
        [np.ravel([_cliffs_delta(values[rows], stages[rows], *side) for side in sides]) for rows in people],
        columns=pd.MultiIndex.from_tuples(
            [(name, *side) for side in sides for name in features], names=["feature", "stage", "against"]
        ),
    )
    if n_bootstrap and len(effects) == 1:
        warnings.warn(
            "one person has no interval over people: low and high are NaN (n_bootstrap=0 asks for none)",
            stacklevel=2,
        )
    n_subjects = effects.count()
    several = n_subjects > 1
    limits = pd.DataFrame(np.nan, index=effects.columns, columns=["low", "high"])
    if n_bootstrap and several.any():
        weights = resample_people(len(effects), n_bootstrap, seed)
        draws = (weights @ effects.fillna(0)) / (weights @ effects.notna())
        limits[several] = interval(draws.loc[:, several]).T
    return pd.DataFrame({"effect": effects.mean(), **limits, "n_subjects": n_subjects})


def mutual_information(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate how many bits each feature tells about an epoch's stage.

    Unlike an effect size, this sees any dependence, also one that neither rises nor falls.

    Returns
    -------
    DataFrame
        Indexed by feature: ``bits``, and ``share`` of the stages' entropy, 1 if the feature gave them away.

    Raises
    ------
    ValueError
        When no epoch is scored, or there is no feature.

    Notes
    -----
    scikit-learn's nearest-neighbour estimator (Ross, 2014, doi:10.1371/journal.pone.0087357), over all epochs
    that have the feature. `seed` is for the noise that it adds to break ties.
    """
    features, stages = scored_epochs(table)
    rows = {}
    for name, values in features.items():
        known = values.notna().to_numpy()
        nats = mutual_info_classif(values[known].to_frame(), stages[known], random_state=seed)[0]
        most = entropy(np.bincount(stages[known]))
        rows[name] = {"bits": nats / np.log(2), "share": nats / most if most else np.nan}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")


def correlation_clusters(table: pd.DataFrame, threshold: float = 0.8) -> pd.Series:
    """Sort features into clusters that say the same.

    Returns
    -------
    Series of int
        The cluster, from 1, of each feature; neighbours in the tree stand side by side.

    Raises
    ------
    ValueError
        When the threshold is not between 0 and 1, or there are fewer than two features.

    Notes
    -----
    Complete linkage on 1 − |ρ|, with ρ Spearman's rank correlation over all epochs: any two features of a
    cluster correlate with |ρ| of at least `threshold`. A constant feature stands alone.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}, expected a correlation between 0 and 1")
    names = feature_columns(table)
    if len(names) < 2:
        raise ValueError(f"clusters need at least two features, got {names}")
    rho = table[names].corr("spearman").fillna(0)  # a constant has no ρ and says what no other feature says
    distance = 1 - rho.abs().to_numpy()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "complete")
    order = leaves_list(tree)
    flat = fcluster(tree, 1 - threshold, "distance")[order]
    return pd.Series(pd.factorize(flat)[0] + 1, rho.index[order].rename("feature"), name="cluster")


def _cliffs_delta(values: np.ndarray, stages: np.ndarray, stage: str, against: str) -> np.ndarray:
    """Compare stages of a person, (n_epochs, n_features) → (n_features,); NaN with too few epochs."""
    ours = stages == STAGE_CODES[stage]
    theirs = ~ours if against == "rest" else stages == STAGE_CODES[against]
    n, m = (np.isfinite(values[side]).sum(axis=0) for side in (ours, theirs))
    both = np.concatenate([values[ours], values[theirs]])
    ranks = rankdata(both, axis=0, nan_policy="omit")[: ours.sum()]
    pairs_won = np.nansum(ranks, axis=0) - n * (n + 1) / 2  # Mann and Whitney's U; ties count half
    enough = (n >= MIN_EPOCHS) & (m >= MIN_EPOCHS)
    return np.where(enough, 2 * pairs_won / np.maximum(n * m, 1) - 1, np.nan)


def resample_people(n_people: int, n_draws: int, seed: int) -> NDArray[np.int64]:
    """Draw people with replacement, for a bootstrap over people.

    Parameters
    ----------
    n_people : int
    n_draws : int
        Samples, each of `n_people` people.
    seed : int

    Returns
    -------
    ndarray of int, shape (n_draws, n_people)
        How often each person is in a sample; every row adds up to `n_people`. The same arguments give the
        same samples, so that two models can be compared on the same people.
    """
    return np.random.default_rng(seed).multinomial(n_people, np.full(n_people, 1 / n_people), n_draws)


def interval(values: ArrayLike) -> NDArray[np.float64]:
    """Give the 95 % percentile interval of bootstrap values.

    Parameters
    ----------
    values : array_like, shape (n_draws, ...)
        A figure of each sample; NaN where a sample has none.

    Returns
    -------
    ndarray, shape (2, ...)
        The lower and the upper bound (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13).
    """
    return np.nanpercentile(np.asarray(values, dtype=np.float64), [2.5, 97.5], axis=0)


def between_people(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how much people differ in each feature, stage by stage.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the share of the variance that lies between people. NaN
        where fewer than two people have the stage.

    Raises
    ------
    ValueError
        With one person only, when no epoch is scored, or there is no feature.

    Notes
    -----
    The intraclass correlation ICC(1) of a one-way analysis of variance with groups of unequal size (Donner,
    1986, doi:10.2307/1403259), of ranks, since a few artefacts would make up most of a power's variance. It
    may come out a little below 0, which means none.
    """
    features, stages = scored_epochs(table)
    people = features.index.get_level_values("subject")
    if people.nunique() < 2:
        raise ValueError("one person does not differ from others; the table needs at least two subjects")
    by_stage = {
        stage: _intraclass_correlation(features[stages == code].rank(), people[stages == code])
        for code, stage in enumerate(STAGES)
    }
    return pd.DataFrame(by_stage).rename_axis("feature")


def compare_with_cohort(night_table: pd.DataFrame, cohort_table: pd.DataFrame) -> pd.DataFrame:
    """Say where one person lies among the people of a cohort.

    Parameters
    ----------
    night_table, cohort_table : DataFrame
        Feature tables with stages. Features that both have are compared; whoever has the night's subject
        number is left out of the cohort.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the percentile, 0 to 100, of the person's median over
        the stage's epochs among the others' medians. NaN where one side lacks ten epochs of the stage.

    Raises
    ------
    ValueError
        When the night is not of one person, nothing is left to compare, or no epoch is scored.
    """
    subjects = night_table.index.unique("subject")
    others = cohort_table[~cohort_table.index.get_level_values("subject").isin(subjects)]
    shared = [name for name in feature_columns(night_table) if name in cohort_table]
    if len(subjects) != 1 or others.empty or not shared:
        raise ValueError(
            f"expected a night of one person, and a cohort of others with the same features; got "
            f"{len(subjects)} in the night, {others.index.unique('subject').size} others, features: {shared}"
        )
    theirs, own = (_medians(part[[*shared, "stage"]]) for part in (others, night_table))
    difference = theirs.sub(own.droplevel("subject"), level="stage")
    below = (1 - np.sign(difference)) / 2  # 1 where the other's median is smaller, 1/2 where it is equal
    percentiles = 100 * below.groupby(level="stage").mean().reindex(range(len(STAGES)))
    return percentiles.set_axis(list(STAGES)).T.rename_axis("feature")


def scored_epochs(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Give the features (n_epochs, n_features) and stage codes (n_epochs,) of the scored epochs."""
    names = feature_columns(table)
    stages = stage_codes(table["stage"])
    scored = stages != UNSCORED
    if not names or not scored.any():
        raise ValueError(f"got {len(names)} features and {scored.sum()} scored epochs; both are needed")
    return table.loc[scored, names].replace([np.inf, -np.inf], np.nan), stages[scored]


def _intraclass_correlation(values: pd.DataFrame, people: pd.Index) -> pd.Series:
    """Give the ICC(1) of each column of values (n_epochs, n_features), NaN where it is undefined."""
    groups = values.groupby(people)
    n, means = groups.count(), groups.mean()
    k, total = (n > 0).sum().where(lambda count: count > 1), n.sum()
    between = (n * (means - values.mean()) ** 2).sum() / (k - 1)
    within = ((values - groups.transform("mean")) ** 2).sum() / (total - k)
    size = (total - (n**2).sum() / total) / (k - 1)
    return (between - within) / (between + (size - 1) * within)


def _medians(table: pd.DataFrame) -> pd.DataFrame:
    """Give each person's median in each stage, indexed by (stage, subject); too short a stage is left out."""
    features, stages = scored_epochs(table)
    groups = features.groupby([pd.Index(stages, name="stage"), features.index.get_level_values("subject")])
    return groups.median()[groups.size() >= MIN_EPOCHS]
