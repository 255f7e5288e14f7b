"""Widgets for one night: an explorer of its epochs, and the model's answer if a digit were another.

Both are made of core ipywidgets, which Jupyter and Colab know. Where no widgets run, for instance on a web
page that only shows a notebook, the widget's picture stands in its place.
"""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from ..dataset.digits import MISSING, N_LEVELS, PromptSpec, default_digits
from ..dataset.table import consecutive_runs
from ..recordings.recording import Recording
from ..stages import STAGE_CODES, STAGES, stage_codes
from . import style
from .epoch import coloured_text, digit_name, epoch_label, plot_night_explorer, plot_what_if, row_of
from .results import plot_training_curve

if TYPE_CHECKING:  # a table can be explored without PyTorch
    from ..staging.stager import Stager


def night_explorer(
    night: Recording,
    table: pd.DataFrame,
    hypnodensity: pd.DataFrame | None = None,
    spec: PromptSpec | None = None,
) -> NightExplorer:
    """Look at a night epoch by epoch: with a slider, step by step, or from stage to stage.

    Parameters
    ----------
    night : Recording
        The signal.
    table : DataFrame
        Features and stages of that night, or of a part of it.
    hypnodensity : DataFrame, shape (n_epochs, 5), optional
        A model's probabilities, indexed as the table is; epochs may be missing.
    spec : PromptSpec, optional
        How the night becomes text, for instance ``stager.spec``; by default the digits that suit the table.

    Raises
    ------
    ValueError
        When the table is not of one recording, or reaches beyond the signal.
    """
    return NightExplorer(night, table, hypnodensity, spec or PromptSpec(default_digits(table)))


def what_if(table: pd.DataFrame, stager: Stager, epoch: int) -> WhatIf:
    """Change one digit of an epoch's line, and see how the model's probabilities change.

    The lines around it stay as they are. The probabilities are those of one window
    (:meth:`sleepstage.Stager.answer`), so they can differ from the hypnodensity's.

    Parameters
    ----------
    table : DataFrame
        Features of one night.
    stager : Stager
        The model.
    epoch : int
        The epoch's number.

    Raises
    ------
    ValueError
        When the table is not of one recording, has no such epoch, or lacks a column of the prompt.
    """
    return WhatIf(table, stager, epoch)


class _WithStill(widgets.VBox):
    """A box with a picture, which is also shown as a PNG where no widgets run."""

    def __init__(self) -> None:
        natural = {"max_width": "100%", "align_self": "flex-start"}  # otherwise it would be stretched
        self.picture = widgets.Image(layout=natural)
        self.text = widgets.HTML()
        super().__init__()

    def _ipython_display_(self, **_: object) -> None:
        # ipywidgets 7 looks for this method, and it comes before the _repr_mimebundle_ of ipywidgets 8.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": b64encode(self.picture.value).decode(),
            "text/plain": f"{type(self).__name__}, at the state of the picture",
        }
        display(bundle, raw=True)


