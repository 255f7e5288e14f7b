"""Sleep-EDF Expanded, night by night: from the download to a feature table.

The files come from PhysioNet's open bucket, since its own server is slow. MNE's lists say their names and
hashes, and we keep them where MNE does.

A night is 48 MB to download and a tenth of a megabyte as a feature table, so a class downloads once, on one
computer, and shares the tables.

In: the numbers of people and nights. Out: one feature table; each night's own table is kept on disk.
"""

import logging
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pooch
from tqdm.auto import tqdm

from ..features.catalogue import DEFINITIONS_VERSION
from ..features.extract import extract_features
from ..files import write_whole
from ..recordings.recording import read_recording
from .table import collect, describe_nights, drop_unscored, kept_table

log = logging.getLogger(__name__)

SUBJECTS = {"age": sorted({*range(83)} - {39, 68, 69, 78, 79}), "telemetry": [*range(22)]}
"""The people of each study; some numbers were never given."""

MIRROR = "https://physionet-open.s3.amazonaws.com/sleep-edfx/1.0.0"

FOLDERS = {"age": "sleep-cassette", "telemetry": "sleep-telemetry"}
"""Each study's folder there."""

ABSENT_NIGHTS = frozenset({(13, 2), (36, 1), (52, 1)})
"""The nights, (subject, night) of the study of age, that the recorder lost."""


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

    Every night's table is kept in ``<folder>/<study>`` when it is complete. So an interrupted call goes on
    where it was, and a folder that was filled before (on a mounted drive, say) needs no network. A kept table
    that is damaged, or made by other definitions of the features, is made anew from the recording.

    Parameters
    ----------
    subjects : iterable of int
        0 to 82 of the study of age (healthy people at home), 0 to 21 of telemetry (the placebo night).
    nights : iterable of int
        1, 2 or both, for the study of age. The three nights that do not exist (``ABSENT_NIGHTS``) are left
        out, and the log says so, where the person's other night is asked for too.
    folder : str or Path
        Where the tables are kept and the recordings downloaded.
    study : {"age", "telemetry"}
    keep_edf : bool
        Keep the recordings (48 MB each); otherwise each is deleted once its table is saved.
    wake_margin_min : float or None
        As in :func:`sleepstage.read_recording`.
    keep_unscored : bool
        Keep movement time and ``?`` as epochs of stage -1; otherwise they are left out. Either way the log
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
    wanted = _existing(list(subjects), sorted(set(nights)), study)
    folder = Path(folder) / study
    # These names stay as they are: a folder that was filled before must not be downloaded again.
    ending = f"wake{wake_margin_min}-definitions{DEFINITIONS_VERSION}.npz"
    paths = {night: folder / f"subject{night[0]:02d}-night{night[1]}-{ending}" for night in wanted}
    n_absent = sum(not path.is_file() for path in paths.values())
    if n_absent:
        about = f"about {48 * n_absent} MB: {48 * n_absent * 8 / 10 / 60:.0f} minutes at 10 Mbit/s"
        tqdm.write(f"{n_absent} of {len(paths)} nights are still to be read; downloaded, {about}")
    fetched, tables = list[Path](), []

    def read_night(subject: int, night: int) -> pd.DataFrame:
        psg, hypnogram = _fetch(subject, night, study, folder)
        fetched.append(psg)
        return extract_features(read_recording(psg, hypnogram, wake_margin_min=wake_margin_min))

    for asked, path in tqdm(paths.items(), "Sleep-EDF", unit="night", disable=not n_absent):
        tables.append(kept_table(path, partial(read_night, *asked)))
        while fetched and not keep_edf:  # only now that the table is saved: it need not be fetched again
            fetched.pop().unlink()
    table = collect(tables)
    if n_unscored := describe_nights(table)["unscored"].sum():
        done = "kept as -1" if keep_unscored else "left out"
        log.warning("%d of %d epochs are movement time or '?': %s", n_unscored, len(table), done)
    return table if keep_unscored else drop_unscored(table)


def _existing(subjects: list[int], nights: list[int], study: str) -> list[tuple[int, int]]:
    """The (subject, night) that were asked for and exist."""
    if study not in SUBJECTS:
        raise ValueError(f"study is {study!r}, expected one of {', '.join(SUBJECTS)}")
    unknown = [subject for subject in subjects if subject not in SUBJECTS[study]]
    if unknown or not subjects:
        last = SUBJECTS[study][-1]
        absent = ", ".join(str(subject) for subject in range(last) if subject not in SUBJECTS[study])
        but = f" without {absent}, who do not exist" if absent else ""
        raise ValueError(f"there are no subjects {unknown}; expected some of 0 to {last}{but}")
    if study == "telemetry":
        nights = [1]
    if not nights or not set(nights) <= {1, 2}:
        raise ValueError(f"nights are {nights}, expected 1, 2 or both")
    asked = [(subject, night) for subject in dict.fromkeys(subjects) for night in nights]
    lost = sorted(ABSENT_NIGHTS.intersection(asked))
    kept = [night for night in asked if night not in lost]
    if without := sorted({subject for subject, _ in lost} - {subject for subject, _ in kept}):
        raise ValueError(f"night {nights[0]} of subjects {without} was lost by the recorder; take the other")
    for subject, night in lost:
        log.warning("night %d of subject %d was lost by the recorder and is left out", night, subject)
    return kept


def _fetch(subject: int, night: int, study: str, folder: Path) -> tuple[Path, Path]:
    """Paths of a night's recording and hypnogram, downloaded and checked if they are not there."""
    place = folder / "physionet-sleep-data"
    paths = []
    for name, sha1 in _listed(subject, night, study):
        paths.append(place / name)
        if paths[-1].is_file():
            continue
        try:
            write_whole(paths[-1], partial(_download, f"{MIRROR}/{FOLDERS[study]}/{name}", sha1))
        except (OSError, ValueError) as error:  # no connection, no space; another file than the known one
            raise RuntimeError(
                f"night {night} of subject {subject} could not be downloaded: {error}\nThe nights before it "
                "are kept; run this again to go on. By hand: download its two files from "
                f"https://physionet.org/content/sleep-edfx/1.0.0/{FOLDERS[study]}/ and put them into {place}."
            ) from error
    psg, hypnogram = paths
    return psg, hypnogram


def _listed(subject: int, night: int, study: str) -> list[tuple[str, str]]:
    """Names and SHA-1 of a night's recording and hypnogram, as MNE lists them."""
    lists = files("mne.datasets.sleep_physionet")
    if study == "age":
        nights = pd.read_csv(str(lists / "age_records.csv"), index_col=["subject", "night", "record type"])
        kinds = [nights.loc[subject, night, kind] for kind in ("PSG", "Hypnogram")]
        return [(kind["fname"], kind["sha"]) for kind in kinds]
    nights = pd.read_csv(str(lists / "temazepam_records.csv"), index_col=["subject", "drug"])
    listed = nights.loc[subject, "Placebo"]
    return [(listed[f"fname_{kind}"], listed[f"sha_{kind}"]) for kind in ("PSG", "Hypnogram")]


def _download(address: str, sha1: str, file: BinaryIO) -> None:
    """Download into an open file, with a bar, and raise a ValueError if it is not the known file."""
    name = address.rpartition("/")[2]
    with tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False) as bar:  # pooch sets the total
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=60)(address, file, None)
    file.flush()
    if (found := pooch.file_hash(file.name, "sha1")) != sha1:
        raise ValueError(f"what came as {name} has SHA-1 {found}, expected {sha1}")
