"""Signals that the tests of features are made of."""

from __future__ import annotations

import numpy as np
from scipy import signal

from sleepstage.recordings.recording import Recording

SFREQ_HZ = 100.0
N_SAMPLES = 3000


def make_recording(eeg_uv, stages=None):
    return Recording(
        eeg_uv=np.asarray(eeg_uv, dtype=np.float32),
        sfreq_hz=SFREQ_HZ,
        stages=stages,
        subject=7,
        recording="made",
        channel="EEG Fpz-Cz",
        start=None,
    )


def make_sine(freq_hz, amplitude_uv=1.0, sfreq_hz=SFREQ_HZ):
    """One epoch of a sine, shape (1, 30 s)."""
    seconds = np.arange(int(30 * sfreq_hz)) / sfreq_hz
    return amplitude_uv * np.sin(2 * np.pi * freq_hz * seconds + 0.3)[np.newaxis]


def make_noise(n_epochs=8, seed=0, std_uv=20.0):
    """Pink-like noise, as EEG is, plus white noise."""
    white = np.random.default_rng(seed).normal(size=(n_epochs, N_SAMPLES))
    slow = signal.lfilter([1], [1, -0.97], white, axis=1)
    return std_uv * slow / slow.std() + white


def make_bad_epochs():
    """One good epoch and one of each kind of bad ones, with what is expected of each."""
    x = make_noise(8)
    x[1, 17] = np.nan
    x[2, 17] = np.inf
    x[3] = 0
    x[4] = 42.1
    x[5] = 42.1 + 1e-3 * make_noise(1)
    x[6] = np.clip(3 * x[6], -40, 40)
    x[7] = np.minimum(x[7], np.quantile(x[7], 0.9))
    return x, ["ok", "nan", "nan", "zero", "flat", "flat", "clipped", "clipped"]
