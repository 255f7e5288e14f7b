"""Reading a night: from an EDF file and its hypnogram to 30-s epochs in microvolts at 100 Hz.

The signal is converted from volts to microvolts here and nowhere else, and it gets its rate here, whether it
comes from a file, from MNE or as an array.


The one real night that ships inside the package, and what the names of such files say."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import mne
import numpy as np
import pandas as pd

from ..files import DATA_DIR
from ..stages import STAGE_CODES, STAGES, UNSCORED
from .edf import explaining_damage, open_channel
from .hypnogram import EPOCH_S, align_stages, seconds_to_lights_off
from .pauses import lay_by_clock
from .quality import amplitude_note, check_unit, epoch_quality, offset_note

SFREQ_HZ: float = 100.0
"""The sampling rate of every `Recording`: features depend on it, and so does what learned from them."""


N_SAMPLES: int = round(EPOCH_S * SFREQ_HZ)


MIN_SFREQ_HZ: float = 64.0
"""Below this rate, part of the beta band (13-30 Hz) is lost to the anti-aliasing filter."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One night of one channel, cut into epochs of 30 s that follow each other.

    A signal at another rate is resampled to 100 Hz when the recording is made, with a warning and a note.

    Attributes
    ----------
    eeg_uv : numpy.ndarray, float32, shape (n_epochs, n_samples)
        The signal in microvolts; ``n_samples`` is 30 s at ``sfreq_hz``. NaN where nothing was recorded.
    sfreq_hz : float
        Sampling rate in Hz: of the array that is given, at least 64; then 100.
    stages : numpy.ndarray, int8, shape (n_epochs,), or None
        The expert's stage of each epoch by its code (see `sleepstage.stages`), -1 where unscored;
        None if nobody scored the night.
    subject : int or str
        The person. Both nights of a person carry the same value.
    recording : str
        The night.
    channel : str
        The derivation, for example ``"EEG Fpz-Cz"``.
    start : datetime.datetime or None
        When the first epoch began, by the recorder's clock (no time zone), if known.
    notes : tuple of str
        What was done to the data on the way here, and what about them is unusual.
    quality : numpy.ndarray of str, shape (n_epochs,), or None
        What :func:`sleepstage.recordings.quality.epoch_quality` says of the signal as it was recorded, if it
        was resampled since: resampling smoothes clipping away, and spreads a lone NaN. None if it was not.

    Raises
    ------
    ValueError
        If shapes, sampling rate and stages do not fit together, the rate is below 64 Hz, or the amplitude
        shows that the signal is not in microvolts.
    """

    eeg_uv: np.ndarray = field(repr=False)
    sfreq_hz: float
    stages: np.ndarray | None = field(repr=False)
    subject: int | str
    recording: str
    channel: str
    start: datetime | None = None
    notes: tuple[str, ...] = field(default=(), repr=False)
    quality: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # The dataclass is frozen for its users; arrays are brought to their contract's type once, here.
        object.__setattr__(self, "eeg_uv", _checked_signal(self.eeg_uv, self.sfreq_hz))
        if not _is_100_hz(self.sfreq_hz):
            signal_uv, rate_hz = self.eeg_uv.ravel(), self.eeg_uv.shape[1] / EPOCH_S
            eeg_uv, quality, note = _resampled(signal_uv, rate_hz, f"recording {self.recording!r}")
            object.__setattr__(self, "eeg_uv", eeg_uv)
            object.__setattr__(self, "quality", quality if self.quality is None else self.quality)
            object.__setattr__(self, "notes", (*self.notes, note))
            object.__setattr__(self, "sfreq_hz", SFREQ_HZ)
        check_unit(self.eeg_uv, f"recording {self.recording!r}")
        if self.stages is not None:
            object.__setattr__(self, "stages", _checked_stages(self.stages, self.n_epochs))
        if self.quality is not None and np.shape(self.quality) != (self.n_epochs,):
            raise ValueError(
                f"quality has shape {np.shape(self.quality)}, expected ({self.n_epochs},): one word an epoch."
            )

    @property
    def n_epochs(self) -> int:
        """Number of epochs."""
        return len(self.eeg_uv)

    def clock_times(self) -> pd.DatetimeIndex | None:
        """When each epoch began, or None if the recording's start is unknown."""
        if self.start is None:
            return None
        return pd.date_range(self.start, periods=self.n_epochs, freq=f"{EPOCH_S}s")


