"""Reading a night: the shipped one against the published table, and synthetic ones at every edge."""

import gzip
import os
import re
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import edfio
import mne
import numpy as np
import pytest
import scipy.io

from sleepstage.features.extract import extract_features
from sleepstage.recordings.quality import epoch_quality
from sleepstage.recordings.recording import Recording, load_demo, read_recording
from sleepstage.stages import STAGES

# Rows of subject 0, recording SC4001E0, in the published 58-subject table, from the signal in volts:
# epoch: mean, std, var, min, max, energy, delta, theta, alpha, beta
TABLE_ROWS = {
    0: (1.86296e-08, 2.10623e-05, 4.43621e-10, -7.34711e-05, 6.80322e-05, 1.33086e-06, 0.00155965,
        0.000148515, 2.46321e-05, 4.665e-05),
    60: (2.30244e-07, 8.87644e-06, 7.87912e-11, -3.19297e-05, 4.82462e-05, 2.36533e-07, 0.000165961,
         9.17096e-05, 3.95288e-05, 1.55223e-05),
    95: (2.39433e-07, 3.49572e-05, 1.222e-09, -9.01626e-05, 0.000110324, 3.66618e-06, 0.00496628,
         0.000226477, 4.8126e-05, 1.5712e-05),
    180: (5.25847e-07, 3.66974e-05, 1.3467e-09, -8.97875e-05, 0.000105073, 4.04092e-06, 0.00495587,
          0.000175311, 6.19796e-05, 1.11239e-05),
    275: (6.01084e-08, 1.1764e-05, 1.38393e-10, -3.62432e-05, 3.68996e-05, 4.15189e-07, 0.000424771,
          4.58642e-05, 4.21668e-05, 1.61294e-05),
    370: (1.31407e-07, 1.95425e-05, 3.81911e-10, -7.74095e-05, 6.94388e-05, 1.14578e-06, 0.00136453,
          7.26924e-05, 2.5084e-05, 1.82129e-05),
    460: (1.52287e-07, 1.46814e-05, 2.15543e-10, -5.03092e-05, 7.20645e-05, 6.46697e-07, 0.000746795,
          8.87488e-05, 4.25942e-05, 2.13195e-05),
    555: (2.38933e-07, 1.08634e-05, 1.18013e-10, -3.86813e-05, 6.17495e-05, 3.5421e-07, 0.00023919,
          4.66571e-05, 1.81207e-05, 1.33756e-05),
    745: (1.33876e-07, 8.62156e-06, 7.43313e-11, -2.66784e-05, 3.21172e-05, 2.23048e-07, 0.000113926,
          5.60062e-05, 3.54002e-05, 2.53123e-05),
    840: (1.31157e-07, 1.82309e-05, 3.32366e-10, -8.38799e-05, 6.09055e-05, 9.9715e-07, 0.000900816,
          8.47948e-05, 1.97896e-05, 3.4452e-05),
}  # fmt: skip
EVENING = datetime(2020, 3, 1, 22, 0, 0)


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def header(start):
    return {"recording": edfio.Recording(startdate=start.date()), "starttime": start.time()}


def write_psg(path, signals_uv, sfreq_hz=100, unit="uV", start=EVENING):
    """An EDF of named signals."""
    edfio.Edf(
        [edfio.EdfSignal(x, sfreq_hz, label=name, physical_dimension=unit) for name, x in signals_uv.items()],
        **header(start),
    ).write(path)
    return path


def write_hypnogram(path, spans, start=EVENING):
    """An EDF+ file of annotations; spans are (text, onset in s, duration in s)."""
    annotations = [edfio.EdfAnnotation(onset, duration, text) for text, onset, duration in spans]
    edfio.Edf([], annotations=annotations, **header(start)).write(path)
    return path


def steps(n_epochs, n_samples=3000, seed=0):
    """A noise of 20 uV around a level of i uV in epoch i, so that every epoch tells its index."""
    noise = np.random.default_rng(seed).normal(0, 20, (n_epochs, n_samples))
    return (noise - noise.mean(axis=1, keepdims=True) + np.arange(n_epochs)[:, None]).ravel()


def epochs_told(recording):
    return recording.eeg_uv.mean(axis=1).round().astype(int).tolist()


@pytest.fixture
def psg(tmp_path):
    """Twenty epochs of the default channel."""
    return write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": steps(20)})


def ten_quantities(x_v):
    freqs_hz = np.fft.rfftfreq(len(x_v), 0.01)
    power = np.abs(np.fft.rfft(x_v)) ** 2
    edges = [(0.5, 4), (4, 8), (8, 13), (13, 30)]
    bands = [power[(freqs_hz >= lo) & (freqs_hz <= hi)].sum() for lo, hi in edges]
    return [x_v.mean(), x_v.std(), x_v.var(), x_v.min(), x_v.max(), (x_v**2).sum(), *bands]


def test_shipped_night_has_the_experts_counts(demo):
    assert (demo.subject, demo.recording, demo.channel) == (0, "SC4001E0", "EEG Fpz-Cz")
    assert demo.eeg_uv.shape == (841, 3000)
    assert demo.eeg_uv.dtype == np.float32 and demo.stages.dtype == np.int8
    assert dict(zip(STAGES, np.bincount(demo.stages).tolist(), strict=True)) == {
        "W": 188, "N1": 58, "N2": 250, "N3": 220, "REM": 125,
    }  # fmt: skip
    assert demo.start == datetime(1989, 4, 25, 0, 13, 30)
    assert demo.clock_times()[-1] == datetime(1989, 4, 25, 7, 13, 30)


@pytest.mark.parametrize("epoch", TABLE_ROWS)
def test_shipped_night_equals_the_published_table(demo, epoch):
    x_v = demo.eeg_uv[epoch].astype(float) * 1e-6
    np.testing.assert_allclose(ten_quantities(x_v), TABLE_ROWS[epoch], rtol=1e-3)


def test_reading_the_shipped_night_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_demo()


