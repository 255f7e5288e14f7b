"""Levels become tokens, and tokens windows: which lines a window holds, and which epoch each answers for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .digits import MISSING, PromptSpec, night_text
from .table import consecutive_runs


def label_token_ids(labels: Sequence[str], tokenizer: Any) -> list[int]:
    """Give the token id of each label word.

    Raises
    ------
    ValueError
        If a word is not exactly one token, or two words are the same token.
    """
    pieces = [tokenizer(label, add_special_tokens=False).input_ids for label in labels]
    split = {label: len(ids) for label, ids in zip(labels, pieces, strict=True) if len(ids) != 1}
    if split:
        raise ValueError(f"label words must be one token each; tokens counted: {split}. Choose other words.")
    ids = [ids[0] for ids in pieces]
    if len(set(ids)) != len(ids):
        raise ValueError(f"label words must be distinct tokens; {list(labels)} are the tokens {ids}")
    return ids


def line_tokens(levels: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Tokenize a night, one row an epoch: (n_epochs, tokens_per_epoch).

    Lines are tokenized one by one. That is right only if no token covers the end of one line and the
    beginning of the next, and if every line has the same number of tokens; both are checked.

    Raises
    ------
    ValueError
        If the tokenizer breaks one of these two rules.
    """
    lines, inverse = np.unique(levels, axis=0, return_inverse=True)
    ids = tokenizer([night_text(line[None]) for line in lines], add_special_tokens=False).input_ids
    lengths = sorted({len(line) for line in ids})
    whole = tokenizer(night_text(lines), add_special_tokens=False).input_ids
    if len(lengths) != 1 or whole != [token for line in ids for token in line]:
        raise ValueError(
            f"this tokenizer does not keep epochs apart (tokens a line: {lengths}); each line of digits "
            "must be the same number of tokens and end in a token of its own."
        )
    return np.asarray(ids, dtype=np.int64)[inverse.ravel()]


def tokenizer_hash(tokenizer: Any) -> str:
    """Identify a tokenizer by how it cuts digits: SHA-256 over its first token and those of 000: to 999:."""
    digits = np.array(np.unravel_index(np.arange(1000), (10, 10, 10)), dtype=np.int8).T
    tokens = [tokenizer.bos_token_id, *line_tokens(digits, tokenizer).ravel().tolist()]
    return f"sha256:{hashlib.sha256(repr(tokens).encode()).hexdigest()}"


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

    ``offset`` (0 … stride − 1) moves the borders between windows, so that the same run is cut anew.

    Raises
    ------
    ValueError
        If the stride is larger than the number of epochs that a window answers for, or the offset too large.
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
