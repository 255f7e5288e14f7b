"""Sleep-EDF through MNE, with the shipped night in the place of a download."""

import functools
import http.server
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from mne.datasets.sleep_physionet import age
from test_folder import night_like

import sleepstage as ss
from sleepstage.dataset.sleep_edf import sleep_edf_table
from sleepstage.features.extract import extract_features as extract


def put_files(folder, name, night=0):
    """What a finished download of a night leaves behind."""
    place = folder / "physionet-sleep-data"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}0-PSG.edf").write_bytes(night_like(night, later=50 * night))
    shutil.copy(ss.demo_paths()[1], place / f"{name}{'C' if name.startswith('SC') else 'P'}-Hypnogram.edf")
    return place / f"{name}0-PSG.edf"


def test_both_nights_become_one_table_and_the_disk_is_given_back(tmp_path, table, capsys):
    recordings = [put_files(tmp_path / "age", f"SC400{i + 1}E", night=i) for i in (0, 1)]
    both = sleep_edf_table([0], folder=tmp_path)
    assert "2 of 2 nights are still to be read; downloaded, about 96 MB" in capsys.readouterr().out
    assert both.index.unique("subject").tolist() == [0]
    assert both.index.unique("recording").tolist() == ["SC4001E0", "SC4002E0"]
    pd.testing.assert_frame_equal(both[: len(table)], table, check_dtype=False, rtol=1e-5)
    assert not any(path.exists() for path in recordings)


def _no_space(*args, **kwargs):
    raise OSError("No space left on device")


def test_a_recording_is_not_deleted_before_its_table_is_saved(tmp_path, monkeypatch):
    psg = put_files(tmp_path / "age", "SC4001E")
    with monkeypatch.context() as full_disk, pytest.raises(OSError, match="No space left"):
        full_disk.setattr(np, "savez_compressed", _no_space)
        sleep_edf_table([0], nights=[1], folder=tmp_path)
    assert psg.exists()
    sleep_edf_table([0], nights=[1], folder=tmp_path)
    assert not psg.exists()


def test_a_folder_that_was_filled_before_needs_no_recording(tmp_path, monkeypatch):
    psg = put_files(tmp_path / "age", "SC4002E")
    first = sleep_edf_table([0], nights=[2], folder=tmp_path, keep_edf=True)
    assert psg.exists()
    monkeypatch.setattr(age, "fetch_data", None)
    pd.testing.assert_frame_equal(sleep_edf_table([0], nights=[2], folder=tmp_path), first)


def test_a_change_of_definitions_is_noticed_and_the_nights_are_read_again(tmp_path, monkeypatch):
    put_files(tmp_path / "age", "SC4001E")
    sleep_edf_table([0], nights=[1], folder=tmp_path, keep_edf=True)
    read_again = []
    for module in ("sleepstage.dataset.sleep_edf", "sleepstage.dataset.table"):
        monkeypatch.setattr(f"{module}.DEFINITIONS_VERSION", 2)
    monkeypatch.setattr(
        "sleepstage.dataset.sleep_edf.extract_features", lambda n: read_again.append(n) or extract(n)
    )
    sleep_edf_table([0], nights=[1], folder=tmp_path)
    assert len(read_again) == 1


def test_a_damaged_kept_table_is_made_anew(tmp_path, table):
    put_files(tmp_path / "age", "SC4001E")
    kept = tmp_path / "age" / "subject00-night1-wake30-definitions1.npz"
    kept.write_bytes(b"half a table")
    night = sleep_edf_table([0], nights=[1], folder=tmp_path)
    pd.testing.assert_frame_equal(night, table, check_dtype=False, rtol=1e-5)


def test_epochs_without_a_stage_are_kept_or_left_out_by_choice_and_counted(tmp_path, table, caplog):
    place = put_files(tmp_path / "age", "SC4001E").parent
    hypnogram = next(place.glob("*Hypnogram.edf"))
    content = hypnogram.read_bytes()
    content = content.replace(b"Sleep stage 1", b"Sleep stage ?").replace(b"Sleep stage 4", b"Movement time")
    hypnogram.write_bytes(content)
    kept = sleep_edf_table([0], nights=[1], folder=tmp_path, keep_edf=True)
    assert "epochs are movement time or '?': kept as -1" in caplog.text
    counted = ss.describe_nights(kept)["unscored"].item()
    assert (kept["stage"] == -1).sum() == counted > (table["stage"] == 1).sum()
    left = sleep_edf_table([0], nights=[1], folder=tmp_path, keep_unscored=False)
    assert "left out" in caplog.text and len(left) == len(kept) - counted and (left["stage"] >= 0).all()
    assert ss.describe_nights(left)["gaps"].item() > 0


def test_people_of_the_two_studies_are_not_confused(tmp_path):
    put_files(tmp_path / "telemetry", "ST7011J")
    night = sleep_edf_table([0], folder=tmp_path, study="telemetry")
    assert night.index[0][:2] == ("ST01", "ST7011J0")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"subjects": [3, 39, 78]}, r"no subjects \[39, 78\]; expected some of 0 to 82 without 39, 68, 69"),
        ({"subjects": [83]}, r"no subjects \[83\]"),
        ({"subjects": []}, "expected some of 0 to 82"),
        ({"subjects": [22], "study": "telemetry"}, r"no subjects \[22\]; expected some of 0 to 21$"),
        ({"subjects": [13], "nights": [2]}, r"night 2 of subjects \[13\] was lost by the recorder"),
        ({"subjects": [1], "nights": [0]}, r"nights are \[0\], expected 1, 2 or both"),
        ({"subjects": [1], "study": "cassette"}, "expected one of age, telemetry"),
    ],
)
def test_who_does_not_exist_is_named_before_anything_is_downloaded(asked, message, tmp_path, monkeypatch):
    monkeypatch.setattr(age, "fetch_data", None)
    with pytest.raises(ValueError, match=message):
        sleep_edf_table(**asked, folder=tmp_path)


def test_the_night_that_a_person_has_is_taken(tmp_path, caplog):
    put_files(tmp_path / "age", "SC4131E")
    assert sleep_edf_table([13], folder=tmp_path).index.unique("recording").tolist() == ["SC4131E0"]
    assert "night 2 of subject 13 was lost by the recorder" in caplog.text


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"<html>too many downloads</html>")

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("status", [200, 403, 429])
def test_a_page_in_a_recordings_place_is_refused_with_the_way_to_go_on(status, tmp_path, monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    server.status = status
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(age, "fetch_data", functools.partial(age.fetch_data, base_url=address))
    try:
        with pytest.raises(
            RuntimeError, match="(?s)night 1 of subject 5 could not .* By hand: .*sleep-cassette"
        ):
            sleep_edf_table([5], folder=tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert not list(tmp_path.rglob("*.edf")) and not list(tmp_path.rglob("*.npz"))
