"""Opening recordings through MNE, most of them EDF or BDF, with errors that say what is wrong with a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mne

_READERS: dict[str, tuple[bytes, Callable[..., mne.io.BaseRaw]]] = {
    ".edf": (b"0       ", mne.io.read_raw_edf),
    ".bdf": (b"\xffBIOSEMI", mne.io.read_raw_bdf),
}


# BrainVision, EEGLAB, MNE's own, GDF and Neuroscan. MNE reads more, but by endings (.txt, .dat, .mat) that
# say little about what is inside.
_OTHER_SUFFIXES = (".vhdr", ".set", ".fif", ".fif.gz", ".gdf", ".cnt")


def edf_header(path: Path) -> bytes:
    """The fixed part of the header of a file that is EDF or BDF by its name and its first bytes."""
    _check_file(path, tuple(_READERS))
    with path.open("rb") as file:
        header = file.read(256)
    magic, _ = _READERS[path.suffix.lower()]
    if len(header) < 256 or not header.startswith(magic):
        raise ValueError(
            f"{path} is not an EDF file: it begins with {header[:16]!r}, expected {magic!r} and a header of "
            "256 bytes. If it was downloaded, look whether it is an error page, and fetch it again."
        )
    return header


def _check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Expected a recording; check the path.")
    if not path.name.lower().endswith(suffixes):
        raise ValueError(
            f"{path} ends in {path.suffix!r}, expected one of {', '.join(suffixes)}. "
            "Rename the file if it is one of these, or convert it."
        )


@contextmanager
def explaining_damage(path: Path) -> Iterator[None]:
    """Turn whatever MNE stumbles over in a damaged file into one kind of error."""
    try:
        yield
    except (NotImplementedError, ImportError) as error:  # EEGLAB's files of MATLAB 7.3, for one
        raise ValueError(
            f"{path} is of a kind that is not read here ({error}). Export it as EDF where it was made."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path} begins as it should but cannot be read ({type(error).__name__}: {error}). "
            "It is probably truncated or damaged: compare its size with the source and fetch it again, or "
            "export it as EDF where it was made."
        ) from error


def open_edf(path: Path, channels: list[str] | None = None) -> mne.io.BaseRaw:
    """Open a file without loading its samples; by default with all of its channels."""
    _, read_raw = _READERS[path.suffix.lower()]
    with explaining_damage(path):
        return read_raw(path, include=channels, verbose="error")


def open_channel(psg: Path | mne.io.BaseRaw, channel: str) -> tuple[mne.io.BaseRaw, list[str]]:
    """Open a recording that has a channel; of EDF and BDF, that channel only, at its own rate.

    Parameters
    ----------
    psg : pathlib.Path or mne.io.BaseRaw
        What is open already stays as it is.
    channel : str

    Returns
    -------
    raw : mne.io.BaseRaw
        Without its samples, which are not loaded yet.
    notes : list of str
        What is unusual about the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file or channel, or the file is of no format that is read.

    Warns
    -----
    UserWarning
        If an EDF or BDF file is shorter than its header announces.
    """
    if isinstance(psg, mne.io.BaseRaw):
        raw = psg
    elif psg.suffix.lower() in _READERS:
        return _open_edf_channel(psg, channel)
    else:
        _check_file(psg, (*_READERS, *_OTHER_SUFFIXES))
        with explaining_damage(psg):
            raw = mne.io.read_raw(psg, verbose="error")
    if channel not in raw.ch_names:
        raise ValueError(_no_channel(psg, channel, raw.ch_names))
    return raw, []


def _open_edf_channel(path: Path, channel: str) -> tuple[mne.io.BaseRaw, list[str]]:
    header = edf_header(path)
    # Chosen by `include`, a channel keeps its own rate: MNE brings channels that it loads together to one.
    raw = open_edf(path, [channel])
    if raw.ch_names != [channel]:
        raise ValueError(_no_channel(path, channel, open_edf(path).ch_names))
    with explaining_damage(path):
        announced_s = int(header[236:244]) * float(header[244:252])
    present_s = raw.n_times / raw.info["sfreq"]
    if present_s >= announced_s - 1:
        return raw, []
    held = f"holds {present_s:.0f} s of the {announced_s:.0f} s that its header announces"
    warnings.warn(
        f"{path} {held}: the download or the recording was interrupted. What is there is used.", stacklevel=4
    )
    return raw, [f"the file {held}"]


def _no_channel(path: Path | mne.io.BaseRaw, channel: str, names: list[str]) -> str:
    present = ", ".join(map(repr, names)) or "none (is it the hypnogram?)"
    return f"{path} has no channel {channel!r}. Present: {present}. Pass one as `channel`."
