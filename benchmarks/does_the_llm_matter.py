"""Does the language model matter? A ladder: the adapter that ships beside what could replace it.

    python benchmarks/does_the_llm_matter.py --table TABLE.npz --json OUT.json [--rows shipped words …]

All rows are scored on the first night of each of the fourteen people of the cohort that ships, recut as in
`sleepstage evaluate`. What is trained learns from the adapter's people, whose nights ``--table`` holds. Each
row is written when it is done, and rows that the file has are not computed again.

The rows in words ask the untuned model about fifty epochs a night, drawn at random; "shots" show it one
epoch of each stage of the same night first, "chat" puts question and answers through its chat template. A
row of the untuned model is scored with its preference for a word taken out (``finished``) and as read. All
trained models get temperature and transitions, as in `sleepstage evaluate`. ``shipped``, ``trees`` and
``network_digits`` are the answers that ship (`ss.load_validation`). ``tuned`` is an adapter trained
for ``--minutes``; ``random`` has the architecture's random weights, all of them trained with the adapter's
settings, steps and kind of teacher, which needs a GPU. In rows that are named after hints, the whole night
is scored as it is delivered, the hints written over it; ``kappa_others`` is of the other epochs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, LlamaForCausalLM

from sleepstage.dataset.digits import Digit, PromptSpec
from sleepstage.dataset.sources import load_cohort
from sleepstage.dataset.splits import first_nights, partition_subjects, recut
from sleepstage.dataset.table import load_table
from sleepstage.dataset.windows import label_token_ids
from sleepstage.evaluation.baselines import majority_baseline
from sleepstage.evaluation.cohort import cohort_figures, load_validation
from sleepstage.evaluation.conditions import CONDITIONS, under_gain
from sleepstage.evaluation.hints import hint_figures
from sleepstage.evaluation.metrics import score
from sleepstage.evaluation.readers import Reader, evaluate_cohort
from sleepstage.features.catalogue import BANDS_HZ, FILTERED_BANDS, NIGHT, feature_columns
from sleepstage.files import read_json, write_json
from sleepstage.finetuning.adapter import SHIPPED_ADAPTER, read_card
from sleepstage.finetuning.base_model import (
    cache_folder,
    load_base,
    load_tokenizer,
    quiet_libraries,
    set_attention,
)
from sleepstage.finetuning.calibration import HypnogramPrior
from sleepstage.finetuning.settings import OFFLINE_MODEL, TrainingConfig, detect
from sleepstage.finetuning.teacher import Teacher
from sleepstage.finetuning.trainer import build_trainer, finetune
from sleepstage.stages import STAGES
from sleepstage.staging.stager import Stager

ASKED = 50  # epochs a night that are asked about in words
QUESTION = "Is this sleeper in the stage Wake, Light (N1), Medium (N2), Deep (N3) or REM? Answer in one word."
LABELS = (" Wake", " Light", " Medium", " Deep", " REM")
TOKENS_AT_ONCE = {"cpu": 4_000, "cuda": 100_000}


class Ladder:
    """What the rows share, each made when a row first needs it."""

    def __init__(self, options: argparse.Namespace):
        self.options = options

    @cached_property
    def test(self) -> pd.DataFrame:
        nights = first_nights(recut(load_cohort()))
        people = nights.index.unique("subject")[: self.options.nights]
        return partition_subjects(nights, people)[0]

    @cached_property
    def train(self) -> pd.DataFrame:
        return partition_subjects(load_table(self.options.table), self.shipped.trained_on)[0]

    @cached_property
    def shipped(self) -> Stager:
        return Stager.from_pretrained()

    @cached_property
    def reader(self) -> Reader:
        return Reader.of_stager(self.shipped)

    @cached_property
    def as_read(self) -> pd.DataFrame:
        return self.reader.read(self.test)

    @cached_property
    def calibrate(self) -> Callable[[pd.DataFrame], pd.DataFrame]:
        return self.reader.calibration(self.test["stage"], self.as_read)

    @cached_property
    def hinted(self) -> dict[int, dict[str, Any]]:
        """Figures of the adapter with 20 and 40 hints at doubtful epochs, by the number of hints."""
        rows = hints_of(self, self.reader, self.calibrate, self.as_read, [20, 40])
        return {row["n"]: row for row in rows}

    @cached_property
    def untuned(self) -> Stager:
        """The base model on digits, reading from left to right as it was pre-trained, hints included."""
        stager = Stager.from_base(self.shipped.spec, OFFLINE_MODEL, nf4=False)
        set_attention(stager.model, False)
        return stager


def figures(stages: pd.Series, proba: pd.DataFrame) -> dict[str, Any]:
    found = cohort_figures(stages, proba)
    return {name: value for name, value in found.items() if not name.startswith("per_")}


def of_reader(ladder: Ladder, reader: Reader) -> dict[str, Any]:
    found, _ = evaluate_cohort(ladder.test, {"llm": reader})
    short = {"finished": found["llm"], "as_read": found["llm_as_read"]}
    return {kind: {k: v for k, v in row.items() if not k.startswith("per_")} for kind, row in short.items()}


def that_ships(ladder: Ladder, model: str) -> dict[str, Any]:
    """Score a model's answers to the fourteen people that ship, with temperature and transitions."""
    _, answers = load_validation()
    return {"finished": figures(ladder.test["stage"], answers[model].loc[ladder.test.index])}


