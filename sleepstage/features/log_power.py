"""Band powers of the filtered recording, in units of its own variance: no amplifier's gain moves them.

The features of `time_domain.py` and `spectral.py` look at one epoch and at the raw signal. These need the
whole recording: the filter runs over it, and its variance is the unit. Their logarithms follow a sleeper
through the night, and their shares compare sleepers.
"""

from collections.abc import Iterator
from functools import cache

import mne
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, integrate, signal

from .catalogue import BANDS_HZ, FILTERED_BANDS
from .time_domain import as_epochs, undefined_is_nan

FILTER_HZ = (0.5, 30.0)
"""Pass band of the filter; it has the defaults of :func:`mne.filter.filter_data`."""

FLOOR = 1e-10
"""Added to a power before its logarithm, so that no power at all gives a number."""

EPOCHS_AT_ONCE = 32  # so many fit into the processor's cache


@undefined_is_nan
def log_power_features(
    eeg_uv: ArrayLike, sfreq_hz: float, usable: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Compute the log powers and the power shares of five bands, relative to the whole recording.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal of consecutive epochs in µV, of at least 7 s each: the filter is 6.6 s long.
    sfreq_hz : float
        Sampling rate in Hz.
    usable : array_like of bool, shape (n_epochs,)
        The epochs that can be measured. The others count for nothing and get NaN.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``<band>_log_power``: the natural logarithm of the band's power over the variance of the recording
        (plus `FLOOR`); ``<band>_share``: the band's power over the sum of the five.

    Notes
    -----
    The signal is filtered to 0.5–30 Hz. Each run of consecutive usable epochs is filtered by itself, and its
    ends are mirrored at their last sample, as MNE does it: a gap, or an electrode that fell off, does not
    reach the epochs beside it. Variance and powers are those of the filtered signal. The spectrum is the
    median of Welch's (1967) segments: Hamming windows of 4 s that overlap by half, each without its mean.
    A power is the trapezoidal integral over the bins with lo ≤ f ≤ hi.

    The variance is that of all usable epochs. When the recording is cut elsewhere, all log powers of a band
    shift by the same constant; the shares stay.
    """
    x = as_epochs(eeg_uv)
    usable = np.asarray(usable, dtype=bool)
    powers = np.full((len(x), len(FILTERED_BANDS)), np.nan)
    total, squares = 0.0, 0.0
    for start, stop in _runs(usable):
        for rows, filtered in _filtered(x[start:stop], sfreq_hz):
            total += filtered.sum()
            squares += (filtered**2).sum()
            powers[start:stop][rows] = _band_powers(filtered, sfreq_hz)
    n = usable.sum() * x.shape[1]
    relative = powers.T / (squares / n - (total / n) ** 2)
    shares = relative / relative.sum(axis=0)
    return {
        **{f"{band}_log_power": np.log(relative[i] + FLOOR) for i, band in enumerate(FILTERED_BANDS)},
        **{f"{band}_share": shares[i] for i, band in enumerate(FILTERED_BANDS)},
    }


def _runs(usable: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(usable, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


@cache
def _filter_taps(sfreq_hz: float) -> NDArray[np.float64]:
    return mne.filter.create_filter(None, sfreq_hz, *FILTER_HZ, verbose="error")


def _filtered(x: NDArray[np.float64], sfreq_hz: float) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Filter consecutive epochs (n_epochs, n_samples), and give them a few rows at a time."""
    taps = _filter_taps(sfreq_hz)
    half, n = len(taps) // 2, x.shape[1]
    flat = x.ravel()
    before = 2 * flat[0] - flat[half:0:-1]
    after = 2 * flat[-1] - flat[-2 : -half - 2 : -1]
    with_ends = np.concatenate([before, flat, after])
    windows = np.lib.stride_tricks.sliding_window_view(with_ends, n + 2 * half)[::n]
    n_fft = fft.next_fast_len(n + 2 * half, real=True)
    response = fft.rfft(taps, n_fft)
    for start in range(0, len(x), EPOCHS_AT_ONCE):
        rows = slice(start, start + EPOCHS_AT_ONCE)
        spectrum = fft.rfft(windows[rows], n_fft, axis=1) * response
        yield rows, fft.irfft(spectrum, n_fft, axis=1)[:, 2 * half : 2 * half + n]


def _band_powers(filtered: NDArray[np.float64], sfreq_hz: float) -> NDArray[np.float64]:
    segment = round(4 * sfreq_hz)
    freqs_hz, psd = signal.welch(
        filtered, sfreq_hz, "hamming", segment, detrend="constant", average="median", axis=1
    )
    inside = [
        (freqs_hz >= low) & (freqs_hz <= high) for low, high in (BANDS_HZ[band] for band in FILTERED_BANDS)
    ]
    return np.stack([integrate.trapezoid(psd[:, band], freqs_hz[band], axis=1) for band in inside], axis=1)
