"""How an adapter takes recordings that are not a whole night: four-hour pieces, and 13 hours of wake more.

    python benchmarks/robustness.py --table TABLE.npz --adapter DIR --subjects 2 6 10 --json OUT.json

Nights are recut first, as in `sleepstage evaluate`. Kappa is given for the nights as they are, for the same
nights in pieces, and for the same epochs inside nights lengthened by their own wake; the adapter's own
temperature and transitions are applied throughout.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from sleepstage.dataset.splits import check_no_leakage, first_nights, partition_subjects, recut
from sleepstage.dataset.table import load_table
from sleepstage.evaluation.metrics import score
from sleepstage.features.catalogue import INDEX, NIGHT
from sleepstage.staging.stager import Stager

EPOCHS_AN_HOUR = 120


def in_pieces(table: pd.DataFrame, hours: float = 4) -> pd.DataFrame:
    """Cut every night into recordings of that length; the last one ends with the night."""
    length = round(hours * EPOCHS_AN_HOUR)
    pieces = []
    for (subject, recording), night in table.groupby(level=NIGHT, sort=False):
        starts = [*range(0, max(1, len(night) - length), length), max(0, len(night) - length)]
        for k, start in enumerate(dict.fromkeys(starts)):
            pieces.append(_named(night.iloc[start : start + length], subject, f"{recording}-{k}"))
    return pd.concat(pieces)


def with_more_wake(table: pd.DataFrame, hours: float = 13) -> pd.DataFrame:
    """Put that much of a night's own wake around it, half on either side; `original` marks the night."""
    nights = []
    for (subject, recording), night in table.groupby(level=NIGHT, sort=False):
        wake = night[night["stage"] == 0]
        more = wake.iloc[np.resize(np.arange(len(wake)), round(hours * EPOCHS_AN_HOUR))].assign(
            original=False
        )
        half = len(more) // 2
        nights.append(
            _named(pd.concat([more[:half], night.assign(original=True), more[half:]]), subject, recording)
        )
    return pd.concat(nights)


def _named(night: pd.DataFrame, subject: object, recording: str) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[subject], [recording], range(len(night))], names=INDEX)
    return night.set_axis(index)


VARIANTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "whole": lambda nights: nights.assign(original=True),
    "pieces": lambda nights: in_pieces(nights).assign(original=True),
    "more_wake": with_more_wake,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--adapter", type=Path, help="an adapter folder (default: the one that ships)")
    parser.add_argument("--subjects", nargs="+", required=True, help="people that it was not trained on")
    parser.add_argument("--first-nights", action="store_true", help="one night a person only")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all")
    parser.add_argument("--json", type=Path, required=True, help="the file to write, or to add to")
    options = parser.parse_args()

    stager = Stager.from_pretrained(options.adapter)
    check_no_leakage(stager.trained_on, options.subjects)
    table, _ = partition_subjects(load_table(options.table), options.subjects)
    table = recut(table)
    if options.first_nights:
        table = first_nights(table)
    figures = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    for name in options.variants:
        changed = VARIANTS[name](table)
        started = time.perf_counter()
        proba = stager.predict_proba(changed.drop(columns="original"))
        kept = changed["original"].to_numpy(bool)
        figures[name] = score(changed["stage"][kept], proba[kept])
        minutes = (time.perf_counter() - started) / 60
        print(
            f"{name:24} kappa {figures[name]['kappa']:.3f} on {kept.sum()} epochs, {minutes:.1f} min",
            flush=True,
        )
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
