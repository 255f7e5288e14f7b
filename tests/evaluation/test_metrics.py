"""Figures against cases worked by hand and scikit-learn's."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from sleepstage.evaluation.metrics import confusion, report, score
from sleepstage.stages import STAGES, most_probable_stages


def sure(codes):
    """A hypnodensity that is certain of these stages."""
    return np.eye(5)[np.asarray(codes)]


def test_figures_of_a_case_worked_by_hand():
    truth = [0, 0, 0, 0, 1, 2, 2, 2, 3, 4]
    given = [0, 0, 0, 1, 1, 2, 2, 4, 3, 2]
    figures = score(truth, sure(given))
    assert figures["n_epochs"] == 10
    assert figures["accuracy"] == pytest.approx(0.7)
    assert figures["recall"] == pytest.approx([3 / 4, 1, 2 / 3, 1, 0])
    assert figures["precision"] == pytest.approx([1, 1 / 2, 2 / 3, 1, 0])
    assert figures["f1"] == pytest.approx([6 / 7, 2 / 3, 2 / 3, 1, 0])
    assert figures["macro_f1"] == pytest.approx((6 / 7 + 4 / 3 + 1) / 5)
    by_chance = (4 * 3 + 1 * 2 + 3 * 3 + 1 * 1 + 1 * 1) / 100
    assert figures["kappa"] == pytest.approx((0.7 - by_chance) / (1 - by_chance))


def test_means_over_stages_agree_with_scikit_learn_when_all_stages_occur():
    rng = np.random.default_rng(0)
    truth, proba = rng.integers(0, 5, 500), rng.dirichlet(np.ones(5), 500)
    figures, given = score(truth, proba), proba.argmax(axis=1)
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, given))
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, given, average="macro"))
    assert figures["log_loss"] == pytest.approx(-np.log(proba[np.arange(500), truth]).mean())


def test_calibration_error_by_hand():
    proba = [[0.9, 0.1, 0, 0, 0], [0.9, 0, 0.1, 0, 0], [0.5, 0.3, 0.2, 0, 0], [0.25, 0.2, 0.2, 0.2, 0.15]]
    # bins: two at .9 of which one is right, one at .5 and right, one at .25 and wrong
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.5) + abs(0 - 0.25)) / 4
    assert score([0, 1, 0, 3], proba)["ece"] == pytest.approx(expected)


def test_a_bin_of_confidence_is_closed_above():
    """Guo et al.: ((m-1)/M, m/M]. 0.6 = 9/15 shares a bin with 0.55, not with 0.65."""

    def row(top):
        return [top, 1 - top, 0, 0, 0]

    assert score([0, 1], [row(0.6), row(0.55)])["ece"] == pytest.approx(abs(1 - 1.15) / 2)
    assert score([0, 1], [row(0.6), row(0.65)])["ece"] == pytest.approx((0.4 + 0.65) / 2)


def test_unscored_epochs_are_left_out_even_without_a_prediction():
    proba = np.vstack([sure([0, 1]), np.full((1, 5), np.nan)])
    assert score([0, 2, -1], proba)["n_epochs"] == 2
    assert score([0, 2, -1], proba)["accuracy"] == 0.5


def test_epochs_without_an_answer_are_counted_apart():
    truth, given = [0, 0, 1, 2, 3, -1, -1], [0, 1, 1, 0, 3, 2, 2]
    proba = sure(given)
    proba[[3, 5]] = np.nan
    figures = score(truth, proba)
    assert (figures["n_epochs"], figures["n_unanswered"]) == (4, 1)
    compared = score([0, 0, 1, 3], sure([0, 1, 1, 3]))
    assert figures == compared | {"n_unanswered": 1}
    assert report({"a": figures}).loc["a", ["epochs", "unanswered"]].tolist() == [4, 1]
    counts = confusion(truth, proba)
    assert counts.to_numpy().sum() == 4 and counts.loc["N2"].sum() == 0


def test_stages_that_do_not_occur_leave_the_means_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = score([0, 0, 2, 2], sure([0, 3, 2, 2]))
    assert figures["recall"] == [0.5, None, 1.0, None, None]
    assert figures["f1"] == [pytest.approx(2 / 3), None, 1.0, None, None]
    assert figures["precision"] == [1.0, None, 1.0, 0.0, None]
    assert figures["balanced_accuracy"] == pytest.approx(0.75)
    assert figures["macro_f1"] == pytest.approx(5 / 6)


def test_one_stage_only_has_no_kappa():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score([2, 2], sure([2, 2]))["kappa"] is None
        assert score([2, 2], sure([2, 1]))["kappa"] == 0


def test_figures_are_ready_for_json():
    figures = score([0, 0, 2], sure([0, 3, 2]))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_columns_are_found_by_name():
    truth = [0, 1, 2, 3, 4]
    proba = pd.DataFrame(sure(truth), columns=STAGES)[["REM", "N3", "W", "N1", "N2"]]
    assert score(truth, proba)["accuracy"] == 1
    assert most_probable_stages(proba).tolist() == truth


def test_half_precision_rows_count_as_distributions():
    proba = np.random.default_rng(0).dirichlet(np.ones(5), 50).astype(np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(np.arange(50) % 5, proba)["n_epochs"] == 50


@pytest.mark.parametrize(
    ("stages", "proba", "message"),
    [
        ([0, 1], sure([0]), "2 stages but 1 predictions"),
        ([-1, -1], sure([0, 1]), "none of the 2 epochs is scored"),
        ([0, 7], sure([0, 1]), "7.* is not a stage code"),
        (["W", "N1"], sure([0, 1]), "'W'.* is not a stage code"),
        ([0, 1], 2 * sure([0, 1]), "2 of 2 scored epochs"),
        ([0, 1], sure([0, 1]) * [[1], [-1]], "1 of 2 scored epochs"),
        (
            [0, 1, -1],
            sure([0, 1, 2]) * [[np.nan], [np.nan], [1]],
            "none of the 2 scored epochs has an answer",
        ),
        ([0, 1], sure([0, 1])[:, :4], r"shape \(2, 4\)"),
        ([0], pd.DataFrame(sure([0]), columns=["W", "N1", "N2", "N3", "R"]), "'R'"),
        ([[0], [1]], sure([0, 1]), "one code an epoch"),
    ],
)
def test_what_cannot_be_scored_is_refused(stages, proba, message):
    with pytest.raises(ValueError, match=message):
        score(stages, proba)


def test_tables_in_different_orders_are_refused():
    stages = pd.Series([0, 1, 2], index=["a", "b", "c"])
    proba = pd.DataFrame(sure(stages), index=stages.index, columns=STAGES)
    with pytest.raises(ValueError, match="different indices"):
        score(stages, proba[::-1])


def test_confusion_has_the_expert_in_rows():
    counts = confusion([0, 0, 1, -1, 2], [0, 4, 1, 1, -1])
    assert (counts.index.name, counts.columns.name) == ("expert", "model")
    assert counts.loc["W", "REM"] == counts.loc["W", "W"] == counts.loc["N1", "N1"] == 1
    assert counts.to_numpy().sum() == 3
    assert confusion([0, 0, 1], sure([0, 4, 1])).equals(confusion([0, 0, 1], [0, 4, 1]))
    assert confusion([-1], [0]).to_numpy().sum() == 0


def test_report_has_a_row_a_model():
    table = report({"good": score([0, 1], sure([0, 1])), "one stage": score([0, 0], sure([0, 0]))})
    assert table.index.tolist() == ["good", "one stage"]
    assert table.loc["good", ["accuracy", "macro-F1", "kappa", "epochs"]].tolist() == [1, 1, 1, 2]
    assert np.isnan(table.loc["one stage", "kappa"])
