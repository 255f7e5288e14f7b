"""Training texts: labelled windows of digits, cut anew in every pass over the nights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..dataset.digits import MISSING, N_LEVELS, PromptSpec
from ..dataset.splits import partial_nights, recut
from ..dataset.table import consecutive_runs
from ..dataset.windows import Windows, covering_starts, cut_windows
from ..stages import STAGES, UNSCORED


def training_windows(
    table: pd.DataFrame,
    spec: PromptSpec,
    tokenizer: Any,
    n_windows: int,
    seed: int = 0,
    margin_epochs: int = 0,
    partial_share: float = 0.0,
    teacher: pd.DataFrame | None = None,
    blur: float = 0.0,
) -> Dataset:
    """Cut labelled windows from a table: passes over its epochs, each with other window borders.

    In every pass, each night loses 0 to ``margin_epochs`` epochs at both ends (:func:`sleepstage.recut`), and
    a share of them is shown in part only (:func:`sleepstage.dataset.splits.partial_nights`), and a share of
    the digits is changed (:func:`blurred`).

    Returns
    -------
    datasets.Dataset
        ``input_ids`` and ``labels``: a stage's code at the last token of the line that answers for a
        scored epoch that can be measured, −100 everywhere else. With a ``teacher`` (see :func:`finetune`)
        also ``teacher``, its five probabilities at those tokens, 0 everywhere else.

    Raises
    ------
    ValueError
        If no epoch of the table is scored and measured, or the teacher says nothing about one that is.
    """
    scored = (table["stage"] != UNSCORED).to_numpy()
    if not (scored & (spec.levels(table) != MISSING).any(axis=1)).any():
        raise ValueError(
            "no epoch of the training table is scored and has a feature that the prompt needs; training "
            "needs an expert's stages, and a signal that can be measured"
        )
    rng = np.random.default_rng(seed)
    stride = spec.window - spec.look_ahead
    texts: list[dict[str, np.ndarray]] = []
    while len(texts) < n_windows:
        one_pass = []
        nights = partial_nights(recut(table, rng, margin_epochs), rng, partial_share)
        levels, stages = blurred(spec.levels(nights), rng, blur), nights["stage"].to_numpy()
        proba = None if teacher is None else _answers_for(teacher, nights, levels)
        for run in consecutive_runs(nights):
            starts = covering_starts(run.stop - run.start, spec, stride, offset=int(rng.integers(stride)))
            windows = cut_windows(levels[run], spec, tokenizer, starts)
            columns = {"input_ids": windows.input_ids, "labels": _window_labels(windows, stages[run])}
            if teacher is not None:
                columns["teacher"] = _window_answers(windows, proba[run])
            one_pass += [
                dict(zip(columns, rows, strict=True)) for rows in zip(*columns.values(), strict=True)
            ]
        texts += [
            one_pass[i] for i in rng.permutation(len(one_pass)) if (one_pass[i]["labels"] != IGNORED).any()
        ]
    return Dataset.from_list(texts[:n_windows])


def blurred(levels: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Move a share of the digits to a level beside theirs, and hide a quarter as many.

    The same nights look new in every pass then, and are not learned by heart.
    """
    if not share:
        return levels
    moved = np.clip(levels + rng.choice([-1, 1], size=levels.shape), 1, N_LEVELS)
    chance = rng.random(levels.shape)
    shaken = np.where(chance < share, moved, np.where(chance < 1.25 * share, MISSING, levels))
    return np.where(levels == MISSING, MISSING, shaken).astype(levels.dtype)


def _window_labels(windows: Windows, stages: np.ndarray) -> np.ndarray:
    answers = np.where(windows.epochs >= 0, stages[windows.epochs], UNSCORED)
    labels = np.full(windows.input_ids.shape, IGNORED, dtype=np.int64)
    labels[:, windows.positions] = np.where(answers == UNSCORED, IGNORED, answers)
    return labels


def _answers_for(teacher: pd.DataFrame, nights: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
    """Give the teacher's probabilities (n_epochs, 5) for a table's epochs; none where no level is known."""
    proba = teacher[list(STAGES)].reindex(nights.index).to_numpy(np.float32)
    asked = (nights["stage"] != UNSCORED).to_numpy() & (levels != MISSING).any(axis=1)
    missing = np.isnan(proba).any(axis=1) & asked
    if missing.any():
        subject, recording, epoch = nights.index[missing][0]
        raise ValueError(
            f"the teacher has no probabilities for {missing.sum()} of the training epochs, the first being "
            f"epoch {epoch} of {recording} (subject {subject}); let it answer for every training night"
        )
    proba = np.where(np.isnan(proba).any(axis=1, keepdims=True), 0, proba)
    known = proba[proba.any(axis=1)]
    if not ((known >= 0).all() and np.allclose(known.sum(axis=1), 1, atol=0.01)):
        raise ValueError(
            f"the teacher's answers lie between {known.min():g} and {known.max():g}, expected probabilities "
            f"of {', '.join(STAGES)} that sum to 1 in each epoch"
        )
    return proba


def _window_answers(windows: Windows, proba: np.ndarray) -> np.ndarray:
    answers = np.zeros((*windows.input_ids.shape, len(STAGES)), dtype=np.float32)
    answers[:, windows.positions] = np.where(windows.epochs[..., None] >= 0, proba[windows.epochs], 0)
    return answers


IGNORED = -100  # what torch and trl call a position without a label
