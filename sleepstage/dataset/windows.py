"""Levels become tokens, and tokens windows: which lines a window holds, and which epoch each answers for.

A scorer may give the stages of some epochs: *hints*. The line of such an epoch ends in the stage's label word
and not in ``:``. A window is preceded by hints from elsewhere in its night, as examples.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ..features.catalogue import NIGHT
from ..stages import UNSCORED
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
    """Tokenize a night, one row an epoch: (n_epochs, tokens_per_epoch). The last token is the colon's.

    The tokens are looked up in tables, which is much faster than the tokenizer itself.

    Raises
    ------
    ValueError
        If the tokenizer does not make one token of each digit, or of each two or three.
    """
    tables, colon = _digit_tokens(tokenizer, levels.shape[1])
    tokens, first = [], 0
    for table in tables:
        tokens.append(table[tuple(levels[:, first : first + table.ndim].T)])
        first += table.ndim
    return np.column_stack([*tokens, np.full(len(levels), colon)])


@lru_cache(maxsize=64)
def _digit_tokens(tokenizer: Any, n_digits: int) -> tuple[list[np.ndarray], int]:
    """Find how a tokenizer cuts a line: a table of tokens for each group of digits, and the colon's token.

    A table has an axis for each digit of its group. The tables must cut a text of random lines as the
    tokenizer does. So no token covers the end of one line and the beginning of the next.
    """

    def encode(*texts: str) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False).input_ids

    lines = np.random.default_rng(0).integers(0, 10, (1000, n_digits))
    text = night_text(lines)
    whole, colon = encode(text, ":")
    for size in (3, 2, 1):
        tables = []
        for first in range(0, n_digits, size):
            width = min(size, n_digits - first)
            ids = encode(*(f"{number:0{width}}" for number in range(10**width)))
            tables.append(np.array([group[-1] for group in ids], dtype=np.int64).reshape((10,) * width))
        columns = [table[tuple(lines[:, i * size : (i + 1) * size].T)] for i, table in enumerate(tables)]
        if np.column_stack([*columns, np.full(len(lines), colon[-1])]).ravel().tolist() == whole:
            return tables, colon[-1]
    raise ValueError(
        f"this tokenizer does not keep epochs apart: it makes {len(whole)} tokens of {len(lines)} lines of "
        f"{n_digits} digits and a colon. Each digit, or each two or three, must be one token, and the colon "
        "one of its own; choose another base model."
    )


def tokenizer_hash(tokenizer: Any) -> str:
    """Identify a tokenizer by how it cuts digits: SHA-256 over its first token and those of 000: to 999:."""
    digits = np.array(np.unravel_index(np.arange(1000), (10, 10, 10)), dtype=np.int8).T
    tokens = [tokenizer.bos_token_id, *line_tokens(digits, tokenizer).ravel().tolist()]
    return f"sha256:{hashlib.sha256(repr(tokens).encode()).hexdigest()}"


@dataclass(frozen=True)
class Windows:
    """Texts of equal length from one night, or from several.

    Attributes
    ----------
    input_ids : int64 (n_windows, n_tokens)
    epochs : int64 (n_windows, window)
        The epoch (a row of the night) that each line answers for, −1 where it is none: beyond a run of
        consecutive epochs, where the epoch's stage is given, and where no digit of the epoch is known.
    positions : int64 (window,)
        The token after which each line's answer is read: the line's last.
    """

    input_ids: np.ndarray
    epochs: np.ndarray
    positions: np.ndarray


def cut_windows(
    levels: np.ndarray,
    spec: PromptSpec,
    tokenizer: Any,
    starts: np.ndarray,
    known: np.ndarray | None = None,
    run: slice | None = None,
) -> Windows:
    """Cut windows of ``spec.window`` lines out of one night.

    Lines beyond the run's end are all ``0`` (nothing is known there); they give the last epochs their
    look-ahead, and fill the window of a short run. An epoch whose own line is all ``0`` cannot be measured:
    its neighbours are read with that line, and no line answers for it. A text begins with the tokenizer's
    own first token, if it has one.

    Where a stage of the night is given, ``spec.examples`` lines stand before each window, and the tokenizer's
    first token stands between them and it: the given epochs outside the window, in the order of time; of too
    many, those at equal steps; for those that are too few, lines of ``0``.

    Parameters
    ----------
    levels : int8 (n_epochs, n_digits)
        Of the whole night.
    starts : int (n_windows,)
        The first line of each window, counted from the run's first epoch.
    known : int (n_epochs,), optional
        The stages that are given, −1 elsewhere. By default none.
    run : slice, optional
        The consecutive epochs of the night that the windows are cut from. By default all.

    Raises
    ------
    ValueError
        If a stage is given to a model that cannot read it.
    """
    known = np.full(len(levels), UNSCORED) if known is None else known
    run = slice(0, len(levels)) if run is None else run
    tokens, asked = line_tokens(levels, tokenizer), (levels != MISSING).any(axis=1) & (known == UNSCORED)
    (given,) = np.nonzero(known != UNSCORED)
    if given.size and not spec.reads_hints:
        raise ValueError(
            "stages were given, but this adapter reads from left to right or answers some lines later, so it "
            "cannot use them; take an adapter with bidirectional attention and look_ahead 0"
        )
    if given.size:
        tokens[given, -1] = np.array(label_token_ids(spec.labels, tokenizer))[known[given]]
    n_lines = max(run.stop - run.start + spec.look_ahead, int(np.max(starts)) + spec.window)
    blank = line_tokens(np.full((1, levels.shape[1]), MISSING), tokenizer)
    padding = n_lines - (run.stop - run.start)
    body = np.concatenate([tokens[run], blank.repeat(padding, axis=0)])
    lines = starts[:, None] + np.arange(spec.window)
    first_token = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    first = np.tile(np.array(first_token, dtype=np.int64), (len(starts), 1))
    parts = [first, body[lines].reshape(len(starts), -1)]
    if given.size:
        examples = []
        for start in run.start + starts:
            outside = given[(given < start) | (given >= min(start + spec.window, run.stop))]
            n_examples = min(spec.examples, len(outside))
            chosen = outside[np.linspace(0, len(outside) - 1, n_examples).round().astype(int)]
            nothing = blank.repeat(spec.examples - n_examples, axis=0)
            examples.append(np.concatenate([nothing, tokens[chosen]]).ravel())
        parts = [first, np.stack(examples), *parts]
    input_ids = np.concatenate(parts, axis=1)
    answered = lines - spec.look_ahead
    epochs = run.start + answered
    inside = (answered >= starts[:, None]) & (epochs < run.stop)
    epochs = np.where(inside & asked[np.clip(epochs, 0, len(levels) - 1)], epochs, -1)
    positions = input_ids.shape[1] - body.shape[1] * np.arange(spec.window)[::-1] - 1
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


def night_runs(table: pd.DataFrame) -> Iterator[tuple[slice, slice]]:
    """Give each run of consecutive epochs: the rows of its night in the table, and its rows in the night."""
    first_rows = np.flatnonzero(np.diff(table.groupby(level=NIGHT, sort=False).ngroup(), prepend=-1))
    ends = [*first_rows[1:].tolist(), len(table)]
    nights = [slice(first, end) for first, end in zip(first_rows.tolist(), ends, strict=True)]
    for run in consecutive_runs(table):
        night = nights[np.searchsorted(first_rows, run.start, side="right") - 1]
        yield night, slice(run.start - night.start, run.stop - night.start)


def covering_windows(
    table: pd.DataFrame, spec: PromptSpec, tokenizer: Any, stride: int, known: np.ndarray | None = None
) -> list[Windows]:
    """Cut windows, ``stride`` epochs apart, that answer for every epoch of a table.

    No window crosses a gap or the end of a recording.

    Parameters
    ----------
    known : int (n_epochs,), optional
        The stages that are given, −1 elsewhere.

    Returns
    -------
    list of Windows
        Those of nights without and of nights with given stages, whose texts are longer. ``epochs`` counts
        the table's rows.
    """
    levels = spec.levels(table)
    known = np.full(len(table), UNSCORED) if known is None else known
    cut: dict[int, list[Windows]] = {}
    for night, run in night_runs(table):
        starts = covering_starts(run.stop - run.start, spec, stride)
        windows = cut_windows(levels[night], spec, tokenizer, starts, known[night], run)
        epochs = np.where(windows.epochs >= 0, night.start + windows.epochs, -1)
        alike = cut.setdefault(windows.input_ids.shape[1], [])
        alike.append(replace(windows, epochs=epochs))
    return [
        Windows(
            np.concatenate([part.input_ids for part in alike]),
            np.concatenate([part.epochs for part in alike]),
            alike[0].positions,
        )
        for alike in cut.values()
    ]
