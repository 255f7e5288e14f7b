"""A small recurrent network in the language model's place: its teacher, and what it is compared with.

It reads the same digits and hints as the language model, a whole night at once, and learns them in a minute
or two. As a teacher it is trained on folds of the people, so that it never answers for a night that it has
learned from; its probabilities say how uncertain a stage is, which one scorer's stage cannot (knowledge
distillation; Hinton et al., 2015).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn
from torch.nn.utils import rnn
from tqdm.auto import tqdm

from ..dataset.digits import MISSING, PromptSpec
from ..dataset.splits import partial_nights, recut
from ..dataset.table import data_fingerprint
from ..dataset.windows import night_runs
from ..files import Contents, naming, write_whole
from ..stages import STAGES, UNSCORED
from .hints import draw_hints, with_given
from .settings import detect

log = logging.getLogger(__name__)

N_FOLDS = 5  # four fifths of the people teach as well as nearly all of them
N_MEMBERS = 3  # networks a fold, whose mean is better than each (the adapter's card has the figures)
WIDTH = 64  # units of each layer; twice as many read no better
PIECE = 240  # epochs that it learns from at once; it reads whole nights
PIECES_PER_BATCH = 10
HIGHEST_RATE = 4e-3
STAGE_WEIGHTS = (1.0, 1.5, 1.0, 1.2, 1.2)  # as those of the language model


class _Reader(nn.Module):
    """Two layers of gated recurrent units (GRU; Cho et al., 2014) in both directions of time."""

    def __init__(self, n_digits: int):
        super().__init__()
        self.enter = nn.Linear(11 * n_digits + len(STAGES) + 1, WIDTH)
        self.night = nn.GRU(WIDTH, WIDTH, num_layers=2, batch_first=True, bidirectional=True, dropout=0.3)
        self.drop = nn.Dropout(0.3)
        self.answer = nn.Linear(2 * WIDTH, len(STAGES))

    def forward(self, levels: Tensor, known: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give the logits (B, T, 5) of levels (B, T, n_digits) and given stages (B, T), −1 where asked.

        With ``lengths`` (B,) of the texts, what lies behind their ends is not read.
        """
        one_hot = nn.functional.one_hot(levels, 10).float().flatten(2)
        height = torch.where(levels != MISSING, (levels - 5) / 2.6, 0.0)  # of unit variance
        hints = 2.0 * nn.functional.one_hot(known + 1, len(STAGES) + 1)
        entered = self.drop(torch.relu(self.enter(torch.cat([one_hot, height, hints], dim=-1))))
        if lengths is None:
            night = self.night(entered)[0]
        else:
            packed = rnn.pack_padded_sequence(entered, lengths, batch_first=True, enforce_sorted=False)
            night, _ = rnn.pad_packed_sequence(self.night(packed)[0], batch_first=True)
        return self.answer(self.drop(night))


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes
    ----------
    spec : PromptSpec
        The digits that it reads.
    reader : torch.nn.Module
    trained_on : tuple
        The subjects that it learned from.
    """

    spec: PromptSpec
    reader: nn.Module
    trained_on: tuple[Any, ...]

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        spec: PromptSpec,
        seed: int = 0,
        n_passes: int = 18,
        margin_epochs: int = 60,
        partial_share: float = 0.2,
        hinted_share: float = 0.5,
    ) -> Network:
        """Train a network on a table with an expert's stages.

        Nights are cut anew in every pass, as for the language model
        (:func:`sleepstage.finetuning.training_texts.training_windows`).

        Parameters
        ----------
        table : pandas.DataFrame
            A feature table with stages.
        spec : PromptSpec
        seed : int
        n_passes : int
            Passes over the table. The learning rate rises and falls over them (Smith & Topin, 2019).
        margin_epochs, partial_share, hinted_share
            As in :class:`sleepstage.TrainingConfig`. A network that reads whole nights needs fewer partial
            ones than a language model that reads windows.
        """
        device = _device()
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            reader = _Reader(len(spec.digits)).to(device)
            network = cls(spec, reader, tuple(table.index.unique("subject").tolist()))
            weights = torch.tensor(STAGE_WEIGHTS, device=device)
            loss = nn.CrossEntropyLoss(weight=weights, ignore_index=UNSCORED)
            optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.01)
            # The rate has its place in the run, whatever number of pieces a pass happens to be cut into.
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, HIGHEST_RATE, total_steps=1001)
            doubt: pd.Series | None = None
            for i in tqdm(range(n_passes), f"small network {seed}", unit="pass", leave=False):
                if i in (n_passes // 3, 2 * n_passes // 3):
                    doubt = 1 - network.predict_proba(table).max(axis=1)
                nights = partial_nights(recut(table, rng, margin_epochs), rng, partial_share)
                pieces = _pieces(nights, spec, doubt, hinted_share, rng)
                rng.shuffle(pieces)
                reader.train()
                for first in range(0, len(pieces), PIECES_PER_BATCH):
                    batch = torch.from_numpy(np.stack(pieces[first : first + PIECES_PER_BATCH])).to(device)
                    levels, known, asked = batch[..., :-2], batch[..., -2], batch[..., -1]
                    optimizer.zero_grad()
                    loss(reader(levels, known).flatten(0, 1), asked.flatten()).backward()
                    nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
                    optimizer.step()
                    done = (i + (first + PIECES_PER_BATCH) / len(pieces)) / n_passes
                    while schedule.last_epoch < min(1000, round(1000 * done)):
                        schedule.step()
        reader.eval()
        return network

    def predict_proba(self, table: pd.DataFrame, known: pd.Series | None = None) -> pd.DataFrame:
        """Stage every epoch of a table, as :meth:`sleepstage.Stager.predict_proba` does."""
        levels = self.spec.levels(table)
        given = np.full(len(table), UNSCORED)
        if known is not None:
            given = known.reindex(table.index, fill_value=UNSCORED).to_numpy()
        proba = with_given(self.read(table, levels, given), given)
        proba[~(levels != MISSING).any(axis=1) & (given == UNSCORED)] = np.nan
        return pd.DataFrame(proba, index=table.index, columns=list(STAGES))

    @torch.inference_mode()
    def read(self, table: pd.DataFrame, levels: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Give the probabilities (n_epochs, 5) for levels of a table, each run of epochs by itself."""
        self.reader.eval()
        rows = [slice(night.start + run.start, night.start + run.stop) for night, run in night_runs(table)]
        lengths = torch.tensor([run.stop - run.start for run in rows])

        def padded(values: np.ndarray) -> Tensor:
            runs = [torch.from_numpy(values[run].astype(np.int64)) for run in rows]
            return rnn.pad_sequence(runs, batch_first=True).to(_device())

        logits = self.reader(padded(levels), padded(known), lengths)
        proba = logits.softmax(-1).cpu().numpy()
        return np.concatenate([answers[:length] for answers, length in zip(proba, lengths, strict=True)])


