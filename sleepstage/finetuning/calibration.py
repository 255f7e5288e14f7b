"""Calibration of a model's probabilities: a temperature, and the transitions between stages.

A model may be surer than it is right; its log-probabilities are divided by a temperature to correct that
(Guo et al., 2017). Stages also have a usual order: deep sleep does not come directly after wakefulness. The
forward–backward algorithm (Rabiner, 1989) uses this order, as counted in the training people. Both methods
work for any model that gives probabilities, decision trees too.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from ..dataset.table import consecutive_runs
from ..files import check_number, check_subjects, listed, naming, read_json, write_json
from ..stages import STAGES, UNSCORED, answered, proba_array

TEMPERATURES = (0.05, 20.0)
STRONGEST = 10.0


@dataclass(frozen=True)
class HypnogramPrior:
    """How stages follow each other, and how far a model's probabilities can be trusted.

    A night's stages s₁ … sₙ get the weight
    Π p(sₜ | text)^(1/temperature) · Π (A(sₜ₊₁ | sₜ) / π(sₜ₊₁))^strength; an epoch's new probabilities are its
    marginals. With strength 1 this is a hidden Markov model: its likelihoods are the model's probabilities
    divided by the stages' shares (Bourlard & Morgan, 1994). With strength 0 only the temperature counts.

    Parameters
    ----------
    transitions : tuple of 5 tuples of 5 floats
        A: the share of each next stage (columns) after each stage (rows).
    shares : tuple of 5 floats
        π: the share of each stage.
    temperature, strength : float
        1 and 0 leave probabilities as they are.
    fitted_on : tuple
        The subjects whose nights temperature and strength were fitted on.
    """

    transitions: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]
    temperature: float = 1.0
    strength: float = 0.0
    fitted_on: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no probability, and a temperature or strength with which an answer would underflow.

        Within these bounds the smallest product is 1e-6^20 · (1e-9)^10, which a double can hold.
        """
        for name, row in [("shares", self.shares), *(("transitions", row) for row in self.transitions)]:
            for share in row:
                check_number(share, f"one of the {name}", 1e-9, 1)
            if len(row) != len(STAGES) or abs(sum(row) - 1) > 1e-3:
                raise ValueError(f"{name} are {row}, expected {len(STAGES)} shares with the sum 1")
        if len(self.transitions) != len(STAGES):
            raise ValueError(f"got {len(self.transitions)} rows of transitions, expected {len(STAGES)}")
        check_number(self.temperature, "temperature", *TEMPERATURES)
        check_number(self.strength, "strength", 0, STRONGEST)

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> Self:
        """Count transitions between neighbouring scored epochs of a table; one is added to every count."""
        stages = table["stage"].to_numpy()
        counts = np.ones((len(STAGES), len(STAGES)))
        for run in consecutive_runs(table):
            now, after = stages[run][:-1], stages[run][1:]
            known = (now != UNSCORED) & (after != UNSCORED)
            np.add.at(counts, (now[known], after[known]), 1)
        shares = counts.sum(axis=0) / counts.sum()
        transitions = counts / counts.sum(axis=1, keepdims=True)
        return cls(tuple(map(tuple, transitions.tolist())), tuple(shares.tolist()))

    def save(self, path: str | Path) -> None:
        """Write the prior as JSON."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a prior written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file is damaged, or its numbers are impossible.
        """
        content = read_json(path)
        with naming(path, "a prior that sleepstage reads"):
            content |= {name: listed(content[name], name) for name in ("transitions", "shares", "fitted_on")}
            check_subjects(content["fitted_on"], "fitted_on")
            content["transitions"] = tuple(map(tuple, content["transitions"]))
            return cls(**content)

    def apply(self, proba: pd.DataFrame) -> pd.DataFrame:
        """Give the hypnodensity (n_epochs, 5) after temperature and prior; nothing crosses a gap.

        ``proba`` is indexed by ``(subject, recording, epoch)``. A row without an answer (NaN) stays NaN and
        tells its neighbours nothing: its p(s | text)^(1/temperature) is π(s)^strength, as in a hidden Markov
        model without that observation.
        """
        runs = consecutive_runs(proba)
        known, shares = answered(proba)[:, None], np.asarray(self.shares)
        tempered = np.clip(proba_array(proba), 1e-6, None) ** (1 / self.temperature)  # for finite logs
        emission = np.where(known, tempered, shares**self.strength)
        ratio = (np.asarray(self.transitions) / shares) ** self.strength
        smoothed = np.where(known, _forward_backward(emission, ratio, runs), np.nan)
        return pd.DataFrame(smoothed, index=proba.index, columns=list(STAGES))

    def fitted(self, stages: pd.Series, proba: pd.DataFrame) -> Self:
        """Choose temperature and strength by the log-loss on scored epochs (Nelder & Mead, 1965).

        Epochs without an answer (NaN) are left out.

        Raises
        ------
        ValueError
            If no epoch is scored and has an answer.
        """
        compared = (stages.to_numpy() != UNSCORED) & answered(proba)
        if not compared.any():
            said = f"none of the {len(stages)} epochs is scored and has an answer"
            raise ValueError(f"{said}, so no temperature can be fitted; add nights that can be measured")
        from sklearn.metrics import log_loss  # here, since staging a night does not wait for scikit-learn

        def loss(parameters: np.ndarray) -> float:
            smoothed = self._with(parameters).apply(proba).to_numpy()
            return log_loss(stages.to_numpy()[compared], smoothed[compared], labels=range(len(STAGES)))

        best = minimize(loss, [0.0, 0.5], method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-4})
        return replace(self._with(best.x), fitted_on=tuple(stages.index.unique("subject").tolist()))

    def _with(self, parameters: np.ndarray) -> Self:
        log_temperature, strength = parameters
        temperature = np.clip(np.exp(log_temperature), *TEMPERATURES)
        return replace(self, temperature=float(temperature), strength=float(np.clip(strength, 0, STRONGEST)))


