"""Feature tables: what makes one whole, how several are joined, and how they are kept on disk.

A feature table is a DataFrame indexed by ``(subject, recording, epoch)`` with one float column per
feature and ``stage`` (and ``quality``) beside them; see :func:`sleepstage.extract_features`.
"""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ..features import catalogue
from ..features.catalogue import DEFINITIONS_VERSION, INDEX, META_COLUMNS, NIGHT, feature_columns
from ..features.spectral import rfft_rest
from ..files import as_numbers, check_exists, check_number, naming, read_npz, write_npz, write_whole
from ..recordings.recording import person_in_name
from ..stages import STAGES, UNSCORED, stage_codes

log = logging.getLogger(__name__)

LAST_EPOCH = 1_000_000
"""A year; a picture of a night has room for all epochs up to its last."""

MOST_FEATURES = 10_000
"""A hundred times as many as ours; a table of millions of columns takes a minute to make."""

Values = TypeVar("Values", pd.Series, pd.DataFrame)


def check_index(table: object, one_recording: bool = False) -> None:
    """Refuse an index that is not ``(subject, recording, epoch)``, each epoch once.

    Parameters
    ----------
    table : pandas.DataFrame, pandas.Series or pandas.Index
        A feature table, a hypnodensity or a Series of stages; or the index of one.
    one_recording : bool
        Refuse more than one recording too.

    Raises
    ------
    ValueError
        Saying what came and what was expected.
    """
    index = table if isinstance(table, pd.Index) else getattr(table, "index", None)
    if not isinstance(index, pd.Index):
        said = f"got {type(table).__name__}, expected a feature table"
        raise ValueError(f"{said}; extract_features(recording) makes one of a night")
    if tuple(index.names) != INDEX:
        raise ValueError(f"the table is indexed by {list(index.names)}, expected {list(INDEX)}")
    if any((codes < 0).any() for codes in index.codes):
        raise ValueError("a subject, recording or epoch is missing in the table's index; name them all")
    if (kind := index.get_level_values("epoch").dtype).kind not in "iu":
        raise ValueError(f"the epochs are of type {kind}, expected whole numbers, counted from 0")
    if not index.is_unique:
        *night, epoch = index[index.duplicated()][0]
        said = f"epoch {epoch} of {describe_night(night)} occurs more than once"
        raise ValueError(f"{said}; keep one, or give each recording a name of its own")
    nights = index.droplevel("epoch").unique()
    if one_recording and len(nights) != 1:
        names = ", ".join(map(describe_night, nights[:3]))
        raise ValueError(f"got {len(nights)} recordings, expected one; choose one of them: {names}")


def check_table(table: pd.DataFrame) -> None:
    """Refuse a table whose index (:func:`check_index`) or stages are not those of a feature table.

    Raises
    ------
    ValueError
        Saying what came and what was expected.
    """
    check_index(table)
    if "stage" not in table:
        raise ValueError("the table has no column 'stage'; expected stage codes, -1 where unscored")
    stage_codes(table["stage"])


