"""Features against closed forms, antropy, YASA, and the rows of the published table."""

from __future__ import annotations

import warnings
from dataclasses import replace

import antropy
import edfio
import mne
import numpy as np
import pandas as pd
import pytest
import pywt
import yasa
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal, stats

from sleepstage.features.catalogue import (
    META_COLUMNS,
    PUBLISHED_TABLE_COLUMNS,
    describe_features,
    feature_columns,
)
from sleepstage.features.extract import extract_features
from sleepstage.features.spectral import rfft_rest, spectral_features
from sleepstage.features.time_domain import hjorth_features, moment_features, time_features, wavelet_features
from sleepstage.recordings.dictionary import load_dictionary
from sleepstage.recordings.quality import epoch_quality
from sleepstage.recordings.recording import Recording, load_demo, read_recording

SFREQ_HZ = 100.0
N_SAMPLES = 3000

# Rows of the published table: subject 0, recording SC4001E0, in volts.
PUBLISHED_COLUMNS = ("mean", "std", "var", "min", "max", "energy", "delta", "theta", "alpha", "beta")
PUBLISHED_ROWS = {
    0: (1.862956e-08, 2.106231e-05, 4.43621e-10, -7.347106e-05, 6.803223e-05)
    + (1.330864e-06, 0.001559654, 0.0001485151, 2.463211e-05, 4.665002e-05),
    100: (3.601505e-07, 2.460026e-05, 6.051726e-10, -8.866227e-05, 9.278828e-05)
    + (1.815907e-06, 0.002191691, 0.000173803, 2.762871e-05, 1.825083e-05),
    200: (1.076669e-06, 4.225642e-05, 1.785605e-09, -9.822711e-05, 0.0001017905)
    + (5.360293e-06, 0.006593707, 0.0001945415, 4.750456e-05, 1.343523e-05),
    300: (2.878829e-07, 1.649492e-05, 2.720823e-10, -5.077802e-05, 5.546667e-05)
    + (8.164956e-07, 0.0009018685, 0.0001021916, 5.241558e-05, 1.554865e-05),
    400: (1.916093e-07, 9.217221e-06, 8.495717e-11, -3.764982e-05, 3.483663e-05)
    + (2.549817e-07, 0.0001968203, 6.468969e-05, 2.441972e-05, 1.041405e-05),
    500: (-3.09263e-07, 2.099719e-05, 4.408822e-10, -7.131429e-05, 6.596923e-05)
    + (1.322933e-06, 0.001332672, 0.0001166451, 3.144499e-05, 1.354777e-05),
    600: (3.549617e-07, 1.169788e-05, 1.368405e-10, -4.618315e-05, 6.831355e-05)
    + (4.108995e-07, 0.000411534, 7.109682e-05, 2.691945e-05, 2.433038e-05),
    700: (4.152577e-07, 8.707113e-06, 7.581381e-11, -4.618315e-05, 4.580806e-05)
    + (2.279587e-07, 0.0001425058, 6.480023e-05, 1.408187e-05, 1.134003e-05),
    800: (7.652181e-07, 1.958285e-05, 3.834878e-10, -7.797216e-05, 6.943883e-05)
    + (1.15222e-06, 0.001189823, 0.0001329424, 1.808869e-05, 2.924926e-05),
    840: (1.31157e-07, 1.823091e-05, 3.323661e-10, -8.387985e-05, 6.09055e-05)
    + (9.971499e-07, 0.0009008158, 8.479479e-05, 1.978962e-05, 3.445202e-05),
}


def make_recording(eeg_uv, stages=None):
    return Recording(
        eeg_uv=np.asarray(eeg_uv, dtype=np.float32),
        sfreq_hz=SFREQ_HZ,
        stages=stages,
        subject=7,
        recording="made",
        channel="EEG Fpz-Cz",
        start=None,
    )


