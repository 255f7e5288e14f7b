"""Widgets for one night: look at its epochs, stage some of them yourself, ask what if a digit were another.

All are made of core ipywidgets, which Jupyter and Colab know. Where no widgets run, for instance on a web
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

from ..dataset.digits import MISSING, N_LEVELS, PromptSpec
from ..dataset.table import consecutive_runs
from ..evaluation.metrics import score
from ..finetuning.hints import recheck
from ..recordings.recording import Recording
from ..stages import STAGE_CODES, STAGES, UNSCORED, most_probable_stages, stage_codes, stage_names
from . import style
from .epoch import (
    coloured_text,
    default_spec,
    digit_name,
    epoch_label,
    plot_night_explorer,
    plot_what_if,
    row_of,
)
from .results import plot_training_curve

if TYPE_CHECKING:  # a table can be explored without PyTorch
    from ..staging.stager import Stager

EXPERTS_KAPPA = 0.76  # of two experts with each other: meta-analysis, Lee et al., 2022, doi 10.5664/jcsm.9538


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
    return NightExplorer(night, table, hypnodensity, spec or default_spec(table))


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


def night_scorer(
    night: Recording, table: pd.DataFrame, stager: Stager, hypnodensity: pd.DataFrame | None = None
) -> NightScorer:
    """Be the scorer: stage some epochs of a night, and let the model read the night again with these hints.

    The expert's stages are hidden. They are used for kappa only; without them there is no kappa.

    Parameters
    ----------
    night : Recording
        The signal.
    table : DataFrame
        Features and, if there is an expert, stages of that night, or of a part of it.
    stager : Stager
        A model that reads hints.
    hypnodensity : DataFrame, shape (n_epochs, 5), optional
        Its answers without hints, if you have them: then the night is not read at the start.

    Raises
    ------
    ValueError
        When the model cannot read hints, the table is not of one recording, or reaches beyond the signal.
    """
    return NightScorer(night, table, stager, hypnodensity)


def beat_the_expert(
    night: Recording, table: pd.DataFrame, answers: dict[str, pd.DataFrame], seed: int = 0
) -> BeatTheExpert:
    """Stage ten epochs yourself, and see your kappa beside that of models.

    Parameters
    ----------
    night : Recording
        The signal.
    table : DataFrame
        Features and the expert's stages of that night, or of a part of it.
    answers : dict of str to DataFrame, shape (n_epochs, 5)
        What each model is called, and its probabilities, indexed as the table is. An epoch without an answer
        is not asked.
    seed : int
        Draws the epochs: two of each stage, in random order.

    Raises
    ------
    ValueError
        When no epoch has a stage and an answer, or the table is not of one recording.
    """
    return BeatTheExpert(night, table, answers, seed)


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
        self,
        night: Recording,
        table: pd.DataFrame,
        hypnodensity: pd.DataFrame | None,
        spec: PromptSpec,
        rows: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.hypnodensity = hypnodensity
        self._night, self._table, self._spec = night, table, spec
        self._epochs = style.epochs_of(table.index).tolist()
        self._rows = np.arange(len(table)) if rows is None else rows  # of the table, in the slider's order
        self._levels = spec.levels(table)
        self._codes = stage_codes(table["stage"])
        labels = [(epoch_label(night, self._epochs[row]), self._epochs[row]) for row in self._rows]
        first = len(labels) // 2 if rows is None else 0
        self.slider = widgets.SelectionSlider(options=labels, index=first)
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
        self.slider.index = min(max(0, self.slider.index + step), len(self._rows) - 1)

    def _jump(self, change: dict[str, Any]) -> None:
        self._next_of(np.flatnonzero(self._codes == change["new"]))  # of None, which is no stage: nowhere
        self.jump.value = None

    def _next_of(self, places: np.ndarray) -> None:
        """Go to the next of some places of the slider; after the last one, begin again at the first."""
        if places.size:
            self.slider.index = int([*places[places > self.slider.index], *places][0])

    @property
    def _row(self) -> int:
        return int(self._rows[self.slider.index])

    def _show(self, _: object = None) -> None:
        epoch, spec = self._epochs[self._row], self._spec
        around = slice(max(0, self._row - 2), self._row + 3)
        self.text.value = coloured_text(self._levels[around], spec, self._epochs[around], epoch)
        figure = plot_night_explorer(self._night, self._table, epoch, self.hypnodensity, spec)
        self.picture.value = _png(figure)


class _BlindExplorer(NightExplorer):
    """An explorer that hides the expert's stages, and has buttons to give an epoch a stage."""

    def __init__(
        self,
        night: Recording,
        table: pd.DataFrame,
        hypnodensity: pd.DataFrame | None,
        spec: PromptSpec,
        rows: np.ndarray | None = None,
    ) -> None:
        self._expert = table["stage"]
        self.known = pd.Series(UNSCORED, table.index, dtype=np.int8)
        self.stage = widgets.ToggleButtons(options=[*STAGE_CODES.items()], value=None, description="stage")
        self.stage.style.button_width = "60px"
        self.figures = widgets.HTML()
        super().__init__(night, table.assign(stage=UNSCORED), hypnodensity, spec, rows)
        self.stage.observe(self._give, "value")

    def _give(self, change: dict[str, Any]) -> None:
        """Note the stage of the button that was pressed."""
        if change["new"] is not None:
            self.known.iloc[self._row] = change["new"]

    def _show(self, _: object = None) -> None:
        super()._show()
        given = int(self.known.iloc[self._row])
        self.stage.value = None if given == UNSCORED else given


