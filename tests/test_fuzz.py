"""Files and command lines that are nearly valid: a right value comes back, or a sentence.

The generators change valid files; they know the formats and not the readers. A case's number is its seed, and
a failure names it.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import random
import resource
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import sleepstage as ss
import sleepstage.course.demo
import sleepstage.course.workshop  # both before anything is patched  # noqa: F401
from sleepstage.__main__ import main
from sleepstage.dataset.contest import CONTEST_FOLDER, fetch_contest, read_contest
from sleepstage.features.catalogue import INDEX, META_COLUMNS
from sleepstage.finetuning.adapter import load_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]

N_CASES = int(os.environ.get("FUZZ_CASES", "40"))  # a reader; 300 before a release
REFUSALS = (ValueError, OSError)  # FileNotFoundError and PermissionError are OSErrors

NASTY = [
    *(None, True, False, 0, -1, 1, 5, 1.5, -0.0, 2**31, 2**63, 10**30, float("nan"), float("inf"), 1e-300),
    *("", "a", "../x", "/etc/passwd", "é" * 300, "1", "nan", "stage", "\0", "\ud800"),
    *([], [[]], {}, [None], {"a": None}, [1] * 9, list(range(8)), [[0.2] * 5] * 5),
]


def bent(content: bytes, rng: random.Random) -> bytes:
    """Change a file's bytes: flipped, cut off, doubled, zeroed, inserted, or a field of four set high."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 30])):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 2, 4, 50, 1000])
        part = content[at : at + length]
        content[at : at + length] = rng.choice(
            [
                bytes(byte ^ (1 << rng.randrange(8)) for byte in part),
                b"",
                part * 2,
                bytes(len(part)),
                rng.randbytes(length) + part,
                struct.pack("<I", rng.choice([0, 2**31, 2**32 - 1, 65536])),
            ]
        )
        if rng.random() < 0.1:
            del content[at:]
        content = content or bytearray(b"\0")
    return bytes(content)


def other_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Give an array of another type, shape or content."""
    array = np.array(array)
    changed = [
        lambda: array[:-1] if array.ndim else array,
        lambda: np.concatenate([np.atleast_1d(array)] * 2),
        lambda: array[None],
        lambda: array.T,
        lambda: array.astype(rng.choice(["U8", "f8", "i8", "u1", "c16", "M8[s]", "?", "S3"])),
        lambda: np.zeros((0, 3)),
        lambda: np.full(array.shape, rng.choice([np.nan, np.inf, -1, 7, 1e300, -1e-9, 2**40])),
        lambda: array.ravel()[rng.sample(range(array.size), array.size)].reshape(array.shape),
        lambda: np.array(rng.choice(["x", 5, 1.5, "é"])),
        lambda: np.zeros(array.shape, [("a", "f4"), ("b", "i2")]),
    ]
    try:
        return rng.choice(changed)()
    except (ValueError, TypeError):  # numpy cannot make it so
        return np.zeros(3)


def other_npz(arrays: dict[str, np.ndarray], rng: random.Random) -> bytes:
    """Write arrays of which some are changed, missing or new, and in one of three cases bend the file."""
    arrays = dict(arrays)
    for name in rng.sample(sorted(arrays), rng.choice([0, 1, 1, 2])):
        arrays[name] = other_array(arrays[name], rng)
        if rng.random() < 0.2:
            del arrays[name]
    if rng.random() < 0.1:
        arrays[rng.choice(["x", "stage2", "../x", ""])] = np.zeros(3)
    file = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(file, **arrays)
    return bent(file.getvalue(), rng) if rng.random() < 0.35 else file.getvalue()


def other_json(content: dict, rng: random.Random) -> bytes:
    """Change values of a JSON file, deep inside too; or bend its bytes."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.choice([1, 1, 2])):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys) if keys else None
            if key is None or not isinstance(place[key], dict | list) or rng.random() < 0.4:
                break
            place = place[key]
        if key is None:
            continue
        if rng.random() < 0.15:
            del place[key]
        else:
            place[key] = rng.choice(NASTY)
        if isinstance(place, dict) and rng.random() < 0.1:
            place[rng.choice(["x", "", "r", "window"])] = rng.choice(NASTY)
    text = json.dumps(content).encode()
    return bent(text, rng) if rng.random() < 0.2 else text


