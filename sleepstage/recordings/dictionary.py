"""Nights as a dictionary of two arrays, written and read; a stranger's pickle runs no code.

A pickle can ask Python to run code; here this code is not run. Even numpy's own constructors are not called:
they accept any state from the file, and a false state can make them write to wrong places in memory (for
example, an array of numbers that is marked as an array of Python objects). And what is read is never larger
than the file: nine bytes can ask pickle in C for gigabytes, and a list that holds another one twice, which
holds another one twice and so on, grows when it becomes an array.
"""

import copyreg
import mmap
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import as_numbers, check_exists, check_number, naming, read_npz, write_npz, write_whole
from ..stages import codes_of_numbers
from .edf import MAX_EVENTS, MAX_SAMPLES
from .hypnogram import note_on_numbers
from .recording import Recording

ABOUT = ("sfreq_hz", "subject", "recording", "channel", "start")


def save_dictionary(recording: Recording, path: str | Path) -> Path:
    """Write a night as ``{"EEG_signals": (n_epochs, n_samples) in µV, "labels": (n_epochs,)}``.

    ``.npz`` is recommended: it is read without pickle, and keeps the sampling rate, the start and the
    names beside the two arrays. ``.pkl`` holds the two arrays only, for compatibility.

    Raises
    ------
    ValueError
        If the file's ending is neither, or the night has no stages.
    """
    path = Path(path)
    if recording.stages is None:
        raise ValueError(f"{recording.recording} has no stages; the dictionary format needs labels")
    content = {"EEG_signals": recording.eeg_uv, "labels": recording.stages}
    if path.suffix == ".npz":
        about = {name: getattr(recording, name) for name in ABOUT}
        about["start"] = recording.start and recording.start.isoformat()
        write_npz(path, content | {name: value for name, value in about.items() if value is not None})
    elif path.suffix == ".pkl":
        write_whole(path, lambda file: pickle.dump(content, file))
    else:
        raise ValueError(f"{path.name} ends in {path.suffix!r}, expected .npz (recommended) or .pkl")
    return path


def load_dictionary(path: str | Path, convention: str = "aasm", **about: Any) -> Recording:
    """Read a night from the dictionary format, ``.npz`` or ``.pkl``.

    A pickle is read by an unpickler that knows numpy arrays and plain containers only, so a file from
    a stranger cannot run code.

    Parameters
    ----------
    path : str or Path
    convention : str
        How the labels stand for stages: ``"aasm"`` (4 is REM), or ``"rk"``, ``"mesa"`` or ``"isruc"`` (4 is
        S4, 5 is REM).
    **about
        What the file does not say: ``sfreq_hz`` (100 unless given), ``subject`` and ``recording`` (the
        file's name unless given), ``channel``, ``start``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is neither, lacks one of these two arrays, or :class:`sleepstage.Recording` refuses them.
    """
    path = Path(path)
    check_exists(path, "a night as .npz or .pkl")
    content = read_npz(path) if path.suffix == ".npz" else load_array_pickle(path)
    if not isinstance(content, dict) or not {"EEG_signals", "labels"} <= set(content):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'{path} holds {found}, expected {{"EEG_signals": array, "labels": array}}')
    signals, labels = (as_numbers(content[name], name, path) for name in ("EEG_signals", "labels"))
    check_number(signals.size, f"{path}: the number of samples", 1, MAX_SAMPLES)
    check_number(labels.size, f"{path}: the number of labels", 1, MAX_EVENTS)
    stages = codes_of_numbers(labels, convention, f"{path}: labels")
    known: dict[str, Any] = {"sfreq_hz": 100.0, "channel": "unknown"}
    known |= dict.fromkeys(("subject", "recording"), path.stem)
    kinds: dict[str, Callable[[Any], Any]] = {"sfreq_hz": float, "start": datetime.fromisoformat}
    for name in ABOUT:
        with naming(f"{path}: {name}", "one value of its kind"):
            if name in content:
                known[name] = kinds.get(name, lambda value: value)(np.asarray(content[name]).item())
    if "channel" not in content:  # we have not written it ourselves
        known["notes"] = (note_on_numbers(labels, np.ones(len(labels)), convention),)
    return Recording(eeg_uv=signals, stages=stages, **(known | about))


