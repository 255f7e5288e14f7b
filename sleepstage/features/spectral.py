"""Features of an epoch's spectrum, computed from a signal or from a power spectral density."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy import fft, integrate, signal

from .catalogue import BANDS_HZ, BROAD_BAND_HZ, RATIOS, RFFT_BANDS_HZ
from .time_domain import as_epochs, entropy_bits, pieces, some_at_once, undefined_is_nan, without_mean

SLOW_DELTA_HZ = (0.5, 1.0)
FAST_DELTA_HZ = (1.0, 4.0)

APERIODIC_HZ = (2.0, 30.0)
"""Where the spectrum's line is fitted: above the slow waves' bend, below the muscles."""

WELCH_WINDOW_S = 4.0  # two periods of the slowest frequency of interest, 0.5 Hz


@undefined_is_nan
def spectral_features(eeg_uv: ArrayLike, sfreq_hz: float) -> dict[str, NDArray[np.float64]]:
    """Compute band powers, their ratios, and the shape of the spectrum.

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
        sigma, beta, gamma; ``rfft_<band>_uv2`` for the four bands of the published table and
        ``rfft_rest_uv2``; the ratios; ``spectral_entropy``, ``peak_frequency_hz``, ``median_frequency_hz``,
        ``edge_frequency_95_hz``, ``spectral_centroid_hz``, ``spectral_flatness``;
        ``slow_fast_delta_ratio``; ``aperiodic_slope`` and ``aperiodic_offset``.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples), an epoch is shorter than one window of
        4 s, or the sampling rate is under 80 Hz.

    Notes
    -----
    The spectrum is that of :func:`power_spectrum`; a sine of amplitude A has the power A²/2. Powers are
    trapezoidal integrals from one edge of the band to the other. So the powers of the bands add up to the
    total, and the relative powers to 1, wherever 4 s are a whole number of samples. Entropy (divided by that
    of a flat spectrum), peak, centroid, flatness and edge frequencies (interpolated between the bins, 0.25 Hz
    apart) are taken over 0.5–40 Hz. The ``rfft_`` bands are of the raw signal, without a window and with
    its mean: the sum of |rfft|² over the bins with lo ≤ f ≤ hi.

    The aperiodic line is fitted by least squares to the decimal logarithms of density and frequency at 2–30
    Hz: log10 density = offset + slope · log10 frequency. The package specparam (Donoghue et al. 2020,
    doi:10.1038/s41593-020-00744-x) takes peaks such as alpha and sigma out first; on the shipped night its
    slopes are 0.1 flatter and correlate .98 with these. A low-pass filter within 2–30 Hz makes the line
    steeper, a high-pass filter or muscle activity flatter: compare nights only if they were filtered alike.

    Examples
    --------
    >>> sine = 20 * np.sin(2 * np.pi * 10 * np.arange(3000) / 100)
    >>> features = spectral_features([sine], 100)
    >>> features["alpha_power_uv2"].round(3), features["peak_frequency_hz"]
    (array([200.]), array([10.]))
    """
    x = as_epochs(eeg_uv)
    _check_spectrum_fits(x.shape[1], sfreq_hz)
    freqs_hz, psd_uv2 = power_spectrum(x, sfreq_hz)
    slow, fast = (band_power(freqs_hz, psd_uv2, band) for band in (SLOW_DELTA_HZ, FAST_DELTA_HZ))
    return {
        **spectrum_features(freqs_hz, psd_uv2),
        "slow_fast_delta_ratio": slow / fast,
        **_aperiodic_line(*_select_band(freqs_hz, psd_uv2, APERIODIC_HZ)),
        **_rfft_band_energies(x, sfreq_hz),
    }


def power_spectrum(eeg_uv: ArrayLike, sfreq_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the power spectral density of epochs by Welch's method (1967).

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.
    sfreq_hz : float
        Sampling rate in Hz.

    Returns
    -------
    freqs_hz : ndarray, shape (n_freqs,)
        Frequencies from 0 to half the sampling rate, 0.25 Hz apart.
    psd_uv2 : ndarray, shape (n_epochs, n_freqs)
        Density in µV²/Hz. The row of an epoch with NaN is NaN.

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples).

    Notes
    -----
    Hann windows of 4 s that overlap by half, each without its mean. An epoch shorter than 4 s is one window.

    Examples
    --------
    >>> seconds = np.arange(3000) / 100
    >>> freqs_hz, psd_uv2 = power_spectrum([20 * np.sin(2 * np.pi * 10 * seconds)], 100)
    >>> float(freqs_hz[psd_uv2[0].argmax()])
    10.0
    """
    x, psd_uv2 = as_epochs(eeg_uv), []
    for rows in pieces(len(x)):
        epochs = without_mean(x[rows].astype(np.float64))
        freqs_hz, density = segment_spectra(epochs, sfreq_hz, "hann")
        psd_uv2.append(density.mean(axis=1))
    return freqs_hz, np.concatenate(psd_uv2)


