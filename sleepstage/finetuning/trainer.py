"""QLoRA fine-tuning on nights as text: trl's trainer, with the loss on the answers only.

The base model's weights are frozen in 4-bit NormalFloat; small low-rank matrices beside every linear layer
learn (Dettmers et al., 2023; Hu et al., 2022). The loss looks at the five label words only, and only where a
line of the text ends.

From top to bottom: the loss, the trainer, its settings, what puts them together, and :func:`finetune`.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, default_data_collator, set_seed
from trl import SFTConfig, SFTTrainer

from ..dataset.digits import PromptSpec
from ..dataset.table import data_fingerprint
from ..files import check_replaceable, remove_ours
from ..stages import STAGES, UNSCORED
from . import base_model
from .adapter import ADAPTER, Adapter, load_adapter, read_card, save_adapter
from .calibration import HypnogramPrior
from .callbacks import Clock, ProgressBar, Watch, training_curve
from .checkpoints import CHECKPOINTS, MarkComplete, check_places, held, newest_complete
from .settings import TrainingConfig, detect, launch, learning_rate_for
from .teacher import TEACHER, Teacher
from .training_texts import IGNORED, training_windows

log = logging.getLogger(__name__)


def summed_loss(
    logits: Tensor, stages: Tensor, weights: Tensor, soft_targets: Tensor | None, teacher_share: float
) -> Tensor:
    """Sum the cross-entropy over answers: to the expert's stages, and to a teacher's probabilities.

    Parameters
    ----------
    logits : (N, 5)
    stages : (N,)
        Codes of stages, ``IGNORED`` where there is none.
    weights : (5,)
        Weights of the stages in the expert's part of the loss.
    soft_targets : (N, 5) or None
        The teacher's probabilities. Rows without a label are zero and add nothing to the loss.
    teacher_share : float
        The teacher's share of the loss; the expert has the rest.
    """
    hard = cross_entropy(logits, stages, weight=weights, ignore_index=IGNORED, reduction="sum")
    if soft_targets is None:
        return hard
    soft = cross_entropy(logits, soft_targets, reduction="sum")
    return teacher_share * soft + (1 - teacher_share) * hard


class AnswerTrainer(SFTTrainer):
    """trl's trainer with cross-entropy over the five label words, at the answers only.

    Parameters
    ----------
    model
        As it was loaded; trl puts the low-rank matrices beside its layers, if it is given a ``peft_config``.
    config : TrainingConfig
    label_ids : list of int
        The tokens of the five label words.
    class_weights : torch.Tensor, shape (5,)
    run : dict
        What a checkpoint belongs to (:func:`run_identity`).
    learned_from : list
        The subjects that the adapter has learned from when the training is complete.
    **settings
        For trl's ``SFTTrainer``.
    """

    def __init__(
        self,
        model: Any,
        config: TrainingConfig,
        label_ids: list[int],
        class_weights: Tensor,
        run: dict[str, Any],
        learned_from: list[Any],
        **settings: Any,
    ):
        before = {name: weight.data for name, weight in model.named_parameters()}
        super().__init__(model, **settings)
        # trl rounds the adapter of a quantized model to bfloat16, which a T4's gradient scaler refuses.
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.data = before.get(name, weight.data).to(weight.device, torch.float32)
        self.config = config
        self.label_ids = label_ids
        self.class_weights = class_weights
        self.run = run
        self.learned_from = learned_from
        self.clock = Clock(config.max_minutes)
        self.remove_callback(PrinterCallback)  # a dictionary a line; the bar says the same
        self.add_callback(self.clock)
        self.add_callback(ProgressBar())

    def create_accelerator_and_postprocess(self):
        """Start the gradient scaler low: from its usual 2¹⁶, float16 overflows in the first steps."""
        super().create_accelerator_and_postprocess()
        if (scaler := self.accelerator.scaler) is not None:
            scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**8})

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]  # (B, T) stage codes, not vocabulary ids
        answers = (labels != IGNORED).any(dim=0).nonzero().squeeze(-1)  # (A,) positions
        outputs = model(input_ids=inputs["input_ids"], logits_to_keep=answers)
        outputs.logits = outputs.logits[..., self.label_ids].float()  # (B, A, 5)
        stages = labels[:, answers].flatten()  # (B · A,)
        soft = None
        if "teacher" in inputs:
            soft = inputs["teacher"].view(*labels.shape, len(STAGES))[:, answers].flatten(0, 1)  # (B · A, 5)
        weights = self.class_weights.to(stages.device)
        total = summed_loss(outputs.logits.flatten(0, 1), stages, weights, soft, self.config.teacher_share)
        if num_items_in_batch is None:
            loss = total / (stages != IGNORED).sum()
        else:  # a sum over all accumulated batches and processes; their mean is taken later by DDP
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset=None):
        """Take the texts in their order: they are mixed already, and those of a batch are of one length."""
        return SequentialSampler(train_dataset or self.train_dataset)

    def training_step(self, *args, **kwargs):
        """Take one step, and stop if the loss is not finite.

        Gradients that overflow do not stop it. With float16 this happens sometimes, mostly in the first
        steps, and the gradient scaler skips such a step.
        """
        # peft copies each input to float32, and autocast back to half precision: the same numbers.
        with detect().products(), disable_input_dtype_casting(self.model):
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

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Warm up, then fall linearly to zero towards the last step or the last minute."""

        def factor(step: int) -> float:
            done = max(step / num_training_steps, self.clock.share)
            return min((step + 1) / (self.args.warmup_steps + 1), 1.0) * max(0.0, 1.0 - done)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def _save_checkpoint(self, model, trial):
        named = self.model.named_parameters()
        base_model.check_finite((name, weight) for name, weight in named if weight.requires_grad)
        try:
            super()._save_checkpoint(model, trial)
        # If writing fails, torch raises a RuntimeError, and safetensors raises an error class of its own.
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(
                f"step {self.state.global_step}: could not write a checkpoint to {self.args.output_dir} "
                f"({error}). Is the disk full? The checkpoints before it are whole: free some space, "
                "then resume."
            ) from error

    def create_model_card(self, *args, **kwargs):
        """Write none: trl would put its README beside the checkpoints; ``train.json`` says more."""