def test_one_channel_is_read_at_its_own_rate_in_microvolts(tmp_path):
    fast = edfio.EdfSignal(np.zeros(200 * 60), 200, label="EMG", physical_dimension="uV")
    eeg = edfio.EdfSignal(steps(2) / 1000, 100, label="C4-M1", physical_dimension="mV")
    edfio.Edf([fast, eeg]).write(tmp_path / "psg.edf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        night = read_recording(tmp_path / "psg.edf", channel="C4-M1")
    assert night.sfreq_hz == 100 and night.stages is None
    np.testing.assert_allclose(night.eeg_uv.ravel(), steps(2), atol=0.01)


def test_bdf_is_read_too(tmp_path):
    signal = edfio.BdfSignal(steps(2), 100, label="EEG Fpz-Cz", physical_dimension="uV")
    edfio.Bdf([signal]).write(tmp_path / "night.bdf")
    np.testing.assert_allclose(read_recording(tmp_path / "night.bdf").eeg_uv.ravel(), steps(2), atol=0.001)


@pytest.mark.parametrize(
    ("name", "subject", "recording"),
    [
        ("SC4001E0-PSG.edf", 0, "SC4001E0"),
        ("SC4411E0-PSG.edf", 41, "SC4411E0"),
        ("SC4412F0-PSG.edf", 41, "SC4412F0"),
        ("ST7011J0-PSG.edf", "ST01", "ST7011J0"),
        ("sub-7_ses-2_eeg.EDF", "7", "sub-7_ses-2_eeg"),
        ("sc4012e0-psg.edf", 1, "sc4012e0-psg"),  # a disk that knows no capitals
        ("Sub-Anna_eeg.edf", "Anna", "Sub-Anna_eeg"),
        ("anna-1.edf", "anna-1", "anna-1"),
    ],
)
def test_names_come_from_the_file(tmp_path, name, subject, recording):
    night = read_recording(write_psg(tmp_path / name, {"EEG Fpz-Cz": steps(1)}))
    assert (night.subject, night.recording) == (subject, recording)


def test_names_can_be_given(psg):
    night = read_recording(psg, subject="anna", recording="first")
    assert (night.subject, night.recording) == ("anna", "first")
    assert read_recording(psg, subject=0).subject == 0


def test_trailing_partial_epoch_is_dropped(tmp_path):
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": np.append(steps(3), np.full(2900, 99))})
    assert epochs_told(read_recording(psg)) == [0, 1, 2]


@pytest.mark.parametrize("sfreq_hz", [64, 128, 256])
def test_other_rates_are_resampled_with_a_message(tmp_path, sfreq_hz):
    def sine_uv(rate_hz):
        return 40 * np.sin(2 * np.pi * 10 * np.arange(90 * rate_hz) / rate_hz)

    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": sine_uv(sfreq_hz)}, sfreq_hz=sfreq_hz)
    with pytest.warns(UserWarning, match=f"sampled at {sfreq_hz} Hz and is resampled to 100 Hz") as caught:
        night = read_recording(psg)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert ("Nothing above 32 Hz" in str(caught[0].message)) == (sfreq_hz == 64)
    assert night.eeg_uv.shape == (3, 3000)
    np.testing.assert_allclose(night.eeg_uv[1], sine_uv(100)[3000:6000], atol=0.4)


def test_clipping_is_found_before_resampling_smoothes_it_away(tmp_path):
    signal = np.random.default_rng(0).normal(0, 20, (4, 30 * 256))
    signal[2] = np.clip(3 * signal[2], -40, 40)
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": signal.ravel()}, sfreq_hz=256)
    with pytest.warns(UserWarning, match="resampled"):
        night = read_recording(psg)
    assert night.quality.tolist() == ["ok", "ok", "clipped", "ok"]
    assert epoch_quality(night.eeg_uv).tolist() == ["ok"] * 4  # which is why it has to be found before
    assert extract_features(night)["quality"].tolist() == night.quality.tolist()
    assert "resampled from 256 to 100 Hz" in night.notes


def as_raw(signal_uv, sfreq_hz=100, first_sample=0):
    info = mne.create_info(["EEG Fpz-Cz", "EMG"], sfreq_hz, "eeg")
    both = 1e-6 * np.stack([signal_uv, np.zeros_like(signal_uv)])
    raw = mne.io.RawArray(both, info, first_samp=first_sample, verbose="error")
    return raw.set_meas_date(EVENING.replace(tzinfo=UTC))


def write_fif(path, signal_uv, sfreq_hz, first_sample=0):
    as_raw(signal_uv, sfreq_hz, first_sample).save(path, fmt="double", verbose="error")
    return path


def test_what_mne_compresses_is_read_too(tmp_path):
    assert epochs_told(read_recording(write_fif(tmp_path / "night_raw.fif.gz", steps(4), 100))) == [
        0,
        1,
        2,
        3,
    ]
    (tmp_path / "night.csv.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="ends in '.gz', expected one of .edf"):
        read_recording(tmp_path / "night.csv.gz")


def test_a_compressed_file_of_zeros_is_refused_before_all_of_it_is_unpacked(tmp_path):
    """6 MB of it held 6 GB, and took 16 s."""
    whole = write_fif(tmp_path / "night_raw.fif", steps(2), 100).read_bytes()
    (tmp_path / "zeros.fif.gz").write_bytes(gzip.compress(whole + bytes(2**25)))
    with pytest.raises(ValueError, match="zeros.fif.gz .* would unpack to more than 20 times its size"):
        read_recording(tmp_path / "zeros.fif.gz")


def test_parts_of_a_recording_are_read_and_one_that_follows_itself_is_refused(tmp_path):
    """MNE would read it again and again, for ever."""
    names = ["EEG Fpz-Cz", *(f"EMG {k}" for k in range(15))]
    data = 1e-6 * np.tile(steps(40), (16, 1))
    raw = mne.io.RawArray(data, mne.create_info(names, 100, "eeg"), verbose="error")
    raw.save(tmp_path / "night_raw.fif", split_size="2.5MB", verbose="error")
    assert epochs_told(read_recording(tmp_path / "night_raw.fif")) == list(range(40))
    part = tmp_path / "night_raw-1.fif"
    part.write_bytes(part.read_bytes().replace(b"night_raw-2.fif", b"night_raw-1.fif"))
    with pytest.raises(ValueError, match="its part night_raw-1.fif comes after itself"):
        read_recording(tmp_path / "night_raw.fif")
    part.write_bytes(part.read_bytes().replace(b"night_raw-1.fif", b"/etc/./././hosts"[:15]))
    with pytest.raises(ValueError, match="expected a file beside it"):
        read_recording(tmp_path / "night_raw.fif")


def test_a_kind_that_is_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    """EEGLAB writes MATLAB 7.3 when it is asked to; MNE then wants a package more."""
    psg = tmp_path / "night.set"
    psg.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "pymatreader", None)  # as if it were not there
    with pytest.raises(ValueError, match="night.set is not a recording that can be read.*as EDF.*7.3"):
        read_recording(psg)


def test_what_mne_saves_is_read_and_begins_where_its_samples_do(tmp_path):
    """MNE counts a file's samples from the measurement's start, which may have been earlier."""
    night = read_recording(write_fif(tmp_path / "night_raw.fif", steps(4), 100, first_sample=6000))
    assert epochs_told(night) == [0, 1, 2, 3]
    assert night.start == EVENING + timedelta(seconds=60)
    with pytest.raises(ValueError, match="no channel 'C4'. Present: 'EEG Fpz-Cz', 'EMG'"):
        read_recording(tmp_path / "night_raw.fif", channel="C4")


def test_one_lost_sample_costs_one_epoch_at_any_rate(tmp_path):
    signal = np.random.default_rng(0).normal(0, 20, 4 * 30 * 128)
    signal[5000] = np.nan
    with pytest.warns(UserWarning, match="resampled"):
        night = read_recording(write_fif(tmp_path / "night_raw.fif", signal, 128))
    assert extract_features(night)["quality"].tolist() == ["ok", "nan", "ok", "ok"]


def write_brainvision(path, signal_uv, markers, sfreq_hz=100):
    """Markers are (type, description, first sample, date); returns the header's path."""
    path.with_suffix(".eeg").write_bytes((10 * signal_uv).astype("<i2").tobytes())
    lines = [
        f"Mk{i}={kind},{text},{sample + 1},1,0,{date}"
        for i, (kind, text, sample, date) in enumerate(markers, start=1)
    ]
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\n[Marker Infos]\n"
        + "\n".join(lines)
    )
    path.with_suffix(".vhdr").write_text(
        f"Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile={path.stem}.eeg\n"
        f"MarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=1\n"
        f"SamplingInterval={1e6 / sfreq_hz:g}\n[Binary Infos]\nBinaryFormat=INT_16\n"
        "[Channel Infos]\nCh1=EEG Fpz-Cz,,0.1,µV\n",
        encoding="utf-8",
    )
    return path.with_suffix(".vhdr")


