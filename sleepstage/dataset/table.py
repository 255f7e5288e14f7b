"""Feature tables on disk, and nights as dictionaries.

A feature table is a DataFrame indexed by ``(subject, recording, epoch)`` with one float column per
feature and ``stage`` (and ``quality``) beside them; see :func:`sleepstage.extract_features`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from ..features.catalogue import (
    DEFINITIONS_VERSION,
    INDEX,
    NIGHT,
    PUBLISHED_N_SAMPLES,
    PUBLISHED_TABLE_COLUMNS,
    RFFT_BANDS_HZ,
    feature_columns,
)
from ..features.spectral import rfft_rest
from ..files import as_numbers, check_exists, read_npz, write_npz
from ..stages import STAGES, UNSCORED
from .splits import check_people

TABLE_KEYS = ("features", "feature_names", "stage", *INDEX)


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
    _check_table(table)
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

    The ten columns of the published 58-subject table, in volts, get this package's names and
    microvolts (:data:`sleepstage.features.catalogue.PUBLISHED_TABLE_COLUMNS`), and ``rfft_rest_uv2``
    beside them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such an ``.npz``, a key is missing, lengths or stage codes do not fit, or its
        features were defined otherwise than now.
    """
    path = Path(path)
    check_exists(path, "a feature table")
    arrays = read_npz(path)
    missing = [key for key in TABLE_KEYS if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} is not a feature table: it lacks {missing}. Expected the keys {list(TABLE_KEYS)}, "
            "as written by save_table."
        )
    version = arrays.get("definitions_version", np.array(DEFINITIONS_VERSION))
    if version.shape != () or version != DEFINITIONS_VERSION:
        raise ValueError(
            f"{path} holds features by the definitions of version {version}, this package has version "
            f"{DEFINITIONS_VERSION}; compute the table anew from the recordings."
        )
    features = as_numbers(arrays["features"], "features", path)
    n_rows, n_columns = arrays["stage"].size, arrays["feature_names"].size
    others = {key: arrays[key].shape for key in ("stage", *INDEX, "quality") if key in arrays}
    if features.shape != (n_rows, n_columns) or set(others.values()) != {(n_rows,)}:
        raise ValueError(
            f"{path}: features have the shape {features.shape}, the others {others}; expected "
            f"({n_rows}, {n_columns}) for {n_columns} names and {n_rows} stages, and ({n_rows},)."
        )
    index = pd.MultiIndex.from_arrays([arrays[name] for name in INDEX], names=INDEX)
    table = pd.DataFrame(features, index=index, columns=arrays["feature_names"].astype(str))
    table = _in_our_units(table)
    table["stage"] = as_numbers(arrays["stage"], "stage", path)
    if "quality" in arrays:
        table["quality"] = arrays["quality"].astype(str)
    _check_table(table)
    return table.astype({"stage": np.int8})


