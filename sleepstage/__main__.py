"""``python -m sleepstage``: prepare the offline model, run the demo, stage, train, plan, evaluate."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands import what they need, so that --help does not wait for PyTorch
    import pandas as pd

    from .staging.stager import Stager


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line, not a traceback."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("sleepstage").setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"sleepstage: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sleepstage", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("prepare", help="fetch, check and cache the offline base model, once")
    command.set_defaults(command=_prepare)

    command = commands.add_parser("demo", help="fine-tune on part of the shipped night and stage the rest")
    command.add_argument("--out", type=Path, default=Path("results/demo"), help="folder for the results")
    command.add_argument("--fast", action="store_true", help="a few training steps only (or FAST=1)")
    command.set_defaults(command=_demo, fast=os.environ.get("FAST") == "1")

    command = commands.add_parser("stage", help="stage a night with a fine-tuned adapter")
    command.add_argument("psg", type=Path, help="an EDF file")
    command.add_argument(
        "--adapter", type=Path, help="a folder written by train (default: the one that ships)"
    )
    command.add_argument("--channel", default="EEG Fpz-Cz", help="the EEG channel (default: %(default)s)")
    command.add_argument("--out", type=Path, required=True, help="CSV file for stages and probabilities")
    command.set_defaults(command=_stage)

    command = commands.add_parser("train", help="train an adapter on a feature table, split by subject")
    command.add_argument("--table", type=Path, required=True, help="a feature table (.npz)")
    command.add_argument("--adapter", type=Path, required=True, help="the folder to write")
    command.add_argument("--validation-subjects", nargs="*", default=[], help="subjects not to train on")
    command.add_argument("--start-from", type=Path, help="an adapter to go on from, with its prompt")
    command.add_argument(
        "--bidirectional",
        action="store_true",
        help="every token sees the whole window, not only what precedes it",
    )
    command.add_argument(
        "--base", help="base model: a folder or a hub name (default: what the machine can tune)"
    )
    command.add_argument("--minutes", type=float, default=60, help="time limit (default: %(default)s)")
    command.add_argument("--steps", type=int, default=2000, help="step limit (default: %(default)s)")
    command.add_argument(
        "--learning-rate", type=float, default=1e-3, help="at its highest (default: %(default)s)"
    )
    command.add_argument("--margin", type=int, default=60, help="epochs cut at random off a night's ends")
    command.add_argument(
        "--partial", type=float, default=0.25, help="share of nights shown in part (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="of first weights and order (default: %(default)s)"
    )
    command.add_argument(
        "--blur", type=float, default=0.0, help="share of digits moved by a level (default: %(default)s)"
    )
    command.add_argument(
        "--teacher", type=Path, help="file (.npz) with another model's answers to learn from"
    )
    command.add_argument("--float32", action="store_true", help="do not quantize the base model to NF4")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    command.add_argument("--copy-to", type=Path, help="a folder, on a drive say, for copies of checkpoints")
    command.set_defaults(command=_train)

    command = commands.add_parser("plan", help="compute the memory and work that fine-tuning will need")
    command.add_argument(
        "--preset", choices=("cpu", "t4", "ampere"), help="kind of machine (default: this one)"
    )
    command.add_argument("--table", type=Path, help="a feature table (.npz) (default: sixteen nights)")
    command.add_argument("--json", type=Path, help="write the plan to this file as well")
    command.set_defaults(command=_plan)

    command = commands.add_parser("evaluate", help="score an adapter and a baseline on a feature table")
    command.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    command.add_argument("--adapter", type=Path, help="a folder written by train")
    command.add_argument("--subjects", nargs="*", default=[], help="score these only (default: all)")
    command.add_argument("--baseline", action="store_true", help="score gradient-boosted trees as well")
    command.add_argument("--train-table", type=Path, help="what the trees learn from (default: the table)")
    command.add_argument("--as-is", action="store_true", help="do not cut the nights' ends at random")
    command.add_argument(
        "--untuned", action="store_true", help="the adapter's base model without the adapter"
    )
    command.add_argument(
        "--nf4", action=argparse.BooleanOptionalAction, help="quantize (default: as in training)"
    )
    command.add_argument(
        "--fit-prior", action="store_true", help="keep the fitted temperature with the adapter"
    )
    command.add_argument("--hypnodensities", type=Path, help="file (.npz) for the answers to every epoch")
    command.add_argument("--json", type=Path, required=True, help="the file to write")
    command.set_defaults(command=_evaluate)
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from .finetuning.base_model import prepare

    print(f"The offline model is in {prepare()}")


def _demo(options: argparse.Namespace) -> None:
    from .course.demo import run_demo

    run_demo(options.out, **({"minutes": 0.5, "n_steps": 4} if options.fast else {}))


def _stage(options: argparse.Namespace) -> None:
    from .features.extract import extract_features
    from .recordings.recording import read_recording
    from .stages import answered, most_probable_stages, stage_names
    from .staging.stager import Stager

    table = extract_features(read_recording(options.psg, channel=options.channel))
    proba = Stager.from_pretrained(options.adapter).predict_proba(table)
    staged = proba.assign(quality=table["quality"])
    staged.insert(0, "predicted", stage_names(most_probable_stages(proba)))
    staged.to_csv(options.out)
    print(f"{answered(proba).sum()} of {len(proba)} epochs staged: {options.out}")


def _train(options: argparse.Namespace) -> None:
    import json
    from dataclasses import replace

    from .dataset.digits import PromptSpec, default_digits
    from .dataset.splits import partition_subjects
    from .dataset.table import load_table
    from .finetuning.settings import detect, n_processes
    from .finetuning.trainer import finetune

    _, table = partition_subjects(load_table(options.table), options.validation_subjects)
    preset = detect()
    print(f"Preset for this machine: {preset}")
    spec, base = PromptSpec.fit(table, default_digits(table)), preset.base
    if options.start_from:
        spec = PromptSpec.load(options.start_from / "prompt.json")
        base = json.loads((options.start_from / "train.json").read_text(encoding="utf-8"))["base"]
    spec = replace(spec, bidirectional=spec.bidirectional or options.bidirectional)
    config = preset.training_config(
        start_from=str(options.start_from) if options.start_from else None,
        base=options.base or base,
        nf4=not options.float32,
        learning_rate=options.learning_rate,
        warmup_steps=30,  # short warm-ups became unstable over many people
        n_steps=options.steps,
        max_minutes=options.minutes,
        batches_per_step=max(1, preset.batches_per_step // n_processes()),  # four windows a step on a CPU
        class_weights=(1.0, 1.5, 1.0, 1.2, 1.2),
        margin_epochs=options.margin,
        blur=options.blur,
        partial_share=options.partial,
        seed=options.seed,
    )
    teacher = load_table(options.teacher) if options.teacher else None
    finetune(table, spec, config, options.adapter, options.resume, teacher, options.copy_to)
    print(f"The adapter is in {options.adapter}")


def _plan(options: argparse.Namespace) -> None:
    import json

    from .dataset.table import load_table
    from .finetuning.memory_plan import plan_text, training_plan
    from .finetuning.settings import PRESETS, detect

    preset = PRESETS[options.preset] if options.preset else detect()
    plan = training_plan(preset, load_table(options.table) if options.table else None)
    print(plan_text(plan))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _evaluate(options: argparse.Namespace) -> None:
    import json

    import pandas as pd

    from .dataset.splits import partition_subjects, recut
    from .dataset.table import load_table, save_table
    from .evaluation.cohort import evaluate_cohort
    from .evaluation.metrics import report
    from .features.catalogue import META_COLUMNS

    if not options.adapter and (options.untuned or options.fit_prior or options.nf4 is not None):
        raise ValueError("--untuned, --nf4 and --fit-prior are about an adapter; name it with --adapter")
    table = load_table(options.table)
    if options.subjects:
        table, _ = partition_subjects(table, options.subjects)
    stager = _stager_to_score(options) if options.adapter else None
    train_table = _baseline_table(options, table, stager) if options.baseline else None
    if not options.as_is:
        table, train_table = recut(table), None if train_table is None else recut(train_table)
    results, hypnodensities = evaluate_cohort(table, stager, train_table)
    if options.fit_prior and stager:
        as_read = hypnodensities["llm_as_read"]
        stager.prior.fitted(table["stage"], as_read).save(options.adapter / "prior.json")
    if options.hypnodensities:
        answers = [
            hypnodensities[name].add_prefix(f"{name} ") for name in ("llm", "baseline") if name in results
        ]
        beside = table.filter(items=META_COLUMNS)
        save_table(pd.concat([*answers, beside], axis=1).round(4), options.hypnodensities)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    models = {name: results[name] for name in ("llm", "baseline") if name in results}
    intervals = ["{:.3f} to {:.3f}".format(*figures["kappa_ci"]) for figures in models.values()]
    print(report(models).assign(**{"kappa, 95 %": intervals}).to_string())


def _stager_to_score(options: argparse.Namespace) -> Stager:
    from dataclasses import replace

    from .staging.stager import Stager

    stager = Stager.from_pretrained(options.adapter, nf4=options.nf4)
    if not options.untuned:
        return stager
    one_way = replace(stager.spec, bidirectional=False)  # as it was pre-trained
    return Stager(stager.model.unload(), stager.tokenizer, one_way, stager.trained_on, stager.prior)


def _baseline_table(options: argparse.Namespace, table: pd.DataFrame, stager: Stager | None) -> pd.DataFrame:
    """Give the trees the people that the adapter learned from, or else all who are not scored."""
    from .dataset.splits import partition_subjects
    from .dataset.table import load_table

    source = load_table(options.train_table or options.table)
    if stager is not None:
        return partition_subjects(source, stager.trained_on)[0]
    known = source.index.unique("subject")
    return partition_subjects(source, table.index.unique("subject").intersection(known))[1]


if __name__ == "__main__":
    sys.exit(main())
