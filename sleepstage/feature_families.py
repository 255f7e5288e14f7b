"""The five families of features, as pure functions on arrays.

Every family takes all epochs of a night at once, an array ``eeg_uv`` of shape
``(n_epochs, n_samples)`` in µV, and gives a dictionary from feature name to an array of shape
``(n_epochs,)``. Everything is computed in float64. What is undefined for an epoch (a ratio over
nothing, the kurtosis of a constant) is NaN, without a warning. Names, units, meanings and sources
are those of :func:`sleepstage.feature_catalogue.describe_features`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pywt
from scipy import fft, integrate, signal, stats

from .feature_catalogue import BANDS_HZ, BROAD_BAND_HZ, RATIOS, RFFT_BANDS_HZ, WAVELET, WAVELET_SCALES_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

WELCH_WINDOW_S = 4.0  # two periods of the slowest frequency of interest, 0.5 Hz

_quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore")


@_quiet
def time_features(eeg_uv: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Amplitude, energy and variation in time.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``mean_uv``, ``std_uv``, ``var_uv2`` (both divided by n), ``rms_uv``, ``min_uv``,
        ``max_uv``, ``ptp_uv``, ``zero_crossings``, ``line_length_uv``, ``iqr_uv``, ``energy_uv2``.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples).

    Notes
    -----
    Zero crossings are counted after the epoch's mean is taken away, so that an amplifier's offset
    does not hide them: sign changes of ``signbit``, a sample of exactly 0 counting as positive.
    """
    x = as_epochs(eeg_uv)
    var = x.var(axis=1)
    energy = np.einsum("ij,ij->i", x, x)
    negative = np.signbit(_centred(x))
    lower_quartile, upper_quartile = np.quantile(x, [0.25, 0.75], axis=1)
    return {
        "mean_uv": x.mean(axis=1),
        "std_uv": np.sqrt(var),
        "var_uv2": var,
        "rms_uv": np.sqrt(energy / x.shape[1]),
        "min_uv": x.min(axis=1),
        "max_uv": x.max(axis=1),
        "ptp_uv": np.ptp(x, axis=1),
        "zero_crossings": (negative[:, 1:] != negative[:, :-1]).sum(axis=1).astype(np.float64),
        "line_length_uv": np.abs(np.diff(x, axis=1)).sum(axis=1),
        "iqr_uv": upper_quartile - lower_quartile,
        "energy_uv2": energy,
    }


