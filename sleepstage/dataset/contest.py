"""The contest data (AISContest_Data): one file an epoch in five folders, most of them spectrograms.

A file ``<stage>/<subject>-<epoch>.npy`` holds a power spectrogram of 51 frequencies (0–50 Hz, 1 Hz apart) ×
59 or 60 times, in V²/Hz, and no signal; so an epoch has spectral features, and none of the time domain. Files
of 3,000 samples are read as what they are, a signal in volts. No licence to pass the data on is known: they
are fetched by whoever uses them.


Archives: fetched whole or not at all, checked before they are trusted, unpacked where they belong."""

from __future__ import annotations

import inspect
import logging
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from tokenize import TokenError

import gdown
import numpy as np
import pandas as pd
from gdown import exceptions as gdown_exceptions
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..features.catalogue import BANDS_HZ, INDEX, describe_features
from ..features.extract import extract_features
from ..features.spectral import spectrum_features
from ..recordings.quality import check_peak_to_peak, check_unit
from ..recordings.recording import N_SAMPLES, SFREQ_HZ, Recording

log = logging.getLogger(__name__)


# Of a sleeper's EEG, whose deviations in 30 s are nearly normal.
PEAK_TO_PEAK_PER_DEVIATION = 7


CONTEST_FOLDER = "AISContest_Data"


DRIVE_ID = "1Y2cTYR_t_10NAbznspE5bBjuATPdTgtq"


N_FILES = 5813


SPECTROGRAM_SHAPES = ((51, 59), (51, 60))


_MEMBER = re.compile(rf"{CONTEST_FOLDER}/[0-4]/[^/\\]+\.npy")


_FILE_NAME = re.compile(r"(?P<subject>.+)-(?P<epoch>\d+)")


def fetch_contest(folder: str | Path = "data", url: str | None = None) -> Path:
    """Get the contest data: unpacked already, as a zip put there by hand, or downloaded (134 MB).

    Parameters
    ----------
    folder : str or Path
        Where ``AISContest_Data.zip`` and ``AISContest_Data/`` lie or will lie.
    url : str, optional
        Another source than the contest's Google Drive.

    Returns
    -------
    Path
        The folder with the folders 0 to 4.

    Raises
    ------
    RuntimeError
        If the download fails; started again, it goes on where it was.
    ValueError
        If what came is not the archive; the message says how to get it by hand.
    """
    folder = Path(folder)
    unpacked, archive = folder / CONTEST_FOLDER, folder / f"{CONTEST_FOLDER}.zip"
    if unpacked.is_dir():
        return unpacked
    how_else = (
        f"By hand: open https://drive.google.com/file/d/{DRIVE_ID}/view in a browser, download the file, "
        f"put it at {archive} and run this again. When Google says that too many people fetched it, a day's "
        "wait helps."
    )
    by_hand = archive.is_file()
    if not by_hand:
        fetch(archive, how_else, **({"url": url} if url else {"id": DRIVE_ID}))
    try:
        check_zip(archive, how_else, N_FILES, _is_member)
    except ValueError:
        if not by_hand:
            archive.unlink()  # so that running this again fetches it again
        raise
    unpack(archive, unpacked, _is_member)
    return unpacked


def read_contest(folder: str | Path) -> pd.DataFrame:
    """Turn the folders 0 to 4 into a feature table.

    Parameters
    ----------
    folder : str or Path
        Holds folders named by the stages' codes (0 W, 1 N1, 2 N2, 3 N3, 4 REM), with one file an epoch,
        ``<subject>-<epoch>.npy``.

    Returns
    -------
    pandas.DataFrame
        A feature table as :func:`sleepstage.extract_features` gives it. Of spectrograms it has the spectral
        features only; a word says which are missing and why (:func:`missing_features`). Beside them stand
        ``delta_power_change`` to ``gamma_power_change``, how a band's power changes within the epoch: the
        standard deviation, over the spectrogram's columns, of its natural logarithm. ``epoch`` is the file's
        number, so there are gaps where there is no file.

    Raises
    ------
    FileNotFoundError
        If there is no file in such folders.
    ValueError
        If a file's name or shape is none of the known ones, the files are of both kinds, two are of one
        epoch, or the amplitude shows another unit than volts.
    """
    folder = Path(folder)
    files = sorted(folder.glob("[0-4]/*.npy"))
    if not files:
        raise FileNotFoundError(
            f"{folder.resolve()} has no files like 0/<subject>-<epoch>.npy, one folder for each stage 0 to "
            "4; fetch_contest gets the contest's"
        )
    index = _index(files)
    arrays = [_read(file) for file in tqdm(files, desc="reading", unit="file", leave=False)]
    kinds = {array.ndim: file for array, file in zip(arrays, files, strict=True)}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds[1]} holds a signal and {kinds[2]} a spectrogram; they have different features. Put them "
            "in different folders"
        )
    stages = np.array([int(file.parent.name) for file in files], dtype=np.int8)
    make_table = _of_signals if 1 in kinds else _of_spectrograms
    table = make_table(arrays, stages, folder).set_axis(index).sort_index()
    missing = missing_features(table)
    for reason in missing.unique():
        names = ", ".join(missing.index[missing == reason])
        log.warning("not available from spectrograms: %s (%s)", names, reason)
    return table


