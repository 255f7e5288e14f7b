"""The five sleep stages: order, codes, names and colours.

Everything that needs to know about stages imports it from here, and this module imports nothing.
The stages are those of the AASM manual (Berry et al., 2012). Older recordings were scored by the
rules of Rechtschaffen & Kales (1968): their S3 and S4 together are N3, and movement time has no
counterpart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

STAGES: tuple[str, ...] = ("W", "N1", "N2", "N3", "REM")
"""The stages in the order of their codes: ``STAGES[code]`` is a stage's name."""


STAGE_CODES: dict[str, int] = {name: code for code, name in enumerate(STAGES)}
"""A stage's code: W 0, N1 1, N2 2, N3 3, REM 4."""


UNSCORED: int = -1
"""The code of an epoch without a stage (movement time, ``?``, or outside the hypnogram)."""


HYPNOGRAM_ORDER: tuple[str, ...] = ("W", "REM", "N1", "N2", "N3")
"""The stages from the top of a hypnogram to its bottom."""


STAGE_COLORS: dict[str, str] = {
    "W": "#FFCB47",
    "N1": "#8CC5E3",
    "N2": "#3A86C0",
    "N3": "#14213D",
    "REM": "#A4243B",
}
"""Colours that colour-blind readers tell apart; in grey, no two are equally light."""


ANNOTATION_CODES: dict[str, int] = {
    # Rechtschaffen & Kales, as Sleep-EDF writes them
    "Sleep stage W": 0,
    "Sleep stage 1": 1,
    "Sleep stage 2": 2,
    "Sleep stage 3": 3,
    "Sleep stage 4": 3,
    "Sleep stage R": 4,
    "Sleep stage ?": UNSCORED,
    "Movement time": UNSCORED,
    # AASM, as the EDF+ standard texts have them
    "Sleep stage N1": 1,
    "Sleep stage N2": 2,
    "Sleep stage N3": 3,
}
"""The code of each annotation text that a hypnogram file may use."""


STAGE_TEXTS: dict[str, int] = {
    **STAGE_CODES,
    "Wake": 0,
    "R": 4,
    "S1": 1,
    "S2": 2,
    "S3": 3,
    "S4": 3,
    # YASA's integers
    **{str(code): code for code in STAGE_CODES.values()},
    "-1": UNSCORED,
    "-2": UNSCORED,
    "Art": UNSCORED,
    "Uns": UNSCORED,
    "?": UNSCORED,
    # AISContest_Data
    "Drowsy Wakefulness": 0,
    "Light Sleep Onset": 1,
    "Stable Light Sleep": 2,
    "Deep Restorative Sleep": 3,
    "Dreaming REM Sleep": 4,
    **ANNOTATION_CODES,
}
"""The code of each text, whatever its capitals, that a hypnogram in a text file may use."""


def stage_codes(stages: ArrayLike) -> np.ndarray:
    """Return a sequence of stages as an int8 array (n_epochs,), or say which value is no stage code."""
    codes = np.asarray(stages)
    if codes.ndim != 1:
        raise ValueError(f"stages have shape {codes.shape}; expected one code an epoch, shape (n_epochs,)")
    allowed = [UNSCORED, *range(len(STAGES))]
    strangers = codes[~np.isin(codes, allowed)]
    if strangers.size:
        raise ValueError(
            f"{strangers[0]!r} is not a stage code; expected {UNSCORED} (unscored) or 0 to {len(STAGES) - 1} "
            f"for {', '.join(STAGES)}. Names become codes through sleepstage.stages.STAGE_CODES"
        )
    return codes.astype(np.int8)


def stage_names(codes: ArrayLike) -> list[str]:
    """Name the stages of codes (n_epochs,), for files; the name of -1 is empty."""
    return ["" if code == UNSCORED else STAGES[code] for code in stage_codes(codes)]


def most_probable_stages(proba: pd.DataFrame | ArrayLike) -> np.ndarray:
    """Turn a hypnodensity (n_epochs, 5) into stage codes, int8 (n_epochs,); rows with NaN become -1."""
    return np.where(answered(proba), proba_array(proba).argmax(axis=1), UNSCORED).astype(np.int8)


def answered(proba: pd.DataFrame | ArrayLike) -> np.ndarray:
    """Mark the rows of a hypnodensity that are an answer, bool (n_epochs,).

    The others hold NaN: those epochs cannot be measured, and have no stage.
    """
    return ~np.isnan(proba_array(proba)).any(axis=1)


def proba_array(proba: pd.DataFrame | ArrayLike) -> np.ndarray:
    """Return a hypnodensity as a float array (n_epochs, 5) in the order of ``STAGES``."""
    if isinstance(proba, pd.DataFrame):
        if sorted(map(str, proba.columns)) != sorted(STAGES):
            raise ValueError(
                f"proba has the columns {list(proba.columns)}; expected {', '.join(STAGES)}, each once"
            )
        proba = proba[list(STAGES)]
    values = np.asarray(proba, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(STAGES):
        raise ValueError(f"proba has shape {values.shape}; expected (n_epochs, {len(STAGES)})")
    return values
