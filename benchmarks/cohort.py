"""Does reading a folder of nights take more time or memory for each night, if there are many?

    python benchmarks/cohort.py --nights 20 60 200   # copies of the shipped night

Every copy begins elsewhere in the night and has other lowest bits, or it would be refused as the same
recording under two names. Each count runs in a process of its own; the table that is returned has to grow,
and its size is not counted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run_all import row

import sleepstage as ss


def put_copies(folder: Path, n_nights: int) -> None:
    """Write the night n times, as n people, each beginning four epochs later than the one before."""
    psg = ss.demo_paths()[0].read_bytes()
    records = np.frombuffer(psg[768:], np.uint8).reshape(841, -1)  # of 30 s, after the header
    for i in range(n_nights):
        copy = np.roll(records, -4 * i, axis=0)
        copy[:, 2 * (i // 7) :: 512] ^= 1 + i % 7  # low bytes of little-endian samples
        (folder / f"person{i:03}.edf").write_bytes(psg[:768] + copy.tobytes())


def measure(n_nights: int) -> None:
    """Read the copies; print the seconds, and how much memory that took at its highest."""
    with tempfile.TemporaryDirectory() as scratch:
        put_copies(Path(scratch), n_nights)
        started = time.perf_counter()
        table, failed = ss.folder_table(scratch, "{subject}.edf", None, Path(scratch) / "tables")
        seconds = time.perf_counter() - started
    if len(failed):
        raise RuntimeError(f"{len(failed)} copies could not be read: {failed.iloc[0]}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table_mb = table.memory_usage(deep=True).sum() / 2**20
    row(f"{n_nights} nights, files to table: a night", seconds / n_nights, "s")
    row(f"{n_nights} nights: peak memory of the process without the table", peak_mb - table_mb, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nights", type=int, nargs="+", default=[20, 60, 200], help="default: 20 60 200")
    counts = parser.parse_args().nights
    if len(counts) == 1:
        measure(counts[0])
        return
    for count in counts:
        subprocess.run([sys.executable, __file__, "--nights", str(count)], check=True)


if __name__ == "__main__":
    main()
