"""Does reading a folder of nights take more memory with every night? Copies of the shipped one, two counts.

    python benchmarks/cohort.py --nights 20 200

Every copy begins elsewhere in the night and has other lowest bits, or it would be refused as the same
recording under two names. Each count runs in a process of its own; the table that is returned has to grow,
and its size stands beside the peak.
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

import sleepstage as ss


def put_copies(folder: Path, n_nights: int) -> None:
    """Write the night n times, as n people, each beginning four epochs later than the one before."""
    psg = ss.demo_paths()[0].read_bytes()
    records = np.frombuffer(psg[768:], np.uint8).reshape(841, -1)  # of 30 s, after the header
    for i in range(n_nights):
        copy = np.roll(records, -4 * i, axis=0)
        copy[:, 2 * (i // 7) :: 512] ^= 1 + i % 7  # low bytes of little-endian samples
        (folder / f"person{i:03}.edf").write_bytes(psg[:768] + copy.tobytes())


def measure(n_nights: int) -> str:
    """Read the copies and say how much memory that took at its highest."""
    with tempfile.TemporaryDirectory() as scratch:
        put_copies(Path(scratch), n_nights)
        started = time.perf_counter()
        table, failed = ss.folder_table(scratch, "{subject}.edf", None, Path(scratch) / "tables")
        seconds = time.perf_counter() - started
    if len(failed):
        raise RuntimeError(f"{len(failed)} copies could not be read: {failed.iloc[0]}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table_mb = table.memory_usage(deep=True).sum() / 2**20
    return (
        f"{n_nights:4} nights: peak {peak_mb:6.0f} MB, of which the table {table_mb:5.0f} MB, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nights", type=int, nargs="+", default=[20, 200], help="default: 20 and 200")
    counts = parser.parse_args().nights
    if len(counts) == 1:
        print(measure(counts[0]))
        return
    for count in counts:
        subprocess.run([sys.executable, __file__, "--nights", str(count)], check=True)


if __name__ == "__main__":
    main()
