"""Hypnograms: read from EDF+ annotations, text or XML, and laid on the epochs of their signal.

A hypnogram is read as events: when each stage begins, how long it lasts, and the text that names it.
"""

import codecs
import csv
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..files import check_number, naming
from ..stages import (
    NUMBER_CONVENTIONS,
    STAGE_TEXTS,
    STAGES,
    UNSCORED,
    code_of_text,
    codes_of_numbers,
    number_in,
)
from .channel import warn
from .edf import MAX_EVENTS, SUFFIXES, EdfFile, Event, as_number

EPOCH_S: int = 30
"""An epoch's length in seconds, as in the scoring manuals."""

# Onsets may be off by the rounding of the program that wrote them, but not by a sample at 100 Hz.
_TOLERANCE_S = 0.01

_LENGTHS_S = (30, 20, 15, 12, 10, 6, 5, 4, 3, 2, 1)  # of epochs that ours, or two of ours, are made of

_LATEST_S = 3.6e7  # a time of more than ten thousand hours is a mistake

_TEXTS = (".csv", ".tsv", ".txt", ".eannot")

_MAX_BYTES = 4_000_000  # of a text: MAX_EVENTS lines of 40 characters

# What a column of stages may be called; of several, the first. The last two: BIDS's events, MNE's.
_STAGE_COLUMNS = ("stage", "stages", "sleep_stage", "trial_type", "description")

# Annotations beside the stages that may stand where no stage does.
_BESIDE = re.compile(r"lights|recording|arousal|apn|desat|limb|leg|snor|artifact", re.IGNORECASE)

_UNITS_S = {"milliseconds": 1e-3, "microseconds": 1e-6, "epochs": 30.0, "minutes": 60.0, "hours": 3600.0}


def align_stages(
    hypnogram: Path,
    psg_start: datetime | None,
    n_epochs: int,
    lights_off_s: float | None = None,
    convention: str = "aasm",
    sfreq_hz: float = 100.0,
) -> tuple[NDArray[np.int8], NDArray[np.bool_], list[str]]:
    """Read a hypnogram and lay its stages on the epochs of its signal, by the start times of both.

    Parameters
    ----------
    hypnogram : pathlib.Path
        An EDF+ file whose annotations are stages; the XML of NSRR; or text (``.csv``, ``.tsv``, ``.txt``,
        ``.eannot``): a table (commas, semicolons or tabs) whose first line names the columns ``onset``,
        ``duration`` (both in seconds from the signal's start) and ``stage``, or one stage a line, or all in
        one line. How a stage may be written is in :data:`sleepstage.stages.STAGE_TEXTS`. A duration that is
        missing lasts until the next stage. Annotations beside the stages, such as arousals, are skipped.
    psg_start : datetime.datetime or None
        Start of the signal.
    n_epochs : int
        Number of whole epochs, from lights-off.
    lights_off_s : float, optional
        Seconds from the signal's start to where its epochs are counted from. Stages without times begin
        there too, and may end before the signal does.
    convention : str
        How whole numbers stand for stages: see :data:`sleepstage.stages.NUMBER_CONVENTIONS`.
    sfreq_hz : float
        The signal's sampling rate: a hypnogram in samples is told by it.

    Returns
    -------
    stages : numpy.ndarray, int8, shape (n_epochs,)
        Stage codes, -1 where the hypnogram has none. If its epochs are not of 30 s, the stage that fills most
        of ours; of two that fill it alike, the one that fills more of its first half.
    marked : numpy.ndarray, bool, shape (n_epochs,)
        Where the hypnogram itself says that there is no stage: movement time, ``?`` and the like.
    notes : list of str
        What was done, and what was warned about.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read, lacks a column, holds a stage or a time that is none, is not in seconds,
        does not fit the signal's grid or does not overlap with the signal.

    Warns
    -----
    UserWarning
        If a start time is missing, durations are, epochs are not of 30 s, stages lie outside the signal, or
        REM among them is probably S4.
    """
    begin_s, signal_s = lights_off_s or 0.0, float(EPOCH_S * n_epochs)
    events, doubts = _read(hypnogram, psg_start, n_epochs, lights_off_s)
    every = pd.DataFrame(events, columns=Event._fields)
    every["onset_s"] -= begin_s
    every["code"] = _codes(every["text"], convention, hypnogram)
    others = every[every["code"].isna()]
    spans = every.dropna(subset="code").sort_values("onset_s", kind="stable", ignore_index=True)
    n_filled = _complete(spans, signal_s, hypnogram)
    _check_others(others, spans, n_filled, hypnogram)
    if spans.empty:
        raise ValueError(f"{hypnogram} holds no stages, expected a hypnogram. Is it the signal's file?")
    _check_unit(spans, signal_s, sfreq_hz, hypnogram)
    length_s = _snap(spans, begin_s, hypnogram)
    halves_s = _seconds_of_stages(spans, n_epochs)
    seconds = halves_s.sum(axis=2)
    if not seconds[:-1].any():
        first, end = spans["onset_s"].iloc[0] / EPOCH_S, spans["end_s"].iloc[-1] / EPOCH_S
        raise ValueError(
            f"{hypnogram} scores epochs {first:g} to {end - 1:g} counted from the signal's start "
            f"({psg_start}), expected some of 0 to {n_epochs - 1}. Are both files of one night? If its times "
            "count from the signal's start, write it as a table."
        )
    most = (seconds + 1e-3 * halves_s[:, :, 0]).argmax(axis=0)
    of_touched = most[seconds[: len(STAGES)].any(axis=0)]
    if 2 * np.count_nonzero(of_touched >= len(STAGES)) > len(of_touched):
        raise ValueError(
            f"{hypnogram}: most stages are too short to fill half an epoch, such as {spans['text'][0]!r} of "
            f"{spans['duration_s'][0]:g} s. Are durations seconds? Without that column, a stage lasts until "
            "the next."
        )
    stages = np.array([*range(len(STAGES)), UNSCORED, UNSCORED], dtype=np.int8)[most]
    spans["epochs"] = (spans["end_s"] - spans["onset_s"]) / EPOCH_S
    n_outside = spans["epochs"][spans["code"] >= 0].sum() - seconds[: len(STAGES)].sum() / EPOCH_S
    numbers = spans["text"].map(number_in).astype(float)
    said = {
        f"{n_filled} durations are missing: these stages last until the next one begins": n_filled > 0,
        f"its epochs last {length_s} s: each of 30 s has the stage that fills most of it": length_s < EPOCH_S,
        f"{np.ceil(n_outside - 1e-6):.0f} epochs are scored before the signal's first or after its last "
        "whole epoch: ignored": n_outside > 1e-6,
        "REM lies between epochs of N3, as S4 does: if its numbers are Rechtschaffen & Kales', give "
        "convention='rk'": convention == "aasm" and (numbers == 4).any() and _has_rem_in_deep_sleep(stages),
    }
    doubts += [doubt for doubt, is_so in said.items() if is_so]
    for doubt in doubts:
        warn(f"{hypnogram}: {doubt}.")
    if numbers.notna().any():
        doubts.append(note_on_numbers(numbers, spans["epochs"], convention))
    if len(others):
        some = ", ".join(map(repr, others["text"].unique()[:3]))
        doubts.append(f"{len(others)} annotations that are no stages are skipped ({some})")
    return stages, most == len(STAGES), doubts


