"""Hypnograms as text, against the shipped night's own EDF+ hypnogram."""

from datetime import time

import edfio
import numpy as np
import pytest

from sleepstage.recordings.hypnogram import align_stages
from sleepstage.recordings.recording import demo_paths, load_demo, read_recording
from sleepstage.stages import STAGES

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
        ("onset,duration,stage\n22:00,30,N2\n", "must be seconds, as in 30.5"),
        ("onset,duration,stage\n0,1_0,N2\n", "must be seconds, as in 30.5 .'1_0' is no number"),
        ("onset,duration,stage\n0,-30,N2\n", "lasts -30 s, expected seconds within a night"),
        ("onset,duration,stage\n1e999,30,N2\n", "begins at inf s"),
        ("onset,duration,stage\n0,30,N5\n", "stage 1: 'N5' is no known stage"),
        ("onset,duration,stage\n0,60,N2\n30,30,N2\n", "begins at 30 s, expected 60 s.*If two people"),
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
