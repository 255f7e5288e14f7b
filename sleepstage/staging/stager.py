"""Staging nights with a language model: label scoring over overlapping windows.

The model is never asked to write. After each epoch's line, the probabilities it gives to the five label
words are read off and normalized: one forward pass answers for a whole window.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..dataset.digits import PromptSpec, label_token_ids
from ..dataset.table import consecutive_runs
from ..dataset.windows import covering_starts, cut_windows
from ..features.catalogue import NIGHT
from ..finetuning.adapter import SHIPPED_ADAPTER, load_adapter
from ..finetuning.base_model import (
    load_base,
    load_tokenizer,
    quiet_libraries,
    set_attention,
)
from ..finetuning.calibration import HypnogramPrior
from ..finetuning.settings import OFFLINE_MODEL
from ..stages import STAGES, answered

DENSE_SLEEP = 20  # epochs: ten minutes, half of them asleep, are sleep; a lone wrong epoch is not


WAKE_MARGIN = 60  # epochs of wake kept on both sides of sleep: half an hour, as in the training nights


LONG_WAKE = 120  # epochs of wake beyond that, from which on a night is read a second time


class Stager:
    """A language model that stages nights, with or without an adapter.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
    tokenizer : transformers tokenizer
    spec : PromptSpec
        How a night becomes text.
    trained_on : sequence
        The subjects that it learned from, so that nobody tests it on them.
    prior : HypnogramPrior, optional
        Temperature and stage transitions that the answers get.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        spec: PromptSpec,
        trained_on: Sequence[Any] = (),
        prior: HypnogramPrior | None = None,
    ):
        self.model = model.eval()
        set_attention(model, spec.bidirectional)
        self.tokenizer = tokenizer
        self.spec = spec
        self.trained_on = tuple(trained_on)
        self.prior = prior
        self.label_ids = label_token_ids(spec.labels, tokenizer)

    @classmethod
    def from_base(cls, spec: PromptSpec, base: str | Path = OFFLINE_MODEL, nf4: bool = True) -> Stager:
        """Load an untuned base model: what a language model knows about sleep before it is taught."""
        return cls(load_base(base, nf4), load_tokenizer(base), spec)

    @classmethod
    def from_pretrained(
        cls, adapter: str | Path | None = None, base: str | Path | None = None, nf4: bool | None = None
    ) -> Stager:
        """Load a fine-tuned adapter with the base model that it was trained on.

        Parameters
        ----------
        adapter : str or Path, optional
            An adapter folder written by :func:`sleepstage.finetune`, or a model's written by
            :func:`sleepstage.merge`, which needs no base model; by default the adapter that ships with the
            package.
        base : str or Path, optional
            Where the base model lies, if not where it was in training.
        nf4 : bool, optional
            Quantize the base model, or do not; by default as in training (not if merged).

        Raises
        ------
        FileNotFoundError
            If the folder is not an adapter folder.
        ValueError
            If the base model or its tokenizer is not the one that the adapter was trained on.
        """
        loaded = load_adapter(adapter or SHIPPED_ADAPTER, base, nf4)
        subjects = loaded.card["subjects"]
        return cls(loaded.model, loaded.tokenizer, loaded.spec, subjects, loaded.prior)

    def predict_proba(
        self,
        table: pd.DataFrame,
        stride: int | None = None,
        windows_per_batch: int = 4,
        with_prior: bool = True,
    ) -> pd.DataFrame:
        """Stage every epoch of every night in a table.

        A recording with hours of wake around the night has other levels than a night. Where the first reading
        finds more than an hour of it, sleep and half an hour on both sides are read again, on their own.

        Parameters
        ----------
        table : pandas.DataFrame
            A feature table with the columns that the prompt needs; stages are not looked at.
        stride : int, optional
            Epochs from one window to the next. By default two thirds of what a window answers for, so that
            windows overlap by a third; where they do, their probabilities are averaged.
        windows_per_batch : int
            Windows read at once.
        with_prior : bool
            Apply the adapter's temperature and stage transitions, if it has them.

        Returns
        -------
        pandas.DataFrame, shape (n_epochs, 5)
            The hypnodensity: the table's index, the columns W, N1, N2, N3, REM; rows sum to 1. An epoch that
            cannot be measured (no digit of its line is known) gets no stage: its row is NaN, and a warning
            says how many there are.
        """
        stride = stride or self.spec.default_stride
        proba = self._read(table, stride, windows_per_batch)
        again = _around_sleep(proba)
        if again.any():
            proba[again] = self._read(table[again], stride, windows_per_batch)
        _warn_of_unanswered(table, proba)
        return self.prior.apply(proba) if with_prior and self.prior else proba

    def answer(self, levels: np.ndarray, row: int) -> np.ndarray:
        """Read one window around an epoch, and give that epoch's probabilities.

        Parameters
        ----------
        levels : int8 (n_epochs, n_digits)
            Consecutive epochs as :meth:`PromptSpec.levels` gives them, or changed by hand.
        row : int
            Which of them is asked for.

        Returns
        -------
        numpy.ndarray, shape (5,)
            The probabilities of W, N1, N2, N3, REM, as read: no other window is averaged in, and neither
            temperature nor stage transitions are applied. NaN where no digit of the epoch is known.
        """
        n_answers = self.spec.window - self.spec.look_ahead
        first = min(max(0, row - n_answers // 2), max(0, len(levels) - n_answers))
        lines = levels[first : first + self.spec.window]
        window = cut_windows(lines, self.spec, self.tokenizer, np.array([0]))
        with quiet_libraries():
            proba = self._answer(window.input_ids, window.positions)
        line = row - first + self.spec.look_ahead
        return np.where(window.epochs[0, line] >= 0, proba[0, line], np.nan)

    def _read(self, table: pd.DataFrame, stride: int, windows_per_batch: int) -> pd.DataFrame:
        """Read a table's nights once, window by window; NaN for epochs that no window answers for."""
        levels = self.spec.levels(table)
        total = np.zeros((len(table), len(STAGES)))
        answers = np.zeros((len(table), 1))
        batches = [
            (run, starts)
            for run in consecutive_runs(table)
            for starts in _batched(
                covering_starts(run.stop - run.start, self.spec, stride), windows_per_batch
            )
        ]
        for run, starts in tqdm(batches, desc="staging", unit="batch", leave=False):
            windows = cut_windows(levels[run], self.spec, self.tokenizer, starts)
            with quiet_libraries():
                proba = self._answer(windows.input_ids, windows.positions)
            asked = windows.epochs >= 0
            rows = run.start + windows.epochs[asked]
            np.add.at(total, rows, proba[asked])
            np.add.at(answers, rows, 1)
        answers[answers == 0] = np.nan
        return pd.DataFrame(total / answers, index=table.index, columns=list(STAGES))

    @torch.inference_mode()
    def _answer(self, input_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Read the label words' probabilities: (B, T) tokens, (A,) positions → (B, A, 5)."""
        device = self.model.device
        logits = self.model(
            input_ids=torch.as_tensor(input_ids, device=device),
            logits_to_keep=torch.as_tensor(positions, device=device),
        ).logits
        return logits[..., self.label_ids].float().softmax(-1).cpu().numpy().astype(np.float64)


def _around_sleep(proba: pd.DataFrame) -> np.ndarray:
    """Mark a night from half an hour before sleep to half an hour after, if more than an hour lies outside.

    Wake in the middle of the night belongs to it, however long. Epochs without an answer are neither wake nor
    sleep, and where most have none, nothing is known about sleep.
    """
    asleep = 1 - proba["W"]
    chosen = np.zeros(len(proba), dtype=bool)
    for rows in asleep.groupby(level=NIGHT, sort=False).indices.values():
        near = asleep.iloc[rows].rolling(DENSE_SLEEP, center=True, min_periods=DENSE_SLEEP // 2)
        dense = near.mean() > 0.5
        if dense.any():
            asleep_at = np.flatnonzero(dense)
            first, last = max(0, asleep_at[0] - WAKE_MARGIN), asleep_at[-1] + WAKE_MARGIN
            night = rows[first : last + 1]
            if len(rows) - len(night) > LONG_WAKE:
                chosen[night] = True
    return chosen


def _warn_of_unanswered(table: pd.DataFrame, proba: pd.DataFrame) -> None:
    without = ~answered(proba)
    if not without.any():
        return
    reasons = table["quality"][without].value_counts() if "quality" in table else {}
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    warnings.warn(
        f"{without.sum()} of {len(table)} epochs ({100 * without.mean():.0f} %) cannot be measured"
        f"{f' ({why})' if why else ''} and get no stage.",
        stacklevel=3,
    )


def _batched(starts: np.ndarray, size: int) -> list[np.ndarray]:
    return [starts[i : i + size] for i in range(0, len(starts), size)]