def make_sine(freq_hz, amplitude_uv=1.0, sfreq_hz=SFREQ_HZ):
    """One epoch of a sine, shape (1, 30 s)."""
    seconds = np.arange(int(30 * sfreq_hz)) / sfreq_hz
    return amplitude_uv * np.sin(2 * np.pi * freq_hz * seconds + 0.3)[np.newaxis]


def make_noise(n_epochs=8, seed=0, std_uv=20.0):
    """Pink-like noise, as EEG is, plus white noise."""
    white = np.random.default_rng(seed).normal(size=(n_epochs, N_SAMPLES))
    slow = signal.lfilter([1], [1, -0.97], white, axis=1)
    return std_uv * slow / slow.std() + white


@pytest.fixture(scope="module")
def night():
    return load_demo()


@pytest.fixture(scope="module")
def night_table(night):
    return extract_features(night)


@pytest.mark.parametrize(
    ("freq_hz", "band"),
    [(2, "delta"), (6, "theta"), (10, "alpha"), (14, "sigma"), (20, "beta"), (35, "gamma")],
)
@pytest.mark.parametrize("sfreq_hz", [100, 128, 256])
def test_sine_has_the_spectrum_of_a_sine(freq_hz, band, sfreq_hz):
    found = spectral_features(make_sine(freq_hz, amplitude_uv=20, sfreq_hz=sfreq_hz), sfreq_hz)
    assert_allclose(found[f"{band}_power_uv2"], 20**2 / 2, rtol=1e-6)
    assert_allclose(found[f"{band}_power_rel"], 1, rtol=1e-6)
    assert_allclose(found["total_power_uv2"], 20**2 / 2, rtol=1e-6)
    assert found["peak_frequency_hz"] == freq_hz
    assert_allclose([found["median_frequency_hz"], found["spectral_centroid_hz"]], freq_hz, atol=1e-3)
    assert_allclose(found["edge_frequency_95_hz"], freq_hz, atol=0.5)
    # Three bins of a Hann window in the proportions 1 : 4 : 1, of 159 between 0.5 and 40 Hz
    line = np.array([1, 4, 1]) / 6
    assert_allclose(found["spectral_entropy"], -(line * np.log2(line)).sum() / np.log2(159), atol=1e-6)
    assert found["spectral_flatness"] < 1e-6


def test_sine_in_a_band_of_the_published_table_has_parsevals_energy():
    found = spectral_features(make_sine(12.5, amplitude_uv=20), SFREQ_HZ)
    assert_allclose(found["rfft_alpha_uv2"], (20 * N_SAMPLES / 2) ** 2, rtol=1e-9)
    assert found["rfft_beta_uv2"] < 1e-9 * found["rfft_alpha_uv2"]
    assert_allclose(found["sigma_power_uv2"], 200, rtol=1e-6)


def test_sine_has_the_amplitudes_and_moments_of_a_sine():
    x = make_sine(9.7, amplitude_uv=20) + 3
    found = time_features(x) | moment_features(x)
    expected = {
        "mean_uv": 3,
        "std_uv": 20 / np.sqrt(2),
        "var_uv2": 200,
        "rms_uv": np.sqrt(200 + 9),
        "min_uv": -17,
        "max_uv": 23,
        "ptp_uv": 40,
        "zero_crossings": 2 * 291,  # 291 periods
        "iqr_uv": 20 * np.sqrt(2),  # a quarter of the time above A sin(45°)
        "energy_uv2": 3000 * 209,
        "skewness": 0,
        "kurtosis": -1.5,
    }
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=3e-3, atol=1e-9, err_msg=name)


def test_line_length_of_a_triangle_is_its_climbs_and_falls():
    triangle = np.tile(np.concatenate([np.arange(10), np.arange(10, 0, -1)]), 150)[np.newaxis]
    assert time_features(triangle)["line_length_uv"] == 2999


