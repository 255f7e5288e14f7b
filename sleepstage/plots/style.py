"""The look that all pictures share: sizes, inks, legends, the one time axis, a night on a grid of epochs."""

from datetime import datetime, timedelta
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.ticker import MultipleLocator
from numpy.typing import ArrayLike

from ..dataset.table import check_index
from ..stages import UNSCORED, stage_codes

INK = "#222222"
GRID: dict[str, Any] = {"color": "#E6E6E6", "linewidth": 0.8}
TEXT_PT, TITLE_PT = 12, 14  # smaller text cannot be read from the back of a room
_EPOCH_H = 30 / 3600
_TICK_STEPS_H = (1 / 60, 2 / 60, 5 / 60, 10 / 60, 0.5, 1, 2, 4, 8)


def new_axes(width: float = 12, height: float = 3.2) -> Axes:
    """Make axes in a figure of their own; width and height are in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def dress(ax: Axes, x: str | None = None, y: str | None = None, title: str | None = None) -> Axes:
    """Write the labels and the title in the common sizes, and take the frame away."""
    if x is not None:
        ax.set_xlabel(x, fontsize=TEXT_PT)
    if y is not None:
        ax.set_ylabel(y, fontsize=TEXT_PT)
    if title:
        ax.set_title(title, loc="left", fontsize=TITLE_PT)
    ax.tick_params(labelsize=TEXT_PT)
    sns.despine(ax=ax)
    return ax


def legend_beside(ax: Axes, **settings: Any) -> None:
    """Write a legend without a frame to the right of the axes."""
    ax.legend(frameon=False, fontsize=TEXT_PT, loc="center left", bbox_to_anchor=(1.005, 0.5), **settings)


def legend_above(ax: Axes, handle: Artist) -> None:
    """Write a second legend, of one entry, above the axes on the right."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderpad": 0}
    look: dict[str, Any] = {"frameon": False, "fontsize": TEXT_PT}
    legend = Legend(ax, [handle], [str(handle.get_label())], **place, **look)
    ax.add_artist(legend).set_clip_on(False)  # so that the layout leaves it room


def dress_night(ax: Axes, n_epochs: int, start: datetime | None, **labels: str | None) -> Axes:
    """Set the one time axis, and dress the axes.

    It shows the time since the recording began, in hours or minutes, or clock time if its start is known.
    """
    hours = n_epochs * _EPOCH_H
    step = next((step for step in _TICK_STEPS_H if hours / step <= 10), _TICK_STEPS_H[-1])
    begin = 0.0 if start is None else start.hour + start.minute / 60 + start.second / 3600
    ax.xaxis.set_major_locator(MultipleLocator(step, offset=-(begin % step)))
    label = "Time (h)"
    if start is not None:
        label = "Time of night"
        ax.xaxis.set_major_formatter(lambda x, _: f"{start + timedelta(seconds=round(3600 * x)):%H:%M}")
    elif step < 1:
        label = "Time (min)"
        ax.xaxis.set_major_formatter(lambda x, _: f"{60 * x:.0f}")
    ax.set_xlim(0, hours)
    return dress(ax, x=label, **labels)


def epoch_edges(n_epochs: int) -> np.ndarray:
    """Give the edges of consecutive epochs in hours, shape (n_epochs + 1,).

    >>> epoch_edges(120)[[0, 60, 120]].tolist()
    [0.0, 0.5, 1.0]
    """
    return np.arange(n_epochs + 1) * _EPOCH_H


def spans_h(mask: np.ndarray) -> list[list[float]]:
    """Give where each run of True among the epochs (n_epochs,) begins and ends, in hours.

    >>> spans_h(np.repeat([False, True, False, True], 60))
    [[0.5, 1.0], [1.5, 2.0]]
    """
    changes = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0))
    return epoch_edges(len(mask))[changes].reshape(-1, 2).tolist()


def epochs_of(index: pd.MultiIndex) -> np.ndarray:
    """Give the epoch numbers (n_epochs,) of a table's rows.

    Raises
    ------
    ValueError
        When the rows are not of one recording.
    """
    check_index(index, one_recording=True)
    return index.get_level_values("epoch").to_numpy()


def on_grid(source: object, values: np.ndarray, fill: float) -> np.ndarray:
    """Put rows at the epoch numbers of the table that they come from, so that missing epochs become gaps.

    Parameters
    ----------
    source : object
        A DataFrame or Series with an index level `epoch`; the rows of anything else are consecutive epochs.
    values : ndarray, shape (n_rows, ...)
        What `source` holds, checked.
    fill : float
        The value of a gap.

    Returns
    -------
    ndarray, shape (n_epochs, ...)

    Raises
    ------
    ValueError
        When the rows are of several recordings.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([[0], ["a"], [1, 3]], names=["subject", "recording", "epoch"])
    >>> on_grid(pd.Series([7, 8], index), np.array([7, 8]), -1).tolist()
    [-1, 7, -1, 8]
    """
    index = getattr(source, "index", None)
    if not isinstance(index, pd.MultiIndex) or "epoch" not in index.names:
        return values
    epochs = epochs_of(index)
    grid = np.full((epochs.max() + 1, *values.shape[1:]), fill, dtype=values.dtype)
    grid[epochs] = values
    return grid


def codes_on_grid(stages: ArrayLike) -> np.ndarray:
    """Give the stage codes of a night's epochs, int8 (n_epochs,); missing epochs are unscored."""
    return on_grid(stages, stage_codes(stages), UNSCORED)
