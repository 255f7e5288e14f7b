"""The feature table of a night: the published rows, bad epochs, and every way in."""

from __future__ import annotations

import warnings

import edfio
import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_signals import N_SAMPLES, SFREQ_HZ, make_bad_epochs, make_noise, make_recording
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal

from sleepstage.dataset.digits import PromptSpec
from sleepstage.features.catalogue import (
    META_COLUMNS,
    PUBLISHED_TABLE_COLUMNS,
    describe_features,
    feature_columns,
)
from sleepstage.features.extract import extract_features
from sleepstage.features.spectral import rfft_rest, spectral_features
from sleepstage.features.time_domain import hjorth_features, moment_features, time_features, wavelet_features
from sleepstage.finetuning.adapter import SHIPPED_ADAPTER
from sleepstage.recordings.dictionary import load_dictionary
from sleepstage.recordings.recording import Recording, read_recording

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


@pytest.mark.parametrize("epoch", PUBLISHED_ROWS)
def test_shipped_night_has_the_published_values(table, epoch):
    row = table.loc[(0, "SC4001E0", epoch)]
    for column, published in zip(PUBLISHED_COLUMNS, PUBLISHED_ROWS[epoch], strict=True):
        ours, factor = PUBLISHED_TABLE_COLUMNS[column]
        assert_allclose(row[ours], published * factor, rtol=1e-3, err_msg=column)


def test_the_rest_of_the_published_power_is_the_same_from_signal_and_table(table):
    columns = dict(zip(PUBLISHED_COLUMNS, zip(*PUBLISHED_ROWS.values(), strict=True), strict=True))
    volts = {name: np.array(values) for name, values in columns.items()}
    bands = [volts[band] for band in ("delta", "theta", "alpha", "beta")]
    from_table = rfft_rest(volts["energy"], volts["mean"], bands, N_SAMPLES) * 1e12
    rows = [(0, "SC4001E0", epoch) for epoch in PUBLISHED_ROWS]
    assert_allclose(table.loc[rows, "rfft_rest_uv2"], from_table, rtol=5e-3)


def test_table_of_the_shipped_night(night, table):
    described = describe_features()
    assert list(table.columns) == [*described.index, *META_COLUMNS]
    assert feature_columns(table) == list(described.index)
    assert table.index.names == ["subject", "recording", "epoch"]
    assert table.index.is_unique and len(table) == night.n_epochs
    assert (table[feature_columns(table)].dtypes == np.float64).all()
    assert table["stage"].dtype == np.int8
    assert_array_equal(table["stage"], night.stages)
    assert (table["quality"] == "ok").all()
    assert np.isfinite(table[feature_columns(table)]).all(axis=None)


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.5, 20), seed=st.integers(0, 2**16))
def test_units_say_how_a_feature_grows_with_the_signal(factor, seed):
    x = make_noise(2, seed=seed)
    once, scaled = extract_features(make_recording(x)), extract_features(make_recording(factor * x))
    power = describe_features()["unit"].map({"µV": 1, "µV²": 2}).fillna(0)
    for name in power.index:
        atol = 1e-4 * once["ptp_uv"].max() if name == "mean_uv" else 1e-6
        expected = once[name] * factor ** power[name]
        if name == "aperiodic_offset":  # a logarithm
            expected = once[name] + 2 * np.log10(factor)
        if name == "zero_crossings":  # a sample on the mean may round to either side of it
            assert_allclose(scaled[name], expected, atol=4)
        else:
            assert_allclose(scaled[name], expected, rtol=1e-3, atol=atol, err_msg=name)


def features_of_one_epoch():
    return describe_features().query("family != 'filtered'").index


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_an_epoch_does_not_depend_on_its_neighbours(order):
    x = make_noise(6)
    x[2] = 0
    together = extract_features(make_recording(x))
    moved = extract_features(make_recording(x[order]))
    names = features_of_one_epoch()
    assert_allclose(moved[names], together[names].iloc[order], rtol=1e-9)
    assert list(moved["quality"]) == list(together["quality"].iloc[order])


def test_one_epoch_alone_gives_what_it_gives_in_the_night(night, table):
    alone = extract_features(make_recording(night.eeg_uv[[300]]))
    names = features_of_one_epoch()
    assert_allclose(alone[names], table[names].iloc[[300]], rtol=1e-9)


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
def test_features_do_not_depend_on_the_rate(night, table, tmp_path, way_in, sfreq_hz):
    part = slice(250, 450)
    x = signal.resample_poly(night.eeg_uv[part].ravel().astype(float), sfreq_hz, 100).reshape(200, -1)
    found = extract_features(way_in(x, sfreq_hz, tmp_path))
    assert (found["quality"] == "ok").all()
    names = feature_columns(table)
    expected = extract_features(make_recording(night.eeg_uv[part]))
    quotients = found[names].median() / expected[names].median()
    # Just below 50 Hz the filters against aliasing differ: d1 is the scale of 25 to 50 Hz.
    tolerance = pd.Series(0.03, names) + pd.Series({"wavelet_energy_rel_d1": 0.07}).reindex(
        names, fill_value=0
    )
    assert ((quotients - 1).abs() < tolerance).all(), quotients[(quotients - 1).abs() >= tolerance]
    spec = PromptSpec.load(SHIPPED_ADAPTER / "prompt.json")  # what the model reads is the same as well
    with pytest.warns(UserWarning, match="less than two hours"):
        changed = (spec.levels(found) != spec.levels(expected)).mean(axis=0)
    assert changed.max() < 0.05, changed
