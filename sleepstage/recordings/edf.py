"""EDF, EDF+ and BDF files by their published layout: the header, one signal, annotations, times of records.

Kemp et al. (1992) and Kemp & Olivan (2003), https://www.edfplus.info/specs. We do not read them through MNE:
it drops the fraction of a second at which a recording began and the times that tell where it was paused, and
it believes a header that contradicts itself.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

SUFFIXES: tuple[str, ...] = (".edf", ".bdf")

MAX_SAMPLES: int = 100_000_000
"""Of one channel: 54 h at 512 Hz. What is longer is a false header, and would fill the memory."""

MAX_EVENTS: int = 100_000
"""Of one file, stages among them: one a second for a day."""

_MAX_ANNOTATION_BYTES = 64_000_000  # a day in records of 0.1 s, 70 bytes each

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"\s*(\d\d?)\D\s*(\d\d?)\D\s*(\d\d?)\s*", re.ASCII)  # and a time
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_FULL_DATE = re.compile(rf"Startdate (\d\d)-({'|'.join(_MONTHS)})-(\d{{4}})\b", re.ASCII | re.IGNORECASE)

# A time-stamped list: an onset, perhaps a duration, then texts. The first onset in a record is its time.
_LIST = re.compile(rb"([+-]\d+\.?\d*)(?:\x15(\d+\.?\d*))?\x14((?:[^\x14\0]*\x14)*)(?:\0+|\Z)")
_RECORD_TIME = re.compile(rb"([+-]\d+\.?\d*(?:e[+-]?\d+)?)[\x14\x15]")

# Microvolts in ASCII, Latin-1 and, as Latin-1 shows it, UTF-8 (micro sign and Greek mu). The rest is volts.
_IN_MICROVOLTS = dict.fromkeys(("uV", "uv", "UV", "µV", "ÂµV", "Î¼V"), 1.0) | {"mV": 1e3, "nV": 1e-3}


class Event(NamedTuple):
    """An annotation; its duration is NaN if it has none."""

    onset_s: float
    duration_s: float
    text: str


def as_number(text: str) -> float:
    """Read a number as laboratories' files write it; Python alone takes ``1_0`` for 10, and ``inf``."""
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text.strip()!r} is no number, expected one as in 30.5")
    return float(text)


