"""One channel of a recording of any format, in microvolts, in which every sample is at its clock time.

When a recording is paused, recorders store the samples before and after the pause without a space between
them. Without a correction, everything after the pause would be too early, and its epochs would get wrong
stages.
"""

import gzip
import os
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import check_number, naming
from .edf import MAX_SAMPLES, SUFFIXES, EdfFile, Event

# What EEGLAB, MNE and ANT call the place where two stretches meet, and EEGLAB's and GDF's numbers for it.
_SEAMS = frozenset({"boundary", "bad boundary", "edge boundary", "amplifier disconnected"})
_SEAM_NUMBERS = {".set": ("-99", "-99.0"), ".fdt": ("-99", "-99.0"), ".gdf": ("32766",)}

_ROUNDING_S = 0.02  # of times in files
_DRIFT_S = 1.0  # within a night, the amplifier's clock and the computer's drift apart by less
_LONGEST_PAUSE_S = 86_400  # what is longer is a wrong date

_MAX_TAGS = 1_000_000  # of a FIF file: one for each buffer of samples, and some hundred others
_ROLE, _PART_NUMBER, _PART_NAME, _IS_NEXT = 115, 117, 118, 2  # of a FIF file that is one of several
_MOST_UNPACKED = 20  # times a compressed FIF file's size: samples are packed to a half, zeros to a thousandth

# What to do where MNE fails: files of MATLAB 7.3 are of a kind that it does not read, for one.
_WHOLE = "a recording that can be read (if it is damaged, fetch it again; or export it as EDF)"

# Readers that a damaged file makes crash, or ask for all memory or time: they are tried in a process of their
# own. An error that Python can raise is MNE's to explain.
_RISKY = {
    ".set": "import scipy.io\nload = lambda path: scipy.io.loadmat(path, struct_as_record=False)",
    ".gdf": "from mne.io import read_raw_gdf as load",
}
_TRY = """
import contextlib, sys
with contextlib.suppress(ImportError, OSError, ValueError):  # not on Linux, or the limit is lower already
    import resource
    now = 4096 * int(open("/proc/self/statm").read().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]), hard))
try:
    load(sys.argv[1])
except Exception as error:
    sys.exit(isinstance(error, MemoryError))
"""

_NEW_SEGMENT = re.compile(r"^Mk\d+=New Segment,[^,\n]*,(\d+),[^,\n]*,[^,\n]*,?(\d*)\s*$", re.MULTILINE)
_NAMED_FILE = re.compile(r"^\s*(Data|Marker)File\s*[=:]\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)


@dataclass
class Channel:
    """One channel of a recording, at the rate of its file.

    Attributes
    ----------
    path : pathlib.Path
        The file, ``"unnamed"`` if there is none.
    signal_uv : numpy.ndarray, float32, shape (n_times,)
        In microvolts; NaN where the recording was paused.
    sfreq_hz : float
    start : datetime.datetime or None
        When the first sample was taken: the recorder's local clock, labelled as UTC.
    events : list of Event
        Annotations; their onsets count from the first sample, pauses left out.
    pauses : dict of int to float
        What the file says beside its events: how many seconds are missing before a sample; NaN if unknown.
    notes : list of str
        What is unusual about the file.
    cut_s : float
        Where MNE has cut the events; one that reaches until there may have lasted longer.
    """

    path: Path
    signal_uv: NDArray[np.float32]
    sfreq_hz: float
    start: datetime | None
    events: list[Event]
    pauses: dict[int, float]
    notes: list[str]
    cut_s: float = np.inf


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
    if isinstance(psg, mne.io.BaseRaw):
        source = _of_raw(psg, channel, Path(psg.filenames[0] or "unnamed"))
    else:
        source = _of_file(Path(psg), channel)
    source.signal_uv = np.float32(gain) * source.signal_uv
    if missing_s := _lay_by_the_clock(source):
        source.notes.append(f"the recording was paused: {missing_s:g} s are missing, and are NaN")
    for note in source.notes:
        warn(f"{source.path}: {note}.")
    return source


def warn(message: str) -> None:
    """Warn at the line outside this package that asked for a night."""
    package = f"{__name__.split('.')[0]}."
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _of_file(path: Path, channel: str) -> Channel:
    # EDF, BrainVision, EEGLAB, MNE's own, GDF and Neuroscan. MNE reads more, but by endings (.txt, .dat,
    # .mat) that say little about what is inside.
    suffixes = (*SUFFIXES, ".vhdr", ".set", ".fif", ".fif.gz", ".gdf", ".cnt")
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(suffixes)}.")
    if path.suffix.lower() in SUFFIXES:
        return _of_edf(path, channel)
    markers = _marker_files(path) if path.suffix.lower() == ".vhdr" else []
    if ".fif" in path.name.lower():
        _check_tags(path)
    if path.suffix.lower() in _RISKY:
        _try_in_a_process(path)
    with naming(path, _WHOLE):
        raw = mne.io.read_raw(path, verbose="error")
    _check_beside(path, raw.filenames)
    stored = _of_raw(raw, channel, path)
    if path.suffix.lower() == ".set":
        # In a Raw, MNE cuts annotations where the samples end; in the file, a pause has its whole length.
        with naming(path, _WHOLE):
            stored.events, stored.cut_s = _events(mne.read_annotations(path)), np.inf
    if markers:
        stored.pauses = _pauses_of_brainvision(markers, stored.sfreq_hz)
    return stored