def consecutive_runs(table: pd.DataFrame) -> list[slice]:
    """Give the runs of consecutive epochs as slices of rows; no window of text crosses their ends.

    A run ends where the recording changes, and where an epoch's number does not follow the one before.

    Raises
    ------
    ValueError
        If there is no row, or the rows are not in order: an epoch's neighbours would be missing.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([["Ann"], ["night 1"], [0, 1, 2, 7, 8]], names=INDEX)
    >>> consecutive_runs(pd.DataFrame(index=index))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    check_index(table)
    if not len(table):
        raise ValueError("the table has no epochs, expected at least one")
    recording = np.diff(table.groupby(level=NIGHT, sort=False).ngroup())  # numbered as they come
    epoch = np.diff(table.index.get_level_values("epoch").to_numpy(np.int64))
    if (disorder := (recording < 0) | ((recording == 0) & (epoch <= 0))).any():
        *night, number = table.index[1 + int(np.argmax(disorder))]
        said = f"epoch {number} of {describe_night(night)} is not in its place"
        raise ValueError(f"{said}; sort the rows: table.sort_index()")
    edges = [0, *(1 + np.flatnonzero((recording != 0) | (epoch != 1))).tolist(), len(table)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def share_within_night(values: Values) -> Values:
    """Give the share of its night's values that lie below each value: (rank − ½) / count.

    Equal values get the middle of the shares that they span, NaN stays NaN and does not count. Unlike the
    values, the shares are the same whatever the amplifier's gain.

    Parameters
    ----------
    values : pandas.Series or pandas.DataFrame, shape (n_epochs,) or (n_epochs, n_columns)
        Indexed by ``(subject, recording, epoch)``.

    Returns
    -------
    The same kind, between 0 and 1.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([["Ann"], ["night 1"], range(4)], names=INDEX)
    >>> share_within_night(pd.Series([30.0, 10.0, 20.0, 20.0], index)).tolist()
    [0.875, 0.125, 0.5, 0.5]
    """
    nights = values.groupby(level=NIGHT, sort=False)
    return (nights.rank() - 0.5) / nights.transform("count")


def describe_night(night: Iterable[object]) -> str:
    """Name a night ``(subject, recording)`` in messages.

    >>> describe_night(("Ann", "night 1"))
    'night 1 (subject Ann)'
    """
    subject, recording = night
    return f"{recording} (subject {subject})"


def save_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a feature table as one ``.npz`` that is read without pickle.

    The file holds ``features`` (n, k) float32, ``feature_names`` (k,), ``stage`` int8, ``subject``,
    ``recording``, ``epoch``, each (n,), and ``quality`` (n,) where the table has it; and
    ``definitions_version``, by which a later package notices what it would compute otherwise. It is written
    beside its final place and moved there when complete, so an interruption leaves no half a file.

    Raises
    ------
    ValueError
        If the index is not ``(subject, recording, epoch)`` or there is no column ``stage``.
    """
    path = Path(path)
    check_table(table)
    names = feature_columns(table)
    arrays: dict[str, np.ndarray] = {
        "features": table[names].to_numpy(np.float32),
        "feature_names": np.array(names),
        "stage": table["stage"].to_numpy(np.int8),
        "definitions_version": np.array(DEFINITIONS_VERSION),
    }
    arrays |= {name: _plain_array(table.index.get_level_values(name)) for name in INDEX}
    if "quality" in table:
        arrays["quality"] = table["quality"].to_numpy(str)
    write_npz(path, arrays)
    return path


