"""What the features of an epoch are: their order, units, meanings and sources.

The catalogue is the file ``catalogue.tsv``, one row a feature. ``time_domain.py``, ``spectral.py`` and
``log_power.py`` compute what is listed there, with the bands, ratios and wavelet scales of this module.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pandas as pd

DEFINITIONS_VERSION = 1
"""Increases whenever the definition of a feature changes; an adapter records its own version."""


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
"""The bands of the Welch spectrum, as in YASA. Together they cover 0.5–40 Hz without a gap."""


BROAD_BAND_HZ: tuple[float, float] = (0.5, 40.0)
"""The range of the total power and of the features that describe the spectrum's shape."""


RFFT_BANDS_HZ: dict[str, tuple[float, float]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
}
"""The bands of the published 58-subject table. They differ from `BANDS_HZ`: alpha and beta meet at 13 Hz."""


FILTERED_BANDS: tuple[str, ...] = ("delta", "theta", "alpha", "sigma", "beta")
"""The bands of `BANDS_HZ` that the filter of ``log_power.py`` lets pass."""


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
"""Name of a ratio → the bands whose Welch powers are summed in the numerator and in the denominator."""


WAVELET = "db4"
"""The wavelet, by its name in PyWavelets."""


WAVELET_SCALES_HZ: dict[str, tuple[float, float]] = {
    "d1": (25.0, 50.0),
    "d2": (12.5, 25.0),
    "d3": (6.25, 12.5),
    "d4": (3.125, 6.25),
    "d5": (1.5625, 3.125),
    "a5": (0.0, 1.5625),
}
"""The nominal range of each wavelet scale at a sampling rate of 100 Hz."""


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
    **{f"log_{band}": (f"{band}_log_power", 1) for band in FILTERED_BANDS},
    **{f"rel_{band}": (f"{band}_share", 1) for band in FILTERED_BANDS},
}
"""Column of the published 58-subject table → our feature, and the factor from V or V² to µV or µV².

The first ten columns are in volts; they are those of the repository
ArthuuRRRRR/Metaheuristic-Hyperparameter-Optimization-for-Subject-Independent-Single-Channel-EEG-Sleep-Staging.
The other ten have no unit, and a table may lack them; they are those of rohnns/automated-sleep-staging. Both
repositories (MIT) computed them from Sleep-EDF Expanded.
"""


PUBLISHED_N_SAMPLES = 3000
"""Samples in an epoch of that table: 30 s at 100 Hz."""


def describe_features(names: Iterable[str] | None = None) -> pd.DataFrame:
    """Describe every feature: its family, unit, meaning and source.

    Parameters
    ----------
    names : iterable of str, optional
        The features to describe, in this order. The names ``<band>_power_change`` are known too; only a
        spectrogram has these features (see :func:`sleepstage.read_contest`). By default all features of
        :func:`sleepstage.extract_features`, in the order of its columns.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``feature``, with the string columns ``label`` (its name in words), ``family`` (time,
        hjorth, wavelet, moment, spectral, filtered), ``unit``, ``meaning`` and ``source``. A unit of ``1`` is
        a number without dimension.

    Raises
    ------
    ValueError
        If there is no feature of a name.

    Notes
    -----
    There are three kinds of band power; delta as an example:

    - ``delta_power_uv2``, ``delta_power_rel`` and the ratios: of Welch's spectrum of the raw epoch (mean of
      Hann windows), in µV² or as a share of 0.5–40 Hz. A spectrogram gives them too.
    - ``rfft_delta_uv2``: of the Fourier transform of the raw epoch as a whole, without a window, as in the
      published table. Slow drift leaks into all bands, most visibly into beta.
    - ``delta_log_power`` and ``delta_share``, the family ``filtered``: of Welch's spectrum (median of Hamming
      windows) of the signal filtered to 0.5–30 Hz. The unit is the variance of the whole recording, so no
      gain moves them; the share is one of the five bands, without gamma.

    Examples
    --------
    >>> describe_features(["mobility", "alpha_power_rel"])[["family", "unit"]]
                       family      unit
    feature
    mobility           hjorth  1/sample
    alpha_power_rel  spectral         1
    """
    about = _catalogue()
    if names is None:
        return about[~about.index.str.endswith("_power_change")]
    names = list(names)
    if unknown := [name for name in names if name not in about.index]:
        raise ValueError(f"there are no features {unknown}; describe_features() lists all of a signal's")
    return about.loc[names]


def feature_label(column: str, with_unit: bool = True) -> str:
    """Name a feature, or a ratio of two, in words and with its unit; a column of your own keeps its name.

    Examples
    --------
    >>> feature_label("rms_uv")
    'root mean square (µV)'
    >>> feature_label("rfft_delta_uv2/rfft_beta_uv2")
    'FFT delta power / FFT beta power'
    """
    about = _catalogue()
    words = " / ".join(about["label"].get(name, name) for name in column.split("/"))
    unit = about["unit"].get(column, "1")
    return f"{words} ({unit})" if with_unit and unit != "1" else words


@lru_cache
def _catalogue() -> pd.DataFrame:
    path = Path(__file__).with_name("catalogue.tsv")
    return pd.read_csv(path, sep="\t", dtype=str, index_col="feature", encoding="utf-8")


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of a table's feature columns, in their order: all but `META_COLUMNS`.

    Examples
    --------
    >>> feature_columns(pd.DataFrame(columns=["std_uv", "mobility", "stage"]))
    ['std_uv', 'mobility']
    """
    return [name for name in table.columns if name not in META_COLUMNS]


def missing_features(table: pd.DataFrame) -> pd.Series:
    """Say which features of the catalogue a table does not have, and why it cannot.

    Returns
    -------
    pandas.Series of str
        The reason by the feature's name.
    """
    reasons = {
        "spectral": "needs a finer spectrum than this table was made from",
        "wavelet": "needs the signal; a power spectrogram has lost the phase",
        "filtered": "needs the signal of the whole night without a gap",
    }
    family = describe_features()["family"].drop(index=list(table.columns), errors="ignore")
    return family.map(reasons).fillna("needs the signal's samples").rename("reason")
