"""The look that all pictures share: sizes, colours of ink, axes, and the one time axis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator
from numpy.typing import ArrayLike

from ..stages import UNSCORED, stage_codes

if TYPE_CHECKING:
    pass

INK = "#222222"


TEXT_PT, TITLE_PT = 12, 14  # smaller is not read from the back of a room


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


_EPOCH_H = 30 / 3600


_TICK_STEPS_H = (1 / 60, 2 / 60, 5 / 60, 10 / 60, 0.5, 1, 2, 4, 8)


_MAX_TICKS = 10


def time_axis(ax: Axes, n_epochs: int, start: datetime | None) -> None:
    """The one time axis: time since the start of the recording, or the clock's if it is known."""
    hours = n_epochs * _EPOCH_H
    step = next((s for s in _TICK_STEPS_H if hours / s <= _MAX_TICKS), _TICK_STEPS_H[-1])
    begin = 0.0 if start is None else start.hour + start.minute / 60 + start.second / 3600
    ax.xaxis.set_major_locator(MultipleLocator(step, offset=-(begin % step)))
    label = "Time (h)"
    if start is not None:
        label = "Time of night"
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _clock(start, x)))
    elif step < 1:
        label = "Time (min)"
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{60 * x:.0f}"))
    ax.set_xlim(0, hours)
    ax.set_xlabel(label, fontsize=TEXT_PT)


def _clock(start: datetime, hours: float) -> str:
    return f"{start + timedelta(seconds=round(hours * 3600)):%H:%M}"


def epoch_edges(n_epochs: int) -> np.ndarray:
    return np.arange(n_epochs + 1) * _EPOCH_H


def runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield first and one-past-last index of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    yield from zip(changes[::2], changes[1::2], strict=True)


def on_grid(source: object, values: np.ndarray, fill: float) -> np.ndarray:
    """Put rows of a table at their epoch numbers, so that epochs it leaves out become gaps."""
    index = getattr(source, "index", None)
    if not isinstance(index, pd.MultiIndex) or "epoch" not in index.names:
        return values
    recordings = index.droplevel("epoch").unique()
    if len(recordings) != 1:
        raise ValueError(
            f"a night is drawn at a time; got {len(recordings)} recordings: {list(recordings[:3])}"
        )
    epoch = index.get_level_values("epoch").to_numpy()
    grid = np.full((epoch.max() + 1, *values.shape[1:]), fill, dtype=values.dtype)
    grid[epoch] = values
    return grid


def _codes_on_grid(stages: pd.Series | ArrayLike) -> np.ndarray:
    return on_grid(stages, stage_codes(stages), UNSCORED)
