"""Band powers of the filtered recording, in units of its own variance: no amplifier's gain moves them.

The features of `time_domain.py` and `spectral.py` look at one epoch and at the raw signal. These need the
whole recording: the filter runs over it, and its variance is the unit. Their logarithms follow a sleeper
through the night, and their shares compare sleepers.
"""

from collections.abc import Iterator
from functools import cache

import mne
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from .catalogue import BANDS_HZ, FILTERED_BANDS
from .spectral import band_power, segment_spectra
from .time_domain import as_epochs, pieces, undefined_is_nan

FILTER_HZ = (0.5, 30.0)
"""Pass band of the filter; it has the defaults of :func:`mne.filter.filter_data`."""

FLOOR = 1e-10
"""Added to a power before its logarithm, so that no power at all gives a number."""


@undefined_is_nan
def log_power_features(
    eeg_uv: ArrayLike, sfreq_hz: float, usable: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Compute the log powers and the power shares of five bands, relative to the whole recording.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal of consecutive epochs in µV, of at least 4 s each. The filter is 6.6 s long.
    sfreq_hz : float
        Sampling rate in Hz.
    usable : array_like of bool, shape (n_epochs,)
        The epochs that can be measured. The others count for nothing and get NaN.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``<band>_log_power``: the natural logarithm of the band's power over the variance of the recording
        (plus `FLOOR`); ``<band>_share``: the band's power over the sum of the five.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples), or epochs are shorter than the filter reaches.

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
    x, usable = as_epochs(eeg_uv), np.asarray(usable, dtype=bool)
    spectra, total, squares = [], 0.0, 0.0
    for start, stop in _runs(usable):
        for filtered in _filtered(x[start:stop], sfreq_hz):
            total += filtered.sum()
            squares += np.vecdot(filtered, filtered).sum()
            freqs_hz, psd = _median_spectrum(filtered, sfreq_hz)
            spectra.append(psd)
    relative = np.full((len(FILTERED_BANDS), len(x)), np.nan)
    if spectra:
        psd = np.concatenate(spectra)
        n = len(psd) * x.shape[1]
        powers = [band_power(freqs_hz, psd, BANDS_HZ[band]) for band in FILTERED_BANDS]
        relative[:, usable] = np.array(powers) / (squares / n - (total / n) ** 2)
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


def _filtered(x: NDArray, sfreq_hz: float) -> Iterator[NDArray[np.float64]]:
    """Filter consecutive epochs (n_epochs, n_samples), and give some of them at once."""
    taps, n = _filter_taps(sfreq_hz), x.shape[1]
    half, flat = len(taps) // 2, x.reshape(-1)
    if n <= half:
        raise ValueError(
            f"got epochs of {n} samples, expected more than {half}: the filter reaches {half} samples to "
            "either side; give whole 30-s epochs"
        )
    n_fft = fft.next_fast_len(n + 2 * half, real=True)
    response = fft.rfft(taps, n_fft)
    for rows in pieces(len(x)):
        first, last = rows.start * n - half, rows.stop * n + half
        beyond = max(0, -first), max(0, last - len(flat))
        piece = flat[max(0, first) : last].astype(np.float64)
        piece = np.pad(piece, beyond, mode="reflect", reflect_type="odd")
        windows = sliding_window_view(piece, n + 2 * half)[::n]
        spectrum = fft.rfft(windows, n_fft, axis=1) * response
        yield fft.irfft(spectrum, n_fft, axis=1)[:, 2 * half : 2 * half + n]


def _median_spectrum(filtered: NDArray[np.float64], sfreq_hz: float) -> tuple[NDArray, NDArray]:
    """Compute the median of Welch's segments over its bias for noise (Allen et al. 2012, appendix B)."""
    freqs_hz, density = segment_spectra(filtered, sfreq_hz, "hamming")
    passed = freqs_hz <= FILTER_HZ[1]
    ordered = np.sort(density[:, :, passed], axis=1)
    n = density.shape[1]
    middle = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
    even = np.arange(2, n, 2)
    return freqs_hz[passed], middle / (1 + (1 / (even + 1) - 1 / even).sum())