@_quiet
def hjorth_features(eeg_uv: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Hjorth's activity, mobility and complexity.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``activity_uv2``, ``mobility`` (per sample), ``complexity``.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples).

    Notes
    -----
    With x' the difference from sample to sample: activity = var(x), mobility = sqrt(var(x') /
    var(x)), complexity = mobility(x') / mobility(x) (Hjorth 1970, doi:10.1016/0013-4694(70)90143-4).
    Mobility depends on the sampling rate; times ``sfreq_hz`` it is in 1/s.
    """
    x = _centred(as_epochs(eeg_uv))
    step = np.diff(x, axis=1)
    activity, step_var, second_var = x.var(axis=1), step.var(axis=1), np.diff(step, axis=1).var(axis=1)
    mobility = np.sqrt(_divide(step_var, activity))
    complexity = _divide(np.sqrt(_divide(second_var, step_var)), mobility)
    return {"activity_uv2": activity, "mobility": mobility, "complexity": complexity}


@_quiet
def wavelet_features(eeg_uv: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Entropies and relative energies of a db4 wavelet decomposition at level 5.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``wavelet_entropy_d1`` … ``_d5``, ``_a5``: Shannon entropy in bits of the coefficients'
        energies at that scale, each over their sum; ``wavelet_entropy``: the same over the six
        scales' energies; ``wavelet_energy_rel_d1`` … ``_a5``: each scale's share, sum 1.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples), or too short for five levels.

    Notes
    -----
    The epoch's mean is taken away first: it would fill A5. The ends are mirrored (``symmetric``),
    as wrapping around would put a step into the small coefficients of D1. At 100 Hz the scales are,
    nominally, D1 25–50 Hz, D2 12.5–25, D3 6.25–12.5, D4 3.125–6.25, D5 1.5625–3.125, A5 0–1.5625.
    Source: Rosso et al. 2001, doi:10.1016/S0165-0270(00)00356-3.
    """
    x = as_epochs(eeg_uv)
    level = len(WAVELET_SCALES_HZ) - 1
    if pywt.dwt_max_level(x.shape[1], WAVELET) < level:
        raise ValueError(
            f"got epochs of {x.shape[1]} samples, too short for {level} levels of {WAVELET}; "
            "give whole 30-s epochs, 3000 samples at 100 Hz"
        )
    coefficients = pywt.wavedec(_centred(x), WAVELET, mode="symmetric", level=level, axis=1)
    squares = {name: scale**2 for name, scale in zip(WAVELET_SCALES_HZ, reversed(coefficients), strict=True)}
    energies = np.stack([square.sum(axis=1) for square in squares.values()], axis=1)
    shares = _divide(energies, energies.sum(axis=1, keepdims=True))
    return {
        **{f"wavelet_entropy_{name}": _entropy_bits(square) for name, square in squares.items()},
        "wavelet_entropy": _entropy_bits(energies),
        **{f"wavelet_energy_rel_{name}": share for name, share in zip(squares, shares.T, strict=True)},
    }


@_quiet
def moment_features(eeg_uv: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Skewness and excess (Fisher) kurtosis, not corrected for bias.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``skewness`` and ``kurtosis``; a normal distribution has 0 in both, a constant epoch NaN.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples).

    Notes
    -----
    With m_k the k-th central moment: skewness = m_3 / m_2^1.5, kurtosis = m_4 / m_2^2 - 3. SciPy's
    functions give the same, but each takes the moments anew, at several times the cost.
    """
    centred = _centred(as_epochs(eeg_uv))
    square = centred**2
    variance = square.mean(axis=1)
    third = np.einsum("ij,ij->i", square, centred) / centred.shape[1]
    fourth = np.einsum("ij,ij->i", square, square) / centred.shape[1]
    return {"skewness": _divide(third, variance**1.5), "kurtosis": _divide(fourth, variance**2) - 3}


@_quiet
def spectral_features(eeg_uv: ArrayLike, sfreq_hz: float) -> dict[str, NDArray[np.float64]]:
    """Band powers, their ratios, and the shape of the spectrum.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.
    sfreq_hz : float
        Sampling rate in Hz, at least 80: the gamma band ends at 40 Hz.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``<band>_power_uv2``, ``total_power_uv2`` and ``<band>_power_rel`` for delta, theta, alpha,
        sigma, beta, gamma; ``rfft_<band>_uv2`` for the four bands of the published table; the
        ratios; ``spectral_entropy``, ``peak_frequency_hz``, ``median_frequency_hz``,
        ``edge_frequency_95_hz``, ``spectral_centroid_hz``, ``spectral_flatness``.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples), an epoch is shorter than one window of
        4 s, or the sampling rate is under 80 Hz.

    Notes
    -----
    Welch's method: Hann windows of 4 s that overlap by half, each without its mean, averaged by
    the mean, so that a sine of amplitude A has the power A²/2. Powers are trapezoidal integrals
    from edge to edge, so the bands' powers add up to the total and the relative ones to 1, wherever
    4 s are a whole number of samples. Entropy
    (over that of a flat spectrum), peak, centroid, flatness and edges (interpolated between the
    bins, 0.25 Hz apart) are taken over 0.5–40 Hz. The ``rfft_`` bands are of the raw signal, neither
    windowed nor detrended: the sum of |rfft|² over the bins with lo ≤ f ≤ hi.
    """
    x = as_epochs(eeg_uv)
    _check_spectrum_fits(x.shape[1], sfreq_hz)
    window = round(WELCH_WINDOW_S * sfreq_hz)
    freqs_hz, psd = signal.welch(_centred(x), sfreq_hz, window="hann", nperseg=window, axis=1)
    return {
        **_power_features(freqs_hz, psd),
        **_rfft_band_energies(x, sfreq_hz),
        **_shape_features(*_select_band(freqs_hz, psd, BROAD_BAND_HZ)),
    }


def _power_features(freqs_hz: NDArray, psd: NDArray) -> dict[str, NDArray]:
    """Absolute, total and relative band powers, and their ratios."""
    powers = {band: _power(*_select_band(freqs_hz, psd, limits)) for band, limits in BANDS_HZ.items()}
    total = _power(*_select_band(freqs_hz, psd, BROAD_BAND_HZ))
    ratios = {
        name: _divide(sum(powers[band] for band in above), sum(powers[band] for band in below))
        for name, (above, below) in RATIOS.items()
    }
    return {
        **{f"{band}_power_uv2": power for band, power in powers.items()},
        "total_power_uv2": total,
        **{f"{band}_power_rel": _divide(power, total) for band, power in powers.items()},
        **ratios,
    }


def _rfft_band_energies(x: NDArray, sfreq_hz: float) -> dict[str, NDArray]:
    freqs_hz = fft.rfftfreq(x.shape[1], 1 / sfreq_hz)
    energy = np.abs(fft.rfft(x, axis=1)) ** 2
    bands = {
        f"rfft_{band}_uv2": _select_band(freqs_hz, energy, limits)[1].sum(axis=1)
        for band, limits in RFFT_BANDS_HZ.items()
    }
    rest = rfft_rest((x**2).sum(axis=1), x.mean(axis=1), list(bands.values()), x.shape[1])
    return {**bands, "rfft_rest_uv2": rest}


def rfft_rest(energy: NDArray, mean: NDArray, bands: Sequence[NDArray], n_samples: int) -> NDArray:
    """Give what the bands leave of the sum of |rfft|²: under 0.5 Hz and over 30 Hz.

    By Parseval's theorem the sum of |rfft(x)|² over the positive frequencies is (n Σx² − (n mean)²) / 2 for
    n samples, so that it follows from columns of the published table. The three bins that two bands share
    (4, 8 and 13 Hz) are taken off twice, which can leave a little less than nothing.

    Parameters
    ----------
    energy, mean : ndarray, shape (n_epochs,)
        Sum of squares and mean of an epoch's samples.
    bands : sequence of ndarray, shape (n_epochs,)
        The published bands' sums of |rfft|².
    n_samples : int
    """
    return (n_samples * energy - (n_samples * mean) ** 2) / 2 - sum(bands)


def _shape_features(freqs_hz: NDArray, psd: NDArray) -> dict[str, NDArray]:
    """Entropy, peak, edges, centroid and flatness of a spectrum, (n_epochs, n_freqs)."""
    total = psd.sum(axis=1)
    return {
        "spectral_entropy": _entropy_bits(psd) / np.log2(len(freqs_hz)),
        "peak_frequency_hz": np.where(total > 0, freqs_hz[psd.argmax(axis=1)], np.nan),
        "median_frequency_hz": _edge_frequency(freqs_hz, psd, 0.5),
        "edge_frequency_95_hz": _edge_frequency(freqs_hz, psd, 0.95),
        "spectral_centroid_hz": _divide(psd @ freqs_hz, total),
        "spectral_flatness": _divide(stats.gmean(psd, axis=1), psd.mean(axis=1)),
    }


def _edge_frequency(freqs_hz: NDArray, psd: NDArray, share: float) -> NDArray:
    """Frequency below which `share` of the power lies, linear between bins; NaN without power."""
    power = integrate.cumulative_trapezoid(psd, freqs_hz, axis=1, initial=0)
    target = share * power[:, -1:]
    upper = np.clip((power < target).sum(axis=1), 1, len(freqs_hz) - 1)
    rows = np.arange(len(power))
    below, above = power[rows, upper - 1], power[rows, upper]
    step = freqs_hz[upper] - freqs_hz[upper - 1]
    return freqs_hz[upper - 1] + step * _divide(target[:, 0] - below, above - below)


def _select_band(freqs_hz: NDArray, spectrum: NDArray, band: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """The bins with lo ≤ f ≤ hi, and the spectrum there."""
    inside = (freqs_hz >= band[0]) & (freqs_hz <= band[1])
    return freqs_hz[inside], spectrum[:, inside]


def _power(freqs_hz: NDArray, psd: NDArray) -> NDArray:
    return integrate.trapezoid(psd, freqs_hz, axis=1)


def _entropy_bits(weights: NDArray) -> NDArray:
    """Shannon entropy over the last axis of weights that are first divided by their sum."""
    return stats.entropy(weights, base=2, axis=1)


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray:
    """The quotient, NaN where it is not a finite number."""
    quotient = numerator / denominator
    return np.where(np.isfinite(quotient), quotient, np.nan)


def _centred(x: NDArray) -> NDArray:
    """The epochs without their means; a constant one becomes 0 exactly, not up to rounding."""
    shifted = x - x[:, :1]
    return shifted - shifted.mean(axis=1, keepdims=True)


def as_epochs(eeg_uv: ArrayLike) -> NDArray[np.float64]:
    """The epochs as float64 of shape (n_epochs, n_samples), else a ValueError that says what came."""
    x = np.asarray(eeg_uv, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(
            f"got an array of shape {x.shape}, expected (n_epochs, n_samples) with at least one of each; "
            "a single epoch goes in as eeg_uv[np.newaxis, :]"
        )
    return x


def _check_spectrum_fits(n_samples: int, sfreq_hz: float) -> None:
    highest_hz = BROAD_BAND_HZ[1]
    if not sfreq_hz >= 2 * highest_hz:
        raise ValueError(
            f"got a sampling rate of {sfreq_hz} Hz, expected at least {2 * highest_hz:g} Hz: the gamma band "
            f"reaches {highest_hz:g} Hz; resample the recording to 100 Hz"
        )
    if n_samples < WELCH_WINDOW_S * sfreq_hz:
        raise ValueError(
            f"got epochs of {n_samples} samples at {sfreq_hz} Hz, expected at least one window of "
            f"{WELCH_WINDOW_S:g} s; give whole 30-s epochs"
        )
