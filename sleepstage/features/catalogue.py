"""What the features of an epoch are: their order, units, meaning and sources.

:mod:`sleepstage.feature_families` computes what is listed here. Bands, ratios and wavelet scales are
defined once, in this module, and both the names and the computation follow from them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

DEFINITIONS_VERSION = 1
"""Goes up whenever a feature's definition changes; an adapter records the one it was trained with."""


INDEX: tuple[str, ...] = ("subject", "recording", "epoch")
"""The index levels of a feature table."""


NIGHT: list[str] = ["subject", "recording"]
"""The levels that name a night: ``table.groupby(level=NIGHT)`` gives the nights one by one."""


META_COLUMNS: tuple[str, ...] = ("stage", "quality")
"""The columns of a feature table that are not features."""


BANDS_HZ: dict[str, tuple[float, float]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "sigma": (12.0, 16.0),
    "beta": (16.0, 30.0),
    "gamma": (30.0, 40.0),
}
"""The bands of the Welch spectrum (those of YASA); together they are one gapless range, 0.5–40 Hz."""


BROAD_BAND_HZ: tuple[float, float] = (0.5, 40.0)
"""The range over which total power, entropy, edges, centroid, peak and flatness are taken."""


RFFT_BANDS_HZ: dict[str, tuple[float, float]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
}
"""The bands of the published 58-subject table. Not those of `BANDS_HZ`: alpha and beta meet at 13 Hz."""


RATIOS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "delta_theta_ratio": (("delta",), ("theta",)),
    "delta_alpha_ratio": (("delta",), ("alpha",)),
    "delta_sigma_ratio": (("delta",), ("sigma",)),
    "delta_beta_ratio": (("delta",), ("beta",)),
    "theta_beta_ratio": (("theta",), ("beta",)),
    "alpha_theta_ratio": (("alpha",), ("theta",)),
    "alpha_beta_ratio": (("alpha",), ("beta",)),
    "sigma_theta_ratio": (("sigma",), ("theta",)),
    "sigma_beta_ratio": (("sigma",), ("beta",)),
    "slow_fast_ratio": (("delta", "theta"), ("alpha", "sigma", "beta")),
}
"""A ratio's name and the bands whose Welch powers are summed above and below the line."""


WAVELET = "db4"


WAVELET_SCALES_HZ: dict[str, tuple[float, float]] = {
    "d1": (25.0, 50.0),
    "d2": (12.5, 25.0),
    "d3": (6.25, 12.5),
    "d4": (3.125, 6.25),
    "d5": (1.5625, 3.125),
    "a5": (0.0, 1.5625),
}
"""The nominal range of each wavelet scale at 100 Hz; at another rate the ranges scale with it."""


PUBLISHED_TABLE_COLUMNS: dict[str, tuple[str, float]] = {
    "mean": ("mean_uv", 1e6),
    "std": ("std_uv", 1e6),
    "var": ("var_uv2", 1e12),
    "min": ("min_uv", 1e6),
    "max": ("max_uv", 1e6),
    "energy": ("energy_uv2", 1e12),
    "delta": ("rfft_delta_uv2", 1e12),
    "theta": ("rfft_theta_uv2", 1e12),
    "alpha": ("rfft_alpha_uv2", 1e12),
    "beta": ("rfft_beta_uv2", 1e12),
}
"""A column of the published 58-subject table → (our feature, factor from V or V² to µV or µV²).

The table is that of the repository
ArthuuRRRRR/Metaheuristic-Hyperparameter-Optimization-for-Subject-Independent-Single-Channel-EEG-Sleep-Staging
(MIT), computed from Sleep-EDF Expanded.
"""


PUBLISHED_N_SAMPLES = 3000
"""Samples in an epoch of that table: 30 s at 100 Hz."""


_PUBLISHED = "the published 58-subject table (see PUBLISHED_TABLE_COLUMNS)"


_DESCRIPTIVE = "descriptive statistics (NumPy)"


_KEDEM = "Kedem 1986, Proc IEEE 74:1477"


