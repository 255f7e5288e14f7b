"""Tables on disk come back as they were; strange files, and one person under two names, are refused."""

import os
import sys
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mne.filter import resample
from scipy.stats import rankdata

import sleepstage as ss
from sleepstage.dataset import table as dataset
from sleepstage.dataset.table import (
    check_index,
    collect,
    consecutive_runs,
    data_fingerprint,
    describe_nights,
    drop_unscored,
    export_table,
    kept_table,
    load_table,
    save_table,
    share_within_night,
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


@pytest.mark.parametrize("n_columns", [10, 20])
def test_a_published_table_gets_our_names_and_microvolts(n_columns, tmp_path):
    x = 30e-6 * np.random.default_rng(1).normal(size=(4, 3000)) + 2e-6  # volts
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(3000, 0.01)
    bands = {"delta": (0.5, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30)}
    columns = {
        **{"mean": x.mean(1), "std": x.std(1), "var": x.var(1), "min": x.min(1), "max": x.max(1)},
        "energy": (x**2).sum(1),
        **{name: power[:, (hz >= lo) & (hz <= hi)].sum(1) for name, (lo, hi) in bands.items()},
    }
    filtered = [f"{kind}_{band}" for kind in ("log", "rel") for band in (*bands, "sigma")]
    columns |= {name: np.arange(4.0) + i for i, name in enumerate(filtered[: n_columns - 10])}
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
        "ptp_uv": 1e6 * np.ptp(x, axis=1),
    }
    if n_columns == 20:  # these have no unit
        expected |= {f"{band}_log_power": columns[f"log_{band}"] for band in (*bands, "sigma")}
        expected |= {f"{band}_share": columns[f"rel_{band}"] for band in (*bands, "sigma")}
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
        ("features", np.full((6, 3), "1"), "is not an array of numbers"),
        ("epoch", np.arange(5), r"'epoch': \(5,\)"),
        ("subject", np.zeros((6, 1)), r"'subject': \(6, 1\)"),
        ("epoch", np.arange(6, dtype=np.uint64) + 2**63, "an epoch's number is .*, expected a whole number"),
        ("epoch", np.arange(6) - 1, "an epoch's number is -1"),
        ("subject", np.array([1.0, np.nan] * 3), "a subject, recording or epoch is missing"),
        ("feature_names", np.array(["a", "b", "a"]), "two features have one name"),
        ("feature_names", np.array([["a", "b", "c"]]), r"feature_names \(1, 3\)"),
        ("feature_names", np.array(["a", "b", "stage"]), "named as another column"),
        ("quality", np.array(["ok"]), r"'quality': \(1,\)"),
        ("stage", np.int8(0), r"'stage': \(\)"),
        ("stage", np.zeros((6, 1), np.int8), r"'stage': \(6, 1\)"),
        ("stage", np.array([0, 1, 2, 3, 4, 5]), "5 is not a stage code"),
        ("stage", np.array([0, 1, 2, 3, 4, 256]), "256 is not a stage code"),
        ("stage", np.array([0, 1, 2, 3, 4, 0.5]), "0.5 is not a stage code"),
        ("stage", np.array([0, 1, 2, 3, 4, np.nan]), "nan is not a stage code"),
        ("epoch", np.array([0, 1, 2, 3, 5, 4]), "t.npz is not a feature table: epoch 4 .* not in its place"),
        ("recording", np.array(["A", "B"] * 3), "is not in its place; sort the rows"),
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
    with pytest.raises(ValueError, match="9 is not a stage code"):
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
    with pytest.raises(ValueError, match=r"A \(subject 1\) occurs more than once"):
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


