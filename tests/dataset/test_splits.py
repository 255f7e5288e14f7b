"""Splits leak nothing: neither a person, nor a neighbouring epoch, nor the place in the file."""

import zlib

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.dataset.splits import (
    check_no_leakage,
    partial_nights,
    partition_subjects,
    recut,
    split_blocks,
    split_subjects,
)
from sleepstage.dataset.table import collect
from sleepstage.stages import STAGES


def night_table(subject=1, recording="A", epochs=range(6)):
    index = pd.MultiIndex.from_product(
        [[subject], [recording], epochs], names=["subject", "recording", "epoch"]
    )
    values = np.random.default_rng(zlib.crc32(f"{subject} {recording}".encode())).random(len(index))
    return pd.DataFrame({"std_uv": values, "stage": np.int8(0)}, index=index)


def test_both_nights_of_a_person_are_on_one_side():
    nights = [(subject, f"{subject}-{n}") for subject in range(8) for n in (1, 2)]
    table = collect(night_table(subject, recording) for subject, recording in nights)
    split = split_subjects(table, test_fraction=0.25, seed=3)
    sides = split.groupby(level="subject").unique().map(list)
    assert sorted(sides) == [["test"]] * 2 + [["train"]] * 6
    assert split.index.equals(table.index)
    pd.testing.assert_series_equal(split, split_subjects(table, test_fraction=0.25, seed=3))
    assert any(not split.equals(split_subjects(table, seed=seed)) for seed in range(4, 10))


def test_one_person_cannot_be_split_by_person():
    both_nights = collect([night_table(1, "A"), night_table(1, "B")])
    with pytest.raises(ValueError, match="got 1 subject, expected at least 2"):
        split_subjects(both_nights)


@pytest.mark.parametrize(("n_epochs", "n_blocks", "gap"), [(841, 12, 10), (300, 7, 3), (100, 6, 0)])
def test_blocks_are_contiguous_and_training_keeps_its_distance(n_epochs, n_blocks, gap):
    table = night_table(epochs=range(n_epochs))
    split = split_blocks(table, n_blocks=n_blocks, gap_epochs=gap).to_numpy()
    assert set(split) == {"train", "test", *["gap"] * bool(gap)}
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    distance = np.abs(train[:, None] - test).min(axis=1)
    assert distance.min() == gap + 1
    skipped = np.flatnonzero(split == "gap")
    assert (np.abs(skipped[:, None] - test).min(axis=1) <= gap).all()  # and nothing is left out in vain
    starts = test[np.diff(test, prepend=-9) > 1]
    length = n_epochs // n_blocks
    assert starts.tolist() == [block * length for block in range(2, n_blocks, 3)]


def test_the_shipped_night_has_every_stage_on_both_sides(table):
    stages = table["stage"].groupby(split_blocks(table)).unique()
    for side in ("train", "test"):
        assert set(stages[side]) >= set(range(len(STAGES)))


def test_what_cannot_be_split_by_blocks_is_refused():
    with pytest.raises(ValueError, match="got 2 recordings, expected one"):
        split_blocks(collect([night_table(1, "A"), night_table(1, "B")]))
    with pytest.raises(ValueError, match="240 epochs in 12 blocks make 20 epochs a block"):
        split_blocks(night_table(epochs=range(240)))


@pytest.mark.parametrize("test_every", [1, 13])
def test_split_without_training_or_without_test_is_refused(table, test_every):
    with pytest.raises(ValueError, match=f"test_every is {test_every}, expected 2 to n_blocks = 12"):
        split_blocks(table, test_every=test_every)


def test_recut_draws_two_numbers_a_recording_in_sorted_order():
    """Worked by hand with numpy's generator, as the rule for the published table says."""
    nights = [night_table(2, "SC4022", range(500)), night_table(2, "SC4021", range(10, 510))]
    cut = recut(collect(nights), seed=1)
    rng = np.random.default_rng(1)
    for recording, first in (("SC4021", 10), ("SC4022", 0)):
        start, end = rng.integers(0, 61, size=2)
        epochs = cut.xs(recording, level="recording").index.get_level_values("epoch")
        assert epochs.tolist() == list(range(first + start, first + 500 - end))


def test_recut_without_margin_changes_nothing():
    table = collect([night_table(1, "A"), night_table(2, "B", [0, 1, 5])])
    pd.testing.assert_frame_equal(recut(table, max_epochs=0), table)


def test_recut_leaves_at_least_half_of_a_short_night():
    table = collect([night_table(n, f"n{n}", [*range(n), 900]) for n in (1, 2, 7, 30)])
    for seed in range(50):
        left = recut(table, seed, max_epochs=480).groupby(level="subject").size()
        assert (left >= (left.index + 1) / 2).all() and len(left) == 4


