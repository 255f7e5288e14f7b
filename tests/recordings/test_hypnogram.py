"""Hypnograms as text, against the shipped night's own EDF+ hypnogram."""

import warnings
from datetime import UTC, date, datetime, time

import edfio
import numpy as np
import pytest

from sleepstage.recordings.hypnogram import align_stages
from sleepstage.recordings.recording import demo_paths, load_demo, read_recording
from sleepstage.stages import STAGES, code_of_text

R_AND_K = ("W", "S1", "S2", "S3", "R")


@pytest.fixture(scope="module")
def night():
    return load_demo()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def as_table(stages, mark, shuffled=False):
    """A span for every change of stage, as scoring programs export them."""
    starts = [0, *(np.flatnonzero(np.diff(stages)) + 1).tolist(), len(stages)]
    cells = [
        (f"{30 * a}", f"{30.0 * (b - a)}", STAGES[stages[a]])
        for a, b in zip(starts[:-1], starts[1:], strict=True)
    ]
    names, order = ("onset", "duration", "stage"), (2, 0, 1) if shuffled else (0, 1, 2)
    return "\n".join(mark.join(row[i] for i in order) for row in [names, *cells])


WRITERS = {
    "YASA's integers": ("h.txt", lambda stages: "\n".join(map(str, stages))),
    "numpy's savetxt": ("h.txt", lambda stages: "\n".join(f"{code:.18e}" for code in stages)),
    "a heading": ("h.csv", lambda stages: "stage\n" + "\n".join(STAGES[code] for code in stages)),
    "names": ("h.txt", lambda stages: "\n".join(STAGES[code] for code in stages) + "\n\n"),
    "R&K, lower case, Windows": (
        "h.csv",
        lambda stages: "\ufeff" + "\r\n".join(R_AND_K[code].lower() for code in stages),
    ),
    "table with commas": ("h.csv", lambda stages: as_table(stages, ",")),
    "table with semicolons, other order": ("h.CSV", lambda stages: as_table(stages, ";", shuffled=True)),
    "table with tabs": ("h.tsv", lambda stages: as_table(stages, "\t")),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_shipped_night_has_the_same_stages_from_text_as_from_edf(kind, night, tmp_path):
    name, writer = WRITERS[kind]
    text = write(tmp_path / name, writer(night.stages))
    again = read_recording(demo_paths()[0], hypnogram=text)
    np.testing.assert_array_equal(again.stages, night.stages)


def test_a_table_may_leave_gaps_and_mark_what_is_not_scored(tmp_path):
    text = write(tmp_path / "h.csv", "onset,duration,stage\n30,60,N2\n120,30,?\n150,30,Dreaming REM Sleep\n")
    assert align_stages(text, None, 7)[0].tolist() == [-1, 2, 2, -1, -1, 4, -1]


@pytest.mark.parametrize("name", ["trial_type", "description"])
def test_the_columns_of_bids_and_of_mne_are_known(name, tmp_path):
    text = write(tmp_path / "h.tsv", f"onset\tduration\t{name}\n0\t60\tSleep stage 2\n")
    assert align_stages(text, None, 2)[0].tolist() == [2, 2]


@pytest.mark.parametrize("text", ["N2", "sleep stage n2", "SLEEP STAGE 2", "S2", "Stable Light Sleep"])
def test_annotations_and_text_know_the_same_writings_of_a_stage(text, tmp_path):
    annotations = [edfio.EdfAnnotation(0, 60, text)]
    edfio.Edf([], annotations=annotations, starttime=time(22)).write(tmp_path / "h.edf")
    write(tmp_path / "h.csv", f"onset,duration,stage\n0,60,{text}\n")
    with pytest.warns(UserWarning, match="gives no start"):
        assert align_stages(tmp_path / "h.edf", None, 2)[0].tolist() == [2, 2]
    assert align_stages(tmp_path / "h.csv", None, 2)[0].tolist() == [2, 2]


def test_one_stage_more_than_whole_epochs_is_the_last_one_cut_short(tmp_path):
    text = write(tmp_path / "h.txt", "0\n1\n2\n3\n")
    with pytest.warns(UserWarning, match="1 epochs are scored before .* or after"):
        assert align_stages(text, None, 3)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 stages"),
        ("onset,duration,stage\n", "holds no stages, expected a hypnogram"),
        ("onset,duration\n0,30\n", "names onset, duration; expected the columns onset, duration, stage"),
        ("onset,duration,stage\n0,30,N2\n30,30\n", "line 3: expected 3 cells"),
        ("onset,duration,stage\n22:00,30,N2\n", "onset and duration in seconds: .* as in 30.5"),
        ("onset,duration,stage\n0,1_0,N2\n", "onset and duration in seconds: .1_0. is no number"),
        ("onset,duration,stage\n0,-30,N2\n", "lasts -30 s, expected seconds within a night"),
        ("onset,duration,stage\n1e999,30,N2\n", "begins at inf s"),
        ("onset,duration,stage\n0,30,N5\n", "stage 1: 'N5' is no known stage"),
        (
            "onset,duration,stage\n0,60,N2\n30,30,N2\n",
            "begins at 30 s, before .* ends at 60 s.*If two people",
        ),
        ("onset,duration,stage\n0,25,W\n25,20,N1\n", "lasts 25 s, expected multiples of 30 s"),
        ("onset,duration,stage\n900,30,N2\n", "expected some of 0 to 5"),
        ("0\n1\n5\n0\n0\n0\n", "stage 3: 5 is no known stage.*By convention='rk'.* it is one"),
        ("0\n1\n8\n0\n0\n0\n", "stage 3: 8 is no known stage.*Write names"),
        ("0\n1\n2\n", "holds 3 stages without times, expected 6"),
        ("0\n" * 8, "holds 8 stages without times, expected 6"),
        ("W, N1\nW, N1\n", "expected the columns"),
    ],
)
def test_what_is_no_hypnogram_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        align_stages(write(tmp_path / "h.csv", text), None, 6)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*nothing.csv, expected a hypnogram"):
        read_recording(demo_paths()[0], hypnogram=tmp_path / "nothing.csv")
    (tmp_path / "h.txt").write_bytes(b"W\x00\n\x00" * 6)
    with pytest.raises(ValueError, match="is no text: it holds zeros"):
        align_stages(tmp_path / "h.txt", None, 6)


