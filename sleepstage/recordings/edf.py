"""Opening files: EDF, and the other formats that MNE reads, with errors that say what is wrong with a file.

A recording becomes one channel in microvolts, in which every sample is at its clock time. When a recording
is paused, recorders store the samples before and after the pause without a space between them. Without a
correction, everything after the pause would be too early, and its epochs would get wrong stages.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

_EDF_READERS: dict[str, tuple[bytes, Callable[..., mne.io.BaseRaw]]] = {
    ".edf": (b"0       ", mne.io.read_raw_edf),
    ".bdf": (b"\xffBIOSEMI", mne.io.read_raw_bdf),
}

# What EEGLAB, MNE and ANT call the place where two stretches meet, and EEGLAB's and GDF's numbers for it.
_SEAMS = frozenset({"boundary", "bad boundary", "edge boundary", "amplifier disconnected"})
_SEAM_NUMBERS = {".set": ("-99", "-99.0"), ".fdt": ("-99", "-99.0"), ".gdf": ("32766",)}

_ROUNDING_S = 0.02  # of times in files

_NEW_SEGMENT = re.compile(r"^Mk\d+=New Segment,[^,\n]*,(\d+),[^,\n]*,[^,\n]*,?(\d*)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Channel:
    """One channel of a recording, at the rate of its file.

    Attributes
    ----------
    signal_uv : numpy.ndarray, float64, shape (n_times,)
        In microvolts; NaN where the recording was paused.
    sfreq_hz : float
    start : datetime.datetime or None
        When the first sample was taken: the recorder's local clock, which MNE labels as UTC.
    path : pathlib.Path
        The file, ``"unnamed"`` if there is none.
    notes : list of str
        What is unusual about the file.
    """

    signal_uv: NDArray[np.float64]
    sfreq_hz: float
    start: datetime | None
    path: Path
    notes: list[str]


def read_channel(psg: str | Path | mne.io.BaseRaw, channel: str, gain: float) -> Channel:
    """Read one channel of a recording, and lay it out by the clock.

    Parameters
    ----------
    psg : path or mne.io.BaseRaw
        What MNE has opened already is not changed.
    channel : str
    gain : float
        What the values are multiplied by.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of no format that is read, or damaged; if it lacks the channel; if a pause is of
        unknown length or longer than a day, or the clock goes back.

    Warns
    -----
    UserWarning
        If an EDF or BDF file is shorter than its header announces, or the recording was paused.
    """
    raw = psg if isinstance(psg, mne.io.BaseRaw) else _open(Path(psg), channel)
    path = Path(raw.filenames[0] or "unnamed") if isinstance(psg, mne.io.BaseRaw) else Path(psg)
    if channel not in raw.ch_names:
        names = raw.ch_names or (_open_edf(path).ch_names if _is_edf(path) else [])
        present = ", ".join(map(repr, names)) or "none (is it the hypnogram?)"
        raise ValueError(f"{path} has no channel {channel!r}. Present: {present}. Pass one as `channel`.")
    with explaining_damage(path):
        signal_uv = 1e6 * gain * raw.get_data([channel], verbose="error")[0]
        notes = [] if raw is psg else _missing_end(raw, path)
        # In a Raw, MNE cuts annotations where the samples end; in the file, a pause has its whole length.
        whole = raw is not psg and path.suffix.lower() == ".set"
        annotations = mne.read_annotations(path) if whole else raw.annotations
    signal_uv, missing_s = _by_the_clock(signal_uv, raw, annotations, path)
    if missing_s:
        notes.append(f"the recording was paused: {missing_s:g} s are missing; by the clock, they are NaN")
    for note in notes:
        warn(f"{path}: {note}.")
    start = raw.info["meas_date"]
    if start is not None:  # in MNE's own format, the measurement may have begun before the first sample
        start += timedelta(seconds=raw.first_time)
    return Channel(signal_uv, raw.info["sfreq"], start, path, notes)


def read_annotations(path: Path) -> tuple[mne.Annotations, datetime | None]:
    """Read the annotations of an EDF+ file, and its start if the header gives one.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no EDF or damaged.
    """
    edf_header(path)
    with explaining_damage(path):
        return mne.read_annotations(path), _open_edf(path).info["meas_date"]


def warn(message: str) -> None:
    """Warn at the line outside this package that asked for a night."""
    package = f"{__name__.split('.')[0]}."
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def edf_header(path: Path) -> bytes:
    """Read the fixed part of the header of a file that is EDF or BDF by its name and its first bytes."""
    _check_suffix(path, tuple(_EDF_READERS))
    with path.open("rb") as file:
        header = file.read(256)
    magic, _ = _EDF_READERS[path.suffix.lower()]
    if len(header) < 256 or not header.startswith(magic):
        raise ValueError(
            f"{path} is not an EDF file: it begins with {header[:16]!r}, expected {magic!r} and a header of "
            "256 bytes. If it was downloaded, it may be an error page: fetch it again."
        )
    return header


def _check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(suffixes)}.")


@contextmanager
def explaining_damage(path: Path) -> Iterator[None]:
    """Turn every error of MNE's over a damaged file into one that says what to do."""
    try:
        yield
    except Exception as error:
        cause = "is probably truncated or damaged: compare its size with the source and fetch it again"
        if isinstance(error, NotImplementedError | ImportError):  # EEGLAB's files of MATLAB 7.3, for one
            cause = "is of a kind that is not read here"
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} {cause}; or export it as EDF where it was made. ({said})") from error


