"""Checkpoints that can be trusted: marked when they are whole, and resumed by the run they belong to only.

When a Colab machine is taken away its disk is lost, so each checkpoint can be copied to another disk, such as
a mounted Drive.
"""

import hashlib
import json
import logging
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from accelerate import PartialState
from transformers import TrainerCallback

from ..files import Contents, check_replaceable, read_json, remove_ours, replacing, write_json

log = logging.getLogger(__name__)

_MARKER = "complete.json"

MODEL_FILE = (
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt"
    r"|tokenizer\.model|chat_template\.jinja|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
)
"""A pattern for what transformers writes for a whole model and its tokenizer."""

# What transformers and peft write into a checkpoint, FSDP's included.
_CHECKPOINT_FILE = re.compile(
    rf"{MODEL_FILE}|adapter_(config\.json|model\.safetensors)|README\.md|(optimizer|scheduler|scaler)\.pt"
    r"|rng_state(_\d+)?\.pth|trainer_state\.json|training_args\.bin|complete\.json(\.partial\d*)?"
    r"|(pytorch_model_fsdp|optimizer)_\d+(/[^/]+)?"
)

CHECKPOINT = Contents("a checkpoint", _CHECKPOINT_FILE.fullmatch, _MARKER)

CHECKPOINTS = Contents(
    "a folder of checkpoints",
    re.compile(rf"checkpoint-\d+(/({_CHECKPOINT_FILE.pattern}))?").fullmatch,
    f"checkpoint-*/{_MARKER}",
)


class MarkComplete(TrainerCallback):
    """Writes, last of all, which run a checkpoint belongs to and the SHA-256 of each of its files.

    Then copies the checkpoint to the run's own folder in ``copy_to``, if there is one. The newest two are
    kept in both. If copying fails, a warning says so and the training goes on.
    """

    def __init__(self, run: dict[str, Any], copy_to: Path | None):
        self.run, self.copy_to = run, copy_to
        if copy_to is not None:
            copy_to.mkdir(parents=True, exist_ok=True)

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # every process keeps its random state in a file of its own
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / _MARKER, {"run": self.run, "files": _digests(folder)})
            _keep_newest(folder.parent)
            if self.copy_to is not None:
                try:
                    _copy(folder, self.copy_to, self.run)
                except (OSError, ValueError) as error:  # a full drive; a user's file in the way
                    log.warning("%s was not copied (%s). The training goes on.", folder.name, error)


def _copy(folder: Path, copy_to: Path, run: dict[str, Any]) -> None:
    if not copy_to.is_dir():  # making it anew would fill another disk
        raise FileNotFoundError(f"{copy_to} is gone")
    copies = copies_of(run, copy_to)
    with replacing(copies / folder.name, CHECKPOINT) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True, copy_function=shutil.copyfile)
    _keep_newest(copies)


def copies_of(run: dict[str, Any], copy_to: Path) -> Path:
    """Give the folder for a run's copies: other runs' beside it stay as they are."""
    identity = hashlib.sha256(json.dumps(_flat(run), sort_keys=True).encode()).hexdigest()
    return copy_to / f"run-{identity[:12]}"


def check_places(work: Path, copy_to: Path | None, resume: bool, needed: Iterable[str | Path]) -> None:
    """Refuse, before a training begins, folders in which its checkpoints would be in the way.

    Parameters
    ----------
    work : Path
        The folder for checkpoints; without ``resume``, what an interrupted run left there is deleted.
    copy_to : Path or None
        The folder for copies of them; other files may lie there as well.
    resume : bool
    needed : iterable of str or Path
        Folders that must hold nothing else, such as the adapter's.

    Raises
    ------
    ValueError
        If there is something that is not a checkpoint of ours, or copies would be put into another folder of
        the training.
    """
    if not resume:
        check_replaceable(work, CHECKPOINTS)
    for place in [work, *needed]:
        if copy_to and copy_to.resolve().is_relative_to(Path(place).resolve()):
            raise ValueError(f"{copy_to} lies in {place}; name another folder for copies of checkpoints")


