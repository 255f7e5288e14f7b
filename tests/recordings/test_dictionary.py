"""Nights as dictionaries: what comes back, and pickles that would run code, refused before they do."""

import builtins
import copyreg
import functools
import importlib
import operator
import os
import pickle
import re
import subprocess
import timeit
import tracemalloc
from datetime import datetime

import numpy as np
import pytest

from sleepstage.recordings import dictionary
from sleepstage.recordings.dictionary import load_dictionary, save_dictionary
from sleepstage.recordings.recording import Recording

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


def short_night(**changes):
    about = {"subject": 3, "recording": "SC4031E0", "channel": "EEG Fpz-Cz"}
    eeg_uv = np.random.default_rng(0).normal(size=(4, 3000)).astype(np.float32)
    start = datetime(1989, 4, 24, 16, 13)
    fields = {"eeg_uv": eeg_uv, "sfreq_hz": 100.0, "stages": [0, 2, 4, -1], "start": start, **about}
    return Recording(**fields | changes)


def test_npz_keeps_the_whole_night(tmp_path):
    night = short_night()
    loaded = load_dictionary(save_dictionary(night, tmp_path / "night.npz"))
    for name in ("eeg_uv", "stages"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(night, name))
    for name in ("sfreq_hz", "subject", "recording", "channel", "start"):
        assert getattr(loaded, name) == getattr(night, name)
    with np.load(tmp_path / "night.npz", allow_pickle=False) as file:
        assert {"EEG_signals", "labels"} < set(file.files)


def test_pkl_holds_the_two_arrays_and_what_it_lacks_can_be_said(tmp_path):
    night = short_night(subject="x", start=None)
    path = save_dictionary(night, tmp_path / "someone.pkl")
    content = pickle.loads(path.read_bytes())
    assert set(content) == {"EEG_signals", "labels"}
    np.testing.assert_array_equal(content["EEG_signals"], night.eeg_uv)
    loaded = load_dictionary(path, subject=3, channel="EEG Fpz-Cz")
    np.testing.assert_array_equal(loaded.eeg_uv, night.eeg_uv)
    assert loaded.stages.tolist() == [0, 2, 4, -1]
    assert (loaded.subject, loaded.recording, loaded.channel) == (3, "someone", "EEG Fpz-Cz")
    assert load_dictionary(path).sfreq_hz == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"EEG_signals": np.zeros((2, 3000))}, r"holds \['EEG_signals'\], expected"),
        ([np.zeros((2, 3000)), np.zeros(2)], "holds list, expected"),
        (
            {"EEG_signals": np.zeros((2, 3000)), "labels": [0, 5]},
            "labels: 5 is no known stage .*By convention=.rk",
        ),
        ({"EEG_signals": np.zeros((2, 3000)), "labels": [0, np.nan]}, "labels: nan is no known stage"),
        (
            {"EEG_signals": np.zeros((2, 3000)), "labels": ["W", "N1"]},
            "labels is not an array of numbers: it is of type <U2",
        ),
        ({"EEG_signals": np.zeros((2, 3000)), "labels": [0, 1, 2]}, r"shape \(3,\)"),
        ({"EEG_signals": np.zeros((2, 2000)), "labels": [0, 1]}, r"\(2, 2000\), expected .*3000"),
        ({"EEG_signals": {"a": 1}, "labels": [0, 1]}, "EEG_signals is not an array of numbers"),
        ({"EEG_signals": np.zeros((1, 3000)), "labels": [0] * 100_001}, "number of labels is 100001"),
        ({"EEG_signals": np.zeros((2, 0)), "labels": [0, 1]}, "number of samples is 0"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused(tmp_path, content, message):
    path = tmp_path / "night.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_dictionary(path)


def test_other_endings_missing_stages_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'.csv', expected .npz"):
        save_dictionary(short_night(), tmp_path / "night.csv")
    with pytest.raises(ValueError, match="SC4031E0 has no stages"):
        save_dictionary(short_night(stages=None), tmp_path / "night.npz")
    for name in ("night.npz", "night.pkl"):
        with pytest.raises(FileNotFoundError, match=name):
            load_dictionary(tmp_path / name)


@pytest.mark.parametrize(
    ("factor", "cause"),
    [(1e-6, "volts were stored as if they were microvolts"), (1e3, "median peak-to-peak.*factor 1e-3")],
)
def test_a_dictionary_in_another_unit_is_refused(tmp_path, factor, cause):
    eeg_uv = short_night().eeg_uv
    loud = eeg_uv / np.ptp(eeg_uv) * 100 * factor
    np.savez(tmp_path / "night.npz", EEG_signals=loud, labels=[0, 2, 4, -1])
    with pytest.raises(ValueError, match=cause):
        load_dictionary(tmp_path / "night.npz")


# Pickles that would run code


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
        "numpy's file in memory": Calls(np.memmap, str(marker), np.uint8, "w+", 0, (4,)),
        "a process": Calls(subprocess.Popen, ["touch", str(marker)]),
        "a module run": Calls(importlib.import_module, "antigravity"),
        "a pickle in a pickle": Calls(pickle.loads, pickle.dumps(system)),
        "a timer": Calls(timeit.timeit, python, "pass", timeit.default_timer, 1),
        "as a dictionary's key": {Calls(operator.methodcaller, "system", shell): 0},
    }