def run_cases(case, check) -> dict[str, int]:
    """Run numbered cases; check what comes back; count. No case may take 20 s, nor all of them 2 GB."""
    counts = {"read": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(N_CASES):
        rng, started = random.Random(number), time.monotonic()
        try:
            result = case(rng)
        except REFUSALS as error:
            assert str(error).strip(), f"case {number}: refused without a word"
            counts["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"case {number} ended in {error!r}") from error
        else:
            try:
                check(result)
            except AssertionError as error:
                raise AssertionError(f"case {number} gave a wrong value: {error}") from error
            counts["read"] += 1
        assert time.monotonic() - started < 20, f"case {number} took too long"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20  # KiB
    print(counts)
    assert counts["read"] and counts["refused"]
    return counts


def test_tables(tmp_path, table):
    path = tmp_path / "t.npz"
    small = table.iloc[:40]
    with np.load(ss.save_table(small, path)) as file:
        arrays = dict(file)

    def case(rng):
        path.write_bytes(other_npz(arrays, rng))
        return ss.load_table(path)

    def check(loaded):
        assert loaded.index.names == list(INDEX) and loaded.index.is_unique
        assert loaded["stage"].between(-1, 4).all() and loaded["stage"].dtype == np.int8
        features = loaded.drop(columns=[name for name in META_COLUMNS if name in loaded])
        assert all(kind.kind in "iuf" for kind in features.dtypes)
        spec = ss.PromptSpec((ss.Digit(features.columns[0]),))
        try:
            levels = spec.levels(loaded)
        except ValueError:
            return
        assert ((levels >= 0) & (levels <= 9)).all()

    run_cases(case, check)


@pytest.mark.parametrize("ending", ["npz", "pkl"])
def test_dictionaries(tmp_path, night, ending):
    path = ss.save_dictionary(
        ss.Recording(night.eeg_uv[:4], 100, night.stages[:4], 1, "n", "c"), tmp_path / f"n.{ending}"
    )
    whole = path.read_bytes()
    arrays = {}
    if ending == "npz":
        with np.load(path) as file:
            arrays = dict(file)

    def case(rng):
        path.write_bytes(other_npz(arrays, rng) if arrays else bent(whole, rng))
        return ss.load_dictionary(path)

    def check(recording):
        assert recording.sfreq_hz == 100 and recording.eeg_uv.shape[1] == 3000
        assert recording.stages is None or set(recording.stages) <= {-1, 0, 1, 2, 3, 4}
        assert len(recording.quality) == recording.n_epochs

    run_cases(case, check)


def test_zips_of_the_contest(tmp_path, monkeypatch):
    n_files = 12
    monkeypatch.setattr("sleepstage.dataset.contest.N_FILES", n_files)
    made = np.random.default_rng(0)
    members = {
        f"{CONTEST_FOLDER}/{k % 5}/{k % 3}-{k}.npy": 1e-11 * made.random((51, 59)) for k in range(n_files)
    }
    numbers = itertools.count()

    def case(rng):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        archive = folder / f"{CONTEST_FOLDER}.zip"
        with zipfile.ZipFile(archive, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
            for name, array in members.items():
                if rng.random() < 0.02:
                    name = rng.choice(["../x.npy", "/x.npy", name.upper(), f"{name}/x", "a\\b", name * 2])
                content = io.BytesIO()
                np.save(content, other_array(array, rng) if rng.random() < 0.02 else array)
                file.writestr(name, content.getvalue())
        if rng.random() < 0.3:
            archive.write_bytes(bent(archive.read_bytes(), rng))
        try:
            return read_contest(fetch_contest(folder))
        finally:
            inside = {path.name for path in folder.iterdir()}
            assert inside <= {archive.name, CONTEST_FOLDER}, inside
            shutil.rmtree(folder)
            assert not (tmp_path / "x.npy").exists()

    def check(table):
        assert len(table) == n_files
        for (subject, _, epoch), stage in table["stage"].items():
            assert (int(subject), stage) == (epoch % 3, epoch % 5)

    run_cases(case, check)


@pytest.fixture(scope="module")
def adapter(table, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "adapter"
    two = pd.concat([table[:300], table[300:600].rename({0: 1}, level="subject")])
    spec = ss.PromptSpec.fit(two, (ss.Digit("std_uv"), ss.Digit("mobility", "cohort")), window=10)
    ss.finetune(two, spec, ss.TrainingConfig(base=str(tiny_base), nf4=False, n_steps=1, lora_rank=4), folder)
    return folder


def _same(location, tokenizer):
    if not (Path(location) / "tokenizer.json").is_file():
        raise FileNotFoundError(f"there is no model in {location}")
    return tokenizer


JSON_FILES = ("adapter_config.json", "prompt.json", "prior.json", "train.json")


@pytest.mark.parametrize("name", [*JSON_FILES, "adapter_model.safetensors"])
def test_adapters(name, adapter, table, tmp_path, monkeypatch):
    """The base model and its tokenizer are loaded once, and the model is copied for each adapter."""
    strangers = shutil.copytree(adapter, tmp_path / "adapter")
    path, whole = strangers / name, (adapter / name).read_bytes()
    weights = load_file(adapter / "adapter_model.safetensors")
    base = load_adapter(adapter)
    base = (base.model.unload(), base.tokenizer)
    monkeypatch.setattr("sleepstage.finetuning.base_model.load_base", lambda *_: copy.deepcopy(base[0]))
    monkeypatch.setattr(
        "sleepstage.finetuning.base_model.load_tokenizer", lambda location: _same(location, base[1])
    )

    def case(rng):
        path.write_bytes(other_json(json.loads(whole), rng) if name in JSON_FILES else bent(whole, rng))
        return load_adapter(strangers)

    def check(loaded):
        for parameter, weight in loaded.model.named_parameters():
            assert torch.isfinite(weight).all(), parameter
            if "lora_" in parameter and name in JSON_FILES:
                expected = weights[parameter.replace(".default", "")]
                assert torch.equal(weight.detach().half(), expected.half()), parameter
        assert 1 <= loaded.spec.window <= 1000 and 0 <= loaded.spec.look_ahead < loaded.spec.window
        assert all(digit.column not in META_COLUMNS for digit in loaded.spec.digits)
        proba = pd.DataFrame(np.eye(5)[table["stage"][:20]], table.index[:20], list(ss.STAGES))
        np.testing.assert_allclose(loaded.prior.apply(proba).sum(axis=1), 1)

    run_cases(case, check)


COMMANDS = [
    "stage {edf} --channel C3 --out {new}.csv",
    "train --table {table} --adapter {new} --steps 1 --minutes 1 --margin 5 --blur 0.1 --seed 3 --partial 0",
    "train --table {table} --adapter {new} --validation-subjects 0 --learning-rate 1e-3 --base {new}",
    "plan --preset t4 --table {table} --json {new}.json",
    "evaluate --table {table} --json {new}.json --adapter {new} --subjects 0",
    "demo --out {new}",
]


def test_command_lines(tmp_path, table, monkeypatch, capsys):
    """Words of one command in another, numbers that cannot be, files in place of others; no work begins."""
    monkeypatch.chdir(tmp_path)
    edf = tmp_path / "n.edf"
    edf.write_bytes(Path(ss.demo_paths()[0]).read_bytes()[:100_000])
    places = {"table": ss.save_table(table, tmp_path / "t.npz"), "edf": edf, "new": tmp_path / "new"}
    began = []
    monkeypatch.setattr("sleepstage.finetuning.trainer.finetune", lambda *given, **_: began.append(given))
    monkeypatch.setattr("sleepstage.course.demo.run_demo", lambda *_: None)
    monkeypatch.setattr("sleepstage.finetuning.base_model.prepare", lambda: None)
    for name in ("training_plan", "plan_text"):  # it traces a model
        monkeypatch.setattr(f"sleepstage.finetuning.memory_plan.{name}", lambda *_: {})

    def no_model(*_):
        raise FileNotFoundError("no model is loaded here")

    monkeypatch.setattr("sleepstage.staging.stager.load_adapter", no_model)
    valid = [command.format(**places).split() for command in COMMANDS]
    words = sorted({word for command in valid for word in command}) + [str(value) for value in NASTY]

    def case(rng):
        command = list(rng.choice(valid))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            at = rng.randrange(len(command))
            command[at : at + rng.choice([0, 1, 1])] = [rng.choice(words)]
        try:
            status = main(command)
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if status == 2:
            raise ValueError(said)
        assert status == 0, f"status {status} of {command}: {said}"
        return command

    run_cases(case, lambda command: command)
    for _, spec, config, *_ in began:
        assert config.n_steps >= 1 and 0 <= config.blur <= 1 and spec.digits
