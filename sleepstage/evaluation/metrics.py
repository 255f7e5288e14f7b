"""How good a hypnodensity is: accuracy, F1, kappa, log-loss, calibration.

The figures come from scikit-learn. This module decides which epochs count, and how a stage counts
that the expert never gave.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, cohen_kappa_score, log_loss, precision_recall_fscore_support

from ..stages import STAGES, UNSCORED, answered, most_probable_stages, proba_array, stage_codes

_CODES = list(range(len(STAGES)))


def score(stages: ArrayLike, proba: pd.DataFrame | ArrayLike) -> dict[str, Any]:
    """Compare a hypnodensity with the expert's stages.

    Parameters
    ----------
    stages : array-like of int, shape (n_epochs,)
        The expert's stage codes. Epochs with -1 are left out.
    proba : DataFrame or array, shape (n_epochs, 5)
        Probabilities. The columns of a DataFrame are found by name; those of an array are W, N1, N2, N3, REM.
        A row with NaN is no answer.

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``kappa`` (Cohen, 1960), ``f1``, ``precision`` and
        ``recall`` (one value a stage, in the order of ``STAGES``), ``log_loss`` in nats, ``ece`` (expected
        calibration error), ``n_epochs`` (those compared: scored, and with an answer) and ``n_unanswered``
        (scored, but without an answer; they count in no other figure). Plain Python numbers and lists, ready
        for JSON; None where a figure is undefined.

    Raises
    ------
    ValueError
        When lengths, columns or codes do not fit, no epoch is scored, none of the scored ones has an answer,
        or a row is not a distribution.

    Notes
    -----
    A stage that the expert never gave has no recall and no F1, and the two means over stages (balanced
    accuracy, macro-F1) leave it out. A stage that the model never gave has no precision, and an F1 of 0.
    Kappa is undefined when expert and model both gave one and the same stage only.

    Examples
    --------
    >>> figures = score([0, 0, 2, -1], np.eye(5)[[0, 0, 0, 0]])
    >>> round(figures["accuracy"], 3), figures["recall"], figures["n_epochs"]
    (0.667, [1.0, None, 0.0, None, None], 3)
    """
    truth, values, n_unanswered = _compared_epochs(stages, proba)
    predicted = values.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=_CODES, zero_division=np.nan
    )
    f1[support == 0] = np.nan
    one_stage_only = np.unique([truth, predicted]).size == 1
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "kappa": None if one_stage_only else float(cohen_kappa_score(truth, predicted)),
        "f1": _nan_to_none(f1),
        "precision": _nan_to_none(precision),
        "recall": _nan_to_none(recall),
        "log_loss": float(log_loss(truth, values, labels=_CODES)),
        "ece": _expected_calibration_error(truth, values),
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

    Examples
    --------
    >>> int(confusion([0, 0, 1, -1], [0, 4, 1, 1]).loc["W", "REM"])
    1
    """
    _check_same_epochs(stages, predicted)
    truth = stage_codes(stages)
    given = stage_codes(predicted) if np.ndim(predicted) == 1 else most_probable_stages(predicted)
    both = (truth != UNSCORED) & (given != UNSCORED)
    counts = np.zeros((len(STAGES), len(STAGES)), dtype=int)
    np.add.at(counts, (truth[both], given[both]), 1)
    return pd.DataFrame(counts, index=pd.Index(STAGES, name="expert"), columns=pd.Index(STAGES, name="model"))


def report(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Put the figures of several models under each other.

    Parameters
    ----------
    results : dict of str to dict
        A model's name and what :func:`score` returned for it.

    Returns
    -------
    DataFrame
        One row a model, rounded to three digits for printing; undefined figures are NaN.

    Examples
    --------
    >>> report({"W": score([0, 0, 2], np.eye(5)[[0, 0, 0]])})[["accuracy", "kappa", "epochs"]]
           accuracy  kappa  epochs
    model
    W         0.667    0.0       3
    """
    headings = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro-F1",
        "kappa": "kappa",
        "log_loss": "log-loss",
        "ece": "ECE",
        "n_epochs": "epochs",
        "n_unanswered": "unanswered",
    }
    rows = {model: [figures[name] for name in headings] for model, figures in results.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(headings.values()))
    return table.astype(float).round(3).astype({"epochs": int, "unanswered": int}).rename_axis("model")


def _compared_epochs(stages: ArrayLike, proba: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """Give stages (n,) and probabilities (n, 5) of the epochs to compare, and how many lack an answer."""
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
    n_stages, n_answers = np.shape(stages)[0], np.shape(proba)[0]
    if n_stages != n_answers:
        raise ValueError(f"{n_stages} stages but {n_answers} predictions; give both for the same epochs")
    if isinstance(stages, pd.Series) and isinstance(proba, pd.DataFrame | pd.Series):
        if not stages.index.equals(proba.index):
            raise ValueError(
                "stages and predictions have different indices; bring both to the same epochs in the same "
                "order, for example with stages.loc[proba.index]"
            )


def _normalized(proba: np.ndarray) -> np.ndarray:
    """Check that rows are distributions, and divide them by their sum: half precision rounds."""
    totals = proba.sum(axis=1, keepdims=True)
    wrong = ~((np.abs(totals[:, 0] - 1) < 1e-2) & (proba >= 0).all(axis=1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} of {len(proba)} scored epochs have no probability distribution (first: "
            f"{proba[wrong.argmax()].round(4).tolist()}); expected five numbers from 0 to 1 that sum to 1, "
            "or five NaN where there is no answer"
        )
    return proba / totals


def _expected_calibration_error(truth: np.ndarray, proba: np.ndarray) -> float:
    """Mean gap between confidence and accuracy, over 15 bins of equal width (Guo et al., 2017, eq. 3)."""
    confidence = proba.max(axis=1)
    bins = np.digitize(confidence, np.arange(1, 15) / 15, right=True)
    surplus = confidence - (proba.argmax(axis=1) == truth)
    return float(np.abs(np.bincount(bins, weights=surplus)).sum() / len(truth))


def _nan_to_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