def _read(
    path: Path, psg_start: datetime | None, n_epochs: int, lights_off_s: float | None
) -> tuple[list[Event], list[str]]:
    """Read a hypnogram's events, their onsets in seconds from the signal's start, and what is doubtful."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        edf = EdfFile(path)
        edf.check_annotations()
        if psg_start is None or edf.stated_start is None:
            said = "the header of the hypnogram or of the signal gives no start: taken to start together"
            return edf.events(), [said]
        delay_s = (edf.stated_start - psg_start).total_seconds()
        if abs(delay_s) > 86_400:
            raise ValueError(
                f"{path} begins at {edf.stated_start} by its header, and the signal at {psg_start}; expected "
                "less than a day between them. Correct the header, or write the hypnogram as a table."
            )
        return [event._replace(onset_s=event.onset_s + delay_s) for event in edf.events()], []
    if suffix in _TEXTS:
        return _of_text(path, n_epochs, lights_off_s), []
    if suffix == ".xml":
        return _of_xml(path), []
    known = ", ".join((*SUFFIXES, *_TEXTS, ".xml"))
    raise ValueError(f"{path} ends in {path.suffix!r}, expected a hypnogram: one of {known}.")


def _of_text(path: Path, n_epochs: int, lights_off_s: float | None) -> list[Event]:
    lines = [line for line in _text(path).splitlines() if line.strip()]
    check_number(len(lines), f"the number of lines of {path}, a hypnogram,", 0, MAX_EVENTS)
    delimiter = next((mark for mark in "\t;" if lines and mark in lines[0]), ",")
    with naming(path, "a table"):
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    names = [cell.lower() for cell in rows[0]] if rows else []
    stage_column = next((name for name in _STAGE_COLUMNS if name in names), None)
    is_timed = "onset" in names or "duration" in names
    if stage_column is None and not is_timed and len(rows) == 1:  # all in one line, perhaps with spaces
        cells = lines[0].split()
        rows = [[cell] for cell in (cells if None not in map(number_in, cells) else rows[0]) if cell]
    if stage_column is None and not is_timed and all(len(row) == 1 for row in rows):
        return _without_times([row[0] for row in rows], n_epochs, lights_off_s, path)
    is_twofold = any(names.count(str(name)) > 1 for name in ("onset", "duration", stage_column))
    if stage_column is None or is_twofold or (is_timed and "onset" not in names):
        raise ValueError(
            f"{path}: the first line names {', '.join(rows[0])}; expected the columns onset, duration, "
            "stage, each once, or one stage a line and nothing else."
        )
    for line, row in enumerate(rows, start=1):
        if len(row) < len(names):
            raise ValueError(f"{path}, line {line}: expected {len(names)} cells as in the first line.")
    column = {name: [row[place] for row in rows[1:]] for place, name in enumerate(names)}
    if not is_timed:
        epochs = [number_in(cell) for cell in column.get("epoch", ())]
        if epochs and epochs != list(range(epochs[0] or 0, (epochs[0] or 0) + len(epochs))):
            raise ValueError(f"{path}: its epochs do not count up by 1. Sort them, or give onsets.")
        return _without_times(column[stage_column], n_epochs, lights_off_s, path)
    durations = column.get("duration", ["n/a"] * len(rows))
    events = []
    for onset, duration, text in zip(column["onset"], durations, column[stage_column], strict=False):
        with naming(path, "a hypnogram with onset and duration in seconds"):
            lasts_s = np.nan if code_of_text(duration) == UNSCORED else as_number(duration)
            events.append(Event(as_number(onset), lasts_s, text))
    return events


def _text(path: Path) -> str:
    """What a text says, in UTF-8, in UTF-16 with its mark, or else in Latin-1."""
    check_number(path.stat().st_size, f"the size in bytes of {path}, a hypnogram,", 0, _MAX_BYTES)
    content = path.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path} is no text: it holds zeros. Save the hypnogram as text again.")
    return text


def _without_times(texts: list[str], n_epochs: int, lights_off_s: float | None, path: Path) -> list[Event]:
    """Lay stages one after the other; they must be as many as epochs, or one more for an epoch cut short."""
    signal_s = EPOCH_S * n_epochs
    lengths_s = [length for length in (30, 20, 10, 5, 1) if 0 <= length * len(texts) - signal_s <= EPOCH_S]
    if lights_off_s is not None and 0 < len(texts) <= n_epochs:
        lengths_s = [EPOCH_S]  # it may end before the signal does
    if not lengths_s:
        raise ValueError(
            f"{path} holds {len(texts)} stages without times, expected {n_epochs}: one for each {EPOCH_S} s "
            f"of the signal's {signal_s / 3600:.2f} hours (or each 20, 10, 5 or 1 s). Check that both are of "
            "one night, and give lights_off, or a table: onset, duration, stage."
        )
    length_s, begin_s = float(lengths_s[0]), lights_off_s or 0.0
    return [Event(begin_s + length_s * place, length_s, text) for place, text in enumerate(texts)]


def _of_xml(path: Path) -> list[Event]:
    """Read the annotations of NSRR, or the stages of Compumedics' Profusion, which NSRR also has."""
    text, events = _text(path), list[Event]()
    with naming(path, "a hypnogram in the XML of NSRR"):
        if "<!DOCTYPE" in text or text.count("<") > 5 * MAX_EVENTS:  # may fill the memory
            raise ValueError("it defines a document type, or has too many elements for one night")
        root = ET.fromstring(text)
        for event in root.iter("ScoredEvent"):
            onset_s, duration_s = (as_number(event.findtext(name, "")) for name in ("Start", "Duration"))
            events.append(Event(onset_s, duration_s, event.findtext("EventConcept", "")))
        length_s = as_number(root.findtext("EpochLength", "30"))
        check_number(length_s, "EpochLength", 1, 2 * EPOCH_S)
    in_profusion = {"0": "W", "5": "REM", **{number: f"S{number}" for number in "1234"}}
    in_profusion |= dict.fromkeys("6789", "?")
    for place, stage in enumerate(root.iter("SleepStage")):
        text = (stage.text or "").strip()
        events.append(Event(length_s * place, length_s, in_profusion.get(text, text)))
    return events