def test_ramp_has_the_moments_of_a_uniform_distribution():
    ramp = np.arange(3001.0)[np.newaxis]
    assert_allclose(time_features(ramp)["iqr_uv"], 1500)
    assert_allclose(moment_features(ramp)["skewness"], 0, atol=1e-12)
    assert_allclose(moment_features(ramp)["kurtosis"], -1.2 * (3001**2 + 1) / (3001**2 - 1), rtol=1e-12)


def test_spread_and_moments_agree_with_scipy(night):
    x = night.eeg_uv[::20].astype(float) + 1000
    assert_allclose(time_features(x)["iqr_uv"], stats.iqr(x, axis=1))
    assert_allclose(moment_features(x)["skewness"], stats.skew(x, axis=1), atol=1e-9)
    assert_allclose(moment_features(x)["kurtosis"], stats.kurtosis(x, axis=1), atol=1e-9)


def test_two_valued_epoch_has_the_skewness_of_a_bernoulli_variable():
    share = 0.1
    x = np.repeat([1.0, 0.0], [300, 2700])[np.newaxis]
    variance = share * (1 - share)
    assert_allclose(moment_features(x)["skewness"], (1 - 2 * share) / np.sqrt(variance), rtol=1e-12)
    assert_allclose(moment_features(x)["kurtosis"], (1 - 6 * variance) / variance, rtol=1e-12)


def test_white_noise_is_flat():
    found = spectral_features(np.random.default_rng(1).normal(0, 10, (200, N_SAMPLES)), SFREQ_HZ)
    averages = {name: values.mean() for name, values in found.items()}
    assert averages["spectral_flatness"] > 0.9
    assert averages["spectral_entropy"] > 0.98
    assert_allclose(averages["total_power_uv2"], 100 * 39.5 / 50, rtol=0.01)
    assert_allclose(averages["median_frequency_hz"], 20.25, atol=0.2)
    assert_allclose(averages["spectral_centroid_hz"], 20.25, atol=0.2)
    assert_allclose(averages["edge_frequency_95_hz"], 0.5 + 0.95 * 39.5, atol=0.2)


@pytest.mark.parametrize("sfreq_hz", [90, 100, 125, 128, 200, 250, 256, 500, 512])
def test_band_powers_add_up_at_any_sampling_rate(sfreq_hz):
    x = np.random.default_rng(2).normal(0, 10, (3, 30 * sfreq_hz))
    found = spectral_features(x, sfreq_hz)
    bands = ("delta", "theta", "alpha", "sigma", "beta", "gamma")
    assert_allclose(sum(found[f"{band}_power_uv2"] for band in bands), found["total_power_uv2"])
    assert_allclose(sum(found[f"{band}_power_rel"] for band in bands), 1)


def test_ratios_are_quotients_of_the_powers_they_name():
    delta, alpha, sigma = (make_sine(freq, amplitude) for freq, amplitude in [(2, 30), (10, 10), (14, 5)])
    theta, beta = make_sine(6, 20), make_sine(20, 2)
    found = spectral_features(delta + theta + alpha + sigma + beta, SFREQ_HZ)
    expected = {
        "delta_theta_ratio": 900 / 400,
        "delta_alpha_ratio": 900 / 100,
        "delta_sigma_ratio": 900 / 25,
        "delta_beta_ratio": 900 / 4,
        "theta_beta_ratio": 400 / 4,
        "alpha_theta_ratio": 100 / 400,
        "alpha_beta_ratio": 100 / 4,
        "sigma_theta_ratio": 25 / 400,
        "sigma_beta_ratio": 25 / 4,
        "slow_fast_ratio": 1300 / 129,
    }
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_powers_agree_with_yasa(night):
    x = night.eeg_uv[::8].astype(float)
    found = spectral_features(x, SFREQ_HZ)
    names = [str(i) for i in range(len(x))]
    welch = {"window": "hann", "average": "mean"}
    theirs = yasa.bandpower(x, SFREQ_HZ, ch_names=names, win_sec=4, welch_kwargs=welch)
    for band in ("delta", "theta", "alpha", "sigma", "beta", "gamma"):
        # YASA integrates by Simpson's rule, which weighs neighbouring bins 4 : 2; we by trapezoids
        quotients = found[f"{band}_power_rel"] / theirs[band.capitalize()]
        assert_allclose(np.median(quotients), 1, atol=0.02, err_msg=band)
        assert_allclose(quotients, 1, atol=0.2, err_msg=band)
    assert_allclose(np.median(found["total_power_uv2"] / theirs["TotalAbsPow"]), 1, atol=0.02)


