"""One night: a channel in epochs of 30 s at 100 Hz in microvolts, with stages; read from files, or the demo.

Whether a night comes from a file, from MNE or as an array, it passes the same checks when the
:class:`Recording` is made, and is resampled there.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from numbers import Real
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import DATA_DIR, check_exists, check_number, check_subjects, naming
from ..stages import STAGE_CODES, UNSCORED, stage_codes
from .channel import Channel, read_channel, warn
from .hypnogram import EPOCH_S, align_stages
from .quality import check_unit, epoch_quality, unusual_amplitude

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
    quality : numpy.ndarray of str, shape (n_epochs,)
        What :func:`sleepstage.recordings.quality.epoch_quality` says of each epoch, of the signal as it was
        recorded and as it is now. You do not give it: it is computed when the recording is made.
    quality_as_recorded : numpy.ndarray of str, shape (n_epochs,), or None
        Of a signal that was resampled: its quality before. Resampling smoothes clipping away.

    Raises
    ------
    ValueError
        If shapes, sampling rate and stages do not fit together, the rate is below 64 Hz, the amplitude shows
        that the signal is not in microvolts, or subject and recording are no names and numbers.

    Warns
    -----
    UserWarning
        If the signal is resampled.
    """

    eeg_uv: np.ndarray = field(repr=False)
    sfreq_hz: float
    stages: np.ndarray | None = field(repr=False)
    subject: int | str
    recording: str
    channel: str
    start: datetime | None = None
    notes: tuple[str, ...] = field(default=(), repr=False)
    quality: NDArray[np.object_] = field(init=False, repr=False)
    quality_as_recorded: NDArray[np.object_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        source = f"recording {self.recording!r}"
        check_subjects([self.subject, self.recording], f"subject and recording of {source}")
        eeg_uv, notes = _checked_signal(self.eeg_uv, self.sfreq_hz, source), list(self.notes)
        quality, recorded = epoch_quality(eeg_uv), self.quality_as_recorded
        if not np.isclose(self.sfreq_hz, SFREQ_HZ, rtol=1e-9):
            lost = f" Nothing above {self.sfreq_hz / 2:g} Hz is in it." if self.sfreq_hz < SFREQ_HZ else ""
            warn(f"{source} was sampled at {self.sfreq_hz:g} Hz and is resampled to {SFREQ_HZ:g} Hz.{lost}")
            notes.append(f"resampled from {self.sfreq_hz:g} to {SFREQ_HZ:g} Hz")
            eeg_uv, recorded = _resampled(eeg_uv), quality
            quality = epoch_quality(eeg_uv)
        check_unit(eeg_uv, source)
        if self.start is not None and not (
            isinstance(self.start, datetime) and 1900 <= self.start.year <= 2100
        ):
            raise ValueError(f"{source} began {self.start!r}, expected a datetime of 1900 to 2100, or None")
        stages = None if self.stages is None else stage_codes(self.stages)
        for name, values in (("stages", stages), ("quality_as_recorded", recorded)):
            if values is not None and values.shape != (len(eeg_uv),):
                said = f"{name} has shape {values.shape}, expected ({len(eeg_uv)},)"
                raise ValueError(f"{said}: one for each epoch. Cut both alike, or pass None.")
        if recorded is not None:
            quality = np.where(recorded == "ok", quality, recorded)
        # Users cannot change this frozen dataclass. Here it is changed once: its arrays get their final form.
        vars(self).update(
            eeg_uv=eeg_uv,
            sfreq_hz=SFREQ_HZ,
            stages=stages,
            notes=tuple(dict.fromkeys([*notes, *unusual_amplitude(eeg_uv)])),
            quality=quality,
            quality_as_recorded=recorded,
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
    convention: str = "aasm",
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
        An EDF+ file whose annotations are the stages (see `sleepstage.stages.STAGE_TEXTS`), the XML of NSRR,
        or text (``.csv``, ``.tsv``, ``.txt``, ``.eannot``): a table with the columns onset, duration (in
        seconds) and stage, or one stage a line. Epochs of 20, 10 or 5 s are laid on ours by the majority.
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
    convention : str
        How whole numbers in the hypnogram stand for stages: ``"aasm"`` (4 is REM), or ``"rk"``, ``"mesa"`` or
        ``"isruc"`` (4 is S4, 5 is REM).

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
    if not isinstance(psg, str | Path | mne.io.BaseRaw):
        said = f"psg is of type {type(psg).__name__}, expected a path or what MNE has opened"
        raise ValueError(f"{said}; an array (n_epochs, n_samples) becomes a night by Recording(eeg_uv, ...)")
    if wake_margin_min not in (None, np.inf):
        check_number(wake_margin_min, "wake_margin_min", 0)
    check_number(abs(gain) if isinstance(gain, Real) else gain, "gain", 1e-9, 1e9)
    if not isinstance(hypnogram, str | Path | None):
        said = f"hypnogram is of type {type(hypnogram).__name__}, expected a path"
        raise ValueError(f"{said}; of an array, Recording(eeg_uv, ..., stages) takes the stages")
    for file, what in ((psg, "a recording"), (hypnogram, "a hypnogram")):
        if isinstance(file, str | Path):
            check_exists(Path(file), what)
    source = read_channel(psg, channel, gain)
    begin_s = 0.0 if lights_off is None else _seconds_to_lights_off(lights_off, source.start)
    eeg_uv = _whole_epochs(source, begin_s)
    stages, marked, about = None, np.zeros(len(eeg_uv), dtype=bool), list[str]()
    if hypnogram is not None:
        lights_off_s = None if lights_off is None else begin_s
        stages, marked, about = align_stages(
            Path(hypnogram), source.start, len(eeg_uv), lights_off_s, convention, source.sfreq_hz
        )
    kept = _without_long_wake(stages, len(eeg_uv), wake_margin_min)
    left_s = round(len(source.signal_uv) / source.sfreq_hz - begin_s - EPOCH_S * len(eeg_uv), 2)
    n_cut = len(eeg_uv) - kept.stop
    n_marked = np.count_nonzero(marked[kept])
    n_outside = 0 if stages is None else np.count_nonzero(stages[kept] == UNSCORED) - n_marked
    done = {
        f"epochs are counted from lights-off; the {begin_s:g} s before it are left out": begin_s > 0,
        f"the file's values are multiplied by {gain:g}, as asked": gain != 1,
        f"the last {left_s:g} s are no whole epoch and are left out": left_s > 0,
        f"{kept.start} epochs before the night and {n_cut} after it are left out": kept.start + n_cut > 0,
        f"{n_marked} epochs are movement time, '?' or alike: kept as -1": n_marked > 0,
        f"{n_outside} epochs are not in the hypnogram: kept as -1": n_outside > 0,
    }
    name, start = source.path.stem, source.start
    if start is not None:
        start = start.replace(tzinfo=None) + timedelta(seconds=begin_s + EPOCH_S * kept.start)
    return Recording(
        eeg_uv=eeg_uv[kept],
        sfreq_hz=source.sfreq_hz,
        stages=None if stages is None else stages[kept],
        subject=next(who for who in (subject, person_in_name(name), name) if who is not None),
        recording=name.removesuffix("-PSG") if recording is None else recording,
        channel=channel,
        start=start,
        notes=(*source.notes, *about, *(note for note, is_so in done.items() if is_so)),
    )


def _check_rate(sfreq_hz: float, source: object) -> None:
    check_number(sfreq_hz, f"the sampling rate of {source}", 0)
    if sfreq_hz < MIN_SFREQ_HZ:
        raise ValueError(
            f"{source} was sampled at {sfreq_hz:g} Hz, expected 100 Hz or at least {MIN_SFREQ_HZ:g}: the "
            "beta band (13-30 Hz) is not in it. Choose another channel or export it at a higher rate."
        )


def _checked_signal(eeg_uv: np.ndarray, sfreq_hz: float, source: str) -> NDArray[np.float32]:
    _check_rate(sfreq_hz, source)
    eeg_uv = np.asarray(eeg_uv, dtype=np.float32)
    n_samples = round(EPOCH_S * sfreq_hz)
    if eeg_uv.ndim != 2 or len(eeg_uv) == 0 or eeg_uv.shape[1] != n_samples:
        raise ValueError(
            f"eeg_uv has shape {eeg_uv.shape}, expected (n_epochs, {n_samples}) with n_epochs >= 1: "
            f"epochs of {EPOCH_S} s at {sfreq_hz:g} Hz."
        )
    return eeg_uv


def _resampled(eeg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """The epochs at 100 Hz; one that lacks a sample is NaN as a whole."""
    is_lost = ~np.isfinite(eeg_uv)
    signal_uv = np.zeros(eeg_uv.size)
    if not is_lost.all():
        # Fill gaps with straight lines: resampling would spread a NaN over the night, and a jump to 0 nearby.
        known = np.flatnonzero(~is_lost)
        signal_uv = np.interp(np.arange(eeg_uv.size), known, eeg_uv.ravel()[known])
    at_100_hz = mne.filter.resample(
        signal_uv, SFREQ_HZ, eeg_uv.shape[1] / EPOCH_S, npad="auto", verbose="error"
    )
    epochs = at_100_hz.astype(np.float32).reshape(len(eeg_uv), N_SAMPLES)
    epochs[is_lost.any(axis=1)] = np.nan
    return epochs


def _seconds_to_lights_off(lights_off: str | float, start: datetime | None) -> float:
    """Seconds from a recording's start to lights-off, the first moment with that time of day."""
    if isinstance(lights_off, Real) and np.isfinite(lights_off):
        return float(lights_off)
    layout = "%H:%M:%S" if str(lights_off).count(":") == 2 else "%H:%M"
    with naming(f"lights_off {lights_off!r}", "a time of day such as '22:31:17', or seconds"):
        clock = datetime.strptime(str(lights_off).strip(), layout)
        if start is None:
            raise ValueError("the recording's header gives no start, so give seconds from the first sample")
    moment = datetime.combine(start.date(), clock.time(), start.tzinfo)
    return (moment + timedelta(days=moment < start) - start).total_seconds()


def _whole_epochs(source: Channel, begin_s: float) -> NDArray[np.float32]:
    """The epochs after lights-off, (n_epochs, n_samples).

    If 30 s are not a whole number of samples, each epoch begins at the sample nearest to its exact time.
    """
    _check_rate(source.sfreq_hz, source.path)  # a rate near 0 would make epochs without end
    duration_s = len(source.signal_uv) / source.sfreq_hz
    if not 0 <= begin_s <= duration_s - EPOCH_S + 1e-6:  # rounding at odd rates
        raise ValueError(
            f"{source.path} holds {duration_s:g} s from {source.start} on, expected {EPOCH_S} s (one epoch) "
            f"or more after {begin_s:g} s. Is the file whole, and is lights_off right?"
        )
    signal_uv = source.signal_uv[round(begin_s * source.sfreq_hz) :]
    epoch_samples = EPOCH_S * source.sfreq_hz
    n_samples, n_epochs = round(epoch_samples), int((len(signal_uv) + 0.5) / epoch_samples)
    starts = np.rint(epoch_samples * np.arange(n_epochs)).astype(int).clip(max=len(signal_uv) - n_samples)
    return np.stack([signal_uv[start : start + n_samples] for start in starts])


def _without_long_wake(stages: NDArray[np.int8] | None, n_epochs: int, margin_min: float | None) -> slice:
    """The epochs from `margin_min` before the first to `margin_min` after the last epoch of sleep."""
    sleep = np.array([]) if stages is None else np.flatnonzero(stages > STAGE_CODES["W"])
    if margin_min is None or len(sleep) == 0:
        return slice(0, n_epochs)
    margin = int(min(margin_min, n_epochs) * 60 // EPOCH_S)
    return slice(max(0, int(sleep[0]) - margin), min(n_epochs, int(sleep[-1]) + 1 + margin))


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
    psg, hypnogram = DATA_DIR / "SC4001E0-PSG.edf", DATA_DIR / "SC4001EC-Hypnogram.edf"
    for path, n_bytes in ((psg, 10_092_768), (hypnogram, 4_336)):
        if (found := path.stat().st_size if path.is_file() else 0) != n_bytes:
            raise FileNotFoundError(
                f"The shipped night is incomplete: {path} has {found:,} bytes, expected {n_bytes:,}. Install "
                "the package again (`pip install --force-reinstall --no-deps sleepstage`)."
            )
    return psg, hypnogram


def person_in_name(recording: str) -> int | str | None:
    """Say who slept, where the name of a recording's file reveals it.

    Returns
    -------
    int, str or None
        The number of a person of Sleep-EDF's cassette study, ``"ST"`` and the number of one of its telemetry
        study (other people), the subject in a BIDS name; None where the name says nothing.

    Examples
    --------
    >>> person_in_name("SC4012E0-PSG"), person_in_name("ST7011J0"), person_in_name("sub-anna_task-rest_eeg")
    (1, 'ST01', 'anna')
    """
    # Sleep-EDF's SC4ssNE0: ss is the person, N the night, E0 the equipment; ST7ssNJ0 is of other people.
    if named := re.match(r"(SC4|ST7)(\d\d)\d[A-Z]\d", recording, re.IGNORECASE):
        return int(named[2]) if named[1].upper() == "SC4" else f"ST{named[2]}"
    named = re.match("sub-([A-Z0-9]+)(?=_|$)", recording, re.IGNORECASE)
    return named[1] if named else None