def of_changed(ladder: Ladder, changed: pd.DataFrame) -> dict[str, Any]:
    """Score the adapter on changed nights, with the temperature and transitions of the nights as they are."""
    spec, test = ladder.shipped.spec, ladder.test
    same = changed.index.equals(test.index) and (spec.levels(changed) == spec.levels(test)).all()
    proba = ladder.as_read if same else ladder.reader.read(changed)  # the same digits get the same answers
    return {"finished": score(changed["stage"], ladder.calibrate(proba)), "same_digits": bool(same)}


def hints_of(
    ladder: Ladder,
    reader: Reader,
    calibrate: Callable[[pd.DataFrame], pd.DataFrame],
    as_read: pd.DataFrame,
    counts: list[int],
) -> list[dict[str, Any]]:
    def read(known: pd.Series | None) -> pd.DataFrame:
        return calibrate(as_read if known is None else reader.read(ladder.test, known=known))

    return hint_figures(ladder.test["stage"], read, counts, ["doubt"])


def with_hints(row: dict[str, Any]) -> dict[str, Any]:
    return {"finished": {"kappa": row["kappa_delivered"], "n_epochs": None}, "hints": row}


def without_preference(proba: pd.DataFrame) -> pd.DataFrame:
    """Divide by the mean over all epochs, so that no word is preferred (Zhou et al., 2024, ICLR)."""
    even = proba / proba.mean()
    return even.div(even.sum(axis=1), axis=0)


def of_untuned(stages: pd.Series, proba: pd.DataFrame) -> dict[str, Any]:
    return {"finished": figures(stages, without_preference(proba)), "as_read": figures(stages, proba)}


def untuned(ladder: Ladder) -> dict[str, Any]:
    proba = ladder.untuned.predict_proba(ladder.test)
    return of_untuned(ladder.test["stage"], proba)


def untuned_20_hints(ladder: Ladder) -> dict[str, Any]:
    reader = Reader.of_stager(ladder.untuned)
    as_read = reader.read(ladder.test)
    return with_hints(hints_of(ladder, reader, without_preference, as_read, [20])[0])


def tuned(ladder: Ladder) -> dict[str, Any]:
    """An adapter with the text of the one that ships (both ways, windows of 80), after ``--minutes``."""
    config = detect().training_config(
        base=OFFLINE_MODEL,
        nf4=False,
        windows_per_batch=2,
        batches_per_step=1,
        learning_rate=1.5e-3,
        margin_epochs=60,
        n_steps=2000,  # never reached, but so many texts are cut
        max_minutes=ladder.options.minutes,
        checkpoint_steps=1000,
    )
    with tempfile.TemporaryDirectory() as work:
        curve = finetune(ladder.train, ladder.shipped.spec, config, Path(work) / "adapter")
        print(f"tuned: {curve['step'].iloc[-1]} steps", flush=True)
        return of_reader(ladder, Reader.of_stager(Stager.from_pretrained(Path(work) / "adapter")))


def random_weights(ladder: Ladder) -> dict[str, Any]:
    """The architecture with random weights, all trained as the adapter was, but at a rate of 4e-4."""
    card, spec = read_card(SHIPPED_ADAPTER), ladder.shipped.spec
    as_shipped = {**card["settings"], "n_steps": card["steps"], "max_minutes": None}
    config = TrainingConfig(**{**as_shipped, "learning_rate": 4e-4, "warmup_steps": 100})
    learning = {"margin_epochs": config.margin_epochs, "hinted_share": config.hinted_share}
    teacher = Teacher.fit(ladder.train, spec, **learning)
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(cache_folder() / OFFLINE_MODEL)).float()
    with tempfile.TemporaryDirectory() as work, quiet_libraries():
        trainer = build_trainer(ladder.train, spec, config, work, whole_model=model, teacher=teacher)
        trainer.train()
    prior = HypnogramPrior.from_table(ladder.train)
    stager = Stager(model, load_tokenizer(OFFLINE_MODEL), spec, ladder.shipped.trained_on, prior)
    reader = Reader.of_stager(stager)
    as_read = reader.read(ladder.test)
    calibrate = reader.calibration(ladder.test["stage"], as_read)
    return {**of_reader(ladder, reader), "hints": hints_of(ladder, reader, calibrate, as_read, [20])[0]}


