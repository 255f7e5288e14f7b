"""Hypnograms: read from EDF+ annotations or from text, and laid on the epochs of their signal.

A hypnogram is read as spans: when each stage begins, how long it lasts, and the text that names it.
"""

import csv
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..stages import STAGE_TEXTS, UNSCORED
from .edf import read_annotations, warn

EPOCH_S: int = 30
"""An epoch's length in seconds, as in the scoring manuals."""

# Onsets may be off by the rounding of the program that wrote them, but not by a sample at 100 Hz.
_GRID_TOLERANCE_S = 0.01

_TWENTY_SECONDS = "Epochs of 20 s cannot be laid on epochs of 30 s without guessing; score the night in 30 s."

_COLUMNS = ("onset", "duration", "stage")

_WHOLE_NUMBER = re.compile(r"^(-?\d)\.0*(e\+00)?$")  # as numpy's savetxt writes an integer


@dataclass(frozen=True)
class Spans:
    """The stages of a hypnogram in the order of time.

    Attributes
    ----------
    onset_s, duration_s : numpy.ndarray, float, shape (n_spans,)
        In seconds; the onset counts from the first sample of the signal.
    texts : list of str
    """

    onset_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    texts: list[str]


def align_stages(
    hypnogram: Path, psg_start: datetime | None, n_epochs: int, lights_off_s: float | None = None
) -> tuple[NDArray[np.int8], NDArray[np.bool_], list[str]]:
    """Read a hypnogram and lay its stages on the epochs of its signal, by the start times of both.

    Parameters
    ----------
    hypnogram : pathlib.Path
        An EDF+ file whose annotations are stages. Or text (``.csv``, ``.tsv``, ``.txt``): a table (commas,
        semicolons or tabs) whose first line names the columns ``onset``, ``duration`` (both in seconds from
        the signal's start) and ``stage``; or one stage a line, with or without a heading ``stage``. How a
        stage may be written is in :data:`sleepstage.stages.STAGE_TEXTS`; capitals do not matter.
    psg_start : datetime.datetime or None
        Start of the signal.
    n_epochs : int
        Number of whole epochs, from lights-off.
    lights_off_s : float, optional
        Seconds from the signal's start to where its epochs are counted from. Stages without times begin
        there too, and may end before the signal does.

    Returns
    -------
    stages : numpy.ndarray, int8, shape (n_epochs,)
        Stage codes, -1 where the hypnogram has none.
    marked : numpy.ndarray, bool, shape (n_epochs,)
        Where the hypnogram itself says that there is no stage: movement time, or ``?``.
    notes : list of str
        What was warned about.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read, lacks a column, holds a stage or a time that is none, does not fit the
        grid of 30 s or does not overlap with the signal.

    Warns
    -----
    UserWarning
        If a start time is missing, or scored epochs lie outside the signal.
    """
    notes: list[str] = []
    if hypnogram.suffix.lower() in (".csv", ".tsv", ".txt"):
        spans = _spans_of_text(hypnogram, n_epochs, lights_off_s)
    else:
        spans, notes = _spans_of_annotations(hypnogram, psg_start)
    if not spans.texts:
        raise ValueError(f"{hypnogram} holds no stages, expected a hypnogram. Is it the signal's file?")
    codes = _codes(spans.texts, hypnogram)
    first, end = _epochs(spans, hypnogram, lights_off_s or 0.0)
    stages = np.full(n_epochs, UNSCORED, dtype=np.int8)
    covered = np.zeros(n_epochs, dtype=bool)
    for begin, stop, code in zip(first, end, codes, strict=True):
        inside = slice(max(0, begin), max(0, stop))
        stages[inside], covered[inside] = code, True
    if not covered.any():
        raise ValueError(
            f"{hypnogram} scores epochs {first[0]} to {end[-1] - 1} counted from the signal's start "
            f"({psg_start}), expected some of 0 to {n_epochs - 1}. Are both files of one night?"
        )
    scored = codes != UNSCORED
    n_ignored = (end - first)[scored].sum() - np.count_nonzero(stages != UNSCORED)
    if n_ignored:
        notes.append(
            f"{n_ignored} epochs are scored before the signal's first or after its last whole epoch: ignored"
        )
    for note in notes:
        warn(f"{hypnogram}: {note}.")
    return stages, covered & (stages == UNSCORED), notes


def _spans_of_annotations(path: Path, psg_start: datetime | None) -> tuple[Spans, list[str]]:
    annotations, start = read_annotations(path)
    delay_s, notes = 0.0, []
    if psg_start is None or start is None:
        notes = ["the header of the hypnogram or of the signal gives no start: taken to start together"]
    else:
        delay_s = (start - psg_start).total_seconds()
    return Spans(annotations.onset + delay_s, annotations.duration, list(annotations.description)), notes


