"""``python -m sleepstage``: prepare the offline model, run the demo, train on a table, stage a night."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line, not a traceback."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("sleepstage").setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
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
    command.add_argument("--adapter", type=Path, required=True, help="a folder written by fine-tuning")
    command.add_argument("--channel", default="EEG Fpz-Cz", help="the EEG channel (default: %(default)s)")
    command.add_argument("--out", type=Path, required=True, help="CSV file for stages and probabilities")
    command.set_defaults(command=_stage)
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from .base_model import prepare

    print(f"The offline model is in {prepare()}")


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(options.out, **({"minutes": 0.5, "n_steps": 4} if options.fast else {}))


def _stage(options: argparse.Namespace) -> None:
    from .features import extract_features
    from .recording import read_recording
    from .stager import Stager

    night = read_recording(options.psg, channel=options.channel)
    hypnodensity = Stager.from_pretrained(options.adapter).predict_proba(extract_features(night))
    hypnodensity.insert(0, "predicted", hypnodensity.idxmax(axis=1))
    hypnodensity.to_csv(options.out)
    print(f"{night.n_epochs} epochs staged: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