class EdfFile:
    """An EDF, EDF+ or BDF file, its header checked as far as it is used.

    Attributes
    ----------
    path : pathlib.Path
    channels : list of str
        The names of its signals. A name that occurs twice is numbered as MNE does it: ``C3-0``, ``C3-1``.

    Raises
    ------
    ValueError
        If the file is not EDF, or ends within its header. If a field of the header cannot be: the message
        names the field, what it holds and what was expected. Some are read and checked only when they are
        asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._is_bdf = path, path.suffix.lower() == ".bdf"
        magic = b"\xffBIOSEMI" if self._is_bdf else b"0       "
        with path.open("rb") as file:
            header = file.read(256)
            if len(header) < 256 or not header.startswith(magic):
                said = f"it begins with {header[:16]!r}, expected {magic!r} and a header of 256 bytes"
                raise ValueError(f"{path} is not an EDF file: {said}. Fetch it again.")
            self._header = header.decode("latin-1")
            n_signals = self._count("number of signals", self._header[252:256])
            fields = file.read(256 * n_signals).decode("latin-1")
        self._n_header = 256 * (n_signals + 1)
        n_header = self._count("size of the header", self._header[184:192])
        if n_header != self._n_header:
            self._refuse("size of the header", n_header, f"{self._n_header} bytes for {n_signals} signals")
        if len(fields) < 256 * n_signals:
            raise ValueError(f"{path} is truncated or damaged: it ends within its header. Fetch it again.")
        columns, place = [], 0
        for width in (16, 80, 8, 8, 8, 8, 8, 80, 8, 32):
            columns.append([fields[place + width * i :][:width].strip() for i in range(n_signals)])
            place += width * n_signals
        self._labels, _, self._units, *self._extremes, _, counts, _ = columns
        self._n_samples = [self._count("number of samples in a data record", text) for text in counts]
        self._notes = [i for i, label in enumerate(self._labels) if label.endswith("DF Annotations")]
        self._signals = [i for i in range(n_signals) if i not in self._notes]
        names = [self._labels[i] for i in self._signals]
        self.channels = [
            f"{name}-{names[:i].count(name)}" if names.count(name) > 1 else name
            for i, name in enumerate(names)
        ]

    @cached_property
    def record_s(self) -> float:
        """How long a data record lasts, in seconds; a file of annotations alone may say 0."""
        record_s = self._number("duration of a data record", self._header[244:252])
        if not 0 < record_s <= 86_400:
            self._refuse("duration of a data record", self._header[244:252], "seconds above 0")
        return record_s

    @cached_property
    def stated_start(self) -> datetime | None:
        """The header's start in whole seconds, the recorder's clock labelled as UTC; None if it gives none.

        Annotations count from it.
        """
        date, clock = self._header[168:176], self._header[176:184]
        of_day, of_year = _DATE.fullmatch(clock), _DATE.fullmatch(date)
        full = _FULL_DATE.match(self._header[88:168])
        if not of_day or not (full or of_year and date != "00.00.00"):  # anonymous
            return None
        if of_year:
            day, month, year = map(int, of_year.groups())
            year += 1900 if year >= 85 else 2000
        if full:
            fully = int(full[1]), 1 + _MONTHS.index(full[2].upper()), int(full[3])
            if of_year and fully != (day, month, year):
                self._refuse("start date", date, f"that of its recording field, {full[0]!r}")
            day, month, year = fully
        try:
            midnight = datetime(year, month, day, tzinfo=UTC)
        except ValueError:
            self._refuse("start date", full[0] if full else date, "a day of the calendar, as in 31.12.24")
        hour, minute, second = map(int, of_day.groups())
        if max(hour - 23, minute - 59, second - 59) > 0:
            self._refuse("start time", clock, "hours to 23, minutes and seconds to 59, as in 22.31.17")
        return midnight + timedelta(hours=hour, minutes=minute, seconds=second)

    @cached_property
    def record_onsets_s(self) -> NDArray[np.float64]:
        """When each data record began, in seconds from `stated_start`, (n_records,); NaN where it is unsaid.

        Empty if the file says nothing about it, which only one without pauses may.
        """
        is_paused = self._header[192:197] in ("EDF+D", "BDF+D")
        if is_paused and not self._notes:
            lack = "is marked as discontinuous, and has no annotations that tell when each data record began"
            raise ValueError(f"{self.path} {lack}. Export it again as EDF+C or EDF+D.")
        said = [_RECORD_TIME.match(record) for record in self._annotation_bytes(self._notes[:1])]
        onsets_s = np.array([float(time[1]) if time else np.nan for time in said])
        # Some programs write no times into files without pauses, or 0 for all.
        is_said = is_paused or (len(onsets_s) > 0 and np.isfinite(onsets_s).all() and np.ptp(onsets_s) > 0)
        return onsets_s if is_said or len(onsets_s) == 1 else onsets_s[:0]

    @cached_property
    def first_onset_s(self) -> float:
        """When the first data record began, in seconds from `stated_start`: often a fraction of one."""
        first_s = float(self.record_onsets_s[0]) if len(self.record_onsets_s) else 0.0
        if not 0 <= first_s <= 86_400:
            self._refuse("first record's time", first_s, "seconds from the header's start, at most a day")
        return first_s

    def n_records(self) -> tuple[int, float]:
        """How many data records the file holds, and how many its header announces (NaN if unknown)."""
        announced = self._number("number of data records", self._header[236:244])
        return len(self._records()), announced if announced >= 0 else np.nan

    def signal_uv(self, channel: str) -> tuple[NDArray[np.float32], float]:
        """Read one channel in µV, (n_times,), and its sampling rate in Hz."""
        place = self._signals[self.channels.index(channel)]
        n_samples = self._n_samples[place]
        if n_samples == 0:
            self._refuse(f"number of samples of {channel!r} in a data record", 0, "1 or more")
        kinds = "physical minimum", "physical maximum", "digital minimum", "digital maximum"
        low, high, digital_low, digital_high = (
            self._number(f"{kind} of {channel!r}", values[place])
            for kind, values in zip(kinds, self._extremes, strict=True)
        )
        if low == high or abs(digital_high - digital_low) < 1:
            self._refuse(
                f"scale of {channel!r}",
                f"{low:g} to {high:g} for stored {digital_low:g} to {digital_high:g}",
                "a minimum and a maximum that differ. Correct the header",
            )
        records, width = self._records(), 3 if self._is_bdf else 2
        if len(records) * n_samples > MAX_SAMPLES:
            self._refuse("number of samples", len(records) * n_samples, f"at most {MAX_SAMPLES}")
        first = width * sum(self._n_samples[:place])
        stored = np.ascontiguousarray(records[:, first : first + width * n_samples])
        if self._is_bdf:
            upper = np.zeros((stored.size // 3, 4), np.uint8)
            upper[:, 1:] = stored.reshape(-1, 3)
            digital = upper.view("<i4")[:, 0] >> 8  # keeps the sign
        else:
            digital = stored.view("<i2").ravel()
        in_uv = _IN_MICROVOLTS.get(self._units[place], 1e6)
        scale = in_uv * (high - low) / (digital_high - digital_low)
        signal_uv = digital * scale
        signal_uv += in_uv * low - digital_low * scale
        return signal_uv.astype(np.float32), n_samples / self.record_s

    def events(self) -> list[Event]:
        """Read the annotations with a text; their onsets count from `stated_start`."""
        events: list[Event] = []
        for record in self._annotation_bytes(self._notes):
            for onset, duration, texts in _LIST.findall(record):
                for text in filter(None, texts.split(b"\x14")):
                    events.append(Event(float(onset), float(duration or "nan"), _decoded(text)))
            if len(events) > MAX_EVENTS:
                self._refuse("number of annotations", f"more than {MAX_EVENTS}", "those of one night")
        return events

    def check_annotations(self) -> None:
        """Refuse annotations that are damaged or cut off: where they are stages, none may be lost."""
        present, announced = self.n_records()
        if present < announced:
            said = f"it holds {present} of the {announced:g} data records that its header announces"
            raise ValueError(f"{self.path} is truncated: {said}. Fetch it again.")
        for record in self._annotation_bytes(self._notes):
            if rest := _LIST.sub(b"", record).strip(b"\0"):
                raise ValueError(f"{self.path} is damaged: {rest[:40]!r} is no annotation. Fetch it again.")

    def _records(self) -> NDArray[np.uint8]:
        """The data records that the file holds whole, (n_records, n_bytes)."""
        n_bytes = (3 if self._is_bdf else 2) * sum(self._n_samples)
        n_records = (self.path.stat().st_size - self._n_header) // n_bytes if n_bytes else 0
        if n_records == 0:
            return np.empty((0, n_bytes), np.uint8)
        return np.memmap(self.path, np.uint8, "r", self._n_header, (n_records, n_bytes)).view(np.ndarray)

    def _annotation_bytes(self, places: list[int]) -> Iterator[bytes]:
        """What these signals of annotations hold, record by record."""
        records, width = self._records(), 3 if self._is_bdf else 2
        if len(records) * width * sum(self._n_samples[i] for i in places) > _MAX_ANNOTATION_BYTES:
            self._refuse("size of the annotations", "more", f"at most {_MAX_ANNOTATION_BYTES} bytes")
        for place in places:
            first = width * sum(self._n_samples[:place])
            for record in records[:, first : first + width * self._n_samples[place]]:
                yield record.tobytes()

    def _count(self, field: str, text: str) -> int:
        if not (text.strip().isascii() and text.strip().isdecimal()):
            self._refuse(field, text, "a whole number")
        return int(text)

    def _number(self, field: str, text: str) -> float:
        try:
            value = as_number(text)
        except ValueError:
            value = np.inf
        if not abs(value) < 1e15:  # eight characters write no sensible number beyond
            self._refuse(field, text, "a number")
        return value

    def _refuse(self, field: str, found: object, expected: str) -> NoReturn:
        found = repr(found.strip()) if isinstance(found, str) else found
        raise ValueError(f"{self.path}: the header's {field} is {found}, expected {expected}.")


def _decoded(text: bytes) -> str:
    """The standard wants UTF-8; older programs write Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
