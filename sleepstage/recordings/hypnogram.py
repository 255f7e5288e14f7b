"""Reading a hypnogram, from EDF+ annotations or a text file, and laying it on the epochs of its signal.

Hypnograms as text: a table of onsets, durations and stages, or one stage a line."""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from numbers import Real
from pathlib import Path

import mne
import numpy as np

from ..stages import ANNOTATION_CODES, STAGE_TEXTS, UNSCORED
from .edf import edf_header, explaining_damage, open_edf

EPOCH_S: int = 30
"""An epoch's length in seconds, as in the scoring manuals."""


# Onsets may be off by the rounding of the program that wrote them, but not by a sample at 100 Hz.
_GRID_TOLERANCE_S = 0.01


# Ten thousand hours. Beyond it, a number is a mistake, and laying it out would fill the memory.
_LONGEST_S = 3.6e7


_TWENTY_SECONDS = "Epochs of 20 s cannot be laid on epochs of 30 s without guessing; score the night in 30 s."


def seconds_to_lights_off(lights_off: str | float, psg_start: datetime | None) -> float:
    """Seconds from a recording's start to lights-off.

    Parameters
    ----------
    lights_off : str or float
        By the recorder's clock, ``"22:31"`` or ``"22:31:17"``, taken to be the first such moment of the
        recording; or in seconds.
    psg_start : datetime.datetime or None
        Start of the signal.

    Raises
    ------
    ValueError
        If it is neither, or a time of day where the start is unknown.
    """
    if isinstance(lights_off, Real) and np.isfinite(lights_off):
        return float(lights_off)
    for layout in ("%H:%M:%S", "%H:%M"):
        try:
            clock = datetime.strptime(str(lights_off).strip(), layout).time()
        except ValueError:
            continue
        if psg_start is None:
            raise ValueError(
                f"lights_off is {lights_off!r}, but the recording's header gives no start; give it in "
                "seconds from the first sample."
            )
        start = psg_start.replace(tzinfo=None)
        moment = datetime.combine(start.date(), clock)
        return (moment + timedelta(days=moment < start) - start).total_seconds()
    raise ValueError(
        f"lights_off is {lights_off!r}, expected a time of day such as '22:31:17', or seconds from the "
        "recording's first sample."
    )


