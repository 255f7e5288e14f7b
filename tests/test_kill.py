"""A machine that may vanish at any moment: training killed again and again ends where it would have."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sleepstage as ss
from sleepstage.qlora import TrainingConfig, finetune
from sleepstage.splits import partition_subjects

N_KILLS = 20
LONGEST_S = 6.0  # about as long as twelve steps with their checkpoints take


def train_in_a_child(arguments: dict, seconds: float | None) -> int:
    """Train, or resume, in a forked child that dies after so many seconds; give its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    torch.set_num_threads(1)
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    table, _ = partition_subjects(ss.load_table(arguments["table"]), [0])
    spec = ss.PromptSpec(digits=(ss.Digit("std_uv"), ss.Digit("mobility")), window=10, look_ahead=2)
    config = TrainingConfig(
        base=arguments["base"], nf4=False, lora_rank=4, n_steps=12, warmup_steps=1, checkpoint_steps=1
    )
    finetune(table, spec, config, arguments["adapter"], resume=True)
    os._exit(0)


def main(arguments: dict) -> None:
    """Kill until there were enough kills, begin anew when a run got to its end; print what happened."""
    rng = random.Random(0)
    kills, seen = 0, set()
    while kills < arguments["kills"]:
        status = train_in_a_child(arguments, rng.uniform(0.05, LONGEST_S))
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        seen |= {path.name for path in Path(f"{arguments['adapter']}-checkpoints").glob("*")}
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
    straight, killed = weights
    assert straight.keys() == killed.keys()
    for name, weight in straight.items():
        torch.testing.assert_close(killed[name], weight, atol=0, rtol=0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