def missing_features(table: pd.DataFrame) -> pd.Series:
    """Say which features of the catalogue a table does not have, and why it cannot.

    Returns
    -------
    pandas.Series of str
        The reason by the feature's name.
    """
    missing = describe_features().drop(index=[name for name in table.columns], errors="ignore")
    reasons = {
        "spectral": "needs a finer spectrum than this table was made from",
        "wavelet": "needs the signal; a power spectrogram has lost the phase",
    }
    return (
        missing["family"]
        .map(lambda family: reasons.get(family, "needs the signal's samples"))
        .rename("reason")
    )


def _index(files: list[Path]) -> pd.MultiIndex:
    named = [_FILE_NAME.fullmatch(file.stem) for file in files]
    strange = [file.name for file, name in zip(files, named, strict=True) if name is None]
    if strange:
        raise ValueError(
            f"{strange[0]} is not named <subject>-<epoch>.npy, so nobody knows whose epoch it is"
        )
    rows = [(name["subject"], name["subject"], int(name["epoch"])) for name in named]
    index = pd.MultiIndex.from_tuples(rows, names=INDEX)
    if not index.is_unique:
        subject, _, epoch = index[index.duplicated()][0]
        raise ValueError(
            f"epoch {epoch} of subject {subject} is in more than one folder; keep one of the files"
        )
    return index


def _read(file: Path) -> NDArray[np.float64]:
    try:
        array = np.load(file, allow_pickle=False)
    except (
        ValueError,
        EOFError,
        OSError,
        SyntaxError,
        TokenError,
    ) as error:  # the last two: a damaged header
        raise ValueError(f"{file} is not a complete .npy file of numbers ({error})") from error
    if array.dtype.kind not in "iuf" or array.shape not in (*SPECTROGRAM_SHAPES, (N_SAMPLES,)):
        raise ValueError(
            f"{file} has the shape {array.shape} and type {array.dtype}, expected numbers: a spectrogram of "
            f"51 × 59 or 51 × 60, or a signal of {N_SAMPLES:,} samples"
        )
    return array.astype(np.float64)


def _of_spectrograms(arrays: list[np.ndarray], stages: NDArray[np.int8], folder: Path) -> pd.DataFrame:
    psd_uv2 = 1e12 * np.stack([array.mean(axis=1) for array in arrays])  # V²/Hz → µV²/Hz
    quality = np.select(
        [~np.isfinite(psd_uv2).all(axis=1), ~psd_uv2.any(axis=1)], ["nan", "zero"], default="ok"
    ).astype(object)
    features = pd.DataFrame(spectrum_features(np.arange(psd_uv2.shape[1], dtype=float), psd_uv2))
    changes = pd.DataFrame([_power_changes(array) for array in arrays])
    # First what says most about stages: default_digits takes the first twelve.
    relative = features.filter(like="_power_rel")
    features = pd.concat([relative, changes, features.drop(columns=relative.columns)], axis=1)
    features[quality != "ok"] = np.nan
    if (quality == "ok").any():
        deviation_uv = np.sqrt(features["total_power_uv2"].median())
        check_peak_to_peak(PEAK_TO_PEAK_PER_DEVIATION * deviation_uv, folder)
    return features.assign(stage=stages, quality=quality)


@np.errstate(divide="ignore", invalid="ignore")  # a column without power gives NaN
def _power_changes(spectrogram: NDArray[np.float64]) -> dict[str, float]:
    freqs_hz = np.arange(len(spectrogram))
    return {
        f"{band}_power_change": np.log(spectrogram[(freqs_hz >= low) & (freqs_hz <= high)].sum(axis=0)).std()
        for band, (low, high) in BANDS_HZ.items()
    }


def _is_member(name: str) -> bool:
    return _MEMBER.fullmatch(name) is not None


