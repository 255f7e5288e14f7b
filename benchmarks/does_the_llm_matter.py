"""Does the language model matter? The shipped adapter beside what could replace it, on the same nights.

    python benchmarks/does_the_llm_matter.py --table TABLE.npz --leave-out 0 --json OUT.json \\
        --validation-subjects 2 6 10 17 19 23 27 35 50 64 70 73 76 80 [--rows tuned random …]

Rows: ``majority``, the training people's shares of the stages; ``trees``, gradient boosting; ``untuned``, the
base model asked without any training; ``random``, its architecture from random weights, all of them trained;
``tuned``, a low-rank adapter on the pre-trained weights; ``shipped`` and ``shipped_nf4``, the adapter that
ships, on the base model in float32 and in NF4. ``random`` and ``tuned`` get the same texts and the same
``--minutes``; all weights from scratch want a smaller learning rate than an adapter. A row is written when it
is done. Scored on the first night of each validation person, recut as in `sleepstage evaluate`; temperature
and transitions are cross-fitted by person, but for ``majority`` and ``untuned``, which have none.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, LlamaForCausalLM

from sleepstage.dataset.digits import PromptSpec, default_digits
from sleepstage.dataset.splits import first_nights, partition_subjects, recut
from sleepstage.dataset.table import load_table
from sleepstage.evaluation.baselines import majority_baseline
from sleepstage.evaluation.cohort import cohort_figures, evaluate_cohort
from sleepstage.evaluation.metrics import report
from sleepstage.finetuning.base_model import cache_folder, load_tokenizer, quiet_libraries
from sleepstage.finetuning.calibration import HypnogramPrior
from sleepstage.finetuning.settings import OFFLINE_MODEL, TrainingConfig
from sleepstage.finetuning.trainer import build_trainer, finetune
from sleepstage.staging.stager import Stager

ROWS = ("majority", "trees", "untuned", "random", "tuned", "shipped", "shipped_nf4")
LEARNING_RATE = {"random": 3e-4, "tuned": 8e-4}


def trained(row: str, train: pd.DataFrame, spec: PromptSpec, options: argparse.Namespace) -> Stager:
    """Train all weights from random ones, or an adapter, for the minutes that were asked for."""
    config = TrainingConfig(
        nf4=False,
        learning_rate=LEARNING_RATE[row],
        warmup_steps=30,
        n_steps=options.steps,
        max_minutes=options.minutes,
        windows_per_batch=2,
        batches_per_step=2,
        class_weights=(1.0, 1.5, 1.0, 1.2, 1.2),
        margin_epochs=60,
        partial_share=0.25,
        checkpoint_steps=options.steps,
    )
    with tempfile.TemporaryDirectory() as work:
        if row == "tuned":
            finetune(train, spec, config, Path(work) / "adapter")
            return Stager.from_pretrained(Path(work) / "adapter")
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(AutoConfig.from_pretrained(cache_folder() / OFFLINE_MODEL)).float()
        trainer = build_trainer(train, spec, config, work, whole_model=model)
        with quiet_libraries():
            trainer.train()
    print(f"random: {trainer.state.global_step} steps", flush=True)
    subjects = train.index.unique("subject").tolist()
    return Stager(model, load_tokenizer(OFFLINE_MODEL), spec, subjects, HypnogramPrior.from_table(train))


def figures_of(row: str, train: pd.DataFrame, test: pd.DataFrame, options: argparse.Namespace) -> dict:
    """Give a row's figures: finished, with temperature and transitions, and as read."""
    if row == "majority":
        return {"finished": cohort_figures(test["stage"], majority_baseline(train, test))}
    if row == "trees":
        figures, _ = evaluate_cohort(test, train_table=recut(train))
        return {"finished": figures["baseline"], "as_read": figures["baseline_as_read"]}
    spec = PromptSpec.fit(train, default_digits(train))
    if row == "untuned":
        stager = Stager.from_base(spec, nf4=False)
    elif row in LEARNING_RATE:
        stager = trained(row, train, spec, options)
    else:
        stager = Stager.from_pretrained(nf4=row == "shipped_nf4")
    figures, _ = evaluate_cohort(test, stager)
    return {"finished": figures["llm"], "as_read": figures["llm_as_read"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--validation-subjects", nargs="+", required=True, help="scored, not trained on")
    parser.add_argument("--leave-out", nargs="*", default=[], help="neither scored nor trained on")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="default: all")
    parser.add_argument("--minutes", type=float, default=30, help="of training (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="step limit (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="the file to write, or to add rows to")
    options = parser.parse_args()

    _, table = partition_subjects(load_table(options.table), options.leave_out)
    validation, train = partition_subjects(table, options.validation_subjects)
    test = first_nights(recut(validation))
    for row in options.rows:
        measured = {row: figures_of(row, train, test, options)}
        known = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        options.json.write_text(json.dumps(known | measured, indent=1) + "\n", encoding="utf-8")
        print(report({f"{row}, {kind}": figures for kind, figures in measured[row].items()}), flush=True)


if __name__ == "__main__":
    main()
