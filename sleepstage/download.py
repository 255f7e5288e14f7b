"""Getting the data: for now, the one real night that ships inside the package."""

from __future__ import annotations

from pathlib import Path

DATA_DIR: Path = Path(__file__).parent / "data"
"""Where the package's own data lie."""

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
