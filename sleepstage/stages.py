"""The five sleep stages: order, codes, names, colours, the texts of hypnograms, and the checks of arrays.

Every module that needs to know about stages imports it from here, and this one imports no other.
The stages are those of the AASM manual (Berry et al., 2012). Older recordings were scored by the
rules of Rechtschaffen & Kales (1968): their S3 and S4 together are N3, and movement time has no
counterpart.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

STAGES: tuple[str, ...] = ("W", "N1", "N2", "N3", "REM")
"""The stages in the order of their codes: ``STAGES[code]`` is a stage's name."""

STAGE_CODES: dict[str, int] = {name: code for code, name in enumerate(STAGES)}
"""A stage's code: W 0, N1 1, N2 2, N3 3, REM 4."""

UNSCORED: int = -1
"""The code of an epoch without a stage (movement time, ``?``, or outside the hypnogram)."""

HYPNOGRAM_ORDER: tuple[str, ...] = ("W", "REM", "N1", "N2", "N3")
"""The stages from the top of a hypnogram to its bottom."""

STAGE_COLORS = {"W": "#FFCB47", "N1": "#8CC5E3", "N2": "#3A86C0", "N3": "#14213D", "REM": "#A4243B"}
"""Colours that colour-blind readers tell apart; in grey, no two are equally light."""

STAGE_TEXTS: dict[str, int] = {
    text: code
    for code, texts in {
        0: ("w", "wake", "0", "sleep stage w", "drowsy wakefulness"),
        1: ("n1", "s1", "1", "sleep stage 1", "sleep stage n1", "light sleep onset"),
        2: ("n2", "s2", "2", "sleep stage 2", "sleep stage n2", "stable light sleep"),
        3: ("n3", "s3", "3", "sleep stage 3", "sleep stage n3", "deep restorative sleep")
        + ("s4", "sleep stage 4"),
        4: ("rem", "r", "4", "sleep stage r", "dreaming rem sleep"),
        UNSCORED: ("?", "-1", "-2", "art", "uns", "sleep stage ?", "movement time"),
    }.items()
    for text in texts
}
"""The code of each text, in lower case, that a hypnogram may use for a stage.

They are the names of the AASM manual and of Rechtschaffen & Kales, the annotations of the EDF+ standard and
of Sleep-EDF, YASA's integers (0 to 4; -1 artefact, -2 unscored) and the names of AISContest_Data.
"""


def stage_codes(stages: ArrayLike) -> NDArray[np.int8]:
    """Check a sequence of stage codes.

    Parameters
    ----------
    stages : array_like, shape (n_epochs,)

    Returns
    -------
    ndarray of int8, shape (n_epochs,)

    Raises
    ------
    ValueError
        If the shape is another one, or a value is neither -1 nor 0 to 4.

    Examples
    --------
    >>> stage_codes([0, 2, -1])
    array([ 0,  2, -1], dtype=int8)
    """
    codes = np.asarray(stages)
    if codes.ndim != 1:
        raise ValueError(f"stages have shape {codes.shape}; expected one code an epoch, shape (n_epochs,)")
    strangers = codes[~np.isin(codes, [UNSCORED, *STAGE_CODES.values()])].tolist()
    if strangers:
        raise ValueError(
            f"{strangers[0]!r} is not a stage code; expected {UNSCORED} (unscored) or 0 to {len(STAGES) - 1} "
            f"for {', '.join(STAGES)}. Names become codes through sleepstage.stages.STAGE_CODES"
        )
    return codes.astype(np.int8)


def stage_names(codes: ArrayLike) -> list[str]:
    """Name the stages of codes (n_epochs,), as files have them; the name of -1 is empty.

    Examples
    --------
    >>> stage_names([0, 4, -1])
    ['W', 'REM', '']
    """
    return ["" if code == UNSCORED else STAGES[code] for code in stage_codes(codes)]


def most_probable_stages(proba: pd.DataFrame | ArrayLike) -> NDArray[np.int8]:
    """Turn a hypnodensity (n_epochs, 5) into stage codes, int8 (n_epochs,); rows with NaN become -1.

    Examples
    --------
    >>> most_probable_stages([[0.1, 0.2, 0.4, 0.2, 0.1], [float("nan")] * 5])
    array([ 2, -1], dtype=int8)
    """
    return np.where(answered(proba), proba_array(proba).argmax(axis=1), UNSCORED).astype(np.int8)


def answered(proba: pd.DataFrame | ArrayLike) -> NDArray[np.bool_]:
    """Mark the rows of a hypnodensity that are an answer, bool (n_epochs,).

    The other rows hold NaN: those epochs cannot be measured, and have no stage.
    """
    return ~np.any(np.isnan(proba_array(proba)), axis=1)


def proba_array(proba: pd.DataFrame | ArrayLike) -> NDArray[np.float64]:
    """Check a hypnodensity.

    Parameters
    ----------
    proba : DataFrame or array_like, shape (n_epochs, 5)
        The probabilities of the stages; a DataFrame has the stages as columns, in any order.

    Returns
    -------
    ndarray of float, shape (n_epochs, 5)
        The columns are in the order of ``STAGES``.

    Raises
    ------
    ValueError
        If the shape or the columns are others.
    """
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
