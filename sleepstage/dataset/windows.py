"""Windows of text over a night: which lines they hold, and which epoch each line answers for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .digits import MISSING, PromptSpec, line_tokens
from .table import consecutive_runs


@dataclass(frozen=True)
class Windows:
    """Texts of equal length over one run of epochs.

    Attributes
    ----------
    input_ids : int64 (n_windows, n_tokens)
    epochs : int64 (n_windows, window)
        The epoch (counted from the run's start) that each line answers for, −1 where it is none: beyond the
        run, and where no digit of the epoch is known.
    positions : int64 (window,)
        The token after which each line's answer is read: the line's last.
    """

    input_ids: np.ndarray
    epochs: np.ndarray
    positions: np.ndarray


def cut_windows(levels: np.ndarray, spec: PromptSpec, tokenizer: Any, starts: np.ndarray) -> Windows:
    """Cut windows of ``spec.window`` lines out of one run of epochs, beginning at the lines ``starts``.

    Lines beyond the run's end are all ``0`` (nothing is known there); they give the last epochs their
    look-ahead, and fill the window of a short run. An epoch whose own line is all ``0`` cannot be measured:
    its neighbours are read with that line, and no line answers for it. A text begins with the tokenizer's
    own first token, if it has one.
    """
    n_lines = max(len(levels) + spec.look_ahead, int(np.max(starts)) + spec.window)
    padding = np.full((n_lines - len(levels), levels.shape[1]), MISSING, dtype=levels.dtype)
    levels = np.concatenate([levels, padding])
    tokens = line_tokens(levels, tokenizer)
    measured = (levels != MISSING).any(axis=1)
    lines = starts[:, None] + np.arange(spec.window)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = tokens[lines].reshape(len(starts), -1)
    input_ids = np.concatenate([np.tile(np.array(first, np.int64), (len(starts), 1)), body], axis=1)
    epochs = lines - spec.look_ahead
    epochs = np.where((epochs >= starts[:, None]) & measured[epochs], epochs, -1)
    positions = len(first) + np.arange(1, spec.window + 1) * tokens.shape[1] - 1
    return Windows(input_ids, epochs, positions)


def covering_starts(n_epochs: int, spec: PromptSpec, stride: int, offset: int = 0) -> np.ndarray:
    """Give the first lines of windows, ``stride`` apart, that answer for every epoch of a run.

    ``offset`` (0 … stride − 1) moves the borders between windows, for another look at the same run.

    Raises
    ------
    ValueError
        If the stride is larger than the number of epochs that a window answers for, or the offset than that.
    """
    answered = spec.window - spec.look_ahead
    if not 1 <= stride <= answered or not 0 <= offset < stride:
        raise ValueError(
            f"stride is {stride} and offset {offset}, expected a stride of 1 to window − look_ahead = "
            f"{answered} and an offset of 0 to stride − 1"
        )
    last = max(0, n_epochs - answered)
    return np.unique(np.clip(np.arange(-offset, last + stride, stride), 0, last))


def covering_windows(table: pd.DataFrame, spec: PromptSpec, tokenizer: Any, stride: int) -> Windows:
    """Cut windows, ``stride`` epochs apart, that answer for every epoch of a table.

    No window crosses a gap or the end of a recording. ``epochs`` of the result counts the table's rows.
    """
    levels = spec.levels(table)
    input_ids, epochs = [], []
    for run in consecutive_runs(table):
        starts = covering_starts(run.stop - run.start, spec, stride)
        windows = cut_windows(levels[run], spec, tokenizer, starts)
        input_ids.append(windows.input_ids)
        epochs.append(np.where(windows.epochs >= 0, run.start + windows.epochs, -1))
    return Windows(np.concatenate(input_ids), np.concatenate(epochs), windows.positions)
