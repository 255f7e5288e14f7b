"""One word or one path opens any source of nights that the package reads.

In: the word or the path. Out: a feature table without the epochs that have no stage.
"""

from pathlib import Path

import pandas as pd

from ..features.extract import extract_features
from ..files import DATA_DIR
from ..recordings.recording import load_demo
from .contest import fetch_contest, read_contest
from .sleep_edf import sleep_edf_table
from .table import drop_unscored, kept_table, load_table


def load_cohort() -> pd.DataFrame:
    """Load the feature table of the fourteen people that ships: 28 nights of Sleep-EDF, 39,168 scored epochs.

    The adapter that ships learned from other people of the same database. So these nights serve for a split
    by person, and for figures on people that it never saw.

    Returns
    -------
    pandas.DataFrame, shape (39168, 23)
        22 features of the published table (see :func:`load_table`), and ``stage``.
        ``sleepstage/data/README.md`` says where it comes from.
    """
    return load_table(DATA_DIR / "cohort.npz")


def open_table(source: str | Path, folder: str | Path) -> pd.DataFrame:
    """Give the feature table of a source, without the epochs that have no stage.

    Parameters
    ----------
    source : str or Path
        ``"night"``, the night that ships; ``"cohort"``, the small cohort that ships (:func:`load_cohort`);
        ``"sleep-edf"``, both nights of ten people of Sleep-EDF, about 1 GB to download once; ``"contest"``,
        the contest's data, 134 MB to download once (:func:`sleepstage.fetch_contest`); or a path: a feature
        table (``.npz``) of your own or of :func:`sleepstage.folder_table`, or a folder with the contest's
        folders 0 to 4.
    folder : str or Path
        Where the shipped night's table (``features.npz``), or what was downloaded, is kept for the next call.

    Returns
    -------
    pandas.DataFrame
        As :func:`sleepstage.extract_features` gives it.

    Raises
    ------
    FileNotFoundError
        If there is no such table or folder, or a folder is not the contest's.
    ValueError
        If a table is none.
    RuntimeError
        If a download fails; the message says how to do it by hand.
    """
    folder = Path(folder)
    if source == "night":
        return kept_table(folder / "features.npz", lambda: extract_features(load_demo()))
    if source == "cohort":
        return load_cohort()
    if source == "sleep-edf":
        return sleep_edf_table(range(10), folder=folder, keep_unscored=False)
    path = fetch_contest(folder) if source == "contest" else Path(source)
    if path.suffix == ".npz":
        return drop_unscored(load_table(path))
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no {path}; expected 'night', 'cohort', 'sleep-edf', 'contest', a feature table "
            "(.npz), or a folder with the contest's folders 0 to 4"
        )
    return drop_unscored(read_contest(path))
