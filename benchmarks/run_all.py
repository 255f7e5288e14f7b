"""Run the benchmarks that need no other data, one after the other, and write RESULTS.md: `make bench`.

    python benchmarks/run_all.py                      # all, in about half an hour on two cores
    python benchmarks/run_all.py --only features.py   # to try one; RESULTS.md then has this one only

The machine must be idle. Every benchmark prints its rows as JSON, one a line (`row`), and runs by itself too.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCHMARKS = ("start.py", "features.py", "staging.py", "training.py", "cohort.py")
LIBRARIES = ("numpy", "scipy", "pandas", "mne", "yasa", "torch", "transformers", "peft", "trl")


def row(what: str, value: float, unit: str = "", times: float | None = None, peer: str = "") -> None:
    """Print one result: a value with its unit, and how many times as long as the peer we take."""
    print(json.dumps({"what": what, "value": value, "unit": unit, "times": times, "peer": peer}), flush=True)


def machine() -> str:
    """Name the processor, its number of cores, and the memory."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    special = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in text]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = models[0] if models else platform.processor()
    return f"{model} ({', '.join(special) or 'no AVX-512'}), {os.cpu_count()} cores, {pages:.0f} GiB"


def run(name: str) -> tuple[list[dict[str, Any]], float]:
    """Run one benchmark; give its rows and the seconds that it took."""
    started = time.perf_counter()
    command = [sys.executable, str(HERE / name)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    return rows, time.perf_counter() - started


def section(name: str, rows: list[dict[str, Any]], seconds: float) -> list[str]:
    """Write what a benchmark says of itself, and its rows as a table."""
    about = ast.get_docstring(ast.parse((HERE / name).read_text(encoding="utf-8"))) or ""
    lines = [f"## {name}", "", about, "", f"It took {seconds:.0f} s.", ""]
    lines += ["| what | value | beside a peer |", "| --- | --: | --- |"]
    for found in rows:
        beside = f"{found['times']:.3g} × the time of {found['peer']}" if found["times"] is not None else ""
        value = f"{found['value']:{',.0f' if abs(found['value']) >= 1000 else '.3g'}} {found['unit']}"
        lines.append(f"| {found['what']} | {value.strip()} | {beside} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS, help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="default: %(default)s")
    options = parser.parse_args()

    load = os.getloadavg()[0]
    results = {}
    for name in options.only:
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        results[name] = run(name)
    slower = [found for rows, _ in results.values() for found in rows if (found["times"] or 0) > 1]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=HERE
    ).stdout.strip()
    lines = ["# How long things take", "", "**Slower than what others use:**", ""]
    lines += [f"- {f['what']}: {f['times']:.3g} × the time of {f['peer']}" for f in slower] or ["- nothing"]
    lines += ["", "Made by `make bench`; all rows are from one run.", "", f"- Machine: {machine()}"]
    lines += [f"- Load average when it began: {load:.1f} (0 is an idle machine)"]
    lines += [f"- Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in LIBRARIES)]
    lines += [f"- Commit {commit}, {time.strftime('%Y-%m-%d')}", ""]
    for name, (rows, seconds) in results.items():
        lines += section(name, rows, seconds)
    options.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