_ESTELLER = "Esteller et al. 2001, Proc IEEE EMBS 23:1707"


_HJORTH = "Hjorth 1970, doi:10.1016/0013-4694(70)90143-4"


_ROSSO = "Rosso et al. 2001, doi:10.1016/S0165-0270(00)00356-3"


_JOANES = "Joanes & Gill 1998, doi:10.1111/1467-9884.00122"


_WELCH = "Welch 1967, doi:10.1109/TAU.1967.1161901"


_VALLAT = "Vallat & Walker 2021 (YASA), doi:10.7554/eLife.70092"


_INOUYE = "Inouye et al. 1991, doi:10.1016/0013-4694(91)90138-T"


_RAMPIL = "Rampil 1998, Anesthesiology 89:980"


_PARSEVAL = "Parseval's theorem on the published columns (see rfft_rest)"


_GRAY = "Gray & Markel 1974, doi:10.1109/TASSP.1974.1162572"


_Row = tuple[str, str, str, str]  # name, unit, meaning, source


_TIME_ROWS: tuple[_Row, ...] = (
    ("mean_uv", "µV", "mean: the offset", _PUBLISHED),
    ("std_uv", "µV", "standard deviation (divided by n)", _PUBLISHED),
    ("var_uv2", "µV²", "variance (divided by n)", _PUBLISHED),
    ("rms_uv", "µV", "root of the mean square, offset included", _DESCRIPTIVE),
    ("min_uv", "µV", "smallest sample", _PUBLISHED),
    ("max_uv", "µV", "largest sample", _PUBLISHED),
    ("ptp_uv", "µV", "peak to peak: largest minus smallest sample", _DESCRIPTIVE),
    ("zero_crossings", "count", "sign changes of the epoch after its mean is taken away", _KEDEM),
    ("line_length_uv", "µV", "sum of the absolute steps from sample to sample", _ESTELLER),
    ("iqr_uv", "µV", "interquartile range: a spread that outliers do not move", _DESCRIPTIVE),
    ("energy_uv2", "µV²", "sum of the squared samples, offset included", _PUBLISHED),
)


_HJORTH_ROWS: tuple[_Row, ...] = (
    ("activity_uv2", "µV²", "variance of the signal (equal to var_uv2 by definition)", _HJORTH),
    ("mobility", "1/sample", "std of the first difference over std of the signal", _HJORTH),
    ("complexity", "1", "mobility of the first difference over mobility; 1 for a sine", _HJORTH),
)


_MOMENT_ROWS: tuple[_Row, ...] = (
    ("skewness", "1", "third standardized moment: asymmetry, 0 when symmetric", _JOANES),
    ("kurtosis", "1", "excess (Fisher) kurtosis: weight of the tails, 0 for a normal distribution", _JOANES),
)


_SHAPE_ROWS: tuple[_Row, ...] = (
    (
        "spectral_entropy",
        "1",
        "Shannon entropy of the spectrum over its maximum: 0 one line, 1 flat",
        _INOUYE,
    ),
    ("peak_frequency_hz", "Hz", "frequency of the spectrum's largest value", _WELCH),
    ("median_frequency_hz", "Hz", "frequency below which half of the power lies", _RAMPIL),
    ("edge_frequency_95_hz", "Hz", "frequency below which 95 % of the power lies", _RAMPIL),
    ("spectral_centroid_hz", "Hz", "mean frequency, weighted by power", _RAMPIL),
    (
        "spectral_flatness",
        "1",
        "geometric over arithmetic mean of the spectrum: 1 flat, 0 peaked",
        _GRAY,
    ),
)


