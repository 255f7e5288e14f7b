"""Pickles of arrays are read whatever wrote them; one that would run code is refused before it does."""

import builtins
import functools
import os
import pickle
import re

import numpy as np
import pytest

from sleepstage.dataset import load_dictionary

SIGNALS = np.arange(6000.0).reshape(2, 3000)


def written(tmp_path, content, protocol=4):
    path = tmp_path / "night.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def refilled(tmp_path, raw):
    night = load_dictionary(written(tmp_path, raw))
    np.testing.assert_array_equal(night.eeg_uv, SIGNALS)
    return night.stages.tolist() == [2, 4]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path, protocol):
    content = {"EEG_signals": SIGNALS, "labels": np.array([2, 4], np.int8)}
    assert refilled(tmp_path, pickle.dumps(content, protocol))


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_what_numpy_1_and_numpy_2_wrote_is_read(tmp_path, core):
    raw = pickle.dumps({"EEG_signals": SIGNALS, "labels": [np.int8(2), np.int8(4)]}, protocol=3)
    assert refilled(tmp_path, re.sub(rb"cnumpy\._?core", b"c" + core, raw))


@pytest.mark.parametrize(
    "signals",
    [
        np.asfortranarray(SIGNALS),
        SIGNALS.astype(">f4"),
        SIGNALS.astype(np.int16),
        SIGNALS[:, ::-1],
        list(SIGNALS),
        [list(row) for row in SIGNALS],  # numpy scalars
        SIGNALS.tolist(),
    ],
    ids=["fortran", "big-endian", "int16", "reversed", "rows", "scalars", "lists"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_any_layout_and_plain_lists_are_read(tmp_path, signals, protocol):
    path = written(tmp_path, {"EEG_signals": signals, "labels": [0, 1]}, protocol)
    np.testing.assert_array_equal(load_dictionary(path).eeg_uv, np.asarray(signals, np.float32))


class Calls:
    """Unpickled as the result of a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dangers(marker):
    """Pickles that make the file `marker` when a trusting unpickler reads them."""
    shell, python = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    system = Calls(os.system, shell)
    objects = np.empty(1, dtype=object)
    objects[0] = system
    return {
        "os.system": system,
        "eval": Calls(builtins.eval, python),
        "exec": Calls(builtins.exec, python),
        "functools.partial": Calls(functools.partial(os.system, shell)),
        "partial of open": Calls(functools.partial, open, str(marker), "w"),
        "in a list": [[0.0, [system]], 1],
        "in a set of tuples": {("a", frozenset([system]))},
        "in an object array": objects,
        "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "numpy's own loader": Calls(np.load, str(marker)),
        "an array's method": Calls(np.ndarray.tofile, SIGNALS, str(marker)),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", list(dangers("")))
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, name, protocol):
    marker = tmp_path / "marker"
    content = {"EEG_signals": SIGNALS, "labels": [0, 1], "more": dangers(marker)[name]}
    path = written(tmp_path, content, protocol)
    with pytest.raises(ValueError, match="the pickle (asks for|holds an array of object)"):
        load_dictionary(path)
    assert not marker.exists()


def test_the_dangers_of_these_tests_are_real(tmp_path):
    for name in ("os.system", "eval", "functools.partial", "in a list", "in an object array"):
        marker = tmp_path / name.replace(" ", "-")
        pickle.loads(pickle.dumps(dangers(marker)[name]))
        assert marker.exists(), name


@pytest.mark.parametrize("protocol", [2, 5])
def test_damaged_pickles_are_refused_and_never_crash(tmp_path, protocol):
    raw = pickle.dumps({"EEG_signals": np.zeros((2, 3)), "labels": np.array([0, 1])}, protocol)
    for at in range(0, len(raw), 3):
        for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 0x21]) + raw[at + 1 :]):
            with pytest.raises(ValueError):  # undamaged, the shape would still be wrong
                load_dictionary(written(tmp_path, damaged))


def test_a_number_type_that_claims_to_hold_objects_does_no_harm(tmp_path):
    """numpy believes the flags in a dtype's state: 63 on float64 makes it free numbers as if objects."""
    raw = pickle.dumps({"EEG_signals": SIGNALS, "labels": np.array([0, 1])}, protocol=2)
    flags = raw.index(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t") + 11
    path = written(tmp_path, raw[:flags] + b"\x3f" + raw[flags + 1 :])
    np.testing.assert_array_equal(load_dictionary(path).eeg_uv, SIGNALS)