@dataclass(frozen=True)
class PriorByPerson:
    """A prior for each person, which was fitted on other people.

    Parameters
    ----------
    priors : dict of HypnogramPrior
        By the subject.
    """

    priors: dict[Any, HypnogramPrior]

    def apply(self, proba: pd.DataFrame) -> pd.DataFrame:
        """Apply to each person's answers that person's prior; see :meth:`HypnogramPrior.apply`."""
        people = proba.groupby(level="subject", sort=False)
        return pd.concat([self.priors[subject].apply(part) for subject, part in people]).loc[proba.index]


def cross_fitted(prior: HypnogramPrior, stages: pd.Series, proba: pd.DataFrame) -> PriorByPerson:
    """Fit temperature and strength for each person on *other* people, in seven folds.

    So no figure comes from people that the prior was fitted on.

    Raises
    ------
    ValueError
        With fewer than two subjects.
    """
    subjects = proba.index.get_level_values("subject")
    n_subjects = subjects.nunique()
    if n_subjects < 2:
        raise ValueError("cross-fitting needs at least two subjects: one to fit on and one to apply it to")
    from sklearn.model_selection import GroupKFold  # here: see HypnogramPrior.fitted

    priors: dict[Any, HypnogramPrior] = {}
    for others, these in GroupKFold(min(7, n_subjects)).split(proba, groups=subjects):
        priors |= dict.fromkeys(subjects[these], prior.fitted(stages.iloc[others], proba.iloc[others]))
    return PriorByPerson(priors)


def _forward_backward(emission: np.ndarray, ratio: np.ndarray, runs: list[slice]) -> np.ndarray:
    """Give the marginals (n_epochs, 5) of a chain, all runs of consecutive epochs side by side."""
    lengths = np.array([run.stop - run.start for run in runs])
    first = np.array([run.start for run in runs])
    place = np.arange(lengths.max())
    inside = place[:, None] < lengths  # (longest, n_runs)
    rows = np.where(inside, first + place[:, None], 0)
    weight = emission[rows]  # (longest, n_runs, 5)
    forward, backward = np.ones_like(weight), np.ones_like(weight)
    forward[0] = _normalized(weight[0])
    for t in place[1:]:
        forward[t] = _normalized(weight[t] * (forward[t - 1] @ ratio))
    for t in place[-2::-1]:
        came = _normalized((weight[t + 1] * backward[t + 1]) @ ratio.T)
        backward[t] = np.where(inside[t + 1, :, None], came, 1.0)
    marginals = np.empty_like(emission)
    marginals[rows[inside]] = _normalized(forward * backward)[inside]
    return marginals


def _normalized(weight: np.ndarray) -> np.ndarray:
    """Scale the last axis to a sum of 1.

    Examples
    --------
    >>> _normalized(np.array([[1.0, 3.0]]))
    array([[0.25, 0.75]])
    """
    return weight / weight.sum(axis=-1, keepdims=True)