def _open(path: Path, channel: str) -> mne.io.BaseRaw:
    """Open a file without loading its samples; of EDF and BDF, one channel only."""
    # BrainVision, EEGLAB, MNE's own, GDF and Neuroscan. MNE reads more, but by endings (.txt, .dat, .mat)
    # that say little about what is inside.
    _check_suffix(path, (*_EDF_READERS, ".vhdr", ".set", ".fif", ".fif.gz", ".gdf", ".cnt"))
    if _is_edf(path):
        edf_header(path)
    with explaining_damage(path):
        # A channel that is loaded alone keeps its rate: MNE brings those that it loads together to one.
        return _open_edf(path, [channel]) if _is_edf(path) else mne.io.read_raw(path, verbose="error")


def _is_edf(path: Path) -> bool:
    return path.suffix.lower() in _EDF_READERS


def _open_edf(path: Path, channels: list[str] | None = None) -> mne.io.BaseRaw:
    _, read_raw = _EDF_READERS[path.suffix.lower()]
    return read_raw(path, include=channels, verbose="error")


def _missing_end(raw: mne.io.BaseRaw, path: Path) -> list[str]:
    if not _is_edf(path):
        return []
    header, present_s = edf_header(path), raw.n_times / raw.info["sfreq"]
    announced_s = int(header[236:244]) * float(header[244:252])
    said = f"the file holds {present_s:.0f} s of the {announced_s:.0f} s that its header announces"
    cause = "the download or the recording was interrupted. What is there is used"
    return [] if present_s >= announced_s - 1 else [f"{said}: {cause}"]


def _by_the_clock(
    signal: NDArray[np.float64], raw: mne.io.BaseRaw, annotations: mne.Annotations, path: Path
) -> tuple[NDArray[np.float64], float]:
    """Put NaN where a recording was paused, (n_times and what is missing,); and say how many seconds."""
    sfreq_hz, n_times = raw.info["sfreq"], len(signal)
    lost = np.zeros(n_times, dtype=bool)
    for span in annotations:
        # MNE puts zeros there: the clock is right, but nothing was recorded.
        if span["description"] in ("BAD_ACQ_SKIP", "BAD_disconnection"):
            end = _sample(span["onset"] + span["duration"], raw)
            lost[max(0, _sample(span["onset"], raw)) : max(0, end)] = True
    found = sorted(_pauses(raw, annotations, path).items())
    pauses = {at: lost_s for at, lost_s in found if 0 < at < n_times and lost_s}
    for at, lost_s in pauses.items():
        _check_pause(lost_s, at / sfreq_hz, path)
    # Rounded as a sum: the rounding of hundreds of pauses must not add up.
    n_missing = np.diff(np.rint(sfreq_hz * np.cumsum([0.0, *pauses.values()])).astype(int))
    signal = np.insert(np.where(lost, np.nan, signal), np.repeat(np.fromiter(pauses, int), n_missing), np.nan)
    return signal, float(lost.sum() + n_missing.sum()) / sfreq_hz


