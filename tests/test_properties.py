"""Whatever comes in: a result, or an error that says what is wrong; and never a hypnogram that has slipped.

Every kind of input below has its own generator, and `KINDS` says how many of each are tried. In the nights
made here, an epoch tells its number by its level, and its stage follows from its number, so that a stage that
stands at another epoch than its own is seen.
"""

from __future__ import annotations

import functools
import pickle
import time
import warnings
from datetime import UTC, datetime, timedelta

import edfio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sleepstage as ss
from sleepstage.dataset import contest
from sleepstage.dataset.table import load_table, save_table
from sleepstage.features.extract import extract_features
from sleepstage.recordings.dictionary import load_dictionary, save_dictionary
from sleepstage.recordings.hypnogram import align_stages
from sleepstage.recordings.quality import epoch_quality
from sleepstage.recordings.recording import Recording, read_recording

EVENING = datetime(2020, 3, 1, 22, 0, 0)
DEMO_START = datetime(1989, 4, 25, 0, 13, 30, tzinfo=UTC)
TEXTS = ("Sleep stage W", "Sleep stage 1", "Sleep stage 2", "Sleep stage 3", "Sleep stage R")
CHANNEL = "EEG Fpz-Cz"
LEVEL_UV = 8  # from one epoch to the next
SLOWEST_S = 30  # what takes longer hangs
TRUE_STAGES = np.random.default_rng(5).integers(0, 5, 64)


def stage_of(epoch):
    return TRUE_STAGES[np.asarray(epoch) % 64]


def levels_uv(n_epochs, sfreq_hz=100, seed=0):
    """Noise of 20 uV around LEVEL_UV times the epoch's number, (n_epochs, n_samples)."""
    noise = np.random.default_rng(seed).normal(0, 20, (n_epochs, 30 * sfreq_hz))
    return noise - noise.mean(axis=1, keepdims=True) + LEVEL_UV * np.arange(n_epochs)[:, None]


def write_psg(path, signal_uv, sfreq_hz=100, unit="uV", start=EVENING, name=CHANNEL):
    make = edfio.BdfSignal if path.suffix == ".bdf" else edfio.EdfSignal
    whole = edfio.Bdf if path.suffix == ".bdf" else edfio.Edf
    signals = [make(signal_uv, sfreq_hz, label=name, physical_dimension=unit)]
    header = {"recording": edfio.Recording(startdate=start.date()), "starttime": start.time()}
    whole(signals, data_record_duration=1, **header).write(path)
    return path


def write_hypnogram(path, spans, start=EVENING):
    annotations = [edfio.EdfAnnotation(onset, duration, text) for text, onset, duration in spans]
    header = {"recording": edfio.Recording(startdate=start.date()), "starttime": start.time()}
    edfio.Edf([], annotations=annotations, **header).write(path)
    return path


def spans_of(epochs):
    return [(TEXTS[stage_of(epoch)], 30 * epoch, 30) for epoch in epochs]


def tried(call, *arguments, **named):
    """The result, or None after an error that explains itself; either of them soon."""
    started = time.perf_counter()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            result = call(*arguments, **named)
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error)) > 30 and " " in str(error), f"not much of an explanation: {error}"
            result = None
    assert time.perf_counter() - started < SLOWEST_S
    return result


def check_stages(night, gain=1.0, offset_uv=0.0, first=0):
    """Every epoch with a stage has the one of the number that its signal tells."""
    told = np.rint((night.eeg_uv.mean(axis=1) / gain - offset_uv) / LEVEL_UV).astype(int)
    assert (np.diff(told) == 1).all()
    scored = night.stages != -1
    np.testing.assert_array_equal(night.stages[scored], stage_of(told[scored] + first))
    return told


# ---------------------------------------------------------------- a kind a function: draw(strategy), folder


