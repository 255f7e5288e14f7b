"""What features say: about stages, about each other, and about people.

Every function takes a feature table, of one night or of many people. The intervals come from a bootstrap over
people, not over epochs, because the epochs of one night depend on each other.
"""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import entropy, rankdata
from sklearn.feature_selection import mutual_info_classif

from ..stages import STAGE_CODES, STAGES, UNSCORED, stage_codes
from .catalogue import feature_columns

MIN_EPOCHS = 10  # five minutes; a person with less of a stage does not count for this stage


def separation(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Measure how well each feature separates one stage from all others, and from each other stage.

    Parameters
    ----------
    table : DataFrame
        A feature table of one person or of several; unscored epochs are left out.
    n_bootstrap : int
        Number of bootstrap samples for the intervals; 0 leaves the intervals NaN.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        Indexed by ``(feature, stage, against)``, where `against` is another stage or ``"rest"``: ``effect``,
        Cliff's delta, the mean over people; ``low`` and ``high``, its 95 % interval, NaN for one person;
        ``n_subjects``, the number of people who have at least ten epochs of both sides.

    Raises
    ------
    ValueError
        If no epoch is scored, or there is no feature.

    Warns
    -----
    UserWarning
        If the table holds one person and an interval is asked for.

    Notes
    -----
    Cliff's delta (1993, doi:10.1037/0033-2909.114.3.494) is P(x > y) − P(x < y) for an epoch x of the stage
    and an epoch y of the other side: 1 if every x is larger, −1 if every x is smaller, 0 if neither side is
    larger. It is computed within each person, because amplitudes differ between people in every stage. The
    interval is the percentile bootstrap over people (see :func:`interval`).

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([[0], ["night"], range(20)])
    >>> index.names = ["subject", "recording", "epoch"]
    >>> table = pd.DataFrame({"std_uv": range(20), "stage": [0] * 10 + [3] * 10}, index=index)
    >>> float(separation(table, n_bootstrap=0)["effect"]["std_uv", "W", "N3"])
    -1.0
    """
    features, stages = _scored_epochs(table)
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
    """Estimate the mutual information between each feature and the stage.

    An effect size measures whether one stage has larger values than another. Mutual information measures any
    dependence, for example a feature that is low in N2 and high in all other stages.

    Parameters
    ----------
    table : DataFrame
        A feature table; unscored epochs are left out.
    seed : int
        Seed of the small noise that the estimator adds to break ties.

    Returns
    -------
    DataFrame
        Indexed by feature: ``bits``, and ``share``, the bits divided by the entropy of the stages. The share
        is 1 if the feature determines the stage.

    Raises
    ------
    ValueError
        If no epoch is scored, or there is no feature.

    Notes
    -----
    The nearest-neighbour estimator of scikit-learn (Ross, 2014, doi:10.1371/journal.pone.0087357), over all
    epochs that have the feature.
    """
    features, stages = _scored_epochs(table)
    rows = {}
    for name, values in features.items():
        known = values.notna().to_numpy()
        nats = mutual_info_classif(values[known].to_frame(), stages[known], random_state=seed)[0]
        most = entropy(np.bincount(stages[known]))
        rows[name] = {"bits": nats / np.log(2), "share": nats / most if most else np.nan}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")


def correlation_clusters(table: pd.DataFrame, threshold: float = 0.8) -> pd.Series:
    """Group features that are strongly correlated with each other.

    Parameters
    ----------
    table : DataFrame
        A feature table; all epochs are used, scored or not.
    threshold : float
        Smallest |ρ| between any two features of a cluster, between 0 and 1.

    Returns
    -------
    Series of int
        The cluster of each feature, from 1. The features are in the order of the cluster tree, so those of a
        cluster follow each other.

    Raises
    ------
    ValueError
        If the threshold is not between 0 and 1, or there are fewer than two features.

    Notes
    -----
    Complete linkage on 1 − |ρ|, where ρ is Spearman's rank correlation over all epochs. A constant feature is
    a cluster of its own.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1, 2, 3, 4], "a_squared": [1, 4, 9, 16], "b": [2, 4, 1, 3]})
    >>> correlation_clusters(table).to_dict()
    {'b': 1, 'a': 2, 'a_squared': 2}
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}, expected a correlation between 0 and 1")
    names = feature_columns(table)
    if len(names) < 2:
        raise ValueError(f"clusters need at least two features, got {names}")
    rho = table[names].corr("spearman").fillna(0)  # ρ of a constant is undefined
    distance = 1 - rho.abs().to_numpy()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "complete")
    order = leaves_list(tree)
    flat = fcluster(tree, 1 - threshold, "distance")[order]
    return pd.Series(pd.factorize(flat)[0] + 1, rho.index[order].rename("feature"), name="cluster")


