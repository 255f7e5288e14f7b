"""A machine that may vanish at any moment: training killed again and again ends where it would have."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import sleepstage as ss
from sleepstage.dataset.splits import partition_subjects
from sleepstage.finetuning.settings import TrainingConfig, launch
from sleepstage.finetuning.trainer import finetune

N_KILLS = 20
LONGEST_S = 6.0  # about as long as twelve steps with their checkpoints take


def train_in_a_child(arguments: dict, seconds: float | None) -> int:
    """Train, or resume, in a forked child that dies after so many seconds; give its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    train(arguments)
    os._exit(0)


def train(arguments: dict) -> None:
    """Twelve steps with a checkpoint after each, from the newest checkpoint that there is."""
    torch.set_num_threads(1)
    table, _ = partition_subjects(ss.load_table(arguments["table"]), [0])
    spec = ss.PromptSpec(digits=(ss.Digit("std_uv"), ss.Digit("mobility")), window=10, look_ahead=2)
    config = TrainingConfig(
        base=arguments["base"], nf4=False, lora_rank=4, n_steps=12, warmup_steps=1, checkpoint_steps=1
    )
    finetune(table, spec, config, arguments["adapter"], resume=True)
    launch().destroy_process_group()  # as the command `train` does


def main(arguments: dict) -> None:
    """Kill until there were enough kills, begin anew when a run got to its end; print what happened."""
    rng = random.Random(0)
    kills, seen = 0, set()
    while kills < arguments["kills"]:
        status = train_in_a_child(arguments, rng.uniform(0.05, LONGEST_S))
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        seen |= {path.name for path in Path(f"{arguments['adapter']}-checkpoints").glob("*")}
        if status == 0:  # a complete training trains nothing: the next one begins anew
            shutil.rmtree(arguments["adapter"])
    status = train_in_a_child(arguments, None)
    print(json.dumps({"kills": kills, "last": status, "checkpoints": sorted(seen)}))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(table, tiny_base, tmp_path):
    weights = []
    for kills in (0, N_KILLS):
        arguments = {
            "table": str(ss.save_table(table, tmp_path / "table.npz")),
            "base": str(tiny_base),
            "adapter": str(tmp_path / f"{kills}-times-killed"),
            "kills": kills,
        }
        command = [sys.executable, __file__, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        assert (told["kills"], told["last"]) == (kills, 0)
        weights.append(load_file(Path(arguments["adapter"]) / "adapter_model.safetensors"))
    assert len(told["checkpoints"]) >= 3  # kills came before, between and after checkpoints
    assert_equal(*weights)


def assert_equal(straight: dict, killed: dict) -> None:
    assert straight.keys() == killed.keys()
    for name, weight in straight.items():
        torch.testing.assert_close(killed[name], weight, atol=0, rtol=0)


def start_two_processes(arguments: dict) -> subprocess.Popen:
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, "-m", *launcher, __file__, json.dumps(arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_at_checkpoint(launched: subprocess.Popen, work: Path, step: int) -> None:
    """Kill launcher and both processes, at once, when a checkpoint begins to be written."""
    while not (work / f"checkpoint-{step}").exists():
        assert launched.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    launcher = psutil.Process(launched.pid)
    family = [launcher, *launcher.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family)
    launched.wait()


@pytest.mark.slow
def test_two_processes_killed_and_resumed_end_where_they_would_have(table, tiny_base, tmp_path):
    weights = []
    for steps in ((), (3, 7)):
        adapter = tmp_path / f"killed-{len(steps)}-times"
        arguments = {
            "table": str(ss.save_table(table, tmp_path / "table.npz")),
            "base": str(tiny_base),
            "adapter": str(adapter),
        }
        for step in steps:
            work = adapter.with_name(f"{adapter.name}-checkpoints")
            kill_at_checkpoint(start_two_processes(arguments), work, step)
        assert start_two_processes(arguments).wait(timeout=600) == 0
        weights.append(load_file(adapter / "adapter_model.safetensors"))
    assert_equal(*weights)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    train(told) if "LOCAL_RANK" in os.environ else main(told)
