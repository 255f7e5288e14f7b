"""Splits without leakage: by subject or by blocks of one night, and nights cut at random.

In: a feature table of some nights. Out: who is for training and who for testing, or the rows that are kept.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from .table import check_index, check_people, consecutive_runs, normal_subject


def split_table(table: pd.DataFrame, test_fraction: float = 0.2, seed: int = 0) -> pd.Series:
    """Split by subject, or where the table holds one person only, each night by blocks of time.

    The two kinds of figures mean different things: :func:`split_subjects` tests on other people,
    :func:`split_blocks` on other parts of the same night.

    Returns
    -------
    pandas.Series of str, shape (n_epochs,)
        ``"train"``, ``"test"``, and for one person ``"gap"``.
    """
    check_index(table)
    if table.index.unique("subject").size > 1:
        return split_subjects(table, test_fraction, seed)
    nights = [split_blocks(night) for _, night in table.groupby(level="recording", sort=False)]
    return pd.concat(nights).reindex(table.index)


def split_subjects(table: pd.DataFrame, test_fraction: float = 0.25, seed: int = 0) -> pd.Series:
    """Assign whole subjects to ``"train"`` or ``"test"``: both nights of a person go to one side.

    Returns
    -------
    pandas.Series of str, shape (n_epochs,)

    Raises
    ------
    ValueError
        If there are fewer than two subjects (:func:`split_blocks` can split one night), or if two subjects
        are one person (:func:`sleepstage.dataset.table.check_people`), who could be on both sides.
    """
    subjects = table.index.get_level_values("subject")
    if subjects.nunique() < 2:
        said = f"got {subjects.nunique()} subject, expected at least 2 to split by subject"
        raise ValueError(f"{said}. A single night can be split by time with split_blocks.")
    check_people(table)
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_fraction, random_state=seed)
    _, test = next(splitter.split(table, groups=subjects))
    split = pd.Series("train", index=table.index, name="split")
    split.iloc[test] = "test"
    return split


def split_blocks(
    table: pd.DataFrame, n_blocks: int = 12, test_every: int = 3, gap_epochs: int = 10
) -> pd.Series:
    """Split one night by blocks of time, with a gap on the training side of every border.

    The night is cut into ``n_blocks`` equal blocks; every ``test_every``-th is for testing. The
    ``gap_epochs`` training epochs next to a test block are left out, since neighbouring epochs are
    alike. Figures from such a split say how well a model stages the other parts of a night that it was
    trained on. They say nothing about other people.

    Returns
    -------
    pandas.Series of str, shape (n_epochs,)
        ``"train"``, ``"test"`` or ``"gap"``.

    Raises
    ------
    ValueError
        If the table holds more than one recording, rows out of order, or too few epochs for the blocks and
        gaps.
    """
    check_index(table, one_recording=True)
    consecutive_runs(table)  # rows out of order would make blocks of anything but time
    if not 2 <= test_every <= n_blocks:
        raise ValueError(f"test_every is {test_every}, expected 2 to n_blocks = {n_blocks}")
    block_length = len(table) // n_blocks
    if block_length <= 2 * gap_epochs:
        said = f"{len(table)} epochs in {n_blocks} blocks make {block_length} epochs a block"
        raise ValueError(f"{said}, expected more than two gaps of {gap_epochs}. Take fewer blocks.")
    block = np.minimum(np.arange(len(table)) // block_length, n_blocks - 1)
    is_test = block % test_every == test_every - 1
    near_test = np.convolve(is_test, np.ones(2 * gap_epochs + 1), mode="same") > 0
    split = np.select([is_test, near_test], ["test", "gap"], default="train")
    return pd.Series(split, index=table.index, name="split")


def partition_subjects(table: pd.DataFrame, subjects: Iterable[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into the nights of these subjects and the nights of all others.

    Raises
    ------
    ValueError
        If a subject is not in the table.
    """
    wanted = _named(subjects)
    present = table.index.get_level_values("subject")
    names = present.map({subject: normal_subject(subject) for subject in present.unique()})
    if unknown := sorted(str(wanted[name]) for name in wanted.keys() - set(names)):
        there = ", ".join(map(str, present.unique()))
        raise ValueError(f"subjects {', '.join(unknown)} are not in the table; it has {there}")
    chosen = names.isin(wanted)
    return table[chosen], table[~chosen]


