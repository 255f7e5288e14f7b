"""Which digits should a line have? Sets of digits, compared without a look at any test person.

    python benchmarks/digits.py --table TABLE.npz --validation-subjects 2 6 10 --out ROWS.csv [--sets g15 f17]

For each set, small networks (`sleepstage.finetuning.teacher`) learn from folds of the people who are not left
out, and each person is answered for by networks that never saw them. A row has the kappa, the log-loss and
N1's F1 of whole nights, cut at random as in `sleepstage evaluate`, and of pieces of four hours. It also has
the tokens of a line with the offline model's tokenizer: they are what a set costs. A set that has a row in
``--out`` is not trained again; ``--networks`` keeps the networks of a set that was interrupted.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from sleepstage.dataset.digits import Digit, PromptSpec
from sleepstage.dataset.splits import partition_subjects, recut
from sleepstage.dataset.table import load_table
from sleepstage.dataset.windows import line_tokens
from sleepstage.evaluation.conditions import CONDITIONS
from sleepstage.evaluation.metrics import score
from sleepstage.files import write_whole
from sleepstage.finetuning.base_model import load_tokenizer
from sleepstage.finetuning.settings import OFFLINE_MODEL
from sleepstage.finetuning.teacher import Teacher
from sleepstage.stages import STAGES, UNSCORED

SETS = {  # LEVEL:FEATURE, or LEVEL:FEATURE/FEATURE for a ratio
    "c15": "N:Ld N:Lt N:La N:Ls N:Lb N:rd N:rt N:ra N:rb N:rest P:Rd P:Rt P:Ra P:Rs P:Rb",
    "g15": "N:Ld N:Lt N:La N:Ls N:Lb N:rd N:rest P:Rd P:Rt P:Ra P:Rs P:Rb P:rd/rb P:rest/var P:range/std",
    "f12": "N:rd N:ra P:Ra P:rd/var P:Rs/Rb P:Rs/Ra P:Rt/Ra P:range/std C:Ld C:Lb D:Ld D:Lb",
    "f17": "N:La N:rd N:ra N:Ra N:Rb P:Ra P:rb/var P:rd/var P:Rs/Rb P:Rs/Ra P:Rt/Ra P:range/std "
    "C:Ld C:Lb D:Ld D:Ls D:Lb",
    "k17": "C:Ld C:Lt C:La C:Ls C:Lb N:rd N:ra P:Ra P:rd/var P:Rs/Rb P:Rs/Ra P:Rt/Ra P:range/std "
    "D:Ld D:Ls D:La D:Lb",
    "h19": "N:Ld N:Lt N:La N:Ls N:Lb N:rd N:rest P:Rd P:Rt P:Ra P:Rs P:Rb P:rd/rb P:rest/var P:range/std "
    "C:Ld C:Lb D:Ld D:Lb",
    "m20": "N:Ld N:La N:Ls N:Lb N:rd N:ra N:rest P:Ra P:Rd P:rd/var P:Rs/Rb P:Rs/Ra P:Rt/Ra P:range/std "
    "P:rest/var C:Ld C:Lb D:Ld D:Ls D:Lb",
}
LEVELS = {"N": "night", "P": "cohort", "C": "median", "D": "neighbours"}  # N: this night, P: over people
BANDS = {"d": "delta", "t": "theta", "a": "alpha", "s": "sigma", "b": "beta"}
KINDS = {"L": "{}_log_power", "R": "{}_share", "r": "rfft_{}_uv2"}  # L: by Welch's method, R: shares of it
FEATURES = {
    kind + letter: name.format(band) for kind, name in KINDS.items() for letter, band in BANDS.items()
}
FEATURES |= {"std": "std_uv", "var": "var_uv2", "range": "ptp_uv", "rest": "rfft_rest_uv2"}
LEARNING = {"margin_epochs": 60, "partial_share": 0.2, "hinted_share": 0.5}  # as the teachers of `train`


def digits(notation: str) -> list[Digit]:
    """Read a set: ``"N:Ld P:range/std"`` is the log of delta power in its night, and a ratio over people."""
    pairs = [word.split(":") for word in notation.split()]
    return [Digit("/".join(FEATURES[x] for x in column.split("/")), LEVELS[level]) for level, column in pairs]


def compare(people: pd.DataFrame, name: str, networks: Path) -> dict[str, object]:
    """Train the networks of a set, or load them, and give its row."""
    spec = PromptSpec.fit(people, digits(SETS[name]))
    teacher = Teacher.fit(people, spec, networks / name, **LEARNING)
    line = line_tokens(np.ones((1, len(spec.digits)), dtype=np.int8), load_tokenizer(OFFLINE_MODEL))
    row = {"set": name, "digits": len(spec.digits), "tokens": line.size}
    nights = recut(people)
    for what, table in (("nights", nights), ("pieces", CONDITIONS["pieces"](nights))):
        proba = teacher.read(table, spec.levels(table), np.full(len(table), UNSCORED))
        found = score(table["stage"], pd.DataFrame(proba, table.index, list(STAGES)))
        row |= {f"{what} {figure}": found[figure] for figure in ("kappa", "log_loss")}
        row[f"{what} N1"] = found["f1"][STAGES.index("N1")]
    return row | {"notation": SETS[name]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--validation-subjects", nargs="*", default=[], help="left out")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write, or to add rows to")
    parser.add_argument("--networks", type=Path, default=Path("digits-networks"), help="default: %(default)s")
    options = parser.parse_args()

    _, people = partition_subjects(load_table(options.table), options.validation_subjects)
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    for name in options.sets:
        if name not in {row["set"] for row in rows}:
            rows.append(compare(people, name, options.networks))
            write_whole(options.out, partial(pd.DataFrame(rows).round(4).to_csv, index=False))
    print(pd.DataFrame(rows).drop(columns="notation").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
