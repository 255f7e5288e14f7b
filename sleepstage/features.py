"""The feature table of a night: the five families assembled, bad epochs named.

The families are in :mod:`sleepstage.feature_families` and :mod:`sleepstage.spectral_family`, what their
features mean is in :mod:`sleepstage.feature_catalogue`; all are public here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from .feature_catalogue import (
    DEFINITIONS_VERSION,
    META_COLUMNS,
    PUBLISHED_TABLE_COLUMNS,
    describe_features,
    feature_columns,
)
from .feature_families import (
    as_epochs,
    hjorth_features,
    moment_features,
    time_features,
    wavelet_features,
)
from .spectral_family import spectral_features
from .stages import UNSCORED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .recording import Recording

__all__ = [
    "DEFINITIONS_VERSION",
    "META_COLUMNS",
    "PUBLISHED_TABLE_COLUMNS",
    "describe_features",
    "epoch_quality",
    "extract_features",
    "feature_columns",
    "hjorth_features",
    "moment_features",
    "spectral_features",
    "time_features",
    "wavelet_features",
]

FLAT_PTP_UV = 1.0  # over 30 s, less than the noise of an amplifier with a live electrode
CLIPPED_SHARE = 0.01  # 0.3 s of an epoch held at its own extremes
STRETCHES = 30  # an epoch's seconds
DEAD_STRETCHES = 5  # in a row; K-complexes and spindles are shorter than what would be lost


def extract_features(recording: Recording) -> pd.DataFrame:
    """All features of all epochs of a night.

    Parameters
    ----------
    recording : Recording
        A night: ``eeg_uv`` of shape (n_epochs, n_samples) in µV, at 100 Hz as every `Recording` is.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``(subject, recording, epoch)``, one float64 column per feature in the order of
        :func:`describe_features`, then ``stage`` (int8, -1 where unscored) and ``quality`` (see
        :func:`epoch_quality`; of the signal as it was before resampling). An epoch whose quality is not
        ``"ok"`` has NaN in every feature.
    """
    eeg_uv = as_epochs(recording.eeg_uv)
    quality = epoch_quality(eeg_uv) if recording.quality is None else np.asarray(recording.quality)
    names = describe_features().index
    values = np.full((len(eeg_uv), len(names)), np.nan)
    good = quality == "ok"
    if good.any():
        values[good] = _all_families(eeg_uv[good], recording.sfreq_hz)[names].to_numpy()
    index = pd.MultiIndex.from_product(
        [[recording.subject], [recording.recording], range(len(eeg_uv))],
        names=["subject", "recording", "epoch"],
    )
    table = pd.DataFrame(values, index=index, columns=list(names))
    stages = UNSCORED if recording.stages is None else np.asarray(recording.stages)
    return table.assign(stage=np.broadcast_to(stages, len(table)).astype(np.int8), quality=quality)


@np.errstate(invalid="ignore")  # the peak to peak of an infinite epoch
def epoch_quality(eeg_uv: ArrayLike) -> NDArray[np.object_]:
    """Whether an epoch can be measured, and if not, why.

    Parameters
    ----------
    eeg_uv : array_like, shape (n_epochs, n_samples)
        Signal in µV.

    Returns
    -------
    ndarray of str, shape (n_epochs,)
        The first that holds of

        - ``"nan"``: a sample is NaN or infinite;
        - ``"zero"``: every sample is 0;
        - ``"flat"``: peak to peak under 1 µV;
        - ``"clipped"``: at least 1 % of the samples lie inside a plateau at the epoch's own
          minimum or maximum, that is, both neighbours have that very value too. A lone peak, or
          two equal samples around one, is no plateau;
        - ``"disconnected"``: peak to peak under 1 µV for at least five whole seconds in a row;
        - ``"ok"``.
    """
    x = as_epochs(eeg_uv)
    lowest, highest = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    extreme = (x == lowest) | (x == highest)
    repeated = x[:, 1:] == x[:, :-1]
    plateau = extreme[:, 1:-1] & repeated[:, :-1] & repeated[:, 1:]
    ptp_uv = (highest - lowest)[:, 0]
    reasons = {
        "nan": ~np.isfinite(x).all(axis=1),
        "zero": ~x.any(axis=1),
        "flat": ptp_uv < FLAT_PTP_UV,
        "clipped": plateau.sum(axis=1) >= CLIPPED_SHARE * x.shape[1],
        "disconnected": _has_dead_stretch(x),
    }
    return np.select(list(reasons.values()), list(reasons), default="ok").astype(object)


def _has_dead_stretch(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    n_samples = x.shape[1] // STRETCHES
    if n_samples == 0:
        return np.zeros(len(x), dtype=bool)
    seconds = x[:, : STRETCHES * n_samples].reshape(len(x), STRETCHES, n_samples)
    dead = np.ptp(seconds, axis=2) < FLAT_PTP_UV
    return sliding_window_view(dead, DEAD_STRETCHES, axis=1).all(axis=2).any(axis=1)


def _all_families(eeg_uv: NDArray[np.float64], sfreq_hz: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **time_features(eeg_uv),
            **hjorth_features(eeg_uv),
            **wavelet_features(eeg_uv),
            **moment_features(eeg_uv),
            **spectral_features(eeg_uv, sfreq_hz),
        }
    )
