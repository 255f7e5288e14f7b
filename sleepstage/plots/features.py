"""Features: their distribution in each stage, how they correlate, how one runs through the night.

Every function draws on the Axes that it is given, or on new ones, and returns them; none shows or saves.
"""

from collections.abc import Sequence
from datetime import datetime
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ..features.catalogue import feature_label
from ..features.statistics import correlation_clusters
from ..stages import HYPNOGRAM_ORDER, STAGE_CODES, STAGE_COLORS, STAGES, UNSCORED, stage_codes
from . import style


def plot_features_by_stage(
    table: pd.DataFrame, features: Sequence[str], axes: Sequence[Axes] | np.ndarray | None = None
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
    A box holds the middle half of the epochs; the line that sticks out of it on both sides is the median.
    Whiskers end at the 5th and the 95th percentile, and what lies outside is not drawn, so that artefacts do
    not squash the rest.

    Raises
    ------
    ValueError
        When a feature is not in the table, no epoch is scored, or there are too few axes.
    """
    _check_columns(table, features)
    scored = table[stage_codes(table["stage"]) != UNSCORED]
    if scored.empty:
        raise ValueError(f"none of the table's {len(table)} epochs is scored, so no stage has a distribution")
    panels = _panels(len(features)) if axes is None else np.ravel(np.array(axes))[: len(features)]
    if len(panels) < len(features):
        raise ValueError(f"{len(features)} features need as many axes; got {len(panels)}")
    for feature, ax in zip(features, panels, strict=True):
        _box_per_stage(scored, feature, ax)
    return panels


def _check_columns(table: pd.DataFrame, features: Sequence[str]) -> None:
    missing = [name for name in features if name not in table]
    if missing or not len(features):
        known = ", ".join(map(str, table.columns[:8]))
        raise ValueError(f"expected names of the table's features, got {missing}; the table has {known}, …")


def _panels(n: int) -> np.ndarray:
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    figure = plt.figure(figsize=(3.4 * n_columns, 3 * n_rows), layout="constrained")
    return np.array([figure.add_subplot(n_rows, n_columns, place) for place in range(1, n + 1)])


def _box_per_stage(scored: pd.DataFrame, feature: str, ax: Axes) -> None:
    values = scored[feature].dropna()
    by_stage = [values[scored["stage"] == code] for code in range(len(STAGES))]
    look: dict[str, Any] = {"whis": (5, 95), "showfliers": False, "widths": 0.65, "patch_artist": True}
    look["boxprops"] = {"edgecolor": style.INK}
    look["medianprops"] = {"color": style.INK, "linewidth": 2, "solid_capstyle": "butt"}
    drawn = ax.boxplot(by_stage, tick_labels=STAGES, **look)
    for box, stage in zip(drawn["boxes"], STAGES, strict=True):
        box.set_facecolor(STAGE_COLORS[stage])
    for place, median in enumerate(drawn["medians"], start=1):
        median.set_xdata([place - 0.45, place + 0.45])  # wider than the box, so that it shows on a dark one
    style.dress(ax, title=fill(feature_label(feature), 26))


def plot_feature_correlations(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how strongly each two features correlate, similar ones side by side.

    Parameters
    ----------
    table : DataFrame
        A feature table.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    ValueError
        As :func:`sleepstage.correlation_clusters` does.

    Notes
    -----
    The colour is Spearman's ρ without its sign, so that the picture says the same in grey; a dash marks
    ρ < −0.2. The frames are the clusters of two and more of :func:`sleepstage.correlation_clusters`.
    """
    cluster = correlation_clusters(table)
    rho = table[cluster.index].corr("spearman")
    size = max(9, 4 + 0.24 * len(rho))
    ax = ax or style.new_axes(width=size + 2, height=size)
    names = [feature_label(name) for name in rho]
    shape = {"square": True, "xticklabels": names, "yticklabels": names}
    sns.heatmap(rho.abs(), vmin=0, vmax=1, cmap="Blues", cbar_kws={"shrink": 0.5}, ax=ax, **shape)
    color_bar = ax.figure.axes[-1]
    color_bar.set_ylabel("|ρ| (Spearman); a dash: ρ < −0.2", fontsize=style.TEXT_PT)
    color_bar.tick_params(labelsize=style.TEXT_PT)
    rows, columns = np.nonzero(rho.to_numpy() < -0.2)
    dash_colors = np.where(rho.to_numpy()[rows, columns] < -0.6, "white", style.INK)
    ax.scatter(columns + 0.5, rows + 0.5, s=30, marker="_", c=dash_colors)
    for members in cluster.groupby(cluster).indices.values():
        first, end = members[0], members[-1] + 1
        if len(members) > 1:
            corners = [first, first, end, end, first], [first, end, end, first, first]
            ax.plot(*corners, color="white", linewidth=6)  # so that the frame shows in grey
            ax.plot(*corners, color=STAGE_COLORS["REM"], linewidth=2.5, clip_on=False)
    return style.dress(ax, x="", y="")


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
        Draw on a logarithmic axis, which suits powers; values of 0 and below are gaps.

    Raises
    ------
    ValueError
        When the feature is not in the table, or the table holds more than one recording.

    Notes
    -----
    The height spans the 0.5th to the 99.5th percentile, so that artefacts do not squash the rest.
    """
    _check_columns(table, [feature])
    values = style.on_grid(table, table[feature].to_numpy(float), np.nan)
    if log:
        values = np.where(values > 0, values, np.nan)
    stages = style.codes_on_grid(table["stage"])
    ax = ax or style.new_axes(height=3.6)
    for stage in HYPNOGRAM_ORDER:
        for begin, end in style.spans_h(stages == STAGE_CODES[stage]):
            ax.axvspan(begin, end, zorder=0, **_ground(stage))
    ax.stairs(values, style.epoch_edges(len(values)), baseline=None, color=style.INK, linewidth=1.2)
    ax.set_yscale("log" if log else "linear")
    if np.isfinite(values).any():
        ax.set_ylim(_limits(values, log))
    style.legend_beside(ax, handles=[Patch(label=stage, **_ground(stage)) for stage in HYPNOGRAM_ORDER])
    if (stages == UNSCORED).any():
        style.legend_above(ax, Patch(facecolor="white", edgecolor=style.INK, label="not scored"))
    return style.dress_night(ax, len(values), start, y=fill(feature_label(feature), 26))


def _ground(stage: str) -> dict[str, Any]:
    """Give the look of a stage's ground: its colour, and a hatch where two would look alike in grey."""
    hatch = {"W": "..", "REM": "///"}.get(stage)
    ground = (STAGE_COLORS[stage], 0.45)  # the line stays legible on the darkest stage
    return {"facecolor": ground, "edgecolor": (0, 0, 0, 0.25), "hatch": hatch, "linewidth": 0}


def _limits(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Span the 0.5th to the 99.5th percentile of values of which some are finite, with a margin."""
    scaled = np.log2(values) if log else values
    low = np.nanpercentile(scaled, 0.5, method="higher")  # no mean of an artefact and its neighbour
    high = np.nanpercentile(scaled, 99.5, method="lower")
    margin = 0.05 * (high - low) or 1
    limits = low - margin, high + margin
    return (2 ** limits[0], 2 ** limits[1]) if log else limits