def _codes(texts: Iterable[str], convention: str, path: Path) -> list[float]:
    """The code of each text; NaN if it is unknown."""
    codes_of_numbers([], convention, path)  # a convention is checked even if no number needs it
    codes: dict[str, float] = {}
    for place, text in enumerate(texts, start=1):
        if text not in codes:
            number, code = number_in(text), code_of_text(text)
            if number is not None:
                code = int(codes_of_numbers([number], convention, f"{path}, stage {place}")[0])
            codes[text] = np.nan if code is None else code
    return [codes[text] for text in texts]


def _complete(spans: pd.DataFrame, signal_s: float, path: Path) -> int:
    """Let stages without a duration last until the next one, and check the order; say how many they are."""
    onset_s, duration_s = spans["onset_s"].to_numpy(), spans["duration_s"].to_numpy()
    too_far = ~(np.abs(onset_s) < _LATEST_S) | (duration_s < 0) | (duration_s > _LATEST_S)
    if too_far.any():
        at = spans[too_far].iloc[0]
        said = f"a stage begins at {at['onset_s']:g} s and lasts {at['duration_s']:g} s"
        raise ValueError(f"{path}: {said}, expected seconds within a night.")
    is_missing, steps_s = ~(duration_s > 0), np.diff(onset_s)
    n_filled = int(is_missing.sum()) if is_missing[:-1].any() else 0
    if n_filled:
        is_regular = np.ptp(steps_s) <= _TOLERANCE_S and steps_s[0] <= 2 * EPOCH_S
        last_s = steps_s[0] if is_regular else max(0.0, signal_s - onset_s[-1])
        duration_s = np.where(is_missing, np.append(steps_s, last_s), duration_s)
    spans["duration_s"] = np.nan_to_num(duration_s)  # without one, the last is the hypnogram's end
    spans["end_s"] = onset_s + spans["duration_s"]
    overlaps = np.flatnonzero((steps_s <= 0) | (spans["end_s"][:-1] > onset_s[1:] + _TOLERANCE_S))
    for i in overlaps[:1]:
        raise ValueError(
            f"{path}: {spans['text'][i + 1]!r} begins at {onset_s[i + 1]:g} s, before {spans['text'][i]!r} "
            f"ends at {spans['end_s'][i]:g} s. If two people scored the night, keep the rows of one."
        )
    return n_filled