def _of_edf(path: Path, channel: str) -> Channel:
    edf = EdfFile(path)
    _check_channel(channel, edf.channels, path)
    signal_uv, sfreq_hz = edf.signal_uv(channel)
    present_s, announced_s = (n_records * edf.record_s for n_records in edf.n_records())
    start, first_s = edf.stated_start, edf.first_onset_s
    said = {
        f"the file holds {present_s:.0f} s of the {announced_s:.0f} s that its header announces: the "
        "download or the recording was interrupted. What is there is used": present_s < announced_s - 1,
        f"the file holds {present_s:.0f} s, and its header announces {announced_s:.0f} s: all is "
        "used": present_s > announced_s + 1,
        f"its first record began {first_s:g} s after the start in its header, by its own time": first_s >= 1,
    }
    begins_s = edf.record_onsets_s if len(edf.record_onsets_s) > 1 else np.array([first_s])
    events = []
    for event in edf.events():
        record = max(0, int(np.searchsorted(begins_s, event.onset_s, "right")) - 1)
        events.append(event._replace(onset_s=record * edf.record_s + event.onset_s - begins_s[record]))
    notes = [note for note, is_so in said.items() if is_so]
    began = start and start + timedelta(seconds=first_s)
    return Channel(path, signal_uv, sfreq_hz, began, events, _pauses_of_edf(edf, sfreq_hz), notes)


def _of_raw(raw: mne.io.BaseRaw, channel: str, path: Path) -> Channel:
    _check_channel(channel, raw.ch_names, path)
    sfreq_hz, start = raw.info["sfreq"], raw.info["meas_date"]
    check_number(raw.n_times, f"{path}: the number of samples", 1, MAX_SAMPLES)
    with naming(path, _WHOLE):
        signal_uv = (1e6 * raw.get_data([channel], verbose="error")[0]).astype(np.float32)
    pauses: dict[int, float] = {}
    if path.suffix.lower() in SUFFIXES and path.is_file():
        edf = EdfFile(path)
        pauses = _pauses_of_edf(edf, sfreq_hz, raw.first_samp)
        if start is not None and start == edf.stated_start:  # MNE drops the fraction of a second
            start += timedelta(seconds=edf.first_onset_s)
    if start is not None:  # in MNE's own format, the measurement may have begun before the first sample
        start += timedelta(seconds=raw.first_time)
    events, cut_s = _events(raw.annotations, raw.first_time), (raw.n_times - 0.5) / sfreq_hz
    return Channel(path, signal_uv, sfreq_hz, start, events, pauses, [], cut_s)


def _events(annotations: mne.Annotations, first_s: float = 0.0) -> list[Event]:
    return [Event(note["onset"] - first_s, note["duration"], note["description"]) for note in annotations]


def _check_channel(channel: str, present: list[str], path: Path) -> None:
    if (n_found := present.count(channel)) != 1:  # two, if one is called C3-0 beside two that are called C3
        names = ", ".join(map(repr, present)) or "none (is it the hypnogram?)"
        way_out = "Pass one as `channel`."
        # Perhaps every electrode was recorded against a common one.
        ends = [end.split()[-1:] for end in str(channel).split("-")]
        pair = [[name for name in present if name.split()[-1:] == end] for end in ends]
        if len(pair) == 2 and all(pair):
            plus, minus = pair[0][0], pair[1][0]
            way_out = (
                "It is the difference of two of them: raw = mne.io.read_raw(file, preload=True), then "
                f"mne.set_bipolar_reference(raw, {plus!r}, {minus!r}, {channel!r}), which you pass in place "
                "of the file."
            )
        found = f"{n_found} channels" if n_found else "no channel"
        raise ValueError(f"{path} has {found} {channel!r}. Present: {names}. {way_out}")


