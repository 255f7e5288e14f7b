from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sleepstage import files
from sleepstage.__main__ import main
from sleepstage.evaluation.baselines import majority_baseline
from sleepstage.files import (
    Contents,
    check_replaceable,
    read_json,
    read_npz,
    replacing,
    write_json,
    write_npz,
    write_whole,
)

LETTERS = Contents("a folder of letters", {"a.txt", "b.txt", "mark.json"}.__contains__, "mark.json")


def write(folder: Path, text: str) -> None:
    with replacing(folder, LETTERS) as new:
        (new / "a.txt").write_text(text)
        (new / "mark.json").write_text("{}")


def all_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "deep" / "own", "first")
    (tmp_path / "deep" / "own" / "b.txt").write_text("of before")
    write(tmp_path / "deep" / "own", "second")
    assert all_of(tmp_path) == {"deep/own/a.txt": "second", "deep/own/mark.json": "{}"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "third")
    assert all_of(tmp_path / "empty") == {"a.txt": "third", "mark.json": "{}"}


def test_what_is_no_npz_is_refused_without_advice_to_load_it_unsafely(tmp_path):
    path = tmp_path / "table.npz"
    write_npz(path, {"a": np.arange(3), "b": np.array(["x"])})
    read = read_npz(path)
    assert read["a"].tolist() == [0, 1, 2] and read["b"].tolist() == ["x"]
    path.write_text("hello")
    with pytest.raises(ValueError, match="table.npz is not a complete .npz file") as refused:
        read_npz(path)
    assert "pickle" not in str(refused.value)


def test_what_would_unpack_to_more_than_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    write_npz(tmp_path / "small.npz", {"a": np.zeros(500, np.uint8)})
    write_npz(tmp_path / "large.npz", {"a": np.zeros(500, np.uint8), "b": np.zeros(500, np.uint8)})
    assert (tmp_path / "large.npz").stat().st_size < 1000
    monkeypatch.setattr(files, "LARGEST_BYTES", 1000)
    assert read_npz(tmp_path / "small.npz")["a"].size == 500
    with pytest.raises(ValueError, match="large.npz.*1,256 bytes, expected at most 1,000"):
        read_npz(tmp_path / "large.npz")
    (tmp_path / "large.json").write_text(" " * 5_000_000 + "{}")
    with pytest.raises(ValueError, match="large.json.*5,000,002 bytes"):
        read_json(tmp_path / "large.json")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2_000_001,), "|i1"), ((50_000, 3000), "|i1"), ((1, 2_000_001), "|i1"), ((1,), "<U1001")],
)
def test_zeros_that_would_grow_when_they_are_used_are_refused_before_they_are_unpacked(
    shape, dtype, tmp_path, monkeypatch
):
    """Fifty million epochs of zeros are 290 KB, and took 2.5 GB and 20 s before they were refused."""
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(math.prod(shape) * np.dtype(dtype).itemsize // 1000 + 1):
            file.write(bytes(1000))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match="t.npz.*expected 2,000,000 rows and 125,000,000 values at most"):
        read_npz(path)


def test_text_that_is_stored_as_bytes_is_text(tmp_path):
    write_npz(tmp_path / "t.npz", {"subject": np.array(["Jörg".encode(), b"1"])})
    assert read_npz(tmp_path / "t.npz")["subject"].tolist() == ["Jörg", "1"]