def first_nights(table: pd.DataFrame) -> pd.DataFrame:
    """Keep of each subject the recording whose name comes first."""
    names = table.index.get_level_values("recording").to_series(index=table.index)
    return table[names == names.groupby(level="subject").transform("min")]


def recut(table: pd.DataFrame, seed: int | np.random.Generator = 1, max_epochs: int = 60) -> pd.DataFrame:
    """Cut a random number of epochs, 0 to ``max_epochs``, off both ends of every recording.

    Sleep-EDF's nights begin half an hour before the first epoch that the expert scored as sleep. So an
    epoch's place in the file says when sleep began; after this cut it does not. Of a short recording, at most
    a quarter is cut off each end. Recordings are taken in the order of their names, and two numbers are drawn
    for each.
    """
    rng = np.random.default_rng(seed)
    epoch = table.index.get_level_values("epoch").to_numpy()
    kept = np.zeros(len(table), dtype=bool)
    for _, rows in sorted(table.groupby(level=["recording", "subject"]).indices.items()):
        first, last = rng.integers(0, min(max_epochs, len(rows) // 4) + 1, size=2)
        place = epoch[rows] - epoch[rows].min()
        kept[rows] = (place >= first) & (place <= place.max() - last)
    return table[kept]


def partial_nights(table: pd.DataFrame, rng: np.random.Generator, share: float) -> pd.DataFrame:
    """Cut some nights down to a random part of two to six hours.

    A feature has another level within a part than within its whole night. A model that is trained on both
    can also stage recordings that begin late or end early.

    Parameters
    ----------
    table : pandas.DataFrame
    rng : numpy.random.Generator
    share : float
        The probability that a night is cut. A night that is shorter than its part stays whole.
    """
    if not share:
        return table
    kept = np.ones(len(table), dtype=bool)
    for _, rows in sorted(table.groupby(level=["recording", "subject"]).indices.items()):
        length = int(rng.integers(240, 721))
        first = int(rng.integers(0, max(1, len(rows) - length + 1)))
        if rng.random() < share:
            kept[rows] = False
            kept[rows[first : first + length]] = True
    return table[kept]


def check_no_leakage(train_subjects: Iterable[Any], test_subjects: Iterable[Any]) -> None:
    """Refuse to test on a person whose nights are in training.

    Subjects are compared in their normal form (:func:`sleepstage.dataset.table.normal_subject`): ``1``,
    ``"01"`` and ``"sub-01"`` are one person, and so is who a recording's name reveals, ``"SC4012E0"``.

    Raises
    ------
    ValueError
        Naming the subjects that are on both sides.

    Examples
    --------
    >>> check_no_leakage([1, 2], [3])
    >>> check_no_leakage([1, 2], ["SC4012E0"])
    Traceback (most recent call last):
    ValueError: subjects 1 are in training and in test; all nights of a person must be on one side
    """
    train = _named(train_subjects)
    if both := sorted(str(train[name]) for name in train.keys() & _named(test_subjects)):
        said = f"subjects {', '.join(both)} are in training and in test"
        raise ValueError(f"{said}; all nights of a person must be on one side")


def _named(subjects: Iterable[Any]) -> dict[str, Any]:
    """Give each subject by the normal form of its name."""
    if isinstance(subjects, str) or not isinstance(subjects, Iterable):  # a text: letter by letter
        raise ValueError(f"subjects are {subjects!r}, expected a list of them, such as [{subjects!r}]")
    return {normal_subject(subject): subject for subject in subjects}