def _marker_files(header: Path) -> list[Path]:
    """Where a BrainVision header's markers may be; refuse one that names files elsewhere, or a pipe."""
    if header.stat().st_size > 10_000_000:
        raise ValueError(f"{header} is larger than 10 MB, expected a header: a few lines for each channel.")
    text = header.read_text(encoding="utf-8", errors="surrogateescape")
    stated = re.search(r"NumberOfChannels\s*[=:]\s*(\d+)", text, re.IGNORECASE)
    if stated and float(stated[1]) > text.count("\n"):
        raise ValueError(f"{header} states {stated[1]} channels, expected at most one a line.")
    names = [(kind.lower(), name.replace("$b", header.stem)) for kind, name in _NAMED_FILE.findall(text)]
    named = [(kind, header.parent / name) for kind, name in names]
    _check_beside(header, [place for kind, place in named if kind == "data" or place.exists()])
    markers = [place for kind, place in named if kind == "marker"]
    return [*markers, header.with_suffix(".vmrk")] if markers else []  # as MNE looks for it


def _check_tags(path: Path, parts: tuple[Path, ...] = ()) -> None:
    """Refuse a FIF file whose chain of tags, or of parts, goes back: MNE would follow it for ever."""
    at, is_next, parts = 0, False, (*parts, path.resolve())
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file, naming(path, _WHOLE):
        file.seek(_MOST_UNPACKED * path.stat().st_size)
        if file.read(1):
            raise ValueError(f"it would unpack to more than {_MOST_UNPACKED} times its size")
        for _ in range(_MAX_TAGS):
            file.seek(at)
            head = file.read(16)
            kind, _, size, following = struct.unpack(">4i", head) if len(head) == 16 else (0, 0, 0, -1)
            said = file.read(min(max(size, 0), 1000)) if kind in (_ROLE, _PART_NUMBER, _PART_NAME) else b""
            if kind == _ROLE:
                is_next = said == struct.pack(">i", _IS_NEXT)
            elif kind == _PART_NAME and is_next:
                part, is_next = path.parent / said.decode("latin-1"), False
                _check_beside(path, [part])
                if part.resolve() in parts:
                    raise ValueError(f"its part {part.name} comes after itself")
                _check_tags(part, parts)
            elif kind == _PART_NUMBER and is_next:
                raise ValueError("it gives the number of its next part, expected the name of a file")
            if following < 0:
                return
            if size < 0 or 0 < following <= at:
                raise ValueError(f"what follows on byte {at} is {size} bytes long, and then byte {following}")
            at = following or at + 16 + size
        raise ValueError(f"it has more than {_MAX_TAGS} tags")


def _try_in_a_process(path: Path) -> None:
    """Refuse a file that makes its reader crash, or ask for far more memory or time than it has bytes."""
    n_bytes = path.stat().st_size
    code = f"{_RISKY[path.suffix.lower()]}\n{_TRY}"
    command = [sys.executable, "-c", code, str(path), str(500_000_000 + 20 * n_bytes)]
    try:
        is_harmless = subprocess.run(command, capture_output=True, timeout=15 + n_bytes / 1e7).returncode == 0
    except subprocess.TimeoutExpired:
        is_harmless = False
    if not is_harmless:
        raise ValueError(f"{path} is probably damaged: its header states false sizes. Fetch it again.")


def _check_beside(path: Path, files: Iterable[Path | None]) -> None:
    """Refuse what a recording names that lies elsewhere, or is a folder or a pipe."""
    folders = (path.absolute().parent, path.resolve().parent)
    for file in filter(None, files):
        if Path(os.path.abspath(file)).parent not in folders or not file.is_file():
            raise ValueError(f"{path} names the file {str(file)!r}, expected a file beside it.")


def _lay_by_the_clock(stored: Channel) -> float:
    """Put NaN where a recording was paused, and say how many seconds."""
    n_times, sfreq_hz = len(stored.signal_uv), stored.sfreq_hz
    lost = np.zeros(n_times, dtype=bool)
    for onset_s, duration_s, text in stored.events:
        # MNE puts zeros there: the clock is right, but nothing was recorded.
        if text.lower() in ("bad_acq_skip", "bad_disconnection"):
            lost[_sample(onset_s, stored) : _sample(onset_s + duration_s, stored)] = True
    found = sorted((_pauses_told(stored) | stored.pauses).items())
    pauses = {at: lost_s for at, lost_s in found if 0 < at < n_times and lost_s}
    for at, lost_s in pauses.items():
        _check_pause(lost_s, at / sfreq_hz, stored.path)
    total_s = sum(pauses.values())
    if total_s > _LONGEST_PAUSE_S or n_times + total_s * sfreq_hz > MAX_SAMPLES:
        said = f"was paused {len(pauses)} times for {total_s:g} s in all, expected at most a day"
        raise ValueError(f"{stored.path} {said}. Correct the times.")
    # Rounded as a sum: the rounding of hundreds of pauses must not add up.
    n_missing = np.diff(np.rint(sfreq_hz * np.cumsum([0.0, *pauses.values()])).astype(int))
    stored.signal_uv[lost] = np.nan
    if len(n_missing):
        places = np.repeat(np.fromiter(pauses, int), n_missing)
        stored.signal_uv = np.insert(stored.signal_uv, places, np.nan)
    return float(lost.sum() + n_missing.sum()) / sfreq_hz


