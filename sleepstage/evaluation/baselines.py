"""Two baselines to hold a model against: the most frequent stage, and gradient-boosted trees.

The trees see what a model of the night may see, the features of an epoch and of those around it, and no
clock: recordings are often cut by the expert's own stages, so that time since the start gives sleep away.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import correlate1d
from scipy.signal.windows import triang
from sklearn.ensemble import HistGradientBoostingClassifier

from ..dataset.table import check_index, consecutive_runs, share_within_night
from ..features.catalogue import INDEX, feature_columns
from ..stages import STAGES, UNSCORED

_NEIGHBOURS = (-2, -1, 1, 2)


_CENTRED = triang(15)  # 7.5 minutes of 30-s epochs


_PAST = np.array([1, 1, 1, 1, 0, 0, 0])  # 2 minutes that end with the epoch itself


_REACH = len(_CENTRED) // 2  # no other window or neighbour reaches further


def majority_baseline(train_table: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Answer every epoch of `table` with the stage frequencies of `train_table`.

    Returns a hypnodensity (n_epochs, 5) with `table`'s index and the same distribution in every row, but NaN
    where an epoch of `table` has no feature. Raises ValueError when `train_table` has no scored epoch that
    has one.
    """
    codes = _training_stages(train_table)
    frequencies = np.bincount(codes[codes != UNSCORED], minlength=len(STAGES)) / (codes != UNSCORED).sum()
    proba = np.where(_measured(table)[:, None], frequencies, np.nan)
    return pd.DataFrame(proba, index=table.index, columns=list(STAGES))


def gradient_boosting_baseline(
    train_table: pd.DataFrame,
    table: pd.DataFrame,
    seed: int = 0,
    max_iter: int = 300,
    learning_rate: float = 0.06,
    max_leaf_nodes: int = 31,
) -> pd.DataFrame:
    """Stage a table with gradient-boosted trees on features in their context.

    Parameters
    ----------
    train_table, table : DataFrame
        Feature tables with the same feature columns. Unscored epochs serve as context only. An epoch
        without any feature is neither learned from nor answered, as with the language model.
    seed : int
        Seed of scikit-learn's ``HistGradientBoostingClassifier``.
    max_iter, learning_rate, max_leaf_nodes : int, float, int
        Its settings; early stopping is off, so that the same trees grow whatever the data's size.

    Returns
    -------
    DataFrame, shape (n_epochs, 5)
        Probabilities; 0 for a stage that `train_table` does not have, NaN where no feature is known.

    Raises
    ------
    ValueError
        When the columns differ, or `train_table` has no scored epoch that has a feature.

    See Also
    --------
    context_features : what the trees see; time and position are not part of it.
    """
    _check_same_features(train_table, table)
    codes = _training_stages(train_table)
    if np.unique(codes[codes != UNSCORED]).size == 1:  # nothing to tell apart, and scikit-learn refuses
        return majority_baseline(train_table, table)
    trees = HistGradientBoostingClassifier(
        max_iter=max_iter,
        learning_rate=learning_rate,
        max_leaf_nodes=max_leaf_nodes,
        early_stopping=False,
        random_state=seed,
    )
    seen = context_features(train_table)
    trees.fit(seen[codes != UNSCORED], codes[codes != UNSCORED])
    proba = trees.predict_proba(context_features(table)[seen.columns])
    known = [STAGES[code] for code in trees.classes_]
    proba = pd.DataFrame(proba, table.index, known).reindex(columns=list(STAGES), fill_value=0.0)
    proba[~_measured(table)] = np.nan
    return proba


def context_features(table: pd.DataFrame) -> pd.DataFrame:
    """Describe each epoch by its features and by those around it, without a clock.

    Parameters
    ----------
    table : DataFrame
        A feature table, in any order of rows. NaN is allowed.

    Returns
    -------
    DataFrame of float32, shape (n_epochs, 8 * n_features)
        For each feature ``x``: ``x`` itself; ``x level``, its rank within the recording,
        0 to 1; ``x level -2`` to ``x level +2``, that of the neighbours; ``x level centred``,
        a triangular mean over 7.5 minutes; ``x level past``, the mean of the last 2 minutes.

    Raises
    ------
    ValueError
        When the index is not (subject, recording, epoch), or holds an epoch twice.

    Notes
    -----
    Nothing says how long the recording has run. Neighbours and means never reach into another recording
    or across a gap in the epoch numbers: there, a neighbour is NaN, and a mean is over what exists.
    Equal values share their middle rank, so a constant's level is 0.5.
    """
    check_index(table.index)
    features = table[feature_columns(table)]
    _, order = table.index.sortlevel(list(INDEX))
    ordered = features.iloc[order]
    spaced, rows = _space_out_pieces(
        share_within_night(ordered.astype(float)).to_numpy(), _piece_numbers(ordered)
    )
    blocks = {
        "": ordered.to_numpy(float),
        " level": spaced[rows],
        **{f" level {step:+d}": spaced[rows + step] for step in _NEIGHBOURS},
        " level centred": _weighted_mean(spaced, _CENTRED)[rows],
        " level past": _weighted_mean(spaced, _PAST)[rows],
    }
    values = np.empty((len(table), len(blocks) * features.shape[1]), dtype=np.float32)
    values[order] = np.hstack(list(blocks.values()))
    names = [f"{feature}{suffix}" for suffix in blocks for feature in features.columns]
    return pd.DataFrame(values, index=table.index, columns=names)


def _training_stages(train_table: pd.DataFrame) -> np.ndarray:
    if "stage" not in train_table:
        raise ValueError("the training table has no column 'stage'; train on recordings with a hypnogram")
    codes = np.where(_measured(train_table), train_table["stage"], UNSCORED)
    if not (codes != UNSCORED).any():
        raise ValueError(
            f"none of the training table's {len(codes)} epochs is scored and has a feature; "
            "nothing to learn from"
        )
    return codes


def _measured(table: pd.DataFrame) -> np.ndarray:
    """Mark the epochs that have at least one feature; the others get no stage."""
    return np.isfinite(table[feature_columns(table)].to_numpy(float)).any(axis=1)


def _check_same_features(train_table: pd.DataFrame, table: pd.DataFrame) -> None:
    differing = set(feature_columns(train_table)) ^ set(feature_columns(table))
    if differing:
        raise ValueError(
            f"only one of the two tables has the features {sorted(differing)}; "
            "extract the same features for both"
        )


def _piece_numbers(ordered: pd.DataFrame) -> np.ndarray:
    """Number the runs of consecutive epochs."""
    lengths = [run.stop - run.start for run in consecutive_runs(ordered)]
    return np.repeat(np.arange(len(lengths)), lengths)


def _space_out_pieces(values: np.ndarray, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay NaN rows around every piece, so that no window over the whole reaches from one into another."""
    rows = np.arange(len(values)) + _REACH * (pieces + 1)
    spaced = np.full((len(values) + _REACH * (pieces.max(initial=0) + 2), values.shape[1]), np.nan)
    spaced[rows] = values
    return spaced, rows


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the rows around each row, of the finite values only; NaN where there are none."""
    present = np.isfinite(values)
    total = correlate1d(np.where(present, values, 0.0), weights, axis=0, mode="constant")
    weight = correlate1d(present.astype(float), weights, axis=0, mode="constant")
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
