"""EDF headers that lie, texts in Latin-1, names that occur twice, times of records; what the reports name.

Right values are computed from the stored integers by the standard's own formula, or from the clock.
"""

import datetime
import warnings
from datetime import timedelta

import edfio
import mne
import numpy as np
import pytest

from sleepstage.recordings.recording import read_recording

DAY = datetime.date(2024, 1, 1)
EVENING = datetime.datetime(2024, 1, 1, 22)
SIGNAL_UV = 30 * np.random.default_rng(0).standard_normal(20 * 3000)
# Where a field of the header of one signal and one signal of annotations begins, and its width.
FIELDS = {
    "version": (0, 8), "recording": (88, 80), "start date": (168, 8), "start time": (176, 8),
    "size of the header": (184, 8), "kind": (192, 44), "number of data records": (236, 8),
    "duration of a data record": (244, 8), "number of signals": (252, 4), "unit": (448, 8),
    "physical minimum": (464, 8), "physical maximum": (480, 8), "digital minimum": (496, 8),
    "digital maximum": (512, 8), "number of samples": (688, 8),
}  # fmt: skip


def write(path, signal_uv=SIGNAL_UV, start=EVENING, record_s=1, notes=((0, None, "on"),), **fields):
    """An EDF+C of one channel with annotations; then fields of its header are replaced."""
    signal = edfio.EdfSignal(signal_uv, 100, label="C3", physical_dimension="uV", physical_range=(-500, 500))
    edfio.Edf(
        [signal],
        recording=edfio.Recording(startdate=start.date()),
        starttime=start.time(),
        annotations=[edfio.EdfAnnotation(*note) for note in notes],
        data_record_duration=record_s,
    ).write(path)
    return patch(path, **fields)


def patch(path, **fields):
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        place, width = FIELDS[name.replace("_", " ")]
        content[place : place + width] = value.encode("latin-1").ljust(width)
    path.write_bytes(content)
    return path


def stored(path):
    """The integers of the only signal, as the file holds them."""
    content = path.read_bytes()
    n_records = int(content[236:244])
    records = np.frombuffer(content[int(content[184:192]) :], "<i2").reshape(n_records, -1)
    return records[:, :100].ravel()


def retime(path, onsets_s):
    """Give the records other times than they have."""
    content = bytearray(path.read_bytes())
    n_header, n_records = int(content[184:192]), int(content[236:244])
    width = (len(content) - n_header) // n_records
    first = 2 * int(content[688:696])
    for record, onset_s in zip(range(n_records), onsets_s, strict=True):
        place, end = n_header + record * width + first, n_header + (record + 1) * width
        content[place:end] = f"+{onset_s:.3f}\x14\x14".encode().ljust(end - place, b"\0")
    path.write_bytes(content)
    return path


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_recording(*arguments, channel="C3", wake_margin_min=None, **options)


# Scaling


