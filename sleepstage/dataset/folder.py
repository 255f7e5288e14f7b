"""A folder of recordings becomes one feature table, night by night.

In: the folder and a pattern of its files' names. Out: the table, and why the other recordings are not in it.
"""

import glob
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from ..features.extract import extract_features
from ..recordings.recording import read_recording
from .table import collect, drop_unscored, kept_table

log = logging.getLogger(__name__)

_FIELD = re.compile(r"{(\w+)}")


def folder_table(
    folder: str | Path,
    psg: str,
    hypnogram: str | None = None,
    tables: str | Path = "data/tables",
    keep_unscored: bool = True,
    **settings: Any,
) -> tuple[pd.DataFrame, pd.Series]:
    """Read every recording of a folder and give one feature table, and what could not be read.

    Nights are worked on through joblib: one by one by default, side by side inside
    ``with joblib.parallel_config(n_jobs=2):``, on a cluster with ``backend="dask"``. Each night's table is
    kept in `tables` as soon as it is complete, so an interrupted call goes on where it was. A recording is
    read again if it has changed, if its kept table is damaged, or if that was made by other definitions of
    the features.

    Parameters
    ----------
    folder : str or Path
    psg : str
        Where recordings lie in the folder: ``"sub-{subject}/ses-{recording}/eeg/*_eeg.edf"``. ``{subject}``
        and ``{recording}`` stand for part of a file's or folder's name, ``*`` for anything within one,
        ``**/`` for any folders. Without ``{subject}``, both are taken from the file's name as in
        :func:`sleepstage.read_recording`.
    hypnogram : str, optional
        The same for the hypnogram of a recording, with the same names, such as
        ``"sub-{subject}/ses-{recording}/eeg/*_events.tsv"``, and ``{stem}`` for the recording's file name
        without its ending. Exactly one file must fit. None for nights that nobody scored.
    tables : str or Path
        Folder for the nights' tables.
    keep_unscored : bool
        Keep epochs without a stage, as -1; otherwise they are left out (:func:`sleepstage.drop_unscored`).
    **settings
        Of :func:`sleepstage.read_recording`, the same for every night: ``channel``, ``wake_margin_min``,
        ``gain``, ``lights_off``.

    Returns
    -------
    table : pandas.DataFrame
        As :func:`sleepstage.extract_features` gives it; :func:`sleepstage.describe_nights` counts what it
        has.
    failed : pandas.Series of str
        By the recording's path, why it is not in the table.

    Raises
    ------
    FileNotFoundError
        If no file fits `psg`.
    ValueError
        If not one of them could be read, or one recording or person stands under two names.
    """
    folder, tables = Path(folder), Path(tables)
    found = list(_matches(folder, psg))
    if not found:
        raise FileNotFoundError(
            f"no file in {folder.resolve()} fits {psg!r}; its first files are "
            f"{[path.relative_to(folder).as_posix() for path in _files(folder)][:3]}"
        )

    def read_night(path: Path, names: dict[str, str]) -> pd.DataFrame | str:
        """Give a night's table, kept or made, or say why there is none."""
        try:
            scored = None if hypnogram is None else _hypnogram_of(folder, path, names, hypnogram)
            files = [(file, file.stat()) for file in (path, scored) if file]
            versions = [(str(file), seen.st_size, seen.st_mtime_ns) for file, seen in files]
            options = settings | names
            kept = tables / f"{path.stem}-{joblib.hash((versions, options))[:12]}.npz"
            return kept_table(kept, lambda: extract_features(read_recording(path, scored, **options)))
        except (ValueError, OSError) as error:
            return str(error)

    results = Parallel(return_as="generator")(delayed(read_night)(*night) for night in found)
    results = tqdm(results, "reading", len(found), unit="night")
    done = {str(path): result for (path, _), result in zip(found, results, strict=True)}
    reasons = {path: result for path, result in done.items() if isinstance(result, str)}
    failed = pd.Series(reasons, name="reason", dtype=object)
    for path, reason in failed.items():
        log.warning("left out: %s", reason if path in reason else f"{path}: {reason}")
    if len(failed) == len(found):
        raise ValueError(f"none of {len(found)} recordings could be read; the first: {failed.iloc[0]}")
    table = collect(result for result in done.values() if not isinstance(result, str))
    return table if keep_unscored else drop_unscored(table), failed


def _hypnogram_of(folder: Path, path: Path, names: dict[str, str], pattern: str) -> Path:
    """Find the one file that fits the hypnogram's pattern, filled in with a recording's names."""
    known = {**names, "stem": path.stem}
    _check_fields(pattern, known)
    wanted = _FIELD.sub(lambda field: glob.escape(known[field[1]]), pattern)
    fitting = sorted(folder.glob(wanted))
    if len(fitting) != 1:
        raise ValueError(f"{len(fitting)} files fit the hypnogram's pattern {wanted!r}, expected one")
    return fitting[0]


def _matches(folder: Path, pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give the files that fit a pattern, with the names found in their paths."""
    _check_fields(pattern, ("subject", "recording"))
    regex = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    for name in ("subject", "recording"):
        field = re.escape(f"{{{name}}}")
        regex = regex.replace(field, f"(?P<{name}>[^/]+?)", 1).replace(field, f"(?P={name})")
    for path in _files(folder):
        if fits := re.fullmatch(regex, path.relative_to(folder).as_posix()):
            yield path, fits.groupdict()


def _check_fields(pattern: str, known: Iterable[str]) -> None:
    if unknown := set(_FIELD.findall(pattern)).difference(known):
        raise ValueError(f"the pattern {pattern!r} has {sorted(unknown)}, known are {sorted(known)}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