def opcodes(marker):
    """Pickles written by hand, as no pickler would."""
    shell = f"touch {marker}"
    unicode = b"\x8c" + bytes([len(shell)]) + shell.encode()
    array5 = pickle.dumps(np.zeros(2), 5)[:-1]
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n"
    return {
        "text protocol, posix.system": f"cposix\nsystem\n(S'{shell}'\ntR.".encode(),
        "an instance": f"(S'{shell}'\niposix\nsystem\n.".encode(),
        "an object": f"(cposix\nsystem\nS'{shell}'\no.".encode(),
        "names from the stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + unicode + b"\x85R.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93" + unicode + b"\x85R.",
        "a dotted way out": b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.sys\x93.",
        "names of no text": b"\x80\x04K\x01K\x02\x93.",
        "an extension code": b"\x80\x02\x82\xf0" + f"(S'{shell}'\ntR.".encode(),
        "a large extension code": b"\x80\x02\x84\xf1\xf0\x00\x00.",
        "a persistent id": f"P{shell}\n.".encode(),
        "a binary persistent id": unicode + b"Q.",
        "a new object": b"\x80\x02cposix\nsystem\n(tU\x01x\x81.",
        "attributes of a stand-in": reconstruct + b"N}S'__wrapped__'\nK\x01s\x86b.",
        "defaults of a stand-in": b"cnumpy.core.multiarray\nscalar\nN}S'__defaults__'\nNs\x86b.",
        "the state of a class": b"cnumpy\ndtype\n(dS'dtype'\nK\x01sb.",
        "the state of a real array": array5 + b"(K\x01K\x02\x85S'O'\nI00\nS'x'\ntb.",
        "a method of an array": b"cnumpy\nndarray.__reduce__\n.",
        "a dtype of objects": b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.",
        "a dtype of fields of objects": b"cnumpy\ndtype\n(S'O,O'\nI00\nI01\ntR.",
        "a length beyond all memory": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "memo of nothing": b"\x80\x04h\x07.",
        "no end": b"\x80\x04" + b"(" * 100_000,
    }


@pytest.fixture
def registered():
    """Extension codes for os.system, known and used before, so that the cache of objects has them."""
    copyreg.add_extension("posix", "system", 0xF0)
    copyreg.add_extension("builtins", "eval", 0xF0F1)
    pickle.loads(b"\x80\x02\x82\xf0."), pickle.loads(b"\x80\x02\x84\xf1\xf0\x00\x00.")
    yield
    copyreg.remove_extension("posix", "system", 0xF0)
    copyreg.remove_extension("builtins", "eval", 0xF0F1)


@pytest.mark.parametrize("name", list(opcodes("")))
def test_opcodes_written_by_hand_are_refused_and_change_nothing(tmp_path, name, registered):
    marker = tmp_path / "marker"
    stand_ins = {key: vars(thing).copy() for key, thing in dictionary._STAND_INS.items()}
    defaults = {key: getattr(thing, "__defaults__", None) for key, thing in dictionary._STAND_INS.items()}
    with pytest.raises(ValueError, match="night.pkl (is not a readable pickle of arrays|holds)"):
        load_dictionary(written(tmp_path, opcodes(marker)[name]))
    assert not marker.exists()
    for key, thing in dictionary._STAND_INS.items():
        assert vars(thing) == stand_ins[key] and getattr(thing, "__defaults__", None) == defaults[key]