def test_brainvision_is_read_and_a_damaged_one_refused(tmp_path):
    psg = write_brainvision(tmp_path / "night", steps(2), [])
    np.testing.assert_allclose(read_recording(psg).eeg_uv.ravel(), steps(2), atol=0.1)
    (tmp_path / "night.eeg").unlink()
    with pytest.raises(ValueError, match="night.vhdr names the file .*night.eeg', expected a file beside it"):
        read_recording(psg)


# Pauses


def date(seconds):
    """As BrainVision writes a time, so many seconds after the evening."""
    return (EVENING + timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%S%f")


def write_discontinuous(path, signal_uv, onsets_s, sfreq_hz=100, record_s=10):
    """An EDF+D or BDF+D whose data records begin at these times."""
    bdf = path.suffix == ".bdf"
    make, signal, wide = (edfio.Bdf, edfio.BdfSignal, 3) if bdf else (edfio.Edf, edfio.EdfSignal, 2)
    signals = [
        signal(x, sfreq_hz, label=label, physical_dimension="uV", physical_range=(-2000, 2000))
        for label, x in (("EEG Fpz-Cz", signal_uv), ("EMG", signal_uv))
    ]
    notes = [edfio.EdfAnnotation(0, None, "on")]
    make(signals, annotations=notes, data_record_duration=record_s, **header(EVENING)).write(path)
    content = bytearray(path.read_bytes())
    content[192:197] = b"BDF+D" if bdf else b"EDF+D"
    n_header, n_records = int(content[184:192]), int(content[236:244])
    width, first = (len(content) - n_header) // n_records, 2 * sfreq_hz * record_s * wide
    for record, onset_s in zip(range(n_records), onsets_s, strict=True):
        place = n_header + record * width + first
        content[place : place + width - first] = f"+{onset_s:g}\x14\x14".encode().ljust(width - first, b"\0")
    path.write_bytes(content)
    return path


def write_eeglab(path, signal_uv, events, sfreq_hz=100, data=None):
    """Events are (latency in samples from 1, type, duration in samples)."""
    event = np.array(events, dtype=[("latency", "O"), ("type", "O"), ("duration", "O")])
    content = {
        **{"setname": "n", "nbchan": 1.0, "trials": 1.0, "pnts": float(len(signal_uv)), "ref": "common"},
        **{"srate": float(sfreq_hz), "xmin": 0.0, "xmax": (len(signal_uv) - 1) / sfreq_hz},
        "data": signal_uv[np.newaxis].astype(np.float32) if data is None else data,
        "chanlocs": np.array([("EEG Fpz-Cz",)], dtype=[("labels", "O")]),
        "event": event,
    }
    absent = ("epoch", "icaweights", "icasphere", "icawinv", "icachansind")
    scipy.io.savemat(
        path, {"EEG": content | dict.fromkeys(absent, np.array([])) | {"etc": {}}}, appendmat=False
    )
    return path


def write_paused(folder, kind, signal_uv, at_s, lost_s, sfreq_hz=100):
    """A recording with one pause, as each format tells it."""
    at, path = round(at_s * sfreq_hz), folder / "night"
    if kind == "brainvision":
        parts = [("New Segment", "", 0, date(0)), ("New Segment", "", at, date(at_s + lost_s))]
        return write_brainvision(path, signal_uv, parts, sfreq_hz)
    if kind == "eeglab":
        events = [(700.0, "note", 1.0), (at + 0.5, "boundary", lost_s * sfreq_hz)]
        return write_eeglab(path.with_suffix(".set"), signal_uv, events, sfreq_hz)
    if kind in ("edf", "bdf"):
        starts_s = 10.0 * np.arange(len(signal_uv) // (10 * sfreq_hz))
        onsets_s = starts_s + lost_s * (starts_s >= at_s)
        return write_discontinuous(path.with_suffix(f".{kind}"), signal_uv, onsets_s, sfreq_hz)
    lost = np.zeros(round(lost_s * sfreq_hz))
    whole = as_raw(np.concatenate([signal_uv[:at], lost, signal_uv[at:]]), sfreq_hz, first_sample=6000)
    begin_s = whole.first_time + at_s
    whole.annotations.append(begin_s, lost_s, "BAD_ACQ_SKIP")
    whole.save(folder / "night_raw.fif", fmt="double", buffer_size_sec=1, verbose="error")
    return folder / "night_raw.fif"


def by_the_clock(signal_uv, at, n_lost):
    """Whole epochs of a signal at 100 Hz that was paused."""
    laid = np.concatenate([signal_uv[:at], np.full(n_lost, np.nan), signal_uv[at:]])
    return laid[: len(laid) // 3000 * 3000].reshape(-1, 3000)


KINDS = ["brainvision", "eeglab", "edf", "bdf", "fif"]


@pytest.mark.parametrize(("at_s", "lost_s"), [(150, 120), (140, 75)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_keeps_clock_and_stages_right_on_both_sides(tmp_path, kind, at_s, lost_s):
    psg = write_paused(tmp_path, kind, steps(10), at_s, lost_s)
    scored = tmp_path / "h.csv"
    scored.write_text(f"onset,duration,stage\n0,120,W\n{30 * ((at_s + lost_s) // 30 + 1)},60,N3\n")
    with pytest.warns(UserWarning, match=f"was paused: {lost_s} s are missing"):
        night = read_recording(psg, scored, wake_margin_min=None)
    expected = by_the_clock(steps(10), 100 * at_s, 100 * lost_s)
    np.testing.assert_allclose(night.eeg_uv, expected, atol=0.1)
    lost = np.isnan(expected).any(axis=1)
    assert (extract_features(night)["quality"] == np.where(lost, "nan", "ok")).all()
    after = (at_s + lost_s) // 30 + 1
    assert np.flatnonzero(night.stages == 0).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(night.stages == 3).tolist() == [after, after + 1]
    assert any("paused" in note for note in night.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_spreads_over_no_neighbour_at_another_rate(tmp_path, kind):
    def wave(sfreq_hz):  # its offset would be a step, were a pause filled by zeros
        seconds = np.arange(300 * sfreq_hz) / sfreq_hz
        return 200 + 30 * np.sin(2 * np.pi * 1.3 * seconds) + 20 * np.sin(2 * np.pi * 11 * seconds)

    psg = write_paused(tmp_path, kind, wave(256), 140, 75, sfreq_hz=256)
    with pytest.warns(UserWarning):
        night = read_recording(psg)
    expected = by_the_clock(wave(100), 14000, 7500)
    lost = np.isnan(expected).any(axis=1)
    assert (extract_features(night)["quality"] == np.where(lost, "nan", "ok")).all()
    assert np.isnan(night.eeg_uv[lost]).all()
    np.testing.assert_allclose(night.eeg_uv[~lost].ravel()[50:-50], expected[~lost].ravel()[50:-50], atol=1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "brainvision"])
def test_what_mne_has_opened_keeps_its_pause(tmp_path, kind):
    raw = mne.io.read_raw(write_paused(tmp_path, kind, steps(10), 150, 120), verbose="error")
    with pytest.warns(UserWarning, match="was paused"):
        night = read_recording(raw)
    expected = by_the_clock(steps(10), 15000, 12000)
    np.testing.assert_allclose(night.eeg_uv, expected, atol=0.1)
    assert (night.subject, night.recording) == ("night_raw" if kind == "fif" else "night",) * 2


def test_several_pauses_are_added_up_before_they_are_rounded(tmp_path):
    events = [(1000 * k + 0.5, "boundary", 50.4) for k in range(1, 11)]
    with pytest.warns(UserWarning, match="5.04 s are missing"):
        night = read_recording(write_eeglab(tmp_path / "n.set", steps(4), events))
    assert np.isnan(night.eeg_uv).sum() == 504


def test_a_pause_longer_than_what_follows_it_keeps_its_length(tmp_path):
    signal_uv, events = steps(6), [(6000.5, "boundary", 30000.0), (9000.5, "boundary", 15000.0)]
    psg = write_eeglab(tmp_path / "night.set", signal_uv, events)
    with pytest.warns(UserWarning, match="450 s are missing"):
        night = read_recording(psg)
    laid = by_the_clock(by_the_clock(signal_uv, 6000, 30000).ravel(), 39000, 15000)
    np.testing.assert_allclose(night.eeg_uv, laid, atol=1e-3)
    # A Raw has lost its length: MNE cuts annotations where the samples end.
    with pytest.raises(ValueError, match="not known for how long. If you passed a Raw, pass its file"):
        read_recording(mne.io.read_raw(psg, verbose="error"))


def unknown_pauses(folder):
    """Recordings in which something was left out after 150 s, and nobody wrote down how much."""
    dated = ("New Segment", "", 0, date(0))
    for i, marker in enumerate(
        [
            ("New Segment", "", 15000, ""),
            ("New Segment", "", 15000, "0" * 20),
            ("Comment", "boundary", 15000, 0),
        ]
    ):
        yield write_brainvision(folder / f"b{i}", steps(10), [dated, marker])
    yield mne.io.read_raw(write_paused(folder, "brainvision", steps(10), 150, 60), verbose="error")
    for i, (kind, duration) in enumerate([("boundary", 0.0), ("boundary", np.nan), (-99, 0.0)]):
        yield write_eeglab(folder / f"e{i}.set", steps(10), [(15000.5, kind, duration)])
    joined = mne.concatenate_raws([as_raw(steps(5)), as_raw(steps(5))], verbose="error")
    joined.save(folder / "joined_raw.fif", verbose="error")
    yield joined
    yield folder / "joined_raw.fif"
    edf = write_psg(folder / "edge.edf", {"EEG Fpz-Cz": steps(10)})
    notes = [edfio.EdfAnnotation(150, None, "EDGE boundary")]
    edfio.Edf(list(edfio.read_edf(edf).signals), annotations=notes, **header(EVENING)).write(edf)
    yield edf


def test_a_pause_of_unknown_length_is_refused_and_its_parts_are_read(tmp_path):
    n_cases = 0
    for psg in unknown_pauses(tmp_path):
        with pytest.raises(ValueError, match="paused 150 s after .* not known for how long.*EDF.D.*crop"):
            read_recording(psg)
        raw = psg if isinstance(psg, mne.io.BaseRaw) else mne.io.read_raw(psg, verbose="error")
        np.testing.assert_allclose(
            read_recording(raw.copy().crop(150)).eeg_uv.ravel(),
            raw.get_data([0], start=15000)[0] * 1e6,
            atol=0.1,
        )
        n_cases += 1
    assert n_cases == 10


@pytest.mark.parametrize(
    ("onsets_s", "message"),
    [
        ([0, 10, 20, 15, 25, 35], "paused 30 s after its first sample, for -15 s"),
        ([0, 10, 20, 2e6, 2e6 + 10, 2e6 + 20], "at most a day. Correct the times"),
        ([0, 10, 20, np.nan, 100, 110], "paused 30 s after its first sample, and it is not known"),
    ],
)
def test_records_whose_times_cannot_be_are_refused(tmp_path, onsets_s, message):
    with pytest.raises(ValueError, match=message):
        read_recording(write_discontinuous(tmp_path / "night.edf", steps(2), onsets_s))


@pytest.mark.parametrize("drift_s", [0, 0.004, -0.004])
def test_what_is_called_discontinuous_and_is_not_is_read(tmp_path, drift_s):
    psg = write_discontinuous(tmp_path / "night.edf", steps(4), 0.25 + (10 + drift_s) * np.arange(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert epochs_told(read_recording(psg)) == [0, 1, 2, 3]


def test_a_segment_that_begins_where_the_one_before_ended_is_no_pause(tmp_path):
    dates = [("New Segment", "", 0, date(0)), ("New Segment", "", 6000, date(59.8))]  # the clocks' drift
    assert epochs_told(read_recording(write_brainvision(tmp_path / "n", steps(4), dates))) == [0, 1, 2, 3]


def test_a_raw_that_begins_after_a_pause_has_no_clock(tmp_path):
    raw = mne.io.read_raw(write_paused(tmp_path, "edf", steps(10), 150, 120), verbose="error")
    with pytest.raises(ValueError, match="begins after a pause of .*Pass the file's path"):
        read_recording(raw.crop(200))


# What MNE has opened


def test_what_mne_has_opened_is_read_like_its_file_and_not_changed(tmp_path):
    path = write_fif(tmp_path / "SC4012E0_raw.fif", steps(4), 100, first_sample=6000)
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    raw.info["bads"] = ["EEG Fpz-Cz"]  # asked for by name, it is read
    before = raw.get_data()
    night, same = read_recording(raw, lights_off=30, gain=2), read_recording(path, lights_off=30, gain=2)
    np.testing.assert_array_equal(night.eeg_uv, same.eeg_uv)
    about = [(r.subject, r.recording, r.start, r.notes, r.channel) for r in (night, same)]
    assert about[0] == about[1] and about[0][0] == 1
    np.testing.assert_array_equal(raw.get_data(), before)
    assert len(raw.ch_names) == 2
    with pytest.raises(ValueError, match="no channel 'C4'. Present: 'EEG Fpz-Cz', 'EMG'"):
        read_recording(raw, channel="C4")


def test_what_comes_from_no_file_is_named_by_its_user():
    night = read_recording(as_raw(steps(2)), subject=3, recording="nap")
    assert (night.subject, night.recording) == (3, "nap")
    assert read_recording(as_raw(steps(2))).recording == "unnamed"


# Arrays


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (1e-6, "factor 1e6"),
        (1e-3, "factor 1e3"),
        (1e3, "factor 1e-3"),
        (1e6, "factor 1e-6"),
    ],
)
@pytest.mark.parametrize("sfreq_hz", [100, 256])
@pytest.mark.filterwarnings("ignore:.*resampled")
def test_an_array_in_another_unit_is_refused(factor, cause, sfreq_hz):
    array = factor * steps(3, 30 * sfreq_hz).reshape(3, -1)
    with pytest.raises(ValueError, match=f"recording 'first' has a median peak-to-peak .*{cause}"):
        Recording(array, sfreq_hz, None, "anna", "first", "C4-M1")


def test_dead_epochs_do_not_tell_the_unit(tmp_path):
    """An electrode that came off for most of the night is for the quality column to say."""
    signal = steps(5)
    signal[6000:] = 0
    night = read_recording(write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": signal}))
    assert extract_features(night)["quality"].value_counts().to_dict() == {"flat": 3, "ok": 2}


def test_an_array_at_another_rate_is_resampled_with_a_message():
    array = np.sin(2 * np.pi * 10 * np.arange(4 * 7680) / 256).reshape(4, -1) * 40
    with pytest.warns(UserWarning, match="'first' was sampled at 256 Hz and is resampled") as caught:
        night = Recording(array, 256, [0, 1, 2, 3], "anna", "first", "C4-M1")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert night.sfreq_hz == 100 and night.notes == ("resampled from 256 to 100 Hz",)
    seconds = np.arange(12000) / 100
    inner = slice(100, -100)
    np.testing.assert_allclose(
        night.eeg_uv.ravel()[inner], 40 * np.sin(2 * np.pi * 10 * seconds)[inner], atol=0.4
    )


@pytest.mark.parametrize("sfreq_hz", [32, 63.9])
def test_an_array_at_too_low_a_rate_is_refused(sfreq_hz):
    with pytest.raises(ValueError, match="expected 100 Hz or at least 64"):
        Recording(np.zeros((2, round(30 * sfreq_hz))), sfreq_hz, None, "anna", "first", "C4-M1")


@pytest.mark.filterwarnings("ignore:.*resampled")
def test_lost_and_clipped_epochs_of_an_array_cost_themselves_only():
    array = steps(6, 7680).reshape(6, -1) + 200
    whole = Recording(array, 256, None, "anna", "first", "C4-M1")
    array[1], array[3, 17] = np.nan, np.inf
    array[5, 1000:1400] = array[5].max()
    night = Recording(array, 256, None, "anna", "first", "C4-M1")
    table = extract_features(night)
    assert table["quality"].tolist() == ["ok", "nan", "ok", "nan", "ok", "clipped"]
    for epoch in (0, 2, 4):
        np.testing.assert_allclose(night.eeg_uv[epoch, 100:-100], whole.eeg_uv[epoch, 100:-100], atol=1)


@pytest.mark.filterwarnings("ignore:.*resampled")
def test_a_changed_copy_of_a_night_is_judged_anew_and_keeps_what_resampling_hides():
    array = steps(3, 7680).reshape(3, -1)
    array[1, 1000:1400] = array[1].max()
    night = Recording(array, 256, None, "anna", "first", "C4-M1")
    dead = replace(night, eeg_uv=np.where(np.arange(3)[:, None] == 2, 0, night.eeg_uv))
    assert night.quality.tolist() == ["ok", "clipped", "ok"]
    assert dead.quality.tolist() == ["ok", "clipped", "zero"]
    at_100_hz = Recording(night.eeg_uv, 100, None, "anna", "first", "C4-M1")
    assert replace(at_100_hz, eeg_uv=night.eeg_uv[:1]).quality.tolist() == ["ok"]


def test_an_array_under_an_offset_says_so_once():
    night = Recording(steps(3).reshape(3, -1) + 300, 100, None, "anna", "first", "C4-M1")
    assert len(night.notes) == 1 and night.notes[0].startswith("a constant offset of 301 uV")
    assert replace(night, subject="bea").notes == night.notes


@pytest.mark.parametrize("sfreq_hz", [99.87, 128.41, 199.99])
def test_epochs_stay_in_place_where_30_s_are_no_whole_number_of_samples(sfreq_hz):
    seconds = np.arange(int(40 * 30 * sfreq_hz)) / sfreq_hz
    wave = 40 * np.sin(2 * np.pi * 1.3 * seconds) + 5 * (seconds // 30)
    with pytest.warns(UserWarning, match="resampled"):
        night = read_recording(as_raw(wave, sfreq_hz))
    assert night.n_epochs in (39, 40)  # the last may lack a part of a sample
    at_100_hz = np.arange(3000 * night.n_epochs).reshape(-1, 3000) / 100
    expected = 40 * np.sin(2 * np.pi * 1.3 * at_100_hz) + 5 * (at_100_hz // 30)
    np.testing.assert_allclose(night.eeg_uv[:, 100:-100], expected[:, 100:-100], atol=4)


# Other epoch positions


@pytest.mark.parametrize("lights_off", [77, "22:01:17", 77.0])
def test_epochs_are_counted_from_lights_off(tmp_path, lights_off):
    signal = np.concatenate([np.full(7700, 99.0), steps(10)])
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": signal})
    hypnogram = write_hypnogram(tmp_path / "h.edf", [("Sleep stage 2", 77 + 60, 90)])
    (tmp_path / "h.csv").write_text("onset,duration,stage\n137,90,N2\n")
    (tmp_path / "h.txt").write_text("W\nW\nN2\nN2\nN2\nW\n")  # lights-on came before the file's end
    for scored in (hypnogram, tmp_path / "h.csv", tmp_path / "h.txt"):
        night = read_recording(psg, scored, lights_off=lights_off)
        assert epochs_told(night) == list(range(10))
        assert night.start == EVENING + timedelta(seconds=77)
        assert np.flatnonzero(night.stages == 2).tolist() == [2, 3, 4]
    assert "epochs are counted from lights-off; the 77 s before it are left out" in night.notes


def test_lights_off_after_midnight_is_of_the_next_day(tmp_path):
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": np.resize([9.0, -9.0], 900_000)})
    assert read_recording(psg, lights_off="00:15").start == datetime(2020, 3, 2, 0, 15)


@pytest.mark.parametrize(
    ("lights_off", "message"),
    [
        ("half past ten", "is not a time of day such as '22:31:17', or seconds"),
        (float("nan"), "is not a time of day"),
        (-1, "holds 600 s from .*, expected 30 s .one epoch. or more after -1 s.*lights_off"),
        (570.5, "expected 30 s .* or more after 570.5 s"),
        ("21:59", "or more after 86340 s.*is lights_off right"),
    ],
)
def test_lights_off_outside_the_recording_is_refused(psg, lights_off, message):
    with pytest.raises(ValueError, match=message):
        read_recording(psg, lights_off=lights_off)


def test_a_hypnogram_on_a_grid_of_its_own_names_the_way_out(tmp_path, psg):
    hypnogram = write_hypnogram(
        tmp_path / "h.edf", [("Sleep stage 2", 17, 60), ("Sleep stage W", 77, 30)], EVENING
    )
    with pytest.raises(ValueError, match="All begin 17 s off the grid: lights_off=17 counts from there"):
        read_recording(psg, hypnogram)
    assert read_recording(psg, hypnogram, lights_off=17).stages[:4].tolist() == [2, 2, 0, -1]


# What was done, and what is odd


def test_notes_say_what_was_done(tmp_path):
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": np.append(steps(20), np.zeros(2900)) + 300})
    spans = [("Sleep stage W", 0, 240), ("Sleep stage 1", 240, 60), ("Movement time", 300, 60),
             ("Sleep stage 2", 360, 30)]  # fmt: skip
    night = read_recording(psg, write_hypnogram(tmp_path / "h.edf", spans), wake_margin_min=1)
    assert night.notes[:4] == (
        "the last 29 s are no whole epoch and are left out",
        "6 epochs before the night and 5 after it are left out",
        "2 epochs are movement time, '?' or alike: kept as -1",
        "2 epochs are not in the hypnogram: kept as -1",
    )
    assert night.notes[4].startswith("a constant offset of 310 uV lies under the signal (deviations: 20 uV)")
    assert load_demo().notes == ()


@pytest.mark.parametrize(
    ("factor", "unit", "cause", "gain"),
    [
        (1e-6, "uV", "volts were stored as if they were microvolts .factor 1e6", 1e6),
        (1e-3, "uV", "millivolts were stored as if they were microvolts .factor 1e3", 1e3),
        (1, "mV", "microvolts were stored as if they were millivolts .factor 1e-3", 1e-3),
        (1, "V", "microvolts were stored as if they were volts.* .factor 1e-6", 1e-6),
        (200, "uV", "an amplifier's gain was not taken off .a factor of about [0-9]e-03", 1 / 200),
    ],
)
def test_units_are_told_apart_and_the_factor_that_is_named_helps(tmp_path, factor, unit, cause, gain):
    psg = write_psg(tmp_path / "unit.edf", {"EEG Fpz-Cz": steps(3) * factor}, unit=unit)
    with pytest.raises(ValueError, match=cause):
        read_recording(psg)
    night = read_recording(psg, gain=gain)
    np.testing.assert_allclose(night.eeg_uv.ravel(), steps(3), atol=0.1)
    assert night.notes == (f"the file's values are multiplied by {gain:g}, as asked",)


@pytest.mark.parametrize(("factor", "said"), [(0.05, True), (0.5, False), (1, False), (2, False), (10, True)])
def test_an_amplifiers_gain_that_may_still_be_in_is_told(demo, tmp_path, factor, said):
    """Between what no EEG has and what is usual, nothing is refused."""
    psg = write_psg(tmp_path / "gain.edf", {"EEG Fpz-Cz": factor * demo.eeg_uv[:40].ravel()})
    amplitude_uv = factor * np.median(np.ptp(demo.eeg_uv[:40], axis=1))
    told = [note for note in read_recording(psg).notes if "an amplifier's gain" in note]
    assert len(told) == said
    assert not said or f" is {amplitude_uv:.0f} uV" in told[0]


# Aligning the hypnogram


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 5])
def test_hypnogram_is_aligned_by_the_start_times_in_the_headers(tmp_path, psg, shift):
    start = EVENING + timedelta(seconds=30 * shift)
    spans = [("Sleep stage W", 0, 120), ("Sleep stage N1", 120, 30), ("Sleep stage 4", 150, 60)]
    hypnogram = write_hypnogram(tmp_path / "hypnogram.edf", spans, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if shift < 0 else "error")
        night = read_recording(psg, hypnogram)
    expected = np.full(20, -1)
    for epoch, code in enumerate([0, 0, 0, 0, 1, 3, 3], start=shift):
        if epoch >= 0:
            expected[epoch] = code
    np.testing.assert_array_equal(night.stages, expected)


def test_hypnogram_moved_by_an_epoch_in_its_onsets_moves_the_stages(tmp_path, psg):
    hypnogram = write_hypnogram(
        tmp_path / "hypnogram.edf", [("Sleep stage 2", 30, 60), ("Sleep stage R", 120, 30)]
    )
    assert read_recording(psg, hypnogram).stages[:6].tolist() == [-1, 2, 2, -1, 4, -1]


def test_hypnogram_beyond_the_signal_is_ignored_with_a_message(tmp_path, psg):
    spans = [("Sleep stage 2", -60, 90), ("Sleep stage W", 30, 690), ("Sleep stage ?", 720, 3000)]
    hypnogram = write_hypnogram(tmp_path / "hypnogram.edf", spans)
    with pytest.warns(UserWarning, match="6 epochs are scored before .* or after") as caught:
        night = read_recording(psg, hypnogram)
    assert len(caught) == 1
    assert night.stages.tolist() == [2] + [0] * 19


def test_fragment_at_the_end_of_the_hypnogram_is_dropped(tmp_path, psg):
    spans = [("Sleep stage 2", 0, 60), ("Movement time", 60, 30), ("Sleep stage 1", 90, 47.5)]
    hypnogram = write_hypnogram(tmp_path / "hypnogram.edf", spans)
    assert read_recording(psg, hypnogram).stages[:6].tolist() == [2, 2, -1, 1, -1, -1]


def test_without_a_start_both_files_begin_together(tmp_path, psg):
    hypnogram = write_hypnogram(tmp_path / "hypnogram.edf", [("Sleep stage 2", 30, 60)])
    content = bytearray(psg.read_bytes())
    content[88:168] = b"Startdate X X X X".ljust(80)
    content[168:176] = b"xx.xx.xx"
    psg.write_bytes(content)
    with pytest.warns(UserWarning, match="gives no start"):
        night = read_recording(psg, hypnogram)
    assert night.start is None and night.clock_times() is None
    assert any("gives no start" in note for note in night.notes)
    assert night.stages[:4].tolist() == [-1, 2, 2, -1]


# Cutting long wake: epochs 8 to 11 are sleep


@pytest.fixture
def hypnogram(tmp_path):
    spans = [
        ("Sleep stage W", 90, 150),
        ("Sleep stage 1", 240, 30),
        ("Sleep stage W", 270, 60),
        ("Sleep stage R", 330, 30),
        ("Sleep stage W", 360, 120),
    ]
    return write_hypnogram(tmp_path / "hypnogram.edf", spans)


@pytest.mark.parametrize(
    ("wake_margin_min", "first", "last"),
    [(0, 8, 11), (0.5, 7, 12), (1, 6, 13), (3.5, 1, 18), (4, 0, 19), (30, 0, 19), (None, 0, 19)],
)
def test_wake_margin_keeps_exactly_these_epochs(psg, hypnogram, wake_margin_min, first, last):
    night = read_recording(psg, hypnogram, wake_margin_min=wake_margin_min)
    assert epochs_told(night) == list(range(first, last + 1))
    whole_night = np.array([-1] * 3 + [0] * 5 + [1, 0, 0, 4] + [0] * 4 + [-1] * 4)
    np.testing.assert_array_equal(night.stages, whole_night[first : last + 1])
    assert (night.start - EVENING).total_seconds() == 30 * first
    assert night.clock_times()[0] == night.start


def test_nothing_is_cut_without_hypnogram_or_without_sleep(tmp_path, psg):
    awake = write_hypnogram(tmp_path / "awake.edf", [("Sleep stage W", 300, 60)])
    assert read_recording(psg, wake_margin_min=0).n_epochs == 20
    assert read_recording(psg, awake, wake_margin_min=0).n_epochs == 20


# Bad input


def test_missing_files_are_named(tmp_path, psg):
    with pytest.raises(FileNotFoundError, match="no file .*nowhere.edf"):
        read_recording(tmp_path / "nowhere.edf")
    with pytest.raises(FileNotFoundError, match="no file .*nowhere.edf"):
        read_recording(psg, tmp_path / "nowhere.edf")


def test_what_is_not_edf_is_refused(tmp_path):
    page = tmp_path / "page.edf"
    page.write_text("<!DOCTYPE html><html>quota exceeded" + " " * 300)
    with pytest.raises(ValueError, match="not an EDF file: it begins with b'<!DOCTYPE html>"):
        read_recording(page)
    table = tmp_path / "night.csv"
    table.write_text("0,1")
    with pytest.raises(ValueError, match=r"ends in '.csv', expected one of .edf, .bdf"):
        read_recording(table)


@pytest.mark.parametrize("n_bytes", [0, 100, 300, 500])
def test_file_cut_within_its_header_is_refused(psg, n_bytes):
    psg.write_bytes(psg.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match="not an EDF file|truncated or damaged"):
        read_recording(psg)


def test_file_cut_within_its_signal_is_read_as_far_as_it_goes(psg):
    psg.write_bytes(psg.read_bytes()[: -5 * 30 * 200])
    with pytest.warns(UserWarning, match="of the 600 s that its header announces") as caught:
        night = read_recording(psg)
    assert len(caught) == 1
    assert epochs_told(night) == list(range(night.n_epochs)) and 14 <= night.n_epochs <= 15
    assert night.notes[0].startswith("the file holds 4") and "of the 600 s that its header" in night.notes[0]


def test_a_discontinuous_recording_without_times_is_refused(psg):
    content = bytearray(psg.read_bytes())
    content[192:197] = b"EDF+D"
    psg.write_bytes(content)
    with pytest.raises(ValueError, match="marked as discontinuous, and has no annotations"):
        read_recording(psg)


def test_unknown_channel_names_those_present(tmp_path, hypnogram):
    psg = write_psg(tmp_path / "two.edf", {"EEG Pz-Oz": steps(1), "EOG horizontal": steps(1)})
    with pytest.raises(ValueError, match="no channel 'EEG Fpz-Cz'. Present: 'EEG Pz-Oz', 'EOG horizontal'"):
        read_recording(psg)
    with pytest.raises(ValueError, match="Present: none .is it the hypnogram"):
        read_recording(hypnogram)


@pytest.mark.parametrize(("prefix", "asked"), [("", "C4-M1"), ("EEG ", "C4-M1"), ("EEG ", "EEG C4-M1")])
def test_a_derivation_that_was_not_recorded_is_made_as_the_error_says(tmp_path, prefix, asked):
    c4, m1 = np.random.default_rng(0).normal(0, 20, (2, 9000))
    psg = write_psg(tmp_path / "night.edf", {f"{prefix}C4": c4, f"{prefix}M1": m1})
    with pytest.raises(ValueError, match="difference of two") as refused:
        read_recording(psg, channel=asked)
    code = re.search(r"mne\.set_bipolar_reference\(.*?\)", str(refused.value))[0]
    raw = eval(code, {"mne": mne, "raw": mne.io.read_raw(psg, preload=True, verbose="error")})
    night = read_recording(raw, channel=asked)
    assert night.subject == "night" and night.channel == asked
    np.testing.assert_allclose(night.eeg_uv.ravel(), c4 - m1, atol=0.1)


def test_slow_sampling_is_refused(tmp_path):
    psg = write_psg(tmp_path / "slow.edf", {"EEG Fpz-Cz": steps(2, 30 * 63)}, sfreq_hz=63)
    with pytest.raises(ValueError, match="sampled at 63 Hz, expected 100 Hz or at least 64"):
        read_recording(psg)


def test_less_than_an_epoch_is_refused(tmp_path):
    psg = write_psg(tmp_path / "short.edf", {"EEG Fpz-Cz": steps(1)[:2900]})
    with pytest.raises(ValueError, match="holds 29 s .*, expected 30 s"):
        read_recording(psg)


@pytest.mark.parametrize(
    ("factor", "unit", "cause"),
    [(1e-6, "uV", "volts were stored as if they were microvolts"), (1, "V", "microvolts were stored as if")],
)
def test_wrong_unit_is_refused_with_its_cause(tmp_path, factor, unit, cause):
    psg = write_psg(tmp_path / "unit.edf", {"EEG Fpz-Cz": steps(3) * factor}, unit=unit)
    with pytest.raises(ValueError, match=f"peak-to-peak amplitude of .* expected 1 to 5000 uV.*{cause}"):
        read_recording(psg)


@pytest.mark.parametrize(("amplitude_uv", "fits"), [(0.49, False), (0.51, True), (2490, True), (2510, False)])
def test_bounds_of_the_amplitude(tmp_path, amplitude_uv, fits):
    square = amplitude_uv * np.resize([1.0, -1.0], 9000)
    psg = write_psg(tmp_path / "square.edf", {"EEG Fpz-Cz": square})
    if fits:
        assert read_recording(psg).n_epochs == 3
    else:
        with pytest.raises(ValueError, match="peak-to-peak"):
            read_recording(psg)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([("Sleep", 0, 30), ("Sleep stage 2", 30, 30)], "'Sleep' is no known stage"),
        ([("Sleep stage 2", 17, 60)], "begins 17 s after the signal's start"),
        ([("Sleep stage 2", 0, 20), ("Sleep stage W", 30, 30)], "lasts 20 s, expected multiples of 30 s"),
        ([("Sleep stage 2", 0, 90), ("Sleep stage W", 60, 30)], "begins at 60 s, before .* ends at 90 s"),
        ([("Sleep stage 2", 600, 90)], "scores epochs 20 to 22 .* expected some of 0 to 19"),
        ([("Sleep stage 2", 0, 29)], "expected some of 0 to 19"),
    ],
)
def test_hypnogram_that_does_not_fit_is_refused(tmp_path, psg, spans, message):
    with pytest.raises(ValueError, match=message):
        read_recording(psg, write_hypnogram(tmp_path / "hypnogram.edf", spans))


def test_hypnogram_of_another_night_or_without_stages_is_refused(tmp_path, psg):
    spans = [("Sleep stage 2", 0, 60)]
    with pytest.raises(ValueError, match="expected some of 0 to 19.*of one night"):
        read_recording(psg, write_hypnogram(tmp_path / "other.edf", spans, datetime(2020, 3, 2, 22)))
    with pytest.raises(ValueError, match="no stages.*Is it the signal"):
        read_recording(psg, psg)


@pytest.mark.parametrize("gain", [0, float("nan"), float("inf"), 1e30])
def test_a_gain_that_is_none_is_refused(psg, gain):
    with pytest.raises(ValueError, match="gain is .*, expected a number"):
        read_recording(psg, gain=gain)


@pytest.mark.parametrize("margin", [-1, float("nan")])
def test_bad_margin_is_refused(psg, margin):
    with pytest.raises(ValueError, match="expected a number of at least 0"):
        read_recording(psg, wake_margin_min=margin)


@pytest.mark.parametrize(
    ("shape", "stages", "message"),
    [
        ((3000,), None, r"shape \(3000,\), expected \(n_epochs, 3000\)"),
        ((0, 3000), None, "n_epochs >= 1"),
        ((2, 2999), None, r"\(2, 2999\)"),
        ((2, 3000), [0, 1, 2], r"\(3,\), expected \(2,\)"),
        ((2, 3000), [0, 5], "^5 is not a stage code"),
        ((2, 3000), [0, 0.5], "^0.5 is not a stage code"),
    ],
)
def test_recording_checks_its_shapes(shape, stages, message):
    with pytest.raises(ValueError, match=message):
        Recording(np.zeros(shape), 100.0, stages, "anna", "first", "C4-M1")


# Files that name others, and errors that are not a file's fault


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with what a header may point at, beside the folder of the recording."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    write_brainvision(tmp_path / "there" / "n", steps(2), [])
    steps(2)[np.newaxis].astype("<f4").T.tofile(tmp_path / "there" / "n.fdt")
    return tmp_path / "there"


@pytest.mark.parametrize("key", ["DataFile=", "MarkerFile=", "datafile = ", "DataFile: "])
@pytest.mark.parametrize("where", ["absolute", "relative", "pipe", "/dev/zero"])
def test_a_brainvision_header_reads_files_beside_it_only(tmp_path, elsewhere, key, where):
    header = write_brainvision(tmp_path / "here" / "n", steps(2), [])
    suffix = ".vmrk" if "Marker" in key else ".eeg"
    if where == "pipe":  # to open one would wait for ever
        os.mkfifo(tmp_path / "here" / f"pipe{suffix}")
    name = {
        "absolute": elsewhere / f"n{suffix}",
        "relative": f"../there/n{suffix}",
        "pipe": f"pipe{suffix}",
    }.get(where, where)
    named = f"n.vhdr names the file '.*{re.escape(str(name))}', expected a file beside it"
    text = header.read_text()
    line = "^MarkerFile=.*$" if "Marker" in key else "^DataFile=.*$"
    header.write_text(re.sub(line, f"{key}{name}", text, flags=re.MULTILINE))
    with pytest.raises(ValueError, match=named):
        read_recording(header)


def test_a_brainvision_header_states_no_more_channels_than_it_has_lines(tmp_path):
    header = write_brainvision(tmp_path / "n", steps(2), [])
    header.write_text(header.read_text().replace("Channels=1", "Channels=1000000000"), encoding="utf-8")
    with pytest.raises(ValueError, match="n.vhdr states 1000000000 channels"):
        read_recording(header)


@pytest.mark.parametrize("where", ["absolute", "relative", "pipe"])
def test_an_eeglab_file_reads_its_samples_beside_it_only(tmp_path, elsewhere, where):
    os.mkfifo(tmp_path / "here" / "pipe.fdt")
    name = {"absolute": str(elsewhere / "n.fdt"), "relative": "../there/n.fdt", "pipe": "pipe.fdt"}[where]
    psg = write_eeglab(tmp_path / "here" / "n.set", steps(2), [(700.0, "note", 1.0)], data=name)
    with pytest.raises(ValueError, match="n.set names the file .*expected a file beside it"):
        read_recording(psg)
    beside = write_eeglab(elsewhere / "n.set", steps(2), [(700.0, "note", 1.0)], data="n.fdt")
    assert epochs_told(read_recording(beside)) == [0, 1]


@pytest.mark.parametrize("error", [MemoryError("too large"), PermissionError("no"), NameError("x")])
def test_an_error_that_is_not_the_files_fault_is_not_called_damage(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    psg = write_fif(tmp_path / "night_raw.fif", steps(2), 100)
    with monkeypatch.context() as patched:
        patched.setattr(mne.io, "read_raw", fails)
        with pytest.raises(type(error)):
            read_recording(psg)
    psg = write_psg(tmp_path / "night.edf", {"EEG Fpz-Cz": steps(2)})
    monkeypatch.setattr(type(psg), "open", fails)
    with pytest.raises(type(error)):
        read_recording(psg)


@pytest.mark.parametrize("psg", [np.zeros((2, 3000)), None, 3])
def test_what_is_no_recording_says_what_to_call(psg):
    with pytest.raises(ValueError, match="expected a path or what MNE has opened; an array .*Recording"):
        read_recording(psg)


@pytest.mark.parametrize("hypnogram", [np.zeros(20), ["W"] * 20])
def test_what_is_no_hypnogram_says_where_it_belongs(psg, hypnogram):
    with pytest.raises(ValueError, match="hypnogram is of type .*expected a path; .*takes the stages"):
        read_recording(psg, hypnogram)


@pytest.mark.parametrize("start", ["2024-01-01", datetime(1, 1, 1), datetime(9999, 12, 31)])
def test_a_start_that_cannot_be_is_refused_whatever_way_a_night_came_in(start):
    with pytest.raises(ValueError, match="'n' began .*expected a datetime of 1900 to 2100"):
        Recording(steps(2).reshape(2, -1), 100, None, 1, "n", "C3", start=start)


@pytest.mark.parametrize("who", [{"subject": [1]}, {"recording": {"night": 1}}])
def test_a_person_or_night_that_is_no_name_is_refused(psg, who):
    with pytest.raises(ValueError, match="subject and recording .* expected names and numbers"):
        read_recording(psg, **who)


@pytest.mark.parametrize("rate", ["100", None, np.inf, np.nan])
def test_a_rate_that_is_no_number_is_refused(rate):
    with pytest.raises(ValueError, match="the sampling rate of recording 'n' is .*expected a number"):
        Recording(steps(2).reshape(2, -1), rate, None, 1, "n", "C3")


@pytest.mark.parametrize("text", ["BAD_boundary", "edge_boundary", "bad_acq_skip"])
def test_a_pause_is_known_however_it_is_written(text):
    raw = as_raw(steps(4))
    raw.set_annotations(mne.Annotations(30, 30, text))
    if "boundary" in text:
        with pytest.raises(ValueError, match="was paused 30 s after its first sample"):
            read_recording(raw)
    else:
        with pytest.warns(UserWarning, match="was paused: 30 s are missing"):
            night = read_recording(raw)
        assert night.quality.tolist() == ["ok", "nan", "ok", "ok"]


@pytest.mark.parametrize("night", [np.zeros((2, 3000)), "night.edf"])
def test_features_of_what_is_no_night_say_what_to_call(night):
    with pytest.raises(ValueError, match="takes a Recording, got .*read_recording.*Recording.eeg_uv"):
        extract_features(night)


def test_an_advice_names_no_parameter_that_is_not_there():
    with pytest.raises(ValueError, match="multiply the values by that factor; for a file, read_recording"):
        Recording(1e-3 * steps(3).reshape(3, -1), 100, None, "anna", "first", "C4-M1")


@pytest.mark.parametrize("options", [{"wake_margin_min": "30"}, {"gain": "2"}, {"gain": None}])
def test_parameters_of_another_type_are_refused(psg, options):
    with pytest.raises(ValueError, match="expected"):
        read_recording(psg, **options)


def test_an_endless_margin_keeps_all(psg, hypnogram):
    assert read_recording(psg, hypnogram, wake_margin_min=float("inf")).n_epochs == 20
