"""The feature table of a night: the five families assembled, bad epochs named.

The families are in :mod:`sleepstage.feature_families` and :mod:`sleepstage.spectral_family`, what their
features mean is in :mod:`sleepstage.feature_catalogue`; all are public here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..recordings.quality import epoch_quality
from ..stages import UNSCORED
from .catalogue import INDEX, describe_features
from .spectral import spectral_features
from .time_domain import as_epochs, hjorth_features, moment_features, time_features, wavelet_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..recordings.recording import Recording


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
    levels = [[recording.subject], [recording.recording], range(len(eeg_uv))]
    index = pd.MultiIndex.from_product(levels, names=INDEX)
    table = pd.DataFrame(values, index=index, columns=list(names))
    stages = UNSCORED if recording.stages is None else np.asarray(recording.stages)
    return table.assign(stage=np.broadcast_to(stages, len(table)).astype(np.int8), quality=quality)


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
