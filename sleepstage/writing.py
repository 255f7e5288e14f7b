"""Folders written whole or not at all, in the place of nothing but what was written here before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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
        A pattern for a file that nobody else writes there (``"train.json"``).
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
        Folders that are still needed: a base model's, say.

    Raises
    ------
    ValueError
        If the folder is a file, is or holds one of ``keep``, holds something that we do not write, or was not
        written by us. Nothing is deleted.
    """
    folder = Path(folder).resolve()
    another = "Nothing was deleted. Name a folder that does not exist yet"
    for kept in map(Path, keep):
        if kept.exists() and (kept.resolve() == folder or folder in kept.resolve().parents):
            raise ValueError(
                f"{folder} would be replaced, but {kept} lies there and is still needed. {another}."
            )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder to write. {another}.")
    foreign = [inner for inner, path in _inside(folder) if _is_foreign(inner, path, contents)]
    if foreign:
        raise ValueError(
            f"{folder} would be replaced, but it holds {foreign[0]!r}, which does not belong in "
            f"{contents.kind}. {another}, or move that file to another place."
        )
    if any(folder.iterdir()) and not any(folder.glob(contents.mark)):
        raise ValueError(
            f"{folder} would be replaced, but it holds no {contents.mark}, so it is not {contents.kind} "
            f"that sleepstage wrote whole. {another}, or delete it yourself."
        )


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
    new = folder.with_name(f".{folder.name}-unfinished")
    aside = folder.with_name(f"{folder.name}-being-replaced")
    if aside.is_dir() and not folder.exists():
        aside.replace(folder)
    for place in (folder, aside):
        check_replaceable(place, contents, keep)
    shutil.rmtree(new, ignore_errors=True)  # of a call that was killed; nobody else makes such a name
    new.mkdir(parents=True)
    try:
        yield new
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
    ours = [path for inner, path in _inside(folder) if contents.is_ours(inner)]
    files = [path for path in ours if not _is_folder(path)]
    for path in sorted(files, key=lambda file: file.match(contents.mark)):  # the mark last: a kill may come
        path.unlink()
    for path in reversed(ours):  # what is in a folder, before the folder
        if _is_folder(path) and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _inside(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*"))]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_foreign(inner: str, path: Path, contents: Contents) -> bool:
    holds_more = _is_folder(path) and any(path.iterdir())  # then what it holds is asked about
    return not holds_more and not contents.is_ours(inner)