# What people write (the reports are named where there is one). The signal lasts 20 epochs.

HALVES = [0] * 10 + [2] * 10
NIGHT = "0 0 0 0 0 1 2 2 2 3 3 4 4 4 3 3 2 2 2 2".split()  # R&K without REM: 4 is S4


def lay(path, n_epochs=20, **options):
    """The stages; of EDF, beside a signal that begins with it."""
    return align_stages(path, datetime(2024, 1, 1, 22, tzinfo=UTC), n_epochs, **options)


def write_edf(path, notes):
    annotations = [edfio.EdfAnnotation(*note) for note in notes]
    about = edfio.Recording(startdate=date(2024, 1, 1))
    edfio.Edf([], recording=about, starttime=time(22), annotations=annotations).write(path)
    return path


def test_annotations_beside_the_stages_are_skipped_with_a_note(tmp_path):
    """mne-python #4489: 'Lights off' is a text of the EDF+ standard; SHHS and MESA mark arousals."""
    beside = [(0, None, "Lights off"), (333.2, 5, "EEG arousal"), (10, 0, "stimulus"), (40, 9, "a remark")]
    notes = [(0, 300, "Sleep stage W"), (300, 300, "Sleep stage N2"), *beside]
    stages, _, said = lay(write_edf(tmp_path / "h.edf", notes))
    assert stages.tolist() == HALVES
    assert said == ["4 annotations that are no stages are skipped ('Lights off', 'stimulus', 'a remark')"]
    # What stands where no stage does may be one, in a spelling that we do not know.
    with pytest.raises(ValueError, match="stage 2: 'Sommeil' is no known stage"):
        lay(write_edf(tmp_path / "h.edf", [(0, 300, "Sleep stage W"), (300, 300, "Sommeil")]))
    with pytest.raises(ValueError, match="stage 2: 'Sommeil' is no known stage"):
        lay(write_edf(tmp_path / "h.edf", [(0, None, "Sleep stage W"), (300, None, "Sommeil")]))


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["W", "wake", "Sleep stage W", "WAKE", "Stage W", "Wake|0", "S0", "awake"], 0),
        (["N1", "s1", "NREM1", "Sleep stage 1", "SLEEP-S1", "Stage 1 sleep|1"], 1),
        (["N2", "NREM 2", "Sleep stage NREM 2", "SLEEP-S2", "Stage 2", "non-REM 2", "n2 "], 2),
        (["N3", "S4", "N4", "Sleep stage 4", "NREM-4", "Stage 4 sleep|4", "SLEEP STAGE N3"], 3),
        (["REM", "r", "Sleep stage REM", "SLEEP-REM", "REM sleep|5", "Rem Sleep", "Sleep_stage_R"], 4),
        (["?", "Sleep stage N", "Movement|6", "MT", "M", "n/a", "nan", "Unscored|9", "L", "ART"], -1),
    ],
)
def test_one_list_of_texts_for_all_files(tmp_path, texts, code):
    for text in texts:
        assert code_of_text(text) == code, text
        for path in (
            write_edf(tmp_path / "h.edf", [(0, 600, text)]),
            write(tmp_path / "h.csv", f"onset,duration,stage\n0,600,{text}\n"),
            write(tmp_path / "h.eannot", f"{text}\n" * 20),
            write(tmp_path / "h.xml", nsrr([(0, 600, text)])),
        ):
            stages, marked, _ = lay(path)
            assert stages.tolist() == [code] * 20 and marked.all() == (code == -1)


