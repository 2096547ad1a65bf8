"""WorkerPool: its end, whoever brings it about."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_things import PATIENCE_S, Thing, wait_for_file
from process_scripts import Script, still_running

from vectasks import (
    CallError,
    PoolClosed,
    UsageError,
)
from vectasks.pool.pool import WorkerPool
from vectasks.workers.child_process import ChildProcess


@pytest.mark.guarantee("pool-end")
def test_close_lets_finish_what_was_asked(tmp_path: Path) -> None:
    with WorkerPool(lambda: Thing(tmp_path), 2) as pool:
        futures = [pool.submit_at(i % 2, "note", i) for i in range(10)]
    assert [future.result(0)[-1] for future in futures] == list(range(10))
    assert (tmp_path / "closed").read_text() == "closed\n" * 2
    pool.close()
    for call in (lambda: pool.submit_at(0, "note", 1), lambda: pool.restart_at(0)):
        with pytest.raises(PoolClosed):
            call()
    assert not pool.is_alive(0)
    assert pool.pids == [None, None]


@pytest.mark.guarantee("pool-end", "pool-hangs-in-close")
def test_close_does_not_wait_for_ever(tmp_path: Path) -> None:
    pool = WorkerPool(lambda: Thing(tmp_path), 2, close_grace_s=0.5)
    pool.submit_at(1, "note", 1).result(PATIENCE_S)
    hung = pool.submit_at(0, "wait_for", "never")
    wait_for_file(tmp_path / "at never")
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 5.0
    assert "close()" in str(hung.exception(0))
    assert (tmp_path / "closed").read_text() == "closed\n"  # the other one


@pytest.mark.guarantee("pool-close-raises")
def test_an_object_whose_close_raises() -> None:
    class Grumpy:
        def close(self) -> None:
            raise ValueError("no")

    for kind in ("process", "inline"):
        pool = WorkerPool(Grumpy, 2, kind=kind)  # type: ignore[arg-type]
        with pytest.raises(CallError, match="worker 0 failed in close: ValueError: no"):
            pool.close()
        pool.close()


@pytest.mark.guarantee("pool-end")
def test_a_pool_that_nobody_holds_ends(tmp_path: Path) -> None:
    pool = WorkerPool(lambda: Thing(tmp_path), 2)
    future = pool.submit_at(0, "note", 1)
    del pool
    gc.collect()
    assert future.result(PATIENCE_S) == [1]
    assert (tmp_path / "closed").read_text() == "closed\n" * 2


@pytest.mark.guarantee("pool-hangs-in-close")
def test_restarts_while_it_closes(tmp_path: Path) -> None:
    # Whichever comes first: nothing is left (conftest looks), and nobody waits for ever.
    for _ in range(3):
        pool = WorkerPool(lambda: Thing(tmp_path), 2, close_grace_s=1.0)
        start = threading.Barrier(2)

        def restart(pool: WorkerPool = pool, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                while True:
                    pool.restart_at(1)
            except PoolClosed:
                pass

        thread = threading.Thread(target=restart)
        thread.start()
        start.wait()
        pool.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.guarantee("pool-hangs-in-close")
def test_a_worker_that_is_restarted_while_its_pool_closes_is_ended_too(
    processes: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ChildProcess.begin
    begins, closed = threading.Event(), threading.Event()

    def begin_late(*args: Any) -> None:
        begins.set()
        closed.wait(0.5)  # for as long, at most, as close() would not wait for it
        begin(*args)

    monkeypatch.setattr(ChildProcess, "begin", begin_late)
    restart = threading.Thread(target=processes.restart_at, args=(0,))
    restart.start()
    assert begins.wait(PATIENCE_S)
    processes.close()
    closed.set()
    restart.join(PATIENCE_S)  # conftest looks for the process


def test_a_fork_cannot_use_it_and_does_it_no_harm(processes: WorkerPool) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            processes.close()
            processes.submit_at(0, "note", 1)
        except UsageError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert "is a fork of it" in told
    assert processes.submit_at(0, "note", 1).result(PATIENCE_S) == [1]


def test_a_pool_does_not_pickle(processes: WorkerPool) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(processes)


SCRIPT = """
from vectasks.pool.pool import WorkerPool

class Thing:
    def __init__(self):
        self.child = None
    def wait(self):
        Path(f"at {os.getpid()}").touch()
        time.sleep(100)
    def close(self):
        Path(f"closed {os.getpid()}").touch()

pool = WorkerPool(Thing, 2, close_grace_s=0.5)
"""


@pytest.mark.guarantee("pool-end")
def test_the_interpreters_end_ends_it(start: Callable[[str], Script]) -> None:
    script = start(SCRIPT + "pool.submit_at(0, 'wait'); print('out')")
    assert script.wait() == 0, script.stderr
    assert len(list(script.cwd.glob("closed *"))) == 1  # and the hung one was ended
    assert script.num_reports == 0, script.stderr


@pytest.mark.guarantee("pool-end")
def test_workers_end_with_their_parent(start: Callable[[str], Script]) -> None:
    script = start(SCRIPT + "pool.submit_at(0, 'wait'); pool.submit_at(1, 'wait').result()")
    script.wait_until(lambda: len(list(script.cwd.glob("at *"))) == 2)
    family = script.family()
    os.kill(script.process.pid, signal.SIGKILL)
    assert not still_running(family, 10.0)
