"""How good a hypnodensity is.

The figures come from scikit-learn; what is decided here is which epochs count, and what happens to a stage
that the expert never gave. The baselines to compare with are in ``baselines.py``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from ..stages import STAGES, UNSCORED, answered, most_probable_stages, proba_array, stage_codes

_CODES = range(len(STAGES))


_N_CALIBRATION_BINS = 15


def score(stages: ArrayLike, proba: pd.DataFrame | ArrayLike) -> dict:
    """Compare a hypnodensity with the expert's stages.

    Parameters
    ----------
    stages : array-like of int, shape (n_epochs,)
        The expert's stage codes. Epochs with -1 are left out.
    proba : DataFrame or array, shape (n_epochs, 5)
        Probabilities. A DataFrame's columns are found by name; an array's are W, N1, N2, N3, REM. A row with
        NaN is no answer.

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``kappa`` (Cohen, 1960), ``f1``, ``precision`` and
        ``recall`` (one value a stage, in the order of ``STAGES``), ``log_loss`` in nats, ``ece``,
        ``n_epochs`` (those compared: scored, and with an answer) and ``n_unanswered`` (scored, but without an
        answer: they count in no other figure). Plain Python numbers and lists, ready for JSON; what is
        undefined is None.

    Raises
    ------
    ValueError
        When lengths, columns or codes do not fit, no epoch is scored, none of the scored ones has an answer,
        or a row is not a distribution.

    Notes
    -----
    A stage that the expert never gave has no recall and no F1, and the two means over stages (balanced
    accuracy, macro-F1) leave it out. A stage that the model never gave has no precision, and an F1 of 0.
    Kappa is undefined when expert and model both know one and the same stage only.
    """
    truth, proba, n_unanswered = _compared_epochs(stages, proba)
    predicted = proba.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=_CODES, zero_division=np.nan
    )
    f1[support == 0] = np.nan
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "kappa": _kappa(truth, predicted),
        "f1": _nan_to_none(f1),
        "precision": _nan_to_none(precision),
        "recall": _nan_to_none(recall),
        "log_loss": float(log_loss(truth, proba, labels=_CODES)),
        "ece": _expected_calibration_error(truth, proba),
        "n_epochs": len(truth),
        "n_unanswered": n_unanswered,
    }


def confusion(stages: ArrayLike, predicted: pd.DataFrame | ArrayLike) -> pd.DataFrame:
    """Count how often the model gave each stage for each stage of the expert.

    Parameters
    ----------
    stages : array-like of int, shape (n_epochs,)
        The expert's stage codes.
    predicted : DataFrame or array, shape (n_epochs, 5) or (n_epochs,)
        Probabilities, of which the largest counts, or stage codes.

    Returns
    -------
    DataFrame of int, shape (5, 5)
        Expert in rows, model in columns. Epochs that either of them left without a stage are not counted.

    Raises
    ------
    ValueError
        When lengths, columns or codes do not fit.
    """
    _check_same_epochs(stages, predicted)
    truth = stage_codes(stages)
    given = stage_codes(predicted) if np.ndim(predicted) == 1 else most_probable_stages(predicted)
    both = (truth != UNSCORED) & (given != UNSCORED)
    counts = np.zeros((len(STAGES), len(STAGES)), dtype=int)
    if both.any():  # scikit-learn refuses to count nothing
        counts = confusion_matrix(truth[both], given[both], labels=_CODES)
    return pd.DataFrame(counts, index=pd.Index(STAGES, name="expert"), columns=pd.Index(STAGES, name="model"))


def report(results: dict[str, dict]) -> pd.DataFrame:
    """Put the figures of several models under each other.

    Parameters
    ----------
    results : dict of str to dict
        A model's name and what :func:`score` returned for it.

    Returns
    -------
    DataFrame
        One row a model, rounded to three digits for printing; undefined figures are NaN.
    """
    headings = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro-F1",
        "kappa": "kappa",
        "log_loss": "log-loss",
        "ece": "ECE",
    }
    rows = {model: {new: figures[old] for old, new in headings.items()} for model, figures in results.items()}
    table = (
        pd.DataFrame.from_dict(rows, orient="index", columns=list(headings.values())).astype(float).round(3)
    )
    table["epochs"] = [figures["n_epochs"] for figures in results.values()]
    table["unanswered"] = [figures["n_unanswered"] for figures in results.values()]
    return table.rename_axis("model")


def _compared_epochs(
    stages: ArrayLike, proba: pd.DataFrame | ArrayLike
) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the stages and probabilities of the epochs to compare, and how many lack an answer."""
    _check_same_epochs(stages, proba)
    truth, values = stage_codes(stages), proba_array(proba)
    scored = truth != UNSCORED
    if not scored.any():
        raise ValueError(f"none of the {len(truth)} epochs is scored, so there is nothing to compare with")
    compared = scored & answered(proba)
    if not compared.any():
        raise ValueError(
            f"none of the {scored.sum()} scored epochs has an answer, so there is nothing to compare; look "
            "at the feature table's column 'quality'"
        )
    return truth[compared], _normalized(values[compared]), int(scored.sum() - compared.sum())


def _check_same_epochs(stages: ArrayLike, proba: pd.DataFrame | ArrayLike) -> None:
    if len(stages) != len(proba):
        raise ValueError(f"{len(stages)} stages but {len(proba)} predictions; give both for the same epochs")
    both_named = isinstance(stages, pd.Series) and isinstance(proba, pd.DataFrame | pd.Series)
    if both_named and not stages.index.equals(proba.index):
        raise ValueError(
            "stages and predictions have different indices; bring both to the same epochs in the same order, "
            "for example with stages.loc[proba.index]"
        )


def _normalized(proba: np.ndarray) -> np.ndarray:
    """Check the rows, then take out the rounding of half and single precision."""
    totals = proba.sum(axis=1, keepdims=True)
    wrong = ~((np.abs(totals[:, 0] - 1) < 1e-2) & (proba >= 0).all(axis=1))
    if wrong.any():
        row = [float(value) for value in proba[wrong.argmax()].round(4)]
        raise ValueError(
            f"{wrong.sum()} of {len(proba)} scored epochs have no probability distribution (first: {row}); "
            "expected five numbers from 0 to 1 that sum to 1, or five NaN where there is no answer"
        )
    return proba / totals


def _kappa(truth: np.ndarray, predicted: np.ndarray) -> float | None:
    if np.unique(np.concatenate([truth, predicted])).size == 1:
        return None
    return float(cohen_kappa_score(truth, predicted, labels=list(_CODES)))


def _expected_calibration_error(truth: np.ndarray, proba: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al., 2017, equation 3)."""
    confidence = proba.max(axis=1)
    edges = np.linspace(0, 1, _N_CALIBRATION_BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    surplus = confidence - (proba.argmax(axis=1) == truth)
    return float(np.abs(np.bincount(bins, weights=surplus)).sum() / len(truth))


def _nan_to_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
