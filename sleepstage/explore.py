"""Exploring features: what separates the stages, and what says the same.

Everything starts from a feature table, of one night or of many people. Intervals are over people and not over
epochs: those of one night are no independent witnesses. How people differ is in ``people.py``, and can be had
from here as well.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from sklearn.feature_selection import mutual_info_classif

from .features import feature_columns
from .people import MIN_EPOCHS, between_people, compare_with_cohort, scored_epochs
from .stages import STAGE_CODES, STAGES

__all__ = [
    "between_people",
    "compare_with_cohort",
    "correlation_clusters",
    "export_table",
    "mutual_information",
    "separation",
]


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
    people = features.groupby(level="subject", sort=False).indices.values()
    values = features.to_numpy()
    effects = np.array(
        [[_cliffs_delta(values[rows], stages[rows], *side) for side in sides] for rows in people]
    )
    n_subjects = np.isfinite(effects).sum(axis=0)
    if n_bootstrap and len(effects) == 1:
        warnings.warn(
            "one person has no interval over people: low and high are NaN (n_bootstrap=0 asks for none)",
            stacklevel=2,
        )
    once_each = np.ones((1, len(effects)))
    drawn = np.random.default_rng(seed).multinomial(len(effects), once_each[0] / len(effects), n_bootstrap)
    low, high = _interval(_weighted_means(effects, drawn), n_subjects)
    columns = {
        "effect": _weighted_means(effects, once_each)[0],
        "low": low,
        "high": high,
        "n_subjects": n_subjects,
    }
    index = pd.MultiIndex.from_tuples(
        [(name, *side) for side in sides for name in features.columns], names=["feature", "stage", "against"]
    )
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index)


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
        shares = np.bincount(stages[known]) / known.sum()
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        rows[name] = {"bits": nats / np.log(2), "share": nats / entropy if entropy else np.nan}
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


def export_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write any table with its index as ``.csv`` or ``.parquet``, for a spreadsheet or another language.

    Raises
    ------
    ValueError
        When the path ends otherwise.
    ImportError
        When Parquet is asked for and pyarrow is not installed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".parquet":
        if find_spec("pyarrow") is None:
            raise ImportError("Parquet is written by pyarrow: pip install pyarrow, or write .csv instead")
        table.to_parquet(path, engine="pyarrow")
    elif ending == ".csv":
        table.to_csv(path)
    else:
        raise ValueError(f"cannot export to {path.name!r}; expected a name that ends in .csv or .parquet")
    return path


def _cliffs_delta(values: np.ndarray, stages: np.ndarray, stage: str, against: str) -> np.ndarray:
    """Compare stages of a person, (n_epochs, n_features) → (n_features,); NaN with too few epochs."""
    ours = stages == STAGE_CODES[stage]
    theirs = ~ours if against == "rest" else stages == STAGE_CODES[against]
    n, m = (np.isfinite(values[side]).sum(axis=0) for side in (ours, theirs))
    enough = (n >= MIN_EPOCHS) & (m >= MIN_EPOCHS)
    both = np.concatenate([values[ours], values[theirs]])
    ranks = rankdata(both, axis=0, nan_policy="omit")[: ours.sum()]
    pairs_won = np.nansum(ranks, axis=0) - n * (n + 1) / 2  # Mann and Whitney's U, ties count half
    return np.where(enough, 2 * pairs_won / np.where(enough, n * m, 1) - 1, np.nan)


def _weighted_means(effects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average over people who have a value: (n_people, …) and (n_draws, n_people) → (n_draws, …)."""
    counted = np.isfinite(effects)
    totals = np.tensordot(weights, np.where(counted, effects, 0), 1)
    people = np.tensordot(weights, counted, 1)
    return np.divide(totals, people, out=np.full(totals.shape, np.nan), where=people > 0)


def _interval(draws: np.ndarray, n_subjects: np.ndarray) -> np.ndarray:
    """Take the 95 % interval (2, …) of draws, where there are two people or more to draw from."""
    known = (n_subjects > 1) & (len(draws) > 0)
    limits = np.full((2, *n_subjects.shape), np.nan)
    if known.any():
        limits[:, known] = np.nanpercentile(draws[:, known], [2.5, 97.5], axis=0)
    return limits
