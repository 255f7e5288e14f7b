"""What is scored: the language model, trees and a small network, as readers of nights; and their figures."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import pandas as pd

from ..dataset.digits import PromptSpec
from ..dataset.splits import check_no_leakage, partition_subjects
from ..finetuning.calibration import HypnogramPrior, cross_fitted
from ..finetuning.teacher import Network
from ..staging.stager import Stager
from .baselines import fit_trees
from .cohort import MODELS, cohort_figures, kappa_difference_ci
from .conditions import CONDITIONS, under_gain
from .hints import PLACES, check_plan, hint_figures
from .metrics import report, score


@dataclass(frozen=True)
class Reader:
    """Something that answers for nights, and the people that it learned from.

    Parameters
    ----------
    read : callable
        Gives a table's probabilities, shape (n_epochs, 5), before temperature and transitions. It takes the
        stages that are known as the argument ``known``, if it reads hints.
    trained_on : sequence
        Subjects. Nobody of them may be scored.
    prior : HypnogramPrior, optional
        Temperature and stage transitions for the answers.
    reads_hints : bool
        If not, hints are only written over its answers.
    """

    read: Callable[..., pd.DataFrame]
    trained_on: Sequence[Any]
    prior: HypnogramPrior | None = None
    reads_hints: bool = True

    @classmethod
    def of_stager(cls, stager: Stager) -> Self:
        """Read with a language model, and with hints if it was trained to read them."""
        read = partial(stager.predict_proba, with_prior=False)
        return cls(read, stager.trained_on, stager.prior, stager.spec.reads_hints)

    @classmethod
    def of_trees(cls, train_table: pd.DataFrame) -> Self:
        """Train gradient-boosted trees (:func:`sleepstage.gradient_boosting_baseline`) on a table."""
        subjects = train_table.index.unique("subject")
        return cls(fit_trees(train_table), subjects, HypnogramPrior.from_table(train_table), False)

    @classmethod
    def of_network(cls, train_table: pd.DataFrame, spec: PromptSpec) -> Self:
        """Train a small recurrent network on the digits of a table, whose nights it cuts at random itself."""
        network = Network.fit(train_table, spec)
        return cls(network.predict_proba, network.trained_on, HypnogramPrior.from_table(train_table))

    def calibration(self, stages: pd.Series, as_read: pd.DataFrame) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """Choose the temperature and transitions for answers about these people.

        The reader's own are used if they were fitted on other people. Otherwise they are cross-fitted on the
        answers, so that nobody is scored with a temperature that their own nights chose.

        Parameters
        ----------
        stages : pandas.Series of int, shape (n_epochs,)
        as_read : pandas.DataFrame, shape (n_epochs, 5)
            The answers to whole nights, without hints.

        Returns
        -------
        callable
            Applies them to these answers, or to others about the same people.
        """
        if self.prior is None:
            return lambda proba: proba
        subjects = {str(subject) for subject in stages.index.unique("subject")}
        fitted_on_others = self.prior.fitted_on and subjects.isdisjoint(map(str, self.prior.fitted_on))
        if fitted_on_others or len(subjects) < 2:
            return self.prior.apply
        return cross_fitted(self.prior, stages, as_read).apply


def evaluate_cohort(
    table: pd.DataFrame,
    readers: Mapping[str, Reader],
    gains: Iterable[float] = (),
    conditions: Iterable[str] = (),
    hints: Sequence[int] = (),
    hints_at: Sequence[str] = PLACES,
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Score readers on the same nights, and on what may happen to these nights.

    Parameters
    ----------
    table : pandas.DataFrame, shape (n_epochs, n_columns)
        A feature table with stages.
    readers : mapping of str to Reader
        By their names; that of the language model is ``llm``.
    gains : iterable of float
        Score the table as if the amplifier had these gains too
        (:func:`sleepstage.evaluation.conditions.under_gain`).
    conditions : iterable of str
        Score these too: ``"pieces"`` of four hours, ``"wake"``, with 13 hours of wake around each night.
    hints, hints_at : sequence of int, of str
        See :func:`sleepstage.evaluation.hints.hint_figures`.

    Returns
    -------
    figures : dict
        For each reader's name, as :func:`cohort_figures` gives them, with ``epochs_per_second``; and with
        ``_as_read`` behind the name the same before temperature and transitions. For ``llm`` and each other
        reader, ``kappa_difference_ci`` has the interval of the difference (:func:`kappa_difference_ci`).
        ``gain`` and ``conditions`` have the figures of :func:`sleepstage.score` by gain or condition, and by
        name. ``hints`` lists figures, each with its ``model``. Temperature and transitions are always those
        of the whole nights without hints.
    hypnodensities : dict of str to pandas.DataFrame, shape (n_epochs, 5)
        The answers to the table, by the same names.

    Raises
    ------
    ValueError
        If a reader learned from a subject of the table, there is no reader, or what is asked for cannot be.
    """
    if not readers:
        raise ValueError(
            "got no reader, neither a language model nor a baseline, so there is nothing to score"
        )
    for reader in readers.values():
        check_no_leakage(reader.trained_on, table.index.unique("subject"))
    check_plan(hints, hints_at)
    changed = {("gain", f"{gain:g}"): under_gain(table, gain) for gain in gains}
    changed |= {("conditions", name): CONDITIONS[name](table) for name in conditions}
    stages = table["stage"]
    figures: dict[str, Any] = {}
    answers: dict[str, pd.DataFrame] = {}
    hint_rows: list[dict[str, Any]] = []
    for name, reader in readers.items():
        started = time.perf_counter()
        as_read = reader.read(table)
        seconds = time.perf_counter() - started
        calibrate = reader.calibration(stages, as_read)
        answers |= {name: calibrate(as_read), f"{name}_as_read": as_read}
        figures[name] = cohort_figures(stages, answers[name]) | {"epochs_per_second": len(table) / seconds}
        figures[f"{name}_as_read"] = cohort_figures(stages, as_read)
        for (kind, what), other in changed.items():
            found = score(other["stage"], calibrate(reader.read(other)))
            figures.setdefault(kind, {}).setdefault(what, {})[name] = found
        if hints:
            again = partial(_read_again, table, reader, calibrate, answers[name])
            hint_rows += [{"model": name, **row} for row in hint_figures(stages, again, hints, hints_at)]
    if hints:
        figures["hints"] = hint_rows
    if others := [name for name in readers if name != "llm" and "llm" in readers]:
        figures["kappa_difference_ci"] = {
            f"llm-{name}": kappa_difference_ci(stages, answers["llm"], answers[name]) for name in others
        }
    return figures, answers


