"""The contest data (AISContest_Data), from the download to a feature table.

A file ``<stage>/<subject>-<epoch>.npy`` holds a power spectrogram of 51 frequencies (0–50 Hz, 1 Hz apart) ×
59 or 60 times, in V²/Hz, and no signal. So an epoch has spectral features, and none of the time domain. Files
of 3,000 samples are read as a signal in volts. No licence to pass the data on is known, so everybody has to
download them from the contest's own place.

In: the archive or its folders. Out: a feature table with a row for each file.
"""

import inspect
import logging
import re
import stat
import tempfile
import zipfile
from pathlib import Path, PureWindowsPath
from typing import Any

import gdown
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..features.catalogue import BANDS_HZ, INDEX, describe_features, missing_features
from ..features.extract import extract_features
from ..features.spectral import spectrum_features
from ..files import naming
from ..recordings.quality import check_peak_to_peak
from ..recordings.recording import N_SAMPLES, SFREQ_HZ, Recording
from .table import check_index

log = logging.getLogger(__name__)

CONTEST_FOLDER = "AISContest_Data"
DRIVE_ID = "1Y2cTYR_t_10NAbznspE5bBjuATPdTgtq"
N_FILES = 5813

UNPACKED_LIMIT_BYTES = 500_000_000
"""A larger archive is not unpacked: the contest data have 0.14 GB, an archive made to do harm has more."""

_MEMBER = re.compile(rf"{CONTEST_FOLDER}/[0-4]/[^/\\]+\.npy")


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
        The folder with the folders 0 to 4. It appears when all of it is unpacked. A folder that is there
        already stays as it is.

    Raises
    ------
    RuntimeError
        If the download fails; started again, it goes on where it was.
    ValueError
        If what came is not the archive (a web page that says that too many people fetched it, say), is
        damaged, or would write outside its folder; the message says how to get it by hand.
    """
    folder = Path(folder)
    unpacked, archive = folder / CONTEST_FOLDER, folder / f"{CONTEST_FOLDER}.zip"
    if unpacked.exists():
        return unpacked
    how_else = (
        f"By hand: open https://drive.google.com/file/d/{DRIVE_ID}/view in a browser, download the file, "
        f"put it at {archive} and run this again. When Google says that too many people fetched it, a day's "
        "wait helps."
    )
    by_hand = archive.is_file()
    if not by_hand:
        _download(archive, how_else, **({"url": url} if url else {"id": DRIVE_ID}))
    if wrong := _what_is_wrong(archive):
        said = f"{archive} ({archive.stat().st_size:,} bytes) is not the contest's archive: {wrong}."
        if not by_hand:
            archive.unlink()  # so that the next call downloads it again
        raise ValueError(f"{said} Delete it.\n{how_else}")
    with zipfile.ZipFile(archive) as content, tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        content.extractall(scratch, [name for name in content.namelist() if _MEMBER.fullmatch(name)])
        (Path(scratch) / CONTEST_FOLDER).replace(unpacked)
    return unpacked


def _download(archive: Path, how_else: str, **source: str) -> None:
    """Download the archive with gdown, which goes on with what an interrupted download left."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    # gdown 6 can stop waiting for a silent server; gdown 5 cannot, and it reports failures in another way.
    settings: dict[str, Any] = {"output": str(archive), "resume": True, **source}
    if "timeout" in inspect.signature(gdown.download).parameters:
        settings |= {"timeout": 60, "retries": 3}
    gdown_error = getattr(gdown.exceptions, "DownloadError", gdown.exceptions.FileURLRetrievalError)
    try:
        gdown.download(**settings)
    except (gdown_error, OSError, RuntimeError) as error:  # errors of requests are OSErrors
        raise RuntimeError(f"the download of {archive.name} failed: {error}\n{how_else}") from error
    if not archive.is_file():
        raise RuntimeError(f"the download of {archive.name} failed; gdown has said why.\n{how_else}")


def _what_is_wrong(archive: Path) -> str | None:
    """Say why a file cannot be the contest's archive; None if it can."""
    try:
        with zipfile.ZipFile(archive) as content:
            if wrong := _wrong_members(content.infolist()):
                return wrong
            damaged = content.testzip()  # reads everything, so it comes after the limit on its size
    except Exception as error:  # zipfile and numpy raise errors of many kinds
        with archive.open("rb") as file:
            is_page = b"<html" in file.read(512).lower()
        return "a web page, probably about too many downloads" if is_page else f"no zip, or damaged ({error})"
    return f"damaged, {damaged} does not have its checksum" if damaged else None


