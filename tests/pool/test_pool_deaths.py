"""WorkerPool: workers that die or are restarted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_things import PATIENCE_S, error_of, wait_for_file

from vectasks import (
    WorkerDied,
)
from vectasks.pool.pool import WorkerPool


@pytest.mark.guarantee("pool-death")
@pytest.mark.parametrize(
    ("how", "told", "exitcode"),
    [
        ("exit", "exited with code 3", 3),
        ("sys.exit", "exited with code 4", 4),
        ("kill", "was killed by SIGKILL", -9),
        ("close descriptors", "closed its connection", None),
    ],
)
def test_a_death_fails_its_own_futures_only(
    processes: WorkerPool, tmp_path: Path, how: str, told: str, exitcode: int | None
) -> None:
    busy = processes.submit_at(0, "wait_for", "gate")
    doomed = [processes.submit_at(1, *call) for call in (("die", how), ("note", 1))]
    for future in doomed:
        error = error_of(future)
        assert isinstance(error, WorkerDied)
        assert told in str(error)
        assert (error.worker, error.exitcode) == (1, exitcode)
    assert not processes.is_alive(1)
    assert processes.pids[1] is None
    assert told in str(error_of(processes.submit_at(1, "note", 1)))
    (tmp_path / "gate").touch()
    assert busy.result(PATIENCE_S) == "gate"
    processes.restart_at(1)
    assert processes.submit_at(1, "note", "new").result(PATIENCE_S) == ["new"]
    assert processes.is_alive(1)


@pytest.mark.guarantee("pool-death")
def test_an_idle_workers_death_is_noticed(processes: WorkerPool) -> None:
    processes.submit_at(1, "note", 1).result(PATIENCE_S)
    os.kill(processes.pids[1] or 0, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while processes.is_alive(1):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert "SIGTERM" in str(error_of(processes.submit_at(1, "note", 1)))


@pytest.mark.guarantee("pool-hang")
def test_restart_at_kills_a_hung_worker_and_the_others_never_notice(
    processes: WorkerPool, tmp_path: Path
) -> None:
    hung = [processes.submit_at(0, "wait_for", "never"), processes.submit_at(0, "note", 1)]
    other = processes.submit_at(1, "wait_for", "gate")
    for name in ("at never", "at gate"):
        wait_for_file(tmp_path / name)
    before = processes.pids
    processes.restart_at(0)
    for future in hung:
        error = error_of(future)
        assert isinstance(error, WorkerDied)
        assert "restart_at" in str(error)
    after = processes.pids
    assert after[0] not in (None, before[0])
    assert after[1] == before[1]
    assert processes.submit_at(0, "note", 2).result(PATIENCE_S) == [2]
    (tmp_path / "gate").touch()
    assert other.result(PATIENCE_S) == "gate"


@pytest.mark.guarantee("pool-death")
def test_what_is_half_sent_when_a_worker_dies_fails_with_it(
    processes: WorkerPool, tmp_path: Path
) -> None:
    array = np.zeros(1_000_000)
    calls = [("wait_for", "never"), ("echo", array), ("note", 1)]
    futures = [processes.submit_at(0, *call) for call in calls]
    wait_for_file(tmp_path / "at never")
    os.kill(processes.pids[0] or 0, signal.SIGKILL)
    assert [type(error_of(future)) for future in futures] == [WorkerDied] * 3


@pytest.mark.guarantee("pool-hang")
def test_what_a_hung_worker_is_doing(processes: WorkerPool, tmp_path: Path) -> None:
    processes.submit_at(0, "wait_for", "gate")
    wait_for_file(tmp_path / "at gate")
    told = processes.describe(0)
    assert "in wait_for" in told
    assert "objects.py" not in told
    (tmp_path / "gate").touch()


@pytest.mark.guarantee("pool-order", "pool-death")
def test_nothing_that_was_submitted_is_forgotten(make: Any, tmp_path: Path) -> None:
    # Workers are killed and begun anew at any moment: every future is answered, one way or another.
    pool = make(3, close_grace_s=1.0)
    rng = np.random.default_rng(0)
    futures = []
    for _ in range(40):
        futures += [pool.submit_at(int(i), "echo") for i in rng.integers(3, size=5)]
        victim = int(rng.integers(3))
        pid = pool.pids[victim]
        if rng.random() < 0.5 and pid is not None:
            with contextlib.suppress(ProcessLookupError):  # dead, and nobody knows it yet
                os.kill(pid, signal.SIGKILL)
        else:
            pool.restart_at(victim)
    done, late = wait(futures, PATIENCE_S)
    assert not late
    assert all(isinstance(f.exception(), (WorkerDied, type(None))) for f in done)
