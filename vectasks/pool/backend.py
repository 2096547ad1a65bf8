"""The workers of a pool: the contract that every kind of them keeps, and those of this process."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from vectasks.errors import (
    AlreadyPending,
    CallError,
    InvalidArgument,
    RemoteError,
    SetupError,
    WorkerDied,
)
from vectasks.pool.futures import CallFuture
from vectasks.pool.objects import Answer, Call, ObjectHost
from vectasks.protocol import Failure, with_cause

RESTARTED = "was restarted by restart_at() before it answered"
CLOSED = "was ended by close() of its pool before it answered"


class PoolBackend(abc.ABC):
    """All workers of one pool. They are started when the backend is made, and not waited for."""

    @abc.abstractmethod
    def submit(self, worker: int, call: Call) -> CallFuture:
        """Hand a call to a worker.

        Raises:
            InvalidArgument: the call cannot be pickled.
        """

    def submit_ahead(self, worker: int, call: Call) -> CallFuture | None:
        """Hand a call to a worker that can be cancelled until it begins; None: it has no room.

        Raises:
            InvalidArgument: the call cannot be pickled.
        """
        return None

    @abc.abstractmethod
    def restart(self, worker: int) -> None:
        """Kill a worker and restart it; what was out in it fails."""

    @abc.abstractmethod
    def is_alive(self, worker: int) -> bool:
        """Tell whether it takes calls."""

    @property
    @abc.abstractmethod
    def pids(self) -> list[int | None]:
        """The process id of each; None where it is dead, or none is known."""

    @abc.abstractmethod
    def close(self, grace_s: float) -> Sequence[tuple[int, Failure]]:
        """End all, once; what closing their objects raised, with the worker's number."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Let go of what a forked child must not keep."""


def settle(future: Future[Any], worker: int, method: str, answer: Answer) -> None:
    """Give a future its result, or the error that the answer tells of."""
    if answer.failure is None:
        future.set_result(answer.value)
    else:
        future.set_exception(call_error(worker, method, answer.failure))


def call_error(worker: int, method: str, failure: Failure) -> RemoteError:
    """The error for what the user's code raised in a worker."""
    kind: type[RemoteError] = CallError
    what = f"failed in {method}"
    if failure.in_setup:
        kind, method, what = SetupError, "setup", "could not be made"
    error = kind(
        f"the object of worker {worker} {what}: {failure.type_name}: {failure.message}",
        worker=worker,
        command=method,
        remote_traceback=failure.traceback_text,
    )
    return with_cause(error, failure)


def death(worker: int, how: str, exitcode: int | None = None) -> WorkerDied:
    """The error for a call that a worker did not live to answer."""
    return WorkerDied(f"worker {worker} {how}.", worker=worker, exitcode=exitcode)


def unsendable_object(error: Exception) -> InvalidArgument:
    """The error for a ``make_object`` that cannot be pickled."""
    return InvalidArgument(
        f"make_object cannot be sent to a worker ({type(error).__name__}: {error}). Make what does "
        "not travel (locks, files, connections) in it and not around it, or use kind='inline'."
    )


def unsendable_call(worker: int, call: Call, error: Exception) -> InvalidArgument:
    """The error for a call whose arguments cannot be pickled."""
    return InvalidArgument(
        f"the arguments of {call.method} cannot be sent to worker {worker} "
        f"({type(error).__name__}: {error}); give plain data. Nothing was sent."
    )


class InlineBackend(PoolBackend):
    """Objects in this process. A call is over when ``submit`` returns.

    But where an event loop runs, what is awaitable is awaited there, in a task: the calls of one
    worker still run in order, those of several beside each other.
    """

    def __init__(self, make_object: Callable[[], Any], num_workers: int) -> None:
        self._make_object = make_object
        self._hosts = [ObjectHost(make_object) for _ in range(num_workers)]
        self._awaited: list[list[tuple[asyncio.Future[Any], Future[Any]]]]
        self._awaited = [[] for _ in self._hosts]  # of each worker, in order

    def submit(self, worker: int, call: Call) -> CallFuture:
        """Call now, or after the calls of this worker that are still awaited."""
        host, awaited = self._hosts[worker], self._awaited[worker]
        future = CallFuture()
        future.set_running_or_notify_cancel()
        loop = _running_loop()
        if awaited and loop is None:
            raise AlreadyPending(
                f"{call.method}: a call of worker {worker} is awaited in an event loop; await it "
                "there before you call from elsewhere."
            )
        if not awaited:
            future.begin()
        if loop is None:
            settle(future, worker, call.method, host.call(call))
            return future
        if awaited:
            task = asyncio.ensure_future(_call_after(awaited[-1][0], host, call, future))
        else:
            answer = host.begin(call)
            if not inspect.isawaitable(answer.value):
                settle(future, worker, call.method, answer)
                return future
            task = asyncio.ensure_future(answer.value)
        awaited.append((task, future))
        task.add_done_callback(lambda done: self._settle_awaited(worker, call.method, done, future))
        return future

    def _settle_awaited(
        self, worker: int, method: str, task: asyncio.Future[Any], future: Future[Any]
    ) -> None:
        with contextlib.suppress(ValueError):  # restart() or close() took it out
            self._awaited[worker].remove((task, future))
        if task.cancelled():
            if not future.done():
                future.set_exception(death(worker, "was cancelled before it answered"))
            return
        error = task.exception()
        if not future.done():
            answer = Answer(task.result()) if error is None else Answer(failure=Failure.of(error))
            settle(future, worker, method, answer)

    def restart(self, worker: int) -> None:
        """Cancel what is awaited, close the object and make another."""
        self._cancel(worker, RESTARTED)
        self._hosts[worker].close()
        self._hosts[worker] = ObjectHost(self._make_object)

    def _cancel(self, worker: int, how: str) -> None:
        awaited, self._awaited[worker] = self._awaited[worker], []
        for task, future in awaited:
            future.set_exception(death(worker, how))
            with contextlib.suppress(RuntimeError):  # its loop is closed, and so is the task
                task.get_loop().call_soon_threadsafe(task.cancel)

    def is_alive(self, worker: int) -> bool:
        """Always."""
        return True

    @property
    def pids(self) -> list[int | None]:
        """None: they have no process of their own."""
        return [None] * len(self._hosts)

    def close(self, grace_s: float) -> Sequence[tuple[int, Failure]]:
        """Cancel what is awaited and close the objects."""
        failures = []
        for worker, host in enumerate(self._hosts):
            self._cancel(worker, CLOSED)
            failure = host.close()
            if failure is not None:
                failures.append((worker, failure))
        return failures

    def forget(self) -> None:
        """Nothing: a fork has its own copy."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _call_after(
    before: asyncio.Future[Any], host: ObjectHost, call: Call, future: CallFuture
) -> Any:
    await asyncio.wait([before])
    future.begin()
    value = host.invoke(call)
    return await value if inspect.isawaitable(value) else value
