"""Time of staging the shipped night with the shipped adapter, model loaded, and what stands beside it.

    python benchmarks/staging.py --repeats 3

Every repeat times each reader once, by turns, and medians are shown. A *unit* is the time of 200 products of
float32 matrices, 1444×576 by 576×1536, at `torch.set_float32_matmul_precision("highest")` in the same run: so
that figures of two processors can be compared. Beside the machine's own precision stands float32 (the preset
`cpu`). The usual prompt is one epoch's features in words, one text an epoch, answered by free generation.
Growth: copies of 200 epochs of the night, as so many nights, each number in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mne
import numpy as np
import pandas as pd
import torch
import yasa
from run_all import row

from sleepstage.dataset.digits import epoch_in_words
from sleepstage.dataset.sources import load_cohort
from sleepstage.dataset.splits import first_nights, partition_subjects, recut
from sleepstage.dataset.windows import covering_windows
from sleepstage.evaluation.metrics import score
from sleepstage.features.catalogue import feature_columns
from sleepstage.features.extract import extract_features
from sleepstage.finetuning.base_model import load_base, load_tokenizer
from sleepstage.finetuning.settings import OFFLINE_MODEL, detect
from sleepstage.recordings.recording import Recording, load_demo
from sleepstage.stages import STAGES, most_probable_stages
from sleepstage.staging.stager import Stager

NIGHTS = (1, 4, 16)  # of 200 epochs, for the growth
ASKED = 5  # epochs that the usual prompt asks about


@contextmanager
def preset(name: str) -> Iterator[None]:
    """Compute as this preset says."""
    before = os.environ.get("SLEEPSTAGE_PRESET")
    os.environ["SLEEPSTAGE_PRESET"] = name
    try:
        yield
    finally:
        del os.environ["SLEEPSTAGE_PRESET"]
        if before:
            os.environ["SLEEPSTAGE_PRESET"] = before


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """Give the seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def one_unit() -> None:
    """Multiply 200 times: the unit of time."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    a, b = torch.ones(1444, 576), torch.ones(576, 1536)
    for _ in range(200):
        a @ b
    torch.set_float32_matmul_precision(before)


def stage_with_yasa(night: Recording) -> np.ndarray:
    """Give YASA's stages, as our codes (n_epochs,)."""
    info = mne.create_info([night.channel], night.sfreq_hz, ["eeg"], verbose="error")
    raw = mne.io.RawArray(night.eeg_uv.astype(np.float64).reshape(1, -1) * 1e-6, info, verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was trained with another version of scikit-learn
        found = yasa.SleepStaging(raw, eeg_name=night.channel).predict()
    names = np.asarray(getattr(found, "hypno", found)).astype(str)
    return pd.Series(names).replace({"WAKE": "W", "R": "REM"}).map(list(STAGES).index).to_numpy()


def usual_prompt(table: pd.DataFrame) -> Callable[[], None]:
    """Load the base model; give a call that asks it about a few epochs, one text each, by generation."""
    model, tokenizer = load_base(OFFLINE_MODEL, nf4=False), load_tokenizer(OFFLINE_MODEL)
    rows = [table.iloc[i] for i in np.linspace(0, len(table) - 1, ASKED).astype(int)]
    texts = [epoch_in_words(row, feature_columns(table)) for row in rows]

    def ask() -> None:
        with torch.inference_mode(), detect().products():
            for text in texts:
                model.generate(
                    **tokenizer(text, return_tensors="pt"),
                    max_new_tokens=4,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=tokenizer.eos_token_id,
                )

    return ask


def several_nights(table: pd.DataFrame, n_nights: int) -> pd.DataFrame:
    """Give 200 epochs of the table as so many nights of as many people."""
    piece = table.iloc[200:400]
    nights = [piece.rename(index={piece.index[0][0]: i}, level="subject") for i in range(n_nights)]
    return pd.concat(nights)


def growth(n_nights: int) -> None:
    """Stage so many nights, and print the seconds and the peak memory of this process."""
    warnings.simplefilter("ignore")  # 200 epochs are a short night
    table, stager = extract_features(load_demo()), Stager.from_pretrained()
    stager.predict_proba(several_nights(table, 1))
    seconds, _ = seconds_of(lambda: stager.predict_proba(several_nights(table, n_nights)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each (default: %(default)s)")
    parser.add_argument(
        "--people", type=int, default=5, help="of the cohort, 14 at most (default: %(default)s)"
    )
    parser.add_argument("--growth", type=int, help="only stage so many short nights")
    options = parser.parse_args()
    if options.growth:
        growth(options.growth)
        return

    night, own = load_demo(), detect().name
    table = extract_features(night)
    stagers = {}
    for name in dict.fromkeys((own, "cpu")):
        with preset(name):
            stagers[name] = Stager.from_pretrained()
    ask = usual_prompt(table)
    calls: dict[str, Callable[[], Any]] = {
        "unit": one_unit,
        **{name: lambda stager=stager: stager.predict_proba(table) for name, stager in stagers.items()},
        "features": lambda: extract_features(night),
        "YASA": lambda: stage_with_yasa(night),
        "usual": ask,
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    answers = {}
    one_unit(), ask(), stage_with_yasa(night)  # the first call is slower
    for _ in range(options.repeats):
        for name, call in calls.items():
            with preset(name if name in stagers else own):
                taken, answers[name] = seconds_of(call)
            seconds[name].append(taken)
    median = {name: float(np.median(values)) for name, values in seconds.items()}

    spec, tokenizer = stagers[own].spec, stagers[own].tokenizer
    texts = covering_windows(table, spec, tokenizer, spec.default_stride)
    n_tokens, n_digits = sum(text.input_ids.size for text in texts), len(spec.digits)
    row(f"tokens of the night: {n_digits + 1} an epoch in overlapping windows of {spec.window}", n_tokens)
    row("a unit", median["unit"], "s")
    for name in stagers:
        row(f"staging {len(table)} epochs, {name}", median[name], "s")
        row(f"… in units, {name}", median[name] / median["unit"], "units")
        nine = median[name] / median["unit"] * 9 / (n_digits + 1)
        row(f"… in proportion for nine tokens an epoch, {name}", nine, "units")
        row(f"… tokens a second, {name}", n_tokens / median[name], "tokens/s")
        row(f"… kappa with the expert, {name}", score(table["stage"], answers[name])["kappa"])
    if own != "cpu":
        moved = np.abs(answers[own].to_numpy() - answers["cpu"].to_numpy())
        changed = most_probable_stages(answers[own]) != most_probable_stages(answers["cpu"])
        row(f"largest difference of a probability, {own} and cpu", np.nanmax(moved))
        row(f"stages that differ, {own} and cpu", int(changed.sum()), f"of {len(table)}")
        nights = first_nights(recut(load_cohort()))
        nights = partition_subjects(nights, nights.index.unique("subject")[: options.people])[0]
        for name, stager in stagers.items():
            with preset(name):
                found = score(nights["stage"], stager.predict_proba(nights))["kappa"]
            row(f"kappa on the first nights of {options.people} people, {name}", found)
    ours = median["features"] + median[own]
    row("from the signal to the stages", ours, "s", ours / median["YASA"], "YASA's stager")
    row("YASA's stager", median["YASA"], "s")
    row("… kappa with the expert", score(table["stage"], np.eye(5)[answers["YASA"]])["kappa"])
    an_epoch = median["usual"] / ASKED
    times = median[own] / len(table) / an_epoch
    row("staging, an epoch", 1e3 * median[own] / len(table), "ms", times, "a prompt an epoch with generation")
    for n_nights in NIGHTS:
        command = [sys.executable, __file__, "--growth", str(n_nights)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        short = f"{n_nights} short night{'s' * (n_nights > 1)}"
        row(f"{short}, seconds for each", found["seconds"] / n_nights, "s")
        row(f"{short}, peak memory of the process", found["peak"], "MB")


if __name__ == "__main__":
    main()