def rates(draw, folder):
    sfreq_hz, n = draw(st.integers(20, 600)), draw(st.integers(1, 4))
    psg = write_psg(folder / "night.edf", levels_uv(n, sfreq_hz).ravel(), sfreq_hz)
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(n))))
    assert (night is None) == (sfreq_hz < 64)
    if night:
        assert check_stages(night).tolist() == list(range(n))


def lengths(draw, folder):
    n_seconds = draw(st.integers(1, 200))
    signal = levels_uv(7).ravel()[: 100 * n_seconds]
    night = tried(read_recording, write_psg(folder / "night.edf", signal))
    assert (night is None) == (n_seconds < 30)
    assert night is None or night.n_epochs == n_seconds // 30


def lengths_resampled(draw, folder):
    n_seconds, sfreq_hz = draw(st.integers(1, 130)), draw(st.sampled_from([64, 99, 128, 200, 250, 256, 512]))
    signal = levels_uv(5, sfreq_hz).ravel()[: sfreq_hz * n_seconds]
    night = tried(read_recording, write_psg(folder / "night.edf", signal, sfreq_hz))
    assert (night is None) == (n_seconds < 30)
    if night:
        assert night.n_epochs == n_seconds // 30 and len(night.quality) == night.n_epochs


def offsets(draw, folder):
    offset_uv = draw(st.floats(-2000, 2000))
    psg = write_psg(folder / "night.edf", levels_uv(4).ravel() + offset_uv)
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(4))))
    check_stages(night, offset_uv=offset_uv)
    if abs(offset_uv) > 60:
        assert any("constant offset" in note for note in night.notes)


def true_units(draw, folder):
    unit, scale = draw(st.sampled_from([("uV", 1), ("mV", 1e-3), ("V", 1e-6)]))
    larger = draw(st.floats(0.2, 10))
    psg = write_psg(folder / "night.edf", levels_uv(3).ravel() * scale * larger, unit=unit)
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(3))))
    assert check_stages(night, gain=larger).tolist() == [0, 1, 2]


def wrong_units(draw, folder):
    factor = draw(st.sampled_from([1e-6, 1e-3, 1e2, 1e3])) * draw(st.floats(0.5, 3))
    psg = write_psg(folder / "night.edf", levels_uv(3).ravel() * factor)
    assert tried(read_recording, psg) is None
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(3))), gain=1 / factor)
    assert check_stages(night).tolist() == [0, 1, 2]


def gains(draw, folder):
    gain = draw(st.floats(allow_nan=True, allow_infinity=True))
    night = tried(read_recording, write_psg(folder / "night.edf", levels_uv(2).ravel()), gain=gain)
    if night:
        assert 1 <= np.median(np.ptp(night.eeg_uv, axis=1)) <= 5000


def formats(draw, folder):
    name, n = draw(st.sampled_from(["a.edf", "a.bdf", "a.EDF"])), draw(st.integers(1, 5))
    psg = write_psg(folder / name.lower(), levels_uv(n).ravel()).rename(folder / name)
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(n))))
    assert check_stages(night).tolist() == list(range(n))


def channels(draw, folder):
    psg = write_psg(folder / "night.edf", levels_uv(1).ravel())
    asked = draw(st.text(max_size=20))
    night = tried(read_recording, psg, channel=asked)
    assert (night is None) == (asked != CHANNEL)


def starts_on_the_grid(draw, folder):
    shift = draw(st.integers(-8, 8))
    psg = write_psg(folder / "night.edf", levels_uv(6).ravel())
    start = EVENING + timedelta(seconds=30 * shift)
    spans = [(text, onset - 30 * shift, length) for text, onset, length in spans_of(range(6))]
    spans = [span for span in spans if span[1] >= 0]
    if spans:
        check_stages(tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans, start)))