class NightScorer(_BlindExplorer):
    """What :func:`night_scorer` returns.

    Attributes
    ----------
    slider, back, on, doubtful, stage, read : ipywidgets
        What moves: `doubtful` goes to the next epoch that :func:`sleepstage.recheck` names, `stage.value` is
        the stage that you give to the epoch, `read` lets the model read the night again.
    known : Series of int, shape (n_epochs,)
        The stages that you gave, -1 elsewhere.
    hypnodensity : DataFrame, shape (n_epochs, 5)
        The last reading.
    kappas : DataFrame
        By number of hints: kappa if they are only filled in, and kappa if the model reads them.
    text, picture, figures : ipywidgets
        What is shown; `figures` shows `kappas`.
    """

    def __init__(
        self, night: Recording, table: pd.DataFrame, stager: Stager, hypnodensity: pd.DataFrame | None
    ) -> None:
        if not stager.spec.reads_hints:
            raise ValueError(
                "this model cannot read hints: its attention is causal, or it answers for an earlier line; "
                "take one with bidirectional attention and a look-ahead of 0, like the one that ships"
            )
        self._stager = stager
        self._unaided = stager.predict_proba(table) if hypnodensity is None else hypnodensity
        super().__init__(night, table, self._unaided, stager.spec)
        self.doubtful = widgets.Button(description="next doubtful ▶", layout={"width": "140px"})
        self.doubtful.on_click(lambda _: self._to_doubtful())
        self.read = widgets.Button(description="read the night again", layout={"width": "180px"})
        self.read.on_click(lambda _: self._read())
        moves = widgets.HBox([self.slider, self.back, self.on, self.doubtful])
        gives = widgets.HBox([self.stage, self.read])
        self.children = [moves, gives, self.figures, self.text, self.picture]
        self.kappas = pd.DataFrame(columns=["filled in", "read"], dtype=float).rename_axis("hints")
        self._note()

    def _to_doubtful(self) -> None:
        doubtful = recheck(self.hypnodensity, known=self.known)
        self._next_of(np.flatnonzero(self.known.index.isin(doubtful)))

    def _read(self) -> None:
        self.read.disabled, self.read.description = True, "reading …"
        self.hypnodensity = self._stager.predict_proba(self._table, known=self.known)
        self.read.disabled, self.read.description = False, "read the night again"
        self._note()
        self._show()

    def _note(self) -> None:
        """Add the figures of this reading to `kappas`, and show them."""
        given = self.known != UNSCORED
        filled_in = self._unaided.copy()
        filled_in[given] = np.eye(len(STAGES))[self.known[given]]
        scored = (self._expert != UNSCORED).any()
        both = [score(self._expert, p)["kappa"] if scored else np.nan for p in (filled_in, self.hypnodensity)]
        self.kappas.loc[int(given.sum())] = both
        self.figures.value = "Kappa against the expert: " + self.kappas.to_html(float_format="{:.3f}".format)


