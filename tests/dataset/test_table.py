"""Tables on disk come back as they were; strange files are refused."""

import os
import sys
import zlib

import numpy as np
import pandas as pd
import pytest

from sleepstage.dataset import table as dataset
from sleepstage.dataset.table import (
    collect,
    data_fingerprint,
    describe_nights,
    drop_unscored,
    export_table,
    load_table,
    save_table,
)

KEYS = {"features", "feature_names", "stage", "subject", "recording", "epoch"}


def small_table(subject=1, recording="A", epochs=(0, 1, 2, 5, 6, 9)):
    index = pd.MultiIndex.from_product(
        [[subject], [recording], epochs], names=["subject", "recording", "epoch"]
    )
    values = np.random.default_rng(zlib.crc32(f"{subject} {recording}".encode())).normal(size=(len(index), 3))
    values[1, 2] = np.nan
    table = pd.DataFrame(values, index=index, columns=["std_uv", "mobility", "kurtosis"])
    quality = ["ok", "flat", *["ok"] * (len(index) - 2)]
    return table.assign(stage=np.resize([0, 1, 2, 3, 4, -1], len(index)).astype(np.int8), quality=quality)


def stored(table):
    """A table's contents as the contract puts them on disk."""
    index = {name: table.index.get_level_values(name).to_numpy() for name in table.index.names}
    index["recording"] = index["recording"].astype(str)
    features = table.drop(columns=["stage", "quality"])
    return {
        "features": features.to_numpy(np.float32),
        "feature_names": features.columns.to_numpy().astype(str),
        "stage": table["stage"].to_numpy(),
        **index,
    }


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("subject", [7, "S-07"])
def test_a_table_comes_back_as_it_was(tmp_path, subject):
    table = small_table(subject)
    loaded = load_table(save_table(table, tmp_path / "new" / "night.npz"))
    features = table.columns[:3]
    np.testing.assert_array_equal(loaded[features], table[features].to_numpy(np.float32))
    assert loaded.index.tolist() == table.index.tolist()
    assert loaded["quality"].tolist() == table["quality"].tolist()
    assert loaded["stage"].tolist() == table["stage"].tolist()
    assert (loaded["stage"].dtype, loaded["std_uv"].dtype) == (np.int8, np.float32)


def test_the_file_holds_what_the_contract_names_and_no_pickle(tmp_path):
    table = small_table()
    with np.load(save_table(table, tmp_path / "t.npz"), allow_pickle=False) as file:
        assert set(file.files) == KEYS | {"quality", "definitions_version"}
        for key, value in stored(table).items():
            np.testing.assert_array_equal(file[key], value)
        assert (file["features"].dtype, file["stage"].dtype) == (np.float32, np.int8)
    with np.load(save_table(table.drop(columns="quality"), tmp_path / "t.npz"), allow_pickle=False) as file:
        assert set(file.files) == KEYS | {"definitions_version"}


