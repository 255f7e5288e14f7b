"""What happens beside the training steps: a clock, a progress bar, a function that watches the loss."""

import math
import time
from collections.abc import Callable

import pandas as pd
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerState


class Clock(TrainerCallback):
    """Stops the training after a number of minutes.

    Of several processes, the first one's clock counts. Otherwise one process could stop a step before the
    others, and they would wait for it for ever.

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
        control.should_log |= over  # otherwise a run shorter than logging_steps has no curve


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


class Watch(TrainerCallback):
    """Calls a function with the training curve: every few seconds while it grows, and at the end."""

    SECONDS = 5.0  # between two calls: the function most likely draws a picture, which takes time

    def __init__(self, watch: Callable[[pd.DataFrame], None]):
        self.watch, self.last = watch, -math.inf

    def on_log(self, args, state, control, **kwargs):
        if time.monotonic() - self.last >= self.SECONDS:
            self.watch(training_curve(state))
            self.last = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.watch(training_curve(state))


def training_curve(state: TrainerState) -> pd.DataFrame:
    """Take ``step``, ``loss`` and ``learning_rate`` out of what a trainer has logged."""
    logged = [entry for entry in state.log_history if "loss" in entry]
    return pd.DataFrame(logged, columns=["step", "loss", "learning_rate"])
