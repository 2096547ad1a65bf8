"""WorkerPool: calls that are sent ahead begin, or are cancelled, and never both."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_things import PATIENCE_S, Unbuildable, error_of, wait_for_file

from vectasks import CallError, InvalidArgument, PoolClosed, WorkerDied
from vectasks.pool.pool import WorkerPool


def sent_ahead(pool: WorkerPool, *call: Any) -> Future[Any]:
    future = pool.submit_ahead_at(0, *call)
    assert future is not None
    return future


@pytest.mark.guarantee("pool-sent-ahead")
def test_a_call_that_was_cancelled_never_begins(processes: WorkerPool, tmp_path: Path) -> None:
    busy = processes.submit_at(0, "wait_for", "gate")
    ahead = sent_ahead(processes, "note", "ahead")
    assert ahead.cancel()
    assert ahead.cancelled()
    with pytest.raises(CancelledError):
        ahead.result(0)
    assert ahead.cancel()  # still
    after = processes.submit_at(0, "note", "after")
    (tmp_path / "gate").touch()
    assert busy.result(PATIENCE_S) == "gate"
    assert after.result(PATIENCE_S) == ["after"]
    assert sent_ahead(processes, "note", "again").result(PATIENCE_S) == ["after", "again"]


@pytest.mark.guarantee("pool-sent-ahead")
def test_a_call_that_has_begun_cannot_be_cancelled(processes: WorkerPool, tmp_path: Path) -> None:
    begun = sent_ahead(processes, "wait_for", "gate")
    wait_for_file(tmp_path / "at gate")
    assert not begun.cancel()
    (tmp_path / "gate").touch()
    assert begun.result(PATIENCE_S) == "gate"
    assert not begun.cancel()


def test_there_is_room_for_two_the_newer_of_which_can_be_cancelled(
    processes: WorkerPool, tmp_path: Path
) -> None:
    processes.submit_at(0, "wait_for", "gate")
    first, second = (sent_ahead(processes, "note", i) for i in range(2))
    assert processes.submit_ahead_at(0, "note", 2) is None
    assert not first.cancel()
    assert second.cancel()
    assert not first.cancel()
    assert processes.submit_ahead_at(0, "note", 3) is None  # until it was passed over
    (tmp_path / "gate").touch()
    assert first.result(PATIENCE_S) == [0]
    assert processes.submit_at(0, "note", 4).result(PATIENCE_S) == [0, 4]
    assert sent_ahead(processes, "note", 5).result(PATIENCE_S) == [0, 4, 5]


def test_a_call_that_cannot_be_built_there_takes_no_others_permit(
    processes: WorkerPool, tmp_path: Path
) -> None:
    processes.submit_at(0, "wait_for", "gate")
    unbuildable = sent_ahead(processes, "note", Unbuildable())
    cancelled = sent_ahead(processes, "note", "cancelled")
    assert cancelled.cancel()
    (tmp_path / "gate").touch()
    assert isinstance(error_of(unbuildable), CallError)
    assert sent_ahead_later(processes, "note", "after").result(PATIENCE_S) == ["after"]


def sent_ahead_later(pool: WorkerPool, *call: Any) -> Future[Any]:
    """Sent once the worker has passed over what was cancelled."""
    pool.submit_at(0, "echo").result(PATIENCE_S)
    return sent_ahead(pool, *call)


@pytest.mark.parametrize("cancels", [True, False])
def test_a_death_fails_what_was_sent_ahead_unless_it_was_cancelled(
    processes: WorkerPool, tmp_path: Path, cancels: bool
) -> None:
    processes.submit_at(0, "wait_for", "never")
    ahead = sent_ahead(processes, "note", 1)
    wait_for_file(tmp_path / "at never")
    assert not cancels or ahead.cancel()
    os.kill(processes.pids[0] or 0, signal.SIGKILL)
    if cancels:
        assert ahead.cancelled()
    else:
        assert isinstance(error_of(ahead), WorkerDied)
        assert not ahead.cancel()
        assert processes.submit_ahead_at(0, "note", 1) is None
    processes.restart_at(0)
    assert sent_ahead(processes, "note", "new").result(PATIENCE_S) == ["new"]


def test_restart_at_fails_what_was_sent_ahead(processes: WorkerPool) -> None:
    processes.submit_at(0, "wait_for", "never")
    ahead = sent_ahead(processes, "note", 1)
    processes.restart_at(0)
    assert isinstance(error_of(ahead), WorkerDied)
    assert not ahead.cancel()


def test_a_close_fails_what_was_sent_ahead(make: Any) -> None:
    pool = make(close_grace_s=0.2)
    pool.submit_at(0, "wait_for", "never")
    ahead = sent_ahead(pool, "note", 1)
    pool.close()
    assert isinstance(ahead.exception(0), WorkerDied)
    assert not ahead.cancel()
    with pytest.raises(PoolClosed):
        pool.submit_ahead_at(0, "note", 1)


def test_an_argument_that_cannot_be_sent_ahead(processes: WorkerPool) -> None:
    with pytest.raises(InvalidArgument, match="arguments of note"):
        processes.submit_ahead_at(0, "note", threading.Lock())


def test_inline_workers_take_nothing_ahead(make: Any) -> None:
    assert make(kind="inline").submit_ahead_at(0, "note", 1) is None


@pytest.mark.guarantee("pool-sent-ahead")
def test_each_call_is_cancelled_or_begins(processes: WorkerPool) -> None:
    # Calls are cancelled at any moment of theirs: whatever was cancelled was never begun.
    rng = np.random.default_rng(0)
    futures: list[Future[Any]] = []
    for number in range(600):
        future = processes.submit_ahead_at(0, "note", number)
        if future is None:
            processes.submit_at(0, "echo").result(PATIENCE_S)
            continue
        futures.append(future)
        if rng.random() < 0.5:
            for _ in range(int(rng.integers(200))):
                pass
            future.cancel()
    done, late = wait(futures, PATIENCE_S)
    assert not late
    begun = [future.result()[-1] for future in futures if not future.cancelled()]
    assert processes.submit_at(0, "note", "last").result(PATIENCE_S) == [*begun, "last"]
    assert 0 < len(begun) < len(done)
