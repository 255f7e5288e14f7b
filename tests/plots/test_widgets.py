"""The widgets, moved as a hand would: what they show follows, and stands still where no widgets run."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy import stats

import sleepstage as ss
from sleepstage.dataset.digits import LEVELS
from sleepstage.plots import widgets
from sleepstage.plots.epoch import digit_name
from sleepstage.stages import HYPNOGRAM_ORDER, STAGE_CODES, STAGES

DIGITS = (ss.Digit("std_uv"), ss.Digit("mobility"), ss.Digit("rfft_delta_uv2/rfft_beta_uv2"))


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def stager(tiny_base):
    return ss.Stager.from_base(ss.PromptSpec(digits=DIGITS, window=12, look_ahead=3), tiny_base, nf4=False)


@pytest.fixture(scope="module")
def proba(table):
    values = np.random.default_rng(0).dirichlet(np.ones(5), len(table))
    return pd.DataFrame(values, table.index, list(STAGES))


@pytest.fixture(scope="module")
def explorer(night, table, proba, stager):
    return ss.night_explorer(night, table, proba, stager.spec)


def pixels(widget):
    png = bytes(widget.picture.value)
    assert png.startswith(b"\x89PNG")
    return plt.imread(io.BytesIO(png))


def test_moving_the_slider_changes_picture_and_text(explorer, night):
    before, text = pixels(explorer), explorer.text.value
    assert before.std() > 0.05
    explorer.slider.value = 620
    assert explorer.slider.label == f"620 · {night.start + timedelta(seconds=620 * 30):%H:%M:%S}"
    after = pixels(explorer)
    assert after.shape == before.shape and np.abs(after - before).max() > 0.5
    assert explorer.text.value != text and ">620</td>" in explorer.text.value
    assert plt.get_fignums() == []


def test_buttons_step_by_one_and_stop_at_the_ends(explorer, table):
    start = explorer.slider.value
    explorer.on.click()
    assert explorer.slider.value == start + 1
    explorer.slider.value = 0
    explorer.back.click()
    assert explorer.slider.value == 0
    explorer.slider.value = len(table) - 1
    explorer.on.click()
    assert explorer.slider.value == len(table) - 1


def test_jump_goes_to_the_next_epoch_of_a_stage_and_round(explorer, table):
    deep = np.flatnonzero(table["stage"] == STAGE_CODES["N3"])
    explorer.slider.value = int(deep[0]) - 5
    explorer.jump.value = STAGE_CODES["N3"]
    assert explorer.slider.value == deep[0] and explorer.jump.value is None
    explorer.slider.value = int(deep[-1])
    explorer.jump.value = STAGE_CODES["N3"]
    assert explorer.slider.value == deep[0]


def test_jump_to_a_stage_that_the_night_lacks_stays(night, table, stager):
    explorer = ss.night_explorer(night, table[table["stage"] != 4], spec=stager.spec)
    epoch = explorer.slider.value
    explorer.jump.value = STAGE_CODES["REM"]
    assert explorer.slider.value == epoch


@pytest.mark.parametrize("make", ["explorer", "what_if"])
def test_where_no_widgets_run_the_same_picture_stands(make, explorer, table, stager, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    widget = explorer if make == "explorer" else ss.what_if(table, stager, 300)
    widget._ipython_display_()
    (bundle,) = shown
    assert b64decode(bundle["image/png"]) == widget.picture.value
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id


def test_picture_shows_the_epoch_that_it_names(night, table, proba, stager):
    figure = ss.plot_night_explorer(night, table, 620, proba, stager.spec)
    by_height = sorted(figure.axes, key=lambda ax: -ax.get_position().y1)
    hypnogram, signal, *below, answer = by_height
    spectrum, features = sorted(below, key=lambda ax: ax.get_position().x0)
    marker = [line.get_xdata()[0] for line in hypnogram.lines if line.get_marker() == "v"]
    assert marker == [pytest.approx(620.5 / 120)]
    np.testing.assert_allclose(signal.lines[-1].get_ydata(), night.eeg_uv[620])
    assert f"expert: {STAGES[table['stage'].iloc[620]]}" in signal.get_title("left")
    freqs_hz, psd = spectrum.lines[0].get_data()
    band = (freqs_hz >= 0.5) & (freqs_hz <= 40)
    total = np.trapezoid(psd[band], freqs_hz[band])
    assert total == pytest.approx(table["total_power_uv2"].iloc[620], rel=1e-6)
    dots = [line.get_xdata()[0] for line in features.lines if line.get_marker() == "o"]
    std = table["std_uv"]
    assert dots[0] == pytest.approx(stats.percentileofscore(std, std.iloc[620], "mean"))
    digits = "".join(text.get_text() for text in features.texts)
    assert digits + ":" == ss.night_text(stager.spec.levels(table)[[620]])
    widths = [bar.get_width() for bar in answer.patches[:5]]
    np.testing.assert_allclose(widths, proba.loc[:, list(HYPNOGRAM_ORDER)].iloc[620])


def axes_by_label(figure, word):
    return [ax for ax in figure.axes if word in ax.get_xlabel()]


def test_picture_does_without_a_model_an_expert_or_a_feature(night, table):
    blind = table.assign(stage=np.int8(-1))
    blind.iloc[5, : len(ss.feature_columns(table))] = np.nan
    figure = ss.plot_night_explorer(night, blind, 5)
    assert not axes_by_label(figure, "probability") and not axes_by_label(figure, "answer")
    assert all(ax.lines or ax.collections or ax.texts for ax in figure.axes)  # no panel is empty
    assert not any("expert" in ax.get_title("left") for ax in figure.axes)
    (features,) = [ax for ax in figure.axes if "Percentile" in ax.get_xlabel()]
    assert {text.get_text() for text in features.texts} == {"0"}
    assert not [line for line in features.lines if line.get_marker() == "o"]


def test_a_hypnodensity_of_a_part_answers_for_that_part(night, table, proba):
    part = proba.iloc[100:200]
    known, unknown = (ss.plot_night_explorer(night, table, epoch, part) for epoch in (150, 250))
    assert axes_by_label(known, "Model's probability")
    assert axes_by_label(unknown, "No model's answer")


@pytest.mark.parametrize("stages", ["expert", "none"])
def test_a_hypnodensity_of_several_nights_answers_for_this_one(night, table, proba, stages):
    table = table if stages == "expert" else table.assign(stage=np.int8(-1))
    other = proba.iloc[::-1].set_axis(proba.index).rename(index={"SC4001E0": "other"}, level="recording")
    figure = ss.plot_night_explorer(night, table, 150, pd.concat([other, proba]))
    (answer,) = axes_by_label(figure, "Model's probability")
    widths = [bar.get_width() for bar in answer.patches[:5]]
    np.testing.assert_allclose(widths, proba.loc[:, list(HYPNOGRAM_ORDER)].iloc[150])


def test_what_does_not_fit_is_refused(night, table, stager):
    with pytest.raises(ValueError, match="no epoch 9999; its epochs are 0 to 840"):
        ss.plot_night_explorer(night, table, 9999)
    two = pd.concat([table, table.rename(index={"SC4001E0": "other"}, level="recording")])
    with pytest.raises(ValueError, match="2 recordings"):
        ss.night_explorer(night, two, spec=stager.spec)
    short = SimpleNamespace(eeg_uv=night.eeg_uv[:400], sfreq_hz=100.0, start=None)
    with pytest.raises(ValueError, match="has epoch 840, the signal ends at 399"):
        ss.night_explorer(short, table, spec=stager.spec)


def test_changing_a_digit_moves_the_probabilities_to_the_models_own_answer(table, stager):
    widget = ss.what_if(table, stager, 300)
    levels = stager.spec.levels(table)
    assert widget.level.value != levels[300, 0]  # the first picture shows a change
    before = widget.before
    np.testing.assert_array_equal(before, stager.answer(levels, 300))
    widget.digit.value = 1
    widget.level.value = int(levels[300, 1])
    np.testing.assert_array_equal(widget.proba, before)
    picture = pixels(widget)
    widget.level.value = 9 if levels[300, 1] < 5 else 1
    levels[300, 1] = widget.level.value
    np.testing.assert_array_equal(widget.proba, stager.answer(levels, 300))
    assert np.abs(widget.proba - before).max() > 1e-4
    assert np.abs(pixels(widget) - picture).max() > 0.3
    for code, stage in enumerate(STAGES):
        assert f"{stage} {100 * before[code]:.1f} → {100 * widget.proba[code]:.1f} %" in widget.text.value


def test_another_digit_puts_the_first_one_back(table, stager):
    widget = ss.what_if(table, stager, 300)
    assert not np.array_equal(widget.proba, widget.before)
    widget.digit.value = 2
    levels = stager.spec.levels(table)
    levels[300, 2] = widget.level.value
    np.testing.assert_array_equal(widget.proba, stager.answer(levels, 300))
    assert "FFT delta power / FFT beta power" in widget.digit.label


@pytest.mark.filterwarnings("ignore:.*less than two hours:UserWarning")
@pytest.mark.parametrize("n_epochs", [1, 9, 495])
def test_answer_is_what_the_stager_says_where_windows_do_not_overlap(table, stager, n_epochs):
    """Windows of 12 lines with a look-ahead of 3 answer for 9 epochs, and 495 is 55 times 9."""
    night = table.iloc[300 : 300 + n_epochs]
    proba, levels = stager.predict_proba(night, stride=9), stager.spec.levels(night)
    for row in {0, n_epochs - 1}:
        np.testing.assert_allclose(stager.answer(levels, row), proba.iloc[row], atol=1e-5)


def test_an_epoch_without_a_digit_has_no_answer_until_one_is_given(dead_table, stager):
    widget = ss.what_if(dead_table, stager, 430)
    widget.level.value = 0
    assert np.isnan(widget.proba).all() and "W – → – %" in widget.text.value
    widget.level.value = 7
    assert widget.proba.sum() == pytest.approx(1) and "W – → " in widget.text.value
    pixels(widget)


def test_picture_of_a_dead_epoch_says_that_there_is_no_answer(night, dead_table, proba, stager):
    dead = replace(night, eeg_uv=np.where(np.arange(841)[:, None] == 430, 0, night.eeg_uv))
    figure = ss.plot_night_explorer(dead, dead_table, 430, proba.where(dead_table["std_uv"].notna(), axis=0))
    assert axes_by_label(figure, "No model's answer")
    figure.canvas.draw()


@pytest.fixture(scope="module")
def hinted(tiny_base):
    """A stager that reads hints."""
    return ss.Stager.from_base(ss.PromptSpec(DIGITS, window=24, examples=6), tiny_base, nf4=False)


def test_scorers_stages_are_read_as_hints_and_kappa_is_beside_their_number(night, table, hinted):
    widget = ss.night_scorer(night, table, hinted)
    unaided, picture = widget.hypnodensity, pixels(widget)
    pd.testing.assert_frame_equal(unaided, hinted.predict_proba(table))
    assert (widget.known == -1).all() and widget.stage.value is None
    for epoch in (100, 300, 700):
        widget.slider.value = epoch
        assert widget.stage.value is None
        widget.stage.value = int(table["stage"].iloc[epoch])
    widget.slider.value = 300
    assert widget.stage.value == table["stage"].iloc[300]
    known = table["stage"].where(np.isin(np.arange(len(table)), (100, 300, 700)), -1)
    pd.testing.assert_series_equal(widget.known, known, check_names=False)

    widget.read.click()
    reading = hinted.predict_proba(table, known=known)
    pd.testing.assert_frame_equal(widget.hypnodensity, reading)
    filled_in = unaided.copy()
    filled_in[known != -1] = np.eye(5)[known[known != -1]]
    truth = table["stage"]
    assert widget.kappas.index.tolist() == [0, 3]
    assert widget.kappas.loc[0].tolist() == 2 * [ss.score(truth, unaided)["kappa"]]
    both = [ss.score(truth, proba)["kappa"] for proba in (filled_in, reading)]
    assert widget.kappas.loc[3].tolist() == both and f"{both[1]:.3f}" in widget.figures.value
    assert np.abs(pixels(widget) - picture).max() > 0.3
    assert not widget.read.disabled


def test_scorer_is_led_to_the_doubtful_epochs_and_does_not_see_the_expert(night, table, hinted, monkeypatch):
    drawn = []
    whole = widgets.plot_night_explorer
    monkeypatch.setattr(widgets, "plot_night_explorer", lambda *a: drawn.append(whole(*a)) or drawn[-1])
    widget = ss.night_scorer(night, table, hinted, hinted.predict_proba(table))
    doubtful = ss.recheck(widget.hypnodensity).get_level_values("epoch")
    widget.doubtful.click()
    assert widget.slider.value == doubtful[doubtful > len(table) // 2][0]
    assert drawn and not any("xpert" in ax.get_title("left") + ax.get_xlabel() for ax in drawn[-1].axes)
    assert [ax.get_ylabel() for ax in drawn[-1].axes][0] == "Probability"  # no hypnogram on top


def test_scorer_of_a_night_without_an_expert_has_no_kappa(night, table, hinted, proba):
    widget = ss.night_scorer(night, table.assign(stage=np.int8(-1)), hinted, proba)
    assert widget.kappas.isna().all(axis=None)


def test_scorer_needs_a_model_that_reads_hints(night, table, stager):
    with pytest.raises(ValueError, match="cannot read hints"):
        ss.night_scorer(night, table, stager)


def test_ten_epochs_are_compared_when_all_are_staged(night, table, proba):
    certain = pd.DataFrame(np.eye(5)[table["stage"]], table.index, list(STAGES))
    widget = ss.beat_the_expert(night, table, {"trees": proba, "model": certain})
    asked = [epoch for _, epoch in widget.slider.options]
    truth = table["stage"].iloc[asked]
    assert truth.value_counts().to_dict() == dict.fromkeys(range(5), 2)
    wrong = asked[3]
    for turn in range(10):
        assert widget.kappas is None and widget.stage.value is None
        epoch = widget.slider.value
        assert epoch == asked[turn]  # the next one comes by itself
        right = int(table["stage"].iloc[epoch])
        widget.stage.value = (right + 1) % 5 if epoch == wrong else right
    assert widget.kappas["you"] == pytest.approx((0.9 - 0.2) / (1 - 0.2))  # one of ten is wrong
    assert widget.kappas["model"] == 1
    assert widget.kappas["trees"] == ss.score(truth, proba.loc[truth.index])["kappa"]
    assert "0.88" in widget.figures.value and "0.76" in widget.figures.value
    widget.slider.value = wrong
    widget.stage.value = int(table["stage"].loc[:, :, wrong].iloc[0])  # a second thought counts
    assert widget.kappas["you"] == 1


def test_only_epochs_that_all_answer_are_asked(night, table, proba):
    part = proba.copy()
    part.iloc[:600] = np.nan
    widget = ss.beat_the_expert(night, table, {"part": part})
    assert all(epoch >= 600 for _, epoch in widget.slider.options)
    with pytest.raises(ValueError, match="no epoch has both"):
        ss.beat_the_expert(night, table, {"nothing": proba.iloc[:0]})


def test_gap_in_the_night_is_not_read_across(table, stager):
    whole, holed = table, table.drop(table.index[290:296])
    levels = stager.spec.levels(holed)
    widget = ss.what_if(holed, stager, 297)
    np.testing.assert_array_equal(widget.before, stager.answer(levels[290:], 1))
    assert not np.allclose(widget.before, ss.what_if(whole, stager, 297).before, atol=1e-6)


def test_text_has_every_digit_on_a_ground_that_darkens_with_its_level():
    spec = ss.PromptSpec(digits=tuple(ss.Digit(f"<{place}>") for place in range(10)))
    html = ss.coloured_text(np.arange(10)[None], spec, [7], marked=7)
    grounds = [piece.split(";")[0] for piece in html.split("background:")[1:]]
    lightness = [int(c[1:3], 16) * 0.299 + int(c[3:5], 16) * 0.587 + int(c[5:7], 16) * 0.114 for c in grounds]
    assert all(np.diff(lightness) < 0)  # in grey as well; 0 is white
    assert html.count("dashed") == 1
    assert "▶" in html and "&lt;3&gt;, in this night" in html
    with pytest.raises(ValueError):
        ss.coloured_text(np.arange(10)[None], spec, [7, 8])


def test_every_kind_of_digit_has_a_name_of_its_own():
    names = {digit_name(ss.Digit("delta_log_power", level)) for level in LEVELS}
    assert len(names) == len(LEVELS) and all(name.startswith("log delta power") for name in names)


def test_what_if_draws_bars_for_after_and_lines_for_before():
    before, after = np.array([0.1, 0.1, 0.5, 0.2, 0.1]), np.array([0.05, 0.15, 0.2, 0.5, 0.1])
    _, given = plt.subplots()
    ax = ss.plot_what_if(before, after, "std_uv: 3 → 9", given)
    assert ax is given and ax.get_title("left") == "std_uv: 3 → 9"
    in_order = [STAGE_CODES[stage] for stage in HYPNOGRAM_ORDER]
    assert [bar.get_width() for bar in ax.patches] == after[in_order].tolist()
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [
        ss.STAGE_COLORS[stage] for stage in HYPNOGRAM_ORDER
    ]
    assert [line.get_xdata()[0] for line in ax.lines[1::2]] == before[in_order].tolist()
