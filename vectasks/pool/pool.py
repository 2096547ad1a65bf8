"""WorkerPool: addressable workers that each hold an object, and answer with futures."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vectasks._util.checks import is_whole_number, real_number, seconds_or_none, whole_number
from vectasks._util.closing import Closable
from vectasks.errors import InvalidArgument, PoolClosed, UsageError, WorkerIndexError
from vectasks.pool.backend import InlineBackend, PoolBackend, call_error
from vectasks.pool.futures import CallFuture
from vectasks.pool.kinds import Kind, checked_kind
from vectasks.pool.objects import Call
from vectasks.pool.process import ProcessBackend
from vectasks.protocol import Failure
from vectasks.workers import stacks

__all__ = ["Kind", "WorkerPool"]

logger: logging.Logger = logging.getLogger("vectasks")


class WorkerPool(Closable):
    """Workers that each hold an object of their own, whose methods are called by number.

    The calls of one worker run in order, those of several beside each other. A worker's death fails
    the futures of its own calls and nothing else. Any thread may call.

    A dead worker stays dead: what is submitted to it fails with ``WorkerDied`` until
    :meth:`restart_at`. Where ``make_object`` fails, whatever is submitted fails with
    ``SetupError``, also until :meth:`restart_at`.

    Args:
        make_object: makes a worker's object, where the worker is; whatever cloudpickle can carry.
            The object's ``close()``, if it has one, is called at the worker's end.
        num_workers: how many workers.
        kind: "process": each in a process of its own. "inline": all in this process; a call is over
            when it is submitted, but where an event loop runs, awaitable results are awaited there.
            "ray": each is a Ray actor, on whichever node has room.
        start_timeout_s: how long ``make_object`` may take; None: as long as it takes.
        close_grace_s: how long :meth:`close` waits for the workers, all of them together.
        daemon: daemonic processes may not start processes of their own.
        resources: options of each actor, as ``ray.remote`` takes them: ``{"num_cpus": 2}``. Only
            for Ray, whose own defaults hold for what is not given.
        tells_begun: whether the futures tell when a call was begun, which is a further message.

    Raises:
        InvalidArgument: an unknown kind, fewer than one worker, no number of seconds, or a
            ``make_object`` that cannot be pickled.
        ResourceLimit: the system grants too little to start the workers; none is left.
        MissingExtra: Ray is not installed.
    """

    _holds = "pool worker"

    def __init__(
        self,
        make_object: Callable[[], Any],
        num_workers: int,
        *,
        kind: Kind = "process",
        start_timeout_s: float | None = 300.0,
        close_grace_s: float = 5.0,
        daemon: bool = False,
        resources: Mapping[str, Any] | None = None,
        tells_begun: bool = False,
    ) -> None:
        checked_kind("kind", kind)
        self.num_workers: int = whole_number("num_workers", num_workers, at_least=1)
        if not callable(make_object):
            raise InvalidArgument(f"make_object must be callable, got {make_object!r}.")
        if resources is not None and kind != "ray":
            raise InvalidArgument(f"resources are for kind='ray'; this pool is of kind={kind!r}.")
        start_timeout_s = seconds_or_none("start_timeout_s", start_timeout_s)
        self._close_grace_s = real_number("close_grace_s", close_grace_s)
        self._backend: PoolBackend
        if kind == "inline":
            self._backend = InlineBackend(make_object, self.num_workers)
        elif kind == "process":
            self._backend = ProcessBackend(
                make_object,
                self.num_workers,
                start_timeout_s=start_timeout_s,
                daemon=daemon,
                tells_begun=tells_begun,
            )
        else:
            from vectasks.pool.ray import RayBackend

            self._backend = RayBackend(
                make_object,
                self.num_workers,
                start_timeout_s=start_timeout_s,
                options=resources or {},
                tells_begun=tells_begun,
            )
        self._must_be_closed()

    def submit_at(self, worker: int, method: str, /, *args: Any, **kwargs: Any) -> CallFuture:
        """Call a method of one worker's object; its later calls wait for this one.

        Args:
            worker: the worker's number, from 0.
            method: the method's name. If what it returns is awaitable, it is awaited in the worker.
            args: its arguments.
            kwargs: its arguments by name.

        Returns:
            a future of what the method returns; its ``begun_s`` tells when the worker began the
            call, if the pool ``tells_begun``. It fails with ``CallError``, the original exception
            as its cause, where the method raised; with ``SetupError`` where the object could not be
            made; with ``WorkerDied`` where the worker ended first. It cannot be cancelled:
            :meth:`restart_at` is the way to stop what runs, and :meth:`submit_ahead_at` submits
            what can be taken back until it runs.

        Raises:
            WorkerIndexError: there is no such worker.
            InvalidArgument: an argument cannot be pickled; nothing was sent.
            PoolClosed: the pool was closed.
        """
        self._require_open("submit_at")
        return self._backend.submit(self._checked(worker), Call(method, args, kwargs))

    def submit_ahead_at(
        self, worker: int, method: str, /, *args: Any, **kwargs: Any
    ) -> CallFuture | None:
        """Like :meth:`submit_at`, of a call that is to wait in a busy worker for its turn.

        Until the worker begins the call, ``future.cancel()`` makes sure that it never does; only
        the last one that was submitted to a worker can be cancelled.

        Returns:
            the future; None, and nothing was sent, where the worker is dead, has two such calls or
            one that was cancelled before it, or is of a kind that cannot take any back ("inline",
            "ray").

        Raises:
            WorkerIndexError: there is no such worker.
            InvalidArgument: an argument cannot be pickled; nothing was sent.
            PoolClosed: the pool was closed.
        """
        self._require_open("submit_ahead_at")
        return self._backend.submit_ahead(self._checked(worker), Call(method, args, kwargs))

    def restart_at(self, worker: int) -> None:
        """Kill a worker and restart it; the others never notice.

        The futures of what it was asked and has not answered fail with ``WorkerDied``. Returns when
        the new one has started, without waiting for its object. (Inline, what is awaited is
        cancelled; other code cannot be stopped.)

        Raises:
            WorkerIndexError: there is no such worker.
            ResourceLimit: it could not be started again.
            PoolClosed: the pool was closed.
        """
        self._require_open("restart_at")
        self._backend.restart(self._checked(worker))

    def is_alive(self, worker: int) -> bool:
        """Tell whether a worker takes calls; False from when its death was noticed."""
        return self._is_open and self._backend.is_alive(self._checked(worker))

    @property
    def pids(self) -> list[int | None]:
        """The process id of each worker; None where it is dead, or (Ray, inline) has none here."""
        return self._backend.pids if self._is_open else [None] * self.num_workers

    def describe(self, worker: int) -> str:
        """Describe what a worker's process is doing now, with the Python stack of its main thread.

        It goes on undisturbed. "" where it is dead or has no process here. Takes a second at most.
        """
        number = self._checked(worker)
        pid = self.pids[number]
        if pid is None:
            return ""
        return stacks.describe(stacks.look_at({number: pid}, math.inf), {number: pid})

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called."""
        return not self._is_open

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End every worker; works twice, and whatever they are doing.

        They share ``close_grace_s`` seconds in which to finish what they were asked and to close
        their objects; then they are sent SIGTERM, then SIGKILL. What is not answered by then fails
        with ``WorkerDied``.

        Raises:
            CallError: an object's ``close()`` raised; all is closed all the same.
        """
        failures = self._end()
        if failures:
            worker, failure = failures[0]
            raise call_error(worker, "close", failure)

    def _end_all(self) -> Sequence[tuple[int, Failure]]:
        return self._backend.close(self._close_grace_s)

    def _forget(self) -> None:
        self._backend.forget()

    # -- checks -------------------------------------------------------------------------------

    def _require_open(self, what: str) -> None:
        if os.getpid() != self._owner_pid:
            raise UsageError(
                f"{what}: this pool belongs to process {self._owner_pid}, and this is a fork of it "
                f"({os.getpid()}): make a new pool here."
            )
        if not self._is_open:
            raise PoolClosed(f"{what}: the pool is closed; make a new one.")

    def _checked(self, worker: Any) -> int:
        if not is_whole_number(worker) or not 0 <= worker < self.num_workers:
            raise WorkerIndexError(
                f"worker {worker!r} is out of range: the pool has {self.num_workers} workers, so "
                f"it must be an integer from 0 to {self.num_workers - 1}."
            )
        return int(worker)
