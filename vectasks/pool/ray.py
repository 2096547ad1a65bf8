"""The workers of a pool as Ray actors, on whichever node of a cluster has room.

A pool uses the cluster that this process is connected to. Where there is none, it connects to the
one that ``RAY_ADDRESS`` names, or starts one on this machine, and leaves it with the last pool.

Ray tells of replies and losses in a thread of its own that must not call Ray, nor run what users
hang on to their futures. So it only queues what there is to do, and one thread a pool does it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from vectasks._util.extras import require
from vectasks.errors import InvalidArgument, SetupError, VectasksError
from vectasks.pool.backend import (
    CLOSED,
    RESTARTED,
    PoolBackend,
    call_error,
    death,
    settle,
    unsendable_call,
    unsendable_object,
)
from vectasks.pool.futures import CallFuture
from vectasks.pool.objects import Answer, Call, ObjectHost
from vectasks.protocol import Failure

logger: logging.Logger = logging.getLogger("vectasks")

_WARN_AFTER_S = 8.0  # an actor that finds room has started by then, as a rule

#: A cluster of this machine alone, which nobody else can reach.
_ALONE: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}


class _Connection:
    """This process's connection to a cluster, where pools made it: it ends with the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._is_ours = False

    def open(self) -> Any:
        """The module of Ray, connected."""
        ray = require("ray", "ray", "kind='ray'")
        with self._lock:
            if not ray.is_initialized():
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                of_this_machine = {} if "RAY_ADDRESS" in os.environ else _ALONE
                ray.init(**of_this_machine)
                self._is_ours = True
            self._num_users += 1
        return ray

    def close(self, ray: Any) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0 and self._is_ours:
                self._is_ours = False
                ray.shutdown()


_connection = _Connection()


class _Actor:
    """Runs in the actor's process; makes nothing by itself, so that its first answer comes soon."""

    def __init__(self) -> None:
        self._host: ObjectHost
        self._taken: Call | None = None

    def has_a_place(self) -> None:
        """Answers once there is room for it."""

    def setup(self, make_object: Callable[[], Any]) -> Failure | None:
        self._host = ObjectHost(make_object)
        return self._host.failure

    def call(self, call: Call) -> Answer:
        return self._host.call(call)

    def take(self, call: Call) -> None:
        """Rebuild a call, which is all that Ray needs to get here."""
        self._taken = call

    def call_taken(self) -> Answer:
        call, self._taken = self._taken, None
        if call is None:
            raise RuntimeError("the arguments of the call could not be rebuilt in the actor")
        return self._host.call(call)

    def close(self) -> Failure | None:
        return self._host.close()


class _Worker:
    """One actor, and what it was asked.

    Attributes:
        out: what was sent and not answered, with the names of the methods.
        end: makes the error for calls that it cannot answer any more; None while it takes calls.
        deadline_s: by when its object must be made.
        warn_s: when to warn that it has not started; None: it has, or users were warned.
    """

    def __init__(self, number: int, handle: Any) -> None:
        self.number = number
        self.handle = handle
        self.out: dict[Future[Any], str] = {}
        self.end: Callable[[], VectasksError] | None = None
        self.deadline_s: float | None = None
        self.warn_s: float | None = time.monotonic() + _WARN_AFTER_S
        self.is_ready = False


