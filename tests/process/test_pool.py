"""WorkerPool: order, errors, deaths and the end, in processes and in this one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_scripts import Script, still_running

from vectasks import (
    CallError,
    InvalidArgument,
    MissingExtra,
    PoolClosed,
    SetupError,
    UsageError,
    WorkerDied,
    WorkerIndexError,
)
from vectasks.workers.pool import WorkerPool

PATIENCE_S = 30.0


class Unpicklable(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)
        self.lock = threading.Lock()


class Unbuildable:
    """Can be pickled, and not be built again."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("not here")


class Thing:
    """What the workers hold; waits are for files that the test makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Any] = []

    def note(self, value: Any) -> list[Any]:
        self.calls.append(value)
        return list(self.calls)

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def wait_for(self, name: str) -> str:
        (self.folder / f"at {name}").touch()
        while not (self.folder / name).exists():
            time.sleep(0.002)
        return name

    def fail(self) -> None:
        raise KeyError("no such thing")

    def fail_oddly(self) -> None:
        raise Unpicklable("odd", "one")

    def give(self, what: str) -> Any:
        return {"lock": threading.Lock, "unbuildable": Unbuildable}[what]()

    def die(self, how: str) -> None:
        if how == "exit":
            os._exit(3)
        if how == "sys.exit":
            sys.exit(4)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os.closerange(3, 512)  # descriptors that are not its own
        self.wait_for("never")

    async def sum_later(self, one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    def close(self) -> None:
        with (self.folder / "closed").open("a") as file:
            file.write("closed\n")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., WorkerPool]]:
    """Makes pools of Things, which are closed after the test."""
    pools = []

    def make_pool(num_workers: int = 2, **options: Any) -> WorkerPool:
        options.setdefault("make_object", lambda: Thing(tmp_path))
        pools.append(WorkerPool(num_workers=num_workers, **options))
        return pools[-1]

    yield make_pool
    for pool in pools:
        pool.close()


@pytest.fixture(params=["process", "inline"])
def pool(request: pytest.FixtureRequest, make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(kind=request.param)


@pytest.fixture
def processes(make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(close_grace_s=1.0)


def error_of(future: Future[Any]) -> BaseException | None:
    return future.exception(PATIENCE_S)


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.002)


# -- calls and answers ----------------------------------------------------------------------------


def test_calls_of_one_worker_run_in_order_on_an_object_of_its_own(pool: WorkerPool) -> None:
    futures = [pool.submit_at(i % 2, "note", i) for i in range(20)]
    assert futures[-2].result(PATIENCE_S) == list(range(0, 20, 2))
    assert futures[-1].result(PATIENCE_S) == list(range(1, 20, 2))
    assert pool.num_workers == 2


def test_arguments_by_position_and_by_name(pool: WorkerPool) -> None:
    future = pool.submit_at(0, "echo", 1, worker=2, method=3)
    assert future.result(PATIENCE_S) == ((1,), {"worker": 2, "method": 3})


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


def test_what_cannot_be_sent_is_refused_at_the_call(processes: WorkerPool) -> None:
    with pytest.raises(InvalidArgument, match=r"arguments of note .* worker 0 .*pickle"):
        processes.submit_at(0, "note", threading.Lock())
    assert processes.submit_at(0, "note", 1).result(PATIENCE_S) == [1]


@pytest.mark.parametrize("what", ["lock", "unbuildable"])
def test_what_cannot_come_back_fails_its_own_call_only(processes: WorkerPool, what: str) -> None:
    futures = [processes.submit_at(0, *call) for call in (("give", what), ("note", 1))]
    assert isinstance(error_of(futures[0]), CallError)
    assert futures[1].result(PATIENCE_S) == [1]


def test_arguments_that_cannot_be_built_there_fail_their_own_call_only(
    processes: WorkerPool,
) -> None:
    futures = [processes.submit_at(0, "note", value) for value in (Unbuildable(), 1)]
    assert isinstance(error_of(futures[0]).__cause__, ValueError)
    assert futures[1].result(PATIENCE_S) == [1]


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


# -- deaths ---------------------------------------------------------------------------------------


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


def test_an_idle_workers_death_is_noticed(processes: WorkerPool) -> None:
    processes.submit_at(1, "note", 1).result(PATIENCE_S)
    os.kill(processes.pids[1] or 0, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while processes.is_alive(1):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert "SIGTERM" in str(error_of(processes.submit_at(1, "note", 1)))


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


def test_what_a_hung_worker_is_doing(processes: WorkerPool, tmp_path: Path) -> None:
    processes.submit_at(0, "wait_for", "gate")
    wait_for_file(tmp_path / "at gate")
    told = processes.describe(0)
    assert "in wait_for" in told
    assert "objects.py" not in told
    (tmp_path / "gate").touch()


# -- objects that cannot be made ------------------------------------------------------------------


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
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
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


# -- the end --------------------------------------------------------------------------------------


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


def test_an_object_whose_close_raises() -> None:
    class Grumpy:
        def close(self) -> None:
            raise ValueError("no")

    for kind in ("process", "inline"):
        pool = WorkerPool(Grumpy, 2, kind=kind)  # type: ignore[arg-type]
        with pytest.raises(CallError, match="worker 0 failed in close: ValueError: no"):
            pool.close()
        pool.close()


def test_a_pool_that_nobody_holds_ends(tmp_path: Path) -> None:
    pool = WorkerPool(lambda: Thing(tmp_path), 2)
    future = pool.submit_at(0, "note", 1)
    del pool
    gc.collect()
    assert future.result(PATIENCE_S) == [1]
    assert (tmp_path / "closed").read_text() == "closed\n" * 2


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
from vectasks.workers.pool import WorkerPool

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


def test_the_interpreters_end_ends_it(start: Callable[[str], Script]) -> None:
    script = start(SCRIPT + "pool.submit_at(0, 'wait'); print('out')")
    assert script.wait() == 0, script.stderr
    assert len(list(script.cwd.glob("closed *"))) == 1  # and the hung one was ended
    assert script.stderr.count("Traceback") == 0


def test_workers_end_with_their_parent(start: Callable[[str], Script]) -> None:
    script = start(SCRIPT + "pool.submit_at(0, 'wait'); pool.submit_at(1, 'wait').result()")
    script.wait_until(lambda: len(list(script.cwd.glob("at *"))) == 2)
    family = script.family()
    os.kill(script.process.pid, signal.SIGKILL)
    assert not still_running(family, 10.0)


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