def _sample(onset_s: float, raw: mne.io.BaseRaw) -> int:
    """The first sample at an annotation's time or after it; EEGLAB's boundaries lie between two."""
    return int(np.ceil(np.round((onset_s - raw.first_time) * raw.info["sfreq"], 3)))


def _pauses(raw: mne.io.BaseRaw, annotations: mne.Annotations, path: Path) -> dict[int, float]:
    """Give ``{sample: seconds}``: how many seconds are missing before a sample; NaN if this is unknown."""
    pauses: dict[int, float] = {}
    numbers = _SEAM_NUMBERS.get(Path(raw.filenames[0] or "").suffix.lower(), ())
    end_s = raw.first_time + raw.n_times / raw.info["sfreq"]
    for event in annotations:
        text = event["description"].lower()
        # In BrainVision, a marker has its type before its text, and its duration is not the pause's.
        is_seam = text in numbers or text.rpartition("/")[2].strip() in _SEAMS
        if is_seam or text.startswith("new segment/"):
            is_known = event["duration"] > 0 and (text == "boundary" or text in numbers)
            if annotations is raw.annotations:  # what ends with the samples may have been cut there
                is_known &= event["onset"] + event["duration"] < end_s - 0.5 / raw.info["sfreq"]
            at = _sample(event["onset"], raw)
            pauses[at] = pauses.get(at, 0.0) + (event["duration"] if is_known else np.nan)
    if path.suffix.lower() == ".vhdr":
        pauses |= _pauses_of_brainvision(path, raw.info["sfreq"])
    for file in filter(None, raw.filenames):
        pauses |= _pauses_of_edf(Path(file), raw)
    return pauses


def _check_pause(lost_s: float, at_s: float, path: Path) -> None:
    if 0 < lost_s <= 86_400:  # what is longer than a day is a wrong date
        return
    length = f"for {lost_s:g} s by its own times; expected more than 0 s and at most a day. Correct the times"
    if np.isnan(lost_s):
        length = "and it is not known for how long. If you passed a Raw, pass its file, which may say"
    raise ValueError(
        f"{path} was paused {at_s:g} s after its first sample, {length}. Or export the recording as EDF+D, "
        "which keeps the times; or pass each stretch between pauses, raw.copy().crop(begin, end), with a "
        "hypnogram of its own."
    )


def _pauses_of_brainvision(header: Path, sfreq_hz: float) -> dict[int, float]:
    """Find the pauses, as ``_pauses`` gives them, from the dates of the segments in the marker file."""
    text = header.read_text(encoding="utf-8", errors="surrogateescape")
    named = re.search(r"^MarkerFile=(.+?)\s*$", text, re.MULTILINE)
    places = [header.parent / named[1], header.with_suffix(".vmrk")] if named else []  # as MNE looks for it
    markers = next((place.read_text(encoding="latin-1") for place in places if place.is_file()), "")
    segments = {int(position) - 1: date for position, date in _NEW_SEGMENT.findall(markers)}
    dates = pd.Series(segments, dtype=str).sort_index()
    starts = pd.to_datetime(dates, format="%Y%m%d%H%M%S%f", errors="coerce")  # to the microsecond
    lost_s = starts.diff().dt.total_seconds() - np.diff(dates.index, prepend=0) / sfreq_hz
    # Within a night, the amplifier's clock and the computer's drift apart by less than a second.
    lost_s[lost_s.between(-1, _ROUNDING_S, inclusive="neither")] = 0.0
    return lost_s.iloc[1:].to_dict()


def _pauses_of_edf(path: Path, raw: mne.io.BaseRaw) -> dict[int, float]:
    """Find the pauses of an EDF+D file from the onsets of its data records; empty for any other file."""
    header = edf_header(path) if _is_edf(path) else b""
    if header[192:197] not in (b"EDF+D", b"BDF+D"):
        return {}
    with explaining_damage(path):
        record_s = float(header[244:252])
        onset_s = _record_onsets_s(path, header)
    lost_s = np.diff(onset_s) - record_s
    pauses = {}
    for record in np.flatnonzero(~(np.abs(lost_s) <= _ROUNDING_S)):  # a time that is NaN as well
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
    return np.array([float(re.split(b"[\x14\x15\0]", row.tobytes(), maxsplit=1)[0]) for row in times])
