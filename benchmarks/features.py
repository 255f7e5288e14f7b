"""Time `sleepstage.extract_features` on a night, with the features of YASA's stager beside it.

    python benchmarks/features.py --epochs 960 --repeats 5

YASA's time includes its own band-pass filter; ours needs none. The best of the repeats is shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import mne
import numpy as np
import yasa

from sleepstage.features.catalogue import feature_columns
from sleepstage.features.extract import extract_features
from sleepstage.recordings.recording import Recording

SFREQ_HZ = 100.0
CHANNEL = "EEG Fpz-Cz"


def make_night(n_epochs: int, seed: int) -> Recording:
    """A night of brown noise, shape (n_epochs, 3000), as large in amplitude as EEG."""
    steps = np.random.default_rng(seed).normal(size=(n_epochs, 3000))
    walk = np.cumsum(steps - steps.mean(axis=1, keepdims=True), axis=1)
    eeg_uv = (20 * walk / walk.std()).astype(np.float32)
    return Recording(eeg_uv, SFREQ_HZ, stages=None, subject=0, recording="made", channel=CHANNEL)


def extract_with_yasa(night: Recording) -> int:
    """Run YASA's features and give their number."""
    info = mne.create_info([CHANNEL], night.sfreq_hz, ["eeg"], verbose="error")
    raw = mne.io.RawArray(night.eeg_uv.astype(np.float64).reshape(1, -1) * 1e-6, info, verbose="error")
    staging = yasa.SleepStaging(raw, eeg_name=CHANNEL)
    return staging.get_features().shape[1]


def best_time(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=960, help="epochs of the night (default: 960, 8 hours)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default: 1)")
    args = parser.parse_args()

    night = make_night(args.epochs, args.seed)
    n_ours, n_yasa = len(feature_columns(extract_features(night))), extract_with_yasa(night)
    ours = best_time(lambda: extract_features(night), args.repeats)
    theirs = best_time(lambda: extract_with_yasa(night), args.repeats)
    print(f"{args.epochs} epochs at {SFREQ_HZ:g} Hz, best of {args.repeats}")
    print(f"sleepstage  {n_ours:3d} features  {ours:.3f} s")
    print(f"YASA        {n_yasa:3d} features  {theirs:.3f} s")


if __name__ == "__main__":
    main()