def resample_people(n_people: int, n_draws: int, seed: int) -> NDArray[np.int64]:
    """Draw people with replacement, for a bootstrap over people.

    Parameters
    ----------
    n_people : int
        Number of people.
    n_draws : int
        Number of samples; each sample has `n_people` people.
    seed : int
        Seed of the draws.

    Returns
    -------
    ndarray of int, shape (n_draws, n_people)
        How often each person is in a sample; every row adds up to `n_people`. The same arguments give the
        same samples, so two models can be compared on the same people.

    Examples
    --------
    >>> resample_people(3, 2, seed=0)
    array([[1, 1, 1],
           [0, 0, 3]])
    """
    return np.random.default_rng(seed).multinomial(n_people, np.full(n_people, 1 / n_people), n_draws)


def interval(values: ArrayLike) -> NDArray[np.float64]:
    """Compute the 95 % percentile interval of bootstrap values.

    Parameters
    ----------
    values : array_like, shape (n_draws, ...)
        The value of each sample; NaN where a sample has no value.

    Returns
    -------
    ndarray, shape (2, ...)
        The lower and the upper bound (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13).

    Examples
    --------
    >>> interval(range(1001))
    array([ 25., 975.])
    """
    return np.nanpercentile(np.asarray(values, dtype=np.float64), [2.5, 97.5], axis=0)


def between_people(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how much people differ in each feature, stage by stage.

    Parameters
    ----------
    table : DataFrame
        A feature table of two people or more; unscored epochs are left out.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the share of the variance that lies between people. NaN
        where fewer than two people have the stage.

    Raises
    ------
    ValueError
        If the table holds one person only, no epoch is scored, or there is no feature.

    Notes
    -----
    The intraclass correlation ICC(1) of a one-way analysis of variance with groups of unequal size (Donner,
    1986, doi:10.2307/1403259). It is computed from ranks, because a few artefacts would make up most of the
    variance of a power. The estimate can be slightly negative; read this as 0.
    """
    features, stages = _scored_epochs(table)
    people = features.index.get_level_values("subject")
    if people.nunique() < 2:
        raise ValueError("got a table of one person, expected at least two subjects; collect joins tables")
    by_stage = {
        stage: _intraclass_correlation(features[stages == code].rank(), people[stages == code])
        for code, stage in enumerate(STAGES)
    }
    return pd.DataFrame(by_stage).rename_axis("feature")


def compare_with_cohort(night_table: pd.DataFrame, cohort_table: pd.DataFrame) -> pd.DataFrame:
    """Compute the percentiles of one person among the people of a cohort.

    Parameters
    ----------
    night_table : DataFrame
        Feature table of one person, with stages.
    cohort_table : DataFrame
        Feature table of other people, with stages. Rows with the subject of `night_table` are left out. The
        features that both tables have are compared.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the percentile, 0 to 100, of the person's median over
        the epochs of the stage, among the medians of the others. NaN where the person, or everybody else,
        has fewer than ten epochs of the stage.

    Raises
    ------
    ValueError
        If `night_table` holds more than one person, nothing is left to compare, or no epoch is scored.
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


def _scored_epochs(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the features (n_epochs, n_features) and stage codes (n_epochs,) of the scored epochs."""
    names = feature_columns(table)
    stages = stage_codes(table["stage"])
    scored = stages != UNSCORED
    if not names or not scored.any():
        raise ValueError(f"got {len(names)} features and {scored.sum()} scored epochs; both are needed")
    return table.loc[scored, names].replace([np.inf, -np.inf], np.nan), stages[scored]


def _cliffs_delta(values: np.ndarray, stages: np.ndarray, stage: str, against: str) -> np.ndarray:
    """Compare two sides of one person, (n_epochs, n_features) → (n_features,); NaN with too few epochs."""
    ours = stages == STAGE_CODES[stage]
    theirs = ~ours if against == "rest" else stages == STAGE_CODES[against]
    n, m = (np.isfinite(values[side]).sum(axis=0) for side in (ours, theirs))
    both = np.concatenate([values[ours], values[theirs]])
    ranks = rankdata(both, axis=0, nan_policy="omit")[: ours.sum()]
    pairs_won = np.nansum(ranks, axis=0) - n * (n + 1) / 2  # Mann and Whitney's U; ties count half
    enough = (n >= MIN_EPOCHS) & (m >= MIN_EPOCHS)
    return np.where(enough, 2 * pairs_won / np.maximum(n * m, 1) - 1, np.nan)


def _intraclass_correlation(values: pd.DataFrame, people: pd.Index) -> pd.Series:
    """Compute the ICC(1) of each column of values (n_epochs, n_features); NaN where it is undefined."""
    groups = values.groupby(people)
    n, means = groups.count(), groups.mean()
    k, total = (n > 0).sum().where(lambda count: count > 1), n.sum()
    between = (n * (means - values.mean()) ** 2).sum() / (k - 1)
    within = ((values - groups.transform("mean")) ** 2).sum() / (total - k)
    size = (total - (n**2).sum() / total) / (k - 1)
    return (between - within) / (between + (size - 1) * within)


def _medians(table: pd.DataFrame) -> pd.DataFrame:
    """Compute medians by (stage, subject); a stage with fewer than `MIN_EPOCHS` epochs is left out."""
    features, stages = _scored_epochs(table)
    groups = features.groupby([pd.Index(stages, name="stage"), features.index.get_level_values("subject")])
    return groups.median()[groups.size() >= MIN_EPOCHS]
