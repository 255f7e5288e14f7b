"""Pauses inside a recording: where a file says that time is missing, and a signal laid out by the clock.

Recorders store what comes before and after a pause side by side. Read as it stands, everything after the
pause lies too early, and its epochs get the stages of others.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np
from numpy.typing import NDArray

from .edf import edf_header, explaining_damage

# What EEGLAB, MNE and ANT call the place where two stretches meet, and EEGLAB's and GDF's numbers for it.
_SEAMS = frozenset({"boundary", "bad boundary", "edge boundary", "amplifier disconnected"})


_SEAM_NUMBERS = {".set": ("-99", "-99.0"), ".fdt": ("-99", "-99.0"), ".gdf": ("32766",)}


# Spans in which MNE puts zeros: the clock is right, the samples are none.
_FILLED = ("BAD_ACQ_SKIP", "BAD_disconnection")


_ROUNDING_S = 0.02  # of times in files


_CLOCK_DRIFT_S = 1.0  # within a night, between the amplifier's clock and the computer's


_LONGEST_S = 86_400.0  # what is longer than a day is a wrong date


_NEW_SEGMENT = re.compile(r"^Mk\d+=New Segment,[^,\n]*,(\d+),[^,\n]*,[^,\n]*,?(\d*)\s*$", re.MULTILINE)


def lay_by_clock(
    signal: NDArray[np.float64], raw: mne.io.BaseRaw, path: Path
) -> tuple[NDArray[np.float64], list[str]]:
    """Put NaN where a recording was paused, so that every sample lies where the clock says.

    Parameters
    ----------
    signal : ndarray, shape (n_times,)
        One channel of `raw`.
    raw : mne.io.BaseRaw
    path : pathlib.Path
        The file that `raw` was read from, or the name that stands for it in messages.

    Returns
    -------
    signal : ndarray, shape (n_times and what is missing,)
    notes : list of str
        How much is missing, if anything.

    Raises
    ------
    ValueError
        If a pause is of unknown length or longer than a day, or the clock goes back.
    """
    sfreq_hz, n_times = raw.info["sfreq"], len(signal)
    lost = np.zeros(n_times, dtype=bool)
    for span in raw.annotations:
        if span["description"] in _FILLED:
            end = _sample(span["onset"] + span["duration"], raw)
            lost[max(0, _sample(span["onset"], raw)) : max(0, end)] = True
    pauses = {at: lost_s for at, lost_s in sorted(_pauses(raw, path).items()) if 0 < at < n_times and lost_s}
    for at, lost_s in pauses.items():
        _check_length(lost_s, at / sfreq_hz, path)
    # Rounded as a sum: what hundreds of pauses are rounded by must not add up.
    n_missing = np.diff(np.rint(sfreq_hz * np.cumsum([0.0, *pauses.values()])).astype(int))
    signal = np.insert(np.where(lost, np.nan, signal), np.repeat(np.fromiter(pauses, int), n_missing), np.nan)
    missing_s = (lost.sum() + n_missing.sum()) / sfreq_hz
    if not missing_s:
        return signal, []
    return signal, [f"the recording was paused: {missing_s:g} s are missing; by the clock, they are NaN"]


def _sample(onset_s: float, raw: mne.io.BaseRaw) -> int:
    """The first sample at an annotation's time or after it; EEGLAB's boundaries lie between two."""
    return int(np.ceil(np.round((onset_s - raw.first_time) * raw.info["sfreq"], 3)))


def _pauses(raw: mne.io.BaseRaw, path: Path) -> dict[int, float]:
    """By the sample before which time is missing: how many seconds, NaN if nobody knows."""
    pauses = {}
    numbers = _SEAM_NUMBERS.get(Path(raw.filenames[0] or "").suffix.lower(), ())
    for event in raw.annotations:
        text = event["description"].lower()
        # As a BrainVision marker it has a type before its text, and a length that says nothing.
        is_seam = text in numbers or text.rpartition("/")[2].strip() in _SEAMS
        if is_seam or text.startswith("new segment/"):
            knows = event["duration"] > 0 and (text == "boundary" or text in numbers)
            at = _sample(event["onset"], raw)
            pauses[at] = pauses.get(at, 0.0) + (event["duration"] if knows else np.nan)
    if path.suffix.lower() == ".vhdr":
        pauses |= _pauses_of_brainvision(path, raw.info["sfreq"])
    for file in filter(None, raw.filenames):
        pauses |= _pauses_of_records(file, raw)
    return pauses


def _check_length(lost_s: float, at_s: float, path: Path) -> None:
    if 0 < lost_s <= _LONGEST_S:
        return
    way_out = (
        "Export the recording as EDF+D, which keeps the times; or open it with MNE and pass each stretch "
        "between pauses, raw.copy().crop(begin, end), with a hypnogram of its own."
    )
    if np.isnan(lost_s):
        raise ValueError(
            f"{path} was paused {at_s:g} s after its first sample, and it is not known for how long, so the "
            "clock after the pause is unknown. If you passed a Raw, pass the path of its file: the file may "
            f"say. {way_out}"
        )
    raise ValueError(
        f"{path} was paused {at_s:g} s after its first sample, for {lost_s:g} s by its own times; expected "
        f"more than 0 s and at most a day. Correct the times in the file. {way_out}"
    )


def _pauses_of_brainvision(header: Path, sfreq_hz: float) -> dict[int, float]:
    """By the dates of a marker file's segments."""
    text = header.read_text(encoding="utf-8", errors="surrogateescape")
    named = re.search(r"^MarkerFile=(.+?)\s*$", text, re.MULTILINE)
    places = [header.parent / named[1], header.with_suffix(".vmrk")] if named else []  # as MNE looks for it
    markers = next((place.read_text(encoding="latin-1") for place in places if place.is_file()), "")
    starts = {int(position) - 1: _date(date) for position, date in _NEW_SEGMENT.findall(markers)}
    pauses = {}
    for before, at in pairwise(sorted(starts)):
        lost_s = np.nan
        if starts[before] and starts[at]:
            lost_s = (starts[at] - starts[before]).total_seconds() - (at - before) / sfreq_hz
        pauses[at] = 0.0 if -_CLOCK_DRIFT_S < lost_s < _ROUNDING_S else lost_s
    return pauses


