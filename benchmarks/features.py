"""Time and memory of `sleepstage.extract_features` on a night, with the features of YASA's stager beside it.

    python benchmarks/features.py --epochs 960 --repeats 9 --channels 8

The calls alternate in one process, and medians are shown. YASA's time includes its own band-pass filter, ours
includes that of the family "filtered"; the line without this family has what needs no filter. Eight channels
are one recording of eight times the epochs.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import mne
import numpy as np
import yasa
from run_all import row

from sleepstage.features.catalogue import feature_columns
from sleepstage.features.extract import extract_features
from sleepstage.features.spectral import spectral_features
from sleepstage.features.time_domain import hjorth_features, moment_features, time_features, wavelet_features
from sleepstage.recordings.recording import Recording

SFREQ_HZ = 100.0
CHANNEL = "EEG Fpz-Cz"


def make_night(n_epochs: int, seed: int) -> Recording:
    """A night of brown noise, shape (n_epochs, 3000), as large in amplitude as EEG."""
    steps = np.random.default_rng(seed).normal(size=(n_epochs, 3000))
    walk = np.cumsum(steps - steps.mean(axis=1, keepdims=True), axis=1)
    eeg_uv = (20 * walk / walk.std()).astype(np.float32)
    return Recording(eeg_uv, SFREQ_HZ, stages=None, subject=0, recording="made", channel=CHANNEL)


def extract_all(night: Recording) -> int:
    """Compute all features and give their number."""
    return len(feature_columns(extract_features(night)))


def extract_without_filter(night: Recording) -> int:
    """Compute the families that need no filter and give the number of their features."""
    families = (time_features, hjorth_features, wavelet_features, moment_features)
    found = [family(night.eeg_uv) for family in families]
    return sum(map(len, [*found, spectral_features(night.eeg_uv, SFREQ_HZ)]))


def extract_with_yasa(night: Recording) -> int:
    """Run YASA's features and give their number."""
    info = mne.create_info([CHANNEL], night.sfreq_hz, ["eeg"], verbose="error")
    raw = mne.io.RawArray(night.eeg_uv.astype(np.float64).reshape(1, -1) * 1e-6, info, verbose="error")
    staging = yasa.SleepStaging(raw, eeg_name=CHANNEL)
    return staging.get_features().shape[1]


def peak_memory(night: Recording) -> int:
    """Bytes that `extract_features` holds at most, beside the night itself."""
    tracemalloc.start()
    extract_features(night)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=960, help="epochs of the night (default: 960, 8 hours)")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each (default: 9)")
    parser.add_argument(
        "--channels", type=int, default=8, help="channels at once, for the growth (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default: 1)")
    args = parser.parse_args()

    night, channels = (make_night(n * args.epochs, args.seed) for n in (1, args.channels))
    calls = {
        "sleepstage": lambda: extract_all(night),
        "sleepstage without its filter": lambda: extract_without_filter(night),
        "YASA": lambda: extract_with_yasa(night),
        f"sleepstage, {args.channels} channels": lambda: extract_all(channels),
    }
    n_features = {name: call() for name, call in calls.items()}  # the first call is not timed
    seconds = {name: np.zeros(args.repeats) for name in calls}
    for repeat in range(args.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name][repeat] = time.perf_counter() - start
    for name, values in seconds.items():
        n_channels = args.channels if "channels" in name else 1  # YASA is called for each channel
        times = None if name == "YASA" else float(np.median(values / seconds["YASA"])) / n_channels
        about = f"{name}: {n_features[name]} features of {args.epochs} epochs"
        channels_text = "one channel" if n_channels == 1 else f"{n_channels} channels, one after the other"
        peer = f"YASA's {n_features['YASA']} features of {channels_text}"
        row(about, float(np.median(values)), "s", times, peer)
    for name, recording in (("one channel", night), (f"{args.channels} channels", channels)):
        times = peak_memory(recording) / recording.eeg_uv.nbytes
        row(f"peak memory beside the signal, {name}", times, "times the signal")


if __name__ == "__main__":
    main()