def load_table(path: str | Path) -> pd.DataFrame:
    """Read a feature table written by :func:`save_table`, or a published one of the same layout.

    The ten columns of the published 58-subject table, in volts, and the ten without a unit where it has
    them, get this package's names and microvolts
    (:data:`sleepstage.features.catalogue.PUBLISHED_TABLE_COLUMNS`). ``rfft_rest_uv2`` and ``ptp_uv`` follow
    from them and stand beside them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such an ``.npz``, a key is missing, lengths or stage codes do not fit, an epoch
        comes twice or not in its place, there is none, or its features were defined otherwise than now.
    """
    path = Path(path)
    check_exists(path, "a feature table")
    arrays = read_npz(path)
    if missing := {"features", "feature_names", "stage", *INDEX}.difference(arrays):
        raise ValueError(f"{path} is not a feature table as save_table writes it: it lacks {sorted(missing)}")
    version = arrays.get("definitions_version", DEFINITIONS_VERSION)
    if not np.array_equal(version, DEFINITIONS_VERSION):
        said = f"has definitions of version {version}, this package has version {DEFINITIONS_VERSION}"
        raise ValueError(f"{path} {said}; compute the table anew from the recordings")
    features = as_numbers(arrays["features"], "features", path)
    n_rows, n_columns = arrays["stage"].size, arrays["feature_names"].size
    check_number(n_columns, f"{path}: the number of features", 0, MOST_FEATURES)
    others = {key: arrays[key].shape for key in ("stage", *INDEX, "quality") if key in arrays}
    named = arrays["feature_names"].shape
    if features.shape != (n_rows, n_columns) or named != (n_columns,) or set(others.values()) != {(n_rows,)}:
        said = f"features have the shape {features.shape}, feature_names {named}, the others {others}"
        raise ValueError(f"{path}: {said}; expected ({n_rows}, {n_columns}) and ({n_rows},)")
    if len({*arrays["feature_names"].astype(str)}.difference(META_COLUMNS, INDEX)) < n_columns:
        raise ValueError(f"{path}: two features have one name, or one is named as another column")
    epochs = as_numbers(arrays["epoch"], "epoch", path)
    for number in (epochs.min(initial=0), epochs.max(initial=0)):
        check_number(number.item(), f"{path}: an epoch's number", 0, LAST_EPOCH, whole=True)
    index = pd.MultiIndex.from_arrays([arrays[name] for name in INDEX], names=INDEX)
    table = _in_our_units(pd.DataFrame(features, index, arrays["feature_names"].astype(str)))
    table["stage"] = as_numbers(arrays["stage"], "stage", path)
    if "quality" in arrays:
        table["quality"] = arrays["quality"].astype(str)
    table = _one_name_a_person(table)
    with naming(path, "a feature table"):
        check_table(table)
        consecutive_runs(table)
    return table.astype({"stage": np.int8})