def _of_signals(arrays: list[np.ndarray], stages: NDArray[np.int8], folder: Path) -> pd.DataFrame:
    eeg_uv = 1e6 * np.stack(arrays)
    check_unit(eeg_uv, folder)
    return extract_features(Recording(eeg_uv, SFREQ_HZ, stages, "", "", "contest"))


UNPACKED_LIMIT_BYTES = 2_000_000_000
"""More than this is not unpacked: the contest data are 0.14 GB, and a bomb is more."""


_ZIP_MAGIC = b"PK\x03\x04"


# gdown 6 can; gdown 5 waits for a silent server without end.
_PATIENCE = {"timeout": 60, "retries": 3}


# What gdown 5 and 6 raise; requests' own errors are OSErrors.
_GDOWN_ERRORS = tuple(
    error
    for error in vars(gdown_exceptions).values()
    if inspect.isclass(error) and issubclass(error, Exception)
)


def fetch(archive: Path, how_else: str, **source: str) -> None:
    """Download a file with gdown, going on with what an interrupted download left.

    Parameters
    ----------
    archive : pathlib.Path
        Where it belongs; nothing is there until all of it has come.
    how_else : str
        What a reader can do by hand, for the error messages.
    **source
        ``id`` of a file on Google Drive, or ``url``.

    Raises
    ------
    RuntimeError
        If the download fails, with gdown's own words.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    known = inspect.signature(gdown.download).parameters
    patience = {name: value for name, value in _PATIENCE.items() if name in known}
    try:
        came = gdown.download(output=str(archive), resume=True, **patience, **source)
    except (*_GDOWN_ERRORS, OSError, RuntimeError) as error:
        raise RuntimeError(f"the download of {archive.name} failed: {error}\n{how_else}") from error
    if came is None or not archive.is_file():  # gdown 5 reports failure so
        raise RuntimeError(f"the download of {archive.name} failed; gdown has said why.\n{how_else}")


def check_zip(archive: Path, how_else: str, n_members: int, is_member: Callable[[str], bool]) -> None:
    """Refuse a file that is not the archive that it should be.

    Raises
    ------
    ValueError
        If it is no zip file (a web page that says that too many people fetched it, say), is cut off or
        damaged, or does not hold ``n_members`` files of the expected kind.
    """
    with archive.open("rb") as file:
        beginning = file.read(512)
    if not beginning.startswith(_ZIP_MAGIC):
        is_page = b"<html" in beginning.lower() or b"<!doctype" in beginning.lower()
        what = (
            "a web page, probably about too many downloads" if is_page else f"begins with {beginning[:16]!r}"
        )
        raise ValueError(f"{archive} is no zip file: {what}. Delete it.\n{how_else}")
    try:
        with zipfile.ZipFile(archive) as content:
            damaged = content.testzip()
            found = sum(map(is_member, content.namelist()))
    # zipfile's NotImplementedError: a compression that it does not know
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"{archive} ({archive.stat().st_size:,} bytes) is cut off or damaged ({error}). Delete it.\n"
            f"{how_else}"
        ) from error
    if damaged is not None:
        raise ValueError(
            f"{archive} is damaged: {damaged} does not have its checksum. Delete it.\n{how_else}"
        )
    if found != n_members:
        raise ValueError(
            f"{archive} holds {found:,} of the expected {n_members:,} files; it is another archive, or an "
            f"incomplete one.\n{how_else}"
        )


def unpack(archive: Path, folder: Path, is_member: Callable[[str], bool]) -> None:
    """Unpack an archive's files of the expected kind into a folder that appears when it is complete.

    Raises
    ------
    ValueError
        If the folder exists, a member would leave it (an absolute path, ``..``, a link), or everything
        together is more than :data:`UNPACKED_LIMIT_BYTES`. Nothing is written then.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already, so {archive} stays packed. Move the folder away first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:
            _check_stays_inside(member, archive)
        total = sum(member.file_size for member in members)
        if total > UNPACKED_LIMIT_BYTES:
            raise ValueError(
                f"{archive} would unpack to {total:,} bytes, expected at most {UNPACKED_LIMIT_BYTES:,}; "
                "it is not what it should be and stays packed"
            )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            for member in members:
                if is_member(member.filename):
                    content.extract(member, scratch)
            (Path(scratch) / folder.name).replace(folder)


def _check_stays_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if absolute or ".." in parts:
        raise ValueError(f"{archive} holds {name!r}, which would be written outside its folder; not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{archive} holds the link {name!r}, which could lead anywhere; not unpacked")
