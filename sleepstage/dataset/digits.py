"""A night as text: every feature becomes one digit, an epoch a short run of digits that ends in ``:``.

``833412907821:733412908821:…`` is what the language model reads. After each ``:`` its next-token
distribution over five label words is the answer for the epoch ``look_ahead`` lines earlier, so one
forward pass stages a whole window, and nothing has to be generated or parsed.

A digit is a level from 1 to 9, lowest to highest, with equal shares of epochs; 0 says that the value
is missing. Levels are taken within the night (robust against a device's gain and a person's amplitude)
or over the training subjects (robust against a night of unusual composition).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..features.catalogue import DEFINITIONS_VERSION, NIGHT, describe_features, feature_columns
from ..stages import STAGES
from .table import share_within_night

N_LEVELS = 9


MISSING = 0


VERSIONS = {"format_version": 1, "definitions_version": DEFINITIONS_VERSION}


SHORT_NIGHT = 240  # epochs: two hours, under which a night's own levels say little


EEG_COLUMNS = (
    "std_uv",
    "mobility",
    "complexity",
    "wavelet_entropy",
    "delta_power_rel",
    "theta_power_rel",
    "alpha_power_rel",
    "sigma_power_rel",
    "beta_power_rel",
    "gamma_power_uv2",
    "slow_fast_ratio",
    "edge_frequency_95_hz",
)
"""What a night's line says when its features were extracted from the EEG itself."""


PUBLISHED_COLUMNS = ("rfft_delta_uv2", "rfft_theta_uv2", "rfft_alpha_uv2", "rfft_rest_uv2")
"""The same for the published table, which has no more than eleven features."""


COHORT_COLUMNS = ("rfft_delta_uv2", "rfft_alpha_uv2", "rfft_beta_uv2", "rfft_rest_uv2")
"""What is also compared with other people, when there are any in training.

These two fours were found with a small recurrent network on people held out of training: it read eight digits
as well as twelve (``benchmarks/runs.csv`` has the figures, ``benchmarks/digits.py`` is such a network).
"""


@dataclass(frozen=True)
class Digit:
    """What one digit of an epoch's line says.

    Parameters
    ----------
    column : str
        A column of the feature table, or a ratio of two: ``"rfft_delta_uv2/rfft_beta_uv2"``.
    level : {"night", "cohort"}
        Ranked within the recording, or by cut points over the training subjects.
    """

    column: str
    level: str = "night"

    def __post_init__(self) -> None:
        if self.level not in ("night", "cohort"):
            raise ValueError(f"level is {self.level!r}, expected 'night' or 'cohort'")

    def values(self, table: pd.DataFrame) -> np.ndarray:
        """Give the column's values (n_epochs,), NaN where they are missing or not finite."""
        values = _column(table, self.column.split("/")[0])
        for name in self.column.split("/")[1:]:
            divisor = _column(table, name)
            values = np.divide(values, divisor, out=np.full_like(values, np.nan), where=divisor != 0)
        return np.where(np.isfinite(values), values, np.nan)


