"""Time fine-tuning: labelled epochs learned per second, by four recipes on the same model, side by side.

    python benchmarks/training.py                      # on the small cohort that ships
    python benchmarks/training.py --table TABLE.npz

(a) one epoch a text, 408 numbers of 16 digits, trl's own loss over the whole text. Its 8,000 tokens take more
    than 23 GB of memory, so a third of the text is timed and counted thrice: too kind to (a), for attention
    grows with the square of the length;
(b) one epoch a text, its features in words, trl's own loss;
(c) a night as digits, the usual loss masked to our answers: every token's logits over the whole vocabulary;
(d) a night as digits, logits at the answers only: what `sleepstage train` does.

Each recipe runs in trl's trainer, built anew in every repeat, by turns; the first step of each is not
counted, and medians are shown. Digits are those of the adapter that ships, in windows of about 500 tokens.
The share of the peak is the floating-point operations that PyTorch counts in a step of (d), over those of a
matrix product of the same duration. At last (d) trains for some steps in the machine's own precision and in
float32, and both are scored on the shipped night.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from run_all import row as print_row
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from trl import SFTTrainer

from sleepstage.dataset.digits import PromptSpec, epoch_in_words
from sleepstage.dataset.sources import load_cohort
from sleepstage.dataset.table import load_table
from sleepstage.dataset.windows import line_tokens
from sleepstage.evaluation.metrics import score
from sleepstage.features.catalogue import feature_columns
from sleepstage.features.extract import extract_features
from sleepstage.finetuning.adapter import SHIPPED_ADAPTER
from sleepstage.finetuning.base_model import load_base, load_tokenizer, quiet_libraries
from sleepstage.finetuning.callbacks import training_curve
from sleepstage.finetuning.settings import OFFLINE_MODEL, TrainingConfig, detect, launch
from sleepstage.finetuning.trainer import AnswerTrainer, build_trainer, lora_config, training_arguments
from sleepstage.finetuning.training_texts import IGNORED
from sleepstage.recordings.recording import load_demo
from sleepstage.stages import STAGES
from sleepstage.staging.stager import Stager

WINDOW_TOKENS = 500  # of the digits' texts, about
N_FLOATS = 408  # what the earlier attempt pasted for one epoch
PARTS = 3  # of which one is timed


class StepTimes(TrainerCallback):
    """Keeps how long each step took."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)

    def median(self) -> float:
        return float(np.median(self.seconds[1:]))


class FullLogitsTrainer(AnswerTrainer):
    """The usual loss with the same mask: cross-entropy over the vocabulary from every token's logits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        words = torch.tensor(self.label_ids)[labels.clamp(min=0)].where(labels != IGNORED, IGNORED)
        outputs = model(input_ids=inputs["input_ids"])
        loss = cross_entropy(outputs.logits.flatten(0, 1), words.flatten(), ignore_index=IGNORED)
        return (loss, outputs) if return_outputs else loss


def floats_in_text(row: pd.Series, rng: np.random.Generator) -> str:
    """A third of the earlier attempt's prompt: as many numbers, at 16 digits."""
    n = N_FLOATS // PARTS
    values = np.resize(row.to_numpy(float), n) * rng.uniform(0.5, 2, n)
    return "Classify this sleep epoch: " + ", ".join(f"{value:.16e}" for value in values) + "\nStage: "


def plain_trainer(texts: list[str], config: TrainingConfig, work: Path) -> SFTTrainer:
    """trl's trainer as it comes: loss on every token."""
    arguments = training_arguments(config, work)
    arguments.dataset_kwargs, arguments.remove_unused_columns = None, True
    return SFTTrainer(
        model=load_base(config.base, config.nf4),
        args=arguments,
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=load_tokenizer(config.base),
        peft_config=lora_config(config),
    )


def timed(trainer: SFTTrainer) -> float:
    """Train, and give the seconds of a step, without the first."""
    times = StepTimes()
    trainer.add_callback(times)
    with quiet_libraries():
        trainer.train()
    return times.median()


def matmul_peak(size: int = 2048, repeats: int = 20) -> float:
    """Floating-point operations a second of a square matrix product in the machine's precision, at best."""
    a, b = (torch.randn(size, size, dtype=detect().dtype) for _ in range(2))
    best = np.inf
    with detect().products():
        for _ in range(repeats):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def step_flops(trainer: AnswerTrainer) -> int:
    """Operations of one batch, forward and backward, as PyTorch counts them."""
    batch = next(iter(trainer.get_train_dataloader()))
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(trainer.model, batch).backward()
    trainer.model.zero_grad()
    return counter.get_total_flops()


def tokens_of(spec: PromptSpec, base: str) -> int:
    """Count the tokens of a window."""
    line = line_tokens(np.ones((1, len(spec.digits)), dtype=np.int8), load_tokenizer(base))
    return 1 + spec.window * line.shape[1]


