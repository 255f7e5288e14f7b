"""Readers side by side: who may be scored, with whose temperature, and what the figures hold."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.__main__ import main
from sleepstage.evaluation.readers import Reader, baseline_table, evaluate_cohort
from sleepstage.finetuning.calibration import HypnogramPrior
from sleepstage.finetuning.teacher import Network


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


def near(table, known=None):
    """Probabilities that fall with the distance between a stage's code and the feature; hints are kept."""
    weight = np.exp(-np.abs(table["std_uv"].to_numpy()[:, None] - np.arange(5)) * 9)  # far too sure
    proba = weight / weight.sum(axis=1, keepdims=True)
    if known is not None:
        proba[known != -1] = np.eye(5)[known[known != -1]]
    return pd.DataFrame(proba, table.index, list(ss.STAGES))


def test_what_cannot_be_scored_is_refused(cohort):
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate_cohort(cohort, {})
    with pytest.raises(ValueError, match="in training and in test"):
        evaluate_cohort(cohort, {"llm": Reader(near, ["3"])})
    unread = {"llm": Reader(None, [])}  # refused before anything is read
    with pytest.raises(ValueError, match="rounds of 10"):
        evaluate_cohort(cohort, unread, hints=[5])
    with pytest.raises(ValueError, match="gain is -1"):
        evaluate_cohort(cohort, unread, gains=[-1])


def test_baselines_learn_from_the_adapters_people_or_from_all_who_are_not_scored(cohort):
    scored = cohort[cohort.index.get_level_values("subject") >= 6]

    class Tuned:
        trained_on = (1, "3")

    assert set(baseline_table(cohort, scored, None).index.unique("subject")) == {0, 1, 2, 3, 4, 5}
    assert set(baseline_table(cohort, scored, Tuned()).index.unique("subject")) == {1, 3}
    others = cohort[cohort.index.get_level_values("subject") < 3]
    assert baseline_table(others, scored, None).equals(others)
    with pytest.raises(ValueError, match="subjects 1 are in training and in test"):
        baseline_table(cohort, others, Tuned())
    with pytest.raises(ValueError, match="everyone in the training table is scored; score fewer"):
        baseline_table(scored, scored, None)


def test_a_temperature_of_others_is_used_and_ones_own_is_fitted_anew_on_others(cohort):
    """A temperature that fits nobody leaves its mark, unless the people scored had chosen it."""
    prior = HypnogramPrior.from_table(cohort)
    hot = HypnogramPrior(prior.transitions, prior.shares, temperature=20.0, fitted_on=(90, 91))
    of_theirs = HypnogramPrior(prior.transitions, prior.shares, temperature=20.0, fitted_on=(1, 90))
    readers = {"llm": Reader(near, (), hot), "baseline": Reader(near, (), of_theirs)}
    figures, answers = evaluate_cohort(cohort, readers)
    pd.testing.assert_frame_equal(answers["llm"], hot.apply(near(cohort)))
    assert figures["baseline"]["log_loss"] < figures["llm"]["log_loss"]
    assert figures["llm_as_read"]["kappa"] == figures["baseline_as_read"]["kappa"]
    low, high = figures["kappa_difference_ci"]["llm-baseline"]
    expected = ss.kappa_difference_ci(cohort["stage"], answers["llm"], answers["baseline"])
    assert [low, high] == expected


def test_conditions_and_hints_are_scored_with_the_temperature_of_whole_nights_without_hints(cohort):
    fitted_on = []

    class Prior(HypnogramPrior):
        def fitted(self, stages, proba):
            fitted_on.append(proba)
            return super().fitted(stages, proba)

    prior = HypnogramPrior.from_table(cohort)
    reader = Reader(near, (), Prior(prior.transitions, prior.shares))
    figures, _ = evaluate_cohort(cohort, {"llm": reader}, [0.5, 1], ["pieces", "wake"], [0, 20])
    whole = near(cohort)
    assert len(fitted_on) == 7 and all(proba.equals(whole.loc[proba.index]) for proba in fitted_on)
    assert set(figures["gain"]) == {"0.5", "1"} and set(figures["conditions"]) == {"pieces", "wake"}
    same = figures["gain"]["1"]["llm"]
    assert same == {name: figures["llm"][name] for name in same}
    assert figures["gain"]["0.5"]["llm"]["kappa"] < same["kappa"]
    assert figures["conditions"]["wake"]["llm"]["n_epochs"] == len(cohort)
    assert {row["model"] for row in figures["hints"]} == {"llm"}
    assert [(row["at"], row["n"]) for row in figures["hints"]] == [
        ("doubt", 0), ("doubt", 20), ("random", 0), ("random", 20)
    ]  # fmt: skip
    assert json.dumps(figures)


def test_trees_have_hints_filled_in_and_learn_nothing_from_them(cohort):
    people = cohort.index.get_level_values("subject")
    trees = {"baseline": Reader.of_trees(cohort[people <= 5])}
    figures, _ = evaluate_cohort(cohort[people > 5], trees, hints=[0, 10], hints_at=["doubt"])
    before, after = figures["hints"]
    assert after["kappa_difference"] == 0 and after["kappa_delivered"] == after["kappa_filled_in"]
    assert after["kappa_filled_in"] > before["kappa_filled_in"] == figures["baseline"]["kappa"]
    assert "kappa_difference_ci" not in figures


