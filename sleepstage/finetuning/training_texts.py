"""Training texts: windows of digits with a stage at each answer, cut anew in every pass over the nights."""

from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..dataset.digits import MISSING, N_LEVELS, PromptSpec
from ..dataset.splits import partial_nights, recut
from ..dataset.windows import Windows, covering_starts, cut_windows, night_runs
from ..features.catalogue import NIGHT
from ..stages import UNSCORED
from .hints import draw_hints
from .settings import TrainingConfig, launch
from .teacher import Teacher

IGNORED = -100  # the label of a token without an answer; torch and trl leave it out of the loss


def training_windows(
    table: pd.DataFrame,
    spec: PromptSpec,
    tokenizer: Any,
    n_windows: int,
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 (it is frozen)
    teacher: Teacher | None = None,
) -> Dataset:
    """Cut labelled windows from a table: passes over its epochs, each with other window borders.

    In every pass, each night loses 0 to ``config.margin_epochs`` epochs at both ends
    (:func:`sleepstage.recut`), ``config.partial_share`` of the nights are shown in part only
    (:func:`sleepstage.dataset.splits.partial_nights`), ``config.hinted_share`` of them give the stages of
    some epochs (:func:`sleepstage.finetuning.hints.draw_hints`), and ``config.blur`` of the digits are
    changed (:func:`blurred`).

    Returns
    -------
    datasets.Dataset
        ``input_ids`` and ``labels``: a stage's code at the last token of the line that answers for an epoch
        that is scored, can be measured and is no hint, −100 everywhere else. With a ``teacher`` also
        ``teacher``, its five probabilities at each token, one after the other, 0 where no answer is.
        Texts with hints are longer. The rows are in the order of training: those of a step are of one length.

    Raises
    ------
    ValueError
        If no epoch of the table is scored and measured.
    """
    levels = spec.levels(table)
    asked = (table["stage"] != UNSCORED).to_numpy() & (levels != MISSING).any(axis=1)
    if not asked.any():
        raise ValueError(
            "no epoch of the training table is scored and has a feature that the prompt needs; training "
            "needs an expert's stages, and a signal that can be measured"
        )
    doubt = None
    if teacher is not None:
        doubt = pd.Series(1 - teacher.read(table, levels, np.full(len(table), UNSCORED)).max(1), table.index)
    rng = np.random.default_rng(config.seed)
    step_size = config.windows_per_batch * config.batches_per_step * launch().num_processes
    waiting: dict[int, list[dict[str, np.ndarray]]] = {}  # by the length of the text
    texts: list[dict[str, np.ndarray]] = []
    while len(texts) < n_windows:
        for text in _one_pass(table, spec, tokenizer, config, teacher, doubt, rng):
            if (text["labels"] != IGNORED).any():
                waiting.setdefault(len(text["input_ids"]), []).append(text)
        steps: list[list[dict[str, np.ndarray]]] = []
        for length, alike in waiting.items():
            rng.shuffle(alike)
            whole = len(alike) - len(alike) % step_size
            steps += [alike[first : first + step_size] for first in range(0, whole, step_size)]
            waiting[length] = alike[whole:]
        rng.shuffle(steps)
        texts += [text for step in steps for text in step]
    columns = {name: [text[name] for text in texts[:n_windows]] for name in texts[0]}
    return Dataset.from_dict(columns)


def _one_pass(
    table: pd.DataFrame,
    spec: PromptSpec,
    tokenizer: Any,
    config: TrainingConfig,
    teacher: Teacher | None,
    doubt: pd.Series | None,
    rng: np.random.Generator,
) -> list[dict[str, np.ndarray]]:
    """Cut every night once, in order."""
    nights = partial_nights(recut(table, rng, config.margin_epochs), rng, config.partial_share)
    levels, stages = spec.levels(nights), nights["stage"].to_numpy(np.int64)
    unsure = None if doubt is None else doubt.reindex(nights.index).to_numpy()
    known = np.full(len(nights), UNSCORED)
    for rows in nights.groupby(level=NIGHT, sort=False).indices.values() if spec.reads_hints else ():
        unsure_here = None if unsure is None else unsure[rows]
        known[rows] = draw_hints(stages[rows], unsure_here, rng, config.hinted_share)
    soft = None if teacher is None else teacher.read(nights, levels, known)
    labels, read = np.where(stages == UNSCORED, IGNORED, stages), blurred(levels, rng, config.blur)
    stride = spec.window - spec.look_ahead
    texts = []
    for night, run in night_runs(nights):
        starts = covering_starts(run.stop - run.start, spec, stride, offset=int(rng.integers(stride)))
        windows = cut_windows(read[night], spec, tokenizer, starts, known[night], run)
        columns = {"input_ids": windows.input_ids, "labels": _at_answers(windows, labels[night], IGNORED)}
        if soft is not None:
            columns["teacher"] = _at_answers(windows, soft[night], 0).reshape(len(starts), -1)
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
