"""One word or one path opens any source that the notebooks can work on."""

import numpy as np
import pytest

import sleepstage as ss
from sleepstage.dataset import sources
from sleepstage.dataset.splits import check_no_leakage


def test_the_shipped_night_is_computed_once(table, tmp_path, monkeypatch):
    opened = ss.open_table("night", tmp_path / "new")
    features = ss.feature_columns(table)
    np.testing.assert_allclose(opened[features], table[features], rtol=1e-5)
    monkeypatch.setattr(sources, "load_demo", None)
    assert ss.open_table("night", tmp_path / "new").equals(opened)


def test_ten_people_of_sleep_edf_are_asked_for(table, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "sleep_edf_table", lambda *who, **how: asked.append((who, how)) or table)
    assert ss.open_table("sleep-edf", tmp_path) is table
    assert asked == [((range(10),), {"folder": tmp_path, "keep_unscored": False})]


def test_a_table_of_ones_own_is_opened_without_its_unscored_epochs(table, tmp_path):
    own = table.iloc[:200].copy()
    own.iloc[5:9, own.columns.get_loc("stage")] = -1
    path = ss.save_table(own, tmp_path / "own.npz")
    assert len(ss.open_table(path, tmp_path)) == 196
    assert not (tmp_path / "features.npz").exists()


def test_a_contest_folder_is_read_and_leaves_the_nights_table_alone(table, tmp_path):
    folder = tmp_path / "AISContest_Data"
    for epoch in range(8):
        (folder / str(epoch % 5)).mkdir(parents=True, exist_ok=True)
        power = np.random.default_rng(epoch).random((51, 59)) * 1e-12
        np.save(folder / str(epoch % 5) / f"{epoch // 4:02}-{epoch}.npy", power)
    kept = tmp_path / "kept"
    assert ss.open_table(folder, kept).index.unique("subject").tolist() == ["00", "01"]
    assert ss.open_table("night", kept).index.equals(table.index)
    assert ss.open_table(folder, kept).index.unique("subject").tolist() == ["00", "01"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (False, FileNotFoundError, "expected 'night', 'sleep-edf', a feature table"),
        (True, ValueError, "folder_table"),
    ],
)
def test_a_folder_that_is_no_source_is_named_with_the_way_to_go_on(make, error, message, tmp_path):
    if make:
        (tmp_path / "mine").mkdir()
    with pytest.raises(error, match=message):
        ss.open_table(tmp_path / "mine", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_several_people_are_split_by_subject_and_one_night_by_blocks(table):
    assert ss.split_table(table).equals(ss.split_blocks(table))
    few = table.iloc[:30]
    index = [(f"S{k // 3}", f"R{k // 3}", k % 3) for k in range(30)]
    split = ss.split_table(few.set_index(few.index.from_tuples(index, names=few.index.names)))
    people = {side: split.index[split == side].unique("subject") for side in ("train", "test")}
    assert [len(people["train"]), len(people["test"])] == [8, 2]
    check_no_leakage(people["train"], people["test"])


def test_two_nights_of_one_person_are_both_split_by_blocks(table):
    second = table.rename(index={"SC4001E0": "SC4002E0"}, level="recording")
    split = ss.split_table(ss.collect([table, second.iloc[:600].assign(std_uv=0.0)]))
    assert split.index.get_level_values("recording").value_counts().to_list() == [len(table), 600]
    assert split.xs("SC4001E0", level="recording").tolist() == ss.split_blocks(table).tolist()
    assert split.xs("SC4002E0", level="recording").tolist() == ss.split_blocks(second.iloc[:600]).tolist()
