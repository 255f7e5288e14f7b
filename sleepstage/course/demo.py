"""The whole way in one go: stage the shipped night with the shipped adapter, then learn how one is made."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ..dataset.digits import PromptSpec, default_digits
from ..dataset.splits import split_blocks
from ..evaluation.baselines import gradient_boosting_baseline, majority_baseline
from ..evaluation.metrics import report, score
from ..features.extract import extract_features
from ..finetuning.base_model import prepare
from ..finetuning.settings import TrainingConfig
from ..finetuning.trainer import finetune
from ..plots.hypnogram import plot_hypnogram_comparison
from ..plots.results import plot_confusion_matrix
from ..recordings.recording import Recording, load_demo
from ..stages import STAGES, most_probable_stages, stage_names
from ..staging.stager import Stager

log = logging.getLogger(__name__)


UNSEEN = "A model that learned from other people, on a person it never saw, the whole night:"


CAVEAT = (
    "Trained and tested on blocks of the same night of one person: "
    "these figures say nothing about other people or other nights."
)


def run_demo(out: str | Path, minutes: float = 6.0, n_steps: int = 90, seed: int = 0) -> dict:
    """Stage the shipped night with the shipped adapter; fine-tune one on blocks of it, and stage the rest.

    Parameters
    ----------
    out : str or Path
        Folder for ``hypnogram.png``, ``confusion_matrix.png``, ``hypnogram.csv``, ``metrics.json``, and the
        same with ``lesson/`` before it for what was fine-tuned here, with its ``adapter/``.
    minutes, n_steps : float, int
        The fine-tuning ends with whichever comes first.
    seed : int

    Returns
    -------
    dict
        What the lesson's ``metrics.json`` holds: the split, and the figures of each model on the same test
        epochs; and as ``shipped_adapter`` what the other ``metrics.json`` holds.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    prepare()
    night = load_demo()
    table = extract_features(night)
    shipped = _stage_with_shipped_adapter(out, night, table)
    return {**_lesson(out / "lesson", night, table, minutes, n_steps, seed), "shipped_adapter": shipped}


def _stage_with_shipped_adapter(out: Path, night: Recording, table: pd.DataFrame) -> dict:
    log.info("staging %s with the adapter that ships", night.recording)
    started = time.perf_counter()
    proba = Stager.from_pretrained().predict_proba(table)
    metrics = {
        "recording": night.recording,
        "staging_seconds": round(time.perf_counter() - started, 1),
        "figures": {"shipped adapter": score(table["stage"], proba)},
    }
    title = f"{night.recording}: an expert, and a language model that learned from other people"
    _write(out, night, table, pd.Series("test", index=table.index), proba, metrics, title)
    log.info("\n%s\n%s\n", UNSEEN, report(metrics["figures"]).to_string())
    return metrics


def _lesson(
    out: Path, night: Recording, table: pd.DataFrame, minutes: float, n_steps: int, seed: int
) -> dict:
    split = split_blocks(table)
    train, test = table[split == "train"], table[split == "test"]
    log.info("%s: %d epochs, %d to train on, %d to test", night.recording, *map(len, (table, train, test)))

    spec = PromptSpec.fit(train, default_digits(train))
    config = TrainingConfig(
        n_steps=n_steps, max_minutes=minutes, windows_per_batch=2, batches_per_step=1, seed=seed
    )
    log.info("fine-tuning %s with QLoRA for at most %g minutes", config.base, minutes)
    finetune(train, spec, config, out / "adapter")
    log.info("staging the night")
    started = time.perf_counter()
    llm = Stager.from_pretrained(out / "adapter").predict_proba(table)
    seconds = time.perf_counter() - started
    log.info("training the baselines")
    hypnodensities = {
        "majority class": majority_baseline(train, table),
        "gradient boosting": gradient_boosting_baseline(train, table, seed=seed),
        "fine-tuned LLM": llm,
    }
    is_test = split == "test"
    metrics = {
        "caveat": CAVEAT,
        "recording": night.recording,
        "n_epochs": len(table),
        "n_train_epochs": len(train),
        "n_test_epochs": len(test),
        "staging_seconds": round(seconds, 1),
        "figures": {name: score(test["stage"], proba[is_test]) for name, proba in hypnodensities.items()},
    }
    title = f"{night.recording}: an expert, and a language model fine-tuned on the grey parts of this night"
    _write(out, night, table, split, llm, metrics, title)
    log.info("\n%s\n%s", CAVEAT, report(metrics["figures"]).to_string())
    log.info("Everything is in %s", out.parent)
    return metrics


def _write(
    out: Path,
    night: Recording,
    table: pd.DataFrame,
    split: pd.Series,
    proba: pd.DataFrame,
    metrics: dict,
    title: str,
) -> None:
    predicted = most_probable_stages(proba)
    hypnogram = pd.DataFrame(
        {
            "epoch": table.index.get_level_values("epoch"),
            "time": night.clock_times(),
            "split": split.to_numpy(),
            "expert": stage_names(table["stage"]),
            "predicted": stage_names(predicted),
            "quality": table["quality"].to_numpy(),
        }
    )
    hypnogram[list(STAGES)] = proba.to_numpy().round(4)
    hypnogram.to_csv(out / "hypnogram.csv", index=False)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")

    is_test = (split == "test").to_numpy()
    axes = plot_hypnogram_comparison(table["stage"], predicted, night.start, shade=~is_test, title=title)
    _save_figure(axes[0].figure, out / "hypnogram.png")
    axes = plot_confusion_matrix(table["stage"][is_test], proba[is_test])
    _save_figure(axes.figure, out / "confusion_matrix.png")


def _save_figure(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
