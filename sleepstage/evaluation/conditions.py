"""The same nights under other conditions: another amplifier, only a part of them, hours of wake around them.

What a condition adds to a night is unscored, so that figures count the night's own epochs only.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ..features.catalogue import INDEX, NIGHT, describe_features, feature_columns
from ..stages import STAGE_CODES, UNSCORED

EPOCHS_AN_HOUR = 120


def under_gain(table: pd.DataFrame, gain: float) -> pd.DataFrame:
    """Give the table that an amplifier of another gain would have given: 2 makes all voltages twice as large.

    Amplitudes (µV) are multiplied by the gain and powers (µV²) by its square; the logarithm of a power
    (log10 µV²/Hz) moves by that of the square. Features of other units do not change with the gain: log
    powers relative to the recording, shares, ratios, frequencies.

    Raises
    ------
    ValueError
        If the gain is not positive, or a feature is not in the catalogue, so that its unit is unknown.
    """
    if not 0 < gain < np.inf:
        raise ValueError(
            f"the gain is {gain}, expected a positive number: 1 changes nothing, 2 doubles voltages"
        )
    unit = describe_features(feature_columns(table))["unit"]
    factor = unit.map({"µV": gain, "µV²": gain**2}).fillna(1.0)
    shift = unit.map({"log10 µV²/Hz": 2 * np.log10(gain)}).fillna(0.0)
    scaled = table.copy()
    scaled[unit.index] = table[unit.index] * factor + shift
    return scaled


def in_pieces(table: pd.DataFrame, hours: float = 4) -> pd.DataFrame:
    """Cut every night into recordings of that length; the last one ends with the night.

    What the last one shares with the one before it is unscored there, so that every epoch counts once.
    """
    length = round(hours * EPOCHS_AN_HOUR)
    pieces = []
    for (subject, recording), night in table.groupby(level=NIGHT, sort=False):
        for k, first in enumerate(range(0, len(night), length)):
            start = max(0, min(first, len(night) - length))
            piece = night.iloc[start : start + length].copy()
            piece.iloc[: first - start, piece.columns.get_loc("stage")] = UNSCORED
            pieces.append(_named(piece, subject, f"{recording}-{k}"))
    return pd.concat(pieces)


def with_more_wake(table: pd.DataFrame, hours: float = 13) -> pd.DataFrame:
    """Put that much of a night's own wake around it, half before and half after, without stages.

    A night in which the expert scored no wake stays as it is.
    """
    nights = []
    for (subject, recording), night in table.groupby(level=NIGHT, sort=False):
        wake = night[night["stage"] == STAGE_CODES["W"]]
        rows = np.resize(np.arange(len(wake)), round(hours * EPOCHS_AN_HOUR) if len(wake) else 0)
        more = wake.iloc[rows].assign(stage=UNSCORED)
        half = len(more) // 2
        nights.append(_named(pd.concat([more[:half], night, more[half:]]), subject, recording))
    return pd.concat(nights)


CONDITIONS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"pieces": in_pieces, "wake": with_more_wake}
"""Recordings that are not a whole night: pieces of four hours, and nights with 13 hours of wake more."""


def _named(night: pd.DataFrame, subject: object, recording: str) -> pd.DataFrame:
    """Number a night's epochs from 0, as one recording of that name."""
    return night.set_axis(
        pd.MultiIndex.from_product([[subject], [recording], range(len(night))], names=INDEX)
    )
