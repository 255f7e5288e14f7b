"""Staging nights with a language model: label scoring over overlapping windows.

The model writes no text. After each epoch's line, its probabilities of the five label words are taken and
normalized. So one forward pass answers for all epochs of a window.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from tqdm.auto import tqdm

from ..dataset.digits import PromptSpec
from ..dataset.table import check_index
from ..dataset.windows import Windows, covering_windows, cut_windows, label_token_ids
from ..features.catalogue import NIGHT
from ..finetuning.adapter import SHIPPED_ADAPTER, load_adapter
from ..finetuning.base_model import load_base, load_tokenizer, quiet_libraries, set_attention
from ..finetuning.calibration import HypnogramPrior
from ..finetuning.hints import with_given
from ..finetuning.settings import OFFLINE_MODEL, detect
from ..stages import STAGES, UNSCORED, stage_codes

DENSE_SLEEP = 20  # epochs: of ten minutes, more than half must be sleep; one wrong epoch does not count
WAKE_MARGIN = 60  # epochs of wake kept on both sides of sleep: half an hour, as in the training nights
WINDOWS_PER_BATCH = {"cpu": 4, "cuda": 64}  # more are hardly faster, and each takes memory
LONG_WAKE = 120  # with more epochs of wake than that outside the margins, a night is read a second time


class Stager:
    """A language model that stages nights, with or without an adapter.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
    tokenizer : transformers tokenizer
    spec : PromptSpec
        How a night becomes text.
    trained_on : sequence
        The subjects that it learned from. It must not be scored on them.
    prior : HypnogramPrior, optional
        Temperature and stage transitions for the answers.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        spec: PromptSpec,
        trained_on: Sequence[Any] = (),
        prior: HypnogramPrior | None = None,
    ) -> None:
        self.model = model.eval()
        set_attention(model, spec.bidirectional)
        self.tokenizer = tokenizer
        self.spec = spec
        self.trained_on = tuple(trained_on)
        self.prior = prior
        self.label_ids = label_token_ids(spec.labels, tokenizer)

    @classmethod
    def from_base(cls, spec: PromptSpec, base: str | Path = OFFLINE_MODEL, nf4: bool = True) -> Self:
        """Load a base model without an adapter, to see what it knows about sleep before it is tuned.

        ``base`` and ``nf4`` are those of :func:`sleepstage.load_base`.
        """
        return cls(load_base(base, nf4), load_tokenizer(base), spec)

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | Path | None = None,
        base: str | Path | None = None,
        nf4: bool | None = None,
        untuned: bool = False,
    ) -> Self:
        """Load a fine-tuned adapter with the base model that it was trained on.

        If the base model is not quantized, the adapter is merged into it: answers are the same but for
        rounding, and come sooner.

        Parameters
        ----------
        adapter : str or Path, optional
            A folder written by :func:`sleepstage.finetune`, or by :func:`sleepstage.merge`, which needs no
            base model. By default the adapter that ships with the package.
        base : str or Path, optional
            Where the base model lies, if not where it was in training.
        nf4 : bool, optional
            Whether to quantize the base model. By default as in training; a merged model is not quantized.
        untuned : bool
            Leave the adapter away: the base model with the same text, and with causal attention as before.

        Raises
        ------
        FileNotFoundError
            If the folder is not an adapter folder.
        ValueError
            If the base model or its tokenizer is not the one that the adapter was trained on.
        """
        loaded = load_adapter(adapter or SHIPPED_ADAPTER, base, nf4)
        model, spec = loaded.model, loaded.spec
        if untuned:
            model, spec = model.unload(), replace(spec, bidirectional=False)
        elif isinstance(model, PeftModel) and not getattr(model, "is_quantized", False):
            model = model.merge_and_unload()
        return cls(model, loaded.tokenizer, spec, loaded.card["subjects"], loaded.prior)

    def predict_proba(
        self,
        table: pd.DataFrame,
        known: pd.Series | None = None,
        stride: int | None = None,
        windows_per_batch: int | None = None,
        with_prior: bool = True,
    ) -> pd.DataFrame:
        """Stage every epoch of every night in a table, with a scorer's hints where there are some.

        A hint is an epoch's stage as the scorer sees it (:func:`sleepstage.recheck` says which epochs are
        worth a hint). The model reads it in the text, and learns from it about the other epochs of the night.

        Levels are ranks within a recording. Hours of wake around a night change them, so a recording with
        more than an hour of it is read a second time, from half an hour before sleep to half an hour after.

        Parameters
        ----------
        table : pandas.DataFrame, shape (n_epochs, n_columns)
            A feature table with the columns that the prompt needs. Its stages are not used.
        known : pandas.Series of int, shape (n_epochs,), optional
            The stages that are given, −1 where the model is asked, with the table's index. A part of the
            index is enough. A given epoch has its stage with probability 1.
        stride : int, optional
            Epochs from one window to the next. By default four fifths of the epochs that a window answers
            for, so that windows overlap by a fifth. The answers to one epoch are averaged.
        windows_per_batch : int, optional
            Windows that the model reads at once. By default 4 on a CPU, and 64 on a GPU.
        with_prior : bool
            Apply the adapter's temperature and stage transitions, if it has them.

        Returns
        -------
        pandas.DataFrame, shape (n_epochs, 5)
            The hypnodensity: the table's index, the columns W, N1, N2, N3, REM; rows sum to 1. An epoch that
            cannot be measured (no digit of its line is known) gets no stage: its row is NaN, and a warning
            says how many there are.

        Raises
        ------
        ValueError
            If ``known`` has an epoch that the table has not, or something else than stage codes; or if the
            adapter cannot read hints.
        """
        check_index(table)
        given = _given(table, known)
        proba = self._read(table, given, stride, windows_per_batch)
        again = _around_sleep(proba)
        if again.any():
            proba[again] = self._read(table[again], given[again], stride, windows_per_batch)
        _warn_of_unanswered(table, proba)
        if with_prior and self.prior:
            proba = self.prior.apply(proba)
        return pd.DataFrame(with_given(proba.to_numpy(), given), table.index, list(STAGES))

    def answer(self, levels: np.ndarray, row: int) -> np.ndarray:
        """Read one window around an epoch, and give that epoch's probabilities.

        Parameters
        ----------
        levels : int8 (n_epochs, n_digits)
            Consecutive epochs as :meth:`PromptSpec.levels` gives them, or changed by hand.
        row : int
            The row of the epoch that is asked for.

        Returns
        -------
        numpy.ndarray, shape (5,)
            The probabilities of W, N1, N2, N3, REM from this window alone, without temperature and stage
            transitions. NaN where no digit of the epoch is known.
        """
        n_answers = self.spec.window - self.spec.look_ahead
        first = min(max(0, row - n_answers // 2), max(0, len(levels) - n_answers))
        lines = levels[first : first + self.spec.window]
        window = cut_windows(lines, self.spec, self.tokenizer, np.array([0]))
        return self._answers([window], 1, n_epochs=len(lines))[row - first]

    def _read(
        self, table: pd.DataFrame, given: np.ndarray, stride: int | None, windows_per_batch: int | None
    ) -> pd.DataFrame:
        """Read a table's nights once; epochs that no window answers for get NaN."""
        stride = stride or self.spec.default_stride
        windows = covering_windows(table, self.spec, self.tokenizer, stride, given)
        answers = self._answers(windows, windows_per_batch, len(table))
        return pd.DataFrame(with_given(answers, given), table.index, list(STAGES))

    @torch.inference_mode()
    def _answers(self, texts: list[Windows], windows_per_batch: int | None, n_epochs: int) -> np.ndarray:
        """Give the mean probabilities of the label words for each epoch (n_epochs, 5), NaN without any."""
        device = self.model.device
        size = windows_per_batch or WINDOWS_PER_BATCH[device.type]
        total, count = np.zeros((n_epochs, len(STAGES))), np.zeros((n_epochs, 1))
        n_windows = sum(len(windows.epochs) for windows in texts)
        with (
            quiet_libraries(),
            detect().products(),
            tqdm(
                desc="staging", total=n_windows, unit="window", leave=False, disable=n_windows <= size
            ) as bar,
        ):
            for windows in texts:
                positions = torch.as_tensor(windows.positions, device=device)  # (A,)
                for first in range(0, len(windows.epochs), size):
                    batch = torch.as_tensor(windows.input_ids[first : first + size], device=device)
                    logits = self.model(input_ids=batch, logits_to_keep=positions).logits
                    proba = logits[..., self.label_ids].float().softmax(-1).double().cpu().numpy()
                    epochs = windows.epochs[first : first + size]
                    asked = epochs >= 0
                    np.add.at(total, epochs[asked], proba[asked])
                    np.add.at(count, epochs[asked], 1)
                    bar.update(len(batch))
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _given(table: pd.DataFrame, known: pd.Series | None) -> np.ndarray:
    """Check hints, and give the stage of each epoch of the table (n_epochs,), −1 where there is none."""
    if known is None:
        return np.full(len(table), UNSCORED, dtype=np.int8)
    expected = "a Series of stage codes with the table's index or a part of it, −1 where the model is asked"
    if not isinstance(known, pd.Series):
        raise ValueError(f"known is a {type(known).__name__}, expected {expected}")
    strangers = known.index.difference(table.index)
    if len(strangers):
        said = f"known gives a stage to {strangers[0]}, an epoch that the table does not have"
        raise ValueError(f"{said}; expected {expected}")
    codes = pd.Series(stage_codes(known), known.index)
    return codes.reindex(table.index, fill_value=UNSCORED).to_numpy()


def _around_sleep(proba: pd.DataFrame) -> np.ndarray:
    """Mark the epochs of nights with more than an hour of wake around them, bool (n_epochs,).

    A night lasts from half an hour before the first sleep to half an hour after the last; all wake between
    them belongs to it. Epochs without an answer count neither as wake nor as sleep. Ten minutes in
    which most epochs have no answer never count as sleep.
    """
    asleep = 1 - proba["W"]
    chosen = np.zeros(len(proba), dtype=bool)
    for rows in asleep.groupby(level=NIGHT, sort=False).indices.values():
        near = asleep.iloc[rows].rolling(DENSE_SLEEP, center=True, min_periods=DENSE_SLEEP // 2).mean()
        asleep_at = np.flatnonzero(near > 0.5)
        if asleep_at.size:
            night = rows[max(0, asleep_at[0] - WAKE_MARGIN) : asleep_at[-1] + WAKE_MARGIN + 1]
            chosen[night] = len(rows) - len(night) > LONG_WAKE
    return chosen


def _warn_of_unanswered(table: pd.DataFrame, proba: pd.DataFrame) -> None:
    without = proba.isna().any(axis=1)
    if without.any():
        counts = table["quality"][without].value_counts() if "quality" in table else {}
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        warnings.warn(
            f"{without.sum()} of {len(table)} epochs ({100 * without.mean():.0f} %) cannot be measured"
            f"{f' ({reasons})' if reasons else ''} and get no stage.",
            stacklevel=3,
        )
