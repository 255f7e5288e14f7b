"""Features of the spectrum against closed forms, antropy and YASA."""

from __future__ import annotations

import antropy
import numpy as np
import pytest
import yasa
from made_signals import N_SAMPLES, SFREQ_HZ, make_noise, make_sine
from numpy.testing import assert_allclose
from scipy import signal

from sleepstage.features.catalogue import BANDS_HZ
from sleepstage.features.spectral import segment_spectra, spectral_features, spectrum_features


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


def test_powers_of_a_coarse_spectrum_are_those_of_its_interpolation():
    """Frequencies 0.7 Hz apart, so that no edge of a band is one of them."""
    freqs_hz = np.arange(0.3, 42, 0.7)
    psd = np.random.default_rng(3).gamma(2, 1, (4, len(freqs_hz)))
    found = spectrum_features(freqs_hz, psd)
    fine_hz = np.linspace(0, 41, 82001)
    for band, (low, high) in BANDS_HZ.items():
        inside = fine_hz[(fine_hz >= low - 1e-9) & (fine_hz <= high + 1e-9)]
        expected = [np.trapezoid(np.interp(inside, freqs_hz, row), inside) for row in psd]
        assert_allclose(found[f"{band}_power_uv2"], expected, rtol=1e-4, err_msg=band)


@pytest.mark.parametrize("n_samples", [3000, 2999, 399, 50])
@pytest.mark.parametrize("window", ["hann", "hamming"])
def test_spectrum_is_scipys(window, n_samples):
    x = make_noise(3)[:, :n_samples] + 1000
    n = min(400, n_samples)
    hz, expected = signal.welch(x, SFREQ_HZ, window, nperseg=n)
    freqs_hz, density = segment_spectra(x, SFREQ_HZ, window)
    assert_allclose(freqs_hz, hz)
    assert_allclose(density.mean(axis=1), expected, rtol=1e-6, atol=1e-9)


def test_slow_against_fast_delta_is_the_quotient_of_two_sines_powers():
    found = spectral_features(make_sine(0.75, 30) + make_sine(2, 20), SFREQ_HZ)["slow_fast_delta_ratio"]
    # A sine's line is three bins of 1 : 4 : 1. Of that at 0.75 Hz, half of the last bin is fast delta's.
    slow, fast = 900 * 5 / 6, 400 + 900 / 12
    assert_allclose(found, slow / fast, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0, 1, 2.5])
def test_aperiodic_line_is_that_of_the_noise(exponent):
    hz = np.fft.rfftfreq(2**20, 1 / SFREQ_HZ)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(len(hz)))
    density = 50 * np.maximum(hz, 0.2) ** -exponent  # µV²/Hz, one-sided
    x = np.fft.irfft(phases * np.sqrt(density * 2**20 * SFREQ_HZ / 2))[: 300 * N_SAMPLES].reshape(300, -1)
    found = spectral_features(x, SFREQ_HZ)
    assert_allclose(np.median(found["aperiodic_slope"]), -exponent, atol=0.02)
    # The mean logarithm of a density that is estimated from 14 half-shared windows is a little too low
    assert_allclose(np.median(found["aperiodic_offset"]), np.log10(50), atol=0.05)


def test_aperiodic_line_is_near_specparams(table):
    """specparam 2.0.0rc7 at 2–30 Hz with its fixed mode, at epochs 0, 100 … 800; it takes peaks out first."""
    exponent = np.array([1.58, 2.72, 3.65, 2.96, 2.28, 3.00, 2.67, 2.04, 1.92])
    offset = np.array([1.70, 2.72, 3.60, 2.87, 1.96, 2.82, 2.49, 1.70, 1.86])
    found = table.iloc[:900:100]
    assert_allclose(found["aperiodic_slope"], -exponent, atol=0.3)
    assert_allclose(found["aperiodic_offset"], offset, atol=0.5)
    assert np.corrcoef(found["aperiodic_slope"], exponent)[0, 1] < -0.97


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


@pytest.mark.parametrize("sfreq_hz", [32, 79.9, float("nan")])
def test_a_sampling_rate_too_low_for_gamma_is_refused(sfreq_hz):
    with pytest.raises(ValueError, match=f"{sfreq_hz} Hz, expected at least 80 Hz.*resample"):
        spectral_features(make_noise(1), sfreq_hz)


def test_epochs_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match="399 samples at 100.0 Hz"):
        spectral_features(make_noise(1)[:, :399], SFREQ_HZ)