def load_array_pickle(path: Path) -> Any:
    """Read a pickle (protocol 2 or later) of numpy arrays, numbers, text and plain containers.

    An array comes as an object that :func:`numpy.asarray` turns into one.

    Raises
    ------
    ValueError
        If the pickle asks for anything else, or is damaged.
    """
    copyreg.clear_extension_cache()  # what stands there is used without asking find_class
    with (
        naming(path, "a readable pickle of arrays"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        loaded = _ArrayUnpickler(content).load()
        _check_size(loaded, len(content))
        return loaded


def _check_size(loaded: Any, n_bytes: int) -> None:
    """Refuse what holds more values than the file has bytes: the same ones over and over."""
    n_values, waiting = 0, [loaded]
    while waiting:
        value = waiting.pop()
        n_values += value.array.size if isinstance(value, _StoredArray) else 1
        if n_values > n_bytes:
            raise ValueError(f"it holds more values than its {n_bytes} bytes")
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value


class _StoredDtype:
    """Stands for a dtype while a pickle is read: its code and byte order, and nothing else."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else "O")
        if self.dtype.kind not in "biufSU":
            raise ValueError(f"the pickle holds an array of {self.dtype}, expected numbers or text")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, data: bytes, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
        return np.frombuffer(data, self.dtype).reshape(shape, order=order).copy()


class _StoredArray:
    """Stands for an array while a pickle is read, since pickle makes an array first and fills it later."""

    array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, stored, is_fortran, data = state
        self.array = stored.array(data, shape, "F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _StoredArray,
    ("numpy", "dtype"): _StoredDtype,
    # How protocols below 3 write bytes; pickle itself uses no other encoding.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _STAND_INS |= {
        (f"{_core}.multiarray", "_reconstruct"): lambda *_: _StoredArray(),
        (f"{_core}.multiarray", "scalar"): lambda stored, data: stored.array(data, ())[()],
        # Of the layout, shape and order.
        (f"{_core}.numeric", "_frombuffer"): lambda data, stored, *layout: stored.array(data, *layout[:2]),
    }


def _load_bytearray8(unpickler: Any) -> None:
    unpickler.append(bytearray(unpickler.read(int.from_bytes(unpickler.read(8), "little"))))


def _with_plain_keys(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """To hash a tuple that holds a tuple twice, which holds another twice and so on, would take for ever."""

    def load(unpickler: Any) -> None:
        if not all(isinstance(key, str | int | float) for key in unpickler.stack[keys]):
            raise ValueError("the pickle asks for a key or a set that is no text")
        pickle._Unpickler.dispatch[opcode[0]](unpickler)

    return load


_EVERY, _SECOND, _LAST_BUT_ONE = slice(None), slice(None, None, 2), slice(-2, -1)


class _ArrayUnpickler(pickle._Unpickler):
    """Replaces the few names that it knows by our own objects, and refuses others before importing them.

    It is pickle's Python code, which asks for no more memory than the file has bytes, changed where it does.
    """

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BYTEARRAY8[0]: _load_bytearray8,
        pickle.SETITEM[0]: _with_plain_keys(pickle.SETITEM, _LAST_BUT_ONE),
        pickle.SETITEMS[0]: _with_plain_keys(pickle.SETITEMS, _SECOND),
        pickle.DICT[0]: _with_plain_keys(pickle.DICT, _SECOND),
        pickle.ADDITEMS[0]: _with_plain_keys(pickle.ADDITEMS, _EVERY),
        pickle.FROZENSET[0]: _with_plain_keys(pickle.FROZENSET, _EVERY),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Give our replacement inside a new function, because a pickle can set attributes of what it gets."""
        if (module, name) not in _STAND_INS:
            said = f"the pickle asks for {module}.{name}; only numpy arrays and plain containers are read"
            raise ValueError(f"{said}. Do not trust this file; ask for an .npz instead.")
        return lambda *arguments: _STAND_INS[module, name](*arguments)