def starts_off_the_grid(draw, folder):
    seconds = draw(st.integers(-100, 100))
    psg = write_psg(folder / "night.edf", levels_uv(6).ravel())
    hypnogram = write_hypnogram(folder / "h.edf", spans_of(range(6)), EVENING + timedelta(seconds=seconds))
    night = tried(read_recording, psg, hypnogram)
    assert (night is None) == (seconds % 30 != 0)
    if night:
        check_stages(night, first=-(seconds // 30))


def starts_unknown(draw, folder):
    psg = write_psg(folder / "night.edf", levels_uv(6).ravel())
    content = bytearray(psg.read_bytes())
    content[88:184] = draw(st.binary(min_size=96, max_size=96))  # the recording's name, date and time
    psg.write_bytes(content)
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans_of(range(6))))
    if night and (night.start is None or night.start == EVENING):
        check_stages(night)


def missing_stages(draw, folder):
    present = sorted(draw(st.sets(st.integers(0, 9), min_size=1)))
    marked = draw(st.sets(st.integers(0, 9)))
    spans = [
        (draw(st.sampled_from(["Sleep stage ?", "Movement time"])) if epoch in marked else text, *rest)
        for epoch, (text, *rest) in zip(present, spans_of(present), strict=True)
    ]
    psg = write_psg(folder / "night.edf", levels_uv(10).ravel())
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans), wake_margin_min=None)
    check_stages(night)
    scored = [epoch for epoch in present if epoch not in marked]
    assert np.flatnonzero(night.stages != -1).tolist() == scored
    counted = {note.split()[0] for note in night.notes if "kept as -1" in note}
    expected = {len(set(present) & marked), 10 - len(present)} - {0}
    assert counted == {str(number) for number in expected}


def beyond_the_ends(draw, folder):
    first, n = draw(st.integers(-6, 12)), draw(st.integers(1, 20))
    psg = write_psg(folder / "night.edf", levels_uv(8).ravel())
    hypnogram = write_hypnogram(folder / "h.edf", spans_of(range(first, first + n)))
    night = tried(read_recording, psg, hypnogram, wake_margin_min=None)
    inside = range(max(0, first), min(8, first + n))
    assert (night is None) == (len(inside) == 0)
    if night:
        check_stages(night)
        assert np.flatnonzero(night.stages != -1).tolist() == list(inside)


def any_spans(draw, folder):
    span = st.tuples(
        st.sampled_from([*TEXTS, "Sleep stage ?", "Lights on"]),
        st.one_of(st.integers(-5, 20).map(lambda k: 30 * k), st.floats(-500, 1e9)),
        st.one_of(st.none(), st.integers(0, 5).map(lambda k: 30 * k), st.floats(0, 1e9)),
    )
    hypnogram = write_hypnogram(folder / "h.edf", draw(st.lists(span, min_size=1, max_size=6)))
    result = tried(align_stages, hypnogram, EVENING.replace(tzinfo=UTC), 10)
    if result is not None:
        assert set(result[0].tolist()) <= {-1, 0, 1, 2, 3, 4}


def merged_spans(draw, folder):
    """Spans of several epochs of one stage, as most programs write them, in seconds as text."""
    borders = [0, *sorted(draw(st.sets(st.integers(1, 11)))), 12]
    stages = [draw(st.integers(0, 4)) for _ in borders[1:]]
    mark = draw(st.sampled_from([",", ";", "\t"]))
    rows = [("onset", "duration", "stage")] + [
        (f"{30.0 * a}", f"{30 * (b - a)}", ss.STAGES[stage])
        for a, b, stage in zip(borders, borders[1:], stages, strict=False)
    ]
    (folder / "h.csv").write_text("\n".join(mark.join(row) for row in rows))
    laid, marked, _ = tried(align_stages, folder / "h.csv", None, 12)
    assert laid.tolist() == np.repeat(stages, np.diff(borders)).tolist() and not marked.any()