def kept_table(path: str | Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Read the table that an earlier call kept at a path, or make it and keep it there.

    A kept table that is damaged, or whose features were defined otherwise than now, is made anew. A warning
    says so, and the old file stays beside the new one with ``.old`` behind its name.

    Parameters
    ----------
    path : str or Path
        Of an ``.npz``, as :func:`save_table` writes it.
    make : callable
        Gives the table.

    Returns
    -------
    pandas.DataFrame
        As :func:`load_table` gives it, whether it was there or not.
    """
    path = Path(path)
    if path.is_file():
        try:
            return load_table(path)
        except ValueError as error:
            old = path.with_name(f"{path.name}.old")
            log.warning("%s It is made anew; the old file is kept as %s.", error, old.name)
            path.replace(old)
    return load_table(save_table(make(), path))


def export_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write any table with its index as ``.csv`` or ``.parquet``, for a spreadsheet or another language.

    Raises
    ------
    ValueError
        When the path ends otherwise.
    """
    path = Path(path)
    writers = {".csv": table.to_csv, ".parquet": table.to_parquet}
    if path.suffix.lower() not in writers:
        raise ValueError(f"cannot export to {path.name!r}; expected a name that ends in .csv or .parquet")
    write_whole(path, writers[path.suffix.lower()])
    return path


def collect(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several nights into one.

    A person whose name is written in several ways (:func:`normal_subject`) gets the first of them.

    Raises
    ------
    ValueError
        If there is nothing to join, the columns differ, the same epoch of the same recording comes
        twice, or one recording or person stands under two names (:func:`check_people`).
    """
    tables = list(tables)
    if not tables:
        raise ValueError("got no table, expected at least one night's table from extract_features")
    for table in tables:
        check_table(table)
        if list(table.columns) != list(tables[0].columns):
            odd = sorted(set(table.columns) ^ set(tables[0].columns)) or "their order"
            raise ValueError(f"the tables do not have the same columns; these differ: {odd}")
    joined = _one_name_a_person(pd.concat(tables))
    check_index(joined.index)
    check_people(joined)
    return joined


def normal_subject(subject: object) -> str:
    """Give the form in which all ways to write a person's name are equal.

    Examples
    --------
    >>> [normal_subject(name) for name in (1, 1.0, "01", "sub-01", "SC4012E0", "Anna", "sub-anna_ses-1")]
    ['1', '1', '1', '1', '1', 'anna', 'anna']
    """
    named = person_in_name(str(subject).strip())
    name = unicodedata.normalize("NFKC", str(subject if named is None else named)).strip().casefold()
    number = re.fullmatch(r"0*(\d+?)(\.0*)?", name)
    return number[1] if number else name


def _one_name_a_person(table: pd.DataFrame) -> pd.DataFrame:
    """Write each person's name in one way, the first in the table; all as whole numbers or all as text."""
    subjects = table.index.unique("subject")
    first: dict[str, Any] = {}
    for subject in subjects:
        if (name := first.setdefault(normal_subject(subject), subject)) != subject:
            log.warning("subjects %r and %r are taken as one person, %r", name, subject, name)
    names = {subject: first[normal_subject(subject)] for subject in subjects}
    if not all(isinstance(subject, Integral) for subject in names.values()):
        names = {subject: normal_subject(name) if isinstance(name, float) else str(name)
                 for subject, name in names.items()}  # fmt: skip
    if [*names] == [*names.values()]:
        return table
    return table.rename(index=names, level="subject")


def check_people(table: pd.DataFrame) -> None:
    """Refuse a table in which a person or a recording has two names: it could be in both parts of a split.

    It finds two nights of one person whose names say so (those of Sleep-EDF and BIDS); two recordings that
    share more than half of their epochs to the last digit; and two recordings that begin within an epoch of
    each other and whose features rise and fall together, as under another gain, polarity, sampling rate or
    some noise. It does not find a copy that begins minutes later and differs in its digits, or the two halves
    of one recording under two names.

    Raises
    ------
    ValueError
        Naming the two.
    """
    features = table[feature_columns(table)].astype(np.float32)
    _check_names(table.index.droplevel("epoch").unique())
    _check_content(features)
    _check_courses(features)


def _check_names(nights: pd.Index) -> None:
    """Refuse two nights of one person, by their names, that carry different subjects."""
    first: dict[int | str, tuple[object, object]] = {}
    for night in nights:
        person = person_in_name(str(night[1]))
        if person is not None and first.setdefault(person, night)[0] != night[0]:
            both = f"{describe_night(first[person])} and {describe_night(night)}"
            raise ValueError(f"{both} are two nights of one person by their names; give one subject to both")


def _check_content(features: pd.DataFrame) -> None:
    """Refuse two recordings that share more than half of their epochs to the last digit."""
    filtered = catalogue.describe_features().query("family == 'filtered'").index  # cut otherwise, they differ
    compared = features[[*features.columns.difference(filtered)] or [*features]]
    content = pd.util.hash_pandas_object(compared, index=False)[compared.notna().any(axis=1)]
    repeated = content[content.duplicated(keep=False)].groupby(level=NIGHT, sort=False).agg(set)
    lengths = features.groupby(level=NIGHT, sort=False).size()
    for (one, contents), (other, others) in combinations(repeated.items(), 2):
        n_shared = len(contents & others)
        if n_shared > min(lengths[one], lengths[other]) / 2:
            said = f"{describe_night(one)} and {describe_night(other)} share {n_shared} epochs"
            raise ValueError(f"{said} to the last digit: they are one recording. Pass each night once.")


_SAME_COURSE = 0.7
"""Two recordings count as one if the mean rank correlation of their features is higher than this.

Any two of 113 nights of Sleep-EDF have .55 at most, half hours of them .62. The shipped night and a copy with
10 or 20 µV of noise have .87 and .75; a copy that begins 10 s later has .89, with 10 µV of noise as well .79.
"""

_COURSE_EPOCHS = 60  # half an hour; the features of shorter recordings may rise and fall together by chance


def _check_courses(features: pd.DataFrame) -> None:
    """Refuse two recordings whose features rise and fall together."""
    nights = features.groupby(level=NIGHT, sort=False)
    lengths = nights.size()
    number, place = nights.ngroup().to_numpy(), nights.cumcount().to_numpy()
    ranks = (share_within_night(features) - 0.5).fillna(0)
    total, n_shared = np.zeros((2, len(lengths), len(lengths)), dtype=np.float32)
    for name in features:
        course = np.zeros((len(lengths), lengths.max()), dtype=np.float32)  # (n_nights, n_epochs)
        course[number, place] = ranks[name]
        size = np.linalg.norm(course, axis=1, keepdims=True)
        total += np.abs(course @ course.T) / np.maximum(size @ size.T, 1e-6)
        n_shared += (size > 0) & (size.T > 0)
    long = np.minimum.outer(lengths.to_numpy(), lengths.to_numpy()) >= _COURSE_EPOCHS
    same = np.argwhere(np.triu(long & (total > _SAME_COURSE * np.maximum(n_shared, 1)), k=1))
    if len(same):
        one, other = map(describe_night, lengths.index[same[0]])
        raise ValueError(
            f"{one} and {other} take the same course in all features: they are one recording, perhaps under "
            "another gain or sampling rate, or with noise. Pass each night once."
        )


def describe_nights(table: pd.DataFrame) -> pd.DataFrame:
    """Count what a table holds, night by night.

    Returns
    -------
    pandas.DataFrame, shape (n_recordings, …)
        Indexed by ``(subject, recording)``: ``epochs``; ``gaps``, how often an epoch's number does not follow
        the one before; the epochs of each stage; ``unscored``, those without one; and of each ``quality``
        that occurs, if the table has that column.
    """
    check_index(table)
    number = table.index.get_level_values("epoch").to_series(index=table.index)
    steps = number.groupby(level=NIGHT, sort=False).diff()
    counted = {"epochs": number.notna(), "gaps": steps.notna() & (steps != 1)}
    for code, name in [*enumerate(STAGES), (UNSCORED, "unscored")]:
        counted[name] = table["stage"] == code
    for kind in sorted(table["quality"].unique()) if "quality" in table else ():
        counted[kind] = table["quality"] == kind
    return pd.DataFrame(counted).groupby(level=NIGHT, sort=False).sum()


def drop_unscored(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the epochs without a stage: movement time, ``?``, and what no hypnogram covers.

    The others keep their numbers, so that no window of text crosses what is left out.
    :func:`describe_nights` counts the epochs without a stage, night by night.
    """
    return table[table["stage"] != UNSCORED]


def data_fingerprint(table: pd.DataFrame) -> str:
    """Identify a table by its contents: SHA-256 over index, features (float32, as on disk) and stages."""
    as_on_disk = table.astype(dict.fromkeys(feature_columns(table), np.float32))
    rows = pd.util.hash_pandas_object(as_on_disk, index=True).to_numpy()
    columns = "\n".join(map(str, table.columns)).encode()
    return f"sha256:{hashlib.sha256(columns + rows.tobytes()).hexdigest()}"


def _in_our_units(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the columns of the published table, in volts, into ours in microvolts; leave any other table."""
    published = catalogue.PUBLISHED_TABLE_COLUMNS
    in_volts = {column for column, (_, factor) in published.items() if factor != 1}
    if not in_volts <= set(table.columns) <= set(published):
        return table
    ours = {published[name][0]: published[name][1] * table[name].astype(float) for name in table.columns}
    bands = [ours[f"rfft_{band}_uv2"] for band in catalogue.RFFT_BANDS_HZ]
    rest = rfft_rest(ours["energy_uv2"], ours["mean_uv"], bands, catalogue.PUBLISHED_N_SAMPLES)
    return pd.DataFrame({**ours, "rfft_rest_uv2": rest, "ptp_uv": ours["max_uv"] - ours["min_uv"]})


def _plain_array(values: pd.Index) -> np.ndarray:
    """An index level as an array that numpy stores without pickle: numbers stay, the rest is text."""
    return values.to_numpy() if values.dtype.kind in "iu" else values.to_numpy().astype(str)