@pytest.mark.slow
def test_train_and_evaluate_from_the_command_line(cohort, tmp_path, tiny_base, capsys, monkeypatch):
    """The whole way on a table of ours, with a tiny base model in the offline model's place."""
    monkeypatch.setattr(Network, "fit", partial(Network.fit, n_passes=4))
    cohort = cohort.assign(quality="ok")
    off = cohort.xs("SC4051", level="recording", drop_level=False).index[100:110]
    cohort.loc[off, ["std_uv", "quality"]] = np.nan, "zero"
    path = ss.save_table(cohort, tmp_path / "cohort.npz")
    adapter, result = tmp_path / "adapter", tmp_path / "figures.json"
    arguments = ["--table", str(path), "--adapter", str(adapter)]
    training = ["--validation-subjects", "5", "6", "--steps", "2", "--base", str(tiny_base), "--float32"]
    assert main(["train", *arguments, *training]) == 0
    of_training = json.loads((adapter / "figures.json").read_text())
    card = json.loads((adapter / "train.json").read_text())
    assert card["subjects"] == [0, 1, 2, 3, 4, 7]
    scoring = ["--subjects", "5", "6", "--baseline", "--network", "--json", str(result), "--fit-prior"]
    scoring += ["--hypnodensities", str(tmp_path / "night.npz"), "--gain", "2", "--conditions", "pieces"]
    scoring += ["--hints", "10", "--hints-at", "doubt"]
    assert main(["evaluate", *arguments, *scoring]) == 0
    figures = json.loads(result.read_text())
    for kind in ("llm", "llm_as_read"):
        unlike = {"epochs_per_second": None}
        assert of_training[kind] | unlike == figures[kind] | unlike
    models = {"llm", "baseline", "network"}
    read = models | {f"{name}_as_read" for name in models}
    assert set(figures) == read | {"kappa_difference_ci", "gain", "conditions", "hints"}
    assert set(figures["kappa_difference_ci"]) == {"llm-baseline", "llm-network"}
    assert set(figures["gain"]["2"]) == set(figures["conditions"]["pieces"]) == models
    assert [row["model"] for row in figures["hints"]] == ["llm", "baseline", "network"]
    assert figures["llm"]["n_subjects"] == figures["baseline"]["n_subjects"] == 2
    assert figures["llm"]["n_epochs"] < 1600  # recut
    assert figures["llm"]["epochs_per_second"] > 0
    assert figures["network"]["kappa"] > 0.3 > figures["llm"]["kappa"]
    assert figures["baseline"]["kappa"] > 0.3
    for model in read:
        assert figures[model]["n_unanswered"] == 10 == figures[model]["per_subject"]["5"]["n_unanswered"]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("network", "kappa by gain", "kappa_filled_in"))
    answers = ss.load_table(tmp_path / "night.npz")
    assert answers.index[answers[list(ss.feature_columns(answers))].isna().all(axis=1)].equals(off)
    assert answers.index[answers["quality"] == "zero"].equals(off)
    trees = answers[[f"baseline {stage}" for stage in ss.STAGES]].set_axis(list(ss.STAGES), axis=1)
    assert ss.score(answers["stage"], trees)["kappa"] == pytest.approx(figures["baseline"]["kappa"], abs=2e-3)
    prior = HypnogramPrior.load(adapter / "prior.json")
    assert prior.fitted_on == (5, 6) and prior.temperature != 1
    assert main(["evaluate", *arguments, "--subjects", "4", "5", "--json", str(result)]) == 2
    assert "subjects 4 are in training and in test" in capsys.readouterr().err


def test_a_call_that_is_stopped_while_it_scores_is_resumed_without_training(
    cohort, tmp_path, tiny_base, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    path = ss.save_table(cohort[cohort.index.get_level_values("subject") < 3], tmp_path / "three.npz")
    adapter = tmp_path / "adapter"
    command = ["train", "--table", str(path), "--adapter", str(adapter), "--base", str(tiny_base)]
    command += ["--validation-subjects", "2", "--steps", "1", "--float32"]
    with monkeypatch.context() as patch:
        patch.setattr("sleepstage.evaluation.readers.evaluate_cohort", stop)
        assert main(command) == 130
    assert HypnogramPrior.load(adapter / "prior.json").fitted_on == ()
    (adapter / "figures.json.partial1234567").touch()  # killed while it wrote
    with monkeypatch.context() as patch:
        patch.setattr("sleepstage.finetuning.trainer.build_trainer", stop)
        assert main([*command, "--resume"]) == 0
        assert main([*command, "--resume", "--seed", "1"]) == 130  # this is another training
    assert HypnogramPrior.load(adapter / "prior.json").fitted_on == (2,)
    assert json.loads((adapter / "figures.json").read_text())["llm"]["per_subject"].keys() == {"2"}
    assert main(command) == 0  # an adapter with figures is one that training may replace
