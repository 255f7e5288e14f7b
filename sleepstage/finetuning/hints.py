"""Hints: the stages of a few epochs, which a scorer gives, and which epochs are worth asking for."""

import numpy as np
import pandas as pd

from ..features.catalogue import NIGHT
from ..stages import STAGES, UNSCORED, proba_array

MOST_HINTS = 40  # a night in training: twenty minutes of a scorer's night, and what the figures go up to


def recheck(hypnodensity: pd.DataFrame, n: int = 20, known: pd.Series | None = None) -> pd.MultiIndex:
    """Name the epochs that a scorer should score first: doubtful ones, spread over the night.

    Each night is cut into ``n`` parts of equal length. Of each part, the epoch is taken whose most probable
    stage is the least probable.

    Parameters
    ----------
    hypnodensity : pandas.DataFrame, shape (n_epochs, 5)
        As :meth:`sleepstage.Stager.predict_proba` gives it. Epochs without an answer are left out.
    n : int
        Epochs of each night.
    known : pandas.Series of int, optional
        Stages that are given already, −1 elsewhere, with the same index. They are left out.

    Returns
    -------
    pandas.MultiIndex
        In the order of the table; fewer than ``n`` of a night where a part has no epoch to ask for.

    Raises
    ------
    ValueError
        If ``n`` is not positive.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected the number of epochs to check in each night, at least 1")
    doubt = pd.Series(1 - proba_array(hypnodensity).max(axis=1), index=hypnodensity.index)
    if known is not None:
        doubt = doubt.where(known.reindex(doubt.index, fill_value=UNSCORED) == UNSCORED)
    rows = [
        night[spread(doubt.to_numpy()[night], n)]
        for night in doubt.groupby(level=NIGHT, sort=False).indices.values()
    ]
    return hypnodensity.index[np.sort(np.concatenate(rows))]


def spread(doubt: np.ndarray, n: int) -> np.ndarray:
    """Choose the place of the largest value in each of ``n`` equal parts; NaN is never chosen.

    Examples
    --------
    >>> spread(np.array([0.1, 0.3, 0.2, np.nan, 0.5, 0.4]), 3).tolist()
    [1, 2, 4]
    """
    value = np.where(np.isnan(doubt), -np.inf, doubt)
    parts = np.array_split(np.arange(len(value)), n)
    best = [part[value[part].argmax()] for part in parts if part.size and value[part].max() > -np.inf]
    return np.array(best, dtype=np.int64)


def with_given(proba: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Give each epoch whose stage is given, not −1 (n_epochs,), that stage with probability 1 (n_epochs, 5).

    Examples
    --------
    >>> with_given(np.full((2, 5), 0.2), np.array([-1, 3])).tolist()
    [[0.2, 0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 1.0, 0.0]]
    """
    return np.where(given[:, None] != UNSCORED, np.eye(len(STAGES))[given], proba)


def draw_hints(
    stages: np.ndarray, doubt: np.ndarray | None, rng: np.random.Generator, share: float
) -> np.ndarray:
    """Draw hints for a night in training: none, or the expert's stages of 1 to `MOST_HINTS` epochs.

    Parameters
    ----------
    stages : int (n_epochs,)
        −1 where unscored.
    doubt : float (n_epochs,) or None
        How doubtful each epoch is. Half of the nights with hints have them at doubtful epochs then, a little
        at random; otherwise all are at random.
    share : float
        The share of nights with hints.

    Returns
    -------
    int (n_epochs,)
        The stages that are given, −1 elsewhere.
    """
    known = np.full(len(stages), UNSCORED)
    (scored,) = np.nonzero(stages != UNSCORED)
    if rng.random() < share and scored.size > 1:
        n = min(int(rng.integers(1, MOST_HINTS + 1)), scored.size - 1)  # something is left to ask for
        if doubt is not None and rng.random() < 0.5:
            unsure = doubt[scored] + 0.1 * rng.random(len(scored))
            given = scored[spread(unsure, n)]
        else:
            given = rng.choice(scored, n, replace=False)
        known[given] = stages[given]
    return known
