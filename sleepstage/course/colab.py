"""What is special about Google Colab: packages that are loaded before the first cell, and Drive.

The notebooks' set-up cell calls this before anything else is imported, when a package may be there in halves:
so nothing is imported here that is not Python's own. ``HF_TOKEN`` needs no code: huggingface_hub reads the
secret of that name by itself, and does without.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Packages that Colab or another package may have loaded, and that break when they are replaced under way. The
# version that each of them states about itself is the one that pip knows, which is not true of every package.
_LOADED_EARLY = {
    "IPython": "ipython",
    "PIL": "pillow",
    "ipywidgets": "ipywidgets",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
}


def replaced_packages() -> dict[str, tuple[str, str]]:
    """Find packages that were replaced after they had been loaded.

    Returns
    -------
    dict
        By name: the version that is loaded, and the one that is installed now (``"none"`` if it was removed).
    """
    found = {}
    for module, package in _LOADED_EARLY.items():
        loaded = getattr(sys.modules.get(module), "__version__", None)
        if loaded is not None and loaded != (installed := _installed(package)):
            found[package] = (loaded, installed)
    return found


def check_restart() -> None:
    """Stop if the session must be restarted before it can go on, and say so.

    Raises
    ------
    RuntimeError
        When a package was replaced after it had been loaded (:func:`replaced_packages`).
    """
    changes = [f"{name} {old} is loaded, {new} installed" for name, (old, new) in replaced_packages().items()]
    if changes:
        raise RuntimeError(
            f"{'; '.join(changes)}. Choose Runtime → Restart session, then run the notebook from the top: "
            "nothing has to be installed again"
        )


def data_folder(drive: bool = False) -> Path:
    """Give the folder in which one notebook leaves its files for the next.

    Parameters
    ----------
    drive : bool
        Mount Google Drive, which asks for leave, and keep the folder there, so that it outlives the session.

    Raises
    ------
    ValueError
        When Drive is asked for elsewhere than on Colab.
    """
    folder = Path("sleepstage-data")
    if not drive:
        return folder
    if "google.colab" not in sys.modules:
        raise ValueError("Drive can be mounted on Colab only; here, set DRIVE = False")
    from google.colab import drive as google_drive

    google_drive.mount("/content/drive")
    return Path("/content/drive/MyDrive") / folder


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
