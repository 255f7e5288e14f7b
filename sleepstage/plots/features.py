"""Pictures of features: which say the same, how one runs through the night, the spectrum of an epoch.

As in ``plots.py``, every function draws on the Axes that it is given, or on new ones, and returns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from scipy.signal import welch

from ..features.catalogue import BANDS_HZ
from ..features.statistics import correlation_clusters
from ..stages import HYPNOGRAM_ORDER, STAGE_CODES, STAGE_COLORS, STAGES, UNSCORED, stage_codes
from .style import INK, TEXT_PT, dress, epoch_edges, new_axes, on_grid, runs, time_axis


def plot_features_by_stage(
    table: pd.DataFrame, features: Sequence[str], axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw how features are distributed in each of the expert's stages, one panel a feature.

    Parameters
    ----------
    table : DataFrame
        A feature table with a `stage` column; unscored epochs are left out.
    features : sequence of str
        Columns to draw.
    axes : sequence of Axes, optional
        Where to draw, one a feature.

    Returns
    -------
    ndarray of Axes, shape (n_features,)

    Notes
    -----
    A box holds the middle half of the epochs and its line is the median; whiskers end at the 5th and the
    95th percentile, and what lies outside is not drawn, so that artefacts do not squash the rest.

    Raises
    ------
    ValueError
        When a feature is not in the table, no epoch is scored, or there are too few axes.
    """
    missing = [name for name in features if name not in table]
    if missing or not len(features):
        raise ValueError(
            f"the table has no features {missing or 'named'}; it has {', '.join(table.columns[:8])}, …"
        )
    scored = table[stage_codes(table["stage"]) != UNSCORED]
    if scored.empty:
        raise ValueError(f"none of the table's {len(table)} epochs is scored, so no stage has a distribution")
    axes = _panels(len(features)) if axes is None else np.ravel(axes)
    if len(axes) < len(features):
        raise ValueError(f"{len(features)} features need as many axes; got {len(axes)}")
    for feature, ax in zip(features, axes, strict=False):
        _box_per_stage(scored, feature, ax)
    return axes[: len(features)]


def _panels(n: int) -> np.ndarray:
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    size = (3.4 * n_columns, 3 * n_rows)
    axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)[1].ravel()
    for spare in axes[n:]:
        spare.remove()
    return axes[:n]


def _box_per_stage(scored: pd.DataFrame, feature: str, ax: Axes) -> None:
    values = scored[feature].dropna()
    drawn = ax.boxplot(
        [values[scored["stage"] == code] for code in range(len(STAGES))],
        tick_labels=STAGES,
        whis=(5, 95),
        showfliers=False,
        widths=0.65,
        patch_artist=True,
        boxprops={"edgecolor": INK},
        medianprops={"color": "white", "linewidth": 2.5, "solid_capstyle": "butt"},
    )
    for box, stage in zip(drawn["boxes"], STAGES, strict=True):
        box.set_facecolor(STAGE_COLORS[stage])
    dress(ax, title=feature)


_GROUND_ALPHA = 0.45  # the line stays legible on the darkest stage


_GROUND_HATCH = {"W": "..", "REM": "///"}  # in grey, W would pass for N1, and REM for N2 or N3


def plot_feature_correlations(table: pd.DataFrame, ax: Axes | None = None, threshold: float = 0.8) -> Axes:
    """Draw how strongly each two features correlate, clusters that say the same side by side.

    Parameters
    ----------
    table : DataFrame
        A feature table.
    ax : Axes, optional
        Where to draw.
    threshold : float
        As in :func:`sleepstage.correlation_clusters`, whose clusters of two and more are framed.

    Raises
    ------
    ValueError
        As :func:`sleepstage.correlation_clusters` does.

    Notes
    -----
    Spearman's ρ without its sign, so that the picture says the same in grey; a dash marks ρ < −0.2.
    """
    cluster = correlation_clusters(table, threshold)
    rho = table[cluster.index].corr("spearman").to_numpy()
    size = 3 + 0.24 * len(rho)
    ax = ax or new_axes(width=size + 1, height=size)
    sns.heatmap(
        pd.DataFrame(np.abs(rho), cluster.index, cluster.index.rename(None)),
        vmin=0,
        vmax=1,
        cmap="Blues",
        square=True,
        xticklabels=True,
        yticklabels=True,
        cbar_kws={"shrink": 0.5},
        ax=ax,
    )
    bar = ax.collections[0].colorbar
    bar.set_label("|ρ| (Spearman); a dash: ρ < −0.2", fontsize=TEXT_PT)
    bar.ax.tick_params(labelsize=TEXT_PT)
    rows, columns = np.nonzero(rho < -0.2)
    dash_colors = np.where(rho[rows, columns] < -0.6, "white", INK)
    ax.scatter(columns + 0.5, rows + 0.5, s=30, marker="_", c=dash_colors)
    for members in cluster.groupby(cluster).indices.values():
        first, end = members[0], members[-1] + 1
        if len(members) > 1:
            corners = [first, first, end, end, first], [first, end, end, first, first]
            ax.plot(*corners, color="white", linewidth=6)  # so that the frame shows in grey
            ax.plot(*corners, color=STAGE_COLORS["REM"], linewidth=2.5)
    return dress(ax, x="", y="")


