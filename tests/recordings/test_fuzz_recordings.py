"""Damaged and strange files by the hundred: the right values, or an error with a reason, soon and small.

Two kinds, each made from valid files by a seed, so that a failure can be made again. *Damage* is blind: bits,
bytes and stretches are changed. What comes back then must be a night that can be: shapes, stages, amplitude,
a clock. *Variants* are other valid ways to store the same night, or ways of which the right result is known;
the values are compared with what the generator knows, which shares no code with the readers.
"""

import os
import pickle
import random
import re
import resource
import time
import warnings
from datetime import UTC, datetime, timedelta

import edfio
import mne
import numpy as np
import pytest
from test_recording import write_brainvision, write_eeglab

from sleepstage.recordings.dictionary import load_dictionary
from sleepstage.recordings.recording import read_recording

N_MUTATIONS = int(os.environ.get("FUZZ_CASES", "40"))  # of each reader and kind; 300 before a release
N_EPOCHS = 12
CHANNEL = "EEG Fpz-Cz"
EVENING = datetime(2024, 1, 1, 22)
STAGES = ["W", "N1", "N2", "N3", "REM"]
TRUTH = np.random.default_rng(11).integers(0, 5, N_EPOCHS)  # the stage of each epoch
# Noise around a level that tells the epoch's number: 10 uV an epoch.
NOISE_UV = np.random.default_rng(12).normal(0, 15, (N_EPOCHS, 3000))
EPOCHS_UV = NOISE_UV - NOISE_UV.mean(axis=1, keepdims=True) + 10 * np.arange(N_EPOCHS)[:, None]


@pytest.fixture(autouse=True)
def little_memory():
    """What is measured is the most that the process ever had; so what came before counts as well."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000, "took more than 1.5 GB"


def tried(call, *arguments, **options):
    """The result, or None after an error that gives a reason; either of them soon."""
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call(*arguments, **options)
        except (ValueError, OSError) as error:
            assert len(str(error)) > 20, repr(error)
            result = None
    assert time.perf_counter() - begun < 20
    return result


def check_possible(night):
    """A night that can be, whatever was done to its file."""
    assert night.eeg_uv.ndim == 2 and night.eeg_uv.shape[1] == 3000 and night.eeg_uv.dtype == np.float32
    assert night.sfreq_hz == 100 and len(night.quality) == night.n_epochs > 0
    lost = ~np.isfinite(night.eeg_uv).all(axis=1)
    assert (night.quality[lost] == "nan").all()
    live = np.ptp(night.eeg_uv[~lost], axis=1)
    assert not (live > 0).any() or 1 <= np.median(live[live > 0]) <= 5000
    assert night.start is None or (
        1900 <= night.start.year <= 2100 and len(night.clock_times()) == night.n_epochs
    )
    if night.stages is not None:
        assert night.stages.shape == (night.n_epochs,) and set(night.stages.tolist()) <= {-1, 0, 1, 2, 3, 4}


def told(night):
    """Which epoch of the night each one is, by its signal; -1 where nothing was recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = np.nanmean(night.eeg_uv, axis=1)
    return np.where(np.isfinite(night.eeg_uv).all(axis=1), np.rint(np.nan_to_num(level) / 10), -1).astype(int)


def check_stages(night, shift=0):
    """Every epoch that has a stage has its own."""
    for epoch, stage in zip(told(night), night.stages, strict=True):
        if epoch >= 0 and stage >= 0:
            assert 0 <= epoch + shift < N_EPOCHS and stage == TRUTH[epoch + shift], (epoch, stage)


# ------------------------------------------------------------------ valid files


def write_edf(
    path, start=EVENING, record_s=10, notes=((0, None, "on"),), bounds=(-500, 500), unit="uV", scale=1.0
):
    whole, signal = (edfio.Bdf, edfio.BdfSignal) if path.suffix == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    signals = [
        signal(scale * x, 100, label=label, physical_dimension=unit, physical_range=bounds)
        for label, x in ((CHANNEL, EPOCHS_UV.ravel()), ("EMG", NOISE_UV.ravel()))
    ]
    whole(
        signals,
        recording=edfio.Recording(startdate=start.date()),
        starttime=start.time(),
        annotations=[edfio.EdfAnnotation(*note) for note in notes],
        data_record_duration=record_s,
    ).write(path)
    return path


def write_stages_edf(path, spans, start=EVENING):
    about = edfio.Recording(startdate=start.date())
    notes = [edfio.EdfAnnotation(*span) for span in spans]
    edfio.Edf([], recording=about, starttime=start.time(), annotations=notes).write(path)
    return path


