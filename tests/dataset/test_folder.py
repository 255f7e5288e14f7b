"""A folder of recordings: which files are found, what is kept, and what is left out."""

import joblib
import numpy as np
import pandas as pd
import pytest

import sleepstage as ss

PSG = "sub-{subject}/ses-{recording}/eeg/*_eeg.edf"
EVENTS = "sub-{subject}/ses-{recording}/eeg/*_events.tsv"
NIGHTS = [("01", "a"), ("01", "b"), ("02", "c")]


def night_like(bits, later):
    """The shipped EDF from so many epochs later, with other lowest bits: to the guards another night."""
    psg = ss.demo_paths()[0].read_bytes()
    records = np.frombuffer(psg[768:], np.uint8).reshape(841, -1).copy()  # of 30 s, after the header
    records[:, ::2] ^= bits  # of little-endian samples
    return psg[:768] + np.roll(records, -later, axis=0).tobytes()


def put_night(folder, subject, session, bits, night):
    """A night and its stages as text."""
    place = folder / f"sub-{subject}" / f"ses-{session}" / "eeg"
    place.mkdir(parents=True)
    later = 50 * bits
    (place / f"sub-{subject}_eeg.edf").write_bytes(night_like(bits, later))
    lines = [f"{30 * i}\t30\t{ss.STAGES[stage]}" for i, stage in enumerate(np.roll(night.stages, -later))]
    (place / f"sub-{subject}_events.tsv").write_text("onset\tduration\tstage\n" + "\n".join(lines))
    return place


@pytest.fixture
def folder(tmp_path):
    night = ss.load_demo()
    for bits, (subject, session) in enumerate(NIGHTS):
        put_night(tmp_path / "study", subject, session, bits, night)
    return tmp_path / "study"


def test_a_bids_like_tree_becomes_one_table(folder, table, tmp_path):
    found, failed = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    assert failed.empty
    assert found.index.droplevel("epoch").unique().tolist() == NIGHTS
    first = found[: len(table)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, table.reset_index(drop=True), check_dtype=False, rtol=1e-5)


def test_two_workers_give_the_same_and_what_is_there_is_not_read_again(folder, tmp_path, monkeypatch):
    with joblib.parallel_config(n_jobs=2):
        found, _ = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    monkeypatch.setattr("sleepstage.dataset.folder.read_recording", None)
    again, failed = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    pd.testing.assert_frame_equal(again, found)
    assert failed.empty


def test_what_cannot_be_read_is_named_and_the_rest_is_kept(folder, tmp_path, caplog):
    broken, unscored = (folder / f"sub-01/ses-{name}/eeg" for name in "ab")
    (broken / "sub-01_eeg.edf").write_bytes(b"<html>quota</html>")
    (unscored / "sub-01_events.tsv").unlink()
    found, failed = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    assert found.index.unique("recording").tolist() == ["c"]
    assert failed.index.tolist() == [str(broken / "sub-01_eeg.edf"), str(unscored / "sub-01_eeg.edf")]
    assert "is not an EDF file" in failed.iloc[0]
    assert "0 files fit the hypnogram's pattern 'sub-01/ses-b/eeg/*_events.tsv'" in failed.iloc[1]
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert [line.count(path) for line, path in zip(said, failed.index, strict=True)] == [1, 1]


def test_a_changed_recording_is_read_again(folder, tmp_path):
    hypnogram = folder / "sub-02/ses-c/eeg/sub-02_events.tsv"
    ss.folder_table(folder / "sub-02", "ses-{recording}/eeg/*.edf", "**/*.tsv", tmp_path / "tables")
    hypnogram.write_text("onset\tduration\tstage\n0\t3000\tN2\n")
    changed, _ = ss.folder_table(
        folder / "sub-02", "ses-{recording}/eeg/*.edf", "**/*.tsv", tmp_path / "tables"
    )
    assert changed["stage"].value_counts()[2] == 100


def test_a_damaged_kept_table_is_made_anew(folder, tmp_path, caplog):
    found, _ = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    kept = sorted((tmp_path / "tables").glob("*.npz"))[1]
    kept.write_bytes(kept.read_bytes()[:1000])
    again, failed = ss.folder_table(folder, PSG, EVENTS, tmp_path / "tables")
    pd.testing.assert_frame_equal(again, found)
    assert failed.empty and kept.name in caplog.text


def test_patterns_that_fit_nothing_or_name_something_else_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="fits 'rec-.*its first files are .'sub-01/ses-a/eeg/"):
        ss.folder_table(folder, "rec-{recording}.edf", tables=tmp_path / "tables")
    with pytest.raises(ValueError, match=r"has \['person'\], known are \['recording', 'subject'\]"):
        ss.folder_table(folder, "{person}.edf", tables=tmp_path / "tables")
    with pytest.raises(ValueError, match=r"none of 3 .* has \['session'\], known are \['recording"):
        ss.folder_table(folder, PSG, "{session}.tsv", tmp_path / "tables")


def test_a_name_with_brackets_is_taken_as_it_is(tmp_path):
    psg, hypnogram = ss.demo_paths()
    (tmp_path / "night [1].edf").symlink_to(psg)
    (tmp_path / "night [1]-hypnogram.edf").symlink_to(hypnogram)
    (tmp_path / "night [2].edf").mkdir()  # fits the pattern's name only; a folder is no recording
    found, failed = ss.folder_table(tmp_path, "night*].edf", "{stem}-hypnogram.edf", tmp_path / "tables")
    assert len(found) == 841 and failed.empty
