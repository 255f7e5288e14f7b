"""What is pre-training worth? The base model's architecture from random weights, all of them trained.

    python benchmarks/pretraining.py --table TABLE.npz --validation-subjects 2 6 10 --json OUT.json

Same texts, same steps, same scoring as `sleepstage train` and `sleepstage evaluate`; only the starting point
and the learning rate differ (all weights from scratch want a smaller one than a low-rank adapter).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, LlamaForCausalLM

from sleepstage.base_model import OFFLINE_MODEL, cache_folder, load_tokenizer, quiet_libraries
from sleepstage.cohort import evaluate_cohort
from sleepstage.dataset import load_table
from sleepstage.evaluate import report
from sleepstage.prompts import PromptSpec, default_digits
from sleepstage.qlora import TrainingConfig, build_trainer
from sleepstage.smoothing import HypnogramPrior
from sleepstage.splits import partition_subjects, recut
from sleepstage.stager import Stager


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--validation-subjects", nargs="+", required=True, help="scored, not trained on")
    parser.add_argument("--leave-out", nargs="*", default=[], help="neither scored nor trained on")
    parser.add_argument("--minutes", type=float, default=30, help="time limit (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="step limit (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="default: %(default)s")
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    options = parser.parse_args()

    _, table = partition_subjects(load_table(options.table), options.leave_out)
    validation, train = partition_subjects(table, options.validation_subjects)
    spec = PromptSpec.fit(train, default_digits(train))
    config = TrainingConfig(
        nf4=False,
        learning_rate=options.learning_rate,
        warmup_steps=30,
        n_steps=options.steps,
        max_minutes=options.minutes,
        windows_per_batch=2,
        batches_per_step=2,
        class_weights=(1.0, 1.5, 1.0, 1.2, 1.2),
        margin_epochs=60,
        piece_share=0.25,
        checkpoint_steps=options.steps,
    )
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(cache_folder() / OFFLINE_MODEL)).float()
    with tempfile.TemporaryDirectory() as work:
        trainer = build_trainer(train, spec, config, work, whole_model=model)
        with quiet_libraries():
            trainer.train()
    subjects = train.index.unique("subject").tolist()
    stager = Stager(model, load_tokenizer(OFFLINE_MODEL), spec, subjects, HypnogramPrior.from_table(train))
    figures, _ = evaluate_cohort(recut(validation), stager)
    figures["steps"] = trainer.state.global_step
    options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(report({name: figures[name] for name in ("llm", "llm_as_read")}).to_string())


if __name__ == "__main__":
    main()
