"""Reading a night: from an EDF file and its hypnogram to 30-s epochs in microvolts.

The signal is converted from volts to microvolts here and nowhere else.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import mne
import numpy as np
import pandas as pd

from .download import demo_paths
from .edf import open_channel
from .hypnogram import EPOCH_S, align_stages
from .stages import STAGE_CODES, STAGES, UNSCORED

SFREQ_HZ: float = 100.0
"""The sampling rate that everything after reading expects."""

MIN_SFREQ_HZ: float = 64.0
"""Below this rate, part of the beta band (13-30 Hz) is lost to the anti-aliasing filter."""

PLAUSIBLE_PEAK_TO_PEAK_UV: tuple[float, float] = (1.0, 5000.0)
"""Bounds of a night's median peak-to-peak amplitude; outside of them the unit must be wrong."""

# SC4ssNEO-PSG.edf: ss is the person, N the night, E and O the equipment; ST7… the same, of other people.
_SLEEP_EDF_NAME = re.compile(r"(?P<recording>(?P<study>SC4|ST7)(?P<subject>\d\d)\d[A-Z]\d)-PSG")


@dataclass(frozen=True, eq=False)
class Recording:
    """One night of one channel, cut into epochs of 30 s.

    Attributes
    ----------
    eeg_uv : numpy.ndarray, float32, shape (n_epochs, n_samples)
        The signal in microvolts; ``n_samples`` is 30 s at ``sfreq_hz``.
    sfreq_hz : float
        Sampling rate in Hz.
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

    Raises
    ------
    ValueError
        If shapes, sampling rate and stages do not fit together.
    """

    eeg_uv: np.ndarray = field(repr=False)
    sfreq_hz: float
    stages: np.ndarray | None = field(repr=False)
    subject: int | str
    recording: str
    channel: str
    start: datetime | None = None

    def __post_init__(self) -> None:
        # The dataclass is frozen for its users; arrays are brought to their contract's type once, here.
        object.__setattr__(self, "eeg_uv", _checked_signal(self.eeg_uv, self.sfreq_hz))
        if self.stages is not None:
            object.__setattr__(self, "stages", _checked_stages(self.stages, self.n_epochs))

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
    psg: str | Path,
    hypnogram: str | Path | None = None,
    channel: str = "EEG Fpz-Cz",
    wake_margin_min: float | None = 30,
    subject: int | str | None = None,
    recording: str | None = None,
) -> Recording:
    """Read one channel of a night, and its hypnogram if there is one.

    A signal at another rate is resampled to 100 Hz, with a warning. The hypnogram is aligned by the
    start times in both files' headers; epochs that it does not cover are unscored (-1), and what it
    scores outside the signal is ignored, with a warning. A trailing partial epoch is dropped.

    Parameters
    ----------
    psg : path
        The polysomnogram, EDF, EDF+ or BDF.
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
        subject when several nights are of one person.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file is not EDF, cannot be read or has gaps; if the channel is unknown; if the rate is
        below 64 Hz; if there is less than one epoch; if the amplitude shows that the unit is wrong; if the
        hypnogram holds unknown stages, does not fit the signal's 30-s grid or does not overlap with it.
    """
    if wake_margin_min is not None and not wake_margin_min >= 0:
        raise ValueError(
            f"wake_margin_min is {wake_margin_min!r}, expected minutes >= 0, or None to keep all."
        )
    raw = open_channel(Path(psg), channel)
    eeg_uv = _epochs_uv(_at_100_hz(raw, psg), psg)
    start = raw.info["meas_date"]
    stages = None if hypnogram is None else align_stages(Path(hypnogram), start, len(eeg_uv))
    kept = _without_long_wake(stages, len(eeg_uv), wake_margin_min)
    check_unit(eeg_uv[kept], psg)
    default_subject, default_recording = _identity(Path(psg))
    return Recording(
        eeg_uv=eeg_uv[kept],
        sfreq_hz=SFREQ_HZ,
        stages=None if stages is None else stages[kept],
        subject=default_subject if subject is None else subject,
        recording=default_recording if recording is None else recording,
        channel=channel,
        # MNE labels the recorder's local clock as UTC.
        start=None if start is None else start.replace(tzinfo=None) + timedelta(seconds=EPOCH_S * kept.start),
    )


