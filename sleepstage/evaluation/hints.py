"""What hints teach a reader: a simulated scorer stages a few epochs, and the other epochs are scored.

The scorer gives the expert's stages in rounds of ten epochs a night, and the night is read again after each.
To write the hints into the night is already a correction; what they teach is the gain on the *other* epochs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..features.catalogue import NIGHT
from ..finetuning.hints import recheck, with_given
from ..stages import UNSCORED, proba_array
from .cohort import kappa_difference_ci
from .metrics import score

ROUND = 10
"""Epochs of each night that the scorer stages before the night is read again."""

PLACES = ("doubt", "random")
"""Where hints are given: at the epochs that :func:`sleepstage.recheck` names, or anywhere."""


def hint_figures(
    stages: pd.Series,
    read: Callable[[pd.Series | None], pd.DataFrame],
    counts: Sequence[int],
    places: Sequence[str] = PLACES,
    seed: int = 7,
) -> list[dict[str, Any]]:
    """Score a reader with hints, on the epochs without one and on the whole night.

    Parameters
    ----------
    stages : pandas.Series of int, shape (n_epochs,)
        The expert's stage codes, indexed by ``(subject, recording, epoch)``.
    read : callable
        Gives the hypnodensity (n_epochs, 5) for the stages that are known (−1 elsewhere), or for None.
    counts : sequence of int
        The numbers of hints a night to give figures for, multiples of ten.
    places : sequence of str
        Any of `PLACES`.
    seed : int
        Of the random places.

    Returns
    -------
    list of dict
        For each place and number: ``at``; ``n``; ``kappa_others`` and ``kappa_others_unhinted``, of the
        epochs without a hint, with hints read and with nothing read; ``kappa_difference``, the first minus
        the second, and ``kappa_difference_ci``, its 95 % interval over people; ``kappa_delivered``, of the
        whole night with hints read, and ``kappa_filled_in``, of the night read without hints, the hints
        written over both; ``ece_others`` and ``ece_others_unhinted``.

    Raises
    ------
    ValueError
        If a number is no multiple of ten, or a place is unknown.
    """
    check_plan(counts, places)
    unhinted, rows = read(None), []
    for place in places:
        known, proba, rng = pd.Series(UNSCORED, stages.index), unhinted, np.random.default_rng(seed)
        for n in range(0, max(counts) + 1, ROUND):
            if n:
                asked = _next_round(place, proba[stages != UNSCORED], known, rng)
                known[asked] = stages[asked]
                if place == "doubt" or n in counts:  # the next random places do not depend on the answers
                    proba = read(known)
            if n in counts:
                rows.append({"at": place, "n": n, **_figures(stages, unhinted, proba, known)})
    return rows


def check_plan(counts: Sequence[int], places: Sequence[str]) -> None:
    """Refuse numbers of hints and places that :func:`hint_figures` cannot have.

    Raises
    ------
    ValueError
        If a number is no multiple of ten, or a place is unknown.
    """
    if wrong := [n for n in counts if n < 0 or n % ROUND]:
        raise ValueError(f"got {wrong} hints a night; they are given in rounds of {ROUND}: 0, 10, 20, …")
    if unknown := [place for place in places if place not in PLACES]:
        raise ValueError(f"hints cannot be given at {unknown}; expected any of {PLACES}")


def _next_round(place: str, proba: pd.DataFrame, known: pd.Series, rng: np.random.Generator) -> pd.Index:
    """Choose the epochs that the scorer stages next, among those of ``proba`` that have no hint yet."""
    if place == "doubt":
        return recheck(proba, ROUND, known)
    free = proba[known[proba.index] == UNSCORED]
    nights = free.groupby(level=NIGHT, sort=False).indices.values()
    chosen = [rng.choice(rows, min(ROUND, len(rows)), replace=False) for rows in nights]
    return free.index[np.concatenate(chosen)]


def _figures(
    stages: pd.Series, unhinted: pd.DataFrame, proba: pd.DataFrame, known: pd.Series
) -> dict[str, Any]:
    given, others = known.to_numpy(), stages.where(known == UNSCORED, UNSCORED)
    read, unread = score(others, proba), score(others, unhinted)
    return {
        "kappa_others": read["kappa"],
        "kappa_others_unhinted": unread["kappa"],
        "kappa_difference": read["kappa"] - unread["kappa"],
        "kappa_difference_ci": kappa_difference_ci(others, proba, unhinted),
        "kappa_delivered": score(stages, with_given(proba_array(proba), given))["kappa"],
        "kappa_filled_in": score(stages, with_given(proba_array(unhinted), given))["kappa"],
        "ece_others": read["ece"],
        "ece_others_unhinted": unread["ece"],
    }