class RayBackend(PoolBackend):
    """Objects in Ray actors; arguments are as for ``WorkerPool``, ``options`` its ``resources``.

    For what is not among the options, Ray's defaults hold: a CPU to be placed, none to run.
    ``start_timeout_s`` is for finding room in the cluster, too.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidArgument: ``make_object`` cannot be pickled, or Ray does not know the options.
    """

    def __init__(
        self,
        make_object: Callable[[], Any],
        num_workers: int,
        *,
        start_timeout_s: float | None,
        options: Mapping[str, Any],
        tells_begun: bool,
    ) -> None:
        self._ray = _connection.open()
        self._lock = threading.RLock()
        self._start_timeout_s = start_timeout_s
        self._asked = dict(options)
        self._tells_begun = tells_begun
        self._workers: list[_Worker] = []
        self._to_do: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="vectasks-ray", daemon=True)
        self._thread.start()
        try:
            # An actor that dies stays dead, as any worker does, and nothing is run twice unasked.
            settings = {**options, "max_restarts": 0, "max_task_retries": 0}
            self._actor_class = self._options(settings)
            self._make_object = self._put(make_object)
            self._workers += [self._start(number) for number in range(num_workers)]
            self._to_do.put(_look_at_deadlines)
        except BaseException:
            self.close(0.0)
            raise

    def _put(self, make_object: Callable[[], Any]) -> Any:
        try:
            return self._ray.put(make_object)
        except TypeError as error:  # what Ray raises where something cannot be pickled
            raise unsendable_object(error) from error

    def _options(self, settings: Mapping[str, Any]) -> Any:
        try:
            return self._ray.remote(**settings)(_Actor)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"resources={dict(settings)!r}: {error}") from error

    def _start(self, number: int) -> _Worker:
        worker = _Worker(number, self._actor_class.remote())
        if self._start_timeout_s is not None:
            worker.deadline_s = time.monotonic() + self._start_timeout_s
        placed = worker.handle.has_a_place.remote().future()
        self._when_done(placed, functools.partial(self._placed, worker))
        ready = worker.handle.setup.remote(self._make_object).future()
        self._when_done(ready, functools.partial(self._ready, worker))
        return worker

    def _when_done(self, reply: Future[Any], then: Callable[[Future[Any]], None]) -> None:
        """Have the thread call ``then`` with the reply."""
        reply.add_done_callback(lambda done: self._to_do.put(functools.partial(then, done)))

    # -- the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            try:
                act = self._to_do.get(timeout=self._time_left_s())
            except queue.Empty:
                self._warn_of_no_place()
                self._end_overdue()
                continue
            if act is None:
                return
            act()

    def _time_left_s(self) -> float | None:
        times = [at_s for w in self._workers for at_s in (w.deadline_s, w.warn_s)]
        deadlines = [at_s for at_s in times if at_s is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _warn_of_no_place(self) -> None:
        """Say why actors do not start, once each: all that wait, when the first has waited long."""
        waiting = [worker for worker in self._workers if worker.warn_s is not None]
        if not any(worker.warn_s <= time.monotonic() for worker in waiting if worker.warn_s):
            return
        for worker in waiting:
            worker.warn_s = None
        asked = self._asked or "Ray's default, a CPU to be placed and none to run"
        # Ray was shut down meanwhile, or warnings are errors: this thread must go on.
        with contextlib.suppress(Exception):
            text = (
                f"{len(waiting)} of {len(self._workers)} Ray actors have not started after "
                f"{_WARN_AFTER_S:g} s. Each asks for {asked}. Free in the cluster: {self._free()}. "
                "Use fewer workers, ask for less (resources=), or add nodes; they are waited for."
            )
            logger.warning("%s", text)
            warnings.warn(text, RuntimeWarning, stacklevel=1)  # for those without logging, too

    def _free(self) -> str:
        """List how much of everything is free; leave out what only names a node or its model."""
        free = self._ray.available_resources()
        return ", ".join(
            f"{name} {free.get(name, 0):g} of {amount:g}"
            for name, amount in sorted(self._ray.cluster_resources().items())
            if ":" not in name and (name in self._asked or "memory" not in name)
        )

    def _placed(self, worker: _Worker, reply: Future[Any]) -> None:
        worker.warn_s = None

    def _end_overdue(self) -> None:
        for worker in tuple(self._workers):
            if worker.deadline_s is not None and worker.deadline_s <= time.monotonic():
                self._handle_exit(worker, functools.partial(self._not_made, worker.number))

    def _not_made(self, number: int) -> SetupError:
        return SetupError(
            f"the object of worker {number} was not made within {self._start_timeout_s:g} s: "
            "make_object takes longer, or no node has room for the actor (`ray status` tells). "
            "start_timeout_s sets how long is waited.",
            worker=number,
            command="setup",
        )

    def _ready(self, worker: _Worker, reply: Future[Any]) -> None:
        worker.deadline_s = None
        worker.is_ready = reply.exception() is None
        if not worker.is_ready:
            self._lose(worker, reply.exception())

    def _settle(self, worker: _Worker, future: Future[Any], reply: Future[Any]) -> None:
        error = reply.exception()
        if error is not None and not isinstance(error, self._ray.exceptions.RayTaskError):
            self._lose(worker, error)
        with self._lock:
            method = worker.out.pop(future, None)
        if method is None:
            return  # it was told already
        if error is None:
            settle(future, worker.number, method, reply.result())
        else:  # Ray could not send what the method gave
            future.set_exception(call_error(worker.number, method, Failure.of(error)))

    def _lose(self, worker: _Worker, error: BaseException | None) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        how = f"was lost: {lines[0].strip().rstrip('.:')}"
        self._handle_exit(worker, functools.partial(death, worker.number, how))

    def _handle_exit(self, worker: _Worker, end: Callable[[], VectasksError]) -> None:
        """End an actor that is no good any more; what was out in it fails."""
        with self._lock:
            worker.deadline_s = worker.warn_s = None
            if worker.end is None:
                worker.end = end
                logger.warning("%s", end())
            end = worker.end
            out, worker.out = worker.out, {}
        with contextlib.suppress(Exception):  # it is dead already, or Ray was shut down
            self._ray.kill(worker.handle, no_restart=True)
        for future in out:
            future.set_exception(end())

    # -- from any thread ------------------------------------------------------------------------

    def submit(self, worker: int, call: Call) -> CallFuture:
        """Ask the actor."""
        future = CallFuture()
        future.set_running_or_notify_cancel()
        with self._lock:
            asked = self._workers[worker]
            end = asked.end
            if end is None:
                try:
                    reply = self._ask(asked.handle, call, future)
                except TypeError as error:  # what Ray raises where something cannot be pickled
                    raise unsendable_call(worker, call, error) from error
                asked.out[future] = call.method
        if end is not None:
            future.set_exception(end())
        else:
            self._when_done(reply, functools.partial(self._settle, asked, future))
        return future

    def _ask(self, actor: Any, call: Call, future: CallFuture) -> Future[Any]:
        """Have an actor make a call; its reply."""
        reply: Future[Any]
        if not self._tells_begun:
            reply = actor.call.remote(call).future()
            return reply
        taken = actor.take.remote(call).future()
        reply = actor.call_taken.remote().future()
        self._when_done(taken, lambda _: future.begin())
        return reply

    def restart(self, worker: int) -> None:
        """Kill the actor and make another, on whichever node has room."""
        with self._lock:
            old = self._workers[worker]
            old.end = old.end or functools.partial(death, worker, RESTARTED)
            self._workers[worker] = self._start(worker)
        self._to_do.put(_look_at_deadlines)
        self._handle_exit(old, old.end)

    def is_alive(self, worker: int) -> bool:
        """Tell whether its actor lives, as far as is known."""
        return self._workers[worker].end is None

    @property
    def pids(self) -> list[int | None]:
        """None: they may be on other machines."""
        return [None] * len(self._workers)

    def close(self, grace_s: float) -> Sequence[tuple[int, Failure]]:
        """Let the actors close their objects, then kill them."""
        failures = []
        if self._ray.is_initialized():  # at exit, Ray may have ended before
            failures = self._close_objects(grace_s)
        for worker in self._workers:
            worker.end = worker.end or functools.partial(death, worker.number, CLOSED)
            self._handle_exit(worker, worker.end)
        self._to_do.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()
        _connection.close(self._ray)
        return failures

    def _close_objects(self, grace_s: float) -> list[tuple[int, Failure]]:
        asked = {
            worker.handle.close.remote(): worker.number
            for worker in self._workers
            if worker.is_ready and worker.end is None
        }
        if not asked:
            return []
        closed, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=grace_s)
        failures = []
        for reference in closed:
            with contextlib.suppress(self._ray.exceptions.RayError):  # it died instead
                failure = self._ray.get(reference)
                if failure is not None:
                    failures.append((asked[reference], failure))
        return failures

    def forget(self) -> None:
        """Nothing: a fork cannot use Ray, and does not try."""


def _look_at_deadlines() -> None:
    """Do nothing, so that the thread finds out again how long it may wait."""
