"""Temperature and hypnogram prior, checked against all paths of a short night."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from sleepstage.finetuning.calibration import HypnogramPrior, cross_fitted
from sleepstage.stages import STAGES


def hypnodensity(epochs, subject=1, seed=0, sharpness=1.0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([[subject], ["n"], epochs], names=["subject", "recording", "epoch"])
    values = rng.dirichlet(np.full(5, 1.0), len(index)) ** sharpness
    return pd.DataFrame(values / values.sum(axis=1, keepdims=True), index=index, columns=list(STAGES))


def a_prior(**settings):
    rng = np.random.default_rng(3)
    rows = rng.dirichlet(np.full(5, 0.5), 5)
    return HypnogramPrior(
        tuple(map(tuple, rows.tolist())), tuple(rng.dirichlet(np.ones(5)).tolist()), **settings
    )


def marginals_over_all_paths(proba, prior):
    """The definition in the docstring, summed over every one of the 5ⁿ paths."""
    ratio = (np.array(prior.transitions) / np.array(prior.shares)) ** prior.strength
    weights = proba.to_numpy() ** (1 / prior.temperature)
    total = np.zeros(proba.shape)
    for path in itertools.product(range(5), repeat=len(proba)):
        weight = np.prod([weights[t, s] for t, s in enumerate(path)])
        weight *= np.prod([ratio[a, b] for a, b in itertools.pairwise(path)])
        total[np.arange(len(path)), path] += weight
    return total / total.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "strength"), [(1.0, 1.0), (1.7, 0.4), (0.8, 0.0)])
def test_probabilities_are_the_marginals_over_all_paths(temperature, strength):
    proba = hypnodensity(range(5))
    prior = a_prior(temperature=temperature, strength=strength)
    assert_allclose(prior.apply(proba), marginals_over_all_paths(proba, prior), rtol=1e-9)


def test_nothing_crosses_a_gap_or_another_night():
    prior = a_prior(strength=1.0)
    parts = [hypnodensity(range(4)), hypnodensity([9, 10, 11], seed=1), hypnodensity(range(6), 2, seed=2)]
    together = prior.apply(pd.concat(parts))
    assert_allclose(together, pd.concat([prior.apply(part) for part in parts]), rtol=1e-9)
    assert together.index.equals(pd.concat(parts).index)


def test_without_strength_and_temperature_nothing_changes():
    proba = hypnodensity(range(30))
    assert_allclose(a_prior().apply(proba), proba, rtol=1e-9)


def test_a_certain_zero_does_not_end_in_nan():
    proba = hypnodensity(range(6))
    proba.iloc[2] = [1.0, 0, 0, 0, 0]
    proba.iloc[3] = [0, 0, 0, 1.0, 0]
    assert np.isfinite(a_prior(strength=1.0).apply(proba)).all(axis=None)


def test_an_epoch_without_an_answer_is_an_observation_that_was_not_made():
    """A hidden Markov model by its definition: π, A, and likelihoods p(s | text) / π(s), 1 where none is."""
    prior = a_prior(strength=1.0)
    shares, transitions = np.array(prior.shares), np.array(prior.transitions)
    proba = hypnodensity(range(6))
    proba.iloc[[0, 3, 4]] = np.nan
    likelihood = np.nan_to_num(proba.to_numpy() / shares, nan=1.0)
    total = np.zeros((6, 5))
    for path in itertools.product(range(5), repeat=6):
        weight = shares[path[0]] * np.prod([transitions[a, b] for a, b in itertools.pairwise(path)])
        total[np.arange(6), path] += weight * np.prod(likelihood[np.arange(6), path])
    expected = total / total.sum(axis=1, keepdims=True)
    smoothed = prior.apply(proba)
    assert_allclose(smoothed.iloc[[1, 2, 5]], expected[[1, 2, 5]], rtol=1e-9)
    assert smoothed.iloc[[0, 3, 4]].isna().all(axis=None)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_without_strength_an_epoch_without_an_answer_does_not_touch_its_neighbours(temperature):
    proba = hypnodensity(range(8))
    prior = a_prior(temperature=temperature)
    whole = prior.apply(proba)
    proba.iloc[3] = np.nan
    assert_allclose(prior.apply(proba).drop(proba.index[3]), whole.drop(proba.index[3]), rtol=1e-9)


def test_a_night_without_an_answer_stays_one():
    proba = hypnodensity(range(8)) * np.nan
    assert a_prior(strength=0.5).apply(proba).isna().all(axis=None)
    with pytest.raises(ValueError, match="none of the 8 epochs is scored and has an answer"):
        a_prior().fitted(pd.Series(0, index=proba.index), proba)


def test_transitions_are_counted_between_neighbours_only():
    index = pd.MultiIndex.from_tuples(
        [(1, "a", 0), (1, "a", 1), (1, "a", 2), (1, "a", 7), (2, "b", 0), (2, "b", 1)],
        names=["subject", "recording", "epoch"],
    )
    table = pd.DataFrame({"x": 0.0, "stage": [0, 1, 1, 3, 2, -1]}, index=index)
    counts = np.ones((5, 5))
    counts[0, 1] += 1
    counts[1, 1] += 1
    prior = HypnogramPrior.from_table(table)
    assert_allclose(prior.transitions, counts / counts.sum(axis=1, keepdims=True))
    assert_allclose(prior.shares, counts.sum(axis=0) / counts.sum())


def test_saved_and_loaded_it_is_the_same(tmp_path):
    prior = a_prior(temperature=1.3, strength=0.7, fitted_on=(2, "own"))
    prior.save(tmp_path / "prior.json")
    assert HypnogramPrior.load(tmp_path / "prior.json") == prior


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"temperature": value} for value in (float("nan"), -1.0, 0.0, 1e-300, float("inf"), "1", None)],
        *[{"strength": value} for value in (float("nan"), -0.1, 1e6)],
        *[{"shares": value} for value in ([0.2] * 4, [1.0, 0, 0, 0, 0], [0.3] * 5, 0.2, [float("nan")] * 5)],
        *[
            {"transitions": value}
            for value in ([[0.2] * 5] * 4, [[0.2] * 4] * 5, [[0.5] * 5] * 5, 1, [1] * 5)
        ],
        *[{"fitted_on": value} for value in (5, "Ann", [["Ann"]])],
        {"colour": "red"},
    ],
)
def test_an_impossible_prior_is_refused_by_name(wrong, tmp_path):
    path = tmp_path / "prior.json"
    a_prior().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ValueError, match="prior.json is not a prior"):
        HypnogramPrior.load(path)


def test_the_extremes_that_are_allowed_give_probabilities():
    """The surest answers with the strongest prior against them."""
    proba = hypnodensity(range(50))
    proba.iloc[:] = np.eye(5)[np.arange(50) % 5]
    rare = tuple(tuple(np.where(row, 1 - 4e-9, 1e-9).tolist()) for row in np.eye(5))
    prior = HypnogramPrior(rare, (0.2,) * 5, temperature=0.05, strength=10.0)
    assert_allclose(prior.apply(proba).sum(axis=1), 1)


def people(n_subjects, sharpness=1.0):
    """Nights drawn from a hidden Markov chain, and hypnodensities that are too sure of themselves."""
    rng = np.random.default_rng(5)
    sticky = 0.9 * np.eye(5) + 0.02
    nights, stages = [], []
    for subject in range(n_subjects):
        path = [0]
        for _ in range(299):
            path.append(rng.choice(5, p=sticky[path[-1]]))
        logits = 1.5 * np.eye(5)[path] + rng.normal(size=(300, 5))
        proba = np.exp(sharpness * logits)
        night = hypnodensity(range(300), subject)
        night[:] = proba / proba.sum(axis=1, keepdims=True)
        nights.append(night)
        stages.append(pd.Series(path, index=night.index, name="stage"))
    return pd.concat(nights), pd.concat(stages)


def test_fitting_finds_the_temperature_and_the_use_of_the_transitions():
    proba, stages = people(4, sharpness=3.0)  # logits three times too large; right ones need 1.5
    prior = HypnogramPrior.from_table(stages.to_frame())
    fitted = prior.fitted(stages, proba)
    assert fitted.fitted_on == (0, 1, 2, 3)
    assert 1.2 < fitted.temperature < 3 and fitted.strength > 0.5
    accuracy = [(p.to_numpy().argmax(1) == stages).mean() for p in (proba, fitted.apply(proba))]
    assert accuracy[1] > accuracy[0] + 0.1


def test_epochs_without_an_answer_are_not_fitted_on():
    """Whatever the expert called them; and cross-fitting leaves them as they are."""
    proba, stages = people(3)
    dead = np.arange(len(proba)) % 10 == 0
    proba[dead] = np.nan
    prior = HypnogramPrior.from_table(stages.to_frame())
    other = stages.where(~dead, 4 - stages)
    assert prior.fitted(other, proba) == prior.fitted(stages, proba)
    assert (cross_fitted(prior, stages, proba).apply(proba).isna().all(axis=1) == dead).all()


def test_a_persons_own_stages_do_not_change_their_cross_fitted_probabilities():
    proba, stages = people(4)
    prior = HypnogramPrior.from_table(stages.to_frame())
    before = cross_fitted(prior, stages, proba).apply(proba)
    other = stages.copy()
    other.loc[2] = 4 - other.loc[2].to_numpy()
    after = cross_fitted(prior, other, proba).apply(proba)
    assert before.index.equals(proba.index)
    assert_allclose(after.loc[2], before.loc[2])
    assert np.abs(after.loc[1].to_numpy() - before.loc[1].to_numpy()).max() > 1e-3


def test_cross_fitting_one_person_is_refused():
    proba, stages = people(1)
    with pytest.raises(ValueError, match="two subjects"):
        cross_fitted(HypnogramPrior.from_table(stages.to_frame()), stages, proba)
