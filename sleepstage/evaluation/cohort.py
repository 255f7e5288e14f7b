"""Figures over many people: pooled, by person and by night, with intervals over people.

The epochs of one person are alike, so an interval over epochs would be far too narrow. The bootstrap here
draws whole people.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..dataset.splits import check_no_leakage, partition_subjects
from ..dataset.table import load_table, save_table
from ..features.catalogue import META_COLUMNS
from ..features.statistics import interval, resample_people
from ..files import DATA_DIR
from ..finetuning.calibration import HypnogramPrior, cross_fitted
from ..stages import STAGES, UNSCORED, answered
from ..staging.stager import Stager
from .baselines import gradient_boosting_baseline
from .metrics import confusion, score

MODELS = ("llm", "baseline")
"""The names under which a stager and the trees stand in figures and files."""


def evaluate_cohort(
    table: pd.DataFrame, stager: Stager | None = None, train_table: pd.DataFrame | None = None
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Score a stager, and trees trained on ``train_table``, on the same nights.

    Both get a temperature and stage transitions (:mod:`sleepstage.finetuning.calibration`). The adapter's own
    are used if they were fitted on other people. Otherwise they are cross-fitted, so that nobody is scored
    with a temperature that their own nights chose.

    Parameters
    ----------
    table : pandas.DataFrame, shape (n_epochs, n_columns)
        A feature table with stages.
    stager : Stager, optional
    train_table : pandas.DataFrame, optional
        What the gradient-boosting baseline learns from.

    Returns
    -------
    figures : dict
        ``llm`` and ``baseline`` (those asked for), each as :func:`cohort_figures` gives them; and with
        ``_as_read`` behind the name the same before temperature and transitions. ``llm`` has
        ``epochs_per_second``. With both, ``kappa_difference_ci``: see :func:`kappa_difference_ci`.
    hypnodensities : dict of str to pandas.DataFrame, shape (n_epochs, 5)
        The answers, by the same names.

    Raises
    ------
    ValueError
        If a subject was trained on, or neither a stager nor a training table is given.
    """
    if stager is None and train_table is None:
        raise ValueError("got neither a stager nor a training table, so there is nothing to score")
    stages, subjects = table["stage"], table.index.unique("subject")
    probabilities: dict[str, pd.DataFrame] = {}
    seconds = np.nan
    if stager is not None:
        check_no_leakage(stager.trained_on, subjects)
        started = time.perf_counter()
        as_read = stager.predict_proba(table, with_prior=False)
        seconds = time.perf_counter() - started
        probabilities |= {"llm": _calibrated(stager.prior, stages, as_read), "llm_as_read": as_read}
    if train_table is not None:
        check_no_leakage(train_table.index.unique("subject"), subjects)
        as_read = gradient_boosting_baseline(train_table, table)
        prior = HypnogramPrior.from_table(train_table)
        probabilities |= {"baseline": _calibrated(prior, stages, as_read), "baseline_as_read": as_read}
    figures: dict[str, Any] = {name: cohort_figures(stages, proba) for name, proba in probabilities.items()}
    if stager is not None:
        figures["llm"]["epochs_per_second"] = len(table) / seconds
    if len(probabilities) == 4:
        pair = (probabilities[name] for name in MODELS)
        figures["kappa_difference_ci"] = kappa_difference_ci(stages, *pair)
    return figures, probabilities


def _calibrated(prior: HypnogramPrior | None, stages: pd.Series, proba: pd.DataFrame) -> pd.DataFrame:
    if prior is None:
        return proba
    subjects = {str(subject) for subject in stages.index.unique("subject")}
    fitted_on_others = prior.fitted_on and subjects.isdisjoint(map(str, prior.fitted_on))
    if fitted_on_others or len(subjects) < 2:
        return prior.apply(proba)
    return cross_fitted(prior, stages, proba)


def baseline_table(source: pd.DataFrame, table: pd.DataFrame, stager: Stager | None) -> pd.DataFrame:
    """Choose the people that the trees learn from: those of the adapter, or all who are not scored.

    Parameters
    ----------
    source : pandas.DataFrame
        A feature table that holds these people, and perhaps others.
    table : pandas.DataFrame
        The table to score.
    stager : Stager, optional
        Its adapter's people are chosen, so that both models learn from the same.

    Raises
    ------
    ValueError
        If one of the adapter's people is not in ``source``, or everyone in it is scored.
    """
    if stager is not None:
        return partition_subjects(source, stager.trained_on)[0]
    scored = source.index.unique("subject").intersection(table.index.unique("subject"))
    others = partition_subjects(source, scored)[1]
    if others.empty:
        raise ValueError("everyone in the training table is scored; score fewer, or train on another table")
    return others


def save_answers(table: pd.DataFrame, hypnodensities: dict[str, pd.DataFrame], path: str | Path) -> Path:
    """Write the answers of ``llm`` and ``baseline`` to every epoch of a table as one ``.npz``.

    The columns are ``llm W`` to ``baseline REM``, rounded to four digits, and the table's stage and quality.
    :func:`sleepstage.load_table` reads the file.
    """
    answers = [hypnodensities[name].add_prefix(f"{name} ") for name in MODELS if name in hypnodensities]
    beside = table.filter(items=META_COLUMNS)
    return save_table(pd.concat([*answers, beside], axis=1).round(4), path)


def load_validation() -> tuple[pd.Series, dict[str, pd.DataFrame]]:
    """Load what the shipped adapter, and the trees beside it, answered about people they never saw.

    :func:`save_answers` wrote the file. ``sleepstage/data/adapter/README.md`` says who the people are.

    Returns
    -------
    stages : pandas.Series of int8, shape (n_epochs,)
        The expert's stages, indexed by ``(subject, recording, epoch)``.
    hypnodensities : dict of str to pandas.DataFrame, shape (n_epochs, 5)
        ``llm`` and ``baseline``.
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
