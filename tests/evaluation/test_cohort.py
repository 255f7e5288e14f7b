"""Figures over many people agree with scikit-learn's and SciPy's, and resample people, not epochs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score

import sleepstage as ss
from sleepstage.evaluation.cohort import cohort_figures, kappa_difference_ci, save_answers


@pytest.fixture(scope="module")
def cohort():
    """Eight people, two nights each, and a feature that tells stages apart better in some than in others."""
    rng = np.random.default_rng(0)
    nights = []
    for subject in range(8):
        for night in (1, 2):
            stage = np.repeat(rng.integers(0, 5, 80), 5).astype(np.int8)
            index = pd.MultiIndex.from_product(
                [[subject], [f"SC4{subject:02d}{night}"], range(400)], names=["subject", "recording", "epoch"]
            )
            values = stage + rng.normal(scale=0.3 + 0.2 * subject, size=400)
            nights.append(pd.DataFrame({"std_uv": values, "stage": stage}, index=index))
    return ss.collect(nights)


@pytest.fixture(scope="module")
def proba(cohort):
    """Probabilities that fall with the distance between a stage's code and the feature."""
    weight = np.exp(-np.abs(cohort["std_uv"].to_numpy()[:, None] - np.arange(5)) * 3)
    return pd.DataFrame(
        weight / weight.sum(axis=1, keepdims=True), index=cohort.index, columns=list(ss.STAGES)
    )


def test_interval_over_two_people_runs_from_one_of_them_to_the_other(cohort, proba):
    """A draw of two is the first person twice, both, or the second twice; kappas by scikit-learn."""
    stages = cohort["stage"][cohort.index.get_level_values("subject").isin([1, 6])]
    given = proba.loc[stages.index].to_numpy().argmax(axis=1)
    people = stages.to_frame().assign(given=given).groupby(level="subject")
    kappas = sorted(cohen_kappa_score(part["stage"], part["given"]) for _, part in people)
    assert cohort_figures(stages, proba.loc[stages.index])["kappa_ci"] == pytest.approx(kappas)


def test_interval_over_people_agrees_with_scipys_bootstrap(cohort, proba):
    figures = cohort_figures(cohort["stage"], proba, n_resamples=4000)
    groups = [
        part for _, part in cohort.assign(given=proba.to_numpy().argmax(axis=1)).groupby(level="subject")
    ]

    def kappa(chosen):
        drawn = pd.concat([groups[i] for i in chosen])
        return cohen_kappa_score(drawn["stage"], drawn["given"])

    by_scipy = bootstrap(
        (np.arange(8),), kappa, n_resamples=400, method="percentile", vectorized=False, rng=0
    ).confidence_interval
    assert figures["kappa_ci"] == pytest.approx([by_scipy.low, by_scipy.high], abs=0.03)
    assert figures["kappa_ci"][0] < figures["kappa"] < figures["kappa_ci"][1]
    assert figures["n_subjects"] == 8


def test_figures_by_person_and_by_night_are_those_of_their_rows(cohort, proba):
    figures = cohort_figures(cohort["stage"], proba)
    assert len(figures["per_subject"]) == 8 and len(figures["per_night"]) == 16
    rows = cohort.index.get_level_values("recording") == "SC4031"
    assert figures["per_night"]["3/SC4031"]["kappa"] == ss.score(cohort["stage"][rows], proba[rows])["kappa"]


def test_unscored_epochs_count_nowhere(cohort, proba):
    hidden = cohort["stage"].copy()
    hidden[cohort.index.get_level_values("subject") == 7] = -1
    figures = cohort_figures(hidden, proba)
    assert figures["n_subjects"] == 7 and figures["n_epochs"] == 7 * 800
    assert "7" not in figures["per_subject"]


def test_a_person_without_an_answer_is_listed_and_changes_no_figure_of_the_others(cohort, proba):
    dead = cohort.index.get_level_values("subject") == 7
    figures = cohort_figures(cohort["stage"], proba.mask(pd.Series(dead, proba.index)))
    others = cohort_figures(cohort["stage"][~dead], proba[~dead])
    assert (figures["n_epochs"], figures["n_unanswered"], figures["n_subjects"]) == (5600, 800, 7)
    assert figures["per_subject"].pop("7") == {
        "kappa": None, "accuracy": None, "n_epochs": 0, "n_unanswered": 800
    }  # fmt: skip
    assert figures["per_subject"] == others["per_subject"]
    assert figures["kappa_ci"] == others["kappa_ci"] and figures["kappa"] == others["kappa"]


def test_two_models_are_compared_on_the_epochs_that_both_answered(cohort, proba):
    """The same answers but for some that are missing: no difference, whoever lacks them."""
    part = proba.copy()
    part[::3] = np.nan
    assert kappa_difference_ci(cohort["stage"], proba, part) == [0, 0]
    assert kappa_difference_ci(cohort["stage"], part, proba) == [0, 0]


def test_answers_come_back_from_their_file(cohort, proba, tmp_path):
    answers = {"llm": proba, "llm_as_read": proba, "baseline": proba[::-1].loc[proba.index]}
    read = ss.load_table(save_answers(cohort.assign(quality="ok"), answers, tmp_path / "new" / "a.npz"))
    assert ss.feature_columns(read) == [
        f"{name} {stage}" for name in ("llm", "baseline") for stage in ss.STAGES
    ]
    np.testing.assert_allclose(read.filter(like="baseline "), proba, atol=5e-5)
    assert read["stage"].equals(cohort["stage"]) and (read["quality"] == "ok").all()
