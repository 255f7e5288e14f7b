"""Pictures without a time of night: confusion, features by stage, training, and one epoch's trace.

Every function draws on the Axes that it is given, or on new ones, and returns them; none shows or saves.
The house's look, shared with ``plots.py``, is here too.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator
from numpy.typing import ArrayLike

from .evaluate import confusion, stage_codes
from .stages import STAGE_COLORS, STAGES, UNSCORED

INK = "#222222"
TEXT_PT, TITLE_PT = 12, 14  # smaller is not read from the back of a room
_CHANCE_LOSS = np.log(len(STAGES))


def plot_confusion_matrix(
    stages: ArrayLike, predicted: pd.DataFrame | ArrayLike, ax: Axes | None = None
) -> Axes:
    """Draw how the expert's epochs were staged: counts, and per cent of each of the expert's stages.

    Parameters
    ----------
    stages : array-like of int, shape (n_epochs,)
        The expert's stage codes.
    predicted : DataFrame or array, shape (n_epochs, 5) or (n_epochs,)
        Probabilities or stage codes.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    ValueError
        When lengths, columns or codes do not fit.
    """
    counts = confusion(stages, predicted)
    percent = 100 * counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    share = percent.map(lambda value: "–" if np.isnan(value) else f"{value:.0f} %")
    ax = ax or new_axes(width=6, height=5.6)
    sns.heatmap(
        percent.fillna(0),
        annot=counts.astype(str) + "\n" + share,
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=100,
        square=True,
        linewidths=1,
        cbar=False,
        annot_kws={"fontsize": TEXT_PT},
        ax=ax,
    )
    for text, value in zip(ax.texts, percent.fillna(0).to_numpy().ravel(), strict=True):
        text.set_color("white" if value > 70 else INK)  # seaborn turns to white on grounds too light for it
    ax.tick_params(rotation=0, length=0)
    return dress(ax, x="Model", y="Expert")


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


def plot_training_curve(log: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the loss against the training step, with the loss of pure chance.

    Parameters
    ----------
    log : DataFrame
        Columns `step` and `loss`, in nats an epoch of sleep, and perhaps `eval_loss`; NaN where not measured.
    ax : Axes, optional
        Where to draw.

    Notes
    -----
    The thick line is a centred mean over a tenth of the steps. Chance is ln 5: all stages equally probable.

    Raises
    ------
    ValueError
        When a column is missing, or no loss was measured.
    """
    missing = {"step", "loss"} - set(log.columns)
    if missing or log["loss"].isna().all():
        raise ValueError(
            f"a training log needs measured values in step and loss; got {list(log.columns)}, {len(log)} rows"
        )
    ax = ax or new_axes(width=8, height=4.5)
    measured = log.dropna(subset="loss").sort_values("step")
    smooth = measured["loss"].rolling(max(1, len(measured) // 10), center=True, min_periods=1).mean()
    ax.plot(
        measured["step"],
        measured["loss"],
        color=STAGE_COLORS["N1"],
        linewidth=1,
        alpha=0.7,
        label="each step",
    )
    ax.plot(measured["step"], smooth, color=STAGE_COLORS["N2"], linewidth=2.5, label="smoothed")
    if "eval_loss" in log and log["eval_loss"].notna().any():
        held_out = log.dropna(subset="eval_loss").sort_values("step")
        ax.plot(held_out["step"], held_out["eval_loss"], "o-", color=STAGE_COLORS["REM"], label="held out")
    ax.axhline(
        _CHANCE_LOSS, color=INK, linestyle="--", linewidth=1.2, label=f"chance, ln 5 = {_CHANCE_LOSS:.2f}"
    )
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=TEXT_PT)
    return dress(ax, x="Training step", y="Loss (nats)")


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
    signal = np.asarray(eeg_uv, dtype=float)
    if signal.ndim != 1:
        raise ValueError(
            f"eeg_uv has shape {signal.shape}; expected one epoch, for example recording.eeg_uv[100]"
        )
    ax = ax or new_axes(height=3)
    seconds = np.arange(len(signal)) / sfreq_hz
    for level in (-37.5, 37.5):
        ax.axhline(level, color="#999999", linestyle="--", linewidth=1)
    ax.plot(seconds, signal, color=INK, linewidth=0.8)
    reach = 1.05 * max(100, np.nanmax(np.abs(signal), initial=0))
    ax.set(xlim=(0, len(signal) / sfreq_hz), ylim=(-reach, reach))
    ax.xaxis.set_major_locator(MultipleLocator(5))
    ax.xaxis.set_minor_locator(MultipleLocator(1))
    ax.grid(axis="x", which="both", color="#E6E6E6", linewidth=0.8)
    return dress(ax, x="Time (s)", y="EEG (µV)", title=title)


def new_axes(width: float = 12, height: float = 4) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def dress(ax: Axes, x: str | None = None, y: str | None = None, title: str | None = None) -> Axes:
    if x is not None:
        ax.set_xlabel(x, fontsize=TEXT_PT)
    if y is not None:
        ax.set_ylabel(y, fontsize=TEXT_PT)
    if title:
        ax.set_title(title, loc="left", fontsize=TITLE_PT)
    ax.tick_params(labelsize=TEXT_PT)
    sns.despine(ax=ax)
    return ax


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