def _covered(spans: pd.DataFrame, points_s: np.ndarray, is_meant: NDArray[np.bool_]) -> np.ndarray:
    """How many seconds of these spans lie before each point."""
    durations_s = np.where(is_meant, spans["end_s"] - spans["onset_s"], 0.0)
    times_s = spans[["onset_s", "end_s"]].to_numpy().ravel()
    sums_s = np.cumsum(np.column_stack([np.zeros(len(spans)), durations_s]).ravel())
    return np.interp(points_s, times_s, sums_s) if len(spans) else np.zeros(len(points_s))


def _check_others(others: pd.DataFrame, spans: pd.DataFrame, n_filled: int, path: Path) -> None:
    """Refuse a text that stands where no stage does: it may be a stage in another spelling."""
    lasts_s = others["duration_s"].fillna(0.0).clip(lower=1.0)
    borders_s = np.concatenate([others["onset_s"], others["onset_s"] + lasts_s])
    covered_s = np.diff(_covered(spans, borders_s, np.ones(len(spans), bool)).reshape(2, -1), axis=0)[0]
    is_alone = (covered_s < lasts_s / 2) | (n_filled > 0)
    for place, text in others["text"][is_alone].items():
        if not _BESIDE.search(text):
            known = ", ".join(filter(None, STAGE_TEXTS))
            said = f"{text!r} is no known stage. Rename or remove it. Known, in any capitals: {known}"
            raise ValueError(f"{path}, stage {place + 1}: {said}.")


def _check_unit(spans: pd.DataFrame, signal_s: float, sfreq_hz: float, path: Path) -> None:
    """Refuse a hypnogram that is far longer than its signal, or that fits it in another unit than seconds."""
    scored = spans[spans["code"] >= 0]
    total_s = scored["end_s"].max() - scored["onset_s"].min()
    if not total_s > 0:
        return
    units_s = {**_UNITS_S, f"samples at {sfreq_hz:g} Hz": 1 / sfreq_hz}
    off = {unit: abs(np.log(total_s * unit_s / signal_s)) for unit, unit_s in units_s.items()}
    unit = min(off, key=off.__getitem__)
    is_likely = off[unit] < np.log(1.35)
    is_in_epochs = _fits(spans["onset_s"].to_numpy(), spans["duration_s"].to_numpy(), EPOCH_S)
    if total_s > 4 * signal_s or (is_likely and total_s < signal_s and not is_in_epochs):
        probably = f"Are they {unit}? Then multiply them by {units_s[unit]:g}." if is_likely else ""
        raise ValueError(
            f"{path} scores {total_s:g} s by its times, and the signal lasts {signal_s:g} s; expected "
            f"seconds, and a night of about that length. {probably or 'Are both of one night?'}"
        )


