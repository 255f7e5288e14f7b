"""Files: written whole or not at all, a file or a folder; what is read from them is checked."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

DATA_DIR: Path = Path(__file__).parent / "data"
"""The folder of the data that ship with the package."""


def check_exists(path: Path, what: str) -> None:
    """Raise a FileNotFoundError if there is no file; `what` says what it should hold, ``"a hypnogram"``."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.absolute()}, expected {what}. Check the path.")


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write beside the final place, then move: the file is there complete or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Its folder is made if it does not exist. A link stays, and the file that it leads to is written.
    write : callable
        Writes the content into the open file that it is given.

    Raises
    ------
    ValueError
        If something else than a file is there, such as a folder or ``/dev/null``.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file, so nothing was written there; name a file to write")
    partial = _unfinished(path)
    try:
        with partial.open("wb") as file:
            write(file)
        _reach_the_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    """Name a file or folder that is not complete yet; delete those that killed calls have left beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        number = left.name.removeprefix(f"{path.name}.partial")
        is_ours = number != left.name and number.isdecimal() and len(number) < 10
        if is_ours and not (int(number) != os.getpid() and psutil.pid_exists(int(number))):
            shutil.rmtree(left) if _is_folder(left) else left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.partial{os.getpid()}")


def _reach_the_disk(path: Path) -> None:
    """Wait until a file is on the disk: what it replaces is lost in a power cut otherwise."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, UTF-8 and indented, whole or not at all."""
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object, as all of ours do, or raise a ValueError that names the file."""
    check_exists(Path(path), "a JSON file")  # reading a pipe would wait for ever
    with naming(path, "a JSON file of names and values"):
        _check_size(Path(path).stat().st_size, LARGEST_JSON_BYTES)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content


@contextmanager
def naming(path: str | Path, expected: str) -> Iterator[None]:
    """Name a file in the error over its content, and turn what wrong content raises into a ValueError.

    Libraries raise errors of many kinds over a damaged file. Those pass that say nothing about its content.
    """
    try:
        yield
    except (MemoryError, NameError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        kind = "it lacks" if type(error) is KeyError else type(error).__name__
        reason = error if isinstance(error, ValueError) else f"{kind} {error}".strip()
        raise ValueError(f"{path} is not {expected}: {reason}") from error


LARGEST_BYTES = 500_000_000
"""What is read from a file may be as large in memory.

As features these are 1,600 nights, as a signal two weeks. A small compressed file can hold much more than a
computer's memory.
"""


LARGEST_JSON_BYTES = 5_000_000
"""A thousand times ours. What Python makes of a JSON file can take twenty times its bytes."""

LONGEST = 2_000_000
"""Of an array's axes: two thousand nights of epochs. Fifty million were 290 KB, and took 20 s and 2.5 GB."""

LONGEST_TEXT_BYTES = 4_000
"""A name of a thousand characters."""

MOST_VALUES = LARGEST_BYTES // 4
"""Of an array: features and signals become float32, even if they are stored in a byte each."""


def _check_size(n_bytes: int, largest: int) -> None:
    if n_bytes > largest:
        raise ValueError(f"it holds {n_bytes:,} bytes, expected at most {largest:,}")


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays as a compressed ``.npz``, whole or not at all."""
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` without pickle, or raise a ValueError that names the file.

    Sizes are checked before anything is unpacked (`LARGEST_BYTES`, `LONGEST`).
    """
    with naming(path, "a complete .npz file of plain arrays"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(sum(member.file_size for member in members), LARGEST_BYTES)
        return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}


_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        shape, _, dtype = _READ_HEADER[np.lib.format.read_magic(file)](file)
    if dtype.kind not in "biufSU":
        raise ValueError(f"{member.filename} is of type {dtype}, expected numbers or text")
    if math.prod(shape) * max(1, dtype.itemsize) > member.file_size:  # numpy would ask for all of it at once
        raise ValueError(f"{member.filename} is said to have the shape {shape} and is smaller")
    is_too_long = max(shape, default=0) > LONGEST or math.prod(shape) > MOST_VALUES
    if is_too_long or dtype.itemsize > LONGEST_TEXT_BYTES:
        said = f"{member.filename} has the shape {shape} and type {dtype}"
        raise ValueError(f"{said}, expected {LONGEST:,} rows and {MOST_VALUES:,} values at most")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return (
        np.char.decode(array) if dtype.kind == "S" else array
    )  # b"Anna" would be another person than "Anna"


def as_numbers(value: Any, name: str, path: Path) -> np.ndarray:
    """Give a value of a file as an array of numbers, or raise a ValueError that names both."""
    with naming(f"{path}: {name}", "an array of numbers"):
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"it is of type {array.dtype}")
        return array