def any_times_as_text(draw, folder):
    number = st.one_of(
        st.integers(-3, 12).map(lambda k: str(30 * k)),
        st.floats().map(str),
        st.sampled_from(["", "1e13", "1e99", "x"]),
    )
    rows = draw(st.lists(st.tuples(number, number, st.sampled_from([*ss.STAGES, "N9", "?"])), max_size=5))
    lines = ["onset,duration,stage", *(",".join(row) for row in rows)]
    (folder / "h.csv").write_text("\n".join(lines))
    tried(align_stages, folder / "h.csv", None, 10)


def one_stage_a_line(draw, folder):
    n_epochs, n_lines = draw(st.integers(1, 10)), draw(st.integers(1, 16))
    spelling = draw(st.sampled_from([str, lambda k: ss.STAGES[k], lambda k: TEXTS[k].upper()]))
    (folder / "h.txt").write_text("\n".join(spelling(int(stage_of(epoch))) for epoch in range(n_lines)))
    result = tried(align_stages, folder / "h.txt", None, n_epochs)
    other_lengths = [length for length in (20, 10, 5, 1) if 0 <= length * n_lines - 30 * n_epochs <= 30]
    is_one_each = n_lines in (n_epochs, n_epochs + 1)
    assert (result is not None) == (is_one_each or other_lengths != [])
    if is_one_each:
        assert result[0].tolist() == stage_of(range(n_epochs)).tolist()


def any_text(draw, folder):
    (folder / "h.txt").write_text(draw(st.text(max_size=200)), encoding="utf-8")
    tried(align_stages, folder / "h.txt", None, 10)


def any_bytes_as_hypnogram(draw, folder):
    path = folder / draw(st.sampled_from(["h.txt", "h.edf", "h.csv", "h.bdf"]))
    path.write_bytes(draw(st.sampled_from([b"", b"0       "])) + draw(st.binary(max_size=400)))
    tried(align_stages, path, None, 10)


def any_bytes_as_recording(draw, folder):
    path = folder / draw(st.sampled_from(["a.edf", "a.bdf", "a.fif", "a.vhdr", "a.set", "a.gdf", "a.cnt"]))
    beginning = draw(st.sampled_from([b"", b"0       ", b"\xffBIOSEMI", b"GDF 1.25", b"Version 3.0"]))
    path.write_bytes(beginning + draw(st.binary(max_size=600)))
    assert tried(read_recording, path) is None


def wake_margins(draw, folder):
    asleep = sorted(draw(st.sets(st.integers(0, 11), max_size=4)))
    margin_min = draw(st.one_of(st.none(), st.floats(0, 8)))
    spans = [("Sleep stage 2" if epoch in asleep else "Sleep stage W", 30 * epoch, 30) for epoch in range(12)]
    psg = write_psg(folder / "night.edf", levels_uv(12).ravel())
    night = tried(read_recording, psg, write_hypnogram(folder / "h.edf", spans), wake_margin_min=margin_min)
    told = np.rint(night.eeg_uv.mean(axis=1) / LEVEL_UV).astype(int)
    margin = 12 if margin_min is None or not asleep else int(2 * margin_min)
    first, last = max(0, min(asleep, default=0) - margin), min(11, max(asleep, default=11) + margin)
    assert told.tolist() == list(range(first, last + 1))
    assert np.flatnonzero(night.stages == 2).tolist() == [epoch - first for epoch in asleep]


def lights_off_in_seconds(draw, folder):
    seconds = draw(st.one_of(st.integers(0, 200), st.floats(-50, 400), st.just(float("nan"))))
    before = np.full(round(100 * seconds) if 0 <= seconds <= 200 else 0, 777.0)
    psg = write_psg(folder / "night.edf", _whole_seconds(np.append(before, levels_uv(6).ravel())))
    (folder / "h.txt").write_text("\n".join(str(stage_of(epoch)) for epoch in range(4)))
    night = tried(read_recording, psg, folder / "h.txt", lights_off=seconds, wake_margin_min=None)
    if len(before):
        assert check_stages(night)[0] == 0
        assert (night.stages != -1).tolist() == [True] * 4 + [False] * (night.n_epochs - 4)


