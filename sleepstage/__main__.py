"""``python -m sleepstage``: prepare the offline model, run the demo, stage, train, plan, evaluate."""

import argparse
import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from . import __version__

# Commands import what they need themselves, so that --help does not wait for PyTorch. They read the user's
# files before they import PyTorch, which can take half a minute: so they report a wrong file at once.


def program() -> int:
    """Run :func:`main` as a program, in a process of its own.

    The libraries make a million objects that stay until the end. Python would search them all for garbage,
    again and again while it imports them and once more when it ends: three seconds in all.
    """
    gc.set_threshold(100_000)
    try:
        return main()
    finally:
        gc.freeze()


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and give its exit status: 0; 2 if the user can correct what failed; 1 if we have to."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that a terminal cannot show must not fail the work
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # without a line of our source
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("sleepstage").setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("sleepstage: stopped", file=sys.stderr)
        return 130  # as a shell says it
    except Exception as error:
        if options.debug:
            raise
        if isinstance(error, ValueError | OSError | RuntimeError):
            print(f"sleepstage: {error}", file=sys.stderr)
            return 2
        print(
            f"sleepstage {__version__}: {type(error).__name__}: {error}. This is a fault of ours, or the "
            "memory is full. Run the command again with --debug, and send us what it prints.",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sleepstage", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run: Callable[[argparse.Namespace], None], about: str) -> Callable[..., argparse.Action]:
        """Add a command that carries the name of its function; give what adds its options."""
        added = commands.add_parser(run.__name__.removeprefix("_"), help=about)
        added.set_defaults(command=run)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added.add_argument

    command(_prepare, "fetch, check and cache the offline base model, once")

    option = command(_demo, "stage the shipped night, with hints too; fine-tune on a part and stage the rest")
    option("--out", type=_new_folder, default=Path("results/demo"), help="folder for the results")
    fast = os.environ.get("FAST") == "1"
    option("--fast", action="store_true", default=fast, help="a few training steps only (or FAST=1)")

    option = command(_stage, "stage a night with a fine-tuned adapter")
    option("psg", type=Path, help="an EDF file")
    option("--adapter", type=_adapter, help="a folder written by train (default: the one that ships)")
    option("--base", help="where the adapter's base model lies: a folder or a hub name")
    option("--channel", default="EEG Fpz-Cz", help="the EEG channel (default: %(default)s)")
    option("--out", type=_new_file, required=True, help="CSV file for stages and probabilities")

    # An option with the name of a setting in TrainingConfig becomes that setting.
    option = command(_train, "train an adapter on a feature table, split by subject")
    option("--table", type=Path, required=True, help="a feature table (.npz)")
    option("--adapter", type=Path, required=True, help="the folder to write")
    about = "subjects not to train on, on whom the adapter is scored when it is trained"
    option("--validation-subjects", nargs="*", default=[], help=about)
    option("--start-from", type=_adapter, help="an adapter to go on from, with its prompt")
    option("--causal", action="store_true", help="read from left to right only, as llama.cpp does")
    option("--base", help="base model: a folder or a hub name (default: what the machine can tune)")
    option("--minutes", dest="max_minutes", type=float, default=60, help="time limit (default: %(default)s)")
    option("--steps", dest="n_steps", type=int, help="step limit (default: by machine)")
    option("--learning-rate", type=float, help="at its highest (default: by the base model's width)")
    option("--margin", dest="margin_epochs", type=int, default=60, help="cut at random off a night's ends")
    about = "share of nights shown in part (default: 0.35)"
    option("--partial", dest="partial_share", type=float, help=about)
    option("--seed", type=int, default=0, help="of first weights and order (default: %(default)s)")
    option("--blur", type=float, help="share of digits moved by a level (default: 0.2)")
    option("--windows", dest="windows_per_batch", type=int, help="windows in a batch (default: by machine)")
    option("--batches", dest="batches_per_step", type=int, help="batches in a step (default: by machine)")
    about = (
        "train small networks first, whose probabilities are learned too (default: with five people or more)"
    )
    option("--taught", action=argparse.BooleanOptionalAction, help=about)
    option("--float32", dest="nf4", action="store_false", help="do not quantize the base model to NF4")
    option("--resume", action="store_true", help="go on where an earlier call stopped")
    option("--copy-to", type=_new_folder, help="a folder, on a drive say, for copies of checkpoints")

    option = command(_plan, "compute the memory and work that fine-tuning will need")
    presets = ("cpu", "cpu-bfloat16", "t4", "ampere")
    option("--preset", choices=presets, help="kind of machine (default: this one)")
    option("--table", type=Path, help="a feature table (.npz) (default: sixteen nights)")
    option("--json", type=_new_file, help="write the plan to this file as well")

    option = command(_evaluate, "score an adapter and a baseline on a feature table")
    option("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    option("--adapter", type=_adapter, help="a folder written by train")
    option("--base", help="where the adapter's base model lies: a folder or a hub name")
    option("--subjects", nargs="*", default=[], help="score these only (default: all)")
    option("--baseline", action="store_true", help="score gradient-boosted trees as well")
    option("--network", action="store_true", help="score a small network on the adapter's digits as well")
    option("--train-table", type=Path, help="what trees and network learn from (default: the table)")
    option("--as-is", action="store_true", help="do not cut the nights' ends at random")
    option("--untuned", action="store_true", help="the adapter's base model without the adapter")
    option("--nf4", action=argparse.BooleanOptionalAction, help="quantize (default: as in training)")
    option("--fit-prior", action="store_true", help="keep the fitted temperature with the adapter")
    option("--gain", nargs="*", type=float, default=[], help="score the table under these gains too")
    about = "score pieces of four hours, or nights with 13 hours of wake around them, too"
    option("--conditions", nargs="*", choices=("pieces", "wake"), default=[], help=about)
    about = "score the table with so many hints a night (multiples of 10) too"
    option("--hints", nargs="*", type=int, default=[], help=about)
    places, about = ("doubt", "random"), "where the hints are given (default: %(default)s)"
    option("--hints-at", nargs="*", choices=places, default=places, help=about)
    option("--hypnodensities", type=_new_file, help="file (.npz) for the answers to every epoch")
    option("--json", type=_new_file, required=True, help="the file to write")
    return parser


def _adapter(name: str) -> Path:
    path = Path(name)
    if not (path / "prompt.json").is_file():
        raise argparse.ArgumentTypeError(f"{path} is no adapter: it has no prompt.json, which train writes")
    return path


# A command writes its results at the end of long work, so their place is checked before the work begins.
def _new_file(name: str) -> Path:
    path = Path(name)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is no file, expected the name of a file to write")
    _new_folder(path.parent)
    return path


def _new_folder(name: str | Path) -> Path:
    path = Path(name).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file, expected a folder to write into")
    return Path(name)


def _prepare(_: argparse.Namespace) -> None:
    from .finetuning.base_model import prepare

    print(f"The offline model is in {prepare()}")


def _demo(options: argparse.Namespace) -> None:
    from .course.demo import run_demo

    run_demo(options.out, options.fast)


def _stage(options: argparse.Namespace) -> None:
    from .features.extract import extract_features
    from .files import write_whole
    from .recordings.recording import read_recording
    from .stages import most_probable_stages, stage_names

    table = extract_features(read_recording(options.psg, channel=options.channel))

    from .staging.stager import Stager

    proba = Stager.from_pretrained(options.adapter, options.base).predict_proba(table)
    staged = proba.assign(quality=table["quality"])
    staged.insert(0, "predicted", stage_names(most_probable_stages(proba)))
    write_whole(options.out, staged.to_csv)
    print(f"{proba['W'].count()} of {len(proba)} epochs staged: {options.out}")


def _train(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from .dataset.digits import PromptSpec, default_digits
    from .dataset.splits import partition_subjects
    from .dataset.table import load_table

    _, table = partition_subjects(load_table(options.table), options.validation_subjects)
    if table.empty:
        raise ValueError("none is left to train on: an empty table, or everyone in --validation-subjects")

    from .finetuning.adapter import FIGURES, read_card
    from .finetuning.base_model import local_copy
    from .finetuning.settings import MANY_PEOPLE, TrainingConfig, detect, launch
    from .finetuning.teacher import N_FOLDS
    from .finetuning.trainer import finetune

    preset = detect()
    print(f"Preset for this machine: {preset}")
    if options.start_from:
        spec = PromptSpec.load(options.start_from / "prompt.json")
        base = read_card(options.start_from)["base"]
        if not options.base:
            local_copy(base)  # or refuse: a hub's model is fetched only if the user names it
    else:
        spec, base = PromptSpec.fit(table, default_digits(table)), preset.base
    if options.causal:
        spec = replace(spec, bidirectional=False, look_ahead=6)  # three minutes of what follows
    named = {name: value for name, value in vars(options).items() if hasattr(TrainingConfig, name)}
    settings = {name: value for name, value in named.items() if value is not None}
    settings |= {"base": options.base or base, "start_from": options.start_from and str(options.start_from)}
    config = preset.training_config(**{**MANY_PEOPLE, **preset.recipe, **settings})
    taught = options.taught
    if taught is None:
        taught = table.index.unique("subject").size >= N_FOLDS
    finetune(table, spec, config, options.adapter, options.resume, taught, options.copy_to)
    launch().destroy_process_group()  # of torchrun's processes, while all are at this point
    print(f"The adapter is in {options.adapter}")
    if options.validation_subjects and launch().is_main_process:
        figures = options.adapter / FIGURES
        print(f"Scoring it on the validation subjects, and fitting its temperature on them: {figures}")
        what = ["--table", options.table, "--adapter", options.adapter, "--fit-prior", "--json", figures]
        what += ["--base", options.base] if options.base else []
        scoring = ["evaluate", *map(str, what), "--subjects", *options.validation_subjects]
        _evaluate(_parser().parse_args(scoring))


def _plan(options: argparse.Namespace) -> None:
    from .dataset.table import load_table
    from .files import write_json

    table = load_table(options.table) if options.table else None

    from .finetuning.memory_plan import plan_text, training_plan
    from .finetuning.settings import PRESETS, detect

    preset = PRESETS[options.preset] if options.preset else detect()
    plan = training_plan(preset, table)
    print(plan_text(plan))
    if options.json:
        write_json(options.json, plan)


def _evaluate(options: argparse.Namespace) -> None:
    from .dataset.digits import PromptSpec, default_digits
    from .dataset.splits import partition_subjects, recut
    from .dataset.table import load_table
    from .files import write_json

    if not options.adapter and (options.untuned or options.fit_prior or options.nf4 is not None):
        raise ValueError("--untuned, --nf4 and --fit-prior are about an adapter; name it with --adapter")
    table = load_table(options.table)
    if options.subjects:
        table, _ = partition_subjects(table, options.subjects)
    table = table if options.as_is else recut(table)

    from .evaluation.cohort import save_answers
    from .evaluation.readers import Reader, baseline_table, evaluate_cohort, figures_text
    from .staging.stager import Stager

    stager, readers = None, {}
    if options.adapter:
        stager = Stager.from_pretrained(
            options.adapter, options.base, nf4=options.nf4, untuned=options.untuned
        )
        readers["llm"] = Reader.of_stager(stager)
    if options.baseline or options.network:
        train_table = baseline_table(load_table(options.train_table or options.table), table, stager)
        if options.baseline:
            readers["baseline"] = Reader.of_trees(train_table if options.as_is else recut(train_table))
        if options.network:
            spec = stager.spec if stager else PromptSpec.fit(train_table, default_digits(train_table))
            readers["network"] = Reader.of_network(train_table, spec)
    scored = (options.gain, options.conditions, options.hints, options.hints_at)
    figures, hypnodensities = evaluate_cohort(table, readers, *scored)
    if stager and stager.prior and options.fit_prior:
        prior = stager.prior.fitted(table["stage"], hypnodensities["llm_as_read"])
        prior.save(options.adapter / "prior.json")
    if options.hypnodensities:
        save_answers(table, hypnodensities, options.hypnodensities)
    write_json(options.json, figures)
    print(figures_text(figures))


if __name__ == "__main__":
    sys.exit(program())