def load_demo() -> Recording:
    """Read the shipped night: Fpz-Cz of SC4001E0, 841 epochs scored by an expert.

    Returns
    -------
    Recording
        Subject 0, recording ``"SC4001E0"``.

    Raises
    ------
    FileNotFoundError
        If the package's data are missing or damaged.
    """
    psg, hypnogram = demo_paths()
    return read_recording(psg, hypnogram, subject=0, recording="SC4001E0")


def read_recording(
    psg: str | Path | mne.io.BaseRaw,
    hypnogram: str | Path | None = None,
    channel: str = "EEG Fpz-Cz",
    wake_margin_min: float | None = 30,
    subject: int | str | None = None,
    recording: str | None = None,
    lights_off: str | float | None = None,
    gain: float = 1.0,
) -> Recording:
    """Read one channel of a night, and its hypnogram if there is one.

    A signal at another rate is resampled to 100 Hz, with a warning. The hypnogram is aligned by the
    start times in both files' headers; epochs that it does not cover, movement time and ``?`` are unscored
    (-1), and what it scores outside the signal is ignored, with a warning. A trailing partial epoch is
    dropped. Where the recording was paused, its samples are NaN, so that clock and stages are right on both
    sides. All that was done stands in the recording's ``notes``.

    Parameters
    ----------
    psg : path or mne.io.BaseRaw
        The polysomnogram: EDF, EDF+ or BDF, or BrainVision (``.vhdr``), EEGLAB (``.set``), MNE (``.fif``),
        GDF or Neuroscan (``.cnt``; where MNE cannot tell the width of its samples, export it as EDF). Or
        what MNE has opened already; it is not changed.
    hypnogram : path, optional
        An EDF+ file whose annotations are the stages (see `sleepstage.stages.ANNOTATION_CODES`), or text
        (``.csv``, ``.tsv``, ``.txt``): a table with the columns onset, duration (in seconds) and stage, or
        one stage a line.
    channel : str
        The channel's name as it stands in the file; only this one is loaded.
    wake_margin_min : float or None
        Minutes kept before the first and after the last epoch that the hypnogram scores as sleep;
        None keeps everything. Without a hypnogram, or without sleep in it, everything is kept.
    subject, recording : optional
        Who and which night. By default from the name of a Sleep-EDF file (``SC4012E0-PSG.edf`` is
        subject 1, recording ``"SC4012E0"``), otherwise the file's stem for both; so name the
        subject when several nights are of one person. A BIDS name gives the subject too. What comes from no
        file is ``"unnamed"``.
    lights_off : str or float, optional
        Where epochs are counted from, if not from the first sample: the time of day by the recorder's clock
        (``"22:31:17"``), or seconds from the first sample. What came before is left out. A hypnogram without
        times begins there; one with times keeps its own.
    gain : float
        What the file's values are multiplied by: for a header that gives a wrong unit, or an amplifier's
        gain that was not taken off.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file is of no known format or cannot be read; if it was paused and nothing says for how long; if
        the channel is unknown; if the rate is below 64 Hz; if there is less than one epoch; if the amplitude
        shows that the unit is wrong; if lights-off is outside the recording; if the hypnogram holds unknown
        stages, does not fit the signal's 30-s grid or does not overlap with it.
    """
    if wake_margin_min is not None and not wake_margin_min >= 0:
        raise ValueError(
            f"wake_margin_min is {wake_margin_min!r}, expected minutes >= 0, or None to keep all."
        )
    if not 1e-9 <= abs(gain) <= 1e9:
        raise ValueError(
            f"gain is {gain!r}, expected a factor such as 1e-6 for microvolts labelled as volts."
        )
    if not isinstance(psg, mne.io.BaseRaw):
        psg = Path(psg)
    raw, notes = open_channel(psg, channel)
    path = Path(raw.filenames[0] or "unnamed") if raw is psg else psg
    start = _start(raw)
    lights_off_s = None if lights_off is None else seconds_to_lights_off(lights_off, start)
    eeg_uv, quality, done = _read_epochs(raw, channel, path, lights_off_s or 0.0, gain)
    stages, marked, about_stages = None, np.zeros(len(eeg_uv), dtype=bool), []
    if hypnogram is not None:
        stages, marked, about_stages = align_stages(Path(hypnogram), start, len(eeg_uv), lights_off_s)
    kept = _without_long_wake(stages, len(eeg_uv), wake_margin_min)
    notes += done + about_stages + _notes_on_epochs(eeg_uv, stages, marked, kept)
    default_subject, default_recording = _identity(path)
    begin_s = (lights_off_s or 0.0) + EPOCH_S * kept.start
    return Recording(
        eeg_uv=eeg_uv[kept],
        sfreq_hz=SFREQ_HZ,
        stages=None if stages is None else stages[kept],
        subject=default_subject if subject is None else subject,
        recording=default_recording if recording is None else recording,
        channel=channel,
        # MNE labels the recorder's local clock as UTC.
        start=None if start is None else start.replace(tzinfo=None) + timedelta(seconds=begin_s),
        notes=tuple(notes),
        quality=None if quality is None else quality[kept],
    )


