"""Pictures: what is drawn, in which order and colour, and that nothing is shown or warned about."""

import warnings
from datetime import datetime
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.legend import Legend
from scipy import stats

import sleepstage as ss
from sleepstage.stages import HYPNOGRAM_ORDER, STAGE_COLORS, STAGES

START = datetime(1989, 4, 25, 23, 40)
CODES = np.repeat([0, 1, 2, 3, 2, 4, -1, 4, 0], 20)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No figure is shown, no warning raised, and none stays open."""
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("a plot called show()"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def proba():
    values = np.random.default_rng(0).dirichlet(np.ones(5), len(CODES))
    values[50:60] = np.nan
    return values


def table(values=CODES, recording="A"):
    index = pd.MultiIndex.from_product(
        [[0], [recording], range(len(values))], names=["subject", "recording", "epoch"]
    )
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=len(values)) + values for name in ("delta", "alpha", "mean")}
    return pd.DataFrame(columns, index=index).assign(stage=values.astype(np.int8))


def recording():
    seconds = np.arange(3000) / 100
    eeg_uv = np.tile(50 * np.sin(2 * np.pi * 10 * seconds), (40, 1))
    eeg_uv += np.random.default_rng(0).normal(size=eeg_uv.shape)
    eeg_uv[7], eeg_uv[8] = np.nan, 0
    return SimpleNamespace(eeg_uv=eeg_uv.astype(np.float32), sfreq_hz=100.0, start=START)


LOG = pd.DataFrame({"step": range(1, 41), "loss": np.linspace(2, 1, 40), "eval_loss": [np.nan, 1.5] * 20})

DRAWN_ON_GIVEN_AXES = {
    "hypnogram": lambda ax: ss.plot_hypnogram(CODES, START, ax, label="Expert"),
    "hypnodensity": lambda ax: ss.plot_hypnodensity(proba(), START, ax),
    "confusion": lambda ax: ss.plot_confusion_matrix(CODES, proba(), ax),
    "training": lambda ax: ss.plot_training_curve(LOG, ax),
    "epoch": lambda ax: ss.plot_epoch(recording().eeg_uv[0], 100, ax, title="N2"),
    "spectrogram": lambda ax: ss.plot_spectrogram(recording(), ax),
}


def legends(ax):
    """The words of all the legends that axes have."""
    found = [child for child in ax.get_children() if isinstance(child, Legend)]
    return [text.get_text() for legend in found for text in legend.get_texts()]


def tick_labels(axis):
    axis.figure.canvas.draw()
    return [text.get_text() for text in axis.get_ticklabels() if text.get_text()]


@pytest.mark.parametrize("name", DRAWN_ON_GIVEN_AXES)
def test_draws_on_the_axes_given_or_on_new_ones_and_can_be_written(name, tmp_path):
    _, ax = plt.subplots()
    assert DRAWN_ON_GIVEN_AXES[name](ax) is ax
    assert len(plt.get_fignums()) == 1
    new = DRAWN_ON_GIVEN_AXES[name](None)
    assert isinstance(new, Axes)
    assert len(plt.get_fignums()) == 2
    new.figure.savefig(tmp_path / "picture.png", dpi=30)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_hypnogram_has_the_stages_in_the_order_of_the_field():
    ax = ss.plot_hypnogram(CODES)
    assert tick_labels(ax.yaxis) == list(HYPNOGRAM_ORDER)
    bottom, top = ax.get_ylim()
    assert bottom > top  # so that the first of the ticks is the uppermost
    line = ax.patches[0].get_data()
    assert line.values[[0, 25, 45, 65, 105]].tolist() == [0, 2, 3, 4, 1]
    assert np.isnan(line.values[125])
    assert line.edges[[0, -1]] == pytest.approx([0, len(CODES) / 120])


def test_rem_is_a_thick_bar_over_its_epochs_in_its_colour():
    ax = ss.plot_hypnogram(CODES)
    bars = [line.get_xdata() for line in ax.lines]
    np.testing.assert_allclose(bars, np.array([[100, 120], [140, 160]]) / 120)
    assert {to_hex(line.get_color()).upper() for line in ax.lines} == {STAGE_COLORS["REM"]}
    assert all(line.get_linewidth() >= 4 for line in ax.lines)


def test_time_axis_is_the_clock_when_the_start_is_known():
    night = np.zeros(960, int)
    known, unknown = ss.plot_hypnogram(night, START), ss.plot_hypnogram(night)
    known.figure.canvas.draw()
    shown = [x for x in known.get_xticks() if 0 <= x <= 8]
    assert shown[0] == pytest.approx(20 / 60)  # 23:40 + 20 minutes
    assert [known.xaxis.get_major_formatter()(x) for x in shown[:3]] == ["00:00", "01:00", "02:00"]
    assert known.get_xlabel() == "Time of night"
    assert unknown.get_xlabel() == "Time (h)"
    assert known.get_xlim() == unknown.get_xlim() == (0, 8)


def test_time_axis_of_less_than_some_hours_is_in_minutes():
    ax = ss.plot_hypnogram(np.zeros(20, int))
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "Time (min)"
    assert {"0", "1", "9"} < set(tick_labels(ax.xaxis)) <= {str(minute) for minute in range(-1, 12)}


@pytest.mark.parametrize("n_epochs", [1, 10, 120, 960, 2640])
def test_time_axis_has_a_readable_number_of_ticks(n_epochs):
    ax = ss.plot_hypnogram(np.zeros(n_epochs, int), START)
    ax.figure.canvas.draw()
    inside = [x for x in ax.get_xticks() if 0 <= x <= n_epochs / 120]
    assert len(inside) <= 11


def test_rows_of_a_table_stand_at_their_epoch():
    piece = table()["stage"].iloc[20:40]
    line = ss.plot_hypnogram(piece).patches[0].get_data()
    assert len(line.values) == 40
    assert np.isnan(line.values[:20]).all()
    assert (line.values[20:] == HYPNOGRAM_ORDER.index("N1")).all()


def test_two_recordings_are_not_drawn_as_one():
    both = pd.concat([table(), table(recording="B")])["stage"]
    with pytest.raises(ValueError, match="2 recordings"):
        ss.plot_hypnogram(both)


def test_comparison_marks_the_differences_outside_training_only():
    predicted, shade = CODES.copy(), np.zeros(len(CODES), bool)
    predicted[[5, 30, 31, 130]] = 2  # the last one is where the expert has nothing
    shade[:20] = True
    axes = ss.plot_hypnogram_comparison(CODES, predicted, START, proba=proba(), shade=shade, title="Night")
    expert, differences, model, hypnodensity = axes
    assert (expert.get_title("left"), model.get_title("left")) == ("Expert", "Model")
    assert differences.get_title("left") == "2 of 140 epochs differ (1 %)"
    dark = [p for p in differences.patches if sum(to_rgb(p.get_facecolor())) < 1]
    assert [(p.get_x(), p.get_width()) for p in dark] == [pytest.approx((30 / 120, 2 / 120))]
    assert hypnodensity.get_xlabel() == "Time of night"
    assert len({ax.get_xlim() for ax in axes}) == 1


def test_epochs_used_for_training_have_a_ground_of_their_own_and_a_name():
    shade = pd.Series(np.arange(len(CODES)) < 30, index=table().index)
    axes = ss.plot_hypnogram_comparison(CODES, CODES, shade=shade)
    for ax in axes:
        bands = [patch for patch in ax.patches if hasattr(patch, "get_width")]
        assert [(band.get_x(), band.get_width()) for band in bands] == [pytest.approx((0, 0.25))]
    (said,) = legends(axes[0])
    assert "not tested" in said
    assert legends(ss.plot_hypnogram_comparison(CODES, CODES)[0]) == []


def test_comparison_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match="180, 179 and 180 epochs"):
        ss.plot_hypnogram_comparison(CODES, CODES[1:])
    assert plt.get_fignums() == []


def test_hypnodensity_stacks_to_one_in_the_colours_of_the_stages():
    values = proba()
    ax = ss.plot_hypnodensity(values)
    areas = {patch.get_label(): patch for patch in ax.patches}
    assert {name: to_hex(patch.get_facecolor()).upper() for name, patch in areas.items()} == STAGE_COLORS
    top = areas["W"].get_data().values
    assert np.isnan(top[50:60]).all()
    assert np.delete(top, range(50, 60)) == pytest.approx(np.ones(len(values) - 10))
    rem = areas["REM"].get_data()
    np.testing.assert_allclose(rem.values - rem.baseline, values[:, 4])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(HYPNOGRAM_ORDER)
    assert "no answer" in legends(ax)
    assert "no answer" not in legends(ss.plot_hypnodensity(np.delete(values, range(50, 60), axis=0)))


def test_shade_lies_over_a_hypnodensity_and_its_legend_stays():
    ax = ss.plot_hypnodensity(proba())
    drawn = len(ax.patches)
    ss.shade_epochs(ax, np.arange(len(CODES)) >= 60)
    (band,) = ax.patches[drawn:]
    assert (band.get_x(), band.get_width()) == pytest.approx((0.5, 1.0))
    assert band.get_zorder() > max(patch.get_zorder() for patch in ax.patches[:drawn])
    assert band.get_alpha() < 1  # what the model says there can still be seen
    assert {*HYPNOGRAM_ORDER} < {*legends(ax)} and any("not tested" in word for word in legends(ax))


def test_confusion_matrix_writes_counts_and_per_cent_of_the_row():
    ax = ss.plot_confusion_matrix([0, 0, 0, 2], [0, 0, 4, 2])
    written = np.array([text.get_text() for text in ax.texts]).reshape(5, 5)
    assert written[0, 0] == "2\n67 %"
    assert written[0, 4] == "1\n33 %"
    assert written[1, 1] == "0\n–"  # the expert has no N1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Model", "Expert")
    assert tick_labels(ax.xaxis) == tick_labels(ax.yaxis) == list(STAGES)


def test_features_have_a_panel_each_and_limits_without_outliers():
    values = table()
    values.iloc[3, values.columns.get_loc("delta")] = 1e9
    values.iloc[4, values.columns.get_loc("delta")] = np.nan
    axes = ss.plot_features_by_stage(values, ["delta", "mean"])
    assert [ax.get_title("left") for ax in axes] == ["delta", "mean"]
    assert axes[0].get_ylim()[1] < 100
    for box, median in zip(axes[0].patches, axes[0].lines[4::5], strict=False):
        width = box.get_path().get_extents().width
        assert np.ptp(median.get_xdata()) > 1.2 * width  # it shows beside the box, on a dark one too
    boxes = [to_hex(patch.get_facecolor()).upper() for patch in axes[0].patches]
    assert boxes == [STAGE_COLORS[stage] for stage in STAGES]
    assert tick_labels(axes[0].xaxis) == list(STAGES)


def test_features_are_named_in_words_and_with_their_unit():
    named = table().rename(columns={"delta": "ptp_uv", "alpha": "delta_power_rel", "mean": "own"})
    axes = ss.plot_features_by_stage(named, ["ptp_uv", "delta_power_rel", "own"])
    assert [ax.get_title("left") for ax in axes] == ["peak to peak (µV)", "relative delta power", "own"]
    assert ss.plot_feature_course(named, "ptp_uv").get_ylabel() == "peak to peak (µV)"
    assert "peak to peak (µV)" in tick_labels(ss.plot_feature_correlations(named).yaxis)


def test_features_of_a_night_without_a_stage_still_have_five_places():
    values = table()
    values = values[values["stage"] != 3]
    _, given = plt.subplots(1, 2)
    axes = ss.plot_features_by_stage(values, ["delta"], axes=given)
    assert axes[0] is given[0]
    assert tick_labels(axes[0].xaxis) == list(STAGES)


def test_features_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="gamma"):
        ss.plot_features_by_stage(table(), ["gamma"])
    with pytest.raises(ValueError, match="none of the table's 180 epochs"):
        ss.plot_features_by_stage(table().assign(stage=-1), ["delta"])
    with pytest.raises(ValueError, match="need as many axes"):
        ss.plot_features_by_stage(table(), ["delta", "mean"], axes=[plt.subplots()[1]])


def test_correlations_are_drawn_in_the_order_of_the_clusters_with_frames_around_them():
    alike = table().assign(
        cubed=lambda t: t["alpha"] ** 3, turned=lambda t: -np.exp(t["alpha"]), constant=0.0
    )
    alike["delta"] = np.random.default_rng(1).normal(size=len(alike))
    alike["delta_again"] = 2 * alike["delta"] + 1
    alike = alike.drop(columns="mean")
    cluster = ss.correlation_clusters(alike)
    ax = ss.plot_feature_correlations(alike)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(cluster.index)
    drawn = np.asarray(ax.collections[0].get_array()).reshape(6, 6)
    known = cluster.index.drop("constant")
    rho = pd.DataFrame(drawn, cluster.index, cluster.index).loc[known, known]
    np.testing.assert_allclose(rho, np.abs(stats.spearmanr(alike[known]).statistic), atol=1e-9)
    frames = [line for line in ax.lines if to_hex(line.get_color()).upper() == STAGE_COLORS["REM"]]
    assert sorted(np.ptp(frame.get_xdata()) for frame in frames) == [2, 3]


def test_course_stands_on_the_stages_in_their_colours_and_gaps_stay_gaps():
    whole = table()
    whole.iloc[10, 0] = 1e9
    ax = ss.plot_feature_course(whole.drop(whole.index[60:80]), "delta", START)
    spans = [patch for patch in ax.patches if hasattr(patch, "get_width")]
    ground = {to_hex(p.get_facecolor()).upper(): (p.get_x() * 120, p.get_width() * 120) for p in spans}
    assert ground[STAGE_COLORS["N1"]] == pytest.approx((20, 20))
    assert ground[STAGE_COLORS["REM"]] == pytest.approx((140, 20))
    (line,) = [patch.get_data() for patch in ax.patches if hasattr(patch, "get_data")]
    assert np.isnan(line.values[60:80]).all() and line.values[120] == whole["delta"].iloc[120]
    assert ax.get_ylim()[1] < 1e8  # the artefact does not squash the rest
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(HYPNOGRAM_ORDER)
    assert "not scored" in legends(ax)
    hatches = {to_hex(p.get_facecolor()).upper(): p.get_hatch() for p in spans}
    assert hatches[STAGE_COLORS["REM"]] and not hatches[STAGE_COLORS["N2"]]  # alike in grey
    assert hatches[STAGE_COLORS["W"]] and not hatches[STAGE_COLORS["N1"]]
    with pytest.raises(ValueError, match="'y'.* the table has delta"):
        ss.plot_feature_course(whole, "y")


def test_course_on_a_logarithmic_axis_spans_what_is_positive():
    power = table().assign(power=np.random.default_rng(0).lognormal(3, 2, len(CODES)))
    power.iloc[[3, 30], -1] = 0, -5
    ax = ss.plot_feature_course(power, "power", log=True)
    assert ax.get_yscale() == "log"
    (line,) = [patch.get_data() for patch in ax.patches if hasattr(patch, "get_data")]
    assert np.flatnonzero(np.isnan(line.values)).tolist() == [3, 30]
    kept = np.sort(line.values[np.isfinite(line.values)])
    low, high = ax.get_ylim()
    assert 0 < low < kept[2] and kept[-3] < high < 2 * kept[-1]
    constant = ss.plot_feature_course(power.assign(power=4.0), "power", log=True)
    assert constant.get_ylim() == (2, 8)


def test_training_curve_shows_chance_and_the_held_out_loss():
    ax = ss.plot_training_curve(LOG)
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["chance, ln 5 = 1.61"].get_ydata()[0] == pytest.approx(1.6094379)
    assert len(lines["held out"].get_xdata()) == 20
    np.testing.assert_allclose(lines["smoothed"].get_ydata()[20], LOG["loss"].iloc[18:22].mean(), rtol=1e-6)
    assert "held out" not in {
        line.get_label() for line in ss.plot_training_curve(LOG[["step", "loss"]]).lines
    }
    with pytest.raises(ValueError, match="step and loss"):
        ss.plot_training_curve(LOG[["loss"]])


def test_spectrogram_has_its_power_where_the_sine_is():
    ax = ss.plot_spectrogram(recording())
    mesh = ax.collections[0]
    power = mesh.get_array()
    edges = mesh.get_coordinates()[:, 0, 1]
    loudest = power[:, 0].argmax()
    assert edges[loudest] < 10 < edges[loudest + 1]
    assert np.ma.getmaskarray(power)[:, [7, 8]].all()  # without signal, and flat
    assert ax.get_xlim() == pytest.approx((0, 40 / 120))


def test_epoch_is_in_seconds_and_microvolts():
    ax = ss.plot_epoch(recording().eeg_uv[0], 100)
    assert ax.get_xlim() == (0, 30)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Time (s)", "EEG (µV)")
    assert legends(ax) == ["75 µV apart"]
    dashed = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert np.ptp(dashed) == 75
    with pytest.raises(ValueError, match="one epoch"):
        ss.plot_epoch(recording().eeg_uv, 100)


def test_spectrum_peaks_where_the_sine_is_and_has_its_power():
    seconds = np.arange(3000) / 100
    ax = ss.plot_spectrum(20 * np.sin(2 * np.pi * 10 * seconds), 100)
    freqs_hz, psd = ax.lines[0].get_data()
    assert freqs_hz[psd.argmax()] == 10
    assert np.trapezoid(psd, freqs_hz) == pytest.approx(20**2 / 2, rel=1e-3)
    assert [text.get_text() for text in ax.texts] == list("δθασβγ")
    with pytest.raises(ValueError, match="one epoch"):
        ss.plot_spectrum(np.zeros((2, 3000)), 100)


def test_spectrum_of_a_flat_epoch_is_drawn_without_a_warning():
    for nothing in (np.zeros(3000), np.full(3000, np.nan)):
        assert ss.plot_spectrum(nothing, 100).get_xlim() == (0.5, 40)
