"""Writing that is killed at random moments loses nothing: merging, exporting, copying, replacing a folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import sleepstage as ss
from sleepstage.dataset.table import load_table
from sleepstage.files import check_replaceable, write_json
from sleepstage.finetuning.adapter import MERGED
from sleepstage.finetuning.checkpoints import CHECKPOINT, _copy, _digests, copies_of, newest_complete

pytestmark = pytest.mark.slow

N_KILLS = 40


def killed(work, seconds: float) -> bool:
    """Run work in a forked child that is killed after so many seconds; say whether it was killed."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def kill_again_and_again(work, check) -> None:
    """Kill within the time that the work takes, and check after each kill."""
    rng, started = random.Random(0), time.monotonic()
    work()
    longest, kills = time.monotonic() - started, 0
    for _ in range(10 * N_KILLS):
        kills += killed(work, rng.uniform(1e-4, longest))
        check()
        if kills == N_KILLS:
            break
    assert kills == N_KILLS
    work()


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_exports_are_old_or_new(ending, tmp_path, table):
    path = tmp_path / f"t.{ending}"
    tables = [table.iloc[:300].assign(std_uv=0.0), table]

    def write():
        for one in tables:
            ss.export_table(one, path) if ending == "csv" else ss.save_table(one, path)

    def check():
        read = load_table(path) if ending == "npz" else pd.read_csv(path, index_col=[0, 1, 2])
        assert len(read) in (300, len(table)) and (len(read) == len(table)) == (read["std_uv"] != 0).any()

    kill_again_and_again(write, check)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # what kills left is swept


def test_copies_of_checkpoints_are_whole_or_passed_over(tmp_path):
    run = {"settings": {"seed": 0}}
    checkpoint, drive = tmp_path / "checkpoint-2", tmp_path / "drive"
    for folder in (checkpoint, drive):
        folder.mkdir()
    contents = {f"rng_state_{k}.pth": os.urandom(300_000) for k in range(8)}
    for name, content in contents.items():
        (checkpoint / name).write_bytes(content)
    write_json(checkpoint / "complete.json", {"run": run, "files": _digests(checkpoint)})

    def check():
        found = newest_complete(tmp_path / "lost", drive, run) or copies_of(run, drive) / (
            "checkpoint-2-being-replaced"
        )
        assert {name: (found / name).read_bytes() for name in contents} == contents

    kill_again_and_again(lambda: _copy(checkpoint, drive, run), check)
    assert [path.name for path in copies_of(run, drive).iterdir()] == ["checkpoint-2"]
    check_replaceable(copies_of(run, drive) / "checkpoint-2", CHECKPOINT)


MERGE = "import sys, torch; torch.set_num_threads(1); import sleepstage as ss; print('ready', flush=True); "
MERGE += "[ss.merge(*sys.argv[1:]) for _ in range(20)]"


def test_a_merged_model_stays_or_is_replaced_as_a_whole(tmp_path, table, tiny_base):
    """Merging runs in processes of its own, again and again: PyTorch's threads do not survive a fork."""
    adapter, folder = tmp_path / "adapter", tmp_path / "merged"
    spec = ss.PromptSpec((ss.Digit("std_uv"), ss.Digit("mobility")), window=10)
    config = ss.TrainingConfig(base=str(tiny_base), nf4=False, n_steps=1, lora_rank=4)
    ss.finetune(table[:300], spec, config, adapter)
    before = {path.name: path.stat().st_size for path in ss.merge(adapter, folder).iterdir()}
    rng = random.Random(0)
    for _ in range(N_KILLS // 4):
        command = [sys.executable, "-c", MERGE, str(adapter), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as merging:
            assert merging.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 4))
            merging.kill()
        place = folder if folder.exists() else Path(f"{folder}-being-replaced")
        assert {path.name: path.stat().st_size for path in place.iterdir()} == before
    ss.merge(adapter, folder)
    check_replaceable(folder, MERGED)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "merged"}
