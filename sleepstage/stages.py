"""The five sleep stages: order, codes, names, colours, the texts of hypnograms, and the checks of arrays.

Every module that needs to know about stages imports it from here, and this one imports no other.
The stages are those of the AASM manual (Berry et al., 2012). Older recordings were scored by the
rules of Rechtschaffen & Kales (1968): their S3 and S4 together are N3, and movement time has no
counterpart.
"""

import re

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
        0: ("W", "wake", "awake", "S0", "wach", "drowsy wakefulness"),
        1: ("N1", "S1", "light sleep onset"),
        2: ("N2", "S2", "stable light sleep"),
        3: ("N3", "N4", "S3", "S4", "deep restorative sleep"),
        4: ("REM", "R", "dreaming REM sleep"),
        UNSCORED: ("?", "N", "M", "MT", "movement time", "movement", "art", "artifact", "artefact", "uns")
        + ("unscored", "unknown", "U", "L", "n/a", "na", "nan", "none", ""),
    }.items()
    for text in texts
}
"""The code of each text that a hypnogram may use for a stage.

They are the names of the AASM manual and of Rechtschaffen & Kales, of YASA, Luna (``L`` is lights-on) and
AISContest_Data, and what tables write for nothing. Capitals, spaces and hyphens do not matter, nor does what
stands around a name: ``Sleep stage 2``, ``SLEEP-S2``, ``NREM 2`` and ``Stage 2 sleep|2`` are S2 and N2.
``N``, which the EDF+ standard uses for any NREM sleep, is none of the five.
"""

_R_AND_K = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: UNSCORED, 7: UNSCORED, 9: UNSCORED, -1: UNSCORED}

NUMBER_CONVENTIONS: dict[str, dict[int, int]] = {
    "aasm": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, -1: UNSCORED, -2: UNSCORED},
    **dict.fromkeys(("rk", "mesa", "isruc"), _R_AND_K),
}
"""The code of each whole number that stands for a stage: ``NUMBER_CONVENTIONS[convention][number]``.

In ``"aasm"``, which YASA and this package write, 4 is REM (-1 artefact, -2 unscored). In Rechtschaffen &
Kales' (``"rk"``), 4 is S4 and 5 is REM (6 movement, 7 and 9 unscored); so it is in MESA and the other studies
of NSRR (``"mesa"``), and in ISRUC (``"isruc"``).
"""


def _plain(text: str) -> str:
    text = re.sub(r"(?<=[a-z])-|[\s_:]+", "", text.lower().partition("|")[0])
    text = re.sub(r"^(?:sleep|schlaf)?(?:stage|stadium)(?=\d)", "s", text)  # never the number of a convention
    text = re.sub(r"^(?:sleep|schlaf)?(?:stage|stadium)|^sleep(?=.)|(?<=.)sleep$", "", text)
    return re.sub(r"^n(?:on)?rem", "n", text)


_PLAIN_TEXTS = {_plain(text): code for text, code in STAGE_TEXTS.items()}

_WHOLE_NUMBER = re.compile(r"([+-]?\d{1,4})(\.0*)?(e\+00)?", re.ASCII)  # numpy's savetxt writes 2.00e+00


def number_in(text: str) -> int | None:
    """Give the whole number that a text is, or None.

    Examples
    --------
    >>> number_in("4"), number_in("2.000e+00"), number_in("Sleep stage 4")
    (4, 2, None)
    """
    whole = _WHOLE_NUMBER.fullmatch(text.strip())
    return int(whole[1]) if whole else None


def code_of_text(text: str) -> int | None:
    """Give the code of a text other than a number, -1 where it says that there is no stage; None if unknown.

    Examples
    --------
    >>> [code_of_text(text) for text in ("Sleep stage 4", "nrem-2", "REM sleep|5", "n/a", "Lights off")]
    [3, 2, 4, -1, None]
    """
    return _PLAIN_TEXTS.get(_plain(text))


def codes_of_numbers(numbers: ArrayLike, convention: str, source: object) -> NDArray[np.int8]:
    """Give the codes of numbers (n,) by a convention.

    Raises
    ------
    ValueError
        If there is no such convention, or a number is none of its numbers. `source` says where it stands.

    Examples
    --------
    >>> codes_of_numbers([0, 4, 5], "rk", "my night")
    array([0, 3, 4], dtype=int8)
    """
    if convention not in NUMBER_CONVENTIONS:
        raise ValueError(
            f"convention is {convention!r}, expected one of {', '.join(NUMBER_CONVENTIONS)}: how whole "
            "numbers stand for stages."
        )
    known, values = NUMBER_CONVENTIONS[convention], np.asarray(numbers)
    if values.ndim != 1:
        raise ValueError(f"{source} has the shape {values.shape}, expected one stage an epoch: (n_epochs,)")
    strangers = np.unique(values[~np.isin(values, list(known))])
    if len(strangers):
        named = ", ".join(f"{number} {STAGES[code]}" for number, code in known.items() if code >= 0)
        others = [name for name, codes in NUMBER_CONVENTIONS.items() if np.isin(values, list(codes)).all()]
        way_out = (
            f"By convention={' or '.join(map(repr, others))} it is one" if others else "Write names instead"
        )
        raise ValueError(
            f"{source}: {strangers[0]:g} is no known stage by convention {convention!r} ({named}). {way_out}."
        )
    return np.array([known[int(value)] for value in values], dtype=np.int8)


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
        raise ValueError(
            f"stages are a {type(stages).__name__} of shape {codes.shape}, expected one code an epoch, shape "
            "(n_epochs,); of a hypnodensity, most_probable_stages gives them"
        )
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