def _whole_seconds(signal):
    """Without what edfio would pad: EDF stores whole records."""
    return np.append(signal, np.full(-len(signal) % 100, LEVEL_UV * 6.0))


def lights_off_by_the_clock(draw, folder):
    seconds = draw(st.integers(0, 300))
    moment = EVENING + timedelta(seconds=seconds)
    signal = np.append(np.full(100 * seconds, 777.0), levels_uv(5).ravel())
    hypnogram = write_hypnogram(folder / "h.edf", spans_of(range(5)), moment)
    night = tried(
        read_recording, write_psg(folder / "n.edf", signal), hypnogram, lights_off=f"{moment:%H:%M:%S}"
    )
    assert night.start == moment and check_stages(night).tolist() == list(range(5))


def any_lights_off(draw, folder):
    psg = write_psg(folder / "night.edf", levels_uv(4).ravel())
    night = tried(
        read_recording, psg, lights_off=draw(st.one_of(st.text(max_size=9), st.floats(), st.booleans()))
    )
    assert night is None or 1 <= night.n_epochs <= 4


def cut_off(draw, folder):
    psg = write_psg(folder / "night.edf", levels_uv(6).ravel())
    hypnogram = write_hypnogram(folder / "h.edf", spans_of(range(6)))
    psg.write_bytes(psg.read_bytes()[: draw(st.integers(0, psg.stat().st_size))])
    night = tried(read_recording, psg, hypnogram)
    if night:
        assert check_stages(night).tolist() == list(range(night.n_epochs))


def cut_off_hypnogram(draw, folder):
    whole = ss.demo_paths()[1].read_bytes()
    (folder / "h.edf").write_bytes(whole[: draw(st.integers(0, len(whole)))])
    result = tried(align_stages, folder / "h.edf", DEMO_START, 841)
    if result is not None:
        stages, truth = result[0], _demo().stages
        assert (stages[stages != -1] == truth[stages != -1]).all()


def the_real_night_cut_off(draw, folder):
    psg, hypnogram = ss.demo_paths()
    whole, truth = psg.read_bytes(), _demo()
    (folder / "night.edf").write_bytes(whole[: draw(st.integers(0, len(whole)))])
    night = tried(read_recording, folder / "night.edf", hypnogram, wake_margin_min=None)
    if night:
        np.testing.assert_array_equal(night.eeg_uv, truth.eeg_uv[: night.n_epochs])
        np.testing.assert_array_equal(night.stages, truth.stages[: night.n_epochs])


@functools.cache
def _demo():
    return ss.load_demo()


def damaged_header(draw, folder):
    psg = write_psg(folder / "night.edf", levels_uv(3).ravel())
    content = bytearray(psg.read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, 511))] = draw(st.integers(0, 255))
    psg.write_bytes(content)
    night = tried(read_recording, psg)
    assert night is None or night.n_epochs >= 1


def damaged_numbers_in_the_header(draw, folder):
    """The fields that say how much there is: records, their length, signals, samples, scaling."""
    psg = write_psg(folder / "night.edf", levels_uv(3).ravel())
    content = bytearray(psg.read_bytes())
    place, width = draw(
        st.sampled_from(
            [(184, 8), (236, 8), (244, 8), (252, 4), (360, 8), (368, 8), (376, 8), (384, 8), (472, 8)]
        )
    )
    text = draw(
        st.one_of(st.integers(-9999, 9_999_999).map(str), st.sampled_from(["", "nan", "1e9", "0", "-1"]))
    )
    content[place : place + width] = text[:width].ljust(width).encode()
    psg.write_bytes(content)
    tried(read_recording, psg)