def doubled(opcode):
    """Pairs of pairs of pairs ..., thirty deep: two to the thirtieth numbers in some hundred bytes."""
    pair = {"list": b"](h\0h\0e", "tuple": b"h\0h\0\x86"}[opcode]
    return b"K\1" + b"".join(b"q" + bytes([i]) + pair.replace(b"h\0", b"h" + bytes([i])) for i in range(30))


def dictionary_of(signals):
    return b"\x80\2}(X\x0b\0\0\0EEG_signals" + signals + b"X\6\0\0\0labels](K\0K\1eu."


@pytest.mark.parametrize(
    "content",
    {
        "a place far behind the memo's end": b"\x80\2Nr\xff\xff\xff\x7f.",
        "lists of lists": dictionary_of(doubled("list")),
        "tuples of tuples": dictionary_of(doubled("tuple")),
        "a key of tuples": b"\x80\2}" + doubled("tuple") + b"K\1s.",
        "keys of tuples": b"\x80\2}(" + doubled("tuple") + b"K\1u.",
        "a set of tuples": b"\x80\4\x8f(" + doubled("tuple") + b"\x90.",
        "a frozen set of tuples": b"\x80\4(" + doubled("tuple") + b"\x91.",
        "a code that is tuples": b"\x80\2cnumpy\ndtype\n" + doubled("tuple") + b"\x85R.",
        "eight gigabytes of bytes": b"\x80\5\x96" + (1 << 33).to_bytes(8, "little") + b".",
        "a long text": b"\x80\5\x8d" + (1 << 40).to_bytes(8, "little") + b".",
        "nothing": b"",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_pickle_takes_no_more_memory_than_it_has_bytes(tmp_path, content):
    path = written(tmp_path, content[1])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="night.pkl"):
            load_dictionary(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_labels_are_taken_by_a_convention_and_told(tmp_path):
    content = {"EEG_signals": np.tile(SIGNALS, (2, 1)), "labels": [3, 4, 5, 0]}
    path = written(tmp_path, content)
    night = load_dictionary(path, convention="mesa")
    assert night.stages.tolist() == [3, 3, 4, 0]
    assert any("4 taken as N3 in 1 epochs" in note for note in night.notes)
    with pytest.raises(ValueError, match="labels: 5 is no known stage .*convention='rk'"):
        load_dictionary(path)


@pytest.mark.parametrize(
    ("about", "name"),
    [({"start": "yesterday"}, "start"), ({"sfreq_hz": "fast"}, "sfreq_hz"), ({"subject": [1, 2]}, "subject")],
)
def test_what_a_file_says_of_itself_is_checked(tmp_path, about, name):
    np.savez(tmp_path / "night.npz", EEG_signals=SIGNALS, labels=[0, 1], channel="C3", **about)
    with pytest.raises(ValueError, match=f"night.npz: {name} is not one value of its kind"):
        load_dictionary(tmp_path / "night.npz")


def test_a_list_that_holds_itself_is_refused(tmp_path):
    endless = [0.0]
    endless.append(endless)
    with pytest.raises(ValueError, match="holds more values than its .* bytes"):
        load_dictionary(written(tmp_path, {"EEG_signals": endless, "labels": [0]}))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", list(dangers("")))
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, name, protocol):
    marker = tmp_path / "marker"
    content = {"EEG_signals": SIGNALS, "labels": [0, 1], "more": dangers(marker)[name]}
    path = written(tmp_path, content, protocol)
    with pytest.raises(ValueError, match="night.pkl is .*the pickle (asks for|holds an array of object)"):
        load_dictionary(path)
    assert not marker.exists()


def test_the_dangers_of_these_tests_are_real(tmp_path):
    names = ("os.system", "eval", "functools.partial", "in a list", "in an object array", "a timer")
    for name in (*names, "numpy's file in memory", "a pickle in a pickle"):
        marker = tmp_path / name.replace(" ", "-")
        pickle.loads(pickle.dumps(dangers(marker)[name]))
        assert marker.exists(), name
    for name in ("text protocol, posix.system", "an instance", "an object", "names from the stack"):
        marker = tmp_path / name.replace(" ", "-").replace(",", "")
        pickle.loads(opcodes(marker)[name])
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