def _checked_signal(eeg_uv: np.ndarray, sfreq_hz: float) -> np.ndarray:
    eeg_uv = np.asarray(eeg_uv, dtype=np.float32)
    if not 0 < sfreq_hz < np.inf:
        raise ValueError(f"sfreq_hz is {sfreq_hz!r}, expected samples a second, 100 for example.")
    n_samples = round(EPOCH_S * sfreq_hz)
    if eeg_uv.ndim != 2 or len(eeg_uv) == 0 or eeg_uv.shape[1] != n_samples:
        raise ValueError(
            f"eeg_uv has shape {eeg_uv.shape}, expected (n_epochs, {n_samples}) with n_epochs >= 1: "
            f"epochs of {EPOCH_S} s at {sfreq_hz:g} Hz."
        )
    return eeg_uv


def _checked_stages(stages: np.ndarray, n_epochs: int) -> np.ndarray:
    stages = np.asarray(stages)
    if stages.shape != (n_epochs,):
        raise ValueError(f"stages has shape {stages.shape}, expected ({n_epochs},): one stage an epoch.")
    strange = np.setdiff1d(stages, [UNSCORED, *STAGE_CODES.values()])
    if len(strange):
        raise ValueError(
            f"stages holds {strange.tolist()}, expected codes 0 to {len(STAGES) - 1} for {', '.join(STAGES)} "
            f"and {UNSCORED} for unscored."
        )
    return stages.astype(np.int8)


def _identity(psg: Path) -> tuple[int | str, str]:
    """Subject and recording by the file's name."""
    person = person_in_name(psg.stem)
    return psg.stem if person is None else person, psg.stem.removesuffix("-PSG")


def _start(raw: mne.io.BaseRaw) -> datetime | None:
    """When the first sample was taken; in MNE's own format that is not where the measurement began."""
    began = raw.info["meas_date"]
    return None if began is None else began + timedelta(seconds=raw.first_time)