TEACHER = Contents(
    "a teacher's folder", re.compile(r"teacher-\d+\.safetensors").fullmatch, "teacher-*.safetensors"
)


@dataclass(frozen=True)
class Teacher:
    """Networks that answer for one another's people.

    Attributes
    ----------
    networks : tuple of Network
        `N_MEMBERS` times one for each of the `N_FOLDS` folds.
    fold : dict
        For each subject the fold whose networks have not learned from them.
    run : str
        Identifies what they have learned, so that a resumed training has the same teacher.
    """

    networks: tuple[Network, ...]
    fold: dict[Any, int]
    run: str

    @classmethod
    def fit(
        cls, table: pd.DataFrame, spec: PromptSpec, folder: Path | None = None, **settings: Any
    ) -> Teacher:
        """Train `N_MEMBERS` networks on each of `N_FOLDS` folds of the people; see :meth:`Network.fit`.

        Parameters
        ----------
        folder : Path, optional
            Where each network is kept as soon as it is trained. If the same one is there, it is not
            trained again.

        Raises
        ------
        ValueError
            With fewer people than folds.
        """
        subjects = table.index.get_level_values("subject")
        if subjects.nunique() < N_FOLDS:
            raise ValueError(
                f"a teacher needs at least {N_FOLDS} people, got {subjects.nunique()}; train without one"
            )
        about = {"data": data_fingerprint(table), "prompt": asdict(spec), **settings}
        run = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        folds = list(GroupKFold(N_FOLDS).split(table, groups=subjects))
        networks: list[Network] = []
        for i, (others, _) in enumerate(folds * N_MEMBERS):
            file = None if folder is None else folder / f"teacher-{i}.safetensors"
            network = None if file is None else _load(file, spec, run)
            if network is None:
                network = Network.fit(table.iloc[others], spec, seed=i, **settings)
                if file is not None:
                    _save(network, file, run)
            networks.append(network)
        fold = {subject: i for i, (_, these) in enumerate(folds) for subject in subjects[these].unique()}
        return cls(tuple(networks), fold, run)

    def read(self, table: pd.DataFrame, levels: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Give probabilities (n_epochs, 5) for nights of the table of :meth:`fit`, however they are cut."""
        proba = np.zeros((len(table), len(STAGES)), dtype=np.float32)
        folds = table.index.get_level_values("subject").map(self.fold).to_numpy()
        for i, network in enumerate(self.networks):
            rows = folds == i % N_FOLDS
            if rows.any():
                proba[rows] += network.read(table[rows], levels[rows], known[rows]) / N_MEMBERS
        return proba


def _save(network: Network, file: Path, run: str) -> None:
    weights = {name: weight.cpu().contiguous() for name, weight in network.reader.state_dict().items()}
    about = {"run": run, "trained_on": json.dumps(network.trained_on)}
    write_whole(file, lambda opened: opened.write(save(weights, about)))


def _load(file: Path, spec: PromptSpec, run: str) -> Network | None:
    """Load a network that has learned the same; of another run, or from a damaged file, give none."""
    if not file.is_file():
        return None
    try:
        with naming(file, "a network"), safe_open(file, framework="pt") as kept:
            about = kept.metadata()
            if about["run"] != run:
                return None
            reader = _Reader(len(spec.digits))
            names = kept.keys()
            reader.load_state_dict({name: kept.get_tensor(name) for name in names})
            return Network(spec, reader.to(_device()).eval(), tuple(json.loads(about["trained_on"])))
    except ValueError as error:
        log.warning("%s; it is trained anew", error)
        return None


def _pieces(
    nights: pd.DataFrame,
    spec: PromptSpec,
    doubt: pd.Series | None,
    hinted_share: float,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Cut nights into pieces (PIECE, n_digits + 2): levels, given stages, the stages that are asked for."""
    levels, stages = spec.levels(nights).astype(np.int64), nights["stage"].to_numpy(np.int64)
    unsure = None if doubt is None else doubt.reindex(nights.index).to_numpy()
    given = np.full(len(nights), UNSCORED)
    pieces = []
    for night, run in night_runs(nights):
        if run.start == 0:
            given[night] = draw_hints(
                stages[night], None if unsure is None else unsure[night], rng, hinted_share
            )
        rows = range(night.start + run.start, night.start + run.stop)
        for first in rows[::PIECE]:
            part = slice(first, min(first + PIECE, rows.stop))
            asked = np.where(given[part] == UNSCORED, stages[part], UNSCORED)
            piece = np.column_stack([levels[part], given[part], asked])
            blank = np.array([*[MISSING] * levels.shape[1], UNSCORED, UNSCORED])
            pieces.append(np.concatenate([piece, np.tile(blank, (PIECE - len(piece), 1))]))
    return pieces


def _device() -> str:
    return "cuda" if detect().on_gpu else "cpu"
