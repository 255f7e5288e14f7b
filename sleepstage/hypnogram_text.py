"""Hypnograms as text: a table of onsets, durations and stages, or one stage a line."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .stages import STAGE_TEXTS

SUFFIXES: tuple[str, ...] = (".csv", ".tsv", ".txt")
"""Endings of files that are read here."""

_COLUMNS = ("onset", "duration", "stage")
_WHOLE_NUMBER = re.compile(r"^(-?\d)\.0*(e\+00)?$")  # as numpy's savetxt writes an integer
_SYNONYMS = {"trial_type": "stage", "description": "stage"}  # BIDS's events, MNE's annotations


@dataclass(frozen=True)
class Spans:
    """When each stage begins, for how long it holds, and its code.

    Attributes
    ----------
    onset_s, duration_s : float (n_spans,)
        Seconds from the signal's start.
    codes : int8 (n_spans,)
    counted : bool
        Whether the file gave stages without times, one for each epoch.
    """

    onset_s: np.ndarray
    duration_s: np.ndarray
    codes: np.ndarray
    counted: bool


def read_text_hypnogram(path: Path, epoch_s: float) -> Spans:
    """Read a hypnogram from a text file.

    Parameters
    ----------
    path : pathlib.Path
        Either a table (commas, semicolons or tabs) whose first line names the columns ``onset``, ``duration``
        (both in seconds) and ``stage``, or one stage a line, with or without a heading ``stage``. Stages are
        names (``N2``, ``Sleep stage 2``) or YASA's integers (0 W, 1 N1, 2 N2, 3 N3, 4 REM, −1 artefact,
        −2 unscored).
    epoch_s : float
        What one line lasts where there are no times.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, no text, lacks a column, or holds a stage or a time that is none.
    """
    rows = _rows(path)
    header = [_SYNONYMS.get(cell.lower(), cell.lower()) for cell in rows[0]]
    if "stage" in header and len(rows) == 1:
        raise ValueError(f"{path} holds a header and no stage, expected one line for each stretch of sleep.")
    if len(header) == 1 and header[0] not in ("onset", "duration"):
        named = int(header == ["stage"])
        codes = _codes([", ".join(row) for row in rows[named:]], 1 + named, path)
        onset_s = epoch_s * np.arange(len(codes), dtype=float)
        return Spans(onset_s, np.full(len(codes), float(epoch_s)), codes, counted=True)
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"{path}: the first line names {', '.join(rows[0])}; expected the columns {', '.join(_COLUMNS)} "
            f"({', '.join(missing)} missing), or one stage a line and nothing else."
        )
    places = [header.index(name) for name in _COLUMNS]
    short = [line for line, row in enumerate(rows, start=1) if len(row) <= max(places)]
    if short:
        raise ValueError(f"{path}, line {short[0]}: expected {len(header)} cells as in the first line.")
    onset, duration, stage = ([row[place] for row in rows[1:]] for place in places)
    return Spans(_seconds(onset, path), _seconds(duration, path), _codes(stage, 2, path), counted=False)


def _rows(path: Path) -> list[list[str]]:
    """The cells of every line that is not empty."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Expected a hypnogram; check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}). Save the hypnogram as text again.") from error
    lines = text.splitlines()
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise ValueError(f"{path} is empty, expected a hypnogram.")
    delimiter = next((mark for mark in ("\t", ";", ",") if mark in filled[0]), ",")
    return [[cell.strip() for cell in row] for row in csv.reader(filled, delimiter=delimiter)]


def _codes(texts: list[str], first_line: int, path: Path) -> np.ndarray:
    known = {text.lower(): code for text, code in STAGE_TEXTS.items()}
    texts = [_WHOLE_NUMBER.sub(r"\1", text) for text in texts]
    for line, text in enumerate(texts, start=first_line):
        if text.lower() not in known:
            hint = " A 5 is REM where 4 is S4; write names instead." if text == "5" else ""
            raise ValueError(
                f"{path}, stage {line - first_line + 1}: {text!r} is no known stage.{hint} "
                f"Known: {', '.join(STAGE_TEXTS)}."
            )
    return np.array([known[text.lower()] for text in texts], dtype=np.int8)


def _seconds(texts: list[str], path: Path) -> np.ndarray:
    try:
        values = np.array([float(text) for text in texts])
    except ValueError as error:
        raise ValueError(
            f"{path}: onset and duration must be seconds, with a decimal point ({error})."
        ) from None
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: onset and duration must be seconds, got one that is not finite.")
    return values
