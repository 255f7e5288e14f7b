"""Two baselines for a model: the most frequent stage, and gradient-boosted trees.

The trees see the features of an epoch and of those around it, as a model of the night does. They do not see
the time since the recording began: many recordings were cut to begin shortly before the sleep that
the expert scored, so this time would tell the model when sleep begins.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from ..dataset.table import check_index, check_table, consecutive_runs, share_within_night
from ..features.catalogue import INDEX, feature_columns
from ..stages import STAGES, UNSCORED

_REACH = 7  # epochs of context on each side, of which the mean is taken; 15 epochs are 7.5 minutes


def majority_baseline(train_table: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Answer every epoch of `table` with the stage frequencies of `train_table`.

    Returns
    -------
    DataFrame, shape (n_epochs, 5)
        The same probabilities in every row, but NaN where no feature is known.

    Raises
    ------
    ValueError
        When `train_table` has no scored epoch that has a feature.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([["Ann"], ["night 1"], range(4)], names=INDEX)
    >>> table = pd.DataFrame({"std_uv": 20.0, "stage": [0, 2, 2, 2]}, index)
    >>> majority_baseline(table, table).iloc[0].to_dict()
    {'W': 0.25, 'N1': 0.0, 'N2': 0.75, 'N3': 0.0, 'REM': 0.0}
    """
    codes = _training_stages(train_table)
    shares = np.bincount(codes, minlength=len(STAGES)) / len(codes)
    proba = np.where(_measured(table)[:, None], shares, np.nan)
    return pd.DataFrame(proba, index=table.index, columns=list(STAGES))


def gradient_boosting_baseline(
    train_table: pd.DataFrame, table: pd.DataFrame, seed: int = 0, max_iter: int = 300
) -> pd.DataFrame:
    """Stage a table with gradient-boosted trees on features in their context (:func:`context_features`).

    Parameters
    ----------
    train_table, table : DataFrame, shape (n_epochs, n_columns)
        Feature tables with the same features. Unscored epochs serve as context only. An epoch without any
        feature is neither learned from nor answered.
    seed : int
        Of scikit-learn's ``HistGradientBoostingClassifier``.
    max_iter : int
        Rounds of boosting: the trees for each stage.

    Returns
    -------
    DataFrame, shape (n_epochs, 5)
        Probabilities: 0 for a stage that `train_table` does not have, NaN where no feature is known.

    Raises
    ------
    ValueError
        When the features differ, or `train_table` has no scored epoch that has a feature.
    """
    return fit_trees(train_table, seed, max_iter)(table)


def fit_trees(
    train_table: pd.DataFrame, seed: int = 0, max_iter: int = 300
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Train the trees of :func:`gradient_boosting_baseline`, and give the function that stages a table."""
    features, codes = set(feature_columns(train_table)), _training_stages(train_table)
    context = context_features(train_table)
    # No early stopping: the number of trees must not depend on the size of the table.
    trees = HistGradientBoostingClassifier(
        max_iter=max_iter, learning_rate=0.06, early_stopping=False, random_state=seed
    )
    if codes.nunique() > 1:  # scikit-learn refuses to learn a single class
        trees.fit(context.loc[codes.index], codes)

    def stage(table: pd.DataFrame) -> pd.DataFrame:
        if differing := features ^ set(feature_columns(table)):
            raise ValueError(
                f"only one of the two tables has the features {sorted(differing)}; "
                "extract the same features for both"
            )
        if codes.nunique() == 1:
            return majority_baseline(train_table, table)
        answers = trees.predict_proba(context_features(table)[context.columns])
        answers[~_measured(table)] = np.nan
        known = [STAGES[code] for code in trees.classes_]
        return pd.DataFrame(answers, table.index, known).reindex(columns=list(STAGES), fill_value=0.0)

    return stage


def context_features(table: pd.DataFrame) -> pd.DataFrame:
    """Describe each epoch by its features and by those around it, without a clock.

    Parameters
    ----------
    table : DataFrame, shape (n_epochs, n_columns)
        A feature table, in any order of rows. NaN is allowed.

    Returns
    -------
    DataFrame of float32, shape (n_epochs, 8 * n_features)
        For each feature ``x``: ``x`` itself; ``x level``, the share of the recording's values below it
        (:func:`sleepstage.dataset.table.share_within_night`); ``x level -2`` to ``x level +2``, that of the
        neighbours; ``x level centred``, a triangular mean over 7.5 minutes; ``x level past``, the mean of the
        last 2 minutes.

    Raises
    ------
    ValueError
        When the index is not (subject, recording, epoch), or holds an epoch twice.

    Notes
    -----
    Neighbours and means never reach into another recording or across a gap in the epoch numbers: there, a
    neighbour is NaN, and a mean is taken over the values that exist.
    """
    check_index(table)
    ordered = table[feature_columns(table)].astype(float).sort_index(level=list(INDEX))
    runs = consecutive_runs(ordered)
    run_of_row = np.repeat(np.arange(len(runs)), [run.stop - run.start for run in runs])
    place = np.arange(len(ordered)) + _REACH * run_of_row  # with empty rows between the runs
    levels = share_within_night(ordered).set_axis(place).reindex(range(place.max(initial=0) + 1))
    centred = levels.rolling(2 * _REACH + 1, win_type="triang", center=True, min_periods=1).mean()
    context = {
        "": ordered.set_axis(place),
        " level": levels,
        **{f" level {step:+d}": levels.shift(-step) for step in (-2, -1, 1, 2)},
        " level centred": centred,
        " level past": levels.rolling(4, min_periods=1).mean(),
    }
    blocks = [block.reindex(place).add_suffix(suffix) for suffix, block in context.items()]
    return pd.concat(blocks, axis=1).astype(np.float32).set_axis(ordered.index).reindex(table.index)


def _training_stages(train_table: pd.DataFrame) -> pd.Series:
    """Give the stage codes of the epochs to learn from: those that are scored and have a feature."""
    check_table(train_table)
    codes = train_table["stage"][_measured(train_table) & (train_table["stage"] != UNSCORED)]
    if codes.empty:
        raise ValueError(
            f"none of the training table's {len(train_table)} epochs is scored and has a feature; "
            "train on recordings with a hypnogram"
        )
    return codes


def _measured(table: pd.DataFrame) -> np.ndarray:
    """Mark the epochs that have a feature, or all if the table has no features; the others get no stage."""
    known = np.isfinite(table[feature_columns(table)].to_numpy(float))
    return known.any(axis=1) | (known.shape[1] == 0)
