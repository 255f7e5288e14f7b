"""From a recording to its feature table: all six families, and the quality of each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..stages import UNSCORED
from .catalogue import INDEX
from .log_power import log_power_features
from .spectral import spectral_features
from .time_domain import hjorth_features, moment_features, time_features, wavelet_features

if TYPE_CHECKING:
    from ..recordings.recording import Recording


def extract_features(recording: Recording) -> pd.DataFrame:
    """Compute all features of all epochs of a night.

    Parameters
    ----------
    recording : Recording
        A night: ``eeg_uv`` of shape (n_epochs, n_samples) in µV; every `Recording` is at 100 Hz.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``(subject, recording, epoch)``, one float64 column per feature in the order of
        :func:`describe_features`, then ``stage`` (int8, -1 where unscored) and ``quality`` (the recording's).
        An epoch whose quality is not ``"ok"`` has NaN in every feature. The family ``filtered`` leaves
        it out: its filter ends before this epoch and begins anew behind it.
    """
    if not hasattr(recording, "eeg_uv"):
        raise ValueError(
            f"extract_features takes a Recording, got {type(recording).__name__}. Make one: of a file or a "
            "Raw by read_recording(...), of an array (n_epochs, n_samples) by Recording(eeg_uv, sfreq_hz, "
            "...)."
        )
    eeg_uv = recording.eeg_uv
    features = {
        **time_features(eeg_uv),
        **hjorth_features(eeg_uv),
        **wavelet_features(eeg_uv),
        **moment_features(eeg_uv),
        **spectral_features(eeg_uv, recording.sfreq_hz),
        **log_power_features(eeg_uv, recording.sfreq_hz, recording.quality == "ok"),
    }
    levels = [[recording.subject], [recording.recording], range(recording.n_epochs)]
    table = pd.DataFrame(features, index=pd.MultiIndex.from_product(levels, names=INDEX))
    table[recording.quality != "ok"] = np.nan
    stages = np.int8(UNSCORED) if recording.stages is None else recording.stages
    return table.assign(stage=stages, quality=recording.quality)
