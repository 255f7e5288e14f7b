"""A night as text: each feature becomes one digit, and an epoch a line of digits that ends in ``:``.

The language model reads ``833412907821:733412908821:…``. After each ``:``, its next-token distribution over
five label words is the answer for that epoch. So one forward pass stages a whole window of text, and nothing
has to be generated or parsed. A line whose stage is known ends in the label word instead of ``:``: a hint.

A digit is a level from 1 to 9, lowest to highest, with equal shares of epochs; 0 says that the value
is missing. If a level compares a value with its own night, the amplifier's gain and the person's amplitude
do not change it. If it compares a value with the training subjects, the rest of the night does not change it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..features.catalogue import (
    DEFINITIONS_VERSION,
    INDEX,
    META_COLUMNS,
    NIGHT,
    describe_features,
    feature_columns,
)
from ..files import check_number, listed, naming, read_json, write_json
from ..stages import STAGES
from .table import check_index, consecutive_runs, share_within_night

N_LEVELS = 9
"""Digits 1 to 9, each for an equal share of epochs."""

MISSING = 0
"""The digit of a value that is missing."""

LEVELS = ("night", "cohort", "median", "neighbours")
"""What a digit may compare a value with (:class:`Digit`)."""

NEIGHBOURS = 5
"""Epochs on either side that ``"neighbours"`` compares with: two and a half minutes."""

VERSIONS = {"format_version": 2, "definitions_version": DEFINITIONS_VERSION}
"""The versions of the file format of a :class:`PromptSpec`, and of the definitions of its features."""


@dataclass(frozen=True)
class Digit:
    """What one digit of an epoch's line says.

    Parameters
    ----------
    column : str
        A column of the feature table, or a ratio of two: ``"ptp_uv/std_uv"``.
    level : {"night", "cohort", "median", "neighbours"}
        What the value is compared with. ``"night"``: it is ranked within the recording. The others have cut
        points over the training subjects: ``"cohort"`` for the value itself, ``"median"`` for its difference
        to the recording's median, ``"neighbours"`` for its difference to the mean of the epoch and of five on
        either side. A difference of two logarithms says how many times as large a power is.
    """

    column: str
    level: str = "night"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level is {self.level!r}, expected one of {', '.join(LEVELS)}")
        names = self.column.split("/") if isinstance(self.column, str) else []
        if not 1 <= len(names) <= 2 or not all(names):
            raise ValueError(f"column is {self.column!r}, expected a feature or a ratio of two, 'a/b'")
        if answers := {*META_COLUMNS, *INDEX}.intersection(names):
            raise ValueError(
                f"a digit may not say {answers.pop()!r}: digits come from features only, or the model would "
                "read what it is asked for"
            )

    @property
    def key(self) -> str:
        """The name of its cut points."""
        return self.column if self.level == "cohort" else f"{self.column}, {self.level}"

    def values(self, table: pd.DataFrame) -> pd.Series:
        """Give what gets a level (n_epochs,): the column's values or differences, NaN where missing."""
        names = self.column.split("/")
        if missing := [name for name in names if name not in table]:
            raise ValueError(
                f"the table has no column {missing[0]!r}, which the prompt needs. It has: "
                f"{', '.join(feature_columns(table))}."
            )
        values, *divisors = table[names].to_numpy(np.float64).T
        for divisor in divisors:
            values = np.divide(values, divisor, out=np.full_like(values, np.nan), where=divisor != 0)
        found = pd.Series(np.where(np.isfinite(values), values, np.nan), index=table.index)
        if self.level == "median":
            found -= found.groupby(level=NIGHT, sort=False).transform("median")
        elif self.level == "neighbours":
            runs = consecutive_runs(table)
            run = np.repeat(np.arange(len(runs)), [rows.stop - rows.start for rows in runs])
            near = found.groupby(run).rolling(2 * NEIGHBOURS + 1, center=True, min_periods=1).mean()
            found -= near.to_numpy()
        return found


