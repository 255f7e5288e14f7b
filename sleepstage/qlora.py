"""QLoRA fine-tuning on nights as text: trl's trainer, with the loss on the answers only.

The base model's weights are frozen in 4-bit NormalFloat; small low-rank matrices beside every linear layer
learn (Dettmers et al., 2023; Hu et al., 2022). The loss looks at the five label words only, and only where a
line of the text ends.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict
from transformers import TrainerCallback, default_data_collator, set_seed
from trl import SFTConfig

from .answer_trainer import AnswerTrainer
from .base_model import (
    OFFLINE_MODEL,
    architecture,
    fingerprint,
    load_base,
    load_tokenizer,
    quiet_libraries,
    set_reading,
)
from .checkpoints import CHECKPOINTS, MarkComplete, check_places, newest_complete
from .dataset import data_fingerprint
from .export import ADAPTER, save_adapter
from .presets import detect, is_first_process, n_processes
from .prompts import PromptSpec, label_token_ids, tokenizer_hash
from .smoothing import HypnogramPrior
from .stager import load_adapter
from .stages import STAGES, UNSCORED
from .training_text import training_windows
from .writing import check_replaceable, remove_ours


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run, each with its reason.

    A step learns from ``windows_per_batch × batches_per_step`` windows in every process. Training ends after
    ``n_steps``, or after ``max_minutes`` if that comes first; the learning rate falls to zero towards
    whichever is nearer.
    """

    start_from: str | None = None  # an adapter to go on from, instead of new low-rank matrices
    base: str = OFFLINE_MODEL  # runs anywhere without a hub
    nf4: bool = True  # the Q of QLoRA: a third of the weights' memory for a tenth of the speed on a CPU
    lora_rank: int = 16  # 4.9 M trainable parameters beside 135 M frozen ones
    lora_alpha: int = 32  # the usual twice the rank
    learning_rate: float = 1e-3  # higher became unstable after short warm-ups
    warmup_steps: int = 10  # the first hundred losses tell whether it was enough
    n_steps: int = 100
    max_minutes: float | None = None
    windows_per_batch: int = 1  # each window of 521 tokens takes about 0.9 GB of activations
    batches_per_step: int = 4  # accumulated, so memory stays that of one batch
    class_weights: tuple[float, ...] = (1.0, 2.0, 1.0, 1.2, 1.4)  # N1 is rare, and macro-F1 counts it fully
    teacher_share: float = 0.8  # of the loss, if there is a teacher; the expert's stages have the rest
    margin_epochs: int = 0  # 60 where nights were cut around sleep by the expert's stages
    blur: float = 0.0  # of the digits, how many are moved by a level, so that people are not learned by heart
    piece_share: float = 0.0  # of the nights of a pass, how many are shown as a piece of 2 to 6 hours
    checkpoint_steps: int = 50
    seed: int = 0


def build_trainer(
    train_table: pd.DataFrame,
    spec: PromptSpec,
    config: TrainingConfig,
    work: str | Path,
    whole_model: Any = None,
    teacher: pd.DataFrame | None = None,
    copy_to: str | Path | None = None,
) -> AnswerTrainer:
    """Put base model, adapter, texts and settings together; see :func:`finetune`.

    With a ``whole_model`` there is no adapter: all of that model's weights are trained.
    """
    set_seed(config.seed)  # the adapter's first weights are random, and not every trl seeds them
    tokenizer = load_tokenizer(config.base)
    label_ids = label_token_ids(spec.labels, tokenizer)
    n_windows = config.n_steps * config.windows_per_batch * config.batches_per_step
    n_windows *= n_processes()  # each takes its share
    texts = training_windows(
        train_table,
        spec,
        tokenizer,
        n_windows,
        config.seed,
        config.margin_epochs,
        config.piece_share,
        teacher,
        config.blur,
    )
    with quiet_libraries():
        trainer = AnswerTrainer(
            model=whole_model or _model(config),
            args=training_arguments(config, work),
            train_dataset=texts,
            processing_class=tokenizer,
            data_collator=default_data_collator,
            peft_config=None if whole_model or config.start_from else lora_config(config),
            label_ids=label_ids,
            class_weights=_normalized_weights(config.class_weights, train_table["stage"]),
            teacher_share=config.teacher_share,
            max_minutes=config.max_minutes,
            run=_run_identity(train_table, spec, config, teacher),
        )
    trainer.add_callback(MarkComplete(trainer.run, copy_to))
    set_reading(trainer.model, spec.two_way)
    if config.start_from:  # once more: trl rounds the adapter of a quantized model to bfloat16
        set_peft_model_state_dict(trainer.model, load_peft_weights(config.start_from, device="cpu"))
    return trainer


