"""What the signal itself says: whether its unit can be right, what is unusual, and which epochs are lost."""

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

PLAUSIBLE_PEAK_TO_PEAK_UV: tuple[float, float] = (1.0, 5000.0)
"""Bounds of a night's median peak-to-peak amplitude; outside of them the unit must be wrong."""

_TYPICAL_UV = 150.0  # peak to peak, of 30 s of a sleeper's EEG

_GAIN = ", or an amplifier's gain was not taken off (a factor of about {gain:.0e})"

# The probable cause of an amplitude up to each bound: the true unit, what it was taken for, the factor, and
# what else it may be. Units differ by factors of 1000 (3 decades). So most bounds lie 1.5 decades above the
# amplitude that a sleeper's EEG has when it is stored in the wrong unit.
_CAUSES = (
    (_TYPICAL_UV * 10**-4.5, "volts", "microvolts", "1e6", ""),
    (1.0, "millivolts", "microvolts", "1e3", ", or no electrode was connected"),
    (_TYPICAL_UV * 10**4.5, "microvolts", "millivolts", "1e-3", _GAIN),
    (_TYPICAL_UV * 10**7.5, "microvolts", "volts", "1e-6", ", or the header names no unit"),
    (np.inf, "nanovolts", "volts", "1e-9", ": MNE does not know nV"),
)

_FLAT_UV = 1.0  # peak to peak over 30 s: less than the noise of an amplifier with a live electrode


def check_unit(eeg_uv: NDArray[np.floating], source: str | Path) -> None:
    """Refuse a night whose amplitude no EEG in microvolts has.

    Parameters
    ----------
    eeg_uv : numpy.ndarray, shape (n_epochs, n_samples)
        What is taken to be microvolts. Without an epoch that was recorded, there is nothing to judge by.
    source : str or path
        Where it comes from, for the message.

    Raises
    ------
    ValueError
        As :func:`check_peak_to_peak`, of the median over the epochs without a lost sample.
    """
    check_peak_to_peak(_median_peak_to_peak(_complete(eeg_uv)), source)


def check_peak_to_peak(amplitude_uv: float, source: str | Path) -> None:
    """Refuse a night of this median peak-to-peak amplitude if no EEG in microvolts has it.

    Raises
    ------
    ValueError
        If it is outside `PLAUSIBLE_PEAK_TO_PEAK_UV`. The message names the unit that the numbers probably
        have, and the factor that makes them microvolts.

    Examples
    --------
    >>> check_peak_to_peak(150, "my night")
    >>> check_peak_to_peak(0.00015, "my night")
    Traceback (most recent call last):
    ...
    ValueError: my night has a median peak-to-peak amplitude of 0.00015 uV, expected 1 to 5000 uV. ...
    """
    low, high = PLAUSIBLE_PEAK_TO_PEAK_UV
    if amplitude_uv < low or amplitude_uv > high:  # neither, if it is NaN
        true, stored, factor, else_ = next(cause for bound_uv, *cause in _CAUSES if amplitude_uv <= bound_uv)
        cause = f"{true} were stored as if they were {stored} (factor {factor}){else_}"
        raise ValueError(
            f"{source} has a median peak-to-peak amplitude of {amplitude_uv:.3g} uV, expected {low:g} to "
            f"{high:g} uV. Probably {cause.format(gain=_TYPICAL_UV / amplitude_uv)}. Correct it where it was "
            "made, or multiply the values by that factor; for a file, read_recording does it (`gain`)."
        )


def unusual_amplitude(eeg_uv: NDArray[np.floating]) -> list[str]:
    """Say what is unusual about a night's amplitude, though not beyond all EEG.

    Parameters
    ----------
    eeg_uv : numpy.ndarray, shape (n_epochs, n_samples)

    Returns
    -------
    list of str
        A note if the night is far smaller or larger than others, as with a device's gain; and one if a
        constant offset lies under the signal that is larger than the signal's own deviations.
    """
    complete, notes = _complete(eeg_uv), []
    amplitude_uv = _median_peak_to_peak(complete)
    # It is 47 to 221 µV in 113 nights of 58 people of Sleep-EDF (Fpz-Cz). People and derivations differ by
    # less than three times more.
    if amplitude_uv < 47 / 3 or amplitude_uv > 221 * 3:
        notes.append(
            f"the median peak-to-peak amplitude of an epoch is {amplitude_uv:.0f} uV (47 to 221 in 113 "
            "nights of Sleep-EDF): is an amplifier's gain still in it? It is left; read_recording's `gain` "
            "takes it off"
        )
    offset_uv = _median(complete.mean(axis=1, dtype=float))
    deviation_uv = _median(complete.std(axis=1, dtype=float))
    if abs(offset_uv) > deviation_uv:
        notes.append(
            f"a constant offset of {offset_uv:.0f} uV lies under the signal (deviations: {deviation_uv:.0f} "
            "uV); it is left there, and features of amplitude (mean, minimum, maximum, energy) hold it"
        )
    return notes


def _complete(eeg_uv: NDArray[np.floating]) -> NDArray[np.floating]:
    """The epochs without a lost sample."""
    return eeg_uv[np.isfinite(eeg_uv).all(axis=1)]


def _median_peak_to_peak(complete_uv: NDArray[np.floating]) -> float:
    """Over the epochs in which anything was recorded."""
    amplitudes_uv = np.ptp(complete_uv, axis=1)
    return _median(amplitudes_uv[amplitudes_uv > 0])


def _median(values: NDArray[np.floating]) -> float:
    """Give the median, or NaN if there are no values: every comparison with NaN is false."""
    return float(np.median(values)) if len(values) else np.nan


@np.errstate(invalid="ignore")  # the peak to peak of an infinite epoch
def epoch_quality(eeg_uv: ArrayLike) -> NDArray[np.object_]:
    """Say whether an epoch can be measured, and if not, why.

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

    Examples
    --------
    >>> wave = 50 * np.sin(np.arange(3000) / 10)
    >>> epoch_quality([wave, np.zeros(3000), wave.clip(-40, 40)])
    array(['ok', 'zero', 'clipped'], dtype=object)
    """
    x = np.asarray(eeg_uv, dtype=np.float64)
    lowest, highest = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    extreme = (x == lowest) | (x == highest)
    repeated = x[:, 1:] == x[:, :-1]
    plateau = extreme[:, 1:-1] & repeated[:, :-1] & repeated[:, 1:]
    reasons = {
        "nan": ~np.isfinite(x).all(axis=1),
        "zero": ~x.any(axis=1),
        "flat": (highest - lowest)[:, 0] < _FLAT_UV,
        "clipped": plateau.sum(axis=1) >= 0.01 * x.shape[1],  # 0.3 s
        "disconnected": _has_dead_stretch(x),
    }
    return np.select(list(reasons.values()), list(reasons), default="ok").astype(object)


def _has_dead_stretch(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark epochs with five flat seconds in a row; K-complexes and spindles are shorter."""
    n_samples = x.shape[1] // 30
    is_dead = np.ptp(x[:, : 30 * n_samples].reshape(len(x), 30, n_samples), axis=2) < _FLAT_UV
    return np.any(np.all(sliding_window_view(is_dead, 5, axis=1), axis=2), axis=1)