def test_a_published_table_gets_our_names_and_microvolts(tmp_path):
    x = 30e-6 * np.random.default_rng(1).normal(size=(4, 3000)) + 2e-6  # volts
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(3000, 0.01)
    bands = {"delta": (0.5, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30)}
    columns = {
        **{"mean": x.mean(1), "std": x.std(1), "var": x.var(1), "min": x.min(1), "max": x.max(1)},
        "energy": (x**2).sum(1),
        **{name: power[:, (hz >= lo) & (hz <= hi)].sum(1) for name, (lo, hi) in bands.items()},
    }
    path = tmp_path / "published.npz"
    np.savez(
        path,
        features=np.stack(list(columns.values()), axis=1).astype(np.float32),
        feature_names=np.array(list(columns)),
        stage=np.array([0, 2, 3, 4], np.int8),
        subject=np.array([2, 2, 6, 6], np.int16),
        recording=np.array(["SC4021E0", "SC4021E0", "SC4061E0", "SC4061E0"]),
        epoch=np.array([0, 1, 0, 1]),
    )
    table = load_table(path)
    expected = {
        **{"mean_uv": 1e6 * x.mean(1), "std_uv": 1e6 * x.std(1), "var_uv2": 1e12 * x.var(1)},
        **{"min_uv": 1e6 * x.min(1), "max_uv": 1e6 * x.max(1), "energy_uv2": 1e12 * (x**2).sum(1)},
        **{f"rfft_{band}_uv2": 1e12 * columns[band] for band in bands},
    }
    within = (hz > 0) & ~np.isin(hz, [4, 8, 13]) & ((hz < 0.5) | (hz > 30))
    twice = np.isin(hz, [4, 8, 13])  # bins that two bands share
    expected["rfft_rest_uv2"] = 1e12 * (power[:, within].sum(1) - power[:, twice].sum(1) - power[:, -1] / 2)
    assert set(table.columns) == {*expected, "stage"}
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-5)
    assert table.index.get_level_values("subject").tolist() == [2, 2, 6, 6]
    again = load_table(save_table(table, tmp_path / "ours.npz"))  # now in our units: not converted twice
    np.testing.assert_allclose(again, table, rtol=1e-6)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_missing_key_is_named(tmp_path, key):
    arrays = stored(small_table())
    del arrays[key]
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=rf"lacks \['{key}'\]"):
        load_table(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("features", np.zeros((6, 2)), r"\(6, 2\).*expected \(6, 3\)"),
        ("features", np.zeros(18), r"\(18,\)"),
        ("features", np.full((6, 3), "1"), "expected an array of numbers"),
        ("epoch", np.arange(5), r"'epoch': \(5,\)"),
        ("subject", np.zeros((6, 1)), r"'subject': \(6, 1\)"),
        ("quality", np.array(["ok"]), r"'quality': \(1,\)"),
        ("stage", np.int8(0), r"'stage': \(\)"),
        ("stage", np.zeros((6, 1), np.int8), r"'stage': \(6, 1\)"),
        ("stage", np.array([0, 1, 2, 3, 4, 5]), r"stage codes \[5\]"),
        ("stage", np.array([0, 1, 2, 3, 4, 256]), r"stage codes \[256\]"),
        ("stage", np.array([0, 1, 2, 3, 4, 0.5]), r"stage codes \[0.5\]"),
        ("stage", np.array([0, 1, 2, 3, 4, np.nan]), r"stage codes \[nan\]"),
        ("recording", np.array(["A", None] * 3, dtype=object), "not a complete .npz file of plain arrays"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, key, value, message):
    np.savez(tmp_path / "t.npz", **stored(small_table()) | {key: value})
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / "t.npz")


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = save_table(small_table(), tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    damaged = tmp_path / "damaged.npz"
    array_in_its_place = (tmp_path / "array.npy").read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    for content in (b"", b"no zip at all", array_in_its_place, whole[:-1], whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="damaged.npz is not a complete .npz"):
            load_table(damaged)
    for content in flipped:  # some flips hit nothing that is read; the others must not surprise
        damaged.write_bytes(content)
        try:
            load_table(damaged)
        except ValueError as error:
            assert "damaged.npz" in str(error)
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load_table(tmp_path / "nowhere.npz")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save_table(small_table(), tmp_path / "t.npz")
    before = path.read_bytes()

    def interrupted(file, **arrays):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_table(small_table(2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.npz"]


def test_a_table_that_breaks_the_contract_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="expected .'subject', 'recording', 'epoch'"):
        save_table(small_table().reset_index(drop=True), tmp_path / "t.npz")
    with pytest.raises(ValueError, match="no column 'stage'"):
        save_table(small_table().drop(columns="stage"), tmp_path / "t.npz")
    with pytest.raises(ValueError, match=r"stage codes \[9\]"):
        save_table(small_table().assign(stage=9), tmp_path / "t.npz")
    assert not (tmp_path / "t.npz").exists()


def test_a_table_by_other_definitions_is_refused(tmp_path, monkeypatch):
    path = save_table(small_table(), tmp_path / "t.npz")
    monkeypatch.setattr(dataset, "DEFINITIONS_VERSION", 2)
    with pytest.raises(ValueError, match="definitions of version 1, this package has version 2; compute"):
        load_table(path)


def test_nights_are_counted_by_stage_gap_and_quality():
    counts = describe_nights(collect([small_table(), small_table(2, "B", range(4))]))
    first = {"epochs": 6, "gaps": 2, "W": 1, "N1": 1, "N2": 1, "N3": 1, "REM": 1, "unscored": 1}
    assert counts.loc[(1, "A")].to_dict() == first | {"flat": 1, "ok": 5}
    assert counts.loc[(2, "B"), ["epochs", "gaps", "unscored", "ok"]].tolist() == [4, 0, 0, 3]
    assert "ok" not in describe_nights(small_table().drop(columns="quality"))


def test_epochs_without_a_stage_leave_a_gap():
    kept = drop_unscored(small_table())
    assert kept.index.get_level_values("epoch").tolist() == [0, 1, 2, 5, 6]
    assert (kept["stage"] >= 0).all()


def test_collect_joins_nights_in_their_order():
    nights = [small_table(2, "B"), small_table(1, "A"), small_table(1, "C")]
    joined = collect(iter(nights))
    assert joined.index.tolist() == [row for night in nights for row in night.index]
    pd.testing.assert_frame_equal(joined.loc[[1]], collect(nights[1:]))


def test_collect_refuses_what_does_not_join():
    with pytest.raises(ValueError, match=r"these differ: \['extra'\]"):
        collect([small_table(1), small_table(2).assign(extra=0.0)])
    with pytest.raises(ValueError, match=r"given twice: \['A \(subject 1\)', 'B \(subject 2\)'\]"):
        collect([small_table(1, "A"), small_table(2, "B"), small_table(1, "A"), small_table(2, "B")])
    with pytest.raises(ValueError, match="got no table"):
        collect([])


def test_the_fingerprint_follows_the_contents_and_not_the_file(tmp_path):
    table = small_table()
    fingerprint = data_fingerprint(table)
    reloaded = load_table(save_table(table, tmp_path / "t.npz"))
    assert data_fingerprint(reloaded) == data_fingerprint(table.copy()) == fingerprint
    value, stage, epoch = table.copy(), table.copy(), small_table(epochs=(0, 1, 2, 5, 6, 10))
    value.iloc[3, 1] += 1e-3
    stage.iloc[3, 3] = 4
    others = [value, stage, epoch, table.rename(columns={"mobility": "complexity"}), table.iloc[::-1]]
    assert len({fingerprint, *map(data_fingerprint, others)}) == 6


@pytest.mark.parametrize("name", ["table.csv", "table.CSV", "table.parquet"])
def test_exported_table_is_read_back_by_pandas(tmp_path, name):
    table = small_table()
    path = export_table(table, tmp_path / name)
    read = pd.read_parquet if path.suffix == ".parquet" else lambda p: pd.read_csv(p, index_col=[0, 1, 2])
    pd.testing.assert_frame_equal(read(path), table, check_dtype=path.suffix == ".parquet")


def test_other_endings_and_a_missing_pyarrow_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'table.xlsx'; expected a name that ends in .csv or .parquet"):
        export_table(small_table(), tmp_path / "table.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="install.* pyarrow"):
        export_table(small_table(), tmp_path / "table.parquet")
    assert list(tmp_path.iterdir()) == []