def test_spectral_entropy_agrees_with_antropy_on_a_signal_between_the_limits():
    band_pass = signal.butter(8, [2, 35], btype="bandpass", fs=SFREQ_HZ, output="sos")
    x = signal.sosfiltfilt(band_pass, make_noise(), axis=1)
    bits = spectral_features(x, SFREQ_HZ)["spectral_entropy"] * np.log2(159)
    assert_allclose(bits, antropy.spectral_entropy(x, SFREQ_HZ, method="welch", nperseg=400), rtol=1e-3)


def test_hjorth_parameters_agree_with_antropy():
    x = make_noise()
    found = hjorth_features(x)
    mobility, complexity = antropy.hjorth_params(x)
    assert_allclose(found["activity_uv2"], x.var(axis=1))
    assert_allclose(found["mobility"], mobility)
    assert_allclose(found["complexity"], complexity)


@pytest.mark.parametrize("freq_hz", [1, 10, 40])
def test_hjorth_parameters_of_a_sine(freq_hz):
    # x' has the amplitude 2 sin(w / 2), w radians per sample
    found = hjorth_features(make_sine(freq_hz, amplitude_uv=20))
    assert_allclose(found["activity_uv2"], 200, rtol=1e-3)
    assert_allclose(found["mobility"], 2 * np.sin(np.pi * freq_hz / SFREQ_HZ), rtol=1e-3)
    assert_allclose(found["complexity"], 1, rtol=1e-3)


def test_zero_crossings_agree_with_antropy():
    x = make_noise() + 500  # an offset hides the crossings of zero, not those of the mean
    centred = x - x.mean(axis=1, keepdims=True)
    assert_array_equal(time_features(x)["zero_crossings"], antropy.num_zerocross(centred, axis=1))


def make_from_coefficients(counts):
    """An epoch that has `counts[scale]` equal coefficients at a scale, in its middle, and no others."""
    names = ["a5", "d5", "d4", "d3", "d2", "d1"]
    coefficients = [np.zeros_like(c) for c in pywt.wavedec(np.zeros(N_SAMPLES), "db4", level=5)]
    for name, count in counts.items():
        scale = coefficients[names.index(name)]
        start = (len(scale) - count) // 2
        scale[start : start + count] = 1
    return pywt.waverec(coefficients, "db4")[np.newaxis, :N_SAMPLES]


@pytest.mark.parametrize("scale", ["d1", "d2", "d3", "d4", "d5"])
@pytest.mark.parametrize("count", [1, 16])
def test_wavelet_entropy_counts_equal_coefficients(scale, count):
    found = wavelet_features(make_from_coefficients({scale: count}))
    assert_allclose(found[f"wavelet_entropy_{scale}"], np.log2(count), atol=1e-6)
    assert_allclose(found[f"wavelet_energy_rel_{scale}"], 1, atol=1e-6)
    assert_allclose(found["wavelet_entropy"], 0, atol=1e-6)


def test_wavelet_shares_are_those_of_the_coefficients_put_in():
    found = wavelet_features(make_from_coefficients({"d2": 4, "d3": 2, "d4": 2}))
    assert_allclose(
        [found[f"wavelet_energy_rel_{s}"][0] for s in ("d2", "d3", "d4")], [0.5, 0.25, 0.25], atol=1e-6
    )
    assert_allclose(found["wavelet_entropy"], 1.5, atol=1e-6)


