"""Reading a hypnogram, from EDF+ annotations or a text file, and laying it on the epochs of its signal."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta
from numbers import Real
from pathlib import Path

import mne
import numpy as np

from .edf import edf_header, explaining_damage, open_edf
from .hypnogram_text import SUFFIXES, Spans, read_text_hypnogram
from .stages import ANNOTATION_CODES, UNSCORED

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
        :func:`sleepstage.hypnogram_text.read_text_hypnogram`), whose times count from the signal's start.
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
