"""The one real night that ships inside the package, and what the names of such files say."""

from __future__ import annotations

import re
from pathlib import Path

DATA_DIR: Path = Path(__file__).parent / "data"
"""Where the package's own data lie."""

# Sleep-EDF's SC4ssNE0: ss is the person, N the night, E0 the equipment; ST7ssNJ0 is the same of other people.
_SLEEP_EDF_NAME = re.compile(r"(?P<study>SC4|ST7)(?P<subject>\d\d)\d[A-Z]\d")
_BIDS_NAME = re.compile(r"sub-(?P<subject>[A-Za-z0-9]+)_ses-")

_DEMO_PSG = ("SC4001E0-PSG.edf", 10_092_768)
_DEMO_HYPNOGRAM = ("SC4001EC-Hypnogram.edf", 4_336)


def demo_paths() -> tuple[Path, Path]:
    """Paths of the shipped night: its polysomnogram and its expert hypnogram.

    The night is SC4001 of Sleep-EDF Expanded (Kemp et al., 2000; Goldberger et al., 2000, ODC-By 1.0).

    Returns
    -------
    psg, hypnogram : pathlib.Path
        Two EDF files.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing, or not of the size that it was shipped with.
    """
    return _complete_file(*_DEMO_PSG), _complete_file(*_DEMO_HYPNOGRAM)


def person_in_name(recording: str) -> int | str | None:
    """Say who slept, where the name of a recording's file reveals it.

    Returns
    -------
    int, str or None
        1 for ``"SC4012E0-PSG"``, ``"ST01"`` for ``"ST7011J0"`` (other people, so no number of their own),
        ``"anna"`` for BIDS's ``"sub-anna_ses-2_eeg"``; None where the name says nothing.
    """
    if named := _SLEEP_EDF_NAME.match(recording):
        return int(named["subject"]) if named["study"] == "SC4" else f"ST{named['subject']}"
    named = _BIDS_NAME.match(recording)
    return named["subject"] if named else None


def _complete_file(name: str, n_bytes: int) -> Path:
    path = DATA_DIR / name
    if not path.is_file():
        raise FileNotFoundError(
            f"The shipped night is incomplete: there is no {path}, expected a file of {n_bytes:,} bytes. "
            "Install the package again (`pip install --force-reinstall --no-deps sleepstage`, "
            "or `git checkout` of that file in a clone)."
        )
    if path.stat().st_size != n_bytes:
        raise FileNotFoundError(
            f"The shipped night is damaged: {path} has {path.stat().st_size:,} bytes, expected {n_bytes:,}. "
            "Delete it and install the package again, or `git checkout` that file in a clone."
        )
    return path
