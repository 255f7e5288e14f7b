"""The description of the features fits what computes them."""

from __future__ import annotations

import pytest
from made_signals import SFREQ_HZ, make_noise

from sleepstage.features.catalogue import (
    BANDS_HZ,
    PUBLISHED_TABLE_COLUMNS,
    RATIOS,
    RFFT_BANDS_HZ,
    WAVELET_SCALES_HZ,
    describe_features,
)
from sleepstage.features.log_power import log_power_features
from sleepstage.features.spectral import spectral_features
from sleepstage.features.time_domain import hjorth_features, moment_features, time_features, wavelet_features


def test_description_is_complete():
    described = describe_features()
    assert len(described) >= 60 and described.index.is_unique
    assert set(described["family"]) == {"time", "hjorth", "wavelet", "moment", "spectral", "filtered"}
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
        "filtered": log_power_features(x, SFREQ_HZ, [True, True]),
    }
    found = [(name, family) for family, features in families.items() for name in features]
    assert found == list(describe_features()["family"].items())


def test_meanings_state_the_limits_that_the_computation_uses():
    meaning = describe_features()["meaning"]
    for band, (low, high) in BANDS_HZ.items():
        assert f"({low:g}–{high:g} Hz)" in meaning[f"{band}_power_uv2"]
    for band, (low, high) in RFFT_BANDS_HZ.items():
        assert f"{low:g} ≤ f ≤ {high:g} Hz" in meaning[f"rfft_{band}_uv2"]
    for scale, (low, high) in WAVELET_SCALES_HZ.items():
        for name in (f"wavelet_entropy_{scale}", f"wavelet_energy_rel_{scale}"):
            assert f"{scale.upper()} ({low:g}–{high:g} Hz at 100 Hz)" in meaning[name]
    for ratio, (above, below) in RATIOS.items():
        assert meaning[ratio] == f"{' + '.join(above)} power over {' + '.join(below)} power"


def test_features_are_described_in_the_order_asked_for_and_unknown_names_are_refused():
    names = ["theta_power_change", "mobility", "delta_power_rel"]
    described = describe_features(names)
    assert list(described.index) == names
    assert list(described["family"]) == ["spectral", "hjorth", "spectral"]
    assert "theta_power_change" not in describe_features().index  # only a spectrogram has it
    with pytest.raises(ValueError, match="no features.*mobilty"):
        describe_features(["mobilty"])