def segment_spectra(x: NDArray[np.float64], sfreq_hz: float, window: str) -> tuple[NDArray, NDArray]:
    """Compute the densities of Welch's segments: of 4 s, half of one shared with the next, without mean.

    SciPy's `signal.welch` averages the same densities, and takes several times as long.

    Parameters
    ----------
    x : ndarray, shape (n_epochs, n_samples)
        Signal.
    sfreq_hz : float
        Sampling rate in Hz.
    window : {"hann", "hamming"}
        The window.

    Returns
    -------
    freqs_hz : ndarray, shape (n_freqs,)
        Frequencies from 0 to half the sampling rate.
    density : ndarray, shape (n_epochs, n_segments, n_freqs)
        In the signal's unit squared, per Hz.
    """
    n = min(x.shape[1], round(WELCH_WINDOW_S * sfreq_hz))
    taper = signal.get_window(window, n)
    segments = sliding_window_view(x, n, axis=1)[:, :: max(1, n - n // 2)]
    spectra = fft.rfft(segments * taper, axis=2)
    # Under these windows a constant has only two bins. The mean is taken out there, not of all samples.
    spectra[:, :, :2] -= segments.mean(axis=2, keepdims=True) * fft.rfft(taper)[:2]
    density = spectra.real**2
    density += spectra.imag**2
    density *= 2 / (sfreq_hz * np.vecdot(taper, taper))
    once = [0, -1] if n % 2 == 0 else [0]  # bins without a negative frequency of their own
    density[:, :, once] /= 2
    return fft.rfftfreq(n, 1 / sfreq_hz), density


@undefined_is_nan
def spectrum_features(freqs_hz: NDArray, psd_uv2: NDArray) -> dict[str, NDArray[np.float64]]:
    """Compute the features of :func:`spectral_features` that need only a power spectral density.

    Parameters
    ----------
    freqs_hz : ndarray, shape (n_freqs,)
        Frequencies in Hz, from 0.5 or below to 40 or above. Where the edge of a band lies between two
        frequencies, the density there is interpolated.
    psd_uv2 : ndarray, shape (n_epochs, n_freqs)
        Density in µV²/Hz.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        All features of :func:`spectral_features` except those that begin with ``rfft_``,
        ``slow_fast_delta_ratio`` and the aperiodic line.

    Examples
    --------
    >>> flat = spectrum_features(np.arange(51.0), np.ones((1, 51)))  # 1 µV²/Hz at 0 … 50 Hz
    >>> flat["theta_power_uv2"], flat["total_power_uv2"], flat["spectral_flatness"]
    (array([4.]), array([39.5]), array([1.]))
    """
    return {
        **_power_features(freqs_hz, psd_uv2),
        **_shape_features(*_select_band(freqs_hz, psd_uv2, BROAD_BAND_HZ)),
    }


def _power_features(freqs_hz: NDArray, psd: NDArray) -> dict[str, NDArray]:
    """Absolute, total and relative band powers, and their ratios."""
    powers = {band: band_power(freqs_hz, psd, limits) for band, limits in BANDS_HZ.items()}
    total = band_power(freqs_hz, psd, BROAD_BAND_HZ)

    def sum_of(bands: Sequence[str]) -> NDArray:
        return np.sum([powers[band] for band in bands], axis=0)

    return {
        **{f"{band}_power_uv2": power for band, power in powers.items()},
        "total_power_uv2": total,
        **{f"{band}_power_rel": power / total for band, power in powers.items()},
        **{name: sum_of(above) / sum_of(below) for name, (above, below) in RATIOS.items()},
    }


def _aperiodic_line(freqs_hz: NDArray, psd: NDArray) -> dict[str, NDArray]:
    """Fit a line to the decimal logarithms of density and frequency by least squares."""
    x, y = np.log10(freqs_hz), np.log10(psd)
    x_centred = x - x.mean()
    slope = y @ x_centred / (x_centred @ x_centred)
    return {"aperiodic_slope": slope, "aperiodic_offset": y.mean(axis=1) - slope * x.mean()}


@some_at_once
def _rfft_band_energies(x: NDArray[np.float64], sfreq_hz: float) -> dict[str, NDArray]:
    freqs_hz = fft.rfftfreq(x.shape[1], 1 / sfreq_hz)
    spectrum = fft.rfft(x, axis=1)
    energy = spectrum.real**2 + spectrum.imag**2
    bands = {
        f"rfft_{band}_uv2": _select_band(freqs_hz, energy, limits)[1].sum(axis=1)
        for band, limits in RFFT_BANDS_HZ.items()
    }
    rest = rfft_rest(np.vecdot(x, x), x.mean(axis=1), list(bands.values()), x.shape[1])
    return {**bands, "rfft_rest_uv2": rest}


def rfft_rest(energy: NDArray, mean: NDArray, bands: Sequence[NDArray], n_samples: int) -> NDArray:
    """Compute the part of the sum of |rfft|² that is in no band: below 0.5 Hz and above 30 Hz.

    By Parseval's theorem the sum of |rfft(x)|² over the positive frequencies is (n Σx² − (n mean)²) / 2 for
    n samples, so it follows from columns of the published table. Three bins (4, 8 and 13 Hz) belong to two
    bands each and are subtracted twice, so the result can be slightly negative.

    Parameters
    ----------
    energy, mean : ndarray, shape (n_epochs,)
        Sum of squares and mean of an epoch's samples.
    bands : sequence of ndarray, shape (n_epochs,)
        The published bands' sums of |rfft|².
    n_samples : int
        Samples in an epoch.

    Returns
    -------
    ndarray, shape (n_epochs,)
        In the unit of `energy`, times samples.

    Examples
    --------
    >>> x = np.sin(2 * np.pi * 40 * np.arange(3000) / 100)  # 40 Hz is above all bands
    >>> float(rfft_rest((x**2).sum(), x.mean(), [], 3000).round(3))
    2250000.0
    """
    return (n_samples * energy - (n_samples * mean) ** 2) / 2 - sum(bands)


def _shape_features(freqs_hz: NDArray, psd: NDArray) -> dict[str, NDArray]:
    """Entropy, peak, edges, centroid and flatness of a spectrum, (n_epochs, n_freqs)."""
    total = psd.sum(axis=1)
    power = integrate.cumulative_trapezoid(psd, freqs_hz, axis=1, initial=0)
    return {
        "spectral_entropy": entropy_bits(psd) / np.log2(len(freqs_hz)),
        "peak_frequency_hz": np.where(total > 0, freqs_hz[psd.argmax(axis=1)], np.nan),
        "median_frequency_hz": _edge_frequency(freqs_hz, power, 0.5),
        "edge_frequency_95_hz": _edge_frequency(freqs_hz, power, 0.95),
        "spectral_centroid_hz": psd @ freqs_hz / total,
        "spectral_flatness": np.exp(np.log(psd).mean(axis=1)) / psd.mean(axis=1),
    }


def _edge_frequency(freqs_hz: NDArray, power: NDArray, share: float) -> NDArray:
    """Find the frequency below which `share` of the power lies, linear between bins; NaN without power.

    `power` is that below each frequency, (n_epochs, n_freqs).
    """
    target = share * power[:, -1:]
    upper = np.clip((power < target).sum(axis=1), 1, len(freqs_hz) - 1)
    rows = np.arange(len(power))
    below, above = power[rows, upper - 1], power[rows, upper]
    step = freqs_hz[upper] - freqs_hz[upper - 1]
    return freqs_hz[upper - 1] + step * (target[:, 0] - below) / (above - below)


def _select_band(freqs_hz: NDArray, spectrum: NDArray, band: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Select the bins with lo ≤ f ≤ hi, and the spectrum there."""
    inside = (freqs_hz >= band[0]) & (freqs_hz <= band[1])
    return freqs_hz[inside], spectrum[:, inside]


def band_power(freqs_hz: NDArray, psd: NDArray, band: tuple[float, float]) -> NDArray:
    """Integrate by trapezoids from edge to edge; a density between two bins is interpolated."""
    inside = (freqs_hz > band[0]) & (freqs_hz < band[1])
    at = np.concatenate([[band[0]], freqs_hz[inside], [band[1]]])
    first, last = (_density_at(freqs_hz, psd, edge) for edge in band)
    return integrate.trapezoid(np.column_stack([first, psd[:, inside], last]), at, axis=1)


def _density_at(freqs_hz: NDArray, psd: NDArray, frequency_hz: float) -> NDArray:
    right = np.clip(np.searchsorted(freqs_hz, frequency_hz), 1, len(freqs_hz) - 1)
    share = (frequency_hz - freqs_hz[right - 1]) / (freqs_hz[right] - freqs_hz[right - 1])
    return (1 - share) * psd[:, right - 1] + share * psd[:, right]


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