class BeatTheExpert(_BlindExplorer):
    """What :func:`beat_the_expert` returns.

    Attributes
    ----------
    slider, back, on, stage : ipywidgets
        What moves: the slider over the ten epochs, and your stage for each, after which comes the next one.
    kappas : Series or None
        Kappa of ``"you"`` and of each model on these epochs; None until all are staged.
    text, picture, figures : ipywidgets
        What is shown; `figures` shows the stages and `kappas`.
    """

    def __init__(
        self, night: Recording, table: pd.DataFrame, answers: dict[str, pd.DataFrame], seed: int
    ) -> None:
        said = {name: most_probable_stages(proba.reindex(table.index)) for name, proba in answers.items()}
        answered = np.all([codes != UNSCORED for codes in said.values()], axis=0)
        draw, codes = np.random.default_rng(seed), stage_codes(table["stage"])
        of_stage = [draw.permutation(np.flatnonzero(answered & (codes == code)))[:2] for code in range(5)]
        rows = draw.permutation(np.concatenate(of_stage))
        if not rows.size:
            raise ValueError("no epoch has both the expert's stage and an answer of each model")
        super().__init__(night, table, None, default_spec(table), rows)
        moves = widgets.HBox([self.slider, self.back, self.on])
        self.children = [moves, self.stage, self.figures, self.text, self.picture]
        self.kappas: pd.Series | None = None
        self._said = pd.DataFrame(said, table.index).iloc[rows]

    def _give(self, change: dict[str, Any]) -> None:
        if change["new"] is None or change["new"] == self.known.iloc[self._row]:
            return  # the slider moved: the button shows what was given before
        super()._give(change)
        left = np.flatnonzero(self.known.iloc[self._rows] == UNSCORED)
        self._next_of(left)
        if not left.size:
            self._compare()

    def _compare(self) -> None:
        """Show everybody's stages and kappa."""
        said = self._said.assign(expert=self._expert)
        said.insert(0, "you", self.known)
        self.kappas = said.drop(columns="expert").apply(
            lambda codes: score(said["expert"], np.eye(len(STAGES))[codes])["kappa"]
        )
        named = said.apply(stage_names).droplevel(["subject", "recording"])
        named.loc["kappa"] = self.kappas.map("{:.2f}".format)
        self.figures.value = named.T.to_html(na_rep="") + (
            f"<p>Two experts usually reach a kappa of {EXPERTS_KAPPA} with each other, over whole nights. "
            f"Ten epochs are few: one more or less moves yours by about {1.25 / len(said):.2f}.</p>"
        )


class WhatIf(_WithStill):
    """What :func:`what_if` returns.

    Attributes
    ----------
    digit, level : ipywidgets
        Which digit, counted from 0, and what it becomes: at first the level that is furthest from its own.
        Choosing another digit puts the first one back.
    before : ndarray, shape (5,)
        The model's answer to the line as it is.
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
        self.before = stager.answer(self._levels, self._row)
        names = [(f"{place + 1}: {digit_name(d)}", place) for place, d in enumerate(stager.spec.digits)]
        self.digit = widgets.Dropdown(options=names, description="digit", layout={"width": "460px"})
        self.level = widgets.IntSlider(self._far(), MISSING, N_LEVELS, description="becomes")
        self.level.continuous_update = False
        self.digit.observe(self._choose, "value")
        self.level.observe(self._show, "value")
        self.children = [widgets.HBox([self.digit, self.level]), self.text, self.picture]
        self._show()

    def _own(self) -> int:
        """Give the level that the chosen digit has in the night."""
        return int(self._levels[self._row, self.digit.value])

    def _far(self) -> int:
        """Give the level that is furthest from its own."""
        return N_LEVELS if self._own() <= N_LEVELS // 2 else 1

    def _choose(self, _: object) -> None:
        self.level.value = self._far()
        self._show()  # the title names the digit, also where the level is the same

    def _show(self, _: object = None) -> None:
        spec, digit, own, level = self._stager.spec, self.digit.value, self._own(), self.level.value
        changed = self._levels.copy()
        changed[self._row, digit] = level
        self.proba = self.before if level == own else self._stager.answer(changed, self._row)
        two = np.stack([self._levels[self._row], changed[self._row]])
        percents = zip(STAGES, 100 * self.before, 100 * self.proba, strict=True)
        moved = "   ".join(f"{stage} {was:.1f} → {now:.1f} %" for stage, was, now in percents)
        lines = coloured_text(two, spec, [self._epoch, "what if"])
        self.text.value = f'{lines}<pre style="font-size:16px">{moved.replace("nan", "–")}</pre>'
        plot_what_if(self.before, self.proba, f"{digit_name(spec.digits[digit])}: {own} → {level}")
        self.picture.value = _png(plt.gcf())


def _png(figure: Figure) -> bytes:
    """Draw and close a figure, so that no notebook shows it a second time."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
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