@dataclass(frozen=True)
class PromptSpec:
    """How a night becomes text. An adapter's folder holds it; it depends on no tokenizer.

    Parameters
    ----------
    digits : tuple of Digit
        The digits of an epoch's line, in order.
    cuts : dict of str to tuple of float
        For each digit with cut points (:attr:`Digit.key`) the 8 between its 9 levels, over the training
        subjects.
    labels : tuple of str
        The words that stand for W, N1, N2, N3, REM. Each must be one token.
    window : int
        Lines in one text.
    look_ahead : int
        The answer after line t is for the epoch at line t − look_ahead. So a model with causal attention,
        which reads from left to right, has seen the epochs that follow. With bidirectional attention it is 0.
    bidirectional : bool
        Bidirectional attention: every token sees the whole window. False: causal attention, a token sees
        only the tokens before it.
    examples : int
        Lines with a known stage that may stand before a window (:mod:`sleepstage.dataset.windows`).
    """

    digits: tuple[Digit, ...]
    cuts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = (" Wake", " Light", " Medium", " Deep", " REM")
    window: int = 80
    look_ahead: int = 0
    bidirectional: bool = True
    examples: int = 20

    def __post_init__(self) -> None:
        check_number(len(self.digits), "the number of digits", 1, 64, whole=True)
        uncut = [d.key for d in self.digits if d.level != "night" and d.key not in self.cuts]
        if uncut:
            raise ValueError(f"digits {uncut} have no cut points; make the prompt with PromptSpec.fit")
        for column, cuts in self.cuts.items():
            for cut in cuts:
                check_number(cut, f"a cut point of {column}", -math.inf)
            if len(cuts) != N_LEVELS - 1 or list(cuts) != sorted(cuts):
                raise ValueError(f"the cut points of {column} are {cuts}, expected {N_LEVELS - 1} that rise")
        if len({label for label in self.labels if isinstance(label, str)}) != len(STAGES):
            raise ValueError(f"label words are {self.labels}, expected a different one for each of {STAGES}")
        if not isinstance(self.bidirectional, bool):
            raise ValueError(f"bidirectional is {self.bidirectional!r}, expected true or false")
        longest = 1000  # lines, eight hours: attention grows with the square of a text's length
        check_number(self.window, "window", 1, longest, whole=True)
        check_number(self.look_ahead, "look_ahead (below window)", 0, self.window - 1, whole=True)
        check_number(self.examples, "examples", 0, longest, whole=True)

    @property
    def reads_hints(self) -> bool:
        """Whether a line's stage may be given: not if the line's end is where another epoch is answered."""
        return self.bidirectional and not self.look_ahead

    @property
    def default_stride(self) -> int:
        """Epochs from one window to the next when staging: four fifths of what a window answers for.

        Small networks that read windows of 80 were no better with two thirds (`docs/RESULTS.md`).
        """
        return max(1, 4 * (self.window - self.look_ahead) // 5)

    @classmethod
    def fit(cls, train_table: pd.DataFrame, digits: Sequence[Digit], **settings: Any) -> PromptSpec:
        """Take the cut points of the cohort digits from a training table.

        A window ends where an epoch is missing. If half of the table's epochs stand in runs shorter than the
        window, it becomes as short as they are, and a warning says so: its other lines would be empty. The
        examples before it become fewer in proportion.

        Raises
        ------
        ValueError
            If the table lacks a column, or a column has no value at all.
        """
        lengths = [run.stop - run.start for run in consecutive_runs(train_table)] or [cls.window]
        usual = int(np.median(np.repeat(lengths, lengths)))  # half of the epochs stand in runs of this length
        if "window" not in settings and usual < cls.window:
            settings["window"] = max(usual, settings.get("look_ahead", cls.look_ahead) + 1)
            settings.setdefault("examples", settings["window"] * cls.examples // cls.window)
            warnings.warn(
                f"half of the epochs stand in runs of at most {usual} without a gap, so a text has "
                f"{settings['window']} lines instead of {cls.window}, and the model sees few neighbours. If "
                "epochs were left out because they have no stage, keep them as -1.",
                stacklevel=2,
            )
        shares = np.arange(1, N_LEVELS) / N_LEVELS
        cuts = {}
        for digit in digits:
            if digit.level != "night":
                values = digit.values(train_table)
                if values.isna().all():
                    raise ValueError(f"{digit.column} has no value in the training table, so no cut points")
                cuts[digit.key] = tuple(np.nanquantile(values, shares).tolist())
        return cls(digits=tuple(digits), cuts=cuts, **settings)

    def levels(self, table: pd.DataFrame) -> np.ndarray:
        """Turn a table into levels, int8 (n_epochs, n_digits): 1–9, or 0 where a value is missing.

        Equal values get the same level, the middle one of those that they span; a constant gets 5.
        """
        check_index(table)
        lengths = table.groupby(level=NIGHT, sort=False).size()
        own_night = any(digit.level in ("night", "median") for digit in self.digits)
        if lengths.min() < 240 and own_night:  # two hours
            warnings.warn(
                f"{lengths.idxmin()[1]} has {lengths.min()} epochs, less than two hours: levels within so "
                "short a night are unreliable.",
                stacklevel=2,
            )
        levels = np.empty((len(table), len(self.digits)), dtype=np.int8)
        for i, digit in enumerate(self.digits):
            values = digit.values(table)
            if digit.level == "night":
                level = 1 + np.floor(N_LEVELS * share_within_night(values))
            else:
                cuts = self.cuts[digit.key]
                below = np.searchsorted(cuts, values, "left") + np.searchsorted(cuts, values, "right")
                level = 1 + below // 2
            levels[:, i] = np.where(values.isna(), MISSING, level)
        return levels

    def save(self, path: str | Path) -> Path:
        """Write the specification as JSON."""
        path = Path(path)
        write_json(path, {**VERSIONS, **asdict(self)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> PromptSpec:
        """Read a specification written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file is of another format, its features were defined otherwise than now, or what it says
            is impossible.
        """
        content = read_json(path)
        found = {name: content.pop(name, None) for name in VERSIONS}
        if found != VERSIONS:
            raise ValueError(
                f"{path} was written with {found}, this package has {VERSIONS}; make the prompt and the "
                "adapter anew, or use the version of the package that wrote them"
            )
        with naming(path, "a prompt that sleepstage reads"):
            content["digits"] = tuple(Digit(**digit) for digit in content["digits"])
            content["cuts"] = {name: tuple(cuts) for name, cuts in content["cuts"].items()}
            content["labels"] = listed(content["labels"], "labels")
            return cls(**content)


DIGITS = (
    *(Digit(column) for column in ("rfft_delta_uv2", "rfft_alpha_uv2")),
    *(
        Digit(column, "cohort")
        for column in ("alpha_share", "rfft_delta_uv2/var_uv2", "sigma_share/beta_share")
    ),
    *(Digit(column, "cohort") for column in ("sigma_share/alpha_share", "theta_share/alpha_share")),
    Digit("ptp_uv/std_uv", "cohort"),
    *(Digit(column, "median") for column in ("delta_log_power", "beta_log_power")),
    *(Digit(column, "neighbours") for column in ("delta_log_power", "beta_log_power")),
)
"""The digits of the adapter that ships. No amplifier's gain moves any of them.

Small networks chose them, trained on some people and tested on others (``benchmarks/digits.py``).
"""


def default_digits(train_table: pd.DataFrame) -> tuple[Digit, ...]:
    """Choose the digits of a line by what a table has.

    They are `DIGITS`, as far as the table has their columns; with a single subject, all of them are levels
    within the night. A table that has fewer than half of them, such as one that was made from spectrograms,
    is read by its first features as well, as levels within the night.
    """
    check_index(train_table)
    present = [digit for digit in DIGITS if set(digit.column.split("/")) <= set(train_table)]
    if train_table.index.unique("subject").size == 1:
        present = [*dict.fromkeys(Digit(digit.column) for digit in present)]
    if len(present) < len(DIGITS) // 2:
        others = [digit for digit in map(Digit, feature_columns(train_table)) if digit not in present]
        present += others[: len(DIGITS) - len(present)]
    return tuple(present)


def night_text(levels: np.ndarray, separator: str = "") -> str:
    r"""Write levels (n_epochs, n_digits) as text. ``separator="\n"`` is for people, not for the model.

    >>> night_text(np.array([[8, 3, 0], [1, 9, 5]]))
    '830:195:'
    """
    return separator.join("".join(map(str, line)) + ":" for line in levels.tolist())


def parse_text(text: str, n_digits: int) -> np.ndarray:
    """Read levels (n_epochs, n_digits) back from :func:`night_text`.

    Raises
    ------
    ValueError
        If a line is not ``n_digits`` digits followed by a colon.

    Examples
    --------
    >>> parse_text("830:195:", n_digits=3).tolist()
    [[8, 3, 0], [1, 9, 5]]
    """
    *lines, rest = "".join(text.split()).split(":")
    wrong = [line for line in lines if len(line) != n_digits or not line.isdecimal()] + [rest] * bool(rest)
    if wrong:
        raise ValueError(f"expected {n_digits} digits and a colon for each epoch, got {wrong[0]!r}")
    return np.array([[*line] for line in lines], dtype=np.int8).reshape(-1, n_digits)


def epoch_in_words(row: pd.Series, columns: Sequence[str]) -> str:
    """Describe one epoch (a row of the table) as a prompt in words, for teaching.

    A person who writes a first prompt writes one like this. It is easy to read, but it is long, and it says
    nothing about the other epochs of the night.

    Raises
    ------
    ValueError
        If a column is no feature that :func:`sleepstage.describe_features` knows.
    """
    about = describe_features(columns)[["meaning", "unit"]].itertuples()
    facts = [f"{meaning}: {row[name]:.3g} {unit}".removesuffix(" 1") for name, meaning, unit in about]
    question = f"The sleep stage, one of {', '.join(STAGES)}, is:"
    return "\n".join(["Thirty seconds of sleep EEG have these features.", *facts, question])
