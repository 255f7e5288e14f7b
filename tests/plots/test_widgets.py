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
from sleepstage.plots import widgets
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
    hypnogram, signal, spectrum, features, answer = by_height
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


def test_picture_does_without_a_model_an_expert_or_a_feature(night, table):
    blind = table.assign(stage=np.int8(-1))
    blind.iloc[5, : len(ss.feature_columns(table))] = np.nan
    figure = ss.plot_night_explorer(night, blind, 5)
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert "No model's answer" in labels
    assert any("not scored" in ax.get_title("left") for ax in figure.axes)
    (features,) = [ax for ax in figure.axes if "Percentile" in ax.get_xlabel()]
    assert {text.get_text() for text in features.texts} == {"0"}
    assert not [line for line in features.lines if line.get_marker() == "o"]


def test_a_hypnodensity_of_a_part_answers_for_that_part(night, table, proba):
    part = proba.iloc[100:200]
    known, unknown = (ss.plot_night_explorer(night, table, epoch, part) for epoch in (150, 250))
    assert "Model's probability" in [ax.get_xlabel() for ax in known.axes]
    assert "No model's answer" in [ax.get_xlabel() for ax in unknown.axes]


def test_a_hypnodensity_of_several_nights_answers_for_this_one(night, table, proba):
    other = proba.iloc[::-1].set_axis(proba.index).rename(index={"SC4001E0": "other"}, level="recording")
    figure = ss.plot_night_explorer(night, table, 150, pd.concat([other, proba]))
    (answer,) = [ax for ax in figure.axes if ax.get_xlabel() == "Model's probability"]
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
    before, picture = widget.proba, pixels(widget)
    levels = stager.spec.levels(table)
    np.testing.assert_array_equal(before, stager.answer(levels, 300))
    widget.digit.value = 1
    assert widget.level.value == levels[300, 1]
    np.testing.assert_array_equal(widget.proba, before)
    widget.level.value = 9 if levels[300, 1] < 5 else 1
    levels[300, 1] = widget.level.value
    np.testing.assert_array_equal(widget.proba, stager.answer(levels, 300))
    assert np.abs(widget.proba - before).max() > 1e-4
    assert np.abs(pixels(widget) - picture).max() > 0.3
    for code, stage in enumerate(STAGES):
        assert f"{stage} {100 * before[code]:.1f} → {100 * widget.proba[code]:.1f} %" in widget.text.value


def test_another_digit_puts_the_first_one_back(table, stager):
    widget = ss.what_if(table, stager, 300)
    before = widget.proba
    widget.level.value = (widget.level.value + 5) % 10
    assert not np.array_equal(widget.proba, before)
    widget.digit.value = 2
    np.testing.assert_array_equal(widget.proba, before)
    assert "rfft_delta_uv2/rfft_beta_uv2" in widget.digit.label


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
    assert np.isnan(widget.proba).all() and "W – → – %" in widget.text.value
    widget.level.value = 7
    assert widget.proba.sum() == pytest.approx(1) and "W – → " in widget.text.value
    pixels(widget)


def test_picture_of_a_dead_epoch_says_that_there_is_no_answer(night, dead_table, proba, stager):
    dead = replace(night, eeg_uv=np.where(np.arange(841)[:, None] == 430, 0, night.eeg_uv))
    figure = ss.plot_night_explorer(dead, dead_table, 430, proba.where(dead_table["std_uv"].notna(), axis=0))
    assert "No model's answer" in [ax.get_xlabel() for ax in figure.axes]
    figure.canvas.draw()


def test_gap_in_the_night_is_not_read_across(table, stager):
    whole, holed = table, table.drop(table.index[290:296])
    levels = stager.spec.levels(holed)
    widget = ss.what_if(holed, stager, 297)
    np.testing.assert_array_equal(widget.proba, stager.answer(levels[290:], 1))
    assert not np.allclose(widget.proba, ss.what_if(whole, stager, 297).proba, atol=1e-6)


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
