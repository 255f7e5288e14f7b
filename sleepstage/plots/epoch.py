"""One epoch seen whole: its trace, spectrum, features, digits, and the model's answer.

The pictures here do not move; ``widgets.py`` draws them anew each time a slider moves.
"""

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator
from numpy.typing import ArrayLike
from scipy.stats import percentileofscore

from ..dataset.digits import MISSING, N_LEVELS, Digit, PromptSpec, default_digits
from ..features.catalogue import BANDS_HZ, feature_label
from ..features.spectral import power_spectrum
from ..recordings.recording import Recording
from ..stages import (
    HYPNOGRAM_ORDER,
    STAGE_CODES,
    STAGE_COLORS,
    STAGES,
    UNSCORED,
    proba_array,
    stage_codes,
    stage_names,
)
from . import style
from .hypnogram import plot_hypnodensity, plot_hypnogram, plot_spectrogram

_COMPARED_WITH = {
    "night": ", in this night",
    "cohort": ", among people",
    "median": " minus the night's median",
    "neighbours": " minus its neighbours' mean",
}


def plot_epoch(eeg_uv: ArrayLike, sfreq_hz: float, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the trace of one epoch over a grid of seconds.

    Parameters
    ----------
    eeg_uv : array-like, shape (n_samples,)
        The signal in microvolts.
    sfreq_hz : float
        Sampling frequency.
    ax : Axes, optional
        Where to draw.
    title : str, optional
        Title, for instance the stage.

    Notes
    -----
    The dashed lines are 75 microvolts apart, the peak-to-peak amplitude that makes a slow wave count towards
    N3 (AASM manual; Berry et al., 2012).

    Raises
    ------
    ValueError
        When `eeg_uv` is not one-dimensional.
    """
    signal = _one_epoch(eeg_uv)
    ax = ax or style.new_axes(height=3)
    dashed: dict[str, Any] = {"color": "#999999", "linestyle": "--", "linewidth": 1}
    for level in (-37.5, 37.5):
        ax.axhline(level, **dashed)
    style.legend_above(ax, Line2D([], [], label="75 µV apart", **dashed))
    ax.plot(np.arange(len(signal)) / sfreq_hz, signal, color=style.INK, linewidth=0.8)
    reach = 1.05 * max(100, np.nanmax(np.abs(signal), initial=0))
    ax.set(xlim=(0, len(signal) / sfreq_hz), ylim=(-reach, reach))
    ax.xaxis.set_major_locator(MultipleLocator(5))
    ax.xaxis.set_minor_locator(MultipleLocator(1))
    ax.grid(axis="x", which="both", **style.GRID)
    return style.dress(ax, x="Time (s)", y="EEG (µV)", title=title)


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
    Welch's method with 4-s windows, as for the spectral features.
    """
    freqs_hz, psd = power_spectrum(_one_epoch(eeg_uv)[np.newaxis], sfreq_hz)
    ax = ax or style.new_axes(width=8, height=4)
    for i, (letter, (low, high)) in enumerate(zip("δθασβγ", BANDS_HZ.values(), strict=True)):
        ax.axvspan(low, high, color=("#E6E6E6", "#F6F6F6")[i % 2], lw=0, zorder=0)
        place = ((low + high) / 2, 1.02)
        ax.text(*place, letter, ha="center", fontsize=style.TEXT_PT, transform=ax.get_xaxis_transform())
    ax.plot(freqs_hz[1:], psd[0, 1:], color=style.INK, linewidth=1.8)
    ax.set(xlim=(0.5, 40), yscale="log" if (psd > 0).any() else "linear")
    return style.dress(ax, x="Frequency (Hz)", y="Power (µV²/Hz)")


def _one_epoch(eeg_uv: ArrayLike) -> np.ndarray:
    signal = np.asarray(eeg_uv, dtype=float)
    if signal.ndim != 1:
        raise ValueError(f"eeg_uv has shape {signal.shape}; expected one epoch, like recording.eeg_uv[100]")
    return signal


def plot_night_explorer(
    night: Recording,
    table: pd.DataFrame,
    epoch: int,
    hypnodensity: pd.DataFrame | None = None,
    spec: PromptSpec | None = None,
) -> Figure:
    """Draw one epoch of a night, as :func:`sleepstage.night_explorer` shows it.

    From above: where in the night the epoch lies; its signal; on the left its spectrum and, if there is a
    hypnodensity, the model's probabilities, with the expert's stage framed; on the right the digits of its
    line, each with the percentile of its value within the night. Without any expert's stage, the night on top
    is the hypnodensity, or without one the spectrogram.

    Parameters
    ----------
    night : Recording
        The signal.
    table : DataFrame
        Features and stages of that night, or of a part of it.
    epoch : int
        The epoch's number.
    hypnodensity : DataFrame, shape (n_epochs, 5), optional
        A model's probabilities, indexed as the table is; epochs may be missing.
    spec : PromptSpec, optional
        How the night becomes text, for instance ``stager.spec``; by default the digits that suit the table.

    Raises
    ------
    ValueError
        When the table is not of one recording, lacks the epoch, or reaches beyond the signal.
    """
    row = row_of(table, epoch)
    last, end = max(style.epochs_of(table.index)), len(night.eeg_uv) - 1
    if last > end:
        raise ValueError(f"the table has epoch {last}, the signal ends at {end}; give both of one night")
    proba = None if hypnodensity is None else hypnodensity.reindex(table.index)  # NaN for a missing epoch
    spec = spec or default_spec(table)
    # Fixed margins: constrained layout takes longer than the drawing, and moves the panels about.
    under = "spectrum" if proba is None else "stages"
    panels: list[Any] = [["night"] * 3, ["signal"] * 3]
    panels += [["spectrum", ".", "digits"], [under, ".", "digits"]]
    figure, axes = plt.subplot_mosaic(
        panels,
        figsize=(12, 8 + 0.16 * len(spec.digits)),
        height_ratios=[1.4, 1.7, 2, 2],
        width_ratios=[0.95, 1.2, 0.75],
        gridspec_kw={"left": 0.07, "right": 0.92, "top": 0.95, "bottom": 0.07, "hspace": 0.55, "wspace": 0},
    )
    _plot_place(night, table["stage"], proba, epoch, axes["night"])
    expert = stage_names(table["stage"])[row]
    title = f"Epoch {epoch_label(night, epoch)}" + f", expert: {expert}" * bool(expert)
    plot_epoch(night.eeg_uv[epoch], night.sfreq_hz, axes["signal"], title)
    plot_spectrum(night.eeg_uv[epoch], night.sfreq_hz, axes["spectrum"])
    _plot_percentiles(table, row, spec, axes["digits"])
    if proba is not None:
        _plot_answer(proba_array(proba)[row], expert, axes["stages"])
    return figure


def _plot_place(
    night: Recording, stages: pd.Series, proba: pd.DataFrame | None, epoch: int, ax: Axes
) -> None:
    """Draw the night, and where in it the epoch lies."""
    if (stage_codes(stages) != UNSCORED).any():
        plot_hypnogram(stages, night.start, ax)
    elif proba is not None:
        plot_hypnodensity(proba, night.start, ax)
    else:
        plot_spectrogram(night, ax)
    here = style.epoch_edges(epoch + 1)[-2:].mean()
    ax.axvline(here, color=STAGE_COLORS["REM"], linewidth=1.5)
    look: dict[str, Any] = {"color": STAGE_COLORS["REM"], "markersize": 13, "clip_on": False}
    ax.plot(here, 1, "v", transform=ax.get_xaxis_transform(), **look)


def _plot_percentiles(table: pd.DataFrame, row: int, spec: PromptSpec, ax: Axes) -> None:
    """Draw one line a digit: a dot at the value's percentile within the night, the digit on the right."""
    levels = spec.levels(table)[row]
    for place, (digit, level) in enumerate(zip(spec.digits, levels, strict=True)):
        values = digit.values(table)
        if np.isfinite(values.iloc[row]):
            percentile = percentileofscore(values, values.iloc[row], "mean", nan_policy="omit")
            ax.plot([0, percentile], [place, place], color="#999999", linewidth=1.5)
            ax.plot(percentile, place, "o", color=style.INK, markersize=8)
        ground, ink = _level_colors(int(level))
        box = {"boxstyle": "square,pad=0.25", "facecolor": ground, "edgecolor": style.INK}
        ax.text(115, place, str(level), color=ink, bbox=box, ha="center", va="center", fontsize=style.TEXT_PT)
    names = [fill(digit_name(digit), 46) for digit in spec.digits]
    ax.set_yticks(range(len(names)), names, linespacing=0.9)
    ax.set(xlim=(0, 122), ylim=(len(names) - 0.4, -0.6), xticks=(0, 25, 50, 75, 100))
    ax.grid(axis="x", **style.GRID)
    style.dress(ax, x="Percentile in this night; box: digit")


def _plot_answer(proba: np.ndarray, expert: str, ax: Axes) -> None:
    """Draw the model's bars, if it answered, and a frame around the expert's stage."""
    _bars(proba, ax, proba)
    if expert:
        place = HYPNOGRAM_ORDER.index(expert)
        ax.axhspan(place - 0.47, place + 0.47, facecolor="none", edgecolor=style.INK, linewidth=3)
    label = "No model's answer" if np.isnan(proba).any() else "Model's probability"
    style.dress(ax, x=label + "; frame: expert" * bool(expert))


def plot_what_if(
    before: np.ndarray, after: np.ndarray, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the probabilities of the stages after a change as bars, and those before it as lines across them.

    Parameters
    ----------
    before, after : ndarray, shape (5,)
        Probabilities of W, N1, N2, N3, REM, for instance from :meth:`sleepstage.Stager.answer`; five NaN,
        where there is no answer, are not drawn.
    title : str, optional
        What was changed.
    ax : Axes, optional
        Where to draw.
    """
    ax = ax or style.new_axes(width=8, height=3.6)
    _bars(after, ax, np.fmax(before, after))
    for place, stage in enumerate(HYPNOGRAM_ORDER):
        ends = [before[STAGE_CODES[stage]]] * 2, [place - 0.45, place + 0.45]
        ax.plot(*ends, color="white", linewidth=6)
        ax.plot(*ends, color=style.INK, linewidth=3)
    return style.dress(ax, x="Probability (line: before)", title=title)


def _bars(proba: np.ndarray, ax: Axes, ends: np.ndarray) -> None:
    """Draw a bar for each stage; ``ends`` is where what is drawn ends, and the per cent begin."""
    codes = [STAGE_CODES[stage] for stage in HYPNOGRAM_ORDER]
    colors = [STAGE_COLORS[stage] for stage in HYPNOGRAM_ORDER]
    ax.barh(HYPNOGRAM_ORDER, proba[codes], color=colors, edgecolor=style.INK, height=0.75)
    for place, (share, end) in enumerate(zip(proba[codes], ends[codes], strict=True)):
        if np.isfinite(share):
            ax.text(end + 0.03, place, f"{100 * share:.0f} %", va="center", fontsize=style.TEXT_PT)
    ax.set(xlim=(0, 1.35), ylim=(len(STAGES) - 0.5, -0.5), xticks=(0, 0.5, 1))
    ax.spines["bottom"].set_bounds(0, 1)  # the rest is room for the per cent


def coloured_text(
    levels: np.ndarray, spec: PromptSpec, epochs: Sequence[int | str], marked: int | None = None
) -> str:
    """Write lines of digits as HTML, a higher level on a darker ground; a 0, which is missing, is dashed.

    Parameters
    ----------
    levels : int array, shape (n_lines, n_digits)
        From :meth:`sleepstage.PromptSpec.levels`.
    spec : PromptSpec
        Names the digits; the pointer on a digit shows its name.
    epochs : sequence of int or str, length n_lines
        What stands in front of each line: its epoch's number, or a word.
    marked : int, optional
        The epoch that gets an arrow.

    Raises
    ------
    ValueError
        When there are not as many epochs as lines, or as many digits as the prompt has.
    """
    names = [escape(digit_name(digit)) for digit in spec.digits]
    lines = []
    for epoch, line in zip(epochs, np.asarray(levels).tolist(), strict=True):
        digits = "".join(_coloured_digit(*each) for each in zip(line, names, strict=True))
        arrow = "▶" * (epoch == marked)
        lines.append(f'<tr><td>{arrow}</td><td style="padding-right:8px">{epoch}</td><td>{digits}:</td></tr>')
    return f'<table style="font:18px monospace;line-height:1.5">{"".join(lines)}</table>'


def _coloured_digit(level: int, name: str) -> str:
    ground, ink = _level_colors(level)
    border = "dashed" if level == MISSING else "solid"
    css = f"padding:2px 6px;background:{ground};color:{ink};border:1px {border} #888"
    return f'<span title="{name}" style="{css}">{level}</span>'


def _level_colors(level: int) -> tuple[str, str]:
    """Give the ground and the ink of a digit."""
    if level == MISSING:
        return "#FFFFFF", style.INK
    ground = colormaps["Blues"](0.05 + 0.9 * (level - 1) / (N_LEVELS - 1))
    return to_hex(ground), "#FFFFFF" if level > N_LEVELS // 2 + 1 else style.INK


def default_spec(table: pd.DataFrame) -> PromptSpec:
    """Give a prompt with the digits that suit a table, and with the table's own cut points."""
    return PromptSpec.fit(table, default_digits(table), window=1)


def row_of(table: pd.DataFrame, epoch: int) -> int:
    """Give the row of an epoch in the table of one recording.

    Raises
    ------
    ValueError
        When the table holds more than one recording, or not that epoch.
    """
    epochs = style.epochs_of(table.index).tolist()
    if epoch not in epochs:
        raise ValueError(f"the table has no epoch {epoch}; its epochs are {min(epochs)} to {max(epochs)}")
    return epochs.index(epoch)


def epoch_label(night: Recording, epoch: int) -> str:
    """Give an epoch's number and, if the recording's start is known, the time at which it begins."""
    clock = "" if night.start is None else f" · {night.start + timedelta(seconds=30 * epoch):%H:%M:%S}"
    return f"{epoch}{clock}"


def digit_name(digit: Digit) -> str:
    """Name a digit for a reader: its feature, and with what its level compares it.

    >>> digit_name(Digit("delta_log_power"))
    'log delta power, in this night'
    """
    return feature_label(digit.column, with_unit=False) + _COMPARED_WITH[digit.level]
