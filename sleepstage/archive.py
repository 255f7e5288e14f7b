"""Archives: fetched whole or not at all, checked before they are trusted, unpacked where they belong."""

from __future__ import annotations

import inspect
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import gdown
from gdown import exceptions as gdown_exceptions

UNPACKED_LIMIT_BYTES = 2_000_000_000
"""More than this is not unpacked: the contest data are 0.14 GB, and a bomb is more."""

_ZIP_MAGIC = b"PK\x03\x04"
# gdown 6 can; gdown 5 waits for a silent server without end.
_PATIENCE = {"timeout": 60, "retries": 3}
# What gdown 5 and 6 raise; requests' own errors are OSErrors.
_GDOWN_ERRORS = tuple(
    error
    for error in vars(gdown_exceptions).values()
    if inspect.isclass(error) and issubclass(error, Exception)
)


def fetch(archive: Path, how_else: str, **source: str) -> None:
    """Download a file with gdown, going on with what an interrupted download left.

    Parameters
    ----------
    archive : pathlib.Path
        Where it belongs; nothing is there until all of it has come.
    how_else : str
        What a reader can do by hand, for the error messages.
    **source
        ``id`` of a file on Google Drive, or ``url``.

    Raises
    ------
    RuntimeError
        If the download fails, with gdown's own words.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    known = inspect.signature(gdown.download).parameters
    patience = {name: value for name, value in _PATIENCE.items() if name in known}
    try:
        came = gdown.download(output=str(archive), resume=True, **patience, **source)
    except (*_GDOWN_ERRORS, OSError, RuntimeError) as error:
        raise RuntimeError(f"the download of {archive.name} failed: {error}\n{how_else}") from error
    if came is None or not archive.is_file():  # gdown 5 reports failure so
        raise RuntimeError(f"the download of {archive.name} failed; gdown has said why.\n{how_else}")


def check_zip(archive: Path, how_else: str, n_members: int, is_member: Callable[[str], bool]) -> None:
    """Refuse a file that is not the archive that it should be.

    Raises
    ------
    ValueError
        If it is no zip file (a web page that says that too many people fetched it, say), is cut off or
        damaged, or does not hold ``n_members`` files of the expected kind.
    """
    with archive.open("rb") as file:
        beginning = file.read(512)
    if not beginning.startswith(_ZIP_MAGIC):
        is_page = b"<html" in beginning.lower() or b"<!doctype" in beginning.lower()
        what = (
            "a web page, probably about too many downloads" if is_page else f"begins with {beginning[:16]!r}"
        )
        raise ValueError(f"{archive} is no zip file: {what}. Delete it.\n{how_else}")
    try:
        with zipfile.ZipFile(archive) as content:
            damaged = content.testzip()
            found = sum(map(is_member, content.namelist()))
    # zipfile's NotImplementedError: a compression that it does not know
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"{archive} ({archive.stat().st_size:,} bytes) is cut off or damaged ({error}). Delete it.\n"
            f"{how_else}"
        ) from error
    if damaged is not None:
        raise ValueError(
            f"{archive} is damaged: {damaged} does not have its checksum. Delete it.\n{how_else}"
        )
    if found != n_members:
        raise ValueError(
            f"{archive} holds {found:,} of the expected {n_members:,} files; it is another archive, or an "
            f"incomplete one.\n{how_else}"
        )


def unpack(archive: Path, folder: Path, is_member: Callable[[str], bool]) -> None:
    """Unpack an archive's files of the expected kind into a folder that appears when it is complete.

    Raises
    ------
    ValueError
        If the folder exists, a member would leave it (an absolute path, ``..``, a link), or everything
        together is more than :data:`UNPACKED_LIMIT_BYTES`. Nothing is written then.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already, so {archive} stays packed. Move the folder away first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:
            _check_stays_inside(member, archive)
        total = sum(member.file_size for member in members)
        if total > UNPACKED_LIMIT_BYTES:
            raise ValueError(
                f"{archive} would unpack to {total:,} bytes, expected at most {UNPACKED_LIMIT_BYTES:,}; "
                "it is not what it should be and stays packed"
            )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            for member in members:
                if is_member(member.filename):
                    content.extract(member, scratch)
            (Path(scratch) / folder.name).replace(folder)


def _check_stays_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if absolute or ".." in parts:
        raise ValueError(f"{archive} holds {name!r}, which would be written outside its folder; not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{archive} holds the link {name!r}, which could lead anywhere; not unpacked")