def step_only(table: pd.DataFrame, spec: PromptSpec, config: TrainingConfig) -> None:
    """Print the tokens a second of (d) in steps of four windows, by all processes together."""
    config = dataclasses.replace(config, batches_per_step=2 // launch().num_processes)
    with tempfile.TemporaryDirectory() as work:
        seconds = timed(build_trainer(table, spec, config, work))
    if launch().is_main_process:
        print(json.dumps(4 * tokens_of(spec, config.base) / seconds))


def tokens_with_processes(n_processes: int) -> float:
    """Run :func:`step_only` in so many processes, with one thread each if there are several."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    command = [sys.executable, *(launcher if n_processes > 1 else []), __file__, "--step-only"]
    threads = {"OMP_NUM_THREADS": "1"} if n_processes > 1 else {}
    environment = {**os.environ, **threads}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def short_run(table: pd.DataFrame, spec: PromptSpec, config: TrainingConfig) -> tuple[pd.Series, float]:
    """Train; give the loss of each step, and the kappa on the shipped night."""
    with tempfile.TemporaryDirectory() as work, quiet_libraries():
        trainer = build_trainer(table, spec, config, work)
        trainer.train()
    night = extract_features(load_demo())
    proba = Stager(trainer.model, trainer.processing_class, spec).predict_proba(night)
    return training_curve(trainer.state)["loss"], score(night["stage"], proba)["kappa"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="a feature table (.npz) with stages (default: the cohort)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of b, c and d (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="of every recipe (default: 3)")
    parser.add_argument("--short-run", type=int, default=50, help="steps in two precisions (default: 50)")
    parser.add_argument("--nf4", action="store_true", help="quantize the base model")
    parser.add_argument("--base", default=OFFLINE_MODEL, help="default: %(default)s")
    parser.add_argument("--step-only", action="store_true", help="only time (d), for torchrun")
    options = parser.parse_args()

    table = load_table(options.table) if options.table else load_cohort()
    shipped = PromptSpec.load(SHIPPED_ADAPTER / "prompt.json")
    a_line = tokens_of(dataclasses.replace(shipped, window=1), options.base) - 1
    spec = dataclasses.replace(shipped, window=round(WINDOW_TOKENS / a_line))
    config = TrainingConfig(
        base=options.base,
        nf4=options.nf4,
        n_steps=options.steps + 1,
        windows_per_batch=2,
        batches_per_step=1,
        warmup_steps=1,
        hinted_share=0,  # so that all texts are of one length
        learning_rate=1e-3,
    )
    if options.step_only:
        step_only(table, spec, config)
        return
    few = dataclasses.replace(config, n_steps=2, windows_per_batch=1)
    many = dataclasses.replace(config, windows_per_batch=4)
    rng = np.random.default_rng(0)
    rows = [table.iloc[i] for i in rng.integers(len(table), size=64)]
    stage = [STAGES[int(row["stage"])] for row in rows]
    columns = feature_columns(table)
    in_words = [epoch_in_words(row, columns) + " " + name for row, name in zip(rows, stage, strict=True)]
    in_floats = [floats_in_text(row[columns], rng) + name for row, name in zip(rows[:4], stage, strict=False)]

    def digits(work: str, spec: PromptSpec = spec, kind: type = AnswerTrainer, **changed: Any) -> float:
        night = build_trainer(table, spec, config, work)
        night.__class__ = kind
        if changed:
            night.model.get_base_model().set_attn_implementation(changed["attention"])
        return 2 * spec.window / timed(night)

    words = "b: features in words, trl's loss"
    recipes: dict[str, Callable[[str], float]] = {
        "a: 408 numbers in text": lambda work: 1 / (PARTS * timed(plain_trainer(in_floats, few, Path(work)))),
        words: lambda work: 4 / timed(plain_trainer(in_words, many, Path(work))),
        "c: digits, all logits": lambda work: digits(work, kind=FullLogitsTrainer),
        "d: digits, answers only": digits,
        "d with PyTorch's attention": lambda work: digits(work, attention="sdpa"),
        f"d in windows of {shipped.window} epochs": lambda work: digits(work, shipped),
    }
    per_second: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(options.repeats):
        for name, recipe in recipes.items():
            with tempfile.TemporaryDirectory() as work:
                per_second[name].append(recipe(work))
    median = {name: float(np.median(values)) for name, values in per_second.items()}
    ours = median["d: digits, answers only"]
    for name, speed in median.items():
        print_row(name, speed, "epochs/s")
        if name[0] in "abc":
            print_row("… an epoch of d", 1 / ours, "s", speed / ours, name)
    tokens = tokens_of(spec, options.base)
    seconds = 2 * spec.window / ours
    print_row(f"d: tokens of text, in windows of {tokens}", 2 * tokens / seconds, "tokens/s")
    long = median[f"d in windows of {shipped.window} epochs"] * a_line
    print_row(f"d: tokens of text, in windows of {tokens_of(shipped, options.base)}", long, "tokens/s")
    for n_processes, about in ((1, "one process, all threads"), (2, "two processes of one thread")):
        print_row(f"d: {about}", tokens_with_processes(n_processes), "tokens/s")
    with tempfile.TemporaryDirectory() as work:
        flops, peak = step_flops(build_trainer(table, spec, config, work)), matmul_peak()
    print_row("a step of d, as operations", flops / seconds / 1e9, "GFLOP/s")
    print_row("… of a matrix product's peak", 100 * flops / seconds / peak, "%")

    config = dataclasses.replace(config, n_steps=options.short_run, warmup_steps=10)
    own, losses = detect().name, {}
    for name in dict.fromkeys((own, "cpu")):
        os.environ["SLEEPSTAGE_PRESET"] = name
        losses[name], kappa = short_run(table, spec, config)
        last = losses[name].iloc[-10:].mean()
        print_row(f"loss of the last ten of {options.short_run} steps, {name}", last)
        print_row(f"… kappa on the shipped night, {name}", kappa)
    if own != "cpu":
        between = losses[own] - losses["cpu"]
        print_row(f"mean difference of a step's loss, {own} less cpu", between.mean())
        print_row("… standard deviation of that difference", between.std())
        print_row("standard deviation of the loss from step to step, cpu", losses["cpu"].diff().std())


if __name__ == "__main__":
    main()
