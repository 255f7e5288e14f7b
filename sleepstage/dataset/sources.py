"""Which nights the notebooks work on: one word, or one path, for every source that the package reads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..features.extract import extract_features
from ..recordings.recording import load_demo
from .contest import read_contest
from .sleep_edf import sleep_edf_table
from .table import drop_unscored, load_table, save_table

TEN_PEOPLE = range(10)


def open_table(source: str | Path, folder: str | Path) -> pd.DataFrame:
    """Give the feature table of a source, without the epochs that have no stage.

    Parameters
    ----------
    source : str or Path
        ``"night"``, the night that ships; ``"sleep-edf"``, both nights of ten people of Sleep-EDF, about 1 GB
        to download once; or a path: a feature table (``.npz``) of your own or of
        :func:`sleepstage.folder_table`, or the contest's folder with the folders 0 to 4.
    folder : str or Path
        Where the night's table (``features.npz``), or what was downloaded, is kept for the next call.

    Returns
    -------
    pandas.DataFrame
        As :func:`sleepstage.extract_features` gives it.

    Raises
    ------
    FileNotFoundError
        If there is no such table or folder.
    ValueError
        If a folder is not the contest's, or a table is none.
    RuntimeError
        If a download fails.
    """
    folder = Path(folder)
    if source == "sleep-edf":
        return sleep_edf_table(TEN_PEOPLE, folder=folder, keep_unscored=False)
    if source != "night":
        source = Path(source)
        return drop_unscored(load_table(source) if source.suffix == ".npz" else _contest(source))
    kept = folder / "features.npz"
    if not kept.exists():
        save_table(extract_features(load_demo()), kept)
    return load_table(kept)


def _contest(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no {folder}; expected 'night', 'sleep-edf', a feature table (.npz), or the contest's "
            "folder (fetch_contest gets it)"
        )
    if not any(folder.glob("[0-4]/*.npy")):
        raise ValueError(
            f"{folder} has no folders 0 to 4 as the contest's has. folder_table makes a table of a folder of "
            "recordings; save it with save_table and name that file"
        )
    return read_contest(folder)