def lora_config(config: TrainingConfig) -> LoraConfig:
    """Give peft's settings: low-rank matrices beside every linear layer but the head."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,  # the texts of every pass differ already
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def training_arguments(config: TrainingConfig, work: str | Path) -> SFTConfig:
    """Give trl's settings; ``work`` is the folder for checkpoints.

    The defaults serve for the rest: no weight decay, since the low rank limits the adapter already (QLoRA),
    and gradients clipped to a norm of 1, since a rare window must not throw it off.
    """
    return SFTConfig(
        output_dir=str(work),
        max_steps=config.n_steps,
        per_device_train_batch_size=config.windows_per_batch,
        gradient_accumulation_steps=config.batches_per_step,
        learning_rate=cast(float, config.learning_rate),  # build_trainer has chosen one
        warmup_steps=config.warmup_steps,
        **detect().trainer_settings(),
        max_length=None,  # trl's default would cut texts at 1,024 tokens without a word
        dataset_kwargs={"skip_prepare_dataset": True},  # the texts are tokens already
        remove_unused_columns=False,  # the teacher's column is not an argument of the model
        logging_steps=min(max(1, config.n_steps // 50), 5),  # the clock may end it long before the last step
        save_steps=config.checkpoint_steps,  # without a limit: MarkComplete deletes by number, not by date
        logging_nan_inf_filter=False,  # it would show a loss of NaN as 0
        report_to="none",  # wandb is preinstalled on Colab
        ddp_find_unused_parameters=False,  # every low-rank matrix is used: nothing to search for at each step
        disable_tqdm=True,  # ours shows the loss beside the time that is left
        seed=config.seed,
    )


def build_trainer(
    train_table: pd.DataFrame,
    spec: PromptSpec,
    config: TrainingConfig,
    work: str | Path,
    *,
    whole_model: Any = None,
    teacher: Teacher | None = None,
    copy_to: Path | None = None,
) -> AnswerTrainer:
    """Put base model, adapter, texts and settings together; see :func:`finetune`.

    With a ``whole_model`` there is no adapter: all of that model's weights are trained.
    """
    set_seed(config.seed)  # the adapter's first weights are random, and not every trl seeds them
    model, new_lora, learned_from = whole_model, None, []
    if config.start_from:
        started = load_adapter(config.start_from, config.base, config.nf4, trainable=True)
        model, learned_from = started.model, started.card["subjects"]
    elif whole_model is None:
        model, new_lora = base_model.load_base(config.base, config.nf4), lora_config(config)
    if config.learning_rate is None:
        config = replace(config, learning_rate=learning_rate_for(model.config.hidden_size))
    tokenizer = base_model.load_tokenizer(config.base)
    run = run_identity(train_table, spec, config, tokenizer, teacher)
    n_windows = config.n_steps * config.windows_per_batch * config.batches_per_step * launch().num_processes
    with base_model.quiet_libraries():
        trainer = AnswerTrainer(
            model,
            config,
            label_ids=run["base"]["label_token_ids"],
            class_weights=_normalized_weights(config.class_weights, train_table["stage"]),
            run=run,
            learned_from=_subjects(train_table, learned_from),
            args=training_arguments(config, work),
            train_dataset=training_windows(train_table, spec, tokenizer, n_windows, config, teacher),
            processing_class=tokenizer,
            data_collator=default_data_collator,
            peft_config=new_lora,
        )
    trainer.add_callback(MarkComplete(trainer.run, copy_to))
    base_model.set_attention(trainer.model, spec.bidirectional)
    return trainer


def _normalized_weights(weights: Sequence[float], stages: pd.Series) -> Tensor:
    """Scale class weights so that their mean over the training epochs is 1: losses stay comparable."""
    weight = np.asarray(weights, dtype=np.float64)
    scored = stages[stages != UNSCORED].to_numpy()
    return torch.tensor(weight / weight[scored].mean(), dtype=torch.float32)


def _subjects(train_table: pd.DataFrame, before: list[Any]) -> list[Any]:
    """List the subjects of a table's scored epochs and those of an earlier training, as JSON keeps them."""
    scored = train_table.index[train_table["stage"] != UNSCORED]
    subjects = {*before, *scored.unique("subject").tolist()}
    return sorted(subjects, key=lambda subject: (isinstance(subject, str), subject))


