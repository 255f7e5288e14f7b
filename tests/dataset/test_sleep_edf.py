"""Sleep-EDF, with the shipped night in the place of a download."""

import hashlib
import http.server
import re
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest
from mne.datasets.sleep_physionet import age, temazepam
from test_folder import night_like

import sleepstage as ss
from sleepstage.dataset import sleep_edf
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
    monkeypatch.setattr(sleep_edf, "_fetch", None)
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
    monkeypatch.setattr(sleep_edf, "_fetch", None)
    with pytest.raises(ValueError, match=message):
        sleep_edf_table(**asked, folder=tmp_path)


def test_the_night_that_a_person_has_is_taken(tmp_path, caplog):
    put_files(tmp_path / "age", "SC4131E")
    assert sleep_edf_table([13], folder=tmp_path).index.unique("recording").tolist() == ["SC4131E0"]
    assert "night 2 of subject 13 was lost by the recorder" in caplog.text


class _Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.content.get(self.path.rpartition("/")[2], b"<html>too many downloads</html>")
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        time.sleep(0.3 if half > 100_000 else 0)  # long enough for a bar to show how much is there
        self.wfile.write(content[half:])

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """A server in the bucket's place. It has the files in ``content``, and a page in place of others."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Mirror)
    server.status, server.content, server.asked = 200, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(sleep_edf, "MIRROR", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 403, 429])
def test_a_page_in_a_recordings_place_is_refused_with_the_way_to_go_on(status, tmp_path, mirror):
    mirror.status = status
    with pytest.raises(RuntimeError, match="(?s)night 1 of subject 5 could not .* By hand: .*sleep-cassette"):
        sleep_edf_table([5], folder=tmp_path)
    assert mirror.asked == ["/sleep-cassette/SC4051E0-PSG.edf"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_night_comes_from_the_mirror_with_a_bar_and_only_what_is_not_there(
    tmp_path, mirror, monkeypatch, capsys
):
    night, hypnogram = night_like(0, later=0), ss.demo_paths()[1].read_bytes()
    names = ["SC4051E0-PSG.edf", "SC4051EC-Hypnogram.edf"]
    hashes = [hashlib.sha1(content).hexdigest() for content in (night, hypnogram)]
    mirror.content = dict(zip(names, (night, hypnogram[:-1] + b"?"), strict=True))
    listed = list(zip(names, hashes, strict=True))
    monkeypatch.setattr(sleep_edf, "_listed", lambda *night: listed)
    with pytest.raises(RuntimeError, match="SC4051EC-Hypnogram.edf has SHA-1 .*, expected"):
        sleep_edf_table([5], nights=[1], folder=tmp_path)
    shown = capsys.readouterr().err
    assert re.search(rf"{names[0]}: +\d+%.*/{len(night) / 1e6:.1f}M \[\d\d:\d\d<\d\d:\d\d", shown), shown
    mirror.content[names[1]] = hypnogram
    assert len(sleep_edf_table([5], nights=[1], folder=tmp_path)) > 800
    assert mirror.asked == [f"/sleep-cassette/{name}" for name in (names[0], names[1], names[1])]


@pytest.mark.parametrize(("fetch", "study", "asked"), [(age, "age", 9), (temazepam, "telemetry", 17)])
def test_names_and_hashes_are_those_that_mne_downloads(fetch, study, asked, tmp_path, monkeypatch):
    downloaded = []
    monkeypatch.setattr(fetch, "_fetch_one", lambda name, sha, *_: (downloaded.append((name, sha)), False))
    night = {"recording": [2]} if study == "age" else {}
    fetch.fetch_data([asked], path=tmp_path, **night)
    assert sleep_edf._listed(asked, 2 if study == "age" else 1, study) == downloaded