def write_vhdr(path):
    write_brainvision(
        path.with_suffix(""), EPOCHS_UV.ravel(), [("New Segment", "", 0, f"{EVENING:%Y%m%d%H%M%S%f}")]
    )
    return path


def write_set(path):
    return write_eeglab(path, EPOCHS_UV.ravel(), [(700.0, "note", 1.0)])


def write_fif(path):
    info = mne.create_info([CHANNEL, "EMG"], 100, "eeg")
    raw = mne.io.RawArray(1e-6 * np.stack([EPOCHS_UV.ravel(), NOISE_UV.ravel()]), info, verbose="error")
    raw.set_meas_date(EVENING.replace(tzinfo=UTC))
    raw.save(path, fmt="double", overwrite=True, verbose="error")
    return path


def spans(length_s=30):
    return [(length_s * k, length_s, STAGES[stage]) for k, stage in enumerate(TRUTH)]


def table(rows, mark=","):
    return (
        "\n".join([mark.join(("onset", "duration", "stage")), *(mark.join(map(str, row)) for row in rows)])
        + "\n"
    )


def xml(rows):
    events = "".join(
        f"<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>{text}</EventConcept>"
        f"<Start>{onset}</Start><Duration>{duration}</Duration></ScoredEvent>\n"
        for onset, duration, text in rows
    )
    return f'<?xml version="1.0"?>\n<PSGAnnotation><EpochLength>30</EpochLength>{events}</PSGAnnotation>'


RECORDINGS = {
    "night.edf": write_edf,
    "night.bdf": write_edf,
    "night.vhdr": write_vhdr,
    "night.set": write_set,
    "night_raw.fif": write_fif,
}
HYPNOGRAMS = {
    "h.edf": lambda path: write_stages_edf(path, spans()),
    "h.csv": lambda path: path.write_text(table(spans())),
    "h.tsv": lambda path: path.write_text(table(spans(), "\t"), encoding="utf-16"),
    "h.txt": lambda path: path.write_text("\n".join(map(str, TRUTH))),
    "h.eannot": lambda path: path.write_text("\n".join(STAGES[stage] for stage in TRUTH)),
    "h.xml": lambda path: path.write_text(xml(spans())),
}


def write_npz(path):
    np.savez(path, EEG_signals=EPOCHS_UV, labels=TRUTH, sfreq_hz=100.0, start=EVENING.isoformat())


def write_pkl(protocol):
    def write(path):
        path.write_bytes(
            pickle.dumps({"EEG_signals": EPOCHS_UV.astype(np.float32), "labels": TRUTH}, protocol)
        )

    return write


DICTIONARIES = {"night.npz": write_npz, "night2.pkl": write_pkl(2), "night5.pkl": write_pkl(5)}


# ------------------------------------------------------------------ damage

NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"99999999",
    b"1e9",
    b"1e308",
    b"nan",
    b"inf",
    b"-0",
    b"1_0",
    b"",
    b"0x10",
    b"2147483648",
]
WORDS = [
    b"",
    b"\0",
    b"\xff",
    b"N2",
    b"Sleep stage",
    b"/dev/zero",
    b"..",
    b"%s%n",
    b"\n",
    b",",
    b";",
    b"<",
    b"&x;",
    b"\x14",
    b"\x15",
]


