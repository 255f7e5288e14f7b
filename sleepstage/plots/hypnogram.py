"""Pictures of a night against time: hypnogram, hypnodensity, spectrogram.

Every function draws on the Axes that it is given, or on new ones, and returns them; none shows or saves.
Time runs in hours (minutes, if it is short) since the start of the recording; with `start` the ticks read as
clock time. The pictures without time are drawn in ``charts.py`` and can be had from here as well.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from scipy.signal import welch

from ..stages import HYPNOGRAM_ORDER, STAGE_CODES, STAGE_COLORS, STAGES, UNSCORED, proba_array
from .style import (
    INK,
    TEXT_PT,
    TITLE_PT,
    _codes_on_grid,
    dress,
    epoch_edges,
    new_axes,
    on_grid,
    runs,
    time_axis,
)

if TYPE_CHECKING:
    from ..recordings.recording import Recording

_SHADE = "#DDDDDD"


def plot_hypnogram(
    stages: pd.Series | ArrayLike,
    start: datetime | None = None,
    ax: Axes | None = None,
    color: str = INK,
    label: str | None = None,
) -> Axes:
    """Draw a hypnogram as sleep laboratories do: W on top, N3 at the bottom, REM as thick bars.

    Parameters
    ----------
    stages : Series or array-like of int, shape (n_epochs,)
        Stage codes of consecutive epochs. Unscored ones (-1) are gaps. A Series with an `epoch` level is
        placed by it, so that missing epochs are gaps too.
    start : datetime, optional
        Start of the recording; the time axis then shows clock time.
    ax : Axes, optional
        Where to draw.
    color : str
        Colour of the line.
    label : str, optional
        Whose hypnogram it is, written above it on the left.

    Raises
    ------
    ValueError
        When a value is no stage code, or a Series holds more than one recording.
    """
    codes = _codes_on_grid(stages)
    ax = ax or new_axes(height=3.2)
    depth = np.array([*map(HYPNOGRAM_ORDER.index, STAGES), np.nan])[codes]  # the code -1 takes the last one
    edges = epoch_edges(len(codes))
    ax.stairs(depth, edges, baseline=None, color=color, linewidth=1.4)
    for first, end in runs(codes == STAGE_CODES["REM"]):
        rem = HYPNOGRAM_ORDER.index("REM")
        ax.plot(
            edges[[first, end]], [rem, rem], color=STAGE_COLORS["REM"], linewidth=6, solid_capstyle="butt"
        )
    ax.set_yticks(range(len(HYPNOGRAM_ORDER)), HYPNOGRAM_ORDER)
    ax.set_ylim(len(HYPNOGRAM_ORDER) - 0.5, -0.5)
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    time_axis(ax, len(codes), start)
    return dress(ax, title=label)


def plot_hypnogram_comparison(
    expert: pd.Series | ArrayLike,
    predicted: pd.Series | ArrayLike,
    start: datetime | None = None,
    proba: pd.DataFrame | ArrayLike | None = None,
    shade: pd.Series | ArrayLike | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the expert's hypnogram above the model's, and between them where they differ.

    Parameters
    ----------
    expert, predicted : Series or array-like of int, shape (n_epochs,)
        Stage codes.
    start : datetime, optional
        Start of the recording; the time axis then shows clock time.
    proba : DataFrame or array, shape (n_epochs, 5), optional
        The hypnodensity, drawn below.
    shade : Series or array-like of bool, shape (n_epochs,), optional
        Epochs that are no test (training, and what lies next to it): they get a grey ground and are not
        counted as agreement or difference.
    title : str, optional
        Title of the figure.

    Returns
    -------
    ndarray of Axes
        Expert, differences, model and, with `proba`, hypnodensity; the figure is ``axes[0].figure``.

    Raises
    ------
    ValueError
        When lengths differ, or a value is no stage code.
    """
    expert, predicted = _codes_on_grid(expert), _codes_on_grid(predicted)
    trained = np.zeros(len(expert), bool) if shade is None else on_grid(shade, np.asarray(shade, bool), False)
    if not len(expert) == len(predicted) == len(trained):
        raise ValueError(
            f"expert, predicted and shade have {len(expert)}, {len(predicted)} and {len(trained)} epochs; "
            "give each for the whole night, with -1 where there is no stage"
        )
    heights = [3, 0.45, 3] + ([] if proba is None else [2.4])
    _, axes = plt.subplots(
        len(heights),
        sharex=True,
        figsize=(12, 0.9 * sum(heights) + 1),
        height_ratios=heights,
        layout="constrained",
    )
    plot_hypnogram(expert, start, axes[0], label="Expert")
    _plot_differences(expert, predicted, trained, axes[1])
    plot_hypnogram(predicted, start, axes[2], label="Model")
    if proba is not None:
        plot_hypnodensity(proba, start, axes[3])
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(axis="x", labelbottom=False)
    for ax in axes[:3]:
        _shade_training(ax, trained)
    if trained.any():
        band = Patch(facecolor=_SHADE, label="training, or next to it: not tested")
        axes[0].legend(
            handles=[band], loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=TEXT_PT
        )
    if title:
        axes[0].figure.suptitle(title, fontsize=TITLE_PT, fontweight="bold")
    return axes


