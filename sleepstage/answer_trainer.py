"""trl's trainer with a loss at the answers only, a clock, and a bar that shows the loss."""

from __future__ import annotations

import math
import time

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from .base_model import check_finite

IGNORED = -100  # what torch and trl call a position without a label


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
            doubtful = inputs["teacher"][:, answers].flatten(0, 1)
            taught = cross_entropy(outputs.logits.flatten(0, 1), doubtful, reduction="sum")
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


class Clock(TrainerCallback):
    """Stops the training after a number of minutes; of several processes, the first one's watch counts.

    Without that, one would stop a step before the others, which would wait for it for ever.

    Attributes
    ----------
    share : float
        The share of the time that is used up, as of the last step.
    """

    def __init__(self, max_minutes: float | None):
        self.seconds = math.inf if max_minutes is None else 60 * max_minutes
        self.share = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self.share = broadcast_object_list([(time.monotonic() - self.started) / self.seconds])[0]
        over = self.share >= 1
        control.should_training_stop |= over
        control.should_log |= over  # or a run shorter than logging_steps would have no curve


class ProgressBar(TrainerCallback):
    """Shows steps, the loss and the time that is left."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="fine-tuning",
            unit="step",
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