def test_partition_takes_people_by_name_whatever_their_type():
    table = collect([night_table(subject, f"n{subject}") for subject in (1, 2, 12)])
    chosen, others = partition_subjects(table, ["2", 12])
    assert chosen.index.unique("subject").tolist() == [2, 12]
    assert others.index.unique("subject").tolist() == [1]
    with pytest.raises(ValueError, match="subjects 3 are not in the table; it has 1, 2, 12"):
        partition_subjects(table, [3, 1])


def test_a_person_on_both_sides_is_named():
    check_no_leakage([1, 2], [3, "S-1"])
    with pytest.raises(ValueError, match="subjects 2, S-1 are in training and in test"):
        check_no_leakage([1, 2, "S-1"], ["S-1", "2", 3])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[(1, "01"), (1, 1.0), ("Anna", "anna"), ("sub-01", "01"), ("sub-7_task-sleep_run-1_eeg", 7)],
        *[(" 1", "1"), ("Sub-01", "sub-1"), (" SUB-anna", "Anna"), ("sc4012e0-psg", "SC4011E0")],
    ],
)
def test_a_person_is_known_however_the_name_is_written(one, other):
    with pytest.raises(ValueError, match="in training and in test"):
        check_no_leakage([one], [other])
    chosen, _ = partition_subjects(night_table(one), [other])
    assert len(chosen) == 6


@pytest.mark.parametrize("subjects", ["anna", 5, None])
def test_a_name_in_a_lists_place_is_not_taken_letter_by_letter(subjects):
    with pytest.raises(ValueError, match="expected a list of them"):
        check_no_leakage(["anna", 5], subjects)
    with pytest.raises(ValueError, match="expected a list of them"):
        partition_subjects(night_table("a"), subjects)


def test_rows_out_of_order_are_not_split_by_blocks(table):
    with pytest.raises(ValueError, match="is not in its place; sort the rows"):
        split_blocks(table.sample(frac=1, random_state=0))


def test_recut_tells_nights_of_one_name_apart():
    table = collect([night_table(subject, "night", range(200)) for subject in (1, 2)])
    lengths = recut(table).groupby(level="subject").size()
    assert lengths[1] != lengths[2] and (lengths >= 80).all()


def test_partial_nights_are_runs_of_two_to_six_hours_of_about_that_share_of_nights():
    table = collect([night_table(subject, f"n{subject}", range(1000)) for subject in range(60)])
    kept = partial_nights(table, np.random.default_rng(0), share=0.5)
    lengths = kept.groupby(level="subject").size()
    pieces = lengths[lengths < 1000]
    assert 20 < len(pieces) < 40 and pieces.between(240, 720).all()
    for subject in pieces.index:
        assert (np.diff(kept.loc[subject].index.get_level_values("epoch")) == 1).all()
    pd.testing.assert_frame_equal(partial_nights(table, np.random.default_rng(0), share=0.0), table)


def test_a_night_shorter_than_its_piece_stays_whole():
    table = night_table(1, "nap", range(100))
    pd.testing.assert_frame_equal(partial_nights(table, np.random.default_rng(0), share=1.0), table)


def test_a_person_under_two_names_is_found_before_a_split():
    with pytest.raises(ValueError, match="are two nights of one person"):
        split_subjects(pd.concat([night_table(1, "SC4011E0"), night_table(99, "SC4012E0")]))


def test_a_recordings_name_in_a_persons_place_hides_nobody():
    check_no_leakage([1, "ST01"], ["SC4021E0", "ST7021J0"])
    with pytest.raises(ValueError, match="subjects 1 are in training and in test"):
        check_no_leakage([1], ["SC4012E0"])
    with pytest.raises(ValueError, match="subjects ST7011J0-PSG are"):
        check_no_leakage(["ST7011J0-PSG"], ["ST7012J0"])


def test_several_people_are_split_by_subject_and_one_night_by_blocks(table):
    assert ss.split_table(table).equals(ss.split_blocks(table))
    few = table.iloc[:30]
    index = [(f"S{k // 3}", f"R{k // 3}", k % 3) for k in range(30)]
    split = ss.split_table(few.set_index(few.index.from_tuples(index, names=few.index.names)))
    people = {side: split.index[split == side].unique("subject") for side in ("train", "test")}
    assert [len(people["train"]), len(people["test"])] == [8, 2]
    check_no_leakage(people["train"], people["test"])


def test_two_nights_of_one_person_are_both_split_by_blocks(table):
    second = table.iloc[::-1].set_axis(table.index).rename(index={"SC4001E0": "SC4002E0"}, level="recording")
    split = ss.split_table(ss.collect([table, second.iloc[:600].assign(std_uv=0.0)]))
    assert split.index.get_level_values("recording").value_counts().to_list() == [len(table), 600]
    assert split.xs("SC4001E0", level="recording").tolist() == ss.split_blocks(table).tolist()
    assert split.xs("SC4002E0", level="recording").tolist() == ss.split_blocks(second.iloc[:600]).tolist()