def plot_hypnodensity(
    proba: pd.DataFrame | ArrayLike, start: datetime | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the probabilities of the five stages through the night, stacked.

    Parameters
    ----------
    proba : DataFrame or array, shape (n_epochs, 5)
        The hypnodensity. Rows with NaN are gaps; so are epochs that a DataFrame's index leaves out.
    start : datetime, optional
        Start of the recording; the time axis then shows clock time.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    ValueError
        When columns or shape are not those of a hypnodensity.
    """
    values = on_grid(proba, proba_array(proba), np.nan)
    ax = ax or new_axes(height=3.2)
    edges = epoch_edges(len(values))
    floor = np.zeros(len(values))
    for stage in reversed(HYPNOGRAM_ORDER):
        top = floor + values[:, STAGE_CODES[stage]]
        ax.stairs(
            top,
            edges,
            baseline=np.where(np.isnan(top), np.nan, floor),
            fill=True,
            label=stage,
            color=STAGE_COLORS[stage],
            linewidth=0,
        )
        floor = top
    ax.set_ylim(0, 1)
    handles, names = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1],
        names[::-1],
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        fontsize=TEXT_PT,
        handlelength=1.2,
    )
    time_axis(ax, len(values), start)
    return dress(ax, y="Probability")


def plot_spectrogram(recording: Recording, ax: Axes | None = None) -> Axes:
    """Draw the power of the night's EEG up to 30 Hz, one column an epoch.

    Parameters
    ----------
    recording : Recording
        The night. Epochs with NaN are gaps.
    ax : Axes, optional
        Where to draw; its time axis is that of :func:`plot_hypnogram`.

    Notes
    -----
    Welch's method with 4-s windows; the colours span the 2nd to the 98th percentile.
    """
    length = min(recording.eeg_uv.shape[1], round(4 * recording.sfreq_hz))
    freq_hz, power = welch(recording.eeg_uv, recording.sfreq_hz, nperseg=length, axis=1)
    shown = (freq_hz > 0) & (freq_hz <= 30)
    level = 10 * np.log10(np.where(power > 0, power, np.nan)[:, shown].T)
    ax = ax or new_axes(height=3.2)
    low, high = np.nanpercentile(level, [2, 98])
    step = freq_hz[1]
    rows = np.append(freq_hz[shown] - step / 2, freq_hz[shown][-1] + step / 2)
    mesh = ax.pcolormesh(
        epoch_edges(len(power)), rows, level, vmin=low, vmax=high, cmap="viridis", rasterized=True
    )
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes([1.01, 0, 0.015, 1]))
    bar.set_label("dB (µV²/Hz)", fontsize=TEXT_PT)
    time_axis(ax, len(power), recording.start)
    return dress(ax, y="Frequency (Hz)")


def _plot_differences(expert: np.ndarray, predicted: np.ndarray, trained: np.ndarray, ax: Axes) -> None:
    compared = (expert != UNSCORED) & (predicted != UNSCORED) & ~trained
    differ = compared & (expert != predicted)
    edges = epoch_edges(len(expert))
    for first, end in runs(differ):
        ax.axvspan(edges[first], edges[end], color=INK, linewidth=0)
    ax.set_yticks([])
    percent = 100 * differ.sum() / max(1, compared.sum())
    text = f"{differ.sum()} of {compared.sum()} epochs differ ({percent:.0f} %)"
    dress(ax, title=text)
    ax.title.set_fontsize(TEXT_PT)


def _shade_training(ax: Axes, trained: np.ndarray) -> None:
    edges = epoch_edges(len(trained))
    for first, end in runs(trained):
        ax.axvspan(edges[first], edges[end], color=_SHADE, linewidth=0, zorder=0)
