"""Checkpoints that can be trusted: marked when they are whole, and resumed by the run they belong to only.

A machine that vanishes takes its disk along, so each can be copied to another place: a mounted Drive, say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from ..files import Contents, check_replaceable, remove_ours, replacing, write_json

log = logging.getLogger(__name__)


_MARKER = "complete.json"


N_KEPT = 2  # the newest, and the one before it in case that is damaged


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

    def __init__(self, run: dict[str, Any], copy_to: str | Path | None = None):
        self.run = run
        self.copy_to = None if copy_to is None else Path(copy_to)

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # every process keeps its random state in a file of its own
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / _MARKER, {"run": self.run, "files": _digests(folder)})
            _keep_newest(folder.parent)
            if self.copy_to is not None:
                copy_checkpoint(folder, self.copy_to)


def copy_checkpoint(folder: Path, place: Path) -> None:
    """Copy a checkpoint beside others, whole or not at all, and drop all but the newest there."""
    with replacing(place / folder.name, CHECKPOINT) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    _keep_newest(place)


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
    for folder in _checkpoints(copy_to) if copy_to is not None else []:
        check_replaceable(folder, CHECKPOINT)
        if not resume:
            raise ValueError(
                f"{folder} is a copy from an earlier run. Go on from there (resume=True, --resume), or name "
                "another folder for this run's copies."
            )


def _keep_newest(place: Path) -> None:
    """Delete all whole checkpoints but the newest; by number, since clocks are set back now and then."""
    for old in [folder for folder in _checkpoints(place) if (folder / _MARKER).is_file()][:-N_KEPT]:
        remove_ours(old, CHECKPOINT)


def newest_complete(places: list[Path], run: dict[str, Any]) -> Path | None:
    """Give the newest whole checkpoint in some folders, or None if there is none.

    One that was cut off or damaged is passed over, with a warning, for the one before it.

    Raises
    ------
    ValueError
        If it belongs to a run on other data, with another prompt, base model or other settings; what differs
        is named.
    """
    found = [folder for place in places for folder in _checkpoints(place)]
    for folder in sorted(found, key=_step, reverse=True):  # of two equal ones, the first place's
        try:
            content = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            log.warning("%s was cut off while it was written; it is passed over", folder)
            continue
        if _digests(folder) != content["files"]:
            log.warning("%s is damaged; it is passed over", folder)
            continue
        before, now = _flat(content["run"]), _flat(run)
        differing = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        if differing:
            changes = ", ".join(
                f"{name} ({before.get(name)} then, {now.get(name)} now)" for name in differing
            )
            raise ValueError(
                f"{folder} belongs to another run: {changes}. Resume with what it began with, or give "
                "this run's adapter and copies another folder."
            )
        return folder
    return None


def _checkpoints(place: Path) -> list[Path]:
    """Give the folders ``checkpoint-<step>`` in order; a Drive's ``checkpoint-4 (1)`` is none."""
    named = [path for path in place.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(named, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(_MARKER):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """A dictionary of dictionaries as ``outer.inner`` names, with values as JSON keeps them."""
    flat = {}
    for name, value in json.loads(json.dumps(run)).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        else:
            flat[name] = value
    return flat