@pytest.mark.parametrize(
    ("freq_hz", "scale"), [(0.8, "a5"), (2.2, "d5"), (4.5, "d4"), (9, "d3"), (18, "d2"), (40, "d1")]
)
def test_sine_lies_in_the_wavelet_scale_of_its_frequency(freq_hz, scale):
    # The filters of db4 overlap: the neighbouring scales take up to a fifth
    assert wavelet_features(make_sine(freq_hz))[f"wavelet_energy_rel_{scale}"] > 0.8


def test_wavelet_measures_stay_within_their_bounds(night_table):
    shares = night_table.filter(regex="^wavelet_energy_rel_")
    assert_allclose(shares.sum(axis=1), 1)
    assert ((shares > 0) & (shares < 1)).all(axis=None)
    assert night_table["wavelet_entropy"].between(0, np.log2(6)).all()
    n_coefficients = [len(c) for c in pywt.wavedec(np.zeros(N_SAMPLES), "db4", level=5)]
    for scale, n in zip(["a5", "d5", "d4", "d3", "d2", "d1"], n_coefficients, strict=True):
        assert night_table[f"wavelet_entropy_{scale}"].between(0, np.log2(n)).all()


@pytest.mark.parametrize("epoch", PUBLISHED_ROWS)
def test_shipped_night_has_the_published_values(night_table, epoch):
    row = night_table.loc[(0, "SC4001E0", epoch)]
    for column, published in zip(PUBLISHED_COLUMNS, PUBLISHED_ROWS[epoch], strict=True):
        ours, factor = PUBLISHED_TABLE_COLUMNS[column]
        assert_allclose(row[ours], published * factor, rtol=1e-3, err_msg=column)


def test_the_rest_of_the_published_power_is_the_same_from_signal_and_table(night_table):
    columns = dict(zip(PUBLISHED_COLUMNS, zip(*PUBLISHED_ROWS.values(), strict=True), strict=True))
    volts = {name: np.array(values) for name, values in columns.items()}
    bands = [volts[band] for band in ("delta", "theta", "alpha", "beta")]
    from_table = rfft_rest(volts["energy"], volts["mean"], bands, N_SAMPLES) * 1e12
    rows = [(0, "SC4001E0", epoch) for epoch in PUBLISHED_ROWS]
    assert_allclose(night_table.loc[rows, "rfft_rest_uv2"], from_table, rtol=5e-3)


def test_table_of_the_shipped_night(night, night_table):
    described = describe_features()
    assert list(night_table.columns) == [*described.index, *META_COLUMNS]
    assert feature_columns(night_table) == list(described.index)
    assert night_table.index.names == ["subject", "recording", "epoch"]
    assert night_table.index.is_unique and len(night_table) == night.n_epochs
    assert (night_table[feature_columns(night_table)].dtypes == np.float64).all()
    assert night_table["stage"].dtype == np.int8
    assert_array_equal(night_table["stage"], night.stages)
    assert (night_table["quality"] == "ok").all()
    assert np.isfinite(night_table[feature_columns(night_table)]).all(axis=None)


def test_description_is_complete():
    described = describe_features()
    assert len(described) >= 60 and described.index.is_unique
    assert set(described["family"]) == {"time", "hjorth", "wavelet", "moment", "spectral"}
    assert not described.isna().any(axis=None)
    assert (described.map(str.strip) != "").all(axis=None)
    assert set(ours for ours, _ in PUBLISHED_TABLE_COLUMNS.values()) <= set(described.index)


