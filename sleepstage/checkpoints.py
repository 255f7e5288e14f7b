"""Checkpoints that can be trusted: marked when they are whole, and resumed by the run they belong to only.

A machine that vanishes takes its disk along, so each can be copied to another place: a mounted Drive, say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

log = logging.getLogger(__name__)

_MARKER = "complete.json"
N_KEPT = 2  # the newest, and the one before it in case that is damaged


class MarkComplete(TrainerCallback):
    """Writes, last of all, which run a checkpoint belongs to and the SHA-256 of each of its files.

    Then copies the checkpoint to the folder ``copy_to``, if there is one, and keeps the newest two there.
    """

    def __init__(self, run: dict[str, Any], copy_to: str | Path | None = None):
        self.run = run
        self.copy_to = None if copy_to is None else Path(copy_to)

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # every process keeps its random state in a file of its own
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            content = {"run": self.run, "files": _digests(folder)}
            partial = folder / f"{_MARKER}.partial"
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(folder / _MARKER)
            if self.copy_to is not None:
                copy_checkpoint(folder, self.copy_to)


def copy_checkpoint(folder: Path, place: Path) -> None:
    """Copy a checkpoint beside others, whole or not at all, and drop all but the newest there."""
    unfinished = place / f".{folder.name}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a copy that was cut off
    shutil.copytree(folder, unfinished)
    shutil.rmtree(place / folder.name, ignore_errors=True)  # of a run that came so far before
    unfinished.replace(place / folder.name)
    for old in sorted(place.glob("checkpoint-*"), key=_step)[:-N_KEPT]:
        shutil.rmtree(old)


def newest_complete(places: list[Path], run: dict[str, Any]) -> Path | None:
    """Give the newest whole checkpoint in some folders, or None if there is none.

    One that was cut off or damaged is passed over, with a warning, for the one before it.

    Raises
    ------
    ValueError
        If it belongs to a run on other data, with another prompt, base model or other settings; what differs
        is named.
    """
    found = [folder for place in places for folder in place.glob("checkpoint-*")]
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
                f"{folder} belongs to another run: {changes}. Resume with what it began with, or start anew "
                "without resuming, which deletes it."
            )
        return folder
    return None


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