@pytest.mark.parametrize(
    ("unit", "low", "high", "per_uv"),
    [
        ("uV", "-500", "500", 1),
        ("uV", "500", "-500", 1),  # a channel stored upside down is turned
        ("mV", "-0.5", "0.5", 1e3),
        ("V", "-0.0005", "0.0005", 1e6),
        ("nV", "-500000", "500000", 1e-3),
        ("uv", "-500", "500", 1),
        ("UV", "-500", "500", 1),
        ("\xb5V", "-500", "500", 1),
        ("\xc2\xb5V", "-500", "500", 1),  # UTF-8
        ("\xce\xbcV", "-500", "500", 1),  # a Greek mu in UTF-8
    ],
)
def test_stored_integers_become_microvolts_by_the_formula(tmp_path, unit, low, high, per_uv):
    path = write(tmp_path / "n.edf", unit=unit, physical_minimum=low, physical_maximum=high)
    scale = (float(high) - float(low)) / 65535
    expected = per_uv * (float(low) + (stored(path).astype(float) + 32768) * scale)
    np.testing.assert_allclose(quiet(path).eeg_uv.ravel(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"physical_minimum": "0", "physical_maximum": "0"}, "scale of 'C3' is .*0 to 0"),
        ({"physical_minimum": "500"}, "scale of 'C3' is .*500 to 500 for stored -32768 to 32767"),
        ({"physical_minimum": "0", "physical_maximum": "0", "unit": "mV"}, "scale of 'C3'"),
        ({"digital_minimum": "0", "digital_maximum": "0"}, "scale of 'C3' is .*stored 0 to 0"),
        ({"physical_minimum": "nan"}, "physical minimum of 'C3' is 'nan', expected a number"),
        ({"physical_maximum": "9e99"}, "physical maximum of 'C3' is '9e99', expected a number"),
        ({"digital_maximum": "3_2767"}, "digital maximum of 'C3' is '3_2767', expected a number"),
        ({"duration_of_a_data_record": "0"}, "duration of a data record is '0', expected seconds above 0"),
        ({"duration_of_a_data_record": "1_0"}, "duration of a data record is '1_0', expected a number"),
        ({"duration_of_a_data_record": "-1"}, "duration of a data record is '-1', expected seconds above"),
        ({"number_of_samples": "0"}, "number of samples of 'C3' in a data record is 0"),
        ({"number_of_samples": "-5"}, "number of samples in a data record is '-5', expected a whole number"),
        ({"number_of_signals": "3"}, "size of the header is 768, expected 1024 bytes for 3 signals"),
        ({"number_of_signals": "+2"}, "number of signals is '.2', expected a whole number"),
        ({"size_of_the_header": "1_024"}, "size of the header is '1_024', expected a whole number"),
        ({"number_of_data_records": "x"}, "number of data records is 'x', expected a number"),
        ({"start_time": "24.00.00"}, "start time is '24.00.00', expected hours to 23"),
        ({"start_time": "22.60.00"}, "start time is '22.60.00', expected hours to 23"),
        ({"start_date": "31.02.24", "recording": ""}, "start date is '31.02.24', expected a day"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_it_holds(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_recording(write(tmp_path / "n.edf", **fields), channel="C3")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("date", "clock", "start"),
    [
        ("01.01.24", "22.00.00", EVENING),
        ("01/01/24", "22:00:00", EVENING),
        ("01.01.85", "22.00.00", datetime.datetime(1985, 1, 1, 22)),
        ("00.00.00", "00.00.00", None),  # anonymous
        ("01.01.yy", "22.00.00", None),
        ("X", "22.00.00", None),
        ("", "", None),
    ],
)
def test_a_start_is_read_or_unknown(tmp_path, date, clock, start):
    path = write(tmp_path / "n.edf", start_date=date, start_time=clock, recording="", kind="")
    assert quiet(path).start == start


def test_the_number_of_records_is_what_the_file_holds(tmp_path):
    """-1 stands for a recording that was not closed."""
    assert quiet(write(tmp_path / "n.edf", number_of_data_records="-1")).n_epochs == 20
    with pytest.warns(UserWarning, match="holds 600 s, and its header announces 60 s: all is used"):
        night = read_recording(write(tmp_path / "n.edf", number_of_data_records="60"), channel="C3")
    assert night.n_epochs == 20 and any("announces 60 s" in note for note in night.notes)


# Names and Latin-1


def test_two_channels_of_one_name_are_numbered_and_read(tmp_path):
    """mne-python #3890, #5072, #12518."""
    signals = [
        edfio.EdfSignal(sd * SIGNAL_UV / 30, 100, label=label, physical_dimension="uV")
        for label, sd in (("EEG C3-M2", 10), ("EEG C3-M2", 40), ("EOG", 20))
    ]
    edfio.Edf(signals).write(tmp_path / "n.edf")
    for channel, sd in (("EEG C3-M2-0", 10), ("EEG C3-M2-1", 40), ("EOG", 20)):
        assert read_recording(tmp_path / "n.edf", channel=channel).eeg_uv.std() == pytest.approx(sd, rel=0.01)
    with pytest.raises(ValueError, match="Present: 'EEG C3-M2-0', 'EEG C3-M2-1', 'EOG'"):
        read_recording(tmp_path / "n.edf", channel="EEG C3-M2")
    edfio.Edf([*signals[:2], edfio.EdfSignal(SIGNAL_UV, 100, label="EEG C3-M2-0")]).write(tmp_path / "m.edf")
    with pytest.raises(ValueError, match="has 2 channels 'EEG C3-M2-0'"):
        read_recording(tmp_path / "m.edf", channel="EEG C3-M2-0")
    for wrong in (["EOG"], 0, None, "eog"):
        with pytest.raises(ValueError, match="has no channel .*Present"):
            read_recording(tmp_path / "n.edf", channel=wrong)


def test_remarks_and_names_in_latin_1_cost_nothing(tmp_path):
    """mne-python #11135, #5943."""
    path = write(tmp_path / "n.edf", notes=[(5, None, "Tür geöffnet")])
    plain = quiet(path)
    content = path.read_bytes().replace("ü".encode(), b"\xfc ").replace("ö".encode(), b"\xf6 ")
    path.write_bytes(content[:8] + "X M X Hélène".encode("latin-1").ljust(80) + content[88:])
    night = quiet(path)
    np.testing.assert_array_equal(night.eeg_uv, plain.eeg_uv)
    assert night.start == EVENING


# Times


def write_hypnogram(path, spans, start=EVENING):
    annotations = [edfio.EdfAnnotation(onset, duration, text) for text, onset, duration in spans]
    about = edfio.Recording(startdate=start.date())
    edfio.Edf([], recording=about, starttime=start.time(), annotations=annotations).write(path)
    return path


HALVES = (("Sleep stage W", 0, 300), ("Sleep stage N2", 300, 300))


def later(seconds, spans=HALVES):
    return [(text, onset + seconds, duration) for text, onset, duration in spans]


@pytest.mark.parametrize("opened", [False, True])
def test_a_half_second_of_the_start_is_kept(tmp_path, opened):
    """mne-python #6091: a hypnogram exactly on the first sample fits, and one half a second off does not."""
    half = EVENING + timedelta(seconds=0.5)
    path = write(tmp_path / "n.edf", start=half)
    psg = mne.io.read_raw(path, verbose="error") if opened else path
    for spans, start in ((HALVES, half), (later(0.5), EVENING)):
        night = quiet(psg, write_hypnogram(tmp_path / "h.edf", spans, start))
        assert night.start == half and night.stages.tolist() == [0] * 10 + [2] * 10
    with pytest.raises(ValueError, match="begins -0.5 s after the signal's start.*lights_off=29.5"):
        quiet(psg, write_hypnogram(tmp_path / "h.edf", HALVES))


def test_dates_that_are_years_apart_are_both_named(tmp_path):
    path = write(tmp_path / "n.edf")
    old = write_hypnogram(tmp_path / "h.edf", HALVES, EVENING.replace(year=1985))
    with pytest.raises(ValueError, match="begins at 1985-01-01 22:00:00.* the signal at 2024-01-01 22:00:00"):
        quiet(path, old)
    when_scored = write_hypnogram(tmp_path / "h.edf", HALVES, datetime.datetime(2024, 1, 2, 9, 30))
    with pytest.raises(ValueError, match="epochs 1380 to 1399 .*write it as a table"):
        quiet(path, when_scored)
    before = EVENING - timedelta(minutes=5)
    night = quiet(path, write_hypnogram(tmp_path / "h.edf", later(300), before))
    assert night.stages.tolist() == [0] * 10 + [2] * 10


@pytest.mark.parametrize("kind", ["EDF+D", "EDF+C"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_first_record_that_begins_late_moves_the_start(tmp_path, kind, opened):
    path = retime(write(tmp_path / "n.edf", record_s=30, kind=kind), 60 + 30.0 * np.arange(20))
    spans = write_hypnogram(tmp_path / "h.edf", later(60))
    psg = mne.io.read_raw(path, verbose="error") if opened else path
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        night = read_recording(psg, spans, channel="C3", wake_margin_min=None)
    assert night.start == EVENING + timedelta(seconds=60)
    assert night.stages.tolist() == [0] * 10 + [2] * 10
    assert opened or any("began 60 s after" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("kind", ["EDF+D", "EDF+C"])
def test_records_with_a_gap_are_laid_by_the_clock_whatever_the_header_calls_them(tmp_path, kind):
    onsets_s = 30.0 * np.arange(20) + 300 * (np.arange(20) >= 10)
    path = retime(write(tmp_path / "n.edf", record_s=30, kind=kind), onsets_s)
    (tmp_path / "h.csv").write_text("onset,duration,stage\n0,300,W\n600,300,N3\n")
    with pytest.warns(UserWarning, match="was paused: 300 s are missing"):
        night = read_recording(path, tmp_path / "h.csv", channel="C3", wake_margin_min=None)
    assert night.stages.tolist() == [0] * 10 + [-1] * 10 + [3] * 10
    assert (night.quality == "nan").tolist() == [False] * 10 + [True] * 10 + [False] * 10
    np.testing.assert_array_equal(
        np.delete(night.eeg_uv, np.s_[10:20], axis=0), quiet(write(tmp_path / "whole.edf")).eeg_uv
    )


@pytest.mark.parametrize("onsets_s", [np.zeros(20), np.full(20, 22.5)])
def test_a_file_without_pauses_whose_records_have_no_times_is_read(tmp_path, onsets_s):
    night = quiet(retime(write(tmp_path / "n.edf", record_s=30), onsets_s - onsets_s[0]))
    assert night.n_epochs == 20 and night.start == EVENING


def test_small_steps_between_records_may_not_add_up_to_seconds(tmp_path):
    path = write(tmp_path / "n.edf", kind="EDF+D")
    assert quiet(retime(path, 1.001 * np.arange(600))).n_epochs == 20  # .6 s, as two clocks drift apart
    with pytest.raises(ValueError, match="1.01 s apart.*duration of a data record is 1 s. Correct it"):
        quiet(retime(path, 1.01 * np.arange(600)))


def test_pauses_longer_than_a_day_in_all_are_refused(tmp_path):
    onsets_s = 30.0 * np.arange(20) + 80_000 * (np.arange(20) >= 10) + 80_000 * (np.arange(20) >= 15)
    with pytest.raises(ValueError, match="paused 2 times for 160000 s in all, expected at most a day"):
        quiet(retime(write(tmp_path / "n.edf", record_s=30), onsets_s))


def test_a_hypnogram_that_is_cut_or_damaged_loses_no_stage_silently(tmp_path):
    path, hypnogram = write(tmp_path / "n.edf"), write_hypnogram(tmp_path / "h.edf", HALVES)
    content = hypnogram.read_bytes()
    hypnogram.write_bytes(content[:-2])
    with pytest.raises(ValueError, match="holds 0 of the 1 data records"):
        quiet(path, hypnogram)
    hypnogram.write_bytes(content.replace(b"+300\x15", b"+3x0\x15"))
    with pytest.raises(ValueError, match="3x0.* is no annotation"):
        quiet(path, hypnogram)


def test_a_false_size_is_refused_before_it_takes_memory(tmp_path):
    """A file of zeros that takes no place on the disk may seem to be of any size."""
    path = write(tmp_path / "n.edf", number_of_data_records="-1")
    with path.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match="size of the annotations|number of samples"):
        quiet(path)