def _read_again(
    table: pd.DataFrame,
    reader: Reader,
    calibrate: Callable[[pd.DataFrame], pd.DataFrame],
    unhinted: pd.DataFrame,
    known: pd.Series | None,
) -> pd.DataFrame:
    """Read a table with hints, if there are any and the reader uses them."""
    if known is None or not reader.reads_hints:
        return unhinted
    return calibrate(reader.read(table, known=known))


def figures_text(figures: dict[str, Any]) -> str:
    """Lay out the figures of :func:`evaluate_cohort` as tables for printing, a row a model."""
    models = {name: figures[name] for name in MODELS if name in figures}
    intervals = ["{:.3f} to {:.3f}".format(*model["kappa_ci"]) for model in models.values()]
    parts = [report(models).assign(**{"kappa, 95 %": intervals})]
    for kind in ("gain", "conditions"):
        found = {
            what: {name: model["kappa"] for name, model in by_name.items()}
            for what, by_name in figures.get(kind, {}).items()
        }
        parts += [pd.DataFrame(found).round(3).rename_axis(f"kappa by {kind}", axis=1)] if found else []
    if "hints" in figures:
        hints = pd.DataFrame(figures["hints"]).set_index(["model", "at", "n"])
        parts.append(hints.drop(columns="kappa_difference_ci").astype(float).round(3))
    return "\n\n".join(part.to_string() for part in parts)


def baseline_table(source: pd.DataFrame, table: pd.DataFrame, stager: Stager | None) -> pd.DataFrame:
    """Choose the people that the baselines learn from: those of the adapter, or all who are not scored.

    Parameters
    ----------
    source : pandas.DataFrame
        A feature table that holds these people, and perhaps others.
    table : pandas.DataFrame
        The table to score.
    stager : Stager, optional
        Its adapter's people are chosen, so that all models learn from the same.

    Raises
    ------
    ValueError
        If one of the adapter's people is scored or not in ``source``, or everyone in it is scored.
    """
    if stager is not None:
        check_no_leakage(stager.trained_on, table.index.unique("subject"))
        return partition_subjects(source, stager.trained_on)[0]
    scored = source.index.unique("subject").intersection(table.index.unique("subject"))
    others = partition_subjects(source, scored)[1]
    if others.empty:
        raise ValueError("everyone in the training table is scored; score fewer, or train on another table")
    return others