def _wrong_members(members: list[zipfile.ZipInfo]) -> str | None:
    for member in members:
        path = PureWindowsPath(member.filename)  # separators are both / and \
        if path.anchor or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
            return f"{member.filename!r} is a link, or would be written outside the folder"
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > UNPACKED_LIMIT_BYTES:
        return f"it would unpack to {n_bytes:,} bytes, expected at most {UNPACKED_LIMIT_BYTES:,}"
    n_files = sum(_MEMBER.fullmatch(member.filename) is not None for member in members)
    return None if n_files == N_FILES else f"it holds {n_files:,} of the expected {N_FILES:,} files"


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
        A feature table as :func:`sleepstage.extract_features` gives it, without the features that need a
        whole night. Of spectrograms it has the spectral features only; the log says which are missing and why
        (:func:`sleepstage.missing_features`). Beside them stand
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
            "4; fetch_contest gets the contest's. Of a folder of recordings, folder_table makes a table; "
            "save it with save_table and name that file"
        )
    index = _index(files)
    arrays = [_read(file) for file in tqdm(files, desc="reading", unit="file", leave=False)]
    kinds = {array.ndim: file for array, file in zip(arrays, files, strict=True)}
    if len(kinds) > 1:
        said = f"{kinds[1]} holds a signal and {kinds[2]} a spectrogram"
        raise ValueError(f"{said}; they have different features. Put them in different folders")
    stages = np.array([int(file.parent.name) for file in files], dtype=np.int8)
    make_table = _of_signals if 1 in kinds else _of_spectrograms
    table = make_table(arrays, stages, folder).set_axis(index).sort_index()
    missing = missing_features(table)
    for reason in missing.unique():
        names = ", ".join(missing.index[missing == reason])
        log.warning("not available from these files: %s (%s)", names, reason)
    return table


def _index(files: list[Path]) -> pd.MultiIndex:
    named = pd.Series([file.stem for file in files]).str.extract(r"^(?P<subject>.+)-(?P<epoch>\d{1,9})$")
    if named.isna().any(axis=None):
        strange = files[int(named["epoch"].isna().argmax())].name
        raise ValueError(f"{strange} is not named <subject>-<epoch>.npy; its name must say whose epoch it is")
    levels = [named["subject"], named["subject"], named["epoch"].astype(int)]
    index = pd.MultiIndex.from_arrays(levels, names=INDEX)
    check_index(index)
    return index


def _read(file: Path) -> NDArray[np.float64]:
    with naming(file, "a complete .npy file of numbers"):
        array = np.load(file, mmap_mode="r", allow_pickle=False)  # a false shape asks for no memory
    if array.dtype.kind not in "iuf" or array.shape not in ((51, 59), (51, 60), (N_SAMPLES,)):
        wanted = f"numbers: a spectrogram of 51 × 59 or 51 × 60, or a signal of {N_SAMPLES:,} samples"
        raise ValueError(f"{file} has the shape {array.shape} and type {array.dtype}, expected {wanted}")
    return array.astype(np.float64)


def _of_signals(arrays: list[np.ndarray], stages: NDArray[np.int8], folder: Path) -> pd.DataFrame:
    # The folder's name is used only in the error message about a wrong unit. The caller sets the index later.
    table = extract_features(Recording(1e6 * np.stack(arrays), SFREQ_HZ, stages, "", str(folder), "contest"))
    # The files are not one night: they are of several people, and epochs between them are missing.
    return table.drop(columns=describe_features().query("family == 'filtered'").index)


def _of_spectrograms(arrays: list[np.ndarray], stages: NDArray[np.int8], folder: Path) -> pd.DataFrame:
    psd_uv2 = 1e12 * np.stack([array.mean(axis=1) for array in arrays])  # V²/Hz → µV²/Hz
    kinds = [~np.isfinite(psd_uv2).all(axis=1), ~psd_uv2.any(axis=1)]
    quality = np.select(kinds, ["nan", "zero"], default="ok").astype(object)
    features = pd.DataFrame(spectrum_features(np.arange(psd_uv2.shape[1], dtype=float), psd_uv2))
    changes = pd.DataFrame([_power_changes(array) for array in arrays])
    # The columns that say most about stages come first, because default_digits takes the first twelve.
    relative = features.filter(like="_power_rel")
    features = pd.concat([relative, changes, features.drop(columns=relative.columns)], axis=1)
    features[quality != "ok"] = np.nan
    if (quality == "ok").any():
        # In 30 s of a sleeper's EEG, whose values are nearly normal, peak to peak is about 7 deviations.
        check_peak_to_peak(7 * np.sqrt(features["total_power_uv2"].median()), folder)
    return features.assign(stage=stages, quality=quality)


@np.errstate(divide="ignore", invalid="ignore")  # a column without power gives NaN
def _power_changes(spectrogram: NDArray[np.float64]) -> dict[str, float]:
    freqs_hz = np.arange(len(spectrogram))
    return {
        f"{band}_power_change": np.log(spectrogram[(freqs_hz >= low) & (freqs_hz <= high)].sum(axis=0)).std()
        for band, (low, high) in BANDS_HZ.items()
    }
