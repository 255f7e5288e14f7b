"""trl's trainer with a loss at the answers only, a clock, and a bar that shows the loss.

QLoRA fine-tuning on nights as text: trl's trainer, with the loss on the answers only.

The base model's weights are frozen in 4-bit NormalFloat; small low-rank matrices beside every linear layer
learn (Dettmers et al., 2023; Hu et al., 2022). The loss looks at the five label words only, and only where a
line of the text ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, default_data_collator, set_seed
from trl import SFTConfig, SFTTrainer

from ..dataset.digits import PromptSpec, label_token_ids, tokenizer_hash
from ..dataset.table import data_fingerprint
from ..files import check_replaceable, remove_ours
from ..stages import STAGES, UNSCORED
from .adapter import ADAPTER, Adapter, load_adapter, save_adapter
from .base_model import (
    architecture,
    check_finite,
    fingerprint,
    load_base,
    load_tokenizer,
    quiet_libraries,
    set_attention,
)
from .calibration import HypnogramPrior
from .callbacks import Clock, ProgressBar, Watch, training_curve
from .checkpoints import CHECKPOINTS, MarkComplete, check_places, newest_complete
from .settings import TrainingConfig, detect, is_first_process, n_processes
from .training_texts import IGNORED, training_windows


class AnswerTrainer(SFTTrainer):
    """trl's trainer with cross-entropy over the five label words, at the answers only."""

    def __init__(
        self,
        *args,
        label_ids: list[int],
        class_weights: torch.Tensor,
        teacher_share: float,
        run: dict,
        max_minutes: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.run = run  # what a checkpoint belongs to
        self.label_ids = label_ids
        self.class_weights = class_weights
        self.teacher_share = teacher_share
        self.clock = Clock(max_minutes)
        self.remove_callback(PrinterCallback)  # a dictionary a line; the bar says the same
        self.add_callback(self.clock)
        self.add_callback(ProgressBar())
        # trl leaves the adapter of a quantized model in bfloat16, which a T4's gradient scaler refuses.
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]  # (B, T) stage codes, not vocabulary ids
        answers = (labels != IGNORED).any(dim=0).nonzero().squeeze(-1)  # (A,)
        outputs = model(input_ids=inputs["input_ids"], logits_to_keep=answers)
        outputs.logits = outputs.logits[..., self.label_ids].float()  # (B, A, 5)
        targets = labels[:, answers]
        total = cross_entropy(
            outputs.logits.flatten(0, 1),
            targets.flatten(),
            weight=self.class_weights.to(targets.device),
            ignore_index=IGNORED,
            reduction="sum",
        )
        if "teacher" in inputs:  # its rows are 0 where nothing is asked, and add nothing there
            soft_targets = inputs["teacher"][:, answers].flatten(0, 1)
            taught = cross_entropy(outputs.logits.flatten(0, 1), soft_targets, reduction="sum")
            total = self.teacher_share * taught + (1 - self.teacher_share) * total
        if num_items_in_batch is None:
            loss = total / (targets != IGNORED).sum()
        else:  # a sum over all accumulated batches and processes; their mean is taken later by DDP
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        """Take one step, and stop where nothing can be learned any more.

        Only the loss is looked at: under float16 a *gradient* overflows now and then, the first ones most
        of all, and the gradient scaler skips that step.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise ValueError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}, at a learning rate of "
                f"{self._get_learning_rate():.1e}, so the training was stopped. Try a third of the learning "
                "rate, then more warm-up steps. If that does not help, the base model's numbers are too "
                "large for this machine's precision: use a machine that computes in float32 or bfloat16. "
                "The checkpoints from before hold good weights."
            )
        return loss

    def create_model_card(self, *args, **kwargs):
        """Write none: trl would put its README beside the checkpoints; ``train.json`` says more."""

    def _save_checkpoint(self, model, trial):
        check_finite((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)
        try:
            super()._save_checkpoint(model, trial)
        # A write that fails is a RuntimeError to torch and has a name of its own in safetensors.
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(
                f"step {self.state.global_step}: could not write a checkpoint to {self.args.output_dir} "
                f"({error}). Is the disk full? The checkpoints before it are whole: free some space, "
                "then resume."
            ) from error

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Warm up, then fall linearly to zero towards the last step or the last minute."""
        warmup = self.args.warmup_steps

        def factor(step: int) -> float:
            done = max(step / num_training_steps, self.clock.share)
            return min((step + 1) / (warmup + 1), 1.0) * max(0.0, 1.0 - done)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler


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
        config.partial_share,
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
    set_attention(trainer.model, spec.bidirectional)
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
    return load_adapter(Path(config.start_from), config.base, config.nf4, trainable=True).model


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
    watch: Callable[[pd.DataFrame], None] | None = None,
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
    watch : callable, optional
        Gets the training curve so far, now and then; :class:`sleepstage.LiveCurve` draws it in a notebook.

    Returns
    -------
    pandas.DataFrame
        The training curve: ``step``, ``loss``, ``learning_rate``.

    Raises
    ------
    ValueError
        If the checkpoint to resume from belongs to another run
        (:func:`sleepstage.finetuning.checkpoints.newest_complete`); if a folder to write holds something that
        we do not write there, which is found before the training begins; if a loss is NaN or infinite.
    """
    adapter = Path(adapter)
    work = adapter.with_name(f"{adapter.name}-checkpoints")
    copy_to = None if copy_to is None else Path(copy_to)
    if is_first_process():
        check_replaceable(adapter, ADAPTER, filter(None, [config.base, config.start_from]))
        check_places(work, copy_to, resume)
    trainer = build_trainer(train_table, spec, config, work, teacher=teacher, copy_to=copy_to)
    if watch and trainer.is_world_process_zero():
        trainer.add_callback(Watch(watch))
    if not resume and trainer.is_world_process_zero():
        remove_ours(work, CHECKPOINTS)
    places = [work] if copy_to is None else [work, copy_to]
    checkpoint = newest_complete(places, trainer.run) if resume else None
    started = time.monotonic()
    with quiet_libraries():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    minutes = (time.monotonic() - started) / 60
    curve = training_curve(trainer.state)
    if trainer.is_world_process_zero():  # of several processes, one writes
        card = {**_card(trainer, train_table, config, curve, minutes), "taught": teacher is not None}
        prior = HypnogramPrior.from_table(train_table)
        save_adapter(Adapter(trainer.model, trainer.processing_class, spec, prior, card), adapter)
        remove_ours(work, CHECKPOINTS)
    return curve


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
