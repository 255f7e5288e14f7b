"""The whole way in one go: stage the shipped night with the shipped adapter and hints, then fine-tune one."""

import logging
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ..dataset.digits import PromptSpec, default_digits
from ..dataset.splits import split_blocks
from ..evaluation.baselines import gradient_boosting_baseline, majority_baseline
from ..evaluation.hints import hint_figures
from ..evaluation.metrics import report, score
from ..features.extract import extract_features
from ..files import write_json, write_whole
from ..finetuning.base_model import prepare
from ..finetuning.settings import TrainingConfig
from ..finetuning.trainer import finetune
from ..plots.hypnogram import plot_hypnogram_comparison
from ..plots.results import plot_confusion_matrix
from ..recordings.recording import Recording, load_demo
from ..stages import most_probable_stages, stage_names
from ..staging.stager import Stager

log = logging.getLogger(__name__)

UNSEEN = "A model that learned from other people, on a person it never saw, the whole night."
HINTED = """Then a scorer gives the stages of ten epochs that the model doubts, and it reads the night again.
Kappa of the whole night: %(kappa).3f without hints, %(kappa_delivered).3f with them.
Kappa of the other epochs: %(kappa_others_unhinted).3f without hints, %(kappa_others).3f with them.
"""
SAME_NIGHT = "Trained and tested within one night: this says nothing about other people or other nights."


def run_demo(out: str | Path, fast: bool = False) -> dict[str, Any]:
    """Stage the shipped night with the shipped adapter; fine-tune one on blocks of it, and stage the rest.

    The shipped adapter stages it twice: without hints, and with the expert's stages of ten doubtful epochs.

    Parameters
    ----------
    out : str or Path
        Folder for ``hypnogram.png``, ``confusion_matrix.png``, ``hypnogram.csv`` and ``metrics.json``. Its
        folder ``lesson`` gets the same of the model that is fine-tuned here, and ``adapter/``.
    fast : bool
        Fine-tune for four steps instead of ninety, to see that everything works.

    Returns
    -------
    dict
        The content of ``lesson/metrics.json``: the split, and the figures of each model on the same test
        epochs. The key ``shipped_adapter`` has the content of the other ``metrics.json``, and in it ``hints``
        what :func:`sleepstage.evaluation.hints.hint_figures` says about the ten.
    """
    out = Path(out)
    prepare()
    night = load_demo()
    table = extract_features(night)
    log.info("staging %s with the adapter that ships, without hints and with ten", night.recording)
    stager = Stager.from_pretrained()
    unhinted = stager.predict_proba(table)

    def read(known: pd.Series | None) -> pd.DataFrame:
        return unhinted if known is None else stager.predict_proba(table, known)

    [hints] = hint_figures(table["stage"], read, [10], ["doubt"])
    del hints["kappa_difference_ci"]  # it is over people, and this is one
    shipped = _write(
        out, night, table.assign(split="test"), {"shipped adapter": unhinted}, UNSEEN, hints=hints
    )
    log.info(HINTED, shipped["figures"]["shipped adapter"] | hints)

    split = split_blocks(table)
    train = table[split == "train"]
    minutes, n_steps = (0.5, 4) if fast else (6.0, 90)
    config = TrainingConfig(n_steps=n_steps, max_minutes=minutes, windows_per_batch=2, batches_per_step=1)
    log.info("fine-tuning %s on %d epochs for at most %g minutes", config.base, len(train), minutes)
    adapter = out / "lesson" / "adapter"
    # From left to right, as the base has learned to read: some minutes are too few to learn the other way.
    reading = {"window": 40, "look_ahead": 6, "bidirectional": False, "examples": 0}
    finetune(train, PromptSpec.fit(train, default_digits(train), **reading), config, adapter)
    log.info("staging the night, and training the baselines")
    answers = {
        "majority class": majority_baseline(train, table),
        "gradient boosting": gradient_boosting_baseline(train, table),
        "fine-tuned LLM": Stager.from_pretrained(adapter).predict_proba(table),
    }
    lesson = _write(out / "lesson", night, table.assign(split=split), answers, SAME_NIGHT)
    log.info("Everything is in %s", out)
    return {**lesson, "shipped_adapter": shipped}


def _write(
    out: Path,
    night: Recording,
    table: pd.DataFrame,
    answers: dict[str, pd.DataFrame],
    caveat: str,
    **more: Any,
) -> dict[str, Any]:
    """Write the figures of all answers on the test epochs, and table and pictures of the last answers.

    The table has a column `split`, which says which epochs are for the test.
    """
    stages, split = table["stage"], table["split"]
    tested = split == "test"
    figures = {name: score(stages[tested], proba[tested]) for name, proba in answers.items()}
    log.info("\n%s\n%s\n", caveat, report(figures).to_string())
    metrics = {
        "caveat": caveat,
        "recording": night.recording,
        "n_epochs": len(table),
        "n_train_epochs": int((split == "train").sum()),
        "n_test_epochs": int(tested.sum()),
        "figures": figures,
        **more,
    }
    write_json(out / "metrics.json", metrics)

    model, proba = list(answers.items())[-1]
    predicted = most_probable_stages(proba)
    hypnogram = pd.DataFrame({"time": night.clock_times(), "split": split}, index=table.index)
    hypnogram["expert"], hypnogram["predicted"] = stage_names(stages), stage_names(predicted)
    hypnogram = hypnogram.join(table["quality"]).join(proba.round(4)).droplevel(["subject", "recording"])
    write_whole(out / "hypnogram.csv", hypnogram.to_csv)

    learned = "learned from other people" if tested.all() else "learned from the grey parts of this night"
    title = f"{night.recording}: an expert, and the {model}, which {learned}"
    plot_hypnogram_comparison(stages, predicted, night.start, shade=~tested.to_numpy(), title=title)
    _save_picture(out / "hypnogram.png")
    plot_confusion_matrix(stages[tested], proba[tested])
    _save_picture(out / "confusion_matrix.png")
    return metrics


def _save_picture(path: Path) -> None:
    plt.savefig(path, dpi=150, bbox_inches="tight")
    plt.close()
