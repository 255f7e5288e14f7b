"""The check that a GPU runs makes the same calls with a tiny model on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_check_that_a_gpu_runs_passes_on_a_cpu(tmp_path, smollm2_tokenizer):
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, str(script), "--tiny", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = (tmp_path / "checks.jsonl").read_text(encoding="utf-8").splitlines()
    checks = {facts["check"]: facts for facts in map(json.loads, lines)}
    assert {name for name, facts in checks.items() if facts["result"] != "ok"} == set(), done.stdout
    assert done.returncode == 0 and len(checks) == 11
    for name in ("causal, resumed", "bidirectional, resumed"):
        assert checks[name]["resumed_differs_by"] == 0
    first = [
        checks[name]["losses"][0]
        for name in ("bidirectional, resumed", "bidirectional, shared keys", "ampere")
    ]
    assert max(first) - min(first) < 1e-3  # neither attention nor checkpointing changes what is computed
    merged = checks["finetune, stage, merge"]
    assert merged["differs_by_2_windows"] < 1e-3 and merged["differs_merged_from_dequantized"] < 1e-3
    table = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(checks)
