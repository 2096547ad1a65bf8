"""WorkerPool: order, answers and errors, in processes and in this one."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_things import PATIENCE_S, Thing, Unbuildable, error_of

from vectasks import (
    CallError,
    InvalidArgument,
    MissingExtra,
    SetupError,
    WorkerDied,
    WorkerIndexError,
)
from vectasks.pool.pool import WorkerPool

# -- calls and answers ----------------------------------------------------------------------------


@pytest.mark.guarantee("pool-order")
def test_calls_of_one_worker_run_in_order_on_an_object_of_its_own(pool: WorkerPool) -> None:
    futures = [pool.submit_at(i % 2, "note", i) for i in range(20)]
    assert futures[-2].result(PATIENCE_S) == list(range(0, 20, 2))
    assert futures[-1].result(PATIENCE_S) == list(range(1, 20, 2))
    assert pool.num_workers == 2


def test_arguments_by_position_and_by_name(pool: WorkerPool) -> None:
    future = pool.submit_at(0, "echo", 1, worker=2, method=3)
    assert future.result(PATIENCE_S) == ((1,), {"worker": 2, "method": 3})


@pytest.mark.guarantee("pool-call-raises")
def test_what_the_object_raises_comes_back_and_harms_nobody(pool: WorkerPool) -> None:
    failed, missing, odd = (pool.submit_at(1, m) for m in ("fail", "nothing", "fail_oddly"))
    error = error_of(failed)
    assert isinstance(error, CallError)
    assert (error.worker, error.command, error.sampler_id) == (1, "fail", None)
    assert isinstance(error.__cause__, KeyError)
    assert "in fail" in error.remote_traceback
    assert "KeyError" in str(error)
    assert isinstance(error_of(missing).__cause__, AttributeError)
    assert "Unpicklable: odd" in str(error_of(odd))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.worker) == (CallError, str(error), 1)
    assert pool.submit_at(1, "note", "on").result(PATIENCE_S) == ["on"]


def test_awaitable_results_are_awaited_in_the_worker(pool: WorkerPool) -> None:
    futures = [pool.submit_at(0, "sum_later", i, 1) for i in range(3)]
    assert [future.result(PATIENCE_S) for future in futures] == [1, 2, 3]


@pytest.mark.guarantee("pool-argument")
def test_what_cannot_be_sent_is_refused_at_the_call(processes: WorkerPool) -> None:
    with pytest.raises(InvalidArgument, match=r"arguments of note .* worker 0 .*pickle"):
        processes.submit_at(0, "note", threading.Lock())
    assert processes.submit_at(0, "note", 1).result(PATIENCE_S) == [1]


@pytest.mark.guarantee("pool-call-raises")
@pytest.mark.parametrize("what", ["lock", "late", "unbuildable"])
def test_what_cannot_come_back_fails_its_own_call_only(processes: WorkerPool, what: str) -> None:
    futures = [processes.submit_at(0, *call) for call in (("give", what), ("note", 1))]
    assert isinstance(error_of(futures[0]), CallError)
    assert futures[1].result(PATIENCE_S) == [1]


@pytest.mark.guarantee("pool-argument")
def test_arguments_that_cannot_be_built_there_fail_their_own_call_only(
    processes: WorkerPool,
) -> None:
    futures = [processes.submit_at(0, "note", value) for value in (Unbuildable(), 1)]
    assert isinstance(error_of(futures[0]).__cause__, ValueError)
    assert futures[1].result(PATIENCE_S) == [1]


@pytest.mark.guarantee("pool-threads")
def test_large_arrays_do_not_hold_up_the_caller(processes: WorkerPool, tmp_path: Path) -> None:
    # The worker takes nothing in until the gate opens, and the arrays exceed any socket's buffer.
    processes.submit_at(0, "wait_for", "gate")
    array = np.arange(1_000_000)
    futures = [processes.submit_at(0, "echo", array + i) for i in range(3)]
    assert processes.submit_at(1, "note", 1).result(PATIENCE_S) == [1]
    array += 100  # the caller's again
    (tmp_path / "gate").touch()
    for i, future in enumerate(futures):
        ((echoed,), _) = future.result(PATIENCE_S)
        assert echoed[0] == i
        assert echoed[-1] == 999_999 + i


@pytest.mark.guarantee("pool-threads")
def test_many_threads_may_call_and_callbacks_too(processes: WorkerPool) -> None:
    answers: list[Any] = []
    again: list[Future[Any]] = []

    def call(thread: int) -> None:
        for i in range(50):
            future = processes.submit_at(i % 2, "echo", thread, i)
            answers.append(future)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({future.result(PATIENCE_S)[0] for future in answers}) == 200
    done = threading.Event()

    def submit_again(_: Future[Any]) -> None:
        again.append(processes.submit_at(1, "echo", "again"))
        again[0].add_done_callback(lambda _: done.set())

    processes.submit_at(0, "echo").add_done_callback(submit_again)
    assert done.wait(PATIENCE_S)
    assert again[0].result() == (("again",), {})


# -- in an event loop -----------------------------------------------------------------------------


class Loop:
    """Waits for events of the loop that it is called in."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    async def wait_for(self, event: asyncio.Event) -> list[Any]:
        self.log.append("begins")
        await event.wait()
        self.log.append("ends")
        return list(self.log)

    def note(self, value: Any) -> list[Any]:
        self.log.append(value)
        return list(self.log)


