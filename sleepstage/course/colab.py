"""What is special about Google Colab: packages that are loaded before the first cell, and Drive.

The notebooks' set-up cell calls this module right after it has installed packages. One of them may then be
half old and half new, so this module imports nothing but Python's own. ``HF_TOKEN`` needs no code here:
huggingface_hub reads Colab's secret of that name, if there is one.
"""

import sys
from importlib.metadata import distributions
from pathlib import Path

# Packages that Colab or another package may have loaded, and that break when they are replaced while loaded.
# Each states its own version as pip knows it, which not every package does.
LOADED_EARLY = {"IPython": "ipython", "PIL": "pillow", "sklearn": "scikit-learn"} | {
    name: name
    for name in ("ipywidgets", "matplotlib", "numpy", "pandas", "pyarrow", "scipy", "torch", "transformers")
}


def replaced_packages() -> dict[str, tuple[str, str]]:
    """Find packages that were replaced after they had been loaded.

    Returns
    -------
    dict
        By name: the version that is loaded, and the one that is installed now (``"none"`` if it was removed).
    """
    replaced = {}
    for module, package in LOADED_EARLY.items():
        loaded = getattr(sys.modules.get(module), "__version__", None)
        installed = next((found.version for found in distributions(name=package)), "none")
        # PyTorch of the package index calls itself 2.11.0+cu130, and pip knows it as 2.11.0.
        if loaded is not None and loaded.partition("+")[0] != installed.partition("+")[0]:
            replaced[package] = (loaded, installed)
    return replaced


def check_restart() -> None:
    """Stop with an error if the session must be restarted.

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
        Mount Google Drive, which asks for permission, and keep the folder there after the session has ended.

    Raises
    ------
    ValueError
        When Drive is asked for elsewhere than on Colab.

    Examples
    --------
    >>> data_folder().name
    'sleepstage-data'
    """
    folder = Path("sleepstage-data")
    if not drive:
        return folder
    if "google.colab" not in sys.modules:
        raise ValueError("Drive can be mounted on Colab only; here, set DRIVE = False")
    from google.colab import drive as google_drive

    google_drive.mount("/content/drive")
    return Path("/content/drive/MyDrive") / folder