def _spans_of_text(path: Path, n_epochs: int, lights_off_s: float | None) -> Spans:
    rows = _rows(path)
    in_other_files = {"trial_type": "stage", "description": "stage"}  # BIDS's events, MNE's annotations
    names = [in_other_files.get(cell.lower(), cell.lower()) for cell in rows[0]]
    if len(names) == 1 and names[0] not in _COLUMNS[:2]:
        texts = [", ".join(row) for row in rows[names == ["stage"] :]]
        _check_number(len(texts), n_epochs, path, may_end_early=lights_off_s is not None)
        onset_s = (lights_off_s or 0.0) + EPOCH_S * np.arange(len(texts), dtype=float)
        return Spans(onset_s, np.full(len(texts), float(EPOCH_S)), texts)
    if not set(_COLUMNS) <= set(names):
        raise ValueError(
            f"{path}: the first line names {', '.join(rows[0])}; expected the columns {', '.join(_COLUMNS)}, "
            "or one stage a line and nothing else."
        )
    for line, row in enumerate(rows, start=1):
        if len(row) < len(names):
            raise ValueError(f"{path}, line {line}: expected {len(names)} cells as in the first line.")
    onset, duration, stage = ([row[names.index(name)] for row in rows[1:]] for name in _COLUMNS)
    try:
        return Spans(np.array(onset, dtype=float), np.array(duration, dtype=float), stage)
    except ValueError as error:
        raise ValueError(f"{path}: onset and duration must be seconds, as in 30.5 ({error}).") from error


def _rows(path: Path) -> list[list[str]]:
    """The cells of every line that is not empty; of an empty file, a heading alone."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}). Save the hypnogram as text again.") from error
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = next((mark for mark in "\t;" if lines and mark in lines[0]), ",")
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)] or [["stage"]]


def _check_number(n_stages: int, n_epochs: int, path: Path, may_end_early: bool) -> None:
    """Stages without times must be as many as epochs, or one more for an epoch cut short."""
    fewest = 1 if may_end_early else n_epochs
    if fewest <= n_stages <= n_epochs + 1:
        return
    way_out = "Check that both are of one night, and give lights_off, or a table: onset, duration, stage."
    if abs(n_stages * 20 - n_epochs * EPOCH_S) <= EPOCH_S:
        way_out = f"They are as many as epochs of 20 s. {_TWENTY_SECONDS}"
    raise ValueError(
        f"{path} holds {n_stages} stages without times, expected {n_epochs}: one for each {EPOCH_S} s of the "
        f"signal's {n_epochs * EPOCH_S / 3600:.2f} hours. {way_out}"
    )


def _codes(texts: list[str], path: Path) -> NDArray[np.int8]:
    known = [_WHOLE_NUMBER.sub(r"\1", text.lower()) for text in texts]
    for number, text in enumerate(known, start=1):
        if text not in STAGE_TEXTS:
            hint = " A 5 is REM where 4 is S4; write names instead." if text == "5" else ""
            raise ValueError(
                f"{path}, stage {number}: {texts[number - 1]!r} is no known stage.{hint} Rename or remove "
                f"it. Known, in any capitals: {', '.join(STAGE_TEXTS)}."
            )
    return np.array([STAGE_TEXTS[text] for text in known], dtype=np.int8)


def _epochs(spans: Spans, path: Path, begin_s: float) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """The first epoch and the end of each span, counted from `begin_s`, each (n_spans,)."""
    onset_s, duration_s = spans.onset_s - begin_s, spans.duration_s
    nearest, count = np.rint(onset_s / EPOCH_S), np.floor((duration_s + _GRID_TOLERANCE_S) / EPOCH_S)
    with np.errstate(invalid="ignore"):  # a time that is not finite fits no grid
        on_grid = np.abs(onset_s - EPOCH_S * nearest) <= _GRID_TOLERANCE_S
        whole = (count > 0) & (np.abs(duration_s - EPOCH_S * count) <= _GRID_TOLERANCE_S)
    whole[-1] = duration_s[-1] >= 0  # the recording may have ended within an epoch
    # A time of more than ten thousand hours is a mistake, and its epochs would fill the memory.
    bad = ~(on_grid & whole & (np.maximum(np.abs(onset_s), duration_s) < 3.6e7))
    if bad.any():
        i, phases_s = np.flatnonzero(bad)[0], np.round(spans.onset_s % EPOCH_S, 2)
        way_out = "Cut the signal to where an epoch begins, score it on its own grid, or correct the times."
        if whole.all() and not on_grid.any() and (phases_s == phases_s[0]).all():
            way_out = (
                f"All begin {phases_s[0]:g} s off the grid: lights_off={phases_s[0]:g} counts from there."
            )
        if ((duration_s > 0) & (duration_s % 20 == 0)).all():
            way_out += f" {_TWENTY_SECONDS}"
        raise ValueError(
            f"{path}: annotation {i} begins {onset_s[i]:g} s after the signal's start and lasts "
            f"{duration_s[i]:g} s, expected multiples of {EPOCH_S} s within a night. Epochs are counted from "
            f"the signal's start, or from lights_off. {way_out}"
        )
    first = nearest.astype(int)
    end = first + count.astype(int)
    overlapping = np.flatnonzero(first[1:] < end[:-1])
    if len(overlapping):
        before = overlapping[0]
        raise ValueError(
            f"{path}: annotation {before + 1} begins at epoch {first[before + 1]}, expected {end[before]} or "
            "later, where the one before it ends."
        )
    return first, end