def _read_epochs(
    raw: mne.io.BaseRaw, channel: str, path: Path, begin_s: float, gain: float
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Epochs in microvolts (n_epochs, n_samples), their quality if it must be known now, and notes."""
    sfreq_hz = raw.info["sfreq"]
    with explaining_damage(path):
        signal_uv = 1e6 * gain * raw.get_data([channel], verbose="error")[0]
    signal_uv, notes = lay_by_clock(signal_uv, raw, path)
    for note in notes:
        warnings.warn(f"{path}: {note}.", stacklevel=3)
    _check_begin(len(signal_uv) / sfreq_hz, begin_s, path, _start(raw))
    if begin_s:
        notes.append(f"epochs are counted from lights-off; the {begin_s:g} s before it are left out")
        signal_uv = signal_uv[round(begin_s * sfreq_hz) :]
    if gain != 1:
        notes.append(f"the file's values are multiplied by {gain:g}, as asked")
    if _is_100_hz(sfreq_hz):
        eeg_uv, quality = _whole_epochs(signal_uv), None
    else:
        eeg_uv, quality, note = _resampled(signal_uv, sfreq_hz, path)
        notes.append(note)
    left_s = round(len(signal_uv) / sfreq_hz - EPOCH_S * len(eeg_uv), 2)
    if left_s > 0:
        notes.append(f"the last {left_s:g} s are no whole epoch and are left out")
    return eeg_uv, quality, notes


def _check_begin(duration_s: float, begin_s: float, path: Path, start: datetime | None) -> None:
    """Refuse a recording of which less than an epoch is left."""
    if 0 <= begin_s <= duration_s - EPOCH_S + 1e-6:  # rounding at odd rates
        return
    if begin_s == 0:
        raise ValueError(
            f"{path} holds {duration_s:g} s only, expected {EPOCH_S} s (one epoch) or more. "
            "Check that this is the whole recording."
        )
    raise ValueError(
        f"lights_off is {begin_s:g} s after the start of {path} ({start}), which holds {duration_s:g} "
        "s; expected 0 s to one epoch before its end. Check clock and date."
    )


def _whole_epochs(signal_uv: np.ndarray) -> np.ndarray:
    """Of a signal at 100 Hz, float32 (n_epochs, n_samples)."""
    n_epochs = len(signal_uv) // N_SAMPLES
    return signal_uv[: n_epochs * N_SAMPLES].astype(np.float32).reshape(n_epochs, N_SAMPLES)


def _resampled(
    signal_uv: np.ndarray, sfreq_hz: float, path: str | Path
) -> tuple[np.ndarray, np.ndarray, str]:
    """Epochs at 100 Hz of a signal at another rate, NaN where one was lost; their quality before; a note."""
    _check_rate(sfreq_hz, path)
    finite = np.isfinite(signal_uv)
    bridged_uv = np.zeros(len(signal_uv))
    if finite.any():  # one NaN would become a night of them, and a jump to 0 would ring in its neighbours
        bridged_uv = np.interp(np.arange(len(finite)), np.flatnonzero(finite), signal_uv[finite])
    eeg_uv = _whole_epochs(mne.filter.resample(bridged_uv, SFREQ_HZ, sfreq_hz, npad="auto", verbose="error"))
    quality = epoch_quality(_cut_at(signal_uv, len(eeg_uv), EPOCH_S * sfreq_hz))
    eeg_uv[quality == "nan"] = np.nan
    return eeg_uv, quality, f"resampled from {sfreq_hz:g} to {SFREQ_HZ:g} Hz"


def _cut_at(signal: np.ndarray, n_epochs: int, epoch_samples: float) -> np.ndarray:
    """Epochs of a signal of which 30 s may be no whole number of samples: (n_epochs, n_samples)."""
    n_samples = int(epoch_samples)
    starts = np.minimum(np.rint(epoch_samples * np.arange(n_epochs)).astype(int), len(signal) - n_samples)
    return np.stack([signal[start : start + n_samples] for start in starts])


def _is_100_hz(sfreq_hz: float) -> bool:
    return bool(np.isclose(sfreq_hz, SFREQ_HZ, rtol=1e-9))


def _check_rate(sfreq_hz: float, path: str | Path) -> None:
    if not MIN_SFREQ_HZ <= sfreq_hz < np.inf:
        raise ValueError(
            f"{path} was sampled at {sfreq_hz:g} Hz, expected {SFREQ_HZ:g} Hz or at least {MIN_SFREQ_HZ:g}: "
            "the beta band (13-30 Hz) is not in it. Choose another channel or export it at a higher rate."
        )
    lost = f" Nothing above {sfreq_hz / 2:g} Hz is in it." if sfreq_hz < SFREQ_HZ else ""
    warnings.warn(
        f"{path} was sampled at {sfreq_hz:g} Hz and is resampled to {SFREQ_HZ:g} Hz.{lost}", stacklevel=5
    )


def _notes_on_epochs(
    eeg_uv: np.ndarray, stages: np.ndarray | None, marked: np.ndarray, kept: slice
) -> list[str]:
    """What was cut, what has no stage, and what lies under the signal."""
    after = len(eeg_uv) - kept.stop
    notes = []
    if kept.start or after:
        notes.append(f"{kept.start} epochs before the night and {after} after it are left out")
    n_marked = np.count_nonzero(marked[kept])
    n_outside = 0 if stages is None else np.count_nonzero(stages[kept] == UNSCORED) - n_marked
    if n_marked:
        notes.append(f"{n_marked} epochs are movement time or '?': kept as -1")
    if n_outside:
        notes.append(f"{n_outside} epochs are not in the hypnogram: kept as -1")
    about_values = (amplitude_note(eeg_uv[kept]), offset_note(eeg_uv[kept]))
    return notes + [note for note in about_values if note]


def _without_long_wake(stages: np.ndarray | None, n_epochs: int, margin_min: float | None) -> slice:
    """The epochs from `margin_min` before the first to `margin_min` after the last epoch of sleep."""
    sleep = np.array([]) if stages is None else np.flatnonzero(stages > STAGE_CODES["W"])
    if margin_min is None or len(sleep) == 0:
        return slice(0, n_epochs)
    margin = int(margin_min * 60 // EPOCH_S)
    return slice(max(0, int(sleep[0]) - margin), min(n_epochs, int(sleep[-1]) + 1 + margin))


# Sleep-EDF's SC4ssNE0: ss is the person, N the night, E0 the equipment; ST7ssNJ0 is the same of other people.
_SLEEP_EDF_NAME = re.compile(r"(?P<study>SC4|ST7)(?P<subject>\d\d)\d[A-Z]\d")


_BIDS_NAME = re.compile(r"sub-(?P<subject>[A-Za-z0-9]+)_ses-")


_DEMO_PSG = ("SC4001E0-PSG.edf", 10_092_768)


_DEMO_HYPNOGRAM = ("SC4001EC-Hypnogram.edf", 4_336)


def demo_paths() -> tuple[Path, Path]:
    """Paths of the shipped night: its polysomnogram and its expert hypnogram.

    The night is SC4001 of Sleep-EDF Expanded (Kemp et al., 2000; Goldberger et al., 2000, ODC-By 1.0).

    Returns
    -------
    psg, hypnogram : pathlib.Path
        Two EDF files.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing, or not of the size that it was shipped with.
    """
    return _complete_file(*_DEMO_PSG), _complete_file(*_DEMO_HYPNOGRAM)


def person_in_name(recording: str) -> int | str | None:
    """Say who slept, where the name of a recording's file reveals it.

    Returns
    -------
    int, str or None
        1 for ``"SC4012E0-PSG"``, ``"ST01"`` for ``"ST7011J0"`` (other people, so no number of their own),
        ``"anna"`` for BIDS's ``"sub-anna_ses-2_eeg"``; None where the name says nothing.
    """
    if named := _SLEEP_EDF_NAME.match(recording):
        return int(named["subject"]) if named["study"] == "SC4" else f"ST{named['subject']}"
    named = _BIDS_NAME.match(recording)
    return named["subject"] if named else None


def _complete_file(name: str, n_bytes: int) -> Path:
    path = DATA_DIR / name
    if not path.is_file():
        raise FileNotFoundError(
            f"The shipped night is incomplete: there is no {path}, expected a file of {n_bytes:,} bytes. "
            "Install the package again (`pip install --force-reinstall --no-deps sleepstage`, "
            "or `git checkout` of that file in a clone)."
        )
    if path.stat().st_size != n_bytes:
        raise FileNotFoundError(
            f"The shipped night is damaged: {path} has {path.stat().st_size:,} bytes, expected {n_bytes:,}. "
            "Delete it and install the package again, or `git checkout` that file in a clone."
        )
    return path