def damaged_hypnogram(draw, folder):
    content = bytearray(ss.demo_paths()[1].read_bytes())
    for _ in range(draw(st.integers(1, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    (folder / "h.edf").write_bytes(content)
    tried(align_stages, folder / "h.edf", DEMO_START, 841)


def bad_stretches(draw, folder):
    """Flat, held at a limit, or not a number, for some seconds somewhere in a night of arrays."""
    x = levels_uv(4)
    kind, epoch = draw(st.sampled_from(["nan", "flat", "limit"])), draw(st.integers(0, 3))
    first, seconds = draw(st.integers(0, 22)), draw(st.integers(1, 8))
    value = {"nan": np.nan, "flat": x[epoch].mean(), "limit": x[epoch].max() + 1}[kind]
    x[epoch, 100 * first : 100 * (first + seconds)] = value
    quality = epoch_quality(x)
    expected = {"nan": "nan", "limit": "clipped", "flat": "disconnected" if seconds >= 5 else "ok"}[kind]
    assert [quality[i] for i in range(4) if i != epoch] == ["ok"] * 3 and quality[epoch] == expected
    table = extract_features(Recording(x, 100.0, stage_of(range(4)), 1, "a", CHANNEL))
    bad = table[ss.feature_columns(table)].isna().all(axis=1)
    assert bad.tolist() == [word != "ok" for word in quality] and table["stage"].tolist() == list(
        stage_of(range(4))
    )


def clipped_at_other_rates(draw, folder):
    sfreq_hz, epoch = draw(st.sampled_from([128, 200, 256])), draw(st.integers(0, 2))
    x = levels_uv(3, sfreq_hz)
    low, high = np.quantile(x[epoch], [0.05, 0.95])
    x[epoch] = np.clip(x[epoch], low, high)
    x[epoch, 100:300] = high
    night = tried(read_recording, write_psg(folder / "night.edf", x.ravel(), sfreq_hz))
    assert night.quality.tolist() == ["clipped" if i == epoch else "ok" for i in range(3)]


def shapes_of_recordings(draw, folder):
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    n_samples = draw(st.sampled_from([2999, 3000, 3001]))
    stages = draw(st.one_of(st.none(), st.lists(st.one_of(st.integers(-3, 9), st.floats()), max_size=5)))
    sfreq_hz = draw(st.one_of(st.just(100.0), st.floats()))
    night = tried(Recording, np.zeros([*shape, n_samples]), sfreq_hz, stages, 1, "a", "C4")
    if night:
        assert night.eeg_uv.shape == (*shape, round(30 * sfreq_hz)) and len(shape) == 1


def units_of_dictionaries(draw, folder):
    factor = draw(st.sampled_from([1e-6, 1e-3, 1, 1e3, 1e6])) * draw(st.floats(0.5, 3))
    (folder / "n.npz").unlink(missing_ok=True)
    np.savez(folder / "n.npz", EEG_signals=levels_uv(3) * factor, labels=stage_of(range(3)))
    night = tried(load_dictionary, folder / "n.npz")
    assert (night is not None) == (0.1 < factor < 10)
    if night:
        check_stages(night, gain=factor)


def any_dictionary(draw, folder):
    value = st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)
        ),
        max_leaves=6,
    )
    content = {"EEG_signals": draw(value), "labels": draw(value)}
    (folder / "n.pkl").write_bytes(pickle.dumps(content, draw(st.integers(2, 5))))
    assert tried(load_dictionary, folder / "n.pkl") is None


def damaged_dictionary(draw, folder):
    suffix = draw(st.sampled_from([".npz", ".pkl"]))
    night = Recording(levels_uv(2), 100.0, stage_of(range(2)), 1, "a", CHANNEL)
    path = save_dictionary(night, folder / f"n{suffix}")
    content = bytearray(path.read_bytes())
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content) - 1))]
    else:
        place = draw(st.one_of(st.integers(0, 300), st.integers(0, len(content) - 1)))
        content[min(place, len(content) - 1)] ^= draw(st.integers(1, 255))
    path.write_bytes(content)
    again = tried(load_dictionary, path)
    assert again is None or again.eeg_uv.shape == (2, 3000)


