"""Sleep-EDF Expanded through MNE: night by night, from download to a row of features for every epoch.

A night is 48 MB to download and a tenth of a megabyte as a feature table, so a class downloads once, on one
computer, and shares the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from mne.datasets.sleep_physionet import age, temazepam
from tqdm.auto import tqdm

from ..features.catalogue import DEFINITIONS_VERSION
from ..features.extract import extract_features
from ..recordings.recording import read_recording
from .table import collect, describe_nights, drop_unscored, load_table, save_table

log = logging.getLogger(__name__)


NIGHT_MB = 48


N_SUBJECTS = {"age": 83, "telemetry": 22}


_PAGES = {
    "age": "https://physionet.org/content/sleep-edfx/1.0.0/sleep-cassette/",
    "telemetry": "https://physionet.org/content/sleep-edfx/1.0.0/sleep-telemetry/",
}


ABSENT_SUBJECTS = frozenset({39, 68, 69, 78, 79})


ABSENT_NIGHTS = frozenset({(13, 2), (36, 1), (52, 1)})
"""Of the study of age: people who do not exist, and (subject, night) that the recorder lost."""


def sleep_edf_table(
    subjects: Iterable[int],
    nights: Iterable[int] = (1, 2),
    folder: str | Path = "data/sleep-edf",
    study: str = "age",
    keep_edf: bool = False,
    wake_margin_min: float | None = 30,
    keep_unscored: bool = True,
) -> pd.DataFrame:
    """Give the feature table of people of Sleep-EDF Expanded, downloading what is not there yet.

    Every night's table is kept in ``<folder>/<study>`` when it is complete, so an interrupted call goes on
    where it was, and a folder that somebody filled before (on a mounted drive, say) needs no network. Tables
    made by other definitions of the features are not taken: their nights are read again.

    Parameters
    ----------
    subjects : iterable of int
        0 to 82 of the study of age (healthy people at home), 0 to 21 of telemetry (the placebo night).
    nights : iterable of int
        1 and 2 for both nights of a person, of the study of age. The three nights that do not exist
        (``ABSENT_NIGHTS``) are left out with a word where the other one is asked for too.
    folder : str or Path
    study : {"age", "telemetry"}
    keep_edf : bool
        Keep the recordings (48 MB each); otherwise each is deleted once its table is written.
    wake_margin_min : float or None
        As in :func:`sleepstage.read_recording`.
    keep_unscored : bool
        Keep movement time and ``?`` as epochs of stage -1; otherwise they are left out. Either way a word
        says how many there are; :func:`sleepstage.describe_nights` counts them by night.

    Returns
    -------
    pandas.DataFrame
        As :func:`sleepstage.extract_features` gives it. Both nights of a person have one ``subject``.

    Raises
    ------
    ValueError
        If a subject or a night does not exist.
    RuntimeError
        If a download fails; the message says how to go on.
    """
    wanted = _existing(list(subjects), list(nights), study)
    folder = Path(folder) / study
    tables = {
        (subject, night): folder
        / f"subject{subject:02d}-night{night}-wake{wake_margin_min}-definitions{DEFINITIONS_VERSION}.npz"
        for subject, night in wanted
    }
    to_fetch = [night for night, path in tables.items() if not path.is_file()]
    if to_fetch:
        size_mb = NIGHT_MB * len(to_fetch)
        tqdm.write(
            f"{len(to_fetch)} of {len(tables)} nights are still to be read; downloaded, about {size_mb} MB: "
            f"{size_mb * 8 / 10 / 60:.0f} minutes at 10 Mbit/s"
        )
    for night in tqdm(to_fetch, desc="Sleep-EDF", unit="night", disable=not to_fetch):
        psg, hypnogram = _fetch(*night, study, folder)
        recording = read_recording(psg, hypnogram, wake_margin_min=wake_margin_min)
        save_table(extract_features(recording), tables[night])
        if not keep_edf:
            psg.unlink()
    table = collect([load_table(path) for path in tables.values()])
    if n_unscored := describe_nights(table)["unscored"].sum():
        done = "kept as -1" if keep_unscored else "left out"
        log.warning("%d of %d epochs are movement time or '?': %s", n_unscored, len(table), done)
    return table if keep_unscored else drop_unscored(table)


def _existing(subjects: list[int], nights: list[int], study: str) -> list[tuple[int, int]]:
    """The (subject, night) that were asked for and exist."""
    if study not in N_SUBJECTS:
        raise ValueError(f"study is {study!r}, expected one of {', '.join(N_SUBJECTS)}")
    absent = ABSENT_SUBJECTS if study == "age" else frozenset()
    unknown = [
        subject for subject in subjects if subject not in range(N_SUBJECTS[study]) or subject in absent
    ]
    if unknown or not subjects:
        raise ValueError(
            f"there are no subjects {unknown}; expected some of 0 to {N_SUBJECTS[study] - 1}"
            + (f" without {', '.join(map(str, sorted(absent)))}, who do not exist" if absent else "")
        )
    if study == "telemetry":
        return [(subject, 1) for subject in dict.fromkeys(subjects)]
    if not nights or not set(nights) <= {1, 2}:
        raise ValueError(f"nights are {nights}, expected 1, 2 or both")
    asked = [(subject, night) for subject in dict.fromkeys(subjects) for night in sorted(set(nights))]
    lost = [night for night in asked if night in ABSENT_NIGHTS]
    kept = [night for night in asked if night not in ABSENT_NIGHTS]
    without = sorted({subject for subject, _ in lost} - {subject for subject, _ in kept})
    if without:
        raise ValueError(
            f"night {nights[0]} of subjects {without} was lost by the recorder; ask for the other"
        )
    for subject, night in lost:
        log.warning("night %d of subject %d was lost by the recorder and is left out", night, subject)
    return kept


def _fetch(subject: int, night: int, study: str, folder: Path) -> tuple[Path, Path]:
    """Paths of a night's recording and hypnogram, downloaded and checked by MNE if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if study == "age":
            files = age.fetch_data([subject], [night], path=folder, verbose="error")
        else:
            files = temazepam.fetch_data([subject], path=folder, verbose="error")
    except (OSError, ValueError) as error:  # no connection; another file than the known one
        raise RuntimeError(
            f"night {night} of subject {subject} could not be downloaded: {error}\nThe nights before it are "
            "kept; run this again to go on. By hand: download its two files from "
            f"{_PAGES[study]} and put them into {folder / 'physionet-sleep-data'}."
        ) from error
    [(psg, hypnogram)] = files
    return Path(psg), Path(hypnogram)
