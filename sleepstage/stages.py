"""The five sleep stages: order, codes, names and colours.

Everything that needs to know about stages imports it from here, and this module imports nothing.
The stages are those of the AASM manual (Berry et al., 2012). Older recordings were scored by the
rules of Rechtschaffen & Kales (1968): their S3 and S4 together are N3, and movement time has no
counterpart.
"""

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