def collect(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several nights into one.

    Raises
    ------
    ValueError
        If there is nothing to join, the columns differ, the same epoch of the same recording comes
        twice, or one recording or person stands under two names
        (:func:`sleepstage.dataset.splits.check_people`).
    """
    tables = list(tables)
    if not tables:
        raise ValueError("got no table, expected at least one night's table from extract_features")
    for table in tables:
        _check_table(table)
        if list(table.columns) != list(tables[0].columns):
            odd = sorted(set(table.columns) ^ set(tables[0].columns)) or "their order"
            raise ValueError(f"the tables do not have the same columns; these differ: {odd}")
    joined = pd.concat(tables)
    twice = joined.index[joined.index.duplicated()]
    if len(twice):
        names = sorted({f"{recording} (subject {subject})" for subject, recording, _ in twice})
        raise ValueError(f"recordings given twice: {names}. Pass each night once.")
    check_people(joined)
    return joined


def describe_nights(table: pd.DataFrame) -> pd.DataFrame:
    """Count what a table holds, night by night.

    Returns
    -------
    pandas.DataFrame, shape (n_recordings, …)
        Indexed by ``(subject, recording)``: ``epochs``; ``gaps``, how often an epoch's number does not follow
        the one before; the epochs of each stage; ``unscored``, those without one; and of each ``quality``
        that occurs, if the table has that column.
    """
    nights = table.groupby(level=NIGHT, sort=False)
    number = table.index.get_level_values("epoch").to_series(index=table.index)
    steps = number.groupby(level=NIGHT, sort=False).diff()
    counts = pd.DataFrame({"epochs": nights.size()})
    counts["gaps"] = (steps.notna() & (steps != 1)).groupby(level=NIGHT, sort=False).sum()
    for code, name in [*enumerate(STAGES), (UNSCORED, "unscored")]:
        counts[name] = nights["stage"].agg(lambda stages, code=code: (stages == code).sum())
    for kind in sorted(table["quality"].unique()) if "quality" in table else ():
        counts[kind] = nights["quality"].agg(lambda quality, kind=kind: (quality == kind).sum())
    return counts


def drop_unscored(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the epochs without a stage: movement time, ``?``, and what no hypnogram covers.

    The others keep their numbers, so that no window of text crosses what is left out. How many there were of
    each night is what :func:`describe_nights` counts before.
    """
    return table[table["stage"] != UNSCORED]


def data_fingerprint(table: pd.DataFrame) -> str:
    """Identify a table by its contents: SHA-256 over index, features (float32, as on disk) and stages."""
    as_on_disk = table.astype(dict.fromkeys(feature_columns(table), np.float32))
    rows = pd.util.hash_pandas_object(as_on_disk, index=True).to_numpy()
    columns = "\n".join(map(str, table.columns)).encode()
    return f"sha256:{hashlib.sha256(columns + rows.tobytes()).hexdigest()}"


def _check_table(table: pd.DataFrame) -> None:
    if tuple(table.index.names) != INDEX:
        raise ValueError(f"the table is indexed by {list(table.index.names)}, expected {list(INDEX)}")
    if "stage" not in table:
        raise ValueError("the table has no column 'stage'; expected stage codes, -1 where unscored")
    unknown = sorted(set(table["stage"].unique().tolist()) - {UNSCORED, *range(len(STAGES))})
    if unknown:
        raise ValueError(f"stage codes {unknown} are not known; expected 0–4 ({', '.join(STAGES)}) or -1")


def _in_our_units(table: pd.DataFrame) -> pd.DataFrame:
    """Published columns in volts become ours in microvolts, with the rest of the power that they imply.

    Any other table stays as it is.
    """
    if set(table.columns) != set(PUBLISHED_TABLE_COLUMNS):
        return table
    scale = {name: factor for name, (_, factor) in PUBLISHED_TABLE_COLUMNS.items()}
    names = {name: ours for name, (ours, _) in PUBLISHED_TABLE_COLUMNS.items()}
    table = (table.astype(np.float64) * pd.Series(scale)).rename(columns=names)
    bands = [table[f"rfft_{band}_uv2"] for band in RFFT_BANDS_HZ]
    return table.assign(
        rfft_rest_uv2=rfft_rest(table["energy_uv2"], table["mean_uv"], bands, PUBLISHED_N_SAMPLES)
    )


def _plain_array(values: pd.Index) -> np.ndarray:
    """An index level as an array that numpy stores without pickle: numbers stay, the rest is text."""
    return values.to_numpy() if values.dtype.kind in "iu" else values.to_numpy().astype(str)


def consecutive_runs(table: pd.DataFrame) -> list[slice]:
    """Give the runs of consecutive epochs as slices of rows; no window of text crosses their ends."""
    recording = table.groupby(level=NIGHT, sort=False).ngroup().to_numpy()
    epoch = table.index.get_level_values("epoch").to_numpy()
    starts = np.flatnonzero((np.diff(recording) != 0) | (np.diff(epoch) != 1)) + 1
    edges = [0, *starts.tolist(), len(table)]
    return [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True) if stop > start]


def export_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write any table with its index as ``.csv`` or ``.parquet``, for a spreadsheet or another language.

    Raises
    ------
    ValueError
        When the path ends otherwise.
    ImportError
        When Parquet is asked for and pyarrow is not installed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".parquet":
        if find_spec("pyarrow") is None:
            raise ImportError("Parquet is written by pyarrow: pip install pyarrow, or write .csv instead")
        table.to_parquet(path, engine="pyarrow")
    elif ending == ".csv":
        table.to_csv(path)
    else:
        raise ValueError(f"cannot export to {path.name!r}; expected a name that ends in .csv or .parquet")
    return path
