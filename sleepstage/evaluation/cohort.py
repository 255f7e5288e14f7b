"""Figures over many people: pooled, per subject and per night, with intervals over subjects.

Epochs of a person are alike, so an interval over epochs would be far too narrow. Here whole subjects are
resampled.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from ..dataset.splits import check_no_leakage
from ..dataset.table import load_table
from ..files import DATA_DIR
from ..finetuning.calibration import HypnogramPrior, cross_fitted
from ..stages import STAGES, UNSCORED, answered
from ..staging.stager import Stager
from .baselines import gradient_boosting_baseline
from .metrics import confusion, score

N_RESAMPLES = 2000


def evaluate_cohort(
    table: pd.DataFrame,
    stager: Stager | None = None,
    train_table: pd.DataFrame | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[dict, dict[str, pd.DataFrame]]:
    """Score a stager, and trees trained on ``train_table``, on the same nights.

    Both get a temperature and the transitions between stages (:mod:`sleepstage.smoothing`): the adapter's own
    if they were fitted on other people, else cross-fitted, so that nobody is scored with a temperature that
    their own nights chose.

    Parameters
    ----------
    table : pandas.DataFrame
        A feature table with stages.
    stager : Stager, optional
    train_table : pandas.DataFrame, optional
        What the gradient-boosting baseline learns from.
    n_resamples, seed : int
        Of the bootstrap over subjects.

    Returns
    -------
    figures : dict
        ``llm`` and ``baseline`` (those asked for), each as :func:`cohort_figures` gives them, and with
        ``_as_read`` behind the name the same before temperature and transitions. ``llm`` has
        ``epochs_per_second``. With both, ``kappa_difference_ci``: the paired 95 % interval of the difference.
    hypnodensities : dict of str to pandas.DataFrame
        What those answered, (n_epochs, 5) each, by the same names.

    Raises
    ------
    ValueError
        If a subject was trained on, or nothing was asked for.
    """
    if stager is None and train_table is None:
        raise ValueError(
            "got neither a stager nor a training table for the baseline; there is nothing to score"
        )
    probabilities = {}
    stages, subjects = table["stage"], table.index.unique("subject")
    if stager is not None:
        check_no_leakage(stager.trained_on, subjects)
        started = time.perf_counter()
        probabilities["llm"] = stager.predict_proba(table, with_prior=False)
        seconds = time.perf_counter() - started
    if train_table is not None:
        check_no_leakage(train_table.index.unique("subject"), subjects)
        probabilities["baseline"] = gradient_boosting_baseline(train_table, table, seed=seed)
    for name in list(probabilities):
        prior = stager.prior if name == "llm" else HypnogramPrior.from_table(train_table)
        probabilities[f"{name}_as_read"] = probabilities[name]
        probabilities[name] = _finished(prior, stages, probabilities[name])
    results = {
        name: cohort_figures(stages, proba, n_resamples, seed) for name, proba in probabilities.items()
    }
    if stager is not None:
        results["llm"]["epochs_per_second"] = len(table) / seconds
    if stager is not None and train_table is not None:
        pair = probabilities["llm"], probabilities["baseline"]
        results["kappa_difference_ci"] = kappa_difference_ci(stages, *pair, n_resamples, seed)
    return results, probabilities


def kappa_difference_ci(
    stages: pd.Series, proba: pd.DataFrame, other: pd.DataFrame, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[float]:
    """Give the 95 % interval of one model's kappa minus another's, on the same resampled people.

    Compared are the epochs that both models answered.
    """
    stages = stages.where(answered(proba) & answered(other), UNSCORED)
    one, two = (_resampled_kappas(stages, values, n_resamples, seed) for values in (proba, other))
    return _interval(one - two)


def load_validation() -> tuple[pd.Series, dict[str, pd.DataFrame]]:
    """Load what the shipped adapter, and the trees beside it, answered about people they never saw.

    Written by ``python -m sleepstage evaluate … --hypnodensities``; ``sleepstage/data/adapter/README.md``
    says who the people are.

    Returns
    -------
    stages : pandas.Series of int8, shape (n_epochs,)
        The expert's stages, indexed by ``(subject, recording, epoch)``.
    hypnodensities : dict of str to pandas.DataFrame
        ``llm`` and ``baseline``, (n_epochs, 5) each.
    """
    answers = load_table(DATA_DIR / "validation.npz")
    columns = {name: [f"{name} {stage}" for stage in STAGES] for name in ("llm", "baseline")}
    return answers["stage"], {
        name: answers[chosen].set_axis(list(STAGES), axis=1) for name, chosen in columns.items()
    }


def _finished(prior: HypnogramPrior | None, stages: pd.Series, proba: pd.DataFrame) -> pd.DataFrame:
    if prior is None:
        return proba
    subjects = {str(subject) for subject in stages.index.unique("subject")}
    fitted_on_others = prior.fitted_on and subjects.isdisjoint(map(str, prior.fitted_on))
    if fitted_on_others or len(subjects) < 2:
        return prior.apply(proba)
    return cross_fitted(prior, stages, proba)


def cohort_figures(
    stages: pd.Series, proba: pd.DataFrame, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict:
    """Give the figures of :func:`sleepstage.score`, pooled, by subject and by night.

    Parameters
    ----------
    stages : pandas.Series of int, shape (n_epochs,)
    proba : pandas.DataFrame, shape (n_epochs, 5)
        With the same index, ``(subject, recording, epoch)``.
    n_resamples, seed : int
        Of the bootstrap over subjects.

    Returns
    -------
    dict
        The pooled figures, ``n_subjects`` (those with an epoch that was compared), ``kappa_ci`` (95 %,
        percentile bootstrap over subjects; Efron & Tibshirani, 1993), and ``per_subject`` and ``per_night``
        (named ``subject/recording``): the kappa, accuracy, ``n_epochs`` and ``n_unanswered`` of each. A night
        without any answer is listed, with a kappa and an accuracy of None.
    """
    scored = stages[stages != UNSCORED]
    figures = score(stages, proba)
    figures["n_subjects"] = proba.index[answered(proba) & (stages != UNSCORED)].unique("subject").size
    figures["kappa_ci"] = _interval(_resampled_kappas(stages, proba, n_resamples, seed))
    subjects = scored.index.get_level_values("subject").astype(str)
    nights = subjects + "/" + scored.index.get_level_values("recording").astype(str)
    for name, group in (("per_subject", subjects), ("per_night", nights)):
        figures[name] = {
            key: _short_figures(part, proba.loc[part.index]) for key, part in scored.groupby(group)
        }
    return figures


def _short_figures(stages: pd.Series, proba: pd.DataFrame) -> dict:
    figures = {"kappa": None, "accuracy": None, "n_epochs": 0, "n_unanswered": len(stages)}
    if answered(proba).any():
        whole = score(stages, proba)
        figures = {name: whole[name] for name in figures}
    return figures


def _resampled_kappas(stages: pd.Series, proba: pd.DataFrame, n_resamples: int, seed: int) -> np.ndarray:
    """Draw subjects with replacement, the same for every model of a seed, and give each draw's kappa.

    Subjects without an epoch to compare are not drawn.
    """
    groups = stages.groupby(level="subject")
    matrices = np.stack([confusion(part, proba.loc[part.index]).to_numpy() for _, part in groups])
    matrices = matrices[matrices.any(axis=(1, 2))]
    n = len(matrices)
    times_drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return _kappas(np.tensordot(times_drawn, matrices, axes=1))


def _kappas(matrices: np.ndarray) -> np.ndarray:
    """Cohen's kappa of many confusion matrices (n, 5, 5), which scikit-learn computes one at a time."""
    total = matrices.sum(axis=(1, 2))
    agreement = np.trace(matrices, axis1=1, axis2=2) / total
    chance = (matrices.sum(axis=1) * matrices.sum(axis=2)).sum(axis=1) / total**2
    return (agreement - chance) / (1 - chance)


def _interval(values: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.nanpercentile(values, [2.5, 97.5])]