@pytest.mark.parametrize(("shape", "dtype"), [((10**12,), "<f8"), ((2**60, 8), "<f8"), ((10**12,), "|S0")])
def test_an_array_that_is_smaller_than_it_says_is_refused(shape, dtype, tmp_path):
    """numpy asks for all of the memory first."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="t.npz.*is smaller"):
        read_npz(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "a list"), ("{", "property name"), ("[" * 10**5, "recursion depth"), ('{"a": "\xff"}', "codec")],
)
def test_what_is_no_json_object_is_refused_by_name(text, reason, tmp_path):
    (tmp_path / "train.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=f"train.json is not a JSON file.*{reason}"):
        read_json(tmp_path / "train.json")


def test_what_killed_calls_left_is_swept_by_the_next(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [f"a.json.partial{end}" for end in (ended.pid, os.getppid(), "", "1b", 10**20)]
    for name in names:
        (tmp_path / name).touch()
    write_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *names[1:]}


def test_a_link_keeps_leading_to_the_folder(tmp_path):
    write(tmp_path / "drive" / "own", "first")
    (tmp_path / "own").symlink_to(tmp_path / "drive" / "own")
    write(tmp_path / "own", "second")
    assert (tmp_path / "own").is_symlink() and all_of(tmp_path / "drive" / "own")["a.txt"] == "second"


@pytest.mark.parametrize("foreign", ["thesis.docx", ".hidden", "pictures/a.txt", "b.txt/thesis.docx"])
def test_a_folder_with_anything_foreign_is_refused(foreign, tmp_path):
    write(tmp_path / "own", "first")
    (tmp_path / "own" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "own" / foreign).write_text("mine")
    with pytest.raises(ValueError, match=f"holds '{foreign}'.*Nothing was deleted.*does not exist yet"):
        write(tmp_path / "own", "second")
    assert all_of(tmp_path / "own")["a.txt"] == "first"
    assert (tmp_path / "own" / foreign).read_text() == "mine"


def test_a_users_folder_with_our_names_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="no mark.json"):
        write(tmp_path, "second")
    with pytest.raises(ValueError, match="is a file"):
        write(tmp_path / "a.txt", "second")
    assert all_of(tmp_path) == {"a.txt": "mine"}


def test_what_is_still_needed_is_kept(tmp_path):
    write(tmp_path / "own", "first")
    for folder in (tmp_path / "own", tmp_path):
        with pytest.raises(ValueError, match="still needed"):
            check_replaceable(folder, LETTERS, [tmp_path / "own" / "..", tmp_path / "own"])
    check_replaceable(tmp_path / "own", LETTERS, ["owner/name"])  # on a hub, not here


def test_a_block_that_fails_leaves_the_old_folder(tmp_path):
    write(tmp_path / "own", "first")
    with pytest.raises(KeyError), replacing(tmp_path / "own", LETTERS) as new:
        (new / "a.txt").write_text("half")
        raise KeyError
    assert all_of(tmp_path) == {"own/a.txt": "first", "own/mark.json": "{}"}


def test_what_comes_into_the_folder_meanwhile_stays(tmp_path):
    write(tmp_path / "own", "first")
    with pytest.raises(ValueError, match="thesis.docx"), replacing(tmp_path / "own", LETTERS):
        (tmp_path / "own" / "thesis.docx").write_text("mine")
    assert all_of(tmp_path / "own") == {"a.txt": "first", "mark.json": "{}", "thesis.docx": "mine"}


def fail_from(move: int, n_failures: int, monkeypatch) -> None:
    """Let some of the moves fail, counted from 1."""
    moves, really_move = iter(range(1, 100)), Path.replace

    def replace(self, target):
        if move <= next(moves) < move + n_failures:
            raise OSError("the disk is gone")
        return really_move(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("name", ["own", ".own-unfinished", "own-being-replaced"])
def test_a_users_folder_is_neither_emptied_nor_renamed(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    if name == ".own-unfinished":
        write(tmp_path / "own", "new")
    else:
        with pytest.raises(ValueError, match="thesis.txt"):
            write(tmp_path / "own", "new")
    assert (tmp_path / name / "thesis.txt").read_text() == "mine"


def test_a_link_to_a_file_stays_and_what_is_no_file_is_not_written(tmp_path):
    """With the rights of root, as in Colab, ``--out /dev/null`` would replace it by a file."""
    (tmp_path / "drive").mkdir()
    (tmp_path / "a.json").symlink_to(tmp_path / "drive" / "a.json")
    write_json(tmp_path / "a.json", {"b": 1})
    assert (tmp_path / "a.json").is_symlink() and read_json(tmp_path / "drive" / "a.json") == {"b": 1}
    os.mkfifo(tmp_path / "pipe")
    for place in ("pipe", "drive"):
        with pytest.raises(ValueError, match=f"{place} is no file, so nothing was written"):
            write_json(tmp_path / place, {})
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(FileNotFoundError, match="no file .*pipe, expected a JSON file"):
        read_json(tmp_path / "pipe")


@pytest.mark.parametrize("move", [1, 2])
def test_a_move_that_fails_leaves_the_old_folder(move, tmp_path, monkeypatch):
    write(tmp_path / "own", "first")
    fail_from(move, 1, monkeypatch)
    with pytest.raises(OSError, match="disk is gone"):
        write(tmp_path / "own", "second")
    assert all_of(tmp_path) == {"own/a.txt": "first", "own/mark.json": "{}"}


def test_a_kill_between_the_moves_is_mended_by_the_next_call(tmp_path, monkeypatch):
    """Neither the second move nor the way back happens, as after a kill."""
    write(tmp_path / "own", "first")
    with monkeypatch.context() as patch:
        fail_from(2, 2, patch)
        with pytest.raises(OSError, match="disk is gone"):
            write(tmp_path / "own", "second")
    assert all_of(tmp_path / "own-being-replaced")["a.txt"] == "first"
    with pytest.raises(KeyError), replacing(tmp_path / "own", LETTERS):
        raise KeyError
    assert all_of(tmp_path) == {"own/a.txt": "first", "own/mark.json": "{}"}


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    write_json(path, {"kappa": 0.7, "note": "µV"})
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_whole(path, lambda file: file.write(b"half") and {}["gone"])
    with pytest.raises(TypeError):
        write_json(path, {"model": object()})
    assert path.read_bytes() == before and json.loads(before) == {"kappa": 0.7, "note": "µV"}
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_what_a_kill_after_the_moves_left_is_deleted(tmp_path):
    write(tmp_path / "own", "second")
    write(tmp_path / "own-being-replaced", "first")
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"own.partial{ended.pid}" / "weights").mkdir(parents=True)
    write(tmp_path / "own", "third")
    assert all_of(tmp_path) == {"own/a.txt": "third", "own/mark.json": "{}"}
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_the_demo_keeps_a_users_file(tmp_path, capsys, monkeypatch):
    thesis = tmp_path / "lesson" / "adapter" / "thesis.docx"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    quick = SimpleNamespace(predict_proba=lambda table, *_: majority_baseline(table, table))
    monkeypatch.setattr("sleepstage.staging.stager.Stager.from_pretrained", lambda *_: quick)
    monkeypatch.setattr(
        "sleepstage.finetuning.trainer.build_trainer", lambda *_, **__: pytest.fail("it began to train")
    )
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "thesis.docx" in capsys.readouterr().err and thesis.read_text() == "mine"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_offline_bundle_keeps_a_users_folder(tmp_path):
    (tmp_path / "thesis.docx").write_text("mine")
    command = ["make", "offline-bundle", f"BUNDLE={tmp_path}", "PYTHON=false"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode and "name a new folder" in done.stdout
    assert all_of(tmp_path) == {"thesis.docx": "mine"}
