"""How long a command takes to start, and to say what is wrong: warm, and with all files to be read anew.

    python benchmarks/start.py --repeats 3

"Cold" means that the system forgot the files of Python's libraries, of the package and of the base model
before the command (Linux only), as on the first call of a day. It is the median of the repeats, as is "warm".
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from run_all import row

import sleepstage

PACKAGE = Path(sleepstage.__file__).parent
NIGHT = str(PACKAGE / "data" / "SC4001E0-PSG.edf")
COMMANDS = {  # and the status that each ends with
    "import sleepstage": (["-c", "import sleepstage"], 0),
    "--help": (["-m", "sleepstage", "--help"], 0),
    "stage says that there is no such file": (["-m", "sleepstage", "stage", "no.edf"], 2),
    "stage says that there is no such channel": (["-m", "sleepstage", "stage", NIGHT, "--channel", "C9"], 2),
    "stage writes the shipped night's hypnogram": (["-m", "sleepstage", "stage", NIGHT], 0),
}


def forget_files() -> None:
    """Have the system drop the libraries, the package and the base model from its cache of files."""
    models = os.environ.get("SLEEPSTAGE_CACHE") or Path.home() / ".cache" / "sleepstage"
    os.sync()  # only what is written can be dropped
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), PACKAGE, models):
        for path in _files(Path(folder)):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def seconds_of(arguments: list[str], status: int) -> float:
    """Run a command, and give its seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != status:
        raise RuntimeError(f"{arguments} ended with {done.returncode}, expected {status}:\n{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="calls of each (default: %(default)s)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as scratch:
        for what, (arguments, status) in COMMANDS.items():
            out = ["--out", f"{scratch}/stages.csv"] if "stage" in arguments else []
            times: dict[str, list[float]] = {"cold": [], "warm": []}
            for _ in range(repeats):
                if hasattr(os, "posix_fadvise"):
                    forget_files()
                    times["cold"].append(seconds_of([*arguments, *out], status))
                times["warm"].append(seconds_of([*arguments, *out], status))
            for state, seconds in times.items():
                if seconds:
                    row(f"{what}, {state}", statistics.median(seconds), "s")


if __name__ == "__main__":
    main()
