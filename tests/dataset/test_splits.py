"""Splits leak nothing: neither a person, nor a neighbouring epoch, nor the place in the file."""

import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mne.filter import resample

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


def test_recut_tells_nights_of_one_name_apart():
    table = collect([night_table(subject, "night", range(200)) for subject in (1, 2)])
    lengths = recut(table).groupby(level="subject").size()
    assert lengths[1] != lengths[2] and (lengths >= 80).all()


def test_random_pieces_are_runs_of_two_to_six_hours_of_about_that_share_of_nights():
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


def test_short_pieces_of_one_course_are_no_proof(table):
    numbers = table.drop(columns="quality")
    one, other = two_nights(numbers.iloc[:59], (1, "a"), (2, "b"))
    assert len(collect([one, other])) == 118
    one, other = two_nights(numbers.iloc[:60], (1, "a"), (2, "b"))
    with pytest.raises(ValueError, match="take the same course"):
        collect([one, other])


def test_two_nights_of_a_person_under_two_subjects_are_refused(table):
    numbers = table.drop(columns="quality")
    nights = two_nights(numbers, (1, "SC4011E0"), (99, "SC4012E0"))
    with pytest.raises(ValueError, match=r"SC4011E0 \(subject 1\) and SC4012E0 \(subject 99\) are two"):
        collect(nights)


def test_two_nights_of_a_person_by_the_names_of_bids_are_refused_too(table):
    nights = two_nights(table.drop(columns="quality"), ("a", "sub-7_ses-1_eeg"), ("b", "sub-7_ses-2_eeg"))
    with pytest.raises(ValueError, match=r"sub-7_ses-1_eeg \(subject a\) and sub-7_ses-2_eeg \(subject b\)"):
        collect(nights)


def test_a_table_that_was_never_joined_here_is_checked_before_it_is_split(table):
    nights = two_nights(table.drop(columns="quality"), (1, "SC4011E0"), (99, "SC4012E0"))
    with pytest.raises(ValueError, match="are two nights of one person"):
        split_subjects(pd.concat(nights))


def test_a_recordings_name_in_a_persons_place_hides_nobody():
    check_no_leakage([1, "ST01"], ["SC4021E0", "ST7021J0"])
    with pytest.raises(ValueError, match="subjects 1 are in training and in test"):
        check_no_leakage([1], ["SC4012E0"])
    with pytest.raises(ValueError, match="subjects ST01 are"):
        check_no_leakage(["ST7011J0-PSG"], ["ST7012J0"])


def test_different_nights_of_different_people_are_joined(table):
    numbers = table.drop(columns="quality")
    nights = two_nights(numbers, (1, "SC4011E0"), (2, "SC4021E0"))
    nights[1].iloc[:] = nights[1].to_numpy()[::-1]
    assert len(collect(nights)) == 2 * len(table)