def digits_table(table: pd.DataFrame, spec: PromptSpec) -> pd.DataFrame:
    """Put the digits in the features' place, NaN where a digit says that the value is missing."""
    names = [f"{digit.level}:{digit.column}" for digit in spec.digits]
    levels = pd.DataFrame(spec.levels(table), table.index, names).astype(float)
    return levels.where(levels > 0).assign(stage=table["stage"])


def trees_digits(ladder: Ladder) -> dict[str, Any]:
    spec = ladder.shipped.spec
    trees = Reader.of_trees(digits_table(recut(ladder.train), spec))
    read = lambda table, known=None: trees.read(digits_table(table, spec))  # noqa: E731
    return of_reader(ladder, Reader(read, trees.trained_on, trees.prior, False))


def network(ladder: Ladder) -> dict[str, Any]:
    """A small network on every feature, at both levels."""
    names = feature_columns(ladder.train)
    digits = [Digit(name) for name in names] + [Digit(name, "cohort") for name in names]
    return of_reader(ladder, Reader.of_network(ladder.train, PromptSpec.fit(ladder.train, digits)))


def asked_and_shown(night: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows that are asked about, in the order of time, and one row of each stage to show."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(night))
    stage = night["stage"].to_numpy()[order]
    shown = np.array([order[stage == code][0] for code in np.unique(stage[stage >= 0])])
    rest = order[~np.isin(order, shown) & (stage >= 0)]
    return np.sort(rest[:ASKED]), rng.permutation(shown)


def facts(row: pd.Series) -> str:
    """Describe an epoch in words, and ask."""
    shares = [
        f"{band} ({{:g}}–{{:g}} Hz) {row[f'{band}_share']:.1%}".format(*BANDS_HZ[band])
        for band in FILTERED_BANDS
    ]
    return (
        f"Thirty seconds of sleep EEG. Of its power, {', '.join(shares)}. Its standard deviation is "
        f"{row['std_uv']:.0f} µV, from peak to peak it has {row['ptp_uv']:.0f} µV. {QUESTION}"
    )


def prompt(tokenizer: Any, examples: list[tuple[str, str]], question: str, chat: bool) -> list[int]:
    """Give the tokens of a prompt in words; the next token is the answer."""
    if not chat:
        before = "".join(f"{asked}\nAnswer:{answer}\n\n" for asked, answer in examples)
        return tokenizer(f"{before}{question}\nAnswer:", add_special_tokens=False).input_ids
    turns = []
    for asked, answer in examples:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": f"Answer:{answer}"}]
    turns.append({"role": "user", "content": question})
    begun = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return tokenizer(f"{begun}Answer:", add_special_tokens=False).input_ids


@torch.inference_mode()
def next_words(model: Any, tokenizer: Any, prompts: list[list[int]]) -> np.ndarray:
    """Give the probabilities (n_prompts, 5) of the label words after each prompt.

    Prompts of unequal length are filled up at their ends, which attention from left to right never sees.
    """
    labels = label_token_ids(LABELS, tokenizer)
    order = np.argsort([len(tokens) for tokens in prompts])[::-1]
    proba = np.empty((len(prompts), len(LABELS)))
    first = 0
    while first < len(order):
        longest = len(prompts[order[first]])
        these = order[first : first + max(1, TOKENS_AT_ONCE[model.device.type] // longest)]
        first += len(these)
        filled = np.zeros((len(these), longest), dtype=np.int64)
        for line, i in zip(filled, these, strict=True):
            line[: len(prompts[i])] = prompts[i]
        hidden = model.model(input_ids=torch.as_tensor(filled, device=model.device)).last_hidden_state
        ends = torch.as_tensor([len(prompts[i]) - 1 for i in these], device=model.device)
        logits = model.lm_head(hidden[torch.arange(len(these), device=model.device), ends])
        proba[these] = logits[:, labels].float().softmax(-1).double().cpu().numpy()
    return proba


def in_words(ladder: Ladder, shots: bool, chat: bool) -> dict[str, Any]:
    model, tokenizer = load_base(OFFLINE_MODEL, nf4=False), load_tokenizer(OFFLINE_MODEL)
    prompts, rows = [], []
    for _, night in ladder.test.groupby(level=NIGHT, sort=False):
        asked, shown = asked_and_shown(night)
        examples = [(facts(night.iloc[i]), LABELS[night["stage"].iloc[i]]) for i in shown] if shots else []
        prompts += [prompt(tokenizer, examples, facts(night.iloc[i]), chat) for i in asked]
        rows.append(night.iloc[asked])
    stages = pd.concat(rows)["stage"]
    proba = next_words(model, tokenizer, prompts)
    print(f"{len(prompts)} prompts of {np.mean([len(tokens) for tokens in prompts]):.0f} tokens", flush=True)
    return of_untuned(stages, pd.DataFrame(proba, stages.index, list(STAGES)))


def experts(_: Ladder) -> dict[str, Any]:
    """Two experts who score the same nights, by R&K or AASM rules; pooled over 11 studies of other nights."""
    source = "Lee, Lee, Cho & Choi 2022, J Clin Sleep Med 18(1):193-202: .76 (.71 to .81), N1 .24"
    return {"finished": {"kappa": 0.76, "n_epochs": None}, "source": source}


ROWS: dict[str, Callable[[Ladder], dict[str, Any]]] = {
    "majority": lambda ladder: {
        "finished": figures(ladder.test["stage"], majority_baseline(ladder.train, ladder.test))
    },
    "words": lambda ladder: in_words(ladder, shots=False, chat=False),
    "words_chat": lambda ladder: in_words(ladder, shots=False, chat=True),
    "words_shots": lambda ladder: in_words(ladder, shots=True, chat=False),
    "words_shots_chat": lambda ladder: in_words(ladder, shots=True, chat=True),
    "untuned": untuned,
    "untuned_20_hints": untuned_20_hints,
    "random": random_weights,
    "tuned": tuned,
    "shipped": lambda ladder: that_ships(ladder, "llm"),
    "shipped_20_hints": lambda ladder: with_hints(ladder.hinted[20]),
    "shipped_40_hints": lambda ladder: with_hints(ladder.hinted[40]),
    "shipped_nf4": lambda ladder: of_reader(ladder, Reader.of_stager(Stager.from_pretrained(nf4=True))),
    "gain_half": lambda ladder: of_changed(ladder, under_gain(ladder.test, 0.5)),
    "gain_twice": lambda ladder: of_changed(ladder, under_gain(ladder.test, 2)),
    "pieces": lambda ladder: of_changed(ladder, CONDITIONS["pieces"](ladder.test)),
    "wake": lambda ladder: of_changed(ladder, CONDITIONS["wake"](ladder.test)),
    "trees_digits": trees_digits,
    "trees": lambda ladder: that_ships(ladder, "baseline"),
    "network_digits": lambda ladder: that_ships(ladder, "network"),
    "network": network,
    "experts": experts,
}


def ladder_text(rows: dict[str, dict[str, Any]]) -> str:
    """Put the rows under each other in their order."""
    lines = {}
    for row in [name for name in ROWS if name in rows]:
        finished, as_read = rows[row]["finished"], rows[row].get("as_read", {})
        lines[row] = {
            "kappa": finished["kappa"],
            "kappa, 95 %": "{:.3f} to {:.3f}".format(*finished["kappa_ci"]) if "kappa_ci" in finished else "",
            "macro-F1": finished.get("macro_f1"),
            "N1": finished.get("f1", [None, None])[1],
            "log-loss": finished.get("log_loss"),
            "ECE": finished.get("ece"),
            "as read": as_read.get("kappa"),
            "others": rows[row].get("hints", {}).get("kappa_others"),
            "others, unhinted": rows[row].get("hints", {}).get("kappa_others_unhinted"),
        }
    table = pd.DataFrame.from_dict(lines, orient="index")
    return table.round(3).to_string(na_rep="", float_format="%.3f")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="a feature table of the adapter's people")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="default: all")
    parser.add_argument("--nights", type=int, default=14, help="how many people to score, from the first")
    parser.add_argument("--minutes", type=float, default=30, help="of `tuned` (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="the file to write, or to add rows to")
    options = parser.parse_args()

    ladder = Ladder(options)
    done = read_json(options.json) if options.json.exists() else {}
    for row in [row for row in options.rows if row not in done]:
        started = time.perf_counter()
        done[row] = ROWS[row](ladder)
        done[row]["minutes"] = (time.perf_counter() - started) / 60
        write_json(options.json, done)
        print(
            f"{row}: kappa {done[row]['finished']['kappa']:.3f}, {done[row]['minutes']:.1f} min", flush=True
        )
    print(ladder_text(done))


if __name__ == "__main__":
    main()