def test_an_interrupted_export_leaves_the_old_file(tmp_path, monkeypatch):
    path = export_table(small_table(), tmp_path / "t.csv")
    before = path.read_bytes()

    def interrupted(self, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_table(small_table(2), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["t.csv"]


# ---------------------------------------------------------------- tables that are kept


def test_a_table_is_made_once_and_then_read(tmp_path):
    made = kept_table(tmp_path / "new" / "t.npz", small_table)
    again = kept_table(tmp_path / "new" / "t.npz", lambda: pytest.fail("it was made again"))
    pd.testing.assert_frame_equal(again, made)
    np.testing.assert_allclose(made["std_uv"], small_table()["std_uv"], rtol=1e-6)


@pytest.mark.parametrize("damage", ["cut off", "other definitions", "no table"])
def test_a_kept_table_that_cannot_be_used_is_made_anew_and_the_old_file_stays(
    damage, tmp_path, monkeypatch, caplog
):
    path = save_table(small_table(2), tmp_path / "t.npz")
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no table":
        np.savez(path, x=np.zeros(3))
    else:
        monkeypatch.setattr(dataset, "DEFINITIONS_VERSION", 2)
    old = path.read_bytes()
    made = kept_table(path, small_table)
    assert made.index.unique("subject").tolist() == [1]
    assert "t.npz" in caplog.text and "made anew" in caplog.text
    assert (tmp_path / "t.npz.old").read_bytes() == old
    pd.testing.assert_frame_equal(load_table(path), made)


# ---------------------------------------------------------------- the nights of a table


def test_one_recording_is_asked_for_where_a_night_is_needed():
    check_index(small_table().index, one_recording=True)
    with pytest.raises(ValueError, match=r"got 2 recordings.* A \(subject 1\), B \(subject 1\)"):
        check_index(pd.concat([small_table(), small_table(1, "B")]).index, one_recording=True)
    with pytest.raises(ValueError, match=r"epoch 5 of A \(subject 1\) occurs more than once"):
        check_index(small_table(epochs=(0, 5, 5)).index)


def test_what_is_no_table_is_refused_with_what_makes_one(night):
    for attempt in (
        lambda: ss.Stager.predict_proba(None, night),
        lambda: ss.save_table(night, "night.npz"),
        lambda: ss.collect([night]),
        lambda: ss.split_table(night),
        lambda: ss.describe_nights(night),
        lambda: ss.PromptSpec.fit(night, [ss.Digit("std_uv")]),
    ):
        with pytest.raises(ValueError, match=r"got Recording, expected .* extract_features\(recording\)"):
            attempt()


def test_runs_end_at_gaps_and_recordings():
    def runs(*recordings):
        rows = [(subject, name, epoch) for subject, name, epochs in recordings for epoch in epochs]
        index = pd.MultiIndex.from_tuples(rows, names=["subject", "recording", "epoch"])
        return [(run.start, run.stop) for run in consecutive_runs(pd.DataFrame(index=index))]

    assert runs((1, "A", [0, 1, 2])) == [(0, 3)]
    assert runs((1, "A", [4, 5, 7, 8, 9, 20])) == [(0, 2), (2, 5), (5, 6)]
    assert runs((1, "A", [0, 1]), (1, "B", [2, 3])) == [(0, 2), (2, 4)]  # numbers go on, the night does not
    assert runs((1, "A", [0, 1]), (2, "A", [2, 3])) == [(0, 2), (2, 4)]
    for disorder in ([3, 2, 1], [0, 2, 1]):
        with pytest.raises(ValueError, match=r"of A \(subject 1\) is not in its place.*sort_index"):
            runs((1, "A", disorder))
    with pytest.raises(ValueError, match=r"epoch 2 of A \(subject 1\) is not in its place"):
        runs((1, "A", [0, 1]), (1, "B", [0]), (1, "A", [2]))
    with pytest.raises(ValueError, match="more than once"):
        runs((1, "A", [0, 1, 1]))
    with pytest.raises(ValueError, match="no epochs"):
        consecutive_runs(small_table().iloc[:0])


def test_epochs_that_are_no_whole_numbers_are_refused():
    for epochs in (["0", "1", "2"], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="epochs are of type .*whole numbers"):
            collect([small_table(epochs=epochs)])


def test_shares_are_scipys_ranks_within_each_night():
    night, other = small_table(1, "A", range(50)), small_table(1, "B", range(30))
    columns = ["std_uv", "kurtosis"]
    shares = share_within_night(pd.concat([night, other])[columns])
    for table in (night, other):
        expected = (rankdata(table["std_uv"]) - 0.5) / len(table)
        np.testing.assert_allclose(shares.loc[table.index, "std_uv"], expected)
    pd.testing.assert_frame_equal(share_within_night(1e3 * night[columns] - 7), shares.loc[night.index])
    assert shares["kurtosis"].isna().sum() == 2 and np.nanmin(shares["kurtosis"]) == 0.5 / 49


# ---------------------------------------------------------------- one person, one name


def two_nights(table, *names):
    """The shipped night under other names; the second one's features are moved a little."""
    return [
        (table + 1e-3 * i).assign(stage=table["stage"]).set_axis(
            pd.MultiIndex.from_product([[s], [r], range(len(table))], names=table.index.names)
        )
        for i, (s, r) in enumerate(names)
    ]  # fmt: skip


def test_one_recording_under_two_names_is_refused_even_if_it_was_cut_otherwise(table):
    numbers = table.drop(columns="quality")
    one, _ = two_nights(numbers, (1, "a"), (2, "b"))
    other = one.iloc[100:600].rename(index={1: 2}, level=0).rename(index={"a": "copy"}, level=1)
    with pytest.raises(ValueError, match=r"a \(subject 1\) and copy \(subject 2\) share 500 epochs"):
        collect([one, other])


def test_one_recording_under_another_gain_polarity_and_rate_is_refused(table):
    night = ss.load_demo()
    upsampled = resample(night.eeg_uv.ravel().astype(float), up=128, down=100)
    signal_uv = -1.5 * resample(upsampled, up=100, down=128)[: night.eeg_uv.size]
    copy = replace(night, eeg_uv=signal_uv.reshape(night.eeg_uv.shape), subject=7, recording="copy")
    with pytest.raises(ValueError, match=r"SC4001E0 \(subject 0\) and copy .* take the same course"):
        collect([table, ss.extract_features(copy)])


def test_one_recording_that_begins_ten_seconds_later_with_noise_is_refused(table):
    night = ss.load_demo()
    later_uv = night.eeg_uv.ravel()[1000:-2000].reshape(-1, 3000)
    later_uv = later_uv + 10 * np.random.default_rng(0).standard_normal(later_uv.shape)
    copy = ss.Recording(later_uv, 100, night.stages[:-1], 7, "copy", "Fpz-Cz")
    with pytest.raises(ValueError, match=r"SC4001E0 \(subject 0\) and copy .* take the same course"):
        collect([table, ss.extract_features(copy)])


@pytest.mark.parametrize("part", [slice(40, None), slice(0, 420), slice(420, None)])
def test_one_recording_that_was_read_with_another_margin_is_refused(part, table, night):
    """Log powers are relative to the night's variance, so they differ to the last digit."""
    copy = replace(night, eeg_uv=night.eeg_uv[part], stages=night.stages[part], subject=7, recording="copy")
    with pytest.raises(ValueError, match=r"SC4001E0 \(subject 0\) and copy .* to the last digit"):
        collect([table, ss.extract_features(copy)])


def test_short_pieces_of_one_course_are_no_proof(table):
    numbers = table.drop(columns="quality")
    one, other = two_nights(numbers.iloc[:59], (1, "a"), (2, "b"))
    assert len(collect([one, other])) == 118
    one, other = two_nights(numbers.iloc[:60], (1, "a"), (2, "b"))
    with pytest.raises(ValueError, match="take the same course"):
        collect([one, other])


@pytest.mark.parametrize(
    ("subjects", "shown"),
    [
        ((1, "01"), [1]),
        (("Anna", "anna", "sub-ANNA"), ["Anna"]),
        ((1.0, 2), ["1", "2"]),
        ((1, "Anna"), ["1", "Anna"]),
        ((3, 1, 3), [3, 1]),
        (("01", "sub-01", "1.0"), ["01"]),
        (("Zo\u00eb", "Zoe\u0308"), ["Zo\u00eb"]),
    ],
)
def test_a_person_has_one_name_in_a_table_however_it_is_written(subjects, shown, tmp_path):
    nights = [small_table(subject, f"night {k}") for k, subject in enumerate(subjects)]
    joined = collect(nights)
    assert joined.index.unique("subject").tolist() == shown
    assert len(joined) == 6 * len(subjects)
    assert load_table(save_table(joined, tmp_path / "t.npz")).index.equals(joined.index)
    if len(shown) > 1:
        assert set(ss.split_subjects(joined, 0.5)) == {"train", "test"}


def test_one_night_of_a_person_under_two_ways_to_write_the_name_is_refused():
    with pytest.raises(ValueError, match="occurs more than once"):
        collect([small_table(1, "A"), small_table("01", "A")])


def test_two_nights_of_a_person_under_two_subjects_are_refused(table):
    numbers = table.drop(columns="quality")
    nights = two_nights(numbers, (1, "SC4011E0"), (99, "SC4012E0"))
    with pytest.raises(ValueError, match=r"SC4011E0 \(subject 1\) and SC4012E0 \(subject 99\) are two"):
        collect(nights)


def test_two_nights_of_a_person_by_the_names_of_bids_are_refused_too(table):
    nights = two_nights(table.drop(columns="quality"), ("a", "sub-7_ses-1_eeg"), ("b", "sub-7_ses-2_eeg"))
    with pytest.raises(ValueError, match=r"sub-7_ses-1_eeg \(subject a\) and sub-7_ses-2_eeg \(subject b\)"):
        collect(nights)


def test_different_nights_of_different_people_are_joined(table):
    numbers = table.drop(columns="quality")
    nights = two_nights(numbers, (1, "SC4011E0"), (2, "SC4021E0"))
    nights[1].iloc[:] = nights[1].to_numpy()[::-1]
    assert len(collect(nights)) == 2 * len(table)
