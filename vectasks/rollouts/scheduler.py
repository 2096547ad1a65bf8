"""Whole episodes on a pool of runners, for where stepping in lockstep is wasteful.

::

    schedule ──> queue, by batch and order ──> idle runner ── run_with_retry ──> worker
                           └─ its next one ──> busy runner ── send_ahead ─────────>│
    get_results <── batch: done, not taken <── all parts of a task <── done callback

Everything happens in one event loop, and whatever happens is an event: a part that is done, a
runner that is live again, a wait that is over. Nothing polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from vectasks.errors import (
    InvalidArgument,
    ResourceLimit,
    SchedulerUnavailable,
    UnknownBatch,
    WaitTimeout,
)
from vectasks.rollouts.batches import Batch, BatchId, Result, Waiter, sort_batch_id
from vectasks.rollouts.parts import Part, PartQueue, parts_of
from vectasks.rollouts.runner import (
    MAX_RETRY_TIMES,
    MAX_TIMEOUT_S,
    RunnerWrapper,
    Status,
    TaskWrapper,
    make_pool,
)
from vectasks.workers.kinds import Kind
from vectasks.workers.pool import WorkerPool

__all__ = ["RunnerWrapper", "Scheduler", "Status", "TaskWrapper", "sort_batch_id"]

logger: logging.Logger = logging.getLogger("vectasks")


class _Running(NamedTuple):
    """A part that a runner is at."""

    part: Part
    runner: RunnerWrapper


class Scheduler:
    """Runs tasks on a pool of runners, and gives their results by batch.

    All methods are for one event loop, that of :meth:`start`; ``async with`` starts and stops.

    Args:
        make_runner: makes a runner, in its worker; whatever cloudpickle can carry. A runner has
            ``run_task(task, repeat_times, run_id_base)``, which gives a :class:`Status` and a list
            of experiences, or just ``run(task)``, called once a repeat (with ``run_id`` if it takes
            one), which gives an experience, a list of them, or None. Either may be async.
        num_runners: how many.
        backend: where they live: "process", "inline" (this process: async runners run side by side,
            others block the event loop and cannot be stopped) or "ray".
        max_timeout: seconds that one attempt at a task may take; also what :meth:`get_results` and
            :meth:`wait_all` wait unless told otherwise.
        max_retry_times: further attempts of a task that failed.
        max_repeat_times_per_runner: a task with more repeats is split over several runners.
        start_timeout_s: how long ``make_runner`` may take.
        close_grace_s: how long :meth:`stop` waits for runners to finish.
        resources: what each Ray actor is given, such as ``{"num_cpus": 2}``.

    Raises:
        InvalidArgument: an argument has a value that cannot be.
    """

    def __init__(
        self,
        make_runner: Callable[[], Any],
        num_runners: int,
        *,
        backend: Kind = "process",
        max_timeout: float = MAX_TIMEOUT_S,
        max_retry_times: int = MAX_RETRY_TIMES,
        max_repeat_times_per_runner: int | None = None,
        start_timeout_s: float | None = 300.0,
        close_grace_s: float = 5.0,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(make_runner):
            raise InvalidArgument(f"make_runner must be callable, got {make_runner!r}.")
        _require_at_least("num_runners", num_runners, 1)
        _require_at_least("max_retry_times", max_retry_times, 0)
        if max_repeat_times_per_runner is not None:
            _require_at_least("max_repeat_times_per_runner", max_repeat_times_per_runner, 1)
        if max_timeout <= 0:
            raise InvalidArgument(f"max_timeout must be positive, got {max_timeout!r}.")
        self.max_timeout = max_timeout
        self.max_retry_times = max_retry_times
        self.max_repeat_times_per_runner = max_repeat_times_per_runner
        self.num_runners = num_runners
        self._make_runner = make_runner
        self._backend: Kind = backend
        self._pool_options: dict[str, Any] = {
            "start_timeout_s": start_timeout_s,
            "close_grace_s": close_grace_s,
            "resources": resources,
        }
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._pool: WorkerPool | None = None
        self._runners: list[RunnerWrapper] = []
        self._idle: deque[RunnerWrapper] = deque()
        self._mending: set[asyncio.Task[None]] = set()
        self._queue = PartQueue(self._take_in, self._dispatch_soon)
        self._running: dict[asyncio.Task[Any], _Running] = {}
        self._will_dispatch = False
        self._batches: dict[BatchId, Batch] = {}
        self._emptied: dict[BatchId, int] = {}  # batches of which nothing is left: the next run id
        self._task_done: asyncio.Future[None] | None = None  # somebody waits for the next one
        self._counts = dict.fromkeys(("scheduled", "succeeded", "failed", "cleared"), 0)

    # -- start and stop -------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the runners, and wait until they are made.

        Raises:
            SetupError: ``make_runner`` failed in every attempt. WorkerDied: its worker died.
            InvalidArgument: ``make_runner`` cannot be pickled.
            SchedulerUnavailable: it is running already.
        """
        if self._loop is not None:
            raise SchedulerUnavailable("start: the scheduler is running; stop() it first.")
        self._loop = asyncio.get_running_loop()
        try:
            self._pool = await asyncio.to_thread(
                make_pool, self._make_runner, self.num_runners, self._backend, **self._pool_options
            )
            self._runners = [self._new_runner(number) for number in range(self.num_runners)]
            prepared = await asyncio.gather(
                *(runner.prepare() for runner in self._runners), return_exceptions=True
            )
            for error in prepared:
                if error is not None:
                    raise error
        except BaseException:
            await self.stop()
            raise
        self._idle.extend(self._runners)
        self._dispatch()

    def _new_runner(self, number: int) -> RunnerWrapper:
        return RunnerWrapper(
            number,
            self._make_runner,
            max_timeout=self.max_timeout,
            max_retry_times=self.max_retry_times,
            when_failed=self._queue.give_back,
            pool=self._pool,
        )

    async def stop(self) -> None:
        """End every runner; works twice. What is not done is dropped, what is done can be taken.

        Calls of :meth:`get_results` that wait return what is there; :meth:`wait_all` raises.
        """
        if self._loop is None:
            return
        self._loop = None  # nothing is dispatched any more
        pool, self._pool = self._pool, None
        for batch in tuple(self._batches.values()):
            self._clear(batch)
        ending = [*self._running, *self._mending]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._idle.clear()
        self._queue.ahead.clear()
        if pool is not None:
            await asyncio.to_thread(pool.close)

    async def __aenter__(self) -> Scheduler:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _require_running(self, what: str) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise SchedulerUnavailable(
                f"{what}: the scheduler is not running; await start() first."
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise SchedulerUnavailable(
                f"{what}: this is not in the event loop that start() was awaited in; call it from "
                "a coroutine there."
            )
        return loop

    # -- scheduling -----------------------------------------------------------------------------

    def schedule(self, tasks: Sequence[Any], batch_id: BatchId) -> None:
        """Queue tasks; returns at once. What is scheduled under one id twice adds up.

        Batches with smaller integers come first, ``"3/..."`` right after 3, other names last;
        within a batch, the first in is the first out.

        Args:
            tasks: a list. One that has a ``repeat_times`` is run so often; :class:`TaskWrapper`
                gives it to any other. The runs of a batch are numbered from 0.
            batch_id: an integer or a string.

        Raises:
            SchedulerUnavailable: before start(), after stop(), or outside the event loop.
            InvalidArgument: no list, no such batch id, or fewer than one repeat; nothing was
                scheduled.
        """
        self._require_running("schedule")
        if not isinstance(batch_id, (int, str)):
            raise InvalidArgument(f"batch_id must be an integer or a string, got {batch_id!r}.")
        if isinstance(tasks, (str, bytes, Mapping)) or not isinstance(tasks, Iterable):
            raise InvalidArgument(f"schedule takes a list of tasks, got {tasks!r:.200}.")
        wrappers = [_wrapped(task, batch_id) for task in tasks]
        batch = self._batches.get(batch_id)
        if batch is None:
            batch = self._batches[batch_id] = Batch(batch_id, self._emptied.pop(batch_id, 0))
        for wrapper in wrappers:
            for part in parts_of(batch, wrapper, self.max_repeat_times_per_runner):
                self._queue.put(part)
        self._counts["scheduled"] += len(wrappers)
        self._retire(batch)
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Dispatch once everything that is being scheduled now is queued."""
        if self._loop is not None and not self._will_dispatch:
            self._will_dispatch = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give the idle runners the first parts of the queue, and the others the next ones."""
        self._will_dispatch = False
        if self._loop is None:
            return
        self._queue.take_back(len(self._idle))
        while self._idle and (part := self._queue.pop()) is not None:
            self._begin(self._idle.popleft(), part, None)
        for running in self._running.values():
            self._queue.send_ahead(running.runner)

    def _begin(self, runner: RunnerWrapper, part: Part, sent: Future[Any] | None) -> None:
        assert self._loop is not None
        task = self._loop.create_task(runner.run_with_retry(part.wrapper, sent))
        self._running[task] = _Running(part, runner)
        task.add_done_callback(self.task_done_callback)
        self._loop.call_soon(self._queue.send_ahead, runner)  # when the task has asked the runner

    def task_done_callback(self, async_task: asyncio.Task[Any]) -> None:
        """Take in what a runner gave, and keep it busy; asyncio calls this."""
        part, runner = self._running.pop(async_task)
        if async_task.cancelled() and part.scheduled.is_cleared:
            self._queue.give_back(runner)
            self._mend(runner)
            return
        if async_task.cancelled() or async_task.exception() is not None:
            error = "cancelled" if async_task.cancelled() else async_task.exception()
            logger.error("running a task of batch %r failed: %s", part.wrapper.batch_id, error)
            result: Result = Status(False, {}, f"the scheduler could not run it: {error}"), []
            self._queue.give_back(runner)
        else:
            status, experiences, _ = async_task.result()
            result = status, experiences
        self._take_in(part, result)
        begun = self._queue.begun_by(runner)
        if begun is None:
            self._idle.append(runner)
            self._dispatch()
        elif begun[0].scheduled.is_cleared:
            self._mend(runner)
        else:
            self._begin(runner, *begun)

    def _take_in(self, part: Part, result: Result) -> None:
        scheduled = part.scheduled
        scheduled.parts[part.number] = result
        whole = scheduled.result()
        if whole is None or scheduled.is_cleared:
            return
        batch = scheduled.batch
        batch.out.discard(scheduled)
        batch.done.append(whole)
        self._counts["succeeded" if whole[0].ok else "failed"] += 1
        batch.serve()
        self._retire(batch)
        self._tell_progress()

    def _mend(self, runner: RunnerWrapper) -> None:
        """Begin a runner anew that is at something nobody wants any more."""
        if self._loop is not None:
            task = self._loop.create_task(self._restart(runner))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)

    async def _restart(self, runner: RunnerWrapper) -> None:
        try:
            await runner.restart_runner()
        except ResourceLimit as error:  # it is tried again when the runner is used next
            logger.warning("runner %d could not be begun anew: %s", runner.runner_id, error)
        self._idle.append(runner)
        self._dispatch()

    # -- results --------------------------------------------------------------------------------

    async def get_results(
        self,
        batch_id: BatchId,
        min_num: int | None = None,
        timeout: float | None = None,
        clear_timeout_tasks: bool = True,
    ) -> tuple[list[Status], list[Any]]:
        """Wait for results of a batch, and take them.

        Returns when ``min_num`` results are there, when no more can come, or after ``timeout``.

        Args:
            batch_id: the batch.
            min_num: take so many, the first that are done, and leave the others; None: as many as
                are scheduled and not taken yet.
            timeout: seconds; None: ``max_timeout``. 0 takes what is there and clears nothing.
            clear_timeout_tasks: when the time is over, drop what is not done, and begin the runners
                anew that are at it; otherwise it goes on, for a later call.

        Returns:
            a Status for each task, and the experiences of all of them in the same order. Both are
            empty where all was taken before.

        Raises:
            UnknownBatch: nothing was ever scheduled under this id.
            InvalidArgument: a negative ``min_num``.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            if batch_id not in self._emptied:
                raise UnknownBatch(
                    f"get_results: nothing was ever scheduled under the batch id {batch_id!r}."
                )
            return [], []
        if min_num is None:
            min_num = len(batch.out) + len(batch.done)
        _require_at_least("min_num", min_num, 0)
        results = await self._wait_for(batch, min_num, self._timeout(timeout))
        if results is None:
            if clear_timeout_tasks and timeout != 0:
                self._clear(batch)
            results = batch.take(min_num)
        self._retire(batch)
        return [status for status, _ in results], [e for _, given in results for e in given]

    async def _wait_for(self, batch: Batch, min_num: int, timeout_s: float) -> list[Result] | None:
        """So many results of a batch; None if they do not come in time."""
        if batch.has(min_num):
            return batch.take(min_num)
        if timeout_s <= 0:
            return None
        waiter = Waiter(min_num, self._require_running("get_results").create_future())
        batch.waiters.append(waiter)
        try:
            await asyncio.wait([waiter.future], timeout=timeout_s)
        except asyncio.CancelledError:
            if waiter.future.done():
                self._put_back(batch, waiter.future.result())
            raise
        finally:
            if waiter in batch.waiters:
                batch.waiters.remove(waiter)
        return waiter.future.result() if waiter.future.done() else None

    def _put_back(self, batch: Batch, results: list[Result]) -> None:
        """Have what was taken for a call that was cancelled in the last moment again."""
        if batch.batch_id not in self._batches:
            self._batches[batch.batch_id] = batch
            self._emptied.pop(batch.batch_id, None)
        current = self._batches[batch.batch_id]
        current.done.extendleft(reversed(results))
        current.serve()

    def _timeout(self, timeout: float | None) -> float:
        return self.max_timeout if timeout is None else timeout

    def has_step(self, batch_id: BatchId) -> bool:
        """Whether anything of a batch is out, or done and not taken."""
        return batch_id in self._batches

    async def wait_all(
        self, timeout: float | None = None, clear_timeout_tasks: bool = True
    ) -> None:
        """Wait until nothing is out; results stay where they are.

        Args:
            timeout: seconds in which no task at all is completed; None: ``max_timeout``.
            clear_timeout_tasks: when that time is over, drop what is not done.

        Raises:
            WaitTimeout: (a TimeoutError) no task was completed for so long.
            SchedulerUnavailable: the scheduler was stopped meanwhile.
        """
        limit_s = self._timeout(timeout)
        while num_out := self._num_out():
            loop = self._require_running("wait_all")
            if self._task_done is None:
                self._task_done = loop.create_future()
            done, _ = await asyncio.wait([self._task_done], timeout=limit_s)
            if self._loop is None:
                raise SchedulerUnavailable(
                    f"wait_all: the scheduler was stopped, and {num_out} tasks were dropped."
                )
            if not done:
                late = [batch for batch in self._batches.values() if batch.out]
                ids = ", ".join(repr(batch.batch_id) for batch in late)
                if clear_timeout_tasks:
                    for batch in late:
                        self._clear(batch)
                raise WaitTimeout(
                    f"wait_all: no task was completed within {limit_s:g} s, and {num_out} tasks of "
                    f"batches {ids} {'were dropped' if clear_timeout_tasks else 'are still out'}.",
                    sampler_ids=(),
                    timeout_s=limit_s,
                )

    def _num_out(self) -> int:
        return sum(len(batch.out) for batch in self._batches.values())

    def _tell_progress(self) -> None:
        if self._task_done is not None:
            self._task_done.set_result(None)
            self._task_done = None

    def _clear(self, batch: Batch) -> None:
        """Drop what is not done of a batch."""
        self._counts["cleared"] += len(batch.out)
        for scheduled in batch.out:
            scheduled.is_cleared = True
        batch.out.clear()
        self._queue.drop_cleared()
        for task, running in self._running.items():
            if running.part.scheduled.is_cleared:
                task.cancel()
        batch.serve()
        self._retire(batch)
        self._tell_progress()

    def _retire(self, batch: Batch) -> None:
        """Remember of a batch of which nothing is left only that it was there."""
        if not batch.out and not batch.done and self._batches.get(batch.batch_id) is batch:
            del self._batches[batch.batch_id]
            self._emptied[batch.batch_id] = batch.next_run_id

    def stats(self) -> dict[str, Any]:
        """Counts since it was made, and what goes on now.

        Returns:
            tasks ``scheduled``, ``succeeded``, ``failed`` and ``cleared``; parts ``queued`` (sent
            ahead or not) and ``running``; ``idle_runners``; ``retries`` and ``restarts`` of all
            runners since start(); ``batches``, for each that is not emptied the tasks ``out`` and
            ``done``.
        """
        return {
            **self._counts,
            "queued": len(self._queue),
            "running": len(self._running),
            "idle_runners": len(self._idle),
            "retries": sum(runner.num_retries for runner in self._runners),
            "restarts": sum(runner.num_restarts for runner in self._runners),
            "batches": {
                batch_id: {"out": len(batch.out), "done": len(batch.done)}
                for batch_id, batch in self._batches.items()
            },
        }


def _wrapped(task: Any, batch_id: BatchId) -> TaskWrapper:
    if isinstance(task, TaskWrapper):
        wrapper = replace(task, batch_id=batch_id)
    else:
        wrapper = TaskWrapper(task, batch_id, repeat_times=getattr(task, "repeat_times", 1))
    _require_at_least("repeat_times", wrapper.repeat_times, 1)
    return wrapper


def _require_at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name} must be an integer of at least {least}, got {value!r}.")