def plot_feature_course(
    table: pd.DataFrame,
    feature: str,
    start: datetime | None = None,
    ax: Axes | None = None,
    log: bool = False,
) -> Axes:
    """Draw how a feature runs through a night, over the expert's stages as a coloured ground.

    Parameters
    ----------
    table : DataFrame
        The feature table of one recording. Epochs that it leaves out, and NaN, are gaps.
    feature : str
        The column to draw.
    start : datetime, optional
        Start of the recording; the time axis then shows clock time.
    ax : Axes, optional
        Where to draw.
    log : bool
        Draw on a logarithmic axis, as powers want it; what is not positive is a gap.

    Raises
    ------
    ValueError
        When the feature is not in the table, or the table holds more than one recording.

    Notes
    -----
    The height spans the 0.5th to the 99.5th percentile, so that artefacts do not squash the rest.
    """
    if feature not in table:
        raise ValueError(
            f"the table has no feature {feature!r}; it has {', '.join(map(str, table.columns[:8]))}, …"
        )
    values = on_grid(table, table[feature].to_numpy(float), np.nan)
    if log:
        values = np.where(values > 0, values, np.nan)
    stages = on_grid(table, stage_codes(table["stage"]), UNSCORED)
    ax = ax or new_axes(height=3.6)
    edges = epoch_edges(len(values))
    for stage in HYPNOGRAM_ORDER:
        for first, end in runs(stages == STAGE_CODES[stage]):
            ax.axvspan(edges[first], edges[end], zorder=0, **_ground(stage))
    ax.stairs(values, edges, baseline=None, color=INK, linewidth=1.2)
    if log:
        ax.set_yscale("log")
    if np.isfinite(values).any():
        ax.set_ylim(_limits(values, log))
    grounds = [Patch(label=stage, **_ground(stage)) for stage in HYPNOGRAM_ORDER]
    ax.legend(
        handles=grounds, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False, fontsize=TEXT_PT
    )
    time_axis(ax, len(values), start)
    return dress(ax, y=feature)


def _ground(stage: str) -> dict:
    """Give the look of a stage's ground: its colour, and a hatch that can be told in grey."""
    face = (*to_rgb(STAGE_COLORS[stage]), _GROUND_ALPHA)
    return {
        "facecolor": face,
        "edgecolor": (0, 0, 0, 0.25),
        "hatch": _GROUND_HATCH.get(stage),
        "linewidth": 0,
    }


def _limits(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Span the 0.5th to the 99.5th percentile of values of which some are finite, with a margin."""
    low = np.nanpercentile(values, 0.5, method="higher")  # no mean of an artefact and its neighbour
    high = np.nanpercentile(values, 99.5, method="lower")
    if log:
        margin = (high / low) ** 0.05 if high > low else 2
        return low / margin, high * margin
    margin = 0.05 * (high - low) or 1
    return low - margin, high + margin


def plot_spectrum(eeg_uv: ArrayLike, sfreq_hz: float, ax: Axes | None = None) -> Axes:
    """Draw the spectrum of one epoch from 0.5 to 40 Hz, the bands named.

    Parameters
    ----------
    eeg_uv : array-like, shape (n_samples,)
        The signal in microvolts.
    sfreq_hz : float
        Sampling frequency.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    ValueError
        When `eeg_uv` is not one-dimensional.

    Notes
    -----
    Welch's method with 4-s windows, as the spectral features have it.
    """
    signal = np.asarray(eeg_uv, dtype=float)
    if signal.ndim != 1:
        raise ValueError(
            f"eeg_uv has shape {signal.shape}; expected one epoch, for example recording.eeg_uv[100]"
        )
    freqs_hz, psd = welch(signal - signal.mean(), sfreq_hz, nperseg=min(len(signal), round(4 * sfreq_hz)))
    ax = ax or new_axes(width=8, height=4)
    for i, (band, (low, high)) in enumerate(BANDS_HZ.items()):
        ax.axvspan(low, high, color=("#E6E6E6", "#F6F6F6")[i % 2], lw=0, zorder=0)
        letter = {"delta": "δ", "theta": "θ", "alpha": "α", "sigma": "σ", "beta": "β", "gamma": "γ"}[band]
        ax.text(
            (low + high) / 2, 1.02, letter, ha="center", fontsize=TEXT_PT, transform=ax.get_xaxis_transform()
        )
    ax.plot(freqs_hz[1:], psd[1:], color=INK, linewidth=1.8)
    ax.set(xlim=(0.5, 40), yscale="log")
    return dress(ax, x="Frequency (Hz)", y="Power (µV²/Hz)")
