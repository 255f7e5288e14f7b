"""What a signal's amplitude says about its unit, its amplifier and its offset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


PLAUSIBLE_PEAK_TO_PEAK_UV: tuple[float, float] = (1.0, 5000.0)
"""Bounds of a night's median peak-to-peak amplitude; outside of them the unit must be wrong."""


COHORT_PEAK_TO_PEAK_UV: tuple[float, float] = (47.0, 221.0)
"""The smallest and the largest of it among 113 nights of 58 people of Sleep-EDF (Fpz-Cz)."""


_FAR = 3  # times beyond the cohort is more than people and derivations differ


# Peak to peak, 30 s of a sleeper's EEG have some 150 uV. Units are 3 decades apart, so what lies within 1.5
# decades of where a wrong unit would put it, has that unit.
_VOLTS_BELOW_UV = 150 * 10**-4.5


_VOLTS_ABOVE_UV = 150 * 10**4.5


def check_unit(eeg_uv: np.ndarray, path: str | Path) -> None:
    """Refuse a night whose amplitude no EEG in microvolts has.

    Parameters
    ----------
    eeg_uv : numpy.ndarray, shape (n_epochs, n_samples)
        What is taken to be microvolts.
    path : path
        Where it comes from, for the message.

    Raises
    ------
    ValueError
        If the median peak-to-peak amplitude of its epochs is outside `PLAUSIBLE_PEAK_TO_PEAK_UV`. The message
        names the unit that the numbers probably have, and the factor that makes them microvolts.
    """
    amplitude_uv = _median_peak_to_peak(eeg_uv)
    if amplitude_uv is not None:  # else nothing to judge by; the features' quality column will say so
        check_peak_to_peak(amplitude_uv, path)


def check_peak_to_peak(amplitude_uv: float, path: str | Path) -> None:
    """Refuse a night of this median peak-to-peak amplitude if no EEG in microvolts has it.

    Raises
    ------
    ValueError
        As :func:`check_unit`.
    """
    low, high = PLAUSIBLE_PEAK_TO_PEAK_UV
    if low <= amplitude_uv <= high:
        return
    raise ValueError(
        f"{path} has a median peak-to-peak amplitude of {amplitude_uv:.3g} uV, "
        f"expected {low:g} to {high:g} uV. {_cause(amplitude_uv)}. Correct it where it was made (the "
        "dimension and range in an EDF header, or the array), or give read_recording that factor as `gain`."
    )


def _cause(amplitude_uv: float) -> str:
    if amplitude_uv < _VOLTS_BELOW_UV:
        return "Probably volts were stored as if they were microvolts (factor 1e6)"
    if amplitude_uv < PLAUSIBLE_PEAK_TO_PEAK_UV[0]:
        return (
            "Probably millivolts were stored as if they were microvolts (factor 1e3), or the electrode was "
            "not connected"
        )
    if amplitude_uv < _VOLTS_ABOVE_UV:
        return (
            "Probably microvolts were stored as if they were millivolts (factor 1e-3), or an amplifier's "
            f"gain was not taken off (a factor of about {150 / amplitude_uv:.0e})"
        )
    return "Probably microvolts were stored as if they were volts, or the header names no unit (factor 1e-6)"


def amplitude_note(eeg_uv: np.ndarray) -> str | None:
    """Say if a night is far smaller or larger than others, though not beyond all EEG: a device's gain, say.

    Parameters
    ----------
    eeg_uv : numpy.ndarray, shape (n_epochs, n_samples)
    """
    amplitude_uv = _median_peak_to_peak(eeg_uv)
    low, high = COHORT_PEAK_TO_PEAK_UV
    if amplitude_uv is None or low / _FAR <= amplitude_uv <= high * _FAR:
        return None
    return (
        f"the median peak-to-peak amplitude of an epoch is {amplitude_uv:.0f} uV ({low:g} to {high:g} in 113 "
        "nights of Sleep-EDF): is an amplifier's gain still in it? It is left there; `gain` takes it off"
    )


def offset_note(eeg_uv: np.ndarray) -> str | None:
    """Say if a constant offset, larger than the signal's own deviations, lies under a night.

    Parameters
    ----------
    eeg_uv : numpy.ndarray, shape (n_epochs, n_samples)
    """
    complete = eeg_uv[np.isfinite(eeg_uv).all(axis=1)].astype(np.float64)
    if len(complete) == 0:
        return None
    offset_uv, deviation_uv = np.median(complete.mean(axis=1)), np.median(complete.std(axis=1))
    if abs(offset_uv) <= deviation_uv:
        return None
    return (
        f"a constant offset of {offset_uv:.0f} uV lies under the signal (deviations: {deviation_uv:.0f} uV); "
        "it is left there, and features of amplitude (mean, minimum, maximum, energy) hold it"
    )


def _median_peak_to_peak(eeg_uv: np.ndarray) -> float | None:
    """Of the epochs without a lost sample in which anything was recorded; None if there are none."""
    amplitudes_uv = np.ptp(eeg_uv[np.isfinite(eeg_uv).all(axis=1)], axis=1)
    amplitudes_uv = amplitudes_uv[amplitudes_uv > 0]
    return float(np.median(amplitudes_uv)) if len(amplitudes_uv) else None


FLAT_PTP_UV = 1.0  # over 30 s, less than the noise of an amplifier with a live electrode


CLIPPED_SHARE = 0.01  # 0.3 s of an epoch held at its own extremes


STRETCHES = 30  # an epoch's seconds


DEAD_STRETCHES = 5  # in a row; K-complexes and spindles are shorter than what would be lost


@np.errstate(invalid="ignore")  # the peak to peak of an infinite epoch
def epoch_quality(eeg_uv: ArrayLike) -> NDArray[np.object_]:
    """Whether an epoch can be measured, and if not, why.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    ndarray of str, shape (n_epochs,)
        The first that holds of

        - ``"nan"``: a sample is NaN or infinite;
        - ``"zero"``: every sample is 0;
        - ``"flat"``: peak to peak under 1 µV;
        - ``"clipped"``: at least 1 % of the samples lie inside a plateau at the epoch's own
          minimum or maximum, that is, both neighbours have that very value too. A lone peak, or
          two equal samples around one, is no plateau;
        - ``"disconnected"``: peak to peak under 1 µV for at least five whole seconds in a row;
        - ``"ok"``.
    """
    x = np.asarray(eeg_uv, dtype=np.float64)
    lowest, highest = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    extreme = (x == lowest) | (x == highest)
    repeated = x[:, 1:] == x[:, :-1]
    plateau = extreme[:, 1:-1] & repeated[:, :-1] & repeated[:, 1:]
    ptp_uv = (highest - lowest)[:, 0]
    reasons = {
        "nan": ~np.isfinite(x).all(axis=1),
        "zero": ~x.any(axis=1),
        "flat": ptp_uv < FLAT_PTP_UV,
        "clipped": plateau.sum(axis=1) >= CLIPPED_SHARE * x.shape[1],
        "disconnected": _has_dead_stretch(x),
    }
    return np.select(list(reasons.values()), list(reasons), default="ok").astype(object)


def _has_dead_stretch(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    n_samples = x.shape[1] // STRETCHES
    if n_samples == 0:
        return np.zeros(len(x), dtype=bool)
    seconds = x[:, : STRETCHES * n_samples].reshape(len(x), STRETCHES, n_samples)
    dead = np.ptp(seconds, axis=2) < FLAT_PTP_UV
    return sliding_window_view(dead, DEAD_STRETCHES, axis=1).all(axis=2).any(axis=1)
