"""The contest data (AISContest_Data): one file an epoch in five folders, most of them spectrograms.

A file ``<stage>/<subject>-<epoch>.npy`` holds a power spectrogram of 51 frequencies (0–50 Hz, 1 Hz apart) ×
59 or 60 times, in V²/Hz, and no signal; so an epoch has spectral features, and none of the time domain. Files
of 3,000 samples are read as what they are, a signal in volts. No licence to pass the data on is known: they
are fetched by whoever uses them.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .amplitude import check_peak_to_peak, check_unit
from .archive import check_zip, fetch, unpack
from .feature_catalogue import BANDS_HZ, describe_features
from .features import extract_features
from .recording import N_SAMPLES, SFREQ_HZ, Recording
from .spectral_family import spectrum_features

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
    index = pd.MultiIndex.from_tuples(rows, names=["subject", "recording", "epoch"])
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
