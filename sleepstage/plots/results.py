"""Results: the training curve and the confusion matrix."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ..evaluation.metrics import confusion
from ..stages import STAGE_COLORS, STAGES
from . import style


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
    ax = ax or style.new_axes(width=6, height=5.6)
    words = {"annot": counts.astype(str) + "\n" + share, "fmt": "", "annot_kws": {"fontsize": style.TEXT_PT}}
    shown = percent.fillna(0)
    sns.heatmap(shown, cmap="Blues", vmin=0, vmax=100, square=True, linewidths=1, cbar=False, ax=ax, **words)
    inks = np.where(shown > 70, "white", style.INK).ravel()  # seaborn writes white on too light a ground
    for text, ink in zip(ax.texts, inks, strict=True):
        text.set_color(ink)
    ax.tick_params(rotation=0, length=0)
    return style.dress(ax, x="Model", y="Expert")


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
    if not {"step", "loss"} <= set(log) or log["loss"].isna().all():
        raise ValueError(f"expected a log with values in step and loss, got {list(log)}, {len(log)} rows")
    ax = ax or style.new_axes(width=8, height=4.5)
    log = log.sort_values("step")
    measured, held_out = (log.reindex(columns=["step", loss]).dropna() for loss in ("loss", "eval_loss"))
    smooth = measured["loss"].rolling(max(1, len(measured) // 10), center=True, min_periods=1).mean()
    ax.plot("step", "loss", data=measured, color=STAGE_COLORS["N1"], lw=1, alpha=0.7, label="as logged")
    ax.plot(measured["step"], smooth, color=STAGE_COLORS["N2"], lw=2.5, label="smoothed")
    if len(held_out):
        ax.plot("step", "eval_loss", "o-", data=held_out, color=STAGE_COLORS["REM"], label="held out")
    chance = np.log(len(STAGES))
    ax.axhline(chance, color=style.INK, ls="--", lw=1.2, label=f"chance, ln {len(STAGES)} = {chance:.2f}")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=style.TEXT_PT)
    return style.dress(ax, x="Training step", y="Loss (nats)")