def test_inline_workers_wait_side_by_side_in_the_event_loop(make: Any) -> None:
    pool = make(2, make_object=Loop, kind="inline")

    async def main() -> None:
        event = asyncio.Event()
        waits = [asyncio.wrap_future(pool.submit_at(i, "wait_for", event)) for i in (0, 1)]
        after = asyncio.wrap_future(pool.submit_at(0, "note", "after"))  # in order all the same
        await asyncio.sleep(0)
        assert not any(future.done() for future in (*waits, after))
        event.set()
        assert await asyncio.gather(*waits) == [["begins", "ends"]] * 2
        assert await after == ["begins", "ends", "after"]
        assert pool.submit_at(0, "note", 1).result(0)[-1] == 1  # what need not wait is over at once

    asyncio.run(main())


def test_restarting_an_inline_worker_cancels_what_it_awaits(make: Any) -> None:
    pool = make(2, make_object=Loop, kind="inline")

    async def main() -> None:
        event = asyncio.Event()
        hung, queued, other = (pool.submit_at(i, "wait_for", event) for i in (0, 0, 1))
        await asyncio.sleep(0)
        pool.restart_at(0)
        for future in (hung, queued):
            assert isinstance(future.exception(0), WorkerDied)
        event.set()
        assert await asyncio.wrap_future(other) == ["begins", "ends"]
        assert pool.submit_at(0, "note", 1).result(0) == [1]

    asyncio.run(main())


def test_a_loop_that_ends_fails_what_was_awaited_in_it(make: Any) -> None:
    pool = make(1, make_object=Loop, kind="inline")

    async def main() -> Future[Any]:
        return pool.submit_at(0, "wait_for", asyncio.Event())

    assert isinstance(error_of(asyncio.run(main())), WorkerDied)
    assert pool.submit_at(0, "note", 1).result(0) == ["begins", 1]


# -- objects that cannot be made ------------------------------------------------------------------


@pytest.mark.guarantee("pool-make-fails")
@pytest.mark.parametrize("kind", ["process", "inline"])
def test_a_failing_constructor_fails_what_is_submitted(
    make: Any, tmp_path: Path, kind: str
) -> None:
    def make_object() -> Thing:
        if not (tmp_path / "mended").exists():
            raise ValueError("broken")
        return Thing(tmp_path)

    pool = make(1, make_object=make_object, kind=kind)
    for _ in range(2):
        error = error_of(pool.submit_at(0, "note", 1))
        assert isinstance(error, SetupError)
        assert isinstance(error.__cause__, ValueError)
        assert (error.worker, error.command) == (0, "setup")
    (tmp_path / "mended").touch()
    pool.restart_at(0)
    assert pool.submit_at(0, "note", 1).result(PATIENCE_S) == [1]


@pytest.mark.guarantee("pool-make-fails")
def test_a_constructor_that_takes_too_long(make: Any, tmp_path: Path) -> None:
    def make_object() -> Thing:
        thing = Thing(tmp_path)
        thing.wait_for("gate")
        return thing

    pool = make(1, make_object=make_object, start_timeout_s=0.2)
    error = error_of(pool.submit_at(0, "note", 1))
    assert isinstance(error, SetupError)
    assert "start_timeout_s" in str(error)
    assert not pool.is_alive(0)


def test_a_constructor_that_cannot_be_sent() -> None:
    lock = threading.Lock()
    with pytest.raises(
        InvalidArgument, match=r"make_object cannot be sent .*pickle.* kind='inline'"
    ):
        WorkerPool(lambda: lock, 1)
    assert WorkerPool(lambda: lock, 1, kind="inline").is_alive(0)


def test_a_constructor_that_cannot_be_built_there(make: Any) -> None:
    thing = Unbuildable()
    pool = make(1, make_object=lambda: thing)
    assert isinstance(error_of(pool.submit_at(0, "note", 1)), SetupError)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_workers": 0}, "num_workers must be an integer of at least 1, got 0"),
        ({"num_workers": 1.5}, "num_workers must be an integer of at least 1, got 1.5"),
        ({"start_timeout_s": "5"}, "start_timeout_s must be a number"),
        ({"close_grace_s": -1}, "close_grace_s must be a number"),
        ({"kind": "thread"}, "kind='thread' is unknown"),
        ({"make_object": 3}, "make_object must be callable, got 3"),
        ({"resources": {"num_cpus": 2}}, "resources are for kind='ray'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        WorkerPool(**{"make_object": list, "num_workers": 1, **options})


@pytest.mark.parametrize("number", [-1, 2])
def test_bad_numbers(pool: WorkerPool, number: int) -> None:
    for call in (pool.is_alive, pool.restart_at, lambda number: pool.submit_at(number, "note", 1)):
        with pytest.raises(WorkerIndexError, match=f"worker {number} is out of range"):
            call(number)


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"vectasks\[ray\]"):
        WorkerPool(list, 1, kind="ray")