class NightExplorer(_WithStill):
    """What :func:`night_explorer` returns.

    Attributes
    ----------
    slider, back, on, jump : ipywidgets
        What moves: `slider.value` is the epoch's number.
    text, picture : ipywidgets
        What is shown: the lines around the epoch, and :func:`sleepstage.plot_night_explorer` as PNG.
    """

    def __init__(
        self, night: Recording, table: pd.DataFrame, hypnodensity: pd.DataFrame | None, spec: PromptSpec
    ) -> None:
        super().__init__()
        self._epochs = style.epochs_of(table.index).tolist()
        self._parts = (night, table, hypnodensity, spec)
        self._levels = spec.levels(table)
        self._codes = stage_codes(table["stage"])
        labels = [(epoch_label(night, epoch), epoch) for epoch in self._epochs]
        self.slider = widgets.SelectionSlider(options=labels, index=len(table) // 2)
        self.slider.layout.width = "560px"
        self.slider.continuous_update = False  # drawing takes longer than the slider needs for a step
        narrow = {"width": "110px"}
        self.back = widgets.Button(description="◀ previous", layout=narrow)
        self.on = widgets.Button(description="next ▶", layout=narrow)
        self.jump = widgets.Dropdown(options=[("to the next …", None), *STAGE_CODES.items()], layout=narrow)
        self.back.on_click(lambda _: self._move(-1))
        self.on.on_click(lambda _: self._move(1))
        self.jump.observe(self._jump, "value")
        self.slider.observe(self._show, "value")
        self.children = [widgets.HBox([self.slider, self.back, self.on, self.jump]), self.text, self.picture]
        self._show()

    def _move(self, step: int) -> None:
        self.slider.index = min(max(0, self.slider.index + step), len(self._epochs) - 1)

    def _jump(self, change: dict[str, Any]) -> None:
        """Go to the next epoch of the chosen stage; after the last one, begin again at the first."""
        rows = np.flatnonzero(self._codes == change["new"])  # of None, which is no stage, there are none
        if rows.size:
            self.slider.index = int([*rows[rows > self.slider.index], *rows][0])
        self.jump.value = None

    def _show(self, _: object = None) -> None:
        night, table, hypnodensity, spec = self._parts
        row = self.slider.index
        around = slice(max(0, row - 2), row + 3)
        self.text.value = coloured_text(self._levels[around], spec, self._epochs[around], self._epochs[row])
        self.picture.value = _png(plot_night_explorer(night, table, self._epochs[row], hypnodensity, spec))


class WhatIf(_WithStill):
    """What :func:`what_if` returns.

    Attributes
    ----------
    digit, level : ipywidgets
        Which digit, counted from 0, and what it becomes. Choosing another digit puts the first one back.
    proba : ndarray, shape (5,)
        The model's answer to what is chosen; NaN where no digit is known.
    text, picture : ipywidgets
        What is shown: the line before and after, and :func:`sleepstage.plot_what_if` as PNG.
    """

    def __init__(self, table: pd.DataFrame, stager: Stager, epoch: int) -> None:
        super().__init__()
        row = row_of(table, epoch)
        run = next(run for run in consecutive_runs(table) if run.start <= row < run.stop)
        self._stager, self._epoch, self._row = stager, epoch, row - run.start
        self._levels = stager.spec.levels(table)[run]
        self._before = stager.answer(self._levels, self._row)
        names = [(f"{place + 1}: {digit_name(d)}", place) for place, d in enumerate(stager.spec.digits)]
        self.digit = widgets.Dropdown(options=names, description="digit", layout={"width": "460px"})
        self.level = widgets.IntSlider(self._own(), MISSING, N_LEVELS, description="becomes")
        self.level.continuous_update = False
        self.digit.observe(self._choose, "value")
        self.level.observe(self._show, "value")
        self.children = [widgets.HBox([self.digit, self.level]), self.text, self.picture]
        self._show()

    def _own(self) -> int:
        """Give the level that the chosen digit has in the night."""
        return int(self._levels[self._row, self.digit.value])

    def _choose(self, _: object) -> None:
        self.level.value = self._own()
        self._show()  # the title names the digit, also where the level is the same

    def _show(self, _: object = None) -> None:
        spec, digit, own, level = self._stager.spec, self.digit.value, self._own(), self.level.value
        changed = self._levels.copy()
        changed[self._row, digit] = level
        self.proba = self._before if level == own else self._stager.answer(changed, self._row)
        two = np.stack([self._levels[self._row], changed[self._row]])
        percents = zip(STAGES, 100 * self._before, 100 * self.proba, strict=True)
        moved = "   ".join(f"{stage} {was:.1f} → {now:.1f} %" for stage, was, now in percents)
        lines = coloured_text(two, spec, [self._epoch, "what if"])
        self.text.value = f'{lines}<pre style="font-size:16px">{moved.replace("nan", "–")}</pre>'
        plot_what_if(self._before, self.proba, f"{digit_name(spec.digits[digit])}: {own} → {level}")
        self.picture.value = _png(plt.gcf())


def _png(figure: Figure) -> bytes:
    """Draw and close a figure, so that no notebook shows it a second time."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=80)
    plt.close(figure)
    return target.getvalue()


class LiveCurve:
    """Draws a growing training curve in one place of a notebook: ``ss.finetune(…, watch=ss.LiveCurve())``."""

    def __init__(self) -> None:
        self._place: Any = None

    def __call__(self, curve: pd.DataFrame) -> None:
        """Draw the curve (columns ``step`` and ``loss``) in the place of the one before."""
        figure = plot_training_curve(curve).figure
        if self._place is None:
            self._place = display(figure, display_id=True)
        else:
            self._place.update(figure)
        plt.close()  # or the notebook shows it once more when the cell ends