def _fits(onset_s: NDArray[np.float64], duration_s: NDArray[np.float64], length_s: int) -> bool:
    """Say whether epochs of this length hold these spans; the last may have been cut short."""
    times_s = np.concatenate([onset_s, duration_s[:-1]])
    is_whole = np.abs(times_s - length_s * np.rint(times_s / length_s)) <= _TOLERANCE_S
    # Spans of 25 s and 30 s are no epochs of 5 s: one of 5 s must be among them.
    is_seen = length_s == EPOCH_S or (np.abs(duration_s - length_s) <= _TOLERANCE_S).any()
    return bool(is_whole.all() and (duration_s[:-1] > length_s / 2).all() and is_seen)


def _snap(spans: pd.DataFrame, begin_s: float, path: Path) -> int:
    """Find the length of the hypnogram's epochs, and round its times to it."""
    onset_s, duration_s = spans["onset_s"].to_numpy(), spans["duration_s"].to_numpy()
    length_s = next((length for length in _LENGTHS_S if _fits(onset_s, duration_s, length)), None)
    if length_s is None:
        phases_s = np.round(onset_s % EPOCH_S, 2)
        way_out = "Score the night on the signal's own grid, or correct the times."
        if (phases_s == phases_s[0]).all() and _fits(onset_s - onset_s[0], duration_s, EPOCH_S):
            off_s = np.round((begin_s + onset_s[0]) % EPOCH_S, 2)
            way_out = f"All begin {off_s:g} s off the grid: lights_off={off_s:g} counts from there."
        is_off = np.abs(onset_s - EPOCH_S * np.rint(onset_s / EPOCH_S)) > _TOLERANCE_S
        is_off |= np.abs(duration_s - EPOCH_S * np.rint(duration_s / EPOCH_S)) > _TOLERANCE_S
        i = int(is_off.argmax())
        raise ValueError(
            f"{path}: annotation {i}, {spans['text'][i]!r}, begins {begin_s + onset_s[i]:g} s after the "
            f"signal's start and lasts {duration_s[i]:g} s, expected multiples of {EPOCH_S} s (or, for all, "
            f"of a shorter epoch). Epochs are counted from the signal's start, or from lights_off. {way_out}"
        )
    n_epochs = np.rint(duration_s / length_s)
    n_epochs[-1] = np.floor((duration_s[-1] + _TOLERANCE_S) / length_s)  # the rest is no whole epoch
    spans["onset_s"] = length_s * np.rint(onset_s / length_s)
    spans["end_s"] = spans["onset_s"] + length_s * n_epochs
    return length_s


def _seconds_of_stages(spans: pd.DataFrame, n_epochs: int) -> np.ndarray:
    """How many seconds each stage, no stage by a mark, and nothing fill: (7, n_epochs, 2 halves)."""
    borders_s = EPOCH_S / 2 * np.arange(2 * n_epochs + 1)
    codes = spans["code"].to_numpy()
    before_s = [_covered(spans, borders_s, codes == code) for code in (*range(len(STAGES)), UNSCORED)]
    halves_s = np.round(np.diff(before_s, axis=1), 3)
    halves_s = np.vstack([halves_s, EPOCH_S / 2 - halves_s.sum(axis=0)])
    return halves_s.reshape(-1, n_epochs, 2)


def note_on_numbers(numbers: ArrayLike, n_epochs: ArrayLike, convention: str) -> str:
    """Say which stages numbers (n,) were taken for, in how many epochs (n,)."""
    names = {number: [*STAGES, "unscored"][code] for number, code in NUMBER_CONVENTIONS[convention].items()}
    counts = pd.Series(n_epochs).groupby(np.asarray(numbers)).sum()
    taken = [f"{number:g} taken as {names[number]} in {n:.0f} epochs" for number, n in counts.items()]
    return f"stages came as numbers (convention {convention!r}): {', '.join(taken)}"


def _has_rem_in_deep_sleep(stages: NDArray[np.int8]) -> bool:
    """Say whether REM lies right between two N3, or between two N3 of sleep's first half hour.

    Neither occurs in 113 nights of 58 people of Sleep-EDF; an S4 that is taken for REM does it.
    """
    night = "".join(map(str, stages[stages != UNSCORED])).lstrip("0")
    return bool(re.search("34+3", night) or re.search("3.*4.*3", night[:60]))
