"""One word or one path opens any source that the notebooks can work on."""

import numpy as np
import pytest

import sleepstage as ss
from sleepstage.dataset import sources


def test_the_shipped_night_is_computed_once(table, tmp_path, monkeypatch):
    opened = ss.open_table("night", tmp_path / "new")
    features = ss.feature_columns(table)
    np.testing.assert_allclose(opened[features], table[features], rtol=1e-5)
    monkeypatch.setattr(sources, "load_demo", None)
    assert ss.open_table("night", tmp_path / "new").equals(opened)


def test_the_small_cohort_is_whole_nights_of_fourteen_people(tmp_path):
    cohort = ss.open_table("cohort", tmp_path)
    assert cohort.index.unique("subject").tolist() == [2, 6, 10, 17, 19, 23, 27, 35, 50, 64, 70, 73, 76, 80]
    nights = ss.describe_nights(cohort)
    assert len(nights) == 28 and (nights["gaps"] == 0).all() and (nights["unscored"] == 0).all()
    assert nights[list(ss.STAGES)].sum().tolist() == [15124, 4138, 13328, 1804, 4774]
    shares = cohort[[f"{band}_share" for band in ("delta", "theta", "alpha", "sigma", "beta")]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    logs = np.exp(cohort["delta_log_power"] - cohort["beta_log_power"])
    np.testing.assert_allclose(logs, shares["delta_share"] / shares["beta_share"], rtol=1e-3)
    np.testing.assert_allclose(cohort["var_uv2"], cohort["std_uv"] ** 2, rtol=1e-5)
    assert not any(tmp_path.iterdir())


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


def test_the_contest_is_a_source_by_its_name(tmp_path, monkeypatch):
    def fetch(folder):
        for epoch in range(6):
            path = folder / "AISContest_Data" / str(epoch % 3) / f"07-{epoch}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(epoch).random((51, 59)) * 1e-12)
        return folder / "AISContest_Data"

    monkeypatch.setattr(sources, "fetch_contest", fetch)
    contest = ss.open_table("contest", tmp_path)
    assert contest["stage"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_failed_download_of_the_contest_says_how_to_get_it_by_hand(tmp_path, monkeypatch):
    def refused(**settings):
        raise OSError("too many people")

    monkeypatch.setattr("gdown.download", refused)
    with pytest.raises(RuntimeError, match=r"(?s)too many people.*By hand: open https://drive"):
        ss.open_table("contest", tmp_path)


def test_a_damaged_table_of_the_night_is_computed_anew(table, tmp_path, caplog):
    (tmp_path / "features.npz").write_bytes(b"half a table")
    assert ss.open_table("night", tmp_path).index.equals(table.index)
    assert "features.npz" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (False, FileNotFoundError, "expected 'night', 'cohort', 'sleep-edf'"),
        (True, FileNotFoundError, "folder_table"),
    ],
)
def test_a_folder_that_is_no_source_is_named_with_the_way_to_go_on(make, error, message, tmp_path):
    if make:
        (tmp_path / "mine").mkdir()
    with pytest.raises(error, match=message):
        ss.open_table(tmp_path / "mine", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
