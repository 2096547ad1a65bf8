"""Run whole episodes on a pool of runners, where stepping in lockstep is wasteful.

::

    schedule ──> queue, by batch and order ──> idle runner ── run_once ────> worker
                   ^       └─ its next one ──> busy runner ── send_ahead ─────>│
                   └─ failed: again, elsewhere first ──────── done callback <──┘
    get_results <── batch: done, not taken <── all parts of a task <──┘

Everything happens in one event loop, and whatever happens is an event: a part that is done, a
runner that is live again or to be probed, a wait that is over. Nothing polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vectasks._util.checks import is_whole_number, real_number, seconds_or_none, whole_number
from vectasks.errors import (
    InvalidArgument,
    ResourceLimit,
    SchedulerUnavailable,
    UnknownBatch,
    WaitTimeout,
)
from vectasks.pool.futures import CallFuture
from vectasks.pool.kinds import Kind, checked_kind
from vectasks.pool.pool import WorkerPool
from vectasks.rollouts.scheduler.queue import Part, PartQueue, parts_of
from vectasks.rollouts.scheduler.runner import (
    MAX_RETRY_TIMES,
    MAX_TIMEOUT_S,
    START_TIMEOUT_S,
    RunnerWrapper,
    Status,
    TaskWrapper,
    make_pool,
)
from vectasks.rollouts.scheduler.scheduled_batches import (
    Batch,
    BatchId,
    Result,
    Waiter,
    sort_batch_id,
)
from vectasks.rollouts.scheduler.standing import Standing

__all__ = ["RunnerWrapper", "Scheduler", "Status", "TaskWrapper", "sort_batch_id"]

logger: logging.Logger = logging.getLogger("vectasks")


class _Running(NamedTuple):
    """A part that a runner is running."""

    part: Part
    runner: RunnerWrapper


class Scheduler:
    """Runs tasks on a pool of runners, and gives their results by batch.

    All methods are for one event loop, that of :meth:`start`; ``async with`` starts and stops. What
    cancels the loop's tasks, as the end of ``asyncio.run`` does, stops it too.

    Args:
        make_runner: makes a runner, in its worker; whatever cloudpickle can carry. A runner has
            ``run_task(task, repeat_times, run_id_base)``, which gives a :class:`Status` and a list
            of experiences, or just ``run(task)``, called once a repeat (with ``run_id`` if it takes
            one), which gives an experience, a list of them, or None. Either may be async.
        num_runners: how many.
        backend: where they live: "process", "inline" (this process: async runners run side by side,
            others block the event loop and cannot be stopped) or "ray".
        max_timeout: seconds that one attempt at a task may take, from when the runner has it.
        max_retry_times: further attempts of a task that failed, each on another runner first.
        max_repeat_times_per_runner: a task with more repeats is split over several runners.
        start_timeout_s: how long ``make_runner`` may take, and a task to reach a runner and be
            rebuilt there, with what that imports; None: as long as it takes.
        close_grace_s: how long :meth:`stop` waits for runners to finish.
        resources: what each Ray actor is given, such as ``{"num_cpus": 2}``; otherwise Ray's own
            defaults hold: a free CPU to be placed, and none to run.

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
        start_timeout_s: float | None = START_TIMEOUT_S,
        close_grace_s: float = 5.0,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(make_runner):
            raise InvalidArgument(f"make_runner must be callable, got {make_runner!r}.")
        if max_repeat_times_per_runner is not None:
            max_repeat_times_per_runner = whole_number(
                "max_repeat_times_per_runner", max_repeat_times_per_runner, at_least=1
            )
        self._backend: Kind = checked_kind("backend", backend)
        if resources is not None and backend != "ray":
            raise InvalidArgument(f"resources are for backend='ray', not for {backend!r}.")
        self.max_timeout: float = real_number(
            "max_timeout", max_timeout, finite=False, positive=True
        )
        self.max_retry_times: int = whole_number("max_retry_times", max_retry_times)
        self.max_repeat_times_per_runner: int | None = max_repeat_times_per_runner
        self.num_runners: int = whole_number("num_runners", num_runners, at_least=1)
        self._make_runner = make_runner
        self._start_timeout_s = seconds_or_none("start_timeout_s", start_timeout_s)
        self._pool_options: dict[str, Any] = {
            "start_timeout_s": self._start_timeout_s,
            "close_grace_s": real_number("close_grace_s", close_grace_s),
            "resources": resources,
        }
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._pool: WorkerPool | None = None
        self._loops_end: AsyncGenerator[None, None] | None = None
        self._runners: list[RunnerWrapper] = []
        self._standing = Standing([])
        self._idle: deque[RunnerWrapper] = deque()
        self._mending: set[asyncio.Task[None]] = set()
        self._queue = PartQueue(self._may_run, self._take_in, self._dispatch_soon)
        self._running: dict[asyncio.Task[Any], _Running] = {}
        self._will_dispatch = False
        self._batches: dict[BatchId, Batch] = {}
        self._emptied: dict[BatchId, int] = {}  # batches of which nothing is left: the next run id
        self._task_done: asyncio.Future[None] | None = None  # somebody waits for the next one
        self._counts = dict.fromkeys(("scheduled", "succeeded", "failed", "cleared"), 0)
        self._num_retries = 0

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
        await self.stop()  # if anything is left of before: the loop's tasks were cancelled
        self._loop = asyncio.get_running_loop()
        try:
            self._loops_end = self._until_the_loop_ends()
            await self._loops_end.__anext__()
            self._pool = await asyncio.to_thread(
                make_pool, self._make_runner, self.num_runners, self._backend, **self._pool_options
            )
            self._runners = [self._new_runner(number) for number in range(self.num_runners)]
            self._standing = Standing(self._runners)
            self._num_retries = 0
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
            start_timeout_s=self._start_timeout_s,
            pool=self._pool,
        )

    async def stop(self) -> None:
        """End every runner; may be called twice. Drops open tasks; results can still be taken.

        Calls of :meth:`get_results` that wait return what is there; :meth:`wait_all` raises.
        """
        self._halt()
        await asyncio.gather(*self._running, *self._mending, return_exceptions=True)
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.close)
        loops_end, self._loops_end = self._loops_end, None
        if loops_end is not None:
            await loops_end.aclose()

    def _halt(self) -> None:
        """Begin no more tasks, and drop those that are not done."""
        if self._loop is None:
            return
        self._loop = None
        for batch in tuple(self._batches.values()):
            self._clear(batch)
        for task in (*self._running, *self._mending):
            task.cancel()
        self._idle.clear()
        self._queue.ahead.clear()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Stop at the loop's end: after all tasks, it closes what generators are open."""
        try:
            yield
        finally:
            self._loops_end = None
            await self.stop()

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
        """Queue tasks and return at once. Tasks scheduled under the same id join one batch.

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
        if is_whole_number(batch_id):
            batch_id = int(batch_id)
        elif not isinstance(batch_id, str):
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
        idle = [runner for runner in self._idle if self._standing.may_begin(runner)]
        self._queue.take_back(idle)
        while (found := self._queue.pop(idle)) is not None:
            runner, part = found
            idle.remove(runner)
            self._idle.remove(runner)
            self._begin(runner, part, None)
        for running in self._running.values():
            self._send_ahead(running.runner)

    def _may_run(self, runner: RunnerWrapper, part: Part) -> bool:
        """Tell whether a runner may run a part: a retry goes to another one first."""
        if not part.has_failed_on(runner):
            return True
        return all(part.has_failed_on(other) for other in self._standing.trusted)

    def _send_ahead(self, runner: RunnerWrapper) -> None:
        if not self._standing.is_set_aside(runner):  # it is probed with one
            self._queue.send_ahead(runner)

    def _begin(self, runner: RunnerWrapper, part: Part, sent: CallFuture | None) -> None:
        assert self._loop is not None
        task = self._loop.create_task(runner.run_once(part.wrapper, sent))
        self._running[task] = _Running(part, runner)
        task.add_done_callback(self.task_done_callback)
        self._loop.call_soon(self._send_ahead, runner)  # when the task has asked the runner

    def task_done_callback(self, async_task: asyncio.Task[Any]) -> None:
        """Record the result of an attempt, and keep its runner busy; asyncio calls this."""
        part, runner = self._running.pop(async_task)
        if self._loop is None:
            return
        if async_task.cancelled():
            self._cancelled(part, runner)
        elif (error := async_task.exception()) is not None:
            logger.error("running a task of batch %r failed: %s", part.wrapper.batch_id, error)
            self._take_in(part, (Status(False, {}, f"the scheduler could not run it: {error}"), []))
            self._free(runner)
        elif async_task.result()[0].ok:
            self._standing.succeeded(runner)
            self._take_in(part, async_task.result())
            self._go_on(runner)
        else:
            self._failed(part, runner, async_task.result())

    def _cancelled(self, part: Part, runner: RunnerWrapper) -> None:
        if part.scheduled.is_cleared:
            self._queue.give_back(runner)
            self._mend(runner)
        else:  # by somebody else, who cancels everything
            self._halt()

    def _failed(self, part: Part, runner: RunnerWrapper, result: Result) -> None:
        pause_s = self._standing.failed(runner, part)
        if pause_s is not None and self._loop is not None:
            self._loop.call_later(pause_s, self._dispatch)
        part.note_failure(runner)
        num_attempts = 1 + self.max_retry_times
        runner.log_failure(part.wrapper, len(part.failed_on), num_attempts, result[0])
        if len(part.failed_on) == num_attempts or part.scheduled.is_cleared:
            self._take_in(part, result)
        else:
            self._num_retries += 1
            self._queue.put(part)
        self._free(runner)

    def _free(self, runner: RunnerWrapper) -> None:
        """Give a runner that failed the first part of the queue, after a restart if needed."""
        self._queue.give_back(runner)
        if runner.is_alive:
            self._idle.append(runner)
        else:
            self._mend(runner)
        self._dispatch()

    def _go_on(self, runner: RunnerWrapper) -> None:
        """Let a runner that succeeded go on with the part sent ahead, or the first of the queue."""
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
        """Restart a runner whose current part was cleared."""
        if self._loop is not None:
            task = self._loop.create_task(self._restart(runner))
            self._mending.add(task)
            task.add_done_callback(self._mended)

    def _mended(self, task: asyncio.Task[None]) -> None:
        self._mending.discard(task)
        if task.cancelled():  # by somebody who cancels everything
            self._halt()

    async def _restart(self, runner: RunnerWrapper) -> None:
        try:
            await runner.restart_runner()
        except ResourceLimit as error:  # it is tried again when the runner is used next
            logger.warning("runner %d could not be restarted: %s", runner.runner_id, error)
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

        Returns when ``min_num`` results are there, when no more can come, or after ``timeout``. All
        tasks end, for each of their attempts has a limit of its own.

        Args:
            batch_id: the batch.
            min_num: take so many, the first that are done, and leave the others; None: as many as
                are scheduled and not taken yet.
            timeout: seconds; None: as long as it takes. 0 takes what is there and clears nothing.
            clear_timeout_tasks: when that time is over, drop what is not done, and restart the
                runners that are at it; otherwise it goes on, for a later call.

        Returns:
            a Status for each task, and the experiences of all of them in the same order. Both are
            empty where all was taken before.

        Raises:
            UnknownBatch: nothing was ever scheduled under this id.
            InvalidArgument: a negative ``min_num`` or ``timeout``, or what is no number.
        """
        timeout = seconds_or_none("timeout", timeout)
        if min_num is not None:
            min_num = whole_number("min_num", min_num)
        batch = self._batches.get(batch_id)
        if batch is None:
            if batch_id not in self._emptied:
                raise UnknownBatch(
                    f"get_results: nothing was ever scheduled under the batch id {batch_id!r}."
                )
            return [], []
        if min_num is None:
            min_num = len(batch.out) + len(batch.done)
        results = await self._wait_for(batch, min_num, timeout)
        if results is None:
            if clear_timeout_tasks and timeout != 0:
                self._clear(batch)
            results = batch.take(min_num)
        self._retire(batch)
        return [status for status, _ in results], [e for _, given in results for e in given]

    async def _wait_for(
        self, batch: Batch, min_num: int, timeout_s: float | None
    ) -> list[Result] | None:
        """Wait for so many results of a batch; return None if they do not come in time."""
        if batch.has(min_num):
            return batch.take(min_num)
        if timeout_s == 0:
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
        """Put back results that were taken for a call that was cancelled meanwhile."""
        if batch.batch_id not in self._batches:
            self._batches[batch.batch_id] = batch
            self._emptied.pop(batch.batch_id, None)
        current = self._batches[batch.batch_id]
        current.done.extendleft(reversed(results))
        current.serve()

    def has_step(self, batch_id: BatchId) -> bool:
        """Tell whether a batch has open tasks, or results that were not taken."""
        return batch_id in self._batches

    async def wait_all(
        self, timeout: float | None = None, clear_timeout_tasks: bool = True
    ) -> None:
        """Wait until no task is open; results stay until they are taken.

        Args:
            timeout: seconds in which no task at all is completed; None: as long as it takes.
            clear_timeout_tasks: when that time is over, drop what is not done.

        Raises:
            WaitTimeout: (a TimeoutError) no task was completed for so long.
            SchedulerUnavailable: the scheduler was stopped meanwhile.
            InvalidArgument: a negative ``timeout``, or what is no number.
        """
        limit_s = seconds_or_none("timeout", timeout)
        while num_out := self._num_out():
            loop = self._require_running("wait_all")
            if self._task_done is None:
                self._task_done = loop.create_future()
            done, _ = await asyncio.wait([self._task_done], timeout=limit_s)
            if self._loop is None:
                raise SchedulerUnavailable(
                    f"wait_all: the scheduler was stopped, and {num_out} tasks were dropped."
                )
            if not done and limit_s is not None:
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
        """Drop the open tasks of a batch."""
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
        """Forget an empty batch, except that its id was scheduled."""
        if not batch.out and not batch.done and self._batches.get(batch.batch_id) is batch:
            del self._batches[batch.batch_id]
            self._emptied[batch.batch_id] = batch.next_run_id

    def stats(self) -> dict[str, Any]:
        """Return counts since the scheduler was made, and its current state.

        Returns:
            tasks ``scheduled``, ``succeeded``, ``failed`` and ``cleared``; parts ``queued`` (sent
            ahead or not) and ``running``; ``idle_runners``; ``set_aside``: the ids of runners that
            fail while others do better, and get one task now and then; ``retries`` and
            ``restarts`` of all runners since start(); ``batches``, for each that is not emptied
            the tasks ``out`` and ``done``.
        """
        return {
            **self._counts,
            "queued": len(self._queue),
            "running": len(self._running),
            "idle_runners": len(self._idle),
            "set_aside": [
                runner.runner_id for runner in self._runners if self._standing.is_set_aside(runner)
            ],
            "retries": self._num_retries,
            "restarts": sum(runner.num_restarts for runner in self._runners),
            "batches": {
                batch_id: {"out": len(batch.out), "done": len(batch.done)}
                for batch_id, batch in self._batches.items()
            },
        }


def _wrapped(task: Any, batch_id: BatchId) -> TaskWrapper:
    if isinstance(task, TaskWrapper):
        wrapper = task
    else:
        wrapper = TaskWrapper(task, batch_id, repeat_times=getattr(task, "repeat_times", 1))
    return replace(
        wrapper,
        batch_id=batch_id,
        run_id_base=whole_number("run_id_base", wrapper.run_id_base),
        repeat_times=whole_number("repeat_times", wrapper.repeat_times, at_least=1),
    )
