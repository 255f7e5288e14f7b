"""Checkpoints that can be trusted: marked when they are whole, and resumed by the run they belong to only.

When a Colab machine is taken away its disk is lost, so each checkpoint can be copied to another disk, such as
a mounted Drive.
"""

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState
from transformers import TrainerCallback

from ..files import Contents, check_replaceable, read_json, remove_ours, replacing, write_json

log = logging.getLogger(__name__)

_MARKER = "complete.json"

# What transformers and peft write into a checkpoint, a whole model's and FSDP's included.
_CHECKPOINT_FILE = re.compile(
    r"adapter_(config\.json|model\.safetensors)|README\.md|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth"
    r"|trainer_state\.json|training_args\.bin|complete\.json(\.partial\d*)?|chat_template\.jinja|merges\.txt"
    r"|tokenizer\.model|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)"
    r"\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|(pytorch_model_fsdp|optimizer)_\d+(/[^/]+)?"
)


CHECKPOINT = Contents("a checkpoint", _CHECKPOINT_FILE.fullmatch, _MARKER)

CHECKPOINTS = Contents(
    "a folder of checkpoints",
    re.compile(rf"checkpoint-\d+(/({_CHECKPOINT_FILE.pattern}))?").fullmatch,
    f"checkpoint-*/{_MARKER}",
)


class MarkComplete(TrainerCallback):
    """Writes, last of all, which run a checkpoint belongs to and the SHA-256 of each of its files.

    Then copies the checkpoint to the folder ``copy_to``, if there is one. The newest two are kept in both.
    """

    def __init__(self, run: dict[str, Any], copy_to: Path | None):
        self.run, self.copy_to = run, copy_to

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # every process keeps its random state in a file of its own
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / _MARKER, {"run": self.run, "files": _digests(folder)})
            _keep_newest(folder.parent)
            if self.copy_to is not None:
                with replacing(self.copy_to / folder.name, CHECKPOINT) as copy:
                    shutil.copytree(folder, copy, dirs_exist_ok=True)
                _keep_newest(self.copy_to)


def check_places(work: Path, copy_to: Path | None, resume: bool) -> None:
    """Refuse, before a training begins, folders in which its checkpoints would replace something else.

    Parameters
    ----------
    work : Path
        The folder for checkpoints; without ``resume``, what an interrupted run left there is deleted.
    copy_to : Path or None
        The folder for copies of them; other files may lie there as well, and no copy is deleted.
    resume : bool

    Raises
    ------
    ValueError
        If there is something that is not a checkpoint of ours, or, without ``resume``, an older run's copies.
    """
    if not resume:
        check_replaceable(work, CHECKPOINTS)
    for folder in _checkpoints(copy_to):
        check_replaceable(folder, CHECKPOINT)
        if not resume:
            raise ValueError(
                f"{folder} is a copy from an earlier run. Go on from there (resume=True, --resume), or name "
                "another folder for this run's copies."
            )


def _keep_newest(place: Path) -> None:
    """Delete all whole checkpoints but two: the newest, and the one before it in case that is damaged.

    The newest is the one with the highest number, since a clock may have been set back.
    """
    for old in [folder for folder in _checkpoints(place) if (folder / _MARKER).is_file()][:-2]:
        remove_ours(old, CHECKPOINT)


def newest_complete(places: list[Path | None], run: dict[str, Any]) -> Path | None:
    """Give the newest whole checkpoint in some folders, or None if there is none.

    A checkpoint that was cut off or damaged is passed over with a warning, and the one before it is taken.

    Raises
    ------
    ValueError
        If it belongs to a run on other data, with another prompt, base model or other settings; what differs
        is named.
    """
    found = [folder for place in places for folder in _checkpoints(place)]
    for folder in sorted(found, key=_step, reverse=True):  # of two equal ones, the first place's
        try:
            content = read_json(folder / _MARKER)
        except (FileNotFoundError, ValueError):
            content = {"files": None}
        if _digests(folder) != content["files"]:
            log.warning("%s is damaged, or was cut off while it was written; it is passed over", folder)
            continue
        before, now = _flat(content["run"]), _flat(run)
        changes = [
            f"{name} ({before.get(name)} then, {now.get(name)} now)"
            for name in sorted(before | now)
            if before.get(name) != now.get(name)
        ]
        if changes:
            raise ValueError(
                f"{folder} belongs to another run: {', '.join(changes)}. Resume with what it began with, or "
                "give this run's adapter and copies another folder."
            )
        return folder
    return None


def _checkpoints(place: Path | None) -> list[Path]:
    """Give the folders ``checkpoint-<step>`` of a place in order, but no copies like ``checkpoint-4 (1)``."""
    found = [] if place is None else place.glob("checkpoint-*")
    return sorted((path for path in found if path.name.removeprefix("checkpoint-").isdecimal()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _digests(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each file of a checkpoint by its name, the marker left out."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(_MARKER):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """Name the values of a dictionary of dictionaries ``outer.inner``, as JSON keeps them."""
    (flat,) = pd.json_normalize(json.loads(json.dumps(run)), max_level=1).to_dict("records")
    return flat