def damaged(content, chance):
    """A few changes at places that count: mostly in the first thousands of bytes, where headers are."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        n = len(content)
        if n == 0:
            break
        at = chance.randrange(min(n, chance.choice([300, 1200, 5000, n])))
        kind = chance.randrange(9)
        if kind == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[at] = chance.randrange(256)
        elif kind == 2:
            del content[at : at + chance.choice([1, 2, 8, 100, n])]
        elif kind == 3:
            content[at:at] = chance.randbytes(chance.choice([1, 2, 8, 100]))
        elif kind == 4:  # the same twice
            content[at:at] = content[at : at + chance.choice([1, 8, 16, 256, 4096])]
        elif kind == 5:  # zeros, or another byte, over a stretch
            width = chance.choice([2, 8, 80])
            content[at : at + width] = bytes([chance.choice([0, 32, 57, 255])]) * len(
                content[at : at + width]
            )
        elif kind == 6:  # another number in a number's place
            found = list(re.finditer(rb"[0-9][0-9.]*", content[: chance.choice([600, 3000, n])]))
            if found:
                old, new = chance.choice(found), chance.choice(NUMBERS)
                if chance.random() < 0.7:  # as wide as before: fields of EDF
                    new = new[: old.end() - old.start()].ljust(old.end() - old.start())
                content[old.start() : old.end()] = new
        elif kind == 7:
            content[at:at] = chance.choice(WORDS)
        else:  # two stretches change places
            other, width = chance.randrange(n), chance.choice([1, 8, 30])
            a, b = content[at : at + width], content[other : other + width]
            if len(a) == len(b):
                content[at : at + width], content[other : other + width] = b, a
    return bytes(content)


def damage(path, seed):
    chance = random.Random(seed)
    beside = [other for other in path.parent.iterdir() if other.stem == path.stem]
    target = path if chance.random() < 0.8 else chance.choice(sorted(beside))
    whole = target.read_bytes()
    target.write_bytes(damaged(whole, chance))
    return target, whole


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_damaged_recordings(tmp_path, name):
    write_stages_edf(tmp_path / "h.edf", spans())
    path = tmp_path / name
    RECORDINGS[name](path)
    night = read_recording(path, tmp_path / "h.edf", wake_margin_min=None)
    assert told(night).tolist() == list(range(N_EPOCHS)) and night.stages.tolist() == TRUTH.tolist()
    n_read = 0
    for seed in range(N_MUTATIONS):
        target, whole = damage(path, seed)
        hypnogram = tmp_path / "h.edf" if seed % 2 else None
        night = tried(read_recording, path, hypnogram, wake_margin_min=None)
        if night is not None:
            check_possible(night)
            n_read += 1
        target.write_bytes(whole)
    assert n_read > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n.gdf", "n.cnt"])
def test_headers_of_chance(tmp_path, name):
    """Formats that nothing here writes: the right beginning, then sizes that are absurd."""
    chance = random.Random(name)
    for _ in range(N_MUTATIONS if name == "n.cnt" else 60):  # a GDF is tried in a process of its own
        content = bytearray(chance.choice([chance.randbytes, bytes])(chance.choice([300, 1500, 5000])))
        for _ in range(20):
            at = chance.randrange(len(content) - 4)
            size = chance.choice([0, 1, 2, 100, 2**31 - 1, 2**32 - 1])
            content[at : at + 4] = size.to_bytes(4, "little")
        magic = chance.choice([b"GDF 1.25", b"GDF 2.20"] if name == "n.gdf" else [b"Version 3.0"])
        (tmp_path / name).write_bytes(magic + content)
        night = tried(read_recording, tmp_path / name, channel=CHANNEL)
        assert night is None


@pytest.mark.slow
@pytest.mark.parametrize("name", HYPNOGRAMS)
def test_damaged_hypnograms(tmp_path, name):
    psg, path = write_edf(tmp_path / "night.edf"), tmp_path / name
    HYPNOGRAMS[name](path)
    assert read_recording(psg, path, wake_margin_min=None).stages.tolist() == TRUTH.tolist()
    n_read = 0
    for seed in range(N_MUTATIONS):
        target, whole = damage(path, seed)
        night = tried(read_recording, psg, path, wake_margin_min=None)
        if night is not None:
            check_possible(night)
            assert told(night).tolist() == list(range(N_EPOCHS))  # a hypnogram changes no signal
            n_read += 1
        target.write_bytes(whole)
    assert n_read > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", DICTIONARIES)
def test_damaged_dictionaries(tmp_path, name):
    path = tmp_path / name
    DICTIONARIES[name](path)
    assert load_dictionary(path).stages.tolist() == TRUTH.tolist()
    for seed in range(2 * N_MUTATIONS):
        target, whole = damage(path, seed)
        night = tried(load_dictionary, path)
        if night is not None:
            check_possible(night)
        target.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECORDINGS, *HYPNOGRAMS, *DICTIONARIES])
def test_what_is_cut_off_is_right_as_far_as_it_goes(tmp_path, name):
    make = {**RECORDINGS, **HYPNOGRAMS, **DICTIONARIES}[name]
    path, psg = tmp_path / name, write_edf(tmp_path / "signal.edf")
    write_stages_edf(tmp_path / "stages.edf", spans())
    make(path)
    target = path.with_suffix(".eeg") if name.endswith(".vhdr") else path
    whole, chance = target.read_bytes(), random.Random(name)
    for _ in range(N_MUTATIONS):
        target.write_bytes(whole[: chance.randrange(len(whole))])
        if name in RECORDINGS:
            night = tried(read_recording, path, tmp_path / "stages.edf", wake_margin_min=None)
        elif name in HYPNOGRAMS:
            night = tried(read_recording, psg, path, wake_margin_min=None)
        else:
            night = tried(load_dictionary, path)
        if night is not None:
            check_possible(night)
            assert told(night).tolist() == list(range(night.n_epochs))
            check_stages(night)


# ------------------------------------------------------------------ variants of which the result is known


def in_fields(path, chance):
    """Another start, scale, unit, length of records: the same night."""
    start = EVENING + timedelta(seconds=chance.randrange(-5 * 10**7, 5 * 10**7))
    if chance.random() < 0.5:
        start += timedelta(seconds=chance.choice([0.25, 0.5, 0.75]))
    unit, scale = chance.choice([("uV", 1.0), ("mV", 1e-3), ("V", 1e-6), ("nV", 1e3)])
    widest = scale * chance.choice([400, 1000, 3000])
    low = widest * chance.choice([-1, -0.5])
    bounds = (float(f"{low:.6g}"[:8]), float(f"{widest:.6g}"[:8]))
    record_s = chance.choice([1, 2, 5, 10, 30])
    write_edf(path, start, record_s, bounds=bounds, unit=unit, scale=scale)
    return start


@pytest.mark.slow
@pytest.mark.parametrize("name", ["night.edf", "night.bdf"])
def test_the_same_night_in_other_fields(tmp_path, name):
    for seed in range(N_MUTATIONS):
        chance = random.Random(seed)
        start = in_fields(tmp_path / name, chance)
        shift = chance.randrange(-3, 4)  # of the hypnogram's header, in epochs
        begin = start - timedelta(seconds=30 * shift)
        rows = [(onset + 30 * shift, duration, text) for onset, duration, text in spans()]
        rows = [row for row in rows if row[0] >= 0]
        write_stages_edf(tmp_path / "h.edf", rows, begin)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            night = read_recording(tmp_path / name, tmp_path / "h.edf", wake_margin_min=None)
        assert night.start == start, seed
        np.testing.assert_allclose(night.eeg_uv, EPOCHS_UV, atol=0.2)
        scored = [k for k in range(N_EPOCHS) if k + shift >= 0]
        assert night.stages.tolist() == [TRUTH[k] if k in scored else -1 for k in range(N_EPOCHS)], seed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EDF+C", "EDF+D"])
def test_a_night_with_pauses_anywhere(tmp_path, kind):
    for seed in range(N_MUTATIONS):
        chance = random.Random(seed)
        path = write_edf(tmp_path / "n.edf", record_s=10)
        content = bytearray(path.read_bytes())
        content[192:197] = kind.encode()
        header, n_records = int(content[184:192]), int(content[236:244])
        width = (len(content) - header) // n_records
        first = 2 * 2 * 1000
        late = chance.choice([0, 0, 0.5, 30, 45.25])
        lost = np.zeros(n_records)
        for at in chance.sample(range(1, n_records), chance.randrange(4)):
            lost[at] = chance.choice([0.05, 1, 10, 17.5, 30, 300])
        onsets = late + 10 * np.arange(n_records) + np.cumsum(lost)
        for record, onset in enumerate(onsets):
            place, end = header + record * width + first, header + (record + 1) * width
            content[place:end] = f"+{onset:.2f}\x14\x14".encode().ljust(end - place, b"\0")
        path.write_bytes(content)
        # The whole clock, in hundredths of seconds: which sample stands where.
        at = np.rint(100 * (onsets - onsets[0])).astype(int)
        timeline = np.full(at[-1] + 1000, np.nan)
        for record, place in enumerate(at):
            timeline[place : place + 1000] = EPOCHS_UV.ravel()[1000 * record : 1000 * (record + 1)]
        timeline = timeline[: len(timeline) // 3000 * 3000].reshape(-1, 3000)
        rows = [(late + 30 * k, 30, STAGES[k % 5]) for k in range(len(timeline))]
        write_stages_edf(tmp_path / "h.edf", rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            night = read_recording(path, tmp_path / "h.edf", channel=CHANNEL, wake_margin_min=None)
        assert night.start == EVENING + timedelta(seconds=late), seed
        np.testing.assert_allclose(night.eeg_uv, timeline, atol=0.02, err_msg=str(seed))
        assert night.stages.tolist() == [k % 5 for k in range(len(timeline))], seed


SPELLINGS = {
    0: ["W", "wake", "Sleep stage W", "WAKE", "Wake|0", "Stage W"],
    1: ["N1", "S1", "NREM 1", "sleep stage 1", "SLEEP-S1", "Stage 1 sleep|1"],
    2: ["N2", "s2", "NREM2", "Sleep stage N2", "SLEEP-S2", "Stage 2"],
    3: ["N3", "S3", "S4", "Sleep stage 4", "NREM3", "Stage 3 sleep|3"],
    4: ["REM", "R", "rem", "Sleep stage R", "SLEEP-REM", "REM sleep|5"],
}


def by_seconds(seconds):
    """The stage of each epoch from the stage of each second (-1: none): the most frequent, if it is clear."""
    laid = []
    for epoch in np.resize(seconds, (N_EPOCHS, 30)):
        codes, counts = np.unique(epoch, return_counts=True)
        laid.append(int(codes[counts.argmax()]) if (counts == counts.max()).sum() == 1 else None)
    return laid


@pytest.mark.slow
@pytest.mark.parametrize("name", HYPNOGRAMS)
def test_the_same_stages_in_other_writings(tmp_path, name):
    psg, path = write_edf(tmp_path / "night.edf"), tmp_path / name
    for seed in range(N_MUTATIONS):
        chance = random.Random(seed)
        length_s = chance.choice([30, 30, 20, 10, 5])
        fine = np.array([chance.randrange(5) for _ in range(30 * N_EPOCHS // length_s)])
        if chance.random() < 0.5:  # long runs
            fine = np.sort(fine)
        fine[0] = (fine[1] + 1) % 5  # one epoch stands alone and tells the length
        rows = [(length_s * k, length_s, chance.choice(SPELLINGS[code])) for k, code in enumerate(fine)]
        seconds = np.repeat(fine, length_s)
        if name in ("h.txt", "h.eannot"):
            heading = ["stage"] if chance.random() < 0.3 else []
            texts = [row[2] for row in rows]
            if length_s == 30 and chance.random() < 0.3:
                heading, texts = [], list(map(str, fine))
            path.write_text(chance.choice(["\n", "\r\n"]).join(heading + texts))
        else:
            if chance.random() < 0.4:  # one row for each run
                edges = [0, *(np.flatnonzero(np.diff(fine)) + 1).tolist(), len(fine)]
                rows = [
                    (length_s * a, length_s * (b - a), rows[a][2])
                    for a, b in zip(edges, edges[1:], strict=False)
                ]
            if chance.random() < 0.4:  # some are left out: no stage there
                for gone in sorted(chance.sample(range(1, len(rows)), len(rows) // 4), reverse=True):
                    onset, duration, _ = rows.pop(gone)
                    seconds[onset : onset + duration] = -1
            if chance.random() < 0.5:
                chance.shuffle(rows)
            if chance.random() < 0.4:  # what is no stage, inside of a span that is one
                onset, duration, _ = chance.choice(rows)
                rows.insert(chance.randrange(len(rows)), (onset + duration / 4, duration / 4, "Spindle"))
            if name == "h.edf":
                write_stages_edf(path, rows)
            elif name == "h.xml":
                path.write_text(xml(rows))
            else:
                mark = "\t" if name == "h.tsv" else chance.choice([",", ";"])
                encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
                path.write_text(table(rows, mark), encoding=encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            night = read_recording(psg, path, wake_margin_min=None)
        for got, right in zip(night.stages, by_seconds(seconds), strict=True):
            assert right is None or got == right, (seed, night.stages.tolist(), by_seconds(seconds))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h.edf", "h.csv", "h.xml"])
def test_times_that_are_none_of_this_night_are_refused(tmp_path, name):
    """Another unit, a grid of its own, spans that overlap, stages that nobody knows: never a wrong stage."""
    psg, path = write_edf(tmp_path / "night.edf"), tmp_path / name
    for seed in range(N_MUTATIONS):
        chance, rows = random.Random(seed), spans()
        kind = chance.choice(["unit", "grid", "overlap", "unknown", "far"])
        if kind == "unit":
            factor = chance.choice([1000, 100, 1 / 30, 1 / 60])
            rows = [(onset * factor, duration * factor, text) for onset, duration, text in rows]
        elif kind == "grid":
            off = chance.choice([0.5, 1, 7, 13.2, 29])
            rows = [(onset + off, duration, text) for onset, duration, text in rows]
        elif kind == "overlap":
            k = chance.randrange(len(rows) - 1)
            rows[k] = (rows[k][0], chance.choice([45, 60, 300]), rows[k][2])
        elif kind == "unknown":
            k = chance.randrange(len(rows))
            rows[k] = (*rows[k][:2], chance.choice(["N7", "S9", "xyz", "Sommeil", "Stage 12"]))
        else:
            off = 30 * chance.randrange(N_EPOCHS, 1000)
            rows = [(onset + off, duration, text) for onset, duration, text in rows]
        if name == "h.edf":
            write_stages_edf(path, rows)
        else:
            path.write_text(table(rows) if name == "h.csv" else xml(rows))
        assert tried(read_recording, psg, path, wake_margin_min=None) is None, (seed, kind)