def run_identity(
    train_table: pd.DataFrame,
    spec: PromptSpec,
    config: TrainingConfig,
    tokenizer: Any,
    teacher: Teacher | None,
) -> dict[str, Any]:
    """Give what a resumed run must have in common with the one that was interrupted."""
    return {
        "data": data_fingerprint(train_table),
        "base": base_model.identity(config.base, tokenizer, spec.labels),
        "prompt": asdict(spec),
        "settings": {**asdict(config), "max_minutes": None, "checkpoint_steps": 0},  # those two may change
        "processes": launch().num_processes,
        "teacher": teacher and teacher.run,
    }


def finetune(
    train_table: pd.DataFrame,
    spec: PromptSpec,
    config: TrainingConfig,
    adapter: str | Path,
    resume: bool = False,
    taught: bool = False,
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
        Go on from the newest complete checkpoint, if there is one. If this very training is complete and its
        adapter there, nothing is trained.
    taught : bool
        Train small networks on folds of the people first (:class:`sleepstage.finetuning.teacher.Teacher`),
        whose probabilities are soft targets: ``config.teacher_share`` of the loss is then the cross-entropy
        to them. They are kept in ``<adapter>-teacher`` until the training is complete.
    copy_to : str or Path, optional
        A folder on another disk, such as a mounted Drive, that gets a copy of each checkpoint; ``resume``
        looks there as well. The copies stay when the training is complete.
    watch : callable, optional
        Gets the training curve so far, every few seconds; :class:`sleepstage.LiveCurve` draws it in a
        notebook.

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
    adapter = Path(adapter).resolve()  # "." has no name
    work = adapter.with_name(f"{adapter.name}-checkpoints")
    copies = None if copy_to is None else Path(copy_to)
    writes = launch().is_main_process  # of several processes, one
    needed = [*filter(None, [config.base, config.start_from])]
    if writes:
        check_replaceable(adapter, ADAPTER, needed)
        check_places(work, copies, resume, [adapter, *needed])
    if resume and not work.exists() and _is_trained(adapter, train_table, spec, config, taught):
        log.info("%s is trained already, on the same data with the same settings", adapter)
        return pd.DataFrame(read_card(adapter)["curve"])
    with held(work) if writes else nullcontext():
        teacher = None
        if taught:
            with launch().main_process_first():  # the other processes load what the first has trained
                teacher = Teacher.fit(
                    train_table,
                    spec,
                    adapter.with_name(f"{adapter.name}-teacher"),
                    margin_epochs=config.margin_epochs,
                    hinted_share=config.hinted_share if spec.reads_hints else 0.0,
                )
        trainer = build_trainer(train_table, spec, config, work, teacher=teacher, copy_to=copies)
        if watch and writes:
            trainer.add_callback(Watch(watch))
        if writes and not resume:
            remove_ours(work, CHECKPOINTS)
        checkpoint = newest_complete(work, copies, trainer.run) if resume else None
        started = time.monotonic()
        with base_model.quiet_libraries():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        minutes = (time.monotonic() - started) / 60
        if writes:
            card, prior = (
                training_record(trainer, train_table, minutes),
                HypnogramPrior.from_table(train_table),
            )
            save_adapter(Adapter(trainer.model, trainer.processing_class, spec, prior, card), adapter)
            remove_ours(work, CHECKPOINTS)
            remove_ours(adapter.with_name(f"{adapter.name}-teacher"), TEACHER)
        return training_curve(trainer.state)


def _is_trained(
    adapter: Path, train_table: pd.DataFrame, spec: PromptSpec, config: TrainingConfig, taught: bool
) -> bool:
    """Say whether a folder holds the adapter that these data, this prompt and these settings give."""
    if not (adapter / "train.json").is_file():  # the folder is written whole
        return False
    card = read_card(adapter)
    then = card.get("settings", {})
    may_change = ["max_minutes", "checkpoint_steps", *(["learning_rate"] * (config.learning_rate is None))]
    now = asdict(config) | {name: then.get(name) for name in may_change}
    return (
        then == json.loads(json.dumps(now))  # tuples are lists there
        and card.get("data_fingerprint") == data_fingerprint(train_table)
        and card.get("taught") == taught
        and PromptSpec.load(adapter / "prompt.json") == spec
    )


def training_record(trainer: AnswerTrainer, train_table: pd.DataFrame, minutes: float) -> dict[str, Any]:
    """Give what ``train.json`` says about a run."""
    config, scored = trainer.config, train_table["stage"][train_table["stage"] != UNSCORED]
    schedule: Any = trainer.lr_scheduler  # stands still when the gradient scaler skips a step
    return {
        "base": config.base,
        **trainer.run["base"],
        "nf4": config.nf4,
        "data_fingerprint": trainer.run["data"],
        "subjects": trainer.learned_from,
        "n_epochs": len(scored),
        "stage_counts": {name: int((scored == code).sum()) for code, name in enumerate(STAGES)},
        "settings": asdict(config),
        "processes": launch().num_processes,
        "steps": trainer.state.global_step,
        "skipped_steps": trainer.state.global_step - schedule.last_epoch,
        "minutes": round(minutes, 2),
        "curve": training_curve(trainer.state).to_dict("records"),
        "taught": trainer.run["teacher"] is not None,
    }