def _date(digits: str) -> datetime | None:
    """Of a BrainVision marker, to the microsecond; None if it has none."""
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S%f")
    except ValueError:
        return None


def _pauses_of_records(path: Path, raw: mne.io.BaseRaw) -> dict[int, float]:
    """By the onsets of an EDF+D's data records; none for any other file."""
    if path.suffix.lower() not in (".edf", ".bdf"):
        return {}
    header = edf_header(path)
    if header[192:197] not in (b"EDF+D", b"BDF+D"):
        return {}
    with explaining_damage(path):
        record_s = float(header[244:252])
        onset_s = _record_onsets_s(path, header)
    lost_s = np.diff(onset_s) - record_s
    pauses = {}
    for record in np.flatnonzero(np.abs(lost_s) > _ROUNDING_S):
        at = round((record + 1) * record_s * raw.info["sfreq"]) - raw.first_samp
        if at <= 0:
            raise ValueError(
                f"This Raw begins after a pause of {path}, so its clock is wrong. Pass the path of the file, "
                "and as lights_off where epochs begin."
            )
        pauses[at] = float(lost_s[record])
    return pauses


def _record_onsets_s(path: Path, header: bytes) -> NDArray[np.float64]:
    """When each data record of an EDF+ or BDF+ file began: first in its annotations, as in ``+30.5``."""
    n_header, n_signals = int(header[184:192]), int(header[252:256])
    content = np.memmap(path, np.uint8, "r")
    fields = content[256:n_header].tobytes()
    labels = [fields[16 * i : 16 * i + 16].strip() for i in range(n_signals)]
    n_samples = [int(fields[216 * n_signals + 8 * i :][:8]) for i in range(n_signals)]
    widths = np.array(n_samples) * (3 if path.suffix.lower() == ".bdf" else 2)
    place = next((i for i, label in enumerate(labels) if label.endswith(b"DF Annotations")), None)
    if place is None:
        raise ValueError("it is marked as discontinuous, and has no annotations with its records' times")
    n_records = (len(content) - n_header) // widths.sum()
    records = content[n_header : n_header + n_records * widths.sum()].reshape(n_records, -1)
    times = records[:, widths[:place].sum() :][:, : widths[place]]
    return np.array([float(re.split(b"[\x14\x15]", row.tobytes(), maxsplit=1)[0]) for row in times])