def listed(value: Any, name: str) -> tuple[Any, ...]:
    """Give a list of a file as a tuple; refuse a text, which would be taken letter by letter."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}, expected a list")
    return tuple(value)


def check_subjects(subjects: Iterable[Any], name: str) -> None:
    """Refuse subjects that are no names and numbers."""
    if strange := [one for one in subjects if not isinstance(one, str | Real)]:
        raise ValueError(f"{name} hold {strange[0]!r}, expected names and numbers")


def check_number(value: Any, name: str, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Refuse a value of a file or a setting that is no finite number from ``low`` to ``high``.

    Examples
    --------
    >>> check_number(float("nan"), "temperature", 0.05, 20)
    Traceback (most recent call last):
    ValueError: temperature is nan, expected a number from 0.05 to 20
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and low <= value <= high):
        span = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}, expected a {'whole ' * whole}number {span}")


@dataclass(frozen=True)
class Contents:
    """What we write into a kind of folder, so that we know our own.

    Attributes
    ----------
    kind : str
        The folder's kind, for messages: "an adapter folder".
    is_ours : callable
        Says of a path inside the folder (``"checkpoint-4/optimizer.pt"``) whether we write such a file.
    mark : str
        A pattern for a file that nobody else writes there (``"prior.json"``).
    """

    kind: str
    is_ours: Callable[[str], object]
    mark: str


def check_replaceable(folder: str | Path, contents: Contents, keep: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that cannot be replaced without deleting something of the user's.

    Parameters
    ----------
    folder : str or Path
        It may be absent or empty.
    contents : Contents
    keep : iterable of str or Path
        Folders that are still needed, such as a base model's.

    Raises
    ------
    ValueError
        If the folder is a file, is or holds one of ``keep``, holds something that we do not write, or was not
        written by us. Nothing is deleted.
    """
    folder = Path(folder).resolve()
    for obstacle in _obstacles(folder, contents, keep):
        said = f"{folder} would be replaced, but {obstacle}. Nothing was deleted"
        raise ValueError(f"{said}. Name a folder that does not exist yet, or move what lies there.")


def _obstacles(folder: Path, contents: Contents, keep: Iterable[str | Path]) -> Iterator[str]:
    for kept in map(Path, keep):
        if kept.exists() and kept.resolve().is_relative_to(folder):
            yield f"{kept} lies there and is still needed"
    if folder.exists() and not folder.is_dir():
        yield "it is a file, expected a folder"
    path: Path | None = None
    for path in folder.rglob("*"):  # one by one: it may be the root of a disk
        name, holds_something = path.relative_to(folder).as_posix(), _is_folder(path) and any(path.iterdir())
        if not holds_something and not contents.is_ours(name):
            yield f"it holds {name!r}, which does not belong in {contents.kind}"
    if path and not any(folder.glob(contents.mark)):
        yield f"it holds no {contents.mark}, so it is not {contents.kind} that sleepstage wrote whole"


@contextmanager
def replacing(folder: str | Path, contents: Contents, keep: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Give an empty folder that takes the place of another when the block ends, whole or not at all.

    The old folder is moved aside, the new one takes its place, then the old one is deleted. A process that is
    killed between the two moves leaves the old one as ``<folder>-being-replaced``; the next call puts it
    back.

    Raises
    ------
    ValueError
        As :func:`check_replaceable` says, before the block and once more after it.
    """
    folder, keep = Path(folder).resolve(), list(keep)
    aside = folder.with_name(f"{folder.name}-being-replaced")
    for place in (folder, aside):
        check_replaceable(place, contents, keep)
    if aside.is_dir() and not folder.exists():
        aside.replace(folder)
    new = _unfinished(folder)
    new.mkdir()
    try:
        yield new
        for path in new.rglob("*"):
            if path.is_file():
                _reach_the_disk(path)
        check_replaceable(folder, contents, keep)  # writing may have taken long
        remove_ours(aside, contents)  # of a call that was killed at its very end
        if folder.exists():
            folder.replace(aside)
        try:
            new.replace(folder)
        except BaseException:
            if aside.exists():
                aside.replace(folder)
            raise
        remove_ours(aside, contents)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove_ours(folder: Path, contents: Contents) -> None:
    """Delete what we wrote into a folder, then the folder if it is empty; what is not ours stays."""
    inside = sorted(folder.rglob("*"), reverse=True)  # what is in a folder, before the folder
    ours = [path for path in inside if contents.is_ours(path.relative_to(folder).as_posix())]
    # The mark is the last file to be deleted: if we are killed before, the folder is still known as ours.
    for path in sorted(ours, key=lambda path: (_is_folder(path), path.match(contents.mark))):
        if not _is_folder(path):
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
