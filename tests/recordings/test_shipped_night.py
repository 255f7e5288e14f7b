"""The shipped night's files."""

import hashlib

import pytest

from sleepstage.recordings import recording as download


def test_demo_paths_are_the_two_shipped_files():
    psg, hypnogram = download.demo_paths()
    assert (psg.name, hypnogram.name) == ("SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf")
    assert hashlib.sha256(psg.read_bytes()).hexdigest() == (
        "0378c8bbee024eaf0cc1d58cc5e6c30e109b39473e88f9c8d6d6bff03d1d06a9"
    )
    assert hashlib.sha256(hypnogram.read_bytes()).hexdigest() == (
        "6b7b09960dc17a6bf2c910259bdc3e764ed660d565c08f754042e96b12d80f2f"
    )


def test_missing_package_data_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DATA_DIR", tmp_path)
    with pytest.raises(
        FileNotFoundError, match="incomplete: .*SC4001E0-PSG.edf has 0 bytes, expected 10,092,768"
    ):
        download.demo_paths()


def test_truncated_package_data_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DATA_DIR", tmp_path)
    (tmp_path / "SC4001E0-PSG.edf").write_bytes(b"0" * 1000)
    with pytest.raises(FileNotFoundError, match="has 1,000 bytes, expected 10,092,768"):
        download.demo_paths()