def describe_features(names: Iterable[str] | None = None) -> pd.DataFrame:
    """Every feature with its family, unit, meaning and source.

    Parameters
    ----------
    names : iterable of str, optional
        The features to describe, in this order, those among them that only a spectrogram has
        (``<band>_power_change``, see :func:`sleepstage.read_contest`). By default all that
        :func:`sleepstage.extract_features` gives, in the order of its columns.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``feature``, with the string columns ``family`` (time, hjorth, wavelet, moment,
        spectral), ``unit``, ``meaning`` and ``source``. A unit of ``1`` is a number without dimension.

    Raises
    ------
    ValueError
        If a name is of no feature.

    Notes
    -----
    Spectral features are taken over 0.5–40 Hz of Welch's spectrum unless they begin with ``rfft_``, and
    from the spectrogram where that is all there is.
    """
    families = {
        "time": _TIME_ROWS,
        "hjorth": _HJORTH_ROWS,
        "wavelet": _wavelet_rows(),
        "moment": _MOMENT_ROWS,
        "spectral": (*_power_rows(), *_ratio_rows(), *_SHAPE_ROWS, *_rfft_rows()),
    }
    if names is not None:
        families["spectral"] = (*families["spectral"], *_power_change_rows())
    rows = [(name, family, *rest) for family, members in families.items() for name, *rest in members]
    about = pd.DataFrame(rows, columns=["feature", "family", "unit", "meaning", "source"]).set_index(
        "feature"
    )
    if names is None:
        return about
    names = list(names)
    if unknown := [name for name in names if name not in about.index]:
        raise ValueError(f"there are no features {unknown}; describe_features() lists all of a signal's")
    return about.loc[names]


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of a table's feature columns, in their order: all but `META_COLUMNS`."""
    return [name for name in table.columns if name not in META_COLUMNS]


def _wavelet_rows() -> list[_Row]:
    scales = {
        name: f"{name.upper()} ({lo:g}–{hi:g} Hz at 100 Hz)" for name, (lo, hi) in WAVELET_SCALES_HZ.items()
    }
    entropies = [
        (f"wavelet_entropy_{name}", "bit", f"Shannon entropy of the coefficients' energies at {text}", _ROSSO)
        for name, text in scales.items()
    ]
    across = ("wavelet_entropy", "bit", "Shannon entropy of the relative energies of the six scales", _ROSSO)
    energies = [
        (f"wavelet_energy_rel_{name}", "1", f"share of the wavelet energy at {text}", _ROSSO)
        for name, text in scales.items()
    ]
    return [*entropies, across, *energies]


def _power_rows() -> list[_Row]:
    absolute = [
        (f"{band}_power_uv2", "µV²", f"{band} power ({lo:g}–{hi:g} Hz)", _WELCH)
        for band, (lo, hi) in BANDS_HZ.items()
    ]
    lo, hi = BROAD_BAND_HZ
    total = ("total_power_uv2", "µV²", f"power in {lo:g}–{hi:g} Hz", _WELCH)
    relative = [
        (f"{band}_power_rel", "1", f"{band} power over the power in {lo:g}–{hi:g} Hz", _VALLAT)
        for band in BANDS_HZ
    ]
    return [*absolute, total, *relative]


def _power_change_rows() -> list[_Row]:
    """What a spectrogram tells and one spectrum of an epoch does not."""
    return [
        (
            f"{band}_power_change",
            "1",
            f"change of {band} power within the epoch: std of its natural logarithm over the spectrogram",
            _DESCRIPTIVE,
        )
        for band in BANDS_HZ
    ]


def _rfft_rows() -> list[_Row]:
    meaning = "sum of |rfft|² over {lo:g} ≤ f ≤ {hi:g} Hz, raw signal; grows with the epoch's length squared"
    bands = [
        (f"rfft_{band}_uv2", "µV²", meaning.format(lo=lo, hi=hi), _PUBLISHED)
        for band, (lo, hi) in RFFT_BANDS_HZ.items()
    ]
    rest = (
        "what the four bands leave of sum of |rfft|²: slow drift below them, muscle above; the offset is out"
    )
    return [*bands, ("rfft_rest_uv2", "µV²", rest, _PARSEVAL)]


def _ratio_rows() -> list[_Row]:
    return [
        (name, "1", f"{' + '.join(above)} power over {' + '.join(below)} power", _WELCH)
        for name, (above, below) in RATIOS.items()
    ]
