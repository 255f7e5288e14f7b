"""Features of an epoch's samples: amplitude, Hjorth's parameters, wavelet scales, moments.

Each family is a function on arrays. It takes all epochs of a night at once, an array ``eeg_uv`` of shape
``(n_epochs, n_samples)`` in µV, and returns a dictionary from feature name to an array of shape
``(n_epochs,)``. Everything is computed in float64. A feature that is undefined for an epoch (a ratio with a
denominator of 0, the kurtosis of a constant) is NaN, without a warning. Names, units, meanings and sources
stand in :func:`sleepstage.features.catalogue.describe_features`. The other families are in ``spectral.py``
and ``log_power.py``.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np
import pywt
from numpy.typing import ArrayLike, NDArray

from .catalogue import WAVELET, WAVELET_SCALES_HZ

EPOCHS_AT_ONCE = 64
"""So many epochs, and what is computed of them, stay in the processor's cache; a whole night does not."""


def undefined_is_nan(family: Callable[..., dict[str, NDArray]]) -> Callable[..., dict[str, NDArray]]:
    """Let a family divide by 0 without a warning, and return NaN where a feature is not a finite number."""

    @wraps(family)
    def compute(*args: Any, **kwargs: Any) -> dict[str, NDArray]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            features = family(*args, **kwargs)
        return {name: np.where(np.isfinite(values), values, np.nan) for name, values in features.items()}

    return compute