def _run_identity(
    train_table: pd.DataFrame, spec: PromptSpec, config: TrainingConfig, teacher: pd.DataFrame | None
) -> dict[str, Any]:
    """Give what a resumed run must have in common with the one that was interrupted."""
    settings = asdict(config)
    for free in ("max_minutes", "checkpoint_steps"):
        del settings[free]
    return {
        "data": data_fingerprint(train_table),
        "base weights": fingerprint(config.base),
        "prompt": asdict(spec),
        "settings": settings,
        "processes": n_processes(),
        "teacher": None if teacher is None else data_fingerprint(teacher),
    }


def _model(config: TrainingConfig) -> Any:
    if config.start_from is None:
        return load_base(config.base, config.nf4)
    return load_adapter(Path(config.start_from), config.base, config.nf4, trainable=True)[0]


def lora_config(config: TrainingConfig) -> LoraConfig:
    """Give peft's settings: low-rank matrices beside every linear layer but the head."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _normalized_weights(weights: tuple[float, ...], stages: pd.Series) -> torch.Tensor:
    """Scale class weights so that their mean over the training epochs is 1: losses stay comparable."""
    if len(weights) != len(STAGES):
        raise ValueError(f"got {len(weights)} class weights, expected one for each of {STAGES}")
    weight = np.asarray(weights, dtype=np.float64)
    scored = stages.to_numpy()[stages.to_numpy() != UNSCORED]
    return torch.tensor(weight / weight[scored].mean(), dtype=torch.float32)


def training_arguments(config: TrainingConfig, work: str | Path) -> SFTConfig:
    """Give trl's settings; ``work`` is the folder for checkpoints."""
    return SFTConfig(
        output_dir=str(work),
        max_steps=config.n_steps,
        per_device_train_batch_size=config.windows_per_batch,
        gradient_accumulation_steps=config.batches_per_step,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        **detect().trainer_settings(),
        max_length=None,  # trl's default would cut texts at 1,024 tokens without a word
        dataset_kwargs={"skip_prepare_dataset": True},  # the texts are tokens already
        remove_unused_columns=False,
        logging_steps=max(1, config.n_steps // 50),
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=None,  # MarkComplete keeps the newest by number; transformers would, by their dates
        logging_nan_inf_filter=False,  # it would show a loss of NaN as 0
        report_to="none",  # wandb is preinstalled on Colab
        disable_tqdm=True,  # ours shows the loss beside the time that is left
        seed=config.seed,
    )


def finetune(
    train_table: pd.DataFrame,
    spec: PromptSpec,
    config: TrainingConfig,
    adapter: str | Path,
    resume: bool = False,
    teacher: pd.DataFrame | None = None,
    copy_to: str | Path | None = None,
    live: bool = False,
) -> pd.DataFrame:
    """Fine-tune a base model on nights with an expert's stages, and save the adapter.

    Parameters
    ----------
    train_table : pandas.DataFrame
        A feature table with stages; epochs scored −1 are read as context and not learned.
    spec : PromptSpec
    config : TrainingConfig
    adapter : str or Path
        The adapter's folder, written when the training is complete. Checkpoints lie beside it, in
        ``<adapter>-checkpoints``, until then.
    resume : bool
        Go on from the newest complete checkpoint, if there is one.
    teacher : pandas.DataFrame, optional
        Another model's probabilities for the training epochs: columns ``W``, ``N1``, ``N2``, ``N3``, ``REM``,
        the table's index. ``config.teacher_share`` of the loss is then the cross-entropy to them (knowledge
        distillation; Hinton et al., 2015). They say how doubtful an epoch is, which one stage cannot.
    copy_to : str or Path, optional
        A folder on another disk, such as a mounted Drive, that gets a copy of each checkpoint; ``resume``
        looks there as well. The copies stay when the training is complete.
    live : bool
        Draw the training curve while it grows, in a notebook.

    Returns
    -------
    pandas.DataFrame
        The training curve: ``step``, ``loss``, ``learning_rate``.

    Raises
    ------
    ValueError
        If the checkpoint to resume from belongs to another run
        (:func:`sleepstage.checkpoints.newest_complete`); if a folder to write holds something that we do not
        write there, which is found before the training begins; if a loss is NaN or infinite.
    """
    adapter = Path(adapter)
    work = adapter.with_name(f"{adapter.name}-checkpoints")
    copy_to = None if copy_to is None else Path(copy_to)
    if is_first_process():
        check_replaceable(adapter, ADAPTER, filter(None, [config.base, config.start_from]))
        check_places(work, copy_to, resume)
    trainer = build_trainer(train_table, spec, config, work, teacher=teacher, copy_to=copy_to)
    if live and trainer.is_world_process_zero():
        trainer.add_callback(LiveCurve())
    if not resume and trainer.is_world_process_zero():
        remove_ours(work, CHECKPOINTS)
    places = [work] if copy_to is None else [work, copy_to]
    checkpoint = newest_complete(places, trainer.run) if resume else None
    started = time.monotonic()
    with quiet_libraries():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    minutes = (time.monotonic() - started) / 60
    curve = _curve(trainer.state)
    if trainer.is_world_process_zero():  # of several processes, one writes
        card = {**_card(trainer, train_table, config, curve, minutes), "taught": teacher is not None}
        save_adapter(trainer.model, adapter, spec, HypnogramPrior.from_table(train_table), card)
        remove_ours(work, CHECKPOINTS)
    return curve


class LiveCurve(TrainerCallback):
    """Draws the loss again and again in one place of a notebook; not at every step, for that takes time."""

    SECONDS = 5.0

    def __init__(self):
        self.drawn_at, self.place = -math.inf, None

    def on_log(self, args, state, control, **kwargs):
        if time.monotonic() - self.drawn_at >= self.SECONDS:
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(state)

    def _draw(self, state) -> None:
        from IPython.display import display  # neither is needed by a training without a notebook
        from matplotlib import pyplot as plt

        from .charts import plot_training_curve

        figure = plot_training_curve(_curve(state)).figure
        if self.place is None:
            self.place = display(figure, display_id=True)
        else:
            self.place.update(figure)
        plt.close(figure)  # or the notebook shows it once more when the cell ends
        self.drawn_at = time.monotonic()


def _curve(state) -> pd.DataFrame:
    curve = pd.DataFrame([entry for entry in state.log_history if "loss" in entry])
    return curve[["step", "loss", "learning_rate"]]


def _card(trainer, train_table, config, curve, minutes) -> dict[str, Any]:
    """Give what ``train.json`` says about a run."""
    scored = train_table[train_table["stage"] != UNSCORED]
    subjects = {_plain(subject) for subject in scored.index.get_level_values("subject")}
    if config.start_from is not None:  # it has not forgotten whom it learned from before
        before = json.loads((Path(config.start_from) / "train.json").read_text(encoding="utf-8"))
        subjects |= set(before["subjects"])
    tokenizer = trainer.processing_class
    return {
        "base": config.base,
        "base_fingerprint": trainer.run["base weights"],
        "base_architecture": architecture(config.base),
        "nf4": config.nf4,
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "label_token_ids": trainer.label_ids,
        "data_fingerprint": data_fingerprint(train_table),
        "subjects": sorted(subjects, key=lambda subject: (isinstance(subject, str), subject)),
        "n_epochs": len(scored),
        "stage_counts": {name: int((scored["stage"] == code).sum()) for code, name in enumerate(STAGES)},
        "settings": asdict(config),
        "processes": n_processes(),
        "steps": trainer.state.global_step,
        "minutes": round(minutes, 2),
        "curve": curve.to_dict("records"),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
