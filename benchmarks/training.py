"""Time fine-tuning: labelled epochs learned per second, by four recipes on the same model, side by side.

    python benchmarks/training.py --table TABLE.npz

(a) one epoch a text, 408 numbers of 16 digits, trl's own loss over the whole text. Its 8,000 tokens take more
    than 23 GB of memory, so a third of the text is timed and counted thrice: too kind to (a), for attention
    grows with the square of the length;
(b) one epoch a text, its features in words, trl's own loss;
(c) a night as digits, the usual loss masked to our answers: every token's logits over the whole vocabulary;
(d) a night as digits, logits at the answers only: what `sleepstage train` does.

Each recipe runs in trl's trainer; the first step is not counted. The share of the peak is the floating-point
operations that PyTorch counts in a step of (d), over those of a matrix product of the same duration.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from trl import SFTTrainer

from sleepstage.dataset.digits import PromptSpec, default_digits, epoch_in_words
from sleepstage.dataset.table import load_table
from sleepstage.dataset.windows import line_tokens
from sleepstage.finetuning.base_model import load_base, load_tokenizer, quiet_libraries
from sleepstage.finetuning.settings import OFFLINE_MODEL, TrainingConfig
from sleepstage.finetuning.trainer import AnswerTrainer, build_trainer, lora_config, training_arguments
from sleepstage.finetuning.training_texts import IGNORED
from sleepstage.stages import STAGES

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

    def best(self) -> float:
        return min(self.seconds[1:])


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
    values = np.resize(row.drop("stage").to_numpy(float), n) * rng.uniform(0.5, 2, n)
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
    """Train, and give the seconds of the fastest step after the first."""
    times = StepTimes()
    trainer.add_callback(times)
    with quiet_libraries():
        trainer.train()
    return times.best()


def matmul_peak(size: int = 2048, repeats: int = 20) -> float:
    """Floating-point operations a second of a square matrix product in float32, at best."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = np.inf
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of b, c and d (default: 4)")
    parser.add_argument("--nf4", action="store_true", help="quantize the base model")
    parser.add_argument("--base", default=OFFLINE_MODEL, help="default: %(default)s")
    options = parser.parse_args()

    table = load_table(options.table)
    spec = PromptSpec.fit(table, default_digits(table))
    config = TrainingConfig(
        base=options.base,
        nf4=options.nf4,
        n_steps=options.steps + 1,
        windows_per_batch=2,
        batches_per_step=1,
        warmup_steps=1,
    )
    few = dataclasses.replace(config, n_steps=2, windows_per_batch=1)
    many = dataclasses.replace(config, windows_per_batch=8)
    rng = np.random.default_rng(0)
    rows = [table.iloc[i] for i in rng.integers(len(table), size=64)]
    stage = [STAGES[int(row["stage"])] for row in rows]
    columns = [name for name in table.columns if name != "stage"]
    in_words = [epoch_in_words(row, columns) + " " + name for row, name in zip(rows, stage, strict=True)]
    in_floats = [floats_in_text(row, rng) + name for row, name in zip(rows[:4], stage, strict=False)]

    per_second = {}
    with tempfile.TemporaryDirectory() as work:
        third = timed(plain_trainer(in_floats, few, Path(work)))
        per_second["a: 408 numbers in text"] = 1 / (PARTS * third)
        per_second["b: features in words"] = 8 / timed(plain_trainer(in_words, many, Path(work)))
        night = build_trainer(table, spec, config, work)
        night.__class__ = FullLogitsTrainer
        answers = 2 * (spec.window - spec.look_ahead)
        per_second["c: digits, all logits"] = answers / timed(night)
        night = build_trainer(table, spec, config, work)
        seconds = timed(night)
        per_second["d: digits, answers only"] = answers / seconds
        flops = step_flops(night)
    ours = per_second["d: digits, answers only"]
    print(f"{'recipe':26} {'epochs/s':>10} {'d is faster by':>15}")
    for name, speed in per_second.items():
        print(f"{name:26} {speed:10.3f} {ours / speed:14.1f}×")
    peak = matmul_peak()
    tokens = line_tokens(spec.levels(table.iloc[:300]), night.processing_class).shape[1]
    stride = spec.default_stride
    print(
        f"a step of d: {seconds:.2f} s, {flops / 1e9:.0f} GFLOP, {flops / seconds / 1e9:.0f} GFLOP/s = "
        f"{flops / seconds / peak:.0%} of a matrix product's {peak / 1e9:.0f} GFLOP/s\n"
        f"tokens an epoch when staging: {tokens} × {spec.window / stride:.2f} windows = "
        f"{tokens * spec.window / stride:.1f}"
    )


if __name__ == "__main__":
    main()