def damaged_table(draw, folder):
    table = extract_features(Recording(levels_uv(2), 100.0, stage_of(range(2)), 1, "a", CHANNEL))
    path = save_table(table, folder / "t.npz")
    content = bytearray(path.read_bytes())
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content) - 1))]
    else:
        content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    path.write_bytes(content)
    again = tried(load_table, path)
    assert again is None or again["stage"].tolist() == table["stage"].tolist()


def shapes_in_contest_folders(draw, folder):
    shape = draw(
        st.one_of(st.tuples(st.integers(49, 53), st.integers(57, 62)), st.tuples(st.integers(2998, 3002)))
    )
    array = np.random.default_rng(0).exponential(1e-11, shape) * (1e4 if len(shape) == 1 else 1)
    (folder / "2").mkdir(exist_ok=True)
    np.save(
        folder / "2" / "a-1.npy", array.astype(draw(st.sampled_from([np.float32, np.float64, np.complex64])))
    )
    table = tried(contest.read_contest, folder)
    if table is not None:
        assert shape in (*contest.SPECTROGRAM_SHAPES, (3000,)) and ("std_uv" in table) == (len(shape) == 1)


def names_in_contest_folders(draw, folder):
    alphabet = st.characters(codec="ascii", exclude_characters="/\\\0", exclude_categories=("Cc",))
    names = draw(st.lists(st.text(alphabet, min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    for stage in range(5):
        (folder / str(stage)).mkdir(exist_ok=True)
        for file in (folder / str(stage)).glob("*.npy"):
            file.unlink()
    for name in names:
        np.save(folder / str(draw(st.integers(0, 4))) / f"{name}.npy", np.full((51, 59), 1e-11))
    table = tried(contest.read_contest, folder)
    if table is not None:
        assert table.index.is_unique and len(table) == len(names)


def damaged_contest_file(draw, folder):
    (folder / "1").mkdir(exist_ok=True)
    np.save(folder / "1" / "a-1.npy", np.full((51, 59), 1e-11))
    content = bytearray((folder / "1" / "a-1.npy").read_bytes())
    content[draw(st.integers(0, 140))] ^= draw(st.integers(1, 255))
    (folder / "1" / "a-1.npy").write_bytes(content[: draw(st.integers(0, len(content)))])
    tried(contest.read_contest, folder)


KINDS = {
    # recordings: how many of each are tried
    rates: 30, lengths: 30, lengths_resampled: 30, offsets: 30, true_units: 30, wrong_units: 30, gains: 30,
    formats: 10, channels: 20, cut_off: 40, the_real_night_cut_off: 30, damaged_header: 60,
    damaged_numbers_in_the_header: 60, any_bytes_as_recording: 40, bad_stretches: 40,
    clipped_at_other_rates: 9, shapes_of_recordings: 40,
    # where epochs and stages lie
    starts_on_the_grid: 15, starts_off_the_grid: 40, starts_unknown: 20, missing_stages: 40,
    beyond_the_ends: 40, wake_margins: 40, lights_off_in_seconds: 40, lights_off_by_the_clock: 30,
    any_lights_off: 30,
    # hypnograms
    any_spans: 40, merged_spans: 30, any_times_as_text: 40, one_stage_a_line: 40, any_text: 40,
    any_bytes_as_hypnogram: 40, cut_off_hypnogram: 40, damaged_hypnogram: 40,
    # what is kept on disk
    units_of_dictionaries: 30, any_dictionary: 40, damaged_dictionary: 60, damaged_table: 40,
    shapes_in_contest_folders: 20, names_in_contest_folders: 30, damaged_contest_file: 40,
}  # fmt: skip


def test_there_are_enough_of_them():
    assert len(KINDS) >= 25 and sum(KINDS.values()) >= 1000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_result_or_a_clear_error(kind, tmp_path):
    count = 0

    @settings(
        max_examples=KINDS[kind],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data):
        nonlocal count
        count += 1
        kind(data.draw, tmp_path)

    run()
    assert count >= KINDS[kind]
