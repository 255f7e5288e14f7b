"""A cluster reads the nights, and loses a worker half-way: nothing is lost, nothing comes twice."""

import os
import signal
import threading
import time

import joblib
import pandas as pd
import pytest
from test_folder import EVENTS, PSG, put_night

import sleepstage as ss

distributed = pytest.importorskip("distributed", reason="needs the package distributed (Dask)")
NIGHTS = [(f"{i // 2:02}", "ab"[i % 2]) for i in range(8)]


def kill_a_worker_after_the_first_table(client, tables, killed) -> None:
    pids = list(client.run(os.getpid).values())
    while not list(tables.glob("*.npz")):
        time.sleep(0.05)
    killed.append((pids[0], len(list(tables.glob("*.npz")))))
    os.kill(pids[0], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_loses_no_night(tmp_path, table):
    night = ss.load_demo()
    for bits, (subject, session) in enumerate(NIGHTS):
        put_night(tmp_path / "study", subject, session, bits, night)
    killed: list[tuple[int, int]] = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        watcher = threading.Thread(
            target=kill_a_worker_after_the_first_table, args=(client, tmp_path / "tables", killed)
        )
        watcher.start()
        with joblib.parallel_config(backend="dask"):
            found, failed = ss.folder_table(tmp_path / "study", PSG, EVENTS, tmp_path / "tables")
        watcher.join()
        pids = list(client.run(os.getpid).values())
    assert len(killed) == 1 and killed[0][1] < len(NIGHTS)  # it died while there was work left
    assert killed[0][0] not in pids
    assert failed.empty
    assert found.index.droplevel("epoch").unique().tolist() == NIGHTS  # folder_table refuses any epoch twice
    assert not list((tmp_path / "tables").glob("*.partial*"))
    first = found[: len(table)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, table.reset_index(drop=True), check_dtype=False, rtol=1e-5)
