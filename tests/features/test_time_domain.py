"""Features of the samples against closed forms, SciPy and antropy."""

from __future__ import annotations

import antropy
import numpy as np
import pytest
import pywt
from made_signals import N_SAMPLES, SFREQ_HZ, make_noise, make_sine
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sleepstage.features import time_domain
from sleepstage.features.spectral import spectral_features
from sleepstage.features.time_domain import hjorth_features, moment_features, time_features, wavelet_features


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


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4, 5, 2999, 3001])
def test_quartiles_are_numpys_for_any_number_of_samples(n_samples):
    x = np.random.default_rng(0).normal(size=(3, n_samples)).round(1)
    quartiles = np.quantile(x, [0.25, 0.75], axis=1)
    assert_allclose(time_domain._interquartile_range(x), quartiles[1] - quartiles[0], atol=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 9])  # rounded samples are often equal
def test_permutation_entropy_agrees_with_antropy(decimals):
    x = make_noise().round(decimals)
    expected = [antropy.perm_entropy(epoch, order=3, delay=1, normalize=True) for epoch in x]
    assert_allclose(time_features(x)["permutation_entropy"], expected, rtol=1e-12)


def test_permutation_entropy_of_a_ramp_is_nothing_and_of_noise_all():
    noise = np.random.default_rng(0).normal(size=(1, 100_000))
    assert_allclose(time_features(np.arange(3000.0)[np.newaxis])["permutation_entropy"], 0, atol=1e-12)
    assert_allclose(time_features(noise)["permutation_entropy"], 1, atol=1e-4)
    zigzag = np.tile([0.0, 2.0, 1.0, 3.0], 750)[np.newaxis]  # up, down, up: of three samples, four orders
    assert_allclose(time_features(zigzag)["permutation_entropy"], 2 * np.log(2) / np.log(6), rtol=1e-3)


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_features_do_not_depend_on_how_many_epochs_are_computed_at_once(n_epochs, monkeypatch):
    x = make_noise(8)
    families = (time_features, hjorth_features, wavelet_features, moment_features)
    at_once = [family(x) for family in families] + [spectral_features(x, SFREQ_HZ)]
    monkeypatch.setattr(time_domain, "EPOCHS_AT_ONCE", n_epochs)
    in_parts = [family(x) for family in families] + [spectral_features(x, SFREQ_HZ)]
    for one, other in zip(at_once, in_parts, strict=True):
        for name, values in one.items():
            assert_allclose(other[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_two_valued_epoch_has_the_skewness_of_a_bernoulli_variable():
    share = 0.1
    x = np.repeat([1.0, 0.0], [300, 2700])[np.newaxis]
    variance = share * (1 - share)
    assert_allclose(moment_features(x)["skewness"], (1 - 2 * share) / np.sqrt(variance), rtol=1e-12)
    assert_allclose(moment_features(x)["kurtosis"], (1 - 6 * variance) / variance, rtol=1e-12)


def test_zero_crossings_agree_with_antropy():
    x = make_noise() + 500  # an offset hides the crossings of zero, not those of the mean
    centred = x - x.mean(axis=1, keepdims=True)
    assert_array_equal(time_features(x)["zero_crossings"], antropy.num_zerocross(centred, axis=1))


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


def test_wavelet_measures_stay_within_their_bounds(table):
    shares = table.filter(regex="^wavelet_energy_rel_")
    assert_allclose(shares.sum(axis=1), 1)
    assert ((shares > 0) & (shares < 1)).all(axis=None)
    assert table["wavelet_entropy"].between(0, np.log2(6)).all()
    n_coefficients = [len(c) for c in pywt.wavedec(np.zeros(N_SAMPLES), "db4", level=5)]
    for scale, n in zip(["a5", "d5", "d4", "d3", "d2", "d1"], n_coefficients, strict=True):
        assert table[f"wavelet_entropy_{scale}"].between(0, np.log2(n)).all()


@pytest.mark.parametrize("shape", [(N_SAMPLES,), (2, 3, N_SAMPLES), (0, N_SAMPLES)])
def test_an_array_that_is_not_epochs_by_samples_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\(n_epochs, n_samples\\)"):
        time_features(np.ones(shape))


def test_epochs_too_short_for_five_levels_are_refused():
    with pytest.raises(ValueError, match="200 samples, too short"):
        wavelet_features(make_noise(1)[:, :200])