def align_stages(
    hypnogram: Path, psg_start: datetime | None, n_epochs: int, lights_off_s: float | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Lay the stages of a hypnogram on the epochs of its signal, by the start times of both.

    Parameters
    ----------
    hypnogram : pathlib.Path
        EDF+ file whose annotations are stages, or a text file (``.csv``, ``.tsv``, ``.txt``; see
        :func:`read_text_hypnogram`), whose times count from the signal's start.
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
    FileNotFoundError, ValueError
        If the file cannot be read, holds unknown stages, does not fit the grid of 30 s or does not
        overlap with the signal.

    Warns
    -----
    UserWarning
        If a start time is missing, or scored epochs lie outside the signal.
    """
    if hypnogram.suffix.lower() in SUFFIXES:
        spans, hypnogram_start, delay_s, notes = read_text_hypnogram(hypnogram, EPOCH_S), psg_start, 0.0, []
        _check_length(spans, n_epochs, hypnogram, may_end_early=lights_off_s is not None)
    else:
        spans, hypnogram_start = _read_annotations(hypnogram)
        delay_s, notes = _delay_s(hypnogram_start, psg_start)
    cut_s = 0.0 if spans.counted or lights_off_s is None else lights_off_s
    first, count = _epoch_spans(spans.onset_s + delay_s - cut_s, spans.duration_s, hypnogram, cut_s)
    _check_order(first, first + count, hypnogram)
    stages = np.full(n_epochs, UNSCORED, dtype=np.int8)
    covered = np.zeros(n_epochs, dtype=bool)
    for begin, end, code in zip(first, first + count, spans.codes, strict=True):
        inside = slice(max(0, begin), max(0, end))
        stages[inside], covered[inside] = code, True
    if not covered.any():
        raise ValueError(
            f"{hypnogram} (start {hypnogram_start}) scores epochs {first[0]} to {first[-1] + count[-1] - 1} "
            f"counted from the start of its signal ({psg_start}), expected some of 0 to {n_epochs - 1}. "
            "Check that the two files are of one night, and the start times in their headers."
        )
    n_ignored = count[spans.codes != UNSCORED].sum() - np.count_nonzero(stages != UNSCORED)
    if n_ignored:
        notes.append(
            f"{n_ignored} epochs are scored before the signal's first or after its last whole epoch: ignored"
        )
    for note in notes:
        warnings.warn(f"{hypnogram}: {note}.", stacklevel=3)
    return stages, covered & (stages == UNSCORED), notes


def _read_annotations(path: Path) -> tuple[Spans, datetime | None]:
    edf_header(path)
    with explaining_damage(path):
        annotations = mne.read_annotations(path)
    if len(annotations) == 0:
        raise ValueError(f"{path} holds no annotations, expected an EDF+ hypnogram. Is it the signal's file?")
    codes = _stage_codes(annotations.description, path)
    spans = Spans(annotations.onset, annotations.duration, codes, counted=False)
    return spans, open_edf(path).info["meas_date"]


def _delay_s(hypnogram_start: datetime | None, psg_start: datetime | None) -> tuple[float, list[str]]:
    if psg_start is not None and hypnogram_start is not None:
        return (hypnogram_start - psg_start).total_seconds(), []
    return 0.0, ["the header of the hypnogram or of the signal gives no start: taken to start together"]


def _check_length(spans: Spans, n_epochs: int, path: Path, may_end_early: bool) -> None:
    """Stages without times must be as many as epochs, or one more for an epoch cut short."""
    n_stages = len(spans.codes)
    fewest = 1 if may_end_early else n_epochs
    if not spans.counted or fewest <= n_stages <= n_epochs + 1:
        return
    hours = n_epochs * EPOCH_S / 3600
    if abs(n_stages * 20 - n_epochs * EPOCH_S) <= EPOCH_S:
        cause = f"They are as many as epochs of 20 s. {_TWENTY_SECONDS}"
    else:
        cause = (
            "Check that both are of one night, say by lights_off when the first one began, or give onsets: "
            "columns onset, duration, stage."
        )
    raise ValueError(
        f"{path} holds {n_stages} stages without times, expected {n_epochs}: one for each {EPOCH_S} s of the "
        f"signal's {hours:.2f} hours. {cause}"
    )


def _stage_codes(texts: np.ndarray, path: Path) -> np.ndarray:
    unknown = sorted(set(texts.tolist()) - set(ANNOTATION_CODES))
    if unknown:
        raise ValueError(
            f"{path} holds annotations that are no known stages: {', '.join(map(repr, unknown))}. "
            f"Known: {', '.join(map(repr, ANNOTATION_CODES))}. Rename or remove them in the hypnogram."
        )
    return np.array([ANNOTATION_CODES[text] for text in texts], dtype=np.int8)


def _epoch_spans(
    onset_s: np.ndarray, duration_s: np.ndarray, path: Path, cut_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """First epoch and number of epochs of each annotation; onsets count from where the epochs do."""
    beyond = ~((np.abs(onset_s) < _LONGEST_S) & (duration_s >= 0) & (duration_s < _LONGEST_S))
    if beyond.any():
        bad = np.flatnonzero(beyond)[0]
        raise ValueError(
            f"{path}: annotation {bad} begins {onset_s[bad]:g} s after the signal's start and lasts "
            f"{duration_s[bad]:g} s, which no night does. Correct it in the hypnogram."
        )
    first = np.rint(onset_s / EPOCH_S).astype(int)
    count = np.floor((duration_s + _GRID_TOLERANCE_S) / EPOCH_S).astype(int)
    off_grid = np.abs(onset_s - EPOCH_S * first) > _GRID_TOLERANCE_S
    odd_length = (count == 0) | (np.abs(duration_s - EPOCH_S * count) > _GRID_TOLERANCE_S)
    odd_length[-1] = False  # the recording may have ended within an epoch
    if (off_grid | odd_length).any():
        bad = np.flatnonzero(off_grid | odd_length)[0]
        phases_s = np.round((onset_s + cut_s) % EPOCH_S, 2)
        way_out = (
            f"All begin {phases_s[0]:g} s off the grid: lights_off={phases_s[0]:g} counts epochs from there."
            if off_grid.all() and not odd_length.any() and (phases_s == phases_s[0]).all()
            else "Cut the signal to where an epoch begins, or score it on its own grid."
        )
        raise ValueError(
            f"{path}: annotation {bad} begins {onset_s[bad]:g} s after the signal's start and lasts "
            f"{duration_s[bad]:g} s, expected multiples of {EPOCH_S} s. Epochs are counted from the "
            f"signal's start, or from lights_off. {way_out}"
            + (f" {_TWENTY_SECONDS}" if ((duration_s > 0) & (duration_s % 20 == 0)).all() else "")
        )
    return first, count


def _check_order(first: np.ndarray, end: np.ndarray, path: Path) -> None:
    overlapping = np.flatnonzero(first[1:] < end[:-1])
    if len(overlapping):
        before = overlapping[0]
        raise ValueError(
            f"{path}: annotation {before + 1} begins at epoch {first[before + 1]}, expected {end[before]} "
            "or later, where the one before it ends. Remove the annotation that overlaps."
        )


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
