"""The features of the filtered recording against the published ones, and against MNE and SciPy."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from made_signals import N_SAMPLES, SFREQ_HZ, make_noise, make_recording, make_sine
from numpy.testing import assert_allclose
from scipy import signal

from sleepstage.features.extract import extract_features
from sleepstage.features.log_power import log_power_features

BANDS_HZ = {"delta": (0.5, 4), "theta": (4, 8), "alpha": (8, 12), "sigma": (12, 16), "beta": (16, 30)}
NAMES = [f"{band}_log_power" for band in BANDS_HZ] + [f"{band}_share" for band in BANDS_HZ]

# Rows of the published table, SC4001E0: log_delta … log_beta, rel_delta … rel_beta.
PUBLISHED_ROWS = {
    0: (-0.3852, -2.7032, -4.8861, -5.1610, -4.0822, 0.87504, 0.08617, 0.00971, 0.00738, 0.02170),
    100: (-0.3306, -2.7870, -4.9464, -5.3268, -5.3926, 0.90194, 0.07733, 0.00892, 0.00610, 0.00571),
    200: (1.0584, -2.4663, -4.1683, -5.3336, -6.3305, 0.96420, 0.02841, 0.00518, 0.00161, 0.00060),
    300: (-1.0397, -3.1812, -4.4461, -4.5165, -6.0026, 0.84138, 0.09884, 0.02790, 0.02600, 0.00588),
    400: (-2.4948, -3.6811, -4.7372, -6.5451, -5.5842, 0.67819, 0.20708, 0.07203, 0.01181, 0.03088),
    500: (-0.7534, -2.9972, -4.7942, -5.3475, -6.2642, 0.87889, 0.09321, 0.01545, 0.00889, 0.00355),
    600: (-1.7493, -3.4948, -4.8511, -4.6366, -5.8807, 0.77441, 0.13517, 0.03483, 0.04315, 0.01244),
    700: (-2.9210, -3.8851, -5.1850, -6.3029, -5.6692, 0.63161, 0.24084, 0.06564, 0.02146, 0.04045),
    840: (-1.2593, -3.7386, -4.9939, -5.3771, -4.4334, 0.85779, 0.07188, 0.02049, 0.01396, 0.03588),
}


def plain(x, unit=None):
    """The definition, word by word: shape (n_epochs, 10) in the order of `NAMES`."""
    filtered = mne.filter.filter_data(x.ravel(), SFREQ_HZ, 0.5, 30, verbose="error").reshape(x.shape)
    filtered = (filtered - filtered.mean()) / (filtered.std() if unit is None else unit)
    hz, psd = signal.welch(
        filtered,
        SFREQ_HZ,
        "hamming",
        nperseg=400,
        noverlap=200,
        nfft=400,
        detrend="constant",
        average="median",
    )
    inside = [(hz >= low) & (hz <= high) for low, high in BANDS_HZ.values()]
    powers = np.stack([np.trapezoid(psd[:, band], hz[band], axis=1) for band in inside], axis=1)
    return np.concatenate([np.log(powers + 1e-10), powers / powers.sum(axis=1, keepdims=True)], axis=1)


def computed(x, usable=None):
    found = log_power_features(x, SFREQ_HZ, np.ones(len(x), bool) if usable is None else usable)
    assert list(found) == NAMES
    return np.stack(list(found.values()), axis=1)


def test_shipped_night_has_the_published_values(table):
    found = table.loc[[(0, "SC4001E0", epoch) for epoch in PUBLISHED_ROWS], NAMES].to_numpy()
    published = np.array(list(PUBLISHED_ROWS.values()))
    assert_allclose(found[:, :5], published[:, :5], atol=0.005)
    assert_allclose(found[:, 5:], published[:, 5:], atol=0.0005)


def test_values_are_those_of_mne_and_scipy(night, table):
    assert_allclose(table[NAMES], plain(night.eeg_uv.astype(float)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_epochs", [1, 2, 64, 65])
def test_a_short_recording_is_filtered_as_mne_does_it(n_epochs):
    x = make_noise(n_epochs, seed=n_epochs)
    assert_allclose(computed(x), plain(x), rtol=1e-9)


def test_a_gap_is_an_end_of_the_signal_on_both_sides():
    x = make_noise(9)
    usable = np.arange(9) != 4
    runs = [x[:4], x[5:]]
    filtered = [mne.filter.filter_data(run.ravel(), SFREQ_HZ, 0.5, 30, verbose="error") for run in runs]
    unit = np.concatenate(filtered).std()
    expected = np.concatenate([plain(run, unit) for run in runs])
    for hole in (np.nan, np.inf, 0, 1e6):  # whatever stands in the gap
        x[4] = hole
        found = computed(x, usable)
        assert np.isnan(found[4]).all()
        assert_allclose(found[usable], expected, rtol=1e-9)


def test_an_electrode_that_fell_off_changes_the_other_epochs_by_one_constant_a_band(night, dead_table):
    before = extract_features(night)[NAMES].to_numpy()
    far = np.delete(np.arange(841), np.arange(395, 465))
    shift = (dead_table[NAMES].to_numpy() - before)[far]
    assert_allclose(shift[:, :5], np.broadcast_to(shift[0, 0], (len(far), 5)), atol=1e-6)
    assert_allclose(shift[:, 5:], 0, atol=1e-9)


def test_no_gain_moves_them(night):
    part = night.eeg_uv[300:340].astype(float)
    for gain in (0.5, -2, 1e-3):
        assert_allclose(computed(gain * part), computed(part), rtol=1e-6)


def test_a_sine_has_the_power_of_all_its_variance():
    sine = np.tile(make_sine(10, amplitude_uv=20), (4, 1))  # whole periods: the epochs join
    found = dict(zip(NAMES, computed(sine)[1], strict=True))
    median_bias = 1 + sum(1 / (k + 1) - 1 / k for k in range(2, 14, 2))  # of the 14 segments' median
    assert found["alpha_log_power"] == pytest.approx(-np.log(median_bias), abs=1e-3)
    assert found["alpha_share"] == pytest.approx(1, abs=1e-6)


def test_epochs_shorter_than_the_filter_reaches_are_refused():
    with pytest.raises(ValueError, match="330 samples, expected more than 330"):
        log_power_features(np.ones((3, 330)), SFREQ_HZ, [True] * 3)


def test_a_recording_without_a_usable_epoch_has_no_values():
    assert np.isnan(computed(np.zeros((2, N_SAMPLES)), np.array([False, False]))).all()
    assert np.isnan(extract_features(make_recording(np.zeros((2, N_SAMPLES))))[NAMES]).all(axis=None)
