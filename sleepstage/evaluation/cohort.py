"""Figures over many people: pooled, by person and by night, with intervals over people.

The epochs of one person are alike, so an interval over epochs would be far too narrow. The bootstrap here
draws whole people.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..dataset.table import load_table, save_table
from ..features.catalogue import META_COLUMNS
from ..features.statistics import interval, resample_people
from ..files import DATA_DIR
from ..stages import STAGES, UNSCORED, answered
from .metrics import confusion, score

MODELS = ("llm", "baseline", "network")
"""The names under which the language model, the trees and the small network stand in figures and files."""


def save_answers(table: pd.DataFrame, hypnodensities: dict[str, pd.DataFrame], path: str | Path) -> Path:
    """Write the answers of the models to every epoch of a table as one ``.npz``.

    The columns are ``llm W`` to ``network REM``, rounded to four digits, and the table's stage and quality.
    :func:`sleepstage.load_table` reads the file.
    """
    answers = [hypnodensities[name].add_prefix(f"{name} ") for name in MODELS if name in hypnodensities]
    beside = table.filter(items=META_COLUMNS)
    return save_table(pd.concat([*answers, beside], axis=1).round(4), path)


def load_validation() -> tuple[pd.Series, dict[str, pd.DataFrame]]:
    """Load what the shipped adapter, and the models beside it, answered about people they never saw.

    :func:`save_answers` wrote the file. ``sleepstage/data/adapter/README.md`` says who the people are.

    Returns
    -------
    stages : pandas.Series of int8, shape (n_epochs,)
        The expert's stages, indexed by ``(subject, recording, epoch)``.
    hypnodensities : dict of str to pandas.DataFrame, shape (n_epochs, 5)
        By the names of `MODELS`.
    """
    answers = load_table(DATA_DIR / "validation.npz")
    hypnodensities = {name: answers.filter(like=f"{name} ").set_axis(list(STAGES), axis=1) for name in MODELS}
    return answers["stage"], hypnodensities


def cohort_figures(
    stages: pd.Series, proba: pd.DataFrame, n_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Give the figures of :func:`sleepstage.score`, pooled, by person and by night.

    Parameters
    ----------
    stages : pandas.Series of int, shape (n_epochs,)
        The expert's stage codes.
    proba : pandas.DataFrame, shape (n_epochs, 5)
        With the same index, ``(subject, recording, epoch)``.
    n_resamples, seed : int
        Of the bootstrap over people.

    Returns
    -------
    dict
        The pooled figures, ``n_subjects`` (those with an epoch that was compared), ``kappa_ci`` (95 %,
        percentile bootstrap over people; Efron & Tibshirani, 1993), and ``per_subject`` and ``per_night``
        (named ``subject/recording``): the kappa, accuracy, ``n_epochs`` and ``n_unanswered`` of each. A night
        without any answer is listed with a kappa and an accuracy of None.
    """
    figures = score(stages, proba)
    figures["n_subjects"] = proba.index[answered(proba) & (stages != UNSCORED)].unique("subject").size
    figures["kappa_ci"] = interval(_resampled_kappas(stages, proba, n_resamples, seed)).tolist()
    scored = stages[stages != UNSCORED]
    subjects = scored.index.get_level_values("subject").astype(str)
    nights = subjects + "/" + scored.index.get_level_values("recording").astype(str)
    for name, group in (("per_subject", subjects), ("per_night", nights)):
        parts = scored.groupby(group)
        figures[name] = {key: _short_figures(part, proba.loc[part.index]) for key, part in parts}
    return figures


def _short_figures(stages: pd.Series, proba: pd.DataFrame) -> dict[str, Any]:
    if not answered(proba).any():
        return {"kappa": None, "accuracy": None, "n_epochs": 0, "n_unanswered": len(stages)}
    whole = score(stages, proba)
    return {name: whole[name] for name in ("kappa", "accuracy", "n_epochs", "n_unanswered")}


def kappa_difference_ci(
    stages: pd.Series, proba: pd.DataFrame, other: pd.DataFrame, n_resamples: int = 2000, seed: int = 0
) -> list[float]:
    """Give the 95 % interval of one model's kappa minus another's, on the same resampled people.

    Only epochs that both models answered are compared. The parameters are those of :func:`cohort_figures`.
    """
    stages = stages.where(answered(proba) & answered(other), UNSCORED)
    one, two = (_resampled_kappas(stages, values, n_resamples, seed) for values in (proba, other))
    return interval(one - two).tolist()


def _resampled_kappas(stages: pd.Series, proba: pd.DataFrame, n_resamples: int, seed: int) -> np.ndarray:
    """Draw people with replacement, and give Cohen's kappa of each draw, (n_resamples,).

    People without an epoch to compare are not drawn. Kappa is computed here for all draws at once;
    scikit-learn takes one confusion matrix at a time.
    """
    people = stages.groupby(level="subject")
    counts = np.stack([confusion(part, proba.loc[part.index]).to_numpy() for _, part in people])
    counts = counts[counts.any(axis=(1, 2))]
    drawn = np.tensordot(resample_people(len(counts), n_resamples, seed), counts, axes=1)  # (n, 5, 5)
    total = drawn.sum(axis=(1, 2))
    agreement = np.trace(drawn, axis1=1, axis2=2) / total
    chance = (drawn.sum(axis=1) * drawn.sum(axis=2)).sum(axis=1) / total**2
    return (agreement - chance) / (1 - chance)