def some_at_once(family: Callable[..., dict[str, NDArray]]) -> Callable[..., dict[str, NDArray]]:
    """Compute `EPOCHS_AT_ONCE` epochs at once, in float64: faster, and no copy of the night is made."""

    @wraps(family)
    def compute(eeg_uv: ArrayLike, *args: Any) -> dict[str, NDArray]:
        x = as_epochs(eeg_uv)
        parts = [family(x[rows].astype(np.float64), *args) for rows in pieces(len(x))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return compute


def pieces(n_epochs: int) -> Iterator[slice]:
    """Give the rows of `EPOCHS_AT_ONCE` epochs after the other.

    >>> list(pieces(100))
    [slice(0, 64, None), slice(64, 100, None)]
    """
    for start in range(0, n_epochs, EPOCHS_AT_ONCE):
        yield slice(start, min(start + EPOCHS_AT_ONCE, n_epochs))


@undefined_is_nan
@some_at_once
def time_features(eeg_uv: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute amplitude, energy and variation in time.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    dict of str to ndarray, shape (n_epochs,)
        ``mean_uv``, ``std_uv``, ``var_uv2`` (both divided by n), ``rms_uv``, ``min_uv``,
        ``max_uv``, ``ptp_uv``, ``zero_crossings``, ``line_length_uv``, ``iqr_uv``, ``energy_uv2``,
        ``permutation_entropy`` (of order 3 and delay 1, between 0 and 1).

    Raises
    ------
    ValueError
        If `eeg_uv` is not of shape (n_epochs, n_samples).

    Notes
    -----
    Zero crossings are counted after the epoch's mean is subtracted, so that an amplifier's offset does not
    hide them. They are the changes of ``signbit``; a sample of exactly 0 counts as positive.

    Examples
    --------
    >>> features = time_features([[3.0, -1.0, 2.0, 0.0]])
    >>> features["ptp_uv"], features["zero_crossings"], features["line_length_uv"]
    (array([4.]), array([3.]), array([9.]))
    """
    centred = without_mean(eeg_uv)
    var = np.vecdot(centred, centred) / eeg_uv.shape[1]
    energy = np.vecdot(eeg_uv, eeg_uv)
    smallest, largest = eeg_uv.min(axis=1), eeg_uv.max(axis=1)
    negative = np.signbit(centred)
    return {
        "mean_uv": eeg_uv.mean(axis=1),
        "std_uv": np.sqrt(var),
        "var_uv2": var,
        "rms_uv": np.sqrt(energy / eeg_uv.shape[1]),
        "min_uv": smallest,
        "max_uv": largest,
        "ptp_uv": largest - smallest,
        "zero_crossings": _count(negative[:, 1:] != negative[:, :-1]),
        "line_length_uv": np.abs(np.diff(eeg_uv, axis=1)).sum(axis=1),
        "iqr_uv": _interquartile_range(eeg_uv),
        "energy_uv2": energy,
        "permutation_entropy": _permutation_entropy(eeg_uv),
    }


def _count(is_so: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Count the True of each row; of bits it takes a third of the time that it takes of booleans."""
    return np.bitwise_count(np.packbits(is_so, axis=1)).sum(axis=1, dtype=np.float64)


def _interquartile_range(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the quartiles, linear between samples, as `np.quantile` does in three times the time."""
    at = (x.shape[1] - 1) * np.array([0.25, 0.75])
    below = at.astype(int)
    above = np.minimum(below + 1, x.shape[1] - 1)
    ordered = np.partition(x, np.unique([below, above]), axis=1)
    lower, upper = (ordered[:, below] + (at - below) * (ordered[:, above] - ordered[:, below])).T
    return np.where(np.isnan(x.sum(axis=1)), np.nan, upper - lower)  # NaN is sorted behind all numbers


def _permutation_entropy(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of the six orders that three samples in a row can have, over its maximum; ties are rises."""
    rises, rises_twice = x[:, :-1] <= x[:, 1:], x[:, :-2] <= x[:, 2:]
    first, then = rises[:, :-1], rises[:, 1:]
    peaks, troughs = first & ~then, ~first & then
    up, down = _count(first & then), _count(~(first | then))
    high_peaks, high_troughs = _count(peaks & rises_twice), _count(troughs & rises_twice)
    low_peaks, low_troughs = _count(peaks) - high_peaks, _count(troughs) - high_troughs
    orders = np.stack([up, down, high_peaks, low_peaks, high_troughs, low_troughs], axis=1)
    return np.where(np.isnan(x.sum(axis=1)), np.nan, entropy_bits(orders) / np.log2(6))


@undefined_is_nan
@some_at_once
def hjorth_features(eeg_uv: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute Hjorth's activity, mobility and complexity.

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
    Mobility depends on the sampling rate; multiplied by ``sfreq_hz`` it is in 1/s.

    Examples
    --------
    >>> sine = 20 * np.sin(2 * np.pi * 5 * np.arange(3000) / 100)
    >>> {name: float(value.round(2)[0]) for name, value in hjorth_features([sine]).items()}
    {'activity_uv2': 200.0, 'mobility': 0.31, 'complexity': 1.0}
    """
    x = without_mean(eeg_uv)
    step = np.diff(x, axis=1)
    activity, step_var, second_var = (_variance(values) for values in (x, step, np.diff(step, axis=1)))
    mobility = np.sqrt(step_var / activity)
    complexity = np.sqrt(second_var / step_var) / mobility
    return {"activity_uv2": activity, "mobility": mobility, "complexity": complexity}


def _variance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute rows' variances without a copy; the rows' means are near 0, so nothing cancels."""
    return np.vecdot(x, x) / x.shape[1] - x.mean(axis=1) ** 2


@undefined_is_nan
@some_at_once
def wavelet_features(eeg_uv: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute entropies and relative energies of a db4 wavelet decomposition at level 5.

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
    The epoch's mean is subtracted first, because otherwise it would dominate A5. The signal is mirrored at
    its ends (``symmetric``), because a periodic extension would put a step into the small coefficients of D1.
    At 100 Hz the scales are, nominally, D1 25–50 Hz, D2 12.5–25, D3 6.25–12.5, D4 3.125–6.25, D5
    1.5625–3.125, A5 0–1.5625. Source: Rosso et al. 2001, doi:10.1016/S0165-0270(00)00356-3.

    Examples
    --------
    >>> sine = np.sin(2 * np.pi * 18 * np.arange(3000) / 100)  # 18 Hz is in D2
    >>> wavelet_features([sine])["wavelet_energy_rel_d2"].round(1)
    array([0.9])
    """
    level = len(WAVELET_SCALES_HZ) - 1
    if pywt.dwt_max_level(eeg_uv.shape[1], WAVELET) < level:
        raise ValueError(
            f"got epochs of {eeg_uv.shape[1]} samples, too short for {level} levels of {WAVELET}; "
            "give whole 30-s epochs, 3000 samples at 100 Hz"
        )
    coefficients = pywt.wavedec(without_mean(eeg_uv), WAVELET, mode="symmetric", level=level, axis=1)
    squares = {name: scale**2 for name, scale in zip(WAVELET_SCALES_HZ, reversed(coefficients), strict=True)}
    energies = np.stack([square.sum(axis=1) for square in squares.values()], axis=1)
    shares = energies / energies.sum(axis=1, keepdims=True)
    return {
        **{f"wavelet_entropy_{name}": entropy_bits(square) for name, square in squares.items()},
        "wavelet_entropy": entropy_bits(energies),
        **{f"wavelet_energy_rel_{name}": share for name, share in zip(squares, shares.T, strict=True)},
    }


@undefined_is_nan
@some_at_once
def moment_features(eeg_uv: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute skewness and excess (Fisher) kurtosis, not corrected for bias.

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
    With m_k the k-th central moment: skewness = m_3 / m_2^1.5, kurtosis = m_4 / m_2^2 - 3 (Joanes & Gill
    1998, doi:10.1111/1467-9884.00122). SciPy's `skew` and `kurtosis` give the same values. They take
    four times as long, and they warn when an epoch is constant.

    Examples
    --------
    >>> moment_features([[0.0, 0.0, 0.0, 1.0]])["skewness"].round(4)
    array([1.1547])
    """
    centred = without_mean(eeg_uv)
    square = centred**2
    variance = square.mean(axis=1)
    third, fourth = (np.vecdot(square, other) / centred.shape[1] for other in (centred, square))
    return {"skewness": third / variance**1.5, "kurtosis": fourth / variance**2 - 3}


def without_mean(x: NDArray) -> NDArray:
    """Subtract each epoch's mean; a constant epoch becomes exactly 0, without a rounding error."""
    shifted = x - x[:, :1]
    shifted -= shifted.mean(axis=1, keepdims=True)
    return shifted


_TINY = np.finfo(np.float64).tiny  # has a logarithm, and 0 times it is 0


def entropy_bits(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Shannon's entropy in bits of each row's shares: −Σ p log p = log Σ e − Σ e log e / Σ e.

    >>> entropy_bits(np.array([[1.0, 1.0, 2.0, 0.0]]))
    array([1.5])
    """
    total = energies.sum(axis=1)
    return np.log2(total) - np.vecdot(energies, np.log2(np.maximum(energies, _TINY))) / total


def as_epochs(eeg_uv: ArrayLike) -> NDArray:
    """Return the epochs as an array (n_epochs, n_samples); raise a ValueError for any other shape."""
    x = np.asarray(eeg_uv)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(
            f"got an array of shape {x.shape}, expected (n_epochs, n_samples) with at least one of each; "
            "a single epoch goes in as eeg_uv[np.newaxis, :]"
        )
    return x
