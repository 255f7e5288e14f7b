"""What do the digits carry? A small recurrent network reads them, a whole night at a time, in a minute.

    python benchmarks/digits.py --table TABLE.npz --validation-subjects 2 6 10 [--night …] [--cohort …]

It learns from all other people of the table and is scored on those named, nights recut as in
`sleepstage evaluate`. Cheap enough to compare sets of digits, and a mark for the language model: what it does
not reach with the same digits is not the digits' fault.

With ``--teach ANSWERS.npz``, networks of three seeds also answer for the people they learned from, each night
cut in five ways; the mean is what ``sleepstage train --teacher ANSWERS.npz`` learns from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from sleepstage.dataset.digits import COHORT_COLUMNS, PUBLISHED_COLUMNS, Digit, PromptSpec
from sleepstage.dataset.splits import partition_subjects, recut
from sleepstage.dataset.table import load_table, save_table
from sleepstage.evaluation.metrics import report, score
from sleepstage.features.catalogue import NIGHT
from sleepstage.stages import STAGES

CLASS_WEIGHTS = (1.0, 1.5, 1.0, 1.2, 1.2)
PIECE = 150  # epochs learned at once
BATCH = 16


class Reader(nn.Module):
    """A bidirectional GRU over lines of digits: (B, n_epochs, n_digits) → (B, n_epochs, 5)."""

    def __init__(self, n_digits: int, width: int = 64):
        super().__init__()
        self.enter = nn.Linear(n_digits, width)
        self.night = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.3)
        self.answer = nn.Linear(2 * width, len(STAGES))

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.night(self.drop(torch.relu(self.enter((levels - 5) / 2.6))))
        return self.answer(self.drop(hidden))


def nights(table: pd.DataFrame, spec: PromptSpec) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Levels (n_epochs, n_digits) and stages (n_epochs,) of every night."""
    levels = torch.tensor(spec.levels(table), dtype=torch.float32)
    stages = torch.tensor(table["stage"].to_numpy(), dtype=torch.long)
    return [(levels[rows], stages[rows]) for rows in table.groupby(level=NIGHT, sort=False).indices.values()]


def train(table: pd.DataFrame, spec: PromptSpec, passes: int, seed: int) -> Reader:
    """Learn from pieces of nights, cut anew in every pass."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reader = Reader(len(spec.digits))
    n_nights = len(table.index.droplevel("epoch").unique())
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.01)
    steps = passes * (n_nights * 8 // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    loss = nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS), ignore_index=-1)
    done = 0
    while done < steps:
        pieces = []
        for levels, stages in nights(recut(table, rng), spec):
            for start in range(int(rng.integers(PIECE // 2)), len(stages) - PIECE, PIECE):
                pieces.append((levels[start : start + PIECE], stages[start : start + PIECE]))
        order = rng.permutation(len(pieces))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            if done == steps:
                break
            batch = [pieces[i] for i in order[first : first + BATCH]]
            levels, stages = (torch.stack(part) for part in zip(*batch, strict=True))
            optimizer.zero_grad()
            loss(reader(levels).flatten(0, 1), stages.flatten()).backward()
            nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
    return reader.eval()


def answers(reader: Reader, table: pd.DataFrame, spec: PromptSpec) -> pd.DataFrame:
    """Probabilities of the five stages for every epoch of the table, in its order."""
    with torch.inference_mode():
        proba = torch.cat([reader(levels[None])[0].softmax(-1) for levels, _ in nights(table, spec)])
    return pd.DataFrame(proba.numpy().astype(np.float64), index=table.index, columns=list(STAGES))


def teach(table: pd.DataFrame, spec: PromptSpec, passes: int) -> pd.DataFrame:
    """What three networks say about the people they learned from, on average over ways to cut the nights."""
    said = []
    for seed in range(3):
        reader = train(table, spec, passes, seed)
        said += [answers(reader, cut, spec) for cut in (table, *(recut(table, way) for way in range(4)))]
    mean = pd.concat(said).groupby(level=table.index.names, sort=False).mean()
    return mean.assign(stage=table["stage"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table (.npz) with stages")
    parser.add_argument("--validation-subjects", nargs="+", required=True, help="scored, not trained on")
    parser.add_argument("--leave-out", nargs="*", default=[], help="neither scored nor trained on")
    parser.add_argument("--night", nargs="*", default=list(PUBLISHED_COLUMNS), help="levels within the night")
    parser.add_argument("--cohort", nargs="*", default=list(COHORT_COLUMNS), help="levels over people")
    parser.add_argument("--passes", type=int, default=10, help="over the training nights (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--teach", type=Path, help="write answers for the training people to this file")
    options = parser.parse_args()

    _, table = partition_subjects(load_table(options.table), options.leave_out)
    validation, training = partition_subjects(table, options.validation_subjects)
    digits = [Digit(column) for column in options.night] + [
        Digit(column, "cohort") for column in options.cohort
    ]
    spec = PromptSpec.fit(training, digits)
    reader = train(training, spec, options.passes, options.seed)
    validation = recut(validation)
    figures = score(validation["stage"], answers(reader, validation, spec))
    print(report({f"GRU on {len(digits)} digits": figures}).to_string())
    print("F1:", dict(zip(STAGES, np.round(figures["f1"], 3).tolist(), strict=True)))
    if options.teach:
        taught = teach(training, spec, options.passes)
        figures = score(taught["stage"], taught[list(STAGES)])
        print(report({"the teacher on those it learned from": figures}).to_string())
        save_table(taught, options.teach)


if __name__ == "__main__":
    main()
