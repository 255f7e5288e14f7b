"""A night against time: hypnogram, comparison of two hypnograms, hypnodensity, spectrogram, shaded epochs.

Every function draws on the Axes that it is given, or on new ones, and returns them; none shows or saves.
Time runs in hours (minutes, if it is short) since the start of the recording; with `start` the ticks show
clock time.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from ..features.spectral import power_spectrum
from ..recordings.recording import Recording
from ..stages import HYPNOGRAM_ORDER, STAGE_CODES, STAGE_COLORS, STAGES, UNSCORED, proba_array
from . import style

_SHADE: dict[str, Any] = {"facecolor": "#BBBBBB", "alpha": 0.6, "linewidth": 0}


def plot_hypnogram(
    stages: ArrayLike, start: datetime | None = None, ax: Axes | None = None, label: str | None = None
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
    label : str, optional
        Whose hypnogram it is, written above it on the left.

    Raises
    ------
    ValueError
        When a value is no stage code, or a Series holds more than one recording.
    """
    codes = style.codes_on_grid(stages)
    ax = ax or style.new_axes()
    depth = np.array([*map(HYPNOGRAM_ORDER.index, STAGES), np.nan])[codes]  # the code -1 takes the last one
    ax.stairs(depth, style.epoch_edges(len(codes)), baseline=None, color=style.INK, linewidth=1.4)
    rem = HYPNOGRAM_ORDER.index("REM")
    for span in style.spans_h(codes == STAGE_CODES["REM"]):
        ax.plot(span, [rem, rem], color=STAGE_COLORS["REM"], linewidth=6, solid_capstyle="butt")
    ax.set_yticks(range(len(HYPNOGRAM_ORDER)), HYPNOGRAM_ORDER)
    ax.set(ylim=(len(HYPNOGRAM_ORDER) - 0.5, -0.5), axisbelow=True)
    ax.grid(axis="y", **style.GRID)
    return style.dress_night(ax, len(codes), start, title=label)


def plot_hypnogram_comparison(
    expert: ArrayLike,
    predicted: ArrayLike,
    start: datetime | None = None,
    proba: ArrayLike | None = None,
    shade: ArrayLike | None = None,
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
        Epochs that do not belong to the test (training epochs and their neighbours): they get a grey ground,
        and count neither as agreement nor as difference.
    title : str, optional
        Title of the figure.

    Returns
    -------
    ndarray of Axes, shape (3,) or (4,)
        Expert, differences, model and, with `proba`, hypnodensity; the figure is ``axes[0].figure``.

    Raises
    ------
    ValueError
        When lengths differ, or a value is no stage code.
    """
    expert, predicted = style.codes_on_grid(expert), style.codes_on_grid(predicted)
    shade = np.zeros(len(expert), bool) if shade is None else shade
    trained = style.on_grid(shade, np.asarray(shade, bool), False)
    if not len(expert) == len(predicted) == len(trained):
        raise ValueError(
            f"expert, predicted and shade have {len(expert)}, {len(predicted)} and {len(trained)} epochs; "
            "give each for the whole night, with -1 where there is no stage"
        )
    heights = [3, 0.45, 3] + ([] if proba is None else [2.4])
    figure = plt.figure(figsize=(12, 0.9 * sum(heights) + 1), layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    plot_hypnogram(expert, start, axes[0], label="Expert")
    _plot_differences(expert, predicted, trained, axes[1])
    plot_hypnogram(predicted, start, axes[2], label="Model")
    if proba is not None:
        plot_hypnodensity(proba, start, axes[3])
    for ax in axes[:3]:
        ax.label_outer()
    if trained.any():
        shade_epochs(axes, trained)
    if title:
        figure.suptitle(title, fontsize=style.TITLE_PT, fontweight="bold")
    return axes


def shade_epochs(axes: Axes | Sequence[Axes] | np.ndarray, mask: ArrayLike) -> None:
    """Grey the epochs that do not belong to the test: training epochs and their neighbours.

    Parameters
    ----------
    axes : Axes or sequence of Axes
        Axes with a night's time axis, for instance of :func:`plot_hypnogram`. The first one gets the legend.
    mask : Series or array-like of bool, shape (n_epochs,)
        The epochs to grey. A Series with an `epoch` level is placed by it.
    """
    spans = style.spans_h(style.on_grid(mask, np.asarray(mask, bool), False))
    panels = np.ravel(np.array(axes))
    for ax in panels:
        for begin, end in spans:
            ax.axvspan(begin, end, zorder=3, **_SHADE)  # on top: a hypnodensity leaves no ground to see
    band = Patch(label="training, or next to it: not tested", **_SHADE)
    style.legend_above(panels[0], band)


def _plot_differences(expert: np.ndarray, predicted: np.ndarray, trained: np.ndarray, ax: Axes) -> None:
    """Mark the epochs that differ by bars, and count them in the title."""
    compared = (expert != UNSCORED) & (predicted != UNSCORED) & ~trained
    differ = compared & (expert != predicted)
    for begin, end in style.spans_h(differ):
        ax.axvspan(begin, end, color=style.INK, linewidth=0)
    ax.set_yticks([])
    percent = 100 * differ.sum() / max(1, compared.sum())
    style.dress(ax, title=f"{differ.sum()} of {compared.sum()} epochs differ ({percent:.0f} %)")


def plot_hypnodensity(proba: ArrayLike, start: datetime | None = None, ax: Axes | None = None) -> Axes:
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
        When columns or shape are not those of a hypnodensity, or a DataFrame holds more than one recording.
    """
    values = style.on_grid(proba, proba_array(proba), np.nan)
    ax = ax or style.new_axes()
    edges = style.epoch_edges(len(values))
    floor = np.zeros(len(values))
    for stage in reversed(HYPNOGRAM_ORDER):
        top = floor + values[:, STAGE_CODES[stage]]
        ax.stairs(top, edges, baseline=floor, fill=True, color=STAGE_COLORS[stage], lw=0, label=stage)
        floor = top
    ax.set_ylim(0, 1)
    style.legend_beside(ax, reverse=True, handlelength=1.2)
    if np.isnan(values).any():
        style.legend_above(ax, Patch(facecolor="white", edgecolor=style.INK, label="no answer"))
    return style.dress_night(ax, len(values), start, y="Probability")


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
    Welch's method with 4-s windows, as for the spectral features; the colours span the 2nd to the 98th
    percentile.
    """
    freqs_hz, psd = power_spectrum(recording.eeg_uv, recording.sfreq_hz)
    shown = (freqs_hz > 0) & (freqs_hz <= 30)
    level_db = 10 * np.log10(np.where(psd > 0, psd, np.nan)[:, shown].T)
    ax = ax or style.new_axes()
    low, high = np.nanpercentile(level_db, [2, 98])
    rows = freqs_hz[1] * (np.arange(len(level_db) + 1) + 0.5)
    mesh = ax.pcolormesh(style.epoch_edges(len(psd)), rows, level_db, vmin=low, vmax=high, rasterized=True)
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1.01, 0, 0.015, 1)))
    bar.set_label("dB (µV²/Hz)", fontsize=style.TEXT_PT)
    if np.isnan(level_db).any():
        style.legend_above(ax, Patch(facecolor="white", edgecolor=style.INK, label="no signal"))
    return style.dress_night(ax, len(psd), recording.start, y="Frequency (Hz)")
