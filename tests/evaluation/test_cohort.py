"""Figures over many people agree with scikit-learn's and SciPy's, and resample people, not epochs."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score

import sleepstage as ss
from sleepstage.__main__ import main
from sleepstage.evaluation.cohort import (
    baseline_table,
    cohort_figures,
    evaluate_cohort,
    kappa_difference_ci,
    save_answers,
)
from sleepstage.finetuning.calibration import HypnogramPrior


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


def test_nothing_asked_for_and_a_person_on_both_sides_are_refused(cohort):
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate_cohort(cohort)
    with pytest.raises(ValueError, match="in training and in test"):
        evaluate_cohort(cohort, train_table=cohort)


def test_trees_learn_from_the_adapters_people_or_from_all_who_are_not_scored(cohort):
    scored = cohort[cohort.index.get_level_values("subject") >= 6]

    class Tuned:
        trained_on = (1, "3")

    assert set(baseline_table(cohort, scored, None).index.unique("subject")) == {0, 1, 2, 3, 4, 5}
    assert set(baseline_table(cohort, scored, Tuned()).index.unique("subject")) == {1, 3}
    others = cohort[cohort.index.get_level_values("subject") < 3]
    assert baseline_table(others, scored, None).equals(others)
    with pytest.raises(ValueError, match="everyone in the training table is scored; score fewer"):
        baseline_table(scored, scored, None)


def test_answers_come_back_from_their_file(cohort, proba, tmp_path):
    answers = {"llm": proba, "llm_as_read": proba, "baseline": proba[::-1].loc[proba.index]}
    read = ss.load_table(save_answers(cohort.assign(quality="ok"), answers, tmp_path / "new" / "a.npz"))
    assert ss.feature_columns(read) == [
        f"{name} {stage}" for name in ("llm", "baseline") for stage in ss.STAGES
    ]
    np.testing.assert_allclose(read.filter(like="baseline "), proba, atol=5e-5)
    assert read["stage"].equals(cohort["stage"]) and (read["quality"] == "ok").all()


def test_train_and_evaluate_from_the_command_line(cohort, tmp_path, tiny_base, capsys):
    """The whole way on a table of ours, with a tiny base model in the offline model's place."""
    cohort = cohort.assign(quality="ok")
    off = cohort.xs("SC4051", level="recording", drop_level=False).index[100:110]
    cohort.loc[off, ["std_uv", "quality"]] = np.nan, "zero"
    path = ss.save_table(cohort, tmp_path / "cohort.npz")
    adapter, result = tmp_path / "adapter", tmp_path / "figures.json"
    arguments = ["--table", str(path), "--adapter", str(adapter)]
    training = ["--validation-subjects", "5", "6", "--steps", "2", "--base", str(tiny_base), "--float32"]
    assert main(["train", *arguments, *training]) == 0
    card = json.loads((adapter / "train.json").read_text())
    assert card["subjects"] == [0, 1, 2, 3, 4, 7]
    scoring = ["--subjects", "5", "6", "--baseline", "--json", str(result), "--fit-prior"]
    scoring += ["--hypnodensities", str(tmp_path / "night.npz")]
    assert main(["evaluate", *arguments, *scoring]) == 0
    figures = json.loads(result.read_text())
    models = {"llm", "llm_as_read", "baseline", "baseline_as_read"}
    assert set(figures) == models | {"kappa_difference_ci"}
    assert figures["llm"]["n_subjects"] == figures["baseline"]["n_subjects"] == 2
    assert figures["llm"]["n_epochs"] < 1600  # recut
    assert figures["llm"]["epochs_per_second"] > 0
    assert figures["baseline"]["kappa"] > 0.3 > figures["llm"]["kappa"]
    for model in models:
        assert figures[model]["n_unanswered"] == 10 == figures[model]["per_subject"]["5"]["n_unanswered"]
    assert "baseline" in capsys.readouterr().out
    answers = ss.load_table(tmp_path / "night.npz")
    assert answers.index[answers[list(ss.feature_columns(answers))].isna().all(axis=1)].equals(off)
    assert answers.index[answers["quality"] == "zero"].equals(off)
    trees = answers[[f"baseline {stage}" for stage in ss.STAGES]].set_axis(list(ss.STAGES), axis=1)
    assert ss.score(answers["stage"], trees)["kappa"] == pytest.approx(figures["baseline"]["kappa"], abs=2e-3)
    prior = HypnogramPrior.load(adapter / "prior.json")
    assert prior.fitted_on == (5, 6) and prior.temperature != 1
    assert main(["evaluate", *arguments, "--subjects", "4", "5", "--json", str(result)]) == 1
    assert "subjects 4 are in training and in test" in capsys.readouterr().err