@dataclass(frozen=True)
class PromptSpec:
    """How a night becomes text; it travels with the adapter and knows no tokenizer.

    Parameters
    ----------
    digits : tuple of Digit
        The digits of an epoch's line, in order.
    cuts : dict of str to tuple of float
        For each cohort column the 8 cut points between its 9 levels, over the training subjects.
    labels : tuple of str
        The words that stand for W, N1, N2, N3, REM. Each must be one token.
    window : int
        Lines in one text.
    look_ahead : int
        The answer after line t is for the epoch at line t − look_ahead, so that the model, which reads
        from left to right, has seen what comes next.
    bidirectional : bool
        Every token sees the whole window, what follows it too, as in an encoder; otherwise a token sees
        only what stands before it.
    """

    digits: tuple[Digit, ...]
    cuts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = (" Wake", " Light", " Medium", " Deep", " REM")
    window: int = 40
    look_ahead: int = 6
    bidirectional: bool = False

    def __post_init__(self) -> None:
        if not self.digits:
            raise ValueError("a prompt needs at least one digit, got none")
        uncut = [d.column for d in self.digits if d.level == "cohort" and d.column not in self.cuts]
        if uncut:
            raise ValueError(f"cohort digits {uncut} have no cut points; make the prompt with PromptSpec.fit")
        if len(self.labels) != len(STAGES):
            raise ValueError(f"got {len(self.labels)} label words, expected one for each of {STAGES}")
        if not 0 <= self.look_ahead < self.window:
            raise ValueError(f"look_ahead is {self.look_ahead}, expected 0 to window − 1 = {self.window - 1}")

    @property
    def default_stride(self) -> int:
        """Epochs from one window to the next when staging: two thirds of what a window answers for."""
        return max(1, 2 * (self.window - self.look_ahead) // 3)

    @classmethod
    def fit(cls, train_table: pd.DataFrame, digits: Sequence[Digit], **settings: Any) -> PromptSpec:
        """Take the cut points of the cohort digits from a training table.

        Raises
        ------
        ValueError
            If the table lacks a column, or a column has no value at all.
        """
        shares = np.arange(1, N_LEVELS) / N_LEVELS
        cuts = {}
        for digit in digits:
            if digit.level == "cohort":
                values = digit.values(train_table)
                if np.isnan(values).all():
                    raise ValueError(f"{digit.column} has no value in the training table, so no cut points")
                cuts[digit.column] = tuple(np.nanquantile(values, shares).tolist())
        return cls(digits=tuple(digits), cuts=cuts, **settings)

    def levels(self, table: pd.DataFrame) -> np.ndarray:
        """Turn a table into levels, int8 (n_epochs, n_digits): 1–9, or 0 where a value is missing.

        Equal values get the same level, the middle one of those they span; a constant gets 5.
        """
        lengths = table.groupby(level=NIGHT, sort=False).size()
        if lengths.min() < SHORT_NIGHT and any(digit.level == "night" for digit in self.digits):
            warnings.warn(
                f"{lengths.idxmin()[1]} has {lengths.min()} epochs, less than two hours: levels within so "
                "short a night are unreliable.",
                stacklevel=2,
            )
        columns = [self._night_levels(d, table) if d.level == "night" else self._cohort_levels(d, table)
                   for d in self.digits]  # fmt: skip
        return np.stack(columns, axis=1).astype(np.int8)

    def _night_levels(self, digit: Digit, table: pd.DataFrame) -> np.ndarray:
        share = share_within_night(pd.Series(digit.values(table), index=table.index)).to_numpy()
        return np.where(np.isnan(share), MISSING, 1 + np.floor(N_LEVELS * np.nan_to_num(share)))

    def _cohort_levels(self, digit: Digit, table: pd.DataFrame) -> np.ndarray:
        values, cuts = digit.values(table), np.asarray(self.cuts[digit.column])
        below = np.searchsorted(cuts, values, "left") + np.searchsorted(cuts, values, "right")
        return np.where(np.isnan(values), MISSING, 1 + below // 2)

    def save(self, path: str | Path) -> Path:
        """Write the specification as JSON."""
        content = {**VERSIONS, **asdict(self)}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> PromptSpec:
        """Read a specification written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file is of another format, or its features were defined otherwise than now.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {name: content.pop(name, None) for name in VERSIONS}
        if found != VERSIONS:
            raise ValueError(
                f"{path} was written with {found}, this package has {VERSIONS}; make the prompt and the "
                "adapter anew, or use the version of the package that wrote them"
            )
        return cls(
            digits=tuple(Digit(**digit) for digit in content.pop("digits")),
            cuts={name: tuple(cuts) for name, cuts in content.pop("cuts").items()},
            labels=tuple(content.pop("labels")),
            **content,
        )


def default_digits(train_table: pd.DataFrame) -> tuple[Digit, ...]:
    """Choose the digits of a line by what a table has.

    Levels within the night of the columns that say most about stages, and, with more than one subject,
    levels over the subjects of the four band powers. A table with other columns gets its first twelve.
    """
    for columns in (EEG_COLUMNS, PUBLISHED_COLUMNS, tuple(feature_columns(train_table)[:12])):
        if all(name in train_table for column in columns for name in column.split("/")):
            break
    several = train_table.index.get_level_values("subject").nunique() > 1
    cohort = [column for column in COHORT_COLUMNS if several and column in train_table]
    return (*(Digit(column) for column in columns), *(Digit(column, "cohort") for column in cohort))


def night_text(levels: np.ndarray, separator: str = "") -> str:
    """Write levels (n_epochs, n_digits) as text. ``separator="\\n"`` is for people, not for the model."""
    return separator.join("".join(map(str, line)) + ":" for line in levels.tolist())


def parse_text(text: str, n_digits: int) -> np.ndarray:
    """Read levels (n_epochs, n_digits) back from :func:`night_text`.

    Raises
    ------
    ValueError
        If a line is not ``n_digits`` digits followed by a colon.
    """
    *lines, rest = "".join(text.split()).split(":")
    wrong = [line for line in lines if len(line) != n_digits or not line.isdecimal()] + [rest] * bool(rest)
    if wrong:
        raise ValueError(f"expected {n_digits} digits and a colon for each epoch, got {wrong[0]!r}")
    return np.array([[int(digit) for digit in line] for line in lines], dtype=np.int8).reshape(-1, n_digits)


def label_token_ids(labels: Sequence[str], tokenizer: Any) -> list[int]:
    """Give the token id of each label word.

    Raises
    ------
    ValueError
        If a word is not exactly one token, or two words are the same token.
    """
    pieces = [tokenizer(label, add_special_tokens=False).input_ids for label in labels]
    split = {label: len(ids) for label, ids in zip(labels, pieces, strict=True) if len(ids) != 1}
    if split:
        raise ValueError(f"label words must be one token each; tokens counted: {split}. Choose other words.")
    ids = [ids[0] for ids in pieces]
    if len(set(ids)) != len(ids):
        raise ValueError(f"label words must be distinct tokens; {list(labels)} are the tokens {ids}")
    return ids


def line_tokens(levels: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Tokenize a night, one row an epoch: (n_epochs, tokens_per_epoch).

    Lines are tokenized one by one, which is right only if no token reaches over a line's end and every
    line has the same number of tokens; both are checked.

    Raises
    ------
    ValueError
        If the tokenizer breaks either rule.
    """
    lines, inverse = np.unique(levels, axis=0, return_inverse=True)
    ids = tokenizer([night_text(line[None]) for line in lines], add_special_tokens=False).input_ids
    lengths = sorted({len(line) for line in ids})
    whole = tokenizer(night_text(lines), add_special_tokens=False).input_ids
    if len(lengths) != 1 or whole != [token for line in ids for token in line]:
        raise ValueError(
            f"this tokenizer does not keep epochs apart (tokens a line: {lengths}); each line of digits "
            "must be the same number of tokens and end in a token of its own."
        )
    return np.asarray(ids, dtype=np.int64)[inverse.ravel()]


def tokenizer_hash(tokenizer: Any) -> str:
    """Identify a tokenizer by what it does to lines of digits: SHA-256 over the tokens of 000: to 999:."""
    digits = np.array(np.unravel_index(np.arange(1000), (10, 10, 10)), dtype=np.int8).T
    tokens = [tokenizer.bos_token_id, *line_tokens(digits, tokenizer).ravel().tolist()]
    return f"sha256:{hashlib.sha256(repr(tokens).encode()).hexdigest()}"


def epoch_in_words(row: pd.Series, columns: Sequence[str]) -> str:
    """Describe one epoch (a row of the table) as a plain prompt in words, for teaching.

    This is what one would write first: readable, but long, and without the night around it.

    Raises
    ------
    ValueError
        If a column is no feature that :func:`sleepstage.describe_features` knows.
    """
    about = describe_features(columns)
    facts = [
        f"{meaning}: {row[name]:.3g} {unit}".removesuffix(" 1")
        for name, meaning, unit in zip(about.index, about["meaning"], about["unit"], strict=True)
    ]
    return (
        "Thirty seconds of sleep EEG have these features.\n"
        + "\n".join(facts)
        + f"\nThe sleep stage, one of {', '.join(STAGES)}, is:"
    )


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        raise ValueError(
            f"the table has no column {name!r}, which the prompt needs. It has: "
            f"{', '.join(feature_columns(table))}."
        )
    return table[name].to_numpy(np.float64)