def _checked_signal(eeg_uv: np.ndarray, sfreq_hz: float) -> np.ndarray:
    eeg_uv = np.asarray(eeg_uv, dtype=np.float32)
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
    named = _SLEEP_EDF_NAME.fullmatch(psg.stem)
    if named is None:
        return psg.stem, psg.stem
    subject = int(named["subject"]) if named["study"] == "SC4" else f"ST{named['subject']}"
    return subject, named["recording"]


def _at_100_hz(raw: mne.io.BaseRaw, path: str | Path) -> mne.io.BaseRaw:
    sfreq_hz = raw.info["sfreq"]
    if np.isclose(sfreq_hz, SFREQ_HZ, rtol=1e-9):
        return raw
    if sfreq_hz < MIN_SFREQ_HZ:
        raise ValueError(
            f"{path} was sampled at {sfreq_hz:g} Hz, expected {SFREQ_HZ:g} Hz or at least {MIN_SFREQ_HZ:g}: "
            "the beta band (13-30 Hz) is not in it. Choose another channel or export it at a higher rate."
        )
    lost = f" Nothing above {sfreq_hz / 2:g} Hz is in it." if sfreq_hz < SFREQ_HZ else ""
    warnings.warn(
        f"{path} was sampled at {sfreq_hz:g} Hz and is resampled to {SFREQ_HZ:g} Hz.{lost}", stacklevel=3
    )
    return raw.load_data(verbose="error").resample(SFREQ_HZ, verbose="error")


def _epochs_uv(raw: mne.io.BaseRaw, path: str | Path) -> np.ndarray:
    n_samples = round(EPOCH_S * SFREQ_HZ)
    n_epochs = raw.n_times // n_samples
    if n_epochs == 0:
        raise ValueError(
            f"{path} holds {raw.n_times / SFREQ_HZ:g} s only, expected {EPOCH_S} s (one epoch) or more. "
            "Check that this is the whole recording."
        )
    volts = raw.get_data(stop=n_epochs * n_samples, verbose="error")
    return (volts * 1e6).astype(np.float32).reshape(n_epochs, n_samples)


def check_unit(eeg_uv: np.ndarray, path: str | Path) -> None:
    """Refuse a night whose amplitude no EEG in microvolts has.

    Raises
    ------
    ValueError
        If the median peak-to-peak amplitude of its epochs is outside `PLAUSIBLE_PEAK_TO_PEAK_UV`.
    """
    low, high = PLAUSIBLE_PEAK_TO_PEAK_UV
    complete = eeg_uv[np.isfinite(eeg_uv).all(axis=1)]
    if len(complete) == 0:
        return  # nothing to judge by; the features' quality column will say so
    amplitude_uv = np.median(np.ptp(complete, axis=1))
    if low <= amplitude_uv <= high:
        return
    cause = (
        "Probably volts were stored as if they were microvolts, or the electrode was not connected"
        if amplitude_uv < low
        else "Probably microvolts were stored as if they were volts, or the header names no unit"
    )
    raise ValueError(
        f"{path} has a median peak-to-peak amplitude of {amplitude_uv:.3g} uV, "
        f"expected {low:g} to {high:g} uV. {cause}: "
        "correct it where it was made: the physical dimension and range in an EDF header, or the array."
    )


def _without_long_wake(stages: np.ndarray | None, n_epochs: int, margin_min: float | None) -> slice:
    """The epochs from `margin_min` before the first to `margin_min` after the last epoch of sleep."""
    sleep = np.array([]) if stages is None else np.flatnonzero(stages > STAGE_CODES["W"])
    if margin_min is None or len(sleep) == 0:
        return slice(0, n_epochs)
    margin = int(margin_min * 60 // EPOCH_S)
    return slice(max(0, int(sleep[0]) - margin), min(n_epochs, int(sleep[-1]) + 1 + margin))