def _sample(onset_s: float, stored: Channel) -> int:
    """The first sample at an event's time or after it; EEGLAB's boundaries lie between two."""
    last_s = len(stored.signal_uv) / stored.sfreq_hz  # a time beyond may be any number
    return int(np.ceil(np.round(min(max(onset_s, 0.0), last_s) * stored.sfreq_hz, 3)))


def _pauses_told(stored: Channel) -> dict[int, float]:
    """Find the pauses that events tell: how many seconds are missing before a sample; NaN if unknown."""
    pauses: dict[int, float] = {}
    numbers = _SEAM_NUMBERS.get(stored.path.suffix.lower(), ())
    for onset_s, duration_s, description in stored.events:
        text = description.lower().replace("_", " ")
        # In BrainVision, a marker has its type before its text, and its duration is not the pause's.
        is_seam = text in numbers or text.rpartition("/")[2].strip() in _SEAMS
        if is_seam or text.startswith("new segment/"):
            is_known = duration_s > 0 and (text == "boundary" or text in numbers)
            is_known &= onset_s + duration_s < stored.cut_s
            at = _sample(onset_s, stored)
            pauses[at] = pauses.get(at, 0.0) + (duration_s if is_known else np.nan)
    return pauses


def _check_pause(lost_s: float, at_s: float, path: Path) -> None:
    if 0 < lost_s <= _LONGEST_PAUSE_S:
        return
    length = f"for {lost_s:g} s by its own times; expected more than 0 s and at most a day. Correct the times"
    if np.isnan(lost_s):
        length = "and it is not known for how long. If you passed a Raw, pass its file, which may say"
    raise ValueError(
        f"{path} was paused {at_s:g} s after its first sample, {length}. Or export it as EDF+D, which keeps "
        "the times; or pass each stretch, raw.copy().crop(begin, end), with a hypnogram of its own."
    )


def _pauses_of_brainvision(places: list[Path], sfreq_hz: float) -> dict[int, float]:
    """Find the pauses from the dates of the segments in the first marker file that is there."""
    markers = next((place.read_text(encoding="latin-1") for place in places if place.is_file()), "")
    segments = {int(position) - 1: date for position, date in _NEW_SEGMENT.findall(markers)}
    dates = pd.Series(segments, dtype=str).sort_index()
    starts = pd.to_datetime(dates, format="%Y%m%d%H%M%S%f", errors="coerce")  # to the microsecond
    lost_s = starts.diff().dt.total_seconds() - np.diff(dates.index, prepend=0) / sfreq_hz
    lost_s[lost_s.between(-_DRIFT_S, _ROUNDING_S, inclusive="neither")] = 0.0
    return lost_s.iloc[1:].to_dict()


def _pauses_of_edf(edf: EdfFile, sfreq_hz: float, first_sample: int = 0) -> dict[int, float]:
    """Find the pauses from the times of the data records, whether the file is marked as paused or not."""
    lost_s = np.diff(edf.record_onsets_s) - edf.record_s
    is_pause = ~(np.abs(lost_s) <= _ROUNDING_S)  # a time that is NaN as well
    drift_s = np.abs(np.cumsum(np.where(is_pause, 0.0, lost_s))).max(initial=0.0)
    if drift_s > _DRIFT_S:
        raise ValueError(
            f"{edf.path}: its records begin {np.median(lost_s) + edf.record_s:.6g} s apart, and the header's "
            f"duration of a data record is {edf.record_s:g} s. Correct it, or export the recording again."
        )
    pauses = {}
    for record in np.flatnonzero(is_pause):
        at = round((record + 1) * edf.record_s * sfreq_hz) - first_sample
        if at <= 0:
            said = f"This Raw begins after a pause of {edf.path}, so its clock is wrong."
            raise ValueError(f"{said} Pass the file's path, and as lights_off where epochs begin.")
        pauses[at] = float(lost_s[record])
    return pauses