@contextmanager
def held(work: Path) -> Iterator[None]:
    """Hold a folder of checkpoints: two trainings would delete each other's.

    The lock is the file ``<work>.lock``, which says who holds it. A killed training's is taken over.

    Raises
    ------
    ValueError
        If another training holds it.
    """
    lock = work.with_name(f"{work.name}.lock")
    me = psutil.Process()
    mine = {"process": me.pid, "began": _began_s(me), "computer": platform.node()}
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        holder = read_json(lock)
    except (FileNotFoundError, ValueError):  # none, or of a training that was killed while it wrote
        holder = {}
    here = holder.get("computer") == mine["computer"]
    if holder and not (here and not _runs(holder)):
        raise ValueError(
            f"process {holder.get('process')} on {holder.get('computer')} trains into {work} since "
            f"{time.ctime(lock.stat().st_mtime)}. Wait for it, or name another folder. If it is over, delete "
            f"{lock}."
        )
    write_json(lock, mine)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _runs(holder: dict[str, Any]) -> bool:
    """Say whether the process of a lock still runs; its number may be another one's by now."""
    try:
        return abs(_began_s(psutil.Process(holder.get("process"))) - holder["began"]) < 5
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _began_s(process: psutil.Process) -> float:
    """Seconds from the computer's start to a process's: the clock may be set in between."""
    return process.create_time() - psutil.boot_time()


def _keep_newest(place: Path) -> None:
    """Delete all whole checkpoints but two: the newest, and the one before it in case that is damaged.

    The newest is the one with the highest number, since a clock may have been set back.
    """
    for old in [folder for folder in _checkpoints(place) if (folder / _MARKER).is_file()][:-2]:
        remove_ours(old, CHECKPOINT)


def newest_complete(work: Path, copy_to: Path | None, run: dict[str, Any]) -> Path | None:
    """Give a run's newest whole checkpoint, in its folder or among the copies, or None if there is none.

    A checkpoint that was cut off or damaged is passed over with a warning, and the one before it is taken.

    Raises
    ------
    ValueError
        If the one in ``work`` belongs to a run on other data, with another prompt, base model or other
        settings; what differs is named.
    """
    found = _checkpoints(work) + (_checkpoints(copies_of(run, copy_to)) if copy_to else [])
    for folder in sorted(found, key=_step, reverse=True):  # of two equal ones, the first place's
        content = _content(folder)
        if _digests(folder) != content["files"]:
            log.warning("%s is damaged, or was cut off while it was written; it is passed over", folder)
        elif changes := _changes(content["run"], run):
            said = f"{folder} belongs to another run: {changes}"
            raise ValueError(f"{said}. Resume with what it began with, or name another adapter's folder.")
        else:
            return folder
    if others := sorted(copy_to.glob(f"run-*/checkpoint-*/{_MARKER}")) if copy_to else []:
        changes = _changes(_content(others[-1].parent)["run"], run)
        log.warning("this run begins anew: %s is a copy of another run: %s", others[-1].parent, changes)
    return None


def _content(folder: Path) -> dict[str, Any]:
    """Read the marker of a checkpoint: which run it belongs to, and the digests of its files."""
    try:
        content = read_json(folder / _MARKER)
    except (FileNotFoundError, ValueError):
        content = {}
    run, files = content.get("run"), content.get("files")
    return {"run": run, "files": files} if isinstance(run, dict) and run else {"run": {}, "files": None}


def _changes(then: dict[str, Any], run: dict[str, Any]) -> str:
    before, now = _flat(then), _flat(run)
    return ", ".join(
        f"{name} ({before.get(name)} then, {now.get(name)} now)"
        for name in sorted(before | now)
        if before.get(name) != now.get(name)
    )


def _checkpoints(place: Path) -> list[Path]:
    """Give the folders ``checkpoint-<step>`` of a place in order, but no copies like ``checkpoint-4 (1)``."""
    found = (path for path in place.glob("checkpoint-*") if path.is_dir())
    return sorted((path for path in found if path.name.removeprefix("checkpoint-").isdecimal()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _digests(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each file of a checkpoint by its name, the marker left out."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(_MARKER):
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """Name the values of a dictionary of dictionaries ``outer.inner``, as JSON keeps them."""
    (flat,) = pd.json_normalize(json.loads(json.dumps(run)), max_level=1).to_dict("records")
    return flat