@pytest.mark.parametrize("text", ["N5", "Sleep stage 22", "stage -1", "Stage 5", "remarks", "清醒"])
def test_what_may_be_a_stage_and_is_unknown_is_refused(tmp_path, text):
    for content in (f"onset,duration,stage\n0,600,{text}\n", f"{text}\n" * 20):
        with pytest.raises(ValueError, match=f"stage 1: '{text}' is no known stage"):
            lay(write(tmp_path / "h.csv", content))


def nsrr(events):
    scored = "".join(
        f"<ScoredEvent><EventType>any</EventType><EventConcept>{text}</EventConcept>"
        f"<Start>{onset}</Start><Duration>{duration}</Duration></ScoredEvent>"
        for onset, duration, text in events
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><PSGAnnotation><EpochLength>30</EpochLength>'
        f"<ScoredEvents>{scored}</ScoredEvents></PSGAnnotation>"
    )


def test_xml_of_nsrr_and_of_profusion(tmp_path):
    """PyHealth #162: SHHS."""
    events = [(0, 600, "Recording Start Time"), (0, 300, "Wake|0"), (300, 150, "Stage 3 sleep|3"),
              (310.4, 12.1, "Hypopnea|Hypopnea"), (450, 150, "REM sleep|5")]  # fmt: skip
    expected = [0] * 10 + [3] * 5 + [4] * 5
    assert lay(write(tmp_path / "h.xml", nsrr(events)))[0].tolist() == expected
    stages = "".join(f"<SleepStage>{stage}</SleepStage>" for stage in [0] * 10 + [4] * 5 + [5] * 5)
    profusion = (
        f"<CMPStudyConfig><EpochLength>30</EpochLength><SleepStages>{stages}</SleepStages></CMPStudyConfig>"
    )
    assert lay(write(tmp_path / "h.xml", profusion))[0].tolist() == expected
    spaced = profusion.replace("<SleepStage>", "<SleepStage>\n ").replace("Stage>0<", "Stage>W<")
    assert lay(write(tmp_path / "h.xml", spaced))[0].tolist() == expected
    with pytest.raises(ValueError, match="'deep' is no known stage"):
        lay(write(tmp_path / "h.xml", profusion.replace("4</", "deep</")))
    for broken in (
        profusion.replace("<EpochLength>30", "<EpochLength>0"),
        "<PSGAnnotation>",
        nsrr([("1_0", 30, "Wake|0")]),
        "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    ):
        with pytest.raises(ValueError, match="is not a hypnogram in the XML of NSRR"):
            lay(write(tmp_path / "h.xml", broken))


def test_bids(tmp_path):
    """bids-specification #2208: n/a; stage beside trial_type; other events between."""
    text = "onset\tduration\tstage\n0\t300\tWake\n300\t300\tn/a\n"
    assert lay(write(tmp_path / "h.tsv", text))[0].tolist() == [0] * 10 + [-1] * 10
    text = "onset\tduration\ttrial_type\tstage\n0\t300\tsleep\tW\n300\t300\tsleep\tN2\n"
    assert lay(write(tmp_path / "h.tsv", text))[0].tolist() == HALVES
    text = "onset\tduration\ttrial_type\n300\t300\tSleep stage N2\n10\t0\tstimulus\n0\t300\tSleep stage W\n"
    assert lay(write(tmp_path / "h.tsv", text))[0].tolist() == HALVES


@pytest.mark.parametrize(
    "text",
    [
        "onset,duration,stage\n300,300,N2\n0,300,W\n",  # rows that are not sorted
        "onset,stage\n0,W\n300,N2\n",  # durations that are missing
        "onset,duration,stage\n0,n/a,W\n300,,N2\n",
        "onset,duration,stage\n" + "".join(f"{30 * k},nan,{'W' if k < 10 else 'N2'}\n" for k in range(20)),
        "onset;duration;stage\n0;300.0;W\n300;300.0;N2\n",
        ",Stage,Confidence\n"
        + "".join(f"{k},{'W' if k < 10 else 'N2'},0.9\n" for k in range(20)),  # yasa #168
        "epoch,stage\n" + "".join(f"{k},{'W' if k <= 10 else 'N2'}\n" for k in range(1, 21)),
        ",".join(["0"] * 10 + ["2"] * 10),  # sleepgpt #1
        " ".join(["0"] * 10 + ["2"] * 10) + "\n",
        "\t".join(["W"] * 10 + ["N2"] * 10),
    ],
)
@pytest.mark.filterwarnings("ignore:.*durations are missing")
def test_tables_and_lists_as_people_write_them(tmp_path, text):
    assert lay(write(tmp_path / "h.csv", text))[0].tolist() == HALVES


def test_missing_durations_last_until_the_next_stage_and_are_told(tmp_path):
    notes = [(30 * k, None, "Sleep stage N2") for k in range(8)]
    with pytest.warns(UserWarning, match="8 durations are missing"):
        assert lay(write_edf(tmp_path / "h.edf", notes))[0].tolist() == [2] * 8 + [-1] * 12
    with pytest.warns(UserWarning, match="2 durations are missing"):  # at changes: the last one to the end
        assert (
            lay(write_edf(tmp_path / "h.edf", [(0, None, "W"), (90, None, "R")]))[0].tolist()
            == [0] * 3 + [4] * 17
        )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_any_encoding(tmp_path, encoding):
    """What Excel calls Unicode text is UTF-16."""
    text = "onset;duration;stage;Bemerkung\n0;300;Wach;für\n300;300;Schlafstadium 2;\n"
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / "h.csv").write_bytes(mark + text.encode(encoding))
    assert lay(tmp_path / "h.csv")[0].tolist() == HALVES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,stage\n0,W\n2,W\n" + "".join(f"{k},W\n" for k in range(3, 21)), "do not count up by 1"),
        (
            "onset,duration,stage\n0,600,N2\n0,600,N1\n",
            "'N1' begins at 0 s, before 'N2' ends at 600 s.*two people",
        ),
        ("onset,duration,stage,stage\n0,600,N2,W\n", "expected the columns .*, each once"),
        ("onset,onset,duration,stage\n0,300,600,N2\n", "expected the columns .*, each once"),
        ("duration,stage\n" + "30,W\n" * 20, "expected the columns onset, duration"),
        ("onset,duration,stage\n22:00:00,600,N2\n", "'22:00:00' is no number"),
        ("onset,duration,stage\n7,300,W\n307,240,N2\n", "All begin 7 s off the grid: lights_off=7 counts"),
        ('stage\n"' + "W" * 140_000, "is not a table"),
        (  # durations in epochs, one row each and one row a change
            "onset,duration,stage\n" + "".join(f"{30 * k},1,W\n" for k in range(20)),
            "too short to fill half an epoch, such as 'W' of 1 s. Are durations seconds",
        ),
        ("onset,duration,stage\n0,5,W\n150,1,N1\n180,14,N2\n", "too short to fill half an epoch"),
    ],
)
def test_what_cannot_be_laid_says_what_to_do(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        lay(write(tmp_path / "h.csv", text))
    assert "20 s" not in str(caught.value)  # an advice for other hypnograms


def test_other_kinds_of_files_are_named_as_hypnograms(tmp_path):
    with pytest.raises(
        ValueError, match=r"'.mat', expected a hypnogram: one of .edf, .bdf, .csv, .tsv, .txt, .eannot"
    ):
        lay(write(tmp_path / "h.mat", ""))


# Epochs of other lengths


def majority(fine, length_s, n_epochs):
    """By counting seconds, one by one; what comes first wins a tie by its first half."""
    seconds = np.repeat(fine, length_s)
    laid = []
    for epoch in range(n_epochs):
        inside = seconds[30 * epoch : 30 * epoch + 30].tolist()
        inside += [-9] * (30 - len(inside))
        best = max(set(inside), key=lambda code: (inside.count(code), inside[:15].count(code)))
        laid.append(-1 if best == -9 else best)
    return laid


@pytest.mark.parametrize("length_s", [20, 15, 12, 10, 6, 5, 3, 1])
@pytest.mark.parametrize("kind", ["edf", "csv", "txt"])
@pytest.mark.filterwarnings("ignore:.*epochs last")
def test_epochs_of_other_lengths_are_laid_by_majority(tmp_path, kind, length_s):
    """visbrain has one stage a second; MASS epochs of 20 s."""
    n = 600 // length_s
    fine = np.repeat(np.random.default_rng(length_s).integers(0, 5, 600), 3)[:n]  # runs of three
    names = [STAGES[code] for code in fine]
    path = tmp_path / f"h.{kind}"
    if kind == "edf":
        write_edf(path, [(length_s * k, length_s, name) for k, name in enumerate(names)])
    elif kind == "csv":
        rows = [f"{length_s * k},{length_s},{name}\n" for k, name in enumerate(names)]
        write(path, "onset,duration,stage\n" + "".join(rows))
    elif length_s in (20, 10, 5, 1):
        write(path, "\n".join(names))
    else:  # of stages without times, only usual lengths are guessed
        with pytest.raises(ValueError, match="stages without times, expected 20"):
            lay(write(path, "\n".join(names)))
        return
    stages, _, said = lay(path)
    assert stages.tolist() == majority(fine, length_s, 20)
    assert any(f"its epochs last {length_s} s" in note for note in said)


# Whole numbers


def test_numbers_are_taken_by_a_convention_and_told(tmp_path):
    text = write(tmp_path / "h.txt", "\n".join(["0"] * 8 + ["2"] * 5 + ["4"] * 7))
    stages, _, said = lay(text)
    assert stages.tolist() == [0] * 8 + [2] * 5 + [4] * 7
    assert any("0 taken as W in 8 epochs" in note and "4 taken as REM in 7 epochs" in note for note in said)
    stages, _, said = lay(text, convention="rk")
    assert stages.tolist() == [0] * 8 + [2] * 5 + [3] * 7
    assert any("'rk'" in note and "4 taken as N3 in 7 epochs" in note for note in said)


@pytest.mark.parametrize("convention", ["rk", "mesa", "isruc"])
def test_where_5_is_rem(tmp_path, convention):
    """multimodal #2, sleep_classifiers #32: MESA."""
    text = write(tmp_path / "h.txt", "\n".join([*NIGHT[:-2], "5", "6"]))
    expected = [0] * 5 + [1] + [2] * 3 + [3] * 7 + [2] * 2 + [4, -1]
    assert lay(text, convention=convention)[0].tolist() == expected
    with pytest.raises(
        ValueError, match="stage 19: 5 is no known stage by convention 'aasm'.*By convention='rk'"
    ):
        lay(text)
    with pytest.raises(ValueError, match="convention is 'R&K', expected one of aasm, rk, mesa, isruc"):
        lay(text, convention="R&K")


def test_rem_between_deep_sleep_is_doubted(tmp_path):
    text = write(tmp_path / "h.txt", "\n".join(NIGHT))
    with pytest.warns(UserWarning, match="REM lies between epochs of N3.*convention='rk'"):
        lay(text)
    assert lay(text, convention="rk")[0].tolist()[11:14] == [3, 3, 3]
    for names in (
        "W N2 N3 N2 REM N2 N3",
        "W N1 REM REM N2 N3 N3",
        "N3 REM",
    ):  # names, and nights that are none
        stages = [STAGES.index(name) for name in names.split()] + [2] * (20 - len(names.split()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lay(write(tmp_path / "h.txt", "\n".join(STAGES[code] for code in stages)))


def test_no_real_night_is_doubted(night, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lay(write(tmp_path / "h.txt", "\n".join(map(str, night.stages))), 841)


# Units


@pytest.mark.parametrize(
    ("per_s", "unit"),
    [(1000, "milliseconds"), (256, "samples at 256 Hz"), (1 / 30, "epochs"), (1 / 60, "minutes")],
)
@pytest.mark.parametrize("kind", ["csv", "edf"])
def test_a_hypnogram_in_another_unit_is_refused_with_its_unit(tmp_path, per_s, unit, kind):
    rows = [(30 * k * per_s, 30 * per_s, STAGES[k % 5]) for k in range(20)]
    if kind == "csv":
        table = "onset,duration,stage\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
        path = write(tmp_path / "h.csv", table)
    else:
        path = write_edf(tmp_path / "h.edf", rows)
    with pytest.raises(ValueError, match=f"the signal lasts 600 s; expected seconds.*Are they {unit}"):
        lay(path, sfreq_hz=256)


def test_a_hypnogram_of_a_much_longer_night_is_refused(tmp_path):
    text = write(tmp_path / "h.csv", "onset,duration,stage\n0,1500,W\n1500,1500,N2\n")
    with pytest.raises(ValueError, match="scores 3000 s .*the signal lasts 600 s.*of one night"):
        lay(text)


# Sizes


def test_a_hypnogram_of_a_false_size_is_refused_at_once(tmp_path):
    (tmp_path / "h.txt").write_bytes(b"0\n" * 3_000_000)
    with pytest.raises(ValueError, match="h.txt, a hypnogram, is 6000000"):
        lay(tmp_path / "h.txt")
    (tmp_path / "h.txt").write_bytes(b"0\n" * 150_000)
    with pytest.raises(ValueError, match="h.txt, a hypnogram, is 150000"):
        lay(tmp_path / "h.txt")
