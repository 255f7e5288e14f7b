"""Training texts: windows of digits with a stage at each answer, cut anew in every pass over the nights."""

from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..dataset.digits import MISSING, N_LEVELS, PromptSpec
from ..dataset.splits import partial_nights, recut
from ..dataset.table import consecutive_runs
from ..dataset.windows import Windows, covering_starts, cut_windows
from ..stages import STAGES, UNSCORED
from .settings import TrainingConfig

IGNORED = -100  # the label of a token without an answer; torch and trl leave it out of the loss


def training_windows(
    table: pd.DataFrame,
    spec: PromptSpec,
    tokenizer: Any,
    n_windows: int,
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 (it is frozen)
    teacher: pd.DataFrame | None = None,
) -> Dataset:
    """Cut labelled windows from a table: passes over its epochs, each with other window borders.

    In every pass, each night loses 0 to ``config.margin_epochs`` epochs at both ends
    (:func:`sleepstage.recut`), ``config.partial_share`` of the nights are shown in part only
    (:func:`sleepstage.dataset.splits.partial_nights`), and ``config.blur`` of the digits are changed
    (:func:`blurred`).

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
    asked = (table["stage"] != UNSCORED).to_numpy() & (spec.levels(table) != MISSING).any(axis=1)
    if not asked.any():
        raise ValueError(
            "no epoch of the training table is scored and has a feature that the prompt needs; training "
            "needs an expert's stages, and a signal that can be measured"
        )
    soft_targets = None if teacher is None else _soft_targets(teacher, table.index, asked)
    rng = np.random.default_rng(config.seed)
    texts: list[dict[str, np.ndarray]] = []
    while len(texts) < n_windows:
        one_pass = _one_pass(table, spec, tokenizer, config, soft_targets, rng)
        rng.shuffle(one_pass)
        texts += [text for text in one_pass if (text["labels"] != IGNORED).any()]
    return Dataset.from_list(texts[:n_windows])


def _one_pass(
    table: pd.DataFrame,
    spec: PromptSpec,
    tokenizer: Any,
    config: TrainingConfig,
    soft_targets: pd.DataFrame | None,
    rng: np.random.Generator,
) -> list[dict[str, np.ndarray]]:
    """Cut every night once, in order."""
    nights = partial_nights(recut(table, rng, config.margin_epochs), rng, config.partial_share)
    levels = blurred(spec.levels(nights), rng, config.blur)
    labels = nights["stage"].replace(UNSCORED, IGNORED).to_numpy(np.int64)
    soft = None if soft_targets is None else soft_targets.reindex(nights.index).to_numpy(np.float32)
    stride = spec.window - spec.look_ahead
    texts = []
    for run in consecutive_runs(nights):
        starts = covering_starts(run.stop - run.start, spec, stride, offset=int(rng.integers(stride)))
        windows = cut_windows(levels[run], spec, tokenizer, starts)
        columns = {"input_ids": windows.input_ids, "labels": _at_answers(windows, labels[run], IGNORED)}
        if soft is not None:
            columns["teacher"] = _at_answers(windows, soft[run], 0)
        texts += [dict(zip(columns, rows, strict=True)) for rows in zip(*columns.values(), strict=True)]
    return texts


def _at_answers(windows: Windows, values: np.ndarray, nothing: int) -> np.ndarray:
    """Write values of epochs (n_epochs, …) at the tokens that answer for them: (n_windows, n_tokens, …)."""
    answers = values[windows.epochs]
    answers[windows.epochs < 0] = nothing
    placed = np.full((*windows.input_ids.shape, *values.shape[1:]), nothing, dtype=values.dtype)
    placed[:, windows.positions] = answers
    return placed


def blurred(levels: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Move a share of the digits to a neighbouring level, and set others, a quarter as many, to 0 (missing).

    The same nights look new in every pass then, and the model does not learn them by heart.

    Examples
    --------
    >>> blurred(np.array([[1, 5, 9], [0, 5, 5]]), np.random.default_rng(1), share=0.5)
    array([[1, 6, 9],
           [0, 4, 0]])
    """
    if not share:
        return levels
    moved = np.clip(levels + rng.choice([-1, 1], size=levels.shape), 1, N_LEVELS)
    chance = rng.random(levels.shape)
    changed = np.where(chance < share, moved, np.where(chance < 1.25 * share, MISSING, levels))
    return np.where(levels == MISSING, MISSING, changed).astype(levels.dtype)


def _soft_targets(teacher: pd.DataFrame, index: pd.MultiIndex, asked: np.ndarray) -> pd.DataFrame:
    """Give the teacher's probabilities (n_epochs, 5) for a table's epochs, 0 where it has none."""
    proba = teacher[list(STAGES)].reindex(index)
    absent = proba.isna().any(axis=1).to_numpy()
    if (missing := absent & asked).any():
        subject, recording, epoch = index[missing][0]
        raise ValueError(
            f"the teacher has no probabilities for {missing.sum()} of the training epochs, the first being "
            f"epoch {epoch} of {recording} (subject {subject}); let it answer for every training night"
        )
    known = proba[~absent]
    if not ((known >= 0).all(axis=None) and np.allclose(known.sum(axis=1), 1, atol=0.01)):
        raise ValueError(
            f"the teacher's answers lie between {known.min(axis=None):g} and {known.max(axis=None):g}, "
            f"expected probabilities of {', '.join(STAGES)} that sum to 1 in each epoch"
        )
    return known.reindex(index, fill_value=0.0)