def test_families_give_the_features_described_under_their_name():
    x = make_noise(2)
    families = {
        "time": time_features(x),
        "hjorth": hjorth_features(x),
        "wavelet": wavelet_features(x),
        "moment": moment_features(x),
        "spectral": spectral_features(x, SFREQ_HZ),
    }
    found = [(name, family) for family, features in families.items() for name in features]
    assert found == list(describe_features()["family"].items())


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.5, 20), seed=st.integers(0, 2**16))
def test_units_say_how_a_feature_grows_with_the_signal(factor, seed):
    x = make_noise(2, seed=seed)
    once, scaled = extract_features(make_recording(x)), extract_features(make_recording(factor * x))
    power = describe_features()["unit"].map({"µV": 1, "µV²": 2}).fillna(0)
    for name in power.index:
        atol = 1e-4 * once["ptp_uv"].max() if name == "mean_uv" else 1e-6
        expected = once[name] * factor ** power[name]
        if name == "zero_crossings":  # a sample on the mean may round to either side of it
            assert_allclose(scaled[name], expected, atol=4)
        else:
            assert_allclose(scaled[name], expected, rtol=1e-3, atol=atol, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_an_epoch_does_not_depend_on_its_neighbours(order):
    x = make_noise(6)
    x[2] = 0
    together = extract_features(make_recording(x))
    moved = extract_features(make_recording(x[order]))
    names = feature_columns(together)
    assert_allclose(moved[names], together[names].iloc[order], rtol=1e-9)
    assert list(moved["quality"]) == list(together["quality"].iloc[order])


def test_one_epoch_alone_gives_what_it_gives_in_the_night(night, night_table):
    alone = extract_features(make_recording(night.eeg_uv[[300]]))
    names = feature_columns(night_table)
    assert_allclose(alone[names], night_table[names].iloc[[300]], rtol=1e-9)


def make_bad_epochs():
    """One good epoch and one of each kind of bad ones, with what is expected of each."""
    x = make_noise(8)
    x[1, 17] = np.nan
    x[2, 17] = np.inf
    x[3] = 0
    x[4] = 42.1
    x[5] = 42.1 + 1e-3 * make_noise(1)
    x[6] = np.clip(3 * x[6], -40, 40)
    x[7] = np.minimum(x[7], np.quantile(x[7], 0.9))
    return x, ["ok", "nan", "nan", "zero", "flat", "flat", "clipped", "clipped"]


def test_bad_epochs_are_nan_with_a_reason():
    x, expected = make_bad_epochs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = extract_features(make_recording(x, stages=np.arange(8) % 5))
    assert list(table["quality"]) == expected
    values = table[feature_columns(table)]
    assert np.isfinite(values.iloc[0]).all()
    assert values.iloc[1:].isna().all(axis=None)
    assert list(table["stage"]) == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize("freq_hz", [0.5, 1, 5, 10, 12.5, 20, 25])
def test_smooth_peaks_are_not_taken_for_clipping(freq_hz):
    assert epoch_quality(make_sine(freq_hz, 50).astype(np.float32)) == ["ok"]


def test_an_electrode_that_came_off_within_an_epoch_is_named():
    x = make_noise(5)
    x[0, 500:900] = 3.0  # four seconds
    x[1, 500:1100] = 3.0  # five whole seconds at least, wherever they begin
    x[2, 2440:] = 3.0 + 1e-3 * make_noise(1)[0, 2440:]
    x[3, ::2] = 3.0  # every other sample: no stretch
    x[4, :600] = -500.0  # held at the amplifier's limit
    assert list(epoch_quality(x)) == ["ok", "disconnected", "disconnected", "ok", "clipped"]


def test_quality_is_that_of_the_signal_before_it_was_resampled():
    quality = np.array(["ok", "clipped", "nan"])
    night = replace(make_recording(make_noise(3)), quality=quality)
    table = extract_features(night)
    assert list(table["quality"]) == list(quality)
    assert table[feature_columns(table)].isna().all(axis=1).tolist() == [False, True, True]


def test_a_night_of_bad_epochs_only_is_a_table_of_nan():
    table = extract_features(make_recording(np.zeros((3, N_SAMPLES))))
    assert table[feature_columns(table)].isna().all(axis=None)
    assert (table["quality"] == "zero").all() and (table["stage"] == -1).all()


@pytest.mark.parametrize(
    "family",
    [
        time_features,
        hjorth_features,
        wavelet_features,
        moment_features,
        lambda x: spectral_features(x, SFREQ_HZ),
    ],
)
def test_families_take_bad_epochs_without_warning_or_crash(family):
    x, _ = make_bad_epochs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = family(x)
        found_good = family(x[:1])
    for name, values in found.items():
        assert values.shape == (8,), name
        assert_allclose(values[0], found_good[name][0], rtol=1e-9)


@pytest.mark.parametrize("value", [0, 42.1, -1e6 / 3])
def test_what_is_undefined_for_a_constant_is_nan(value):
    x = np.full((1, N_SAMPLES), value)
    found = hjorth_features(x) | moment_features(x) | wavelet_features(x) | spectral_features(x, SFREQ_HZ)
    for name, feature in found.items():
        if name.endswith("_power_uv2") or name == "activity_uv2":
            assert feature == 0, name
        elif not name.startswith("rfft_"):
            assert np.isnan(feature).all(), name


@pytest.mark.parametrize("sfreq_hz", [32, 79.9, float("nan")])
def test_a_sampling_rate_too_low_for_gamma_is_refused(sfreq_hz):
    with pytest.raises(ValueError, match=f"{sfreq_hz} Hz, expected at least 80 Hz.*resample"):
        spectral_features(make_noise(1), sfreq_hz)


def test_epochs_too_short_are_refused():
    with pytest.raises(ValueError, match="200 samples, too short"):
        wavelet_features(make_noise(1)[:, :200])
    with pytest.raises(ValueError, match="399 samples at 100.0 Hz"):
        spectral_features(make_noise(1)[:, :399], SFREQ_HZ)


@pytest.mark.parametrize("shape", [(N_SAMPLES,), (2, 3, N_SAMPLES), (0, N_SAMPLES)])
def test_an_array_that_is_not_epochs_by_samples_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\(n_epochs, n_samples\\)"):
        time_features(np.ones(shape))


def as_array(x, sfreq_hz, folder):
    return Recording(x, sfreq_hz, None, 7, "made", "C3")


def as_dictionary(x, sfreq_hz, folder):
    np.savez(folder / "n.npz", EEG_signals=x, labels=np.zeros(len(x), int))
    return load_dictionary(folder / "n.npz", sfreq_hz=sfreq_hz)


def as_raw(x, sfreq_hz, folder):
    info = mne.create_info(["C3"], sfreq_hz, "eeg")
    return read_recording(mne.io.RawArray(1e-6 * x.reshape(1, -1), info, verbose="error"), channel="C3")


def as_file(x, sfreq_hz, folder):
    edfio.Edf([edfio.EdfSignal(x.ravel(), sfreq_hz, label="C3", physical_dimension="uV")]).write(
        folder / "n.edf"
    )
    return read_recording(folder / "n.edf", channel="C3")


@pytest.mark.parametrize("way_in", [as_array, as_dictionary, as_raw, as_file])
@pytest.mark.parametrize("sfreq_hz", [128, 256])
@pytest.mark.filterwarnings("ignore:.*resampled")
def test_features_do_not_depend_on_the_rate(night, night_table, tmp_path, way_in, sfreq_hz):
    part = slice(250, 450)
    x = signal.resample_poly(night.eeg_uv[part].ravel().astype(float), sfreq_hz, 100).reshape(200, -1)
    found = extract_features(way_in(x, sfreq_hz, tmp_path))
    assert (found["quality"] == "ok").all()
    names = feature_columns(night_table)
    quotients = found[names].median() / night_table[names].iloc[part].median()
    # Just below 50 Hz the filters against aliasing differ: d1 is the scale of 25 to 50 Hz.
    tolerance = pd.Series(0.03, names) + pd.Series({"wavelet_energy_rel_d1": 0.07}).reindex(
        names, fill_value=0
    )
    assert ((quotients - 1).abs() < tolerance).all(), quotients[(quotients - 1).abs() >= tolerance]
