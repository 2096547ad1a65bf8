"""Runners: what runs a scheduled task, where it lives, and how it is kept alive.

::

    Scheduler                          worker of a pool
    RunnerWrapper.run_with_retry ───>  RunnerHost ── run_task(task, ...) ──> the user's runner
      (Status, experiences)     <───             └── or run(task), once a repeat
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import numbers
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vectasks.errors import CallError, InvalidArgument, ResourceLimit, SetupError, WorkerDied
from vectasks.host import takes
from vectasks.workers.kinds import Kind
from vectasks.workers.pool import WorkerPool

__all__ = ["RunnerWrapper", "Status", "TaskWrapper"]

logger: logging.Logger = logging.getLogger("vectasks")

MAX_TIMEOUT_S = 900.0
MAX_RETRY_TIMES = 2

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Status:
    """How a scheduled task went.

    Attributes:
        ok: whether all of its runs succeeded.
        metrics: of its runs: their means. A runner's own ``run_task`` may also give a list, one
            mapping a run.
        message: what went wrong.
    """

    ok: bool
    metrics: Metrics | Sequence[Metrics] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True)
class TaskWrapper:
    """A task and how often to run it; or a part of these runs, for one runner.

    Attributes:
        task: what the runner is given; anything that can be pickled.
        batch_id: the batch it belongs to.
        run_id_base: the id of its first run; the next ones count up. (Of a task that is to be
            scheduled: is added to the ids, which count the runs of its batch.)
        repeat_times: how many runs.
    """

    task: Any
    batch_id: int | str
    run_id_base: int = 0
    repeat_times: int = 1


def mean_metrics(runs: Iterable[tuple[Metrics, int]]) -> dict[str, float]:
    """The mean of every number, over the runs that tell it; what is no number is left out.

    Args:
        runs: metrics, and of how many runs they are the mean.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for metrics, count in runs:
        for name, value in metrics.items():
            number = _as_number(value)
            if number is not None:
                sums[name] = sums.get(name, 0.0) + number * count
                counts[name] = counts.get(name, 0) + count
    return {name: total / counts[name] for name, total in sums.items()}


def _as_number(value: Any) -> float | None:
    is_scalar = getattr(value, "shape", None) == () and not isinstance(value, (str, bytes))
    if not isinstance(value, numbers.Real) and not is_scalar:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):  # a scalar, but of dates, say
        return None


class RunnerHost:
    """Holds a runner where it lives, and runs tasks on it in whichever way it knows.

    Args:
        make_runner: makes it.

    Raises:
        TypeError: it has neither ``run_task`` nor ``run``.
    """

    def __init__(self, make_runner: Callable[[], Any]) -> None:
        runner = self._runner = make_runner()
        self._run_task: Any = getattr(runner, "run_task", None)
        self._run: Any = getattr(runner, "run", None)
        if not callable(self._run_task) and not callable(self._run):
            raise TypeError(
                f"make_runner gave a {type(runner).__name__}, which can run nothing: a runner has "
                "run_task(task, repeat_times, run_id_base) or run(task), plain or async."
            )
        self._takes_run_id = self._run is not None and takes(self._run, "run_id")
        self._went_well = False  # what it was at last

    def ready(self) -> None:
        """Answers once the runner is made."""

    def run_task(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        """Run a task so many times: a Status and its experiences, or an awaitable of the two."""
        self._went_well = False
        return _drive(self._steps(task, repeat_times, run_id_base))

    def run_next(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        """Run a task if the last one went well: it may be tried again first. None: it did not."""
        return self.run_task(task, repeat_times, run_id_base) if self._went_well else None

    def _steps(self, task: Any, repeat_times: int, run_id_base: int) -> _Steps:
        status, experiences = yield from self._runs(task, repeat_times, run_id_base)
        self._went_well = status.ok
        return status, experiences

    def _runs(self, task: Any, repeat_times: int, run_id_base: int) -> _Steps:
        if self._run_task is not None:
            given = yield self._run_task(task, repeat_times, run_id_base)
            return _checked(given)
        metrics: list[Metrics] = []
        experiences: list[Any] = []
        for run_id in range(run_id_base, run_id_base + repeat_times):
            given = yield self._run(task, run_id=run_id) if self._takes_run_id else self._run(task)
            of_run = [] if given is None else given if type(given) is list else [given]
            metrics.append(mean_metrics((_metrics_of(experience), 1) for experience in of_run))
            experiences += of_run
        return Status(True, metrics), experiences

    def close(self) -> Any:
        """Close the runner, if it has a ``close()``."""
        close = getattr(self._runner, "close", None)
        return close() if callable(close) else None


#: Yields what may be awaitable, is sent what that gave, and returns a Status and experiences.
_Steps = Generator[Any, Any, tuple[Status, list[Any]]]


def _drive(steps: _Steps) -> Any:
    """What the steps return; an awaitable of it from the first awaitable step on."""
    given = None
    try:
        while True:
            given = steps.send(given)
            if inspect.isawaitable(given):
                return _drive_on(steps, given)
    except StopIteration as end:
        return end.value


async def _drive_on(steps: _Steps, given: Any) -> Any:
    try:
        while True:
            given = steps.send(await given if inspect.isawaitable(given) else given)
    except StopIteration as end:
        return end.value


def _checked(given: Any) -> tuple[Status, list[Any]]:
    try:
        status, experiences = given
        metrics = status.metrics
        if not isinstance(metrics, Mapping):
            metrics = [dict(of_run) for of_run in metrics]
        return Status(bool(status.ok), metrics, str(status.message)), list(experiences)
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            f"run_task must return a Status and a list of experiences, got {given!r:.200}."
        ) from error


def _metrics_of(experience: Any) -> Metrics:
    if isinstance(experience, Mapping):
        metrics = experience.get("metrics")
    else:
        metrics = getattr(experience, "metrics", None)
    return metrics if isinstance(metrics, Mapping) else {}


class RunnerWrapper:
    """One runner in a worker, begun anew when it hangs or dies.

    Args:
        runner_id: its number; in a pool that it shares, its worker's.
        make_runner: makes the runner, in the worker.
        backend: what kind of worker: "process", "inline" or "ray".
        max_timeout: how many seconds one attempt at a task may take.
        max_retry_times: how many further attempts a task has.
        when_failed: called when an attempt failed, so that what was sent ahead is not begun.
        pool: the pool whose worker ``runner_id`` holds a :class:`RunnerHost`; None: one of its own,
            which :meth:`close` closes.

    Attributes:
        num_retries: attempts after the first one, all tasks together.
        num_restarts: how often the runner was begun anew.
    """

    def __init__(
        self,
        runner_id: int,
        make_runner: Callable[[], Any],
        *,
        backend: Kind = "process",
        max_timeout: float = MAX_TIMEOUT_S,
        max_retry_times: int = MAX_RETRY_TIMES,
        when_failed: Callable[[RunnerWrapper], None] | None = None,
        pool: WorkerPool | None = None,
    ) -> None:
        self.runner_id = runner_id
        self.max_timeout = max_timeout
        self.max_retry_times = max_retry_times
        self.num_retries: int = 0
        self.num_restarts: int = 0
        self._when_failed = when_failed
        self._make_pool = functools.partial(make_pool, make_runner, 1, backend)
        self._pool = pool
        self._worker = 0 if pool is None else runner_id
        self._owns_pool = pool is None
        self._is_fit = True  # neither hung nor failed in its making
        self._is_ready = False  # made, as far as is known

    async def prepare(self) -> None:
        """Wait until the runner is made; it has as many attempts as a task has.

        Raises:
            SetupError: ``make_runner`` failed in all of them. WorkerDied: its worker died.
            InvalidArgument: ``make_runner`` cannot be pickled.
        """
        for attempts_left in reversed(range(1 + self.max_retry_times)):
            try:
                await self._be_ready()
                return
            except (SetupError, WorkerDied, ResourceLimit):
                if not attempts_left:
                    raise

    def send_ahead(self, task: TaskWrapper) -> Future[Any] | None:
        """Send a busy runner what it is to run next, so that it need not wait for it.

        It runs it unless an attempt at what it is at fails, or the future is cancelled before.

        Returns:
            the future, for :meth:`run_with_retry` when its turn has come; None: it has no room.
        """
        is_busy = self._is_ready and not self._is_fit
        if self._pool is None or not is_busy:
            return None
        try:
            return self._pool.submit_ahead_at(self._worker, "run_next", *_arguments(task))
        except InvalidArgument:  # its own attempts will tell
            return None

    async def run_with_retry(
        self, task: TaskWrapper, sent: Future[Any] | None = None
    ) -> tuple[Status, list[Any], int]:
        """Run a task, or a part of its runs, in up to 1 + ``max_retry_times`` attempts.

        Each attempt is on a live runner: one that hangs or dies is killed and begun anew at once.

        Args:
            task: the task.
            sent: what :meth:`send_ahead` gave for it, if what was before it went well.

        Returns:
            how it went, what its runs gave, and ``runner_id``.
        """
        status = Status(False)
        experiences: list[Any] = []
        for attempt in range(1 + self.max_retry_times):
            self.num_retries += attempt > 0
            status, experiences = await self._attempt(task, sent)
            if status.ok:
                break
            sent = None
            if self._when_failed is not None:
                self._when_failed(self)
            logger.warning(
                "runner %d, attempt %d of %d at a task of batch %r: %s",
                *(self.runner_id, attempt + 1, 1 + self.max_retry_times),
                *(task.batch_id, status.message),
            )
        return status, experiences, self.runner_id

    async def _attempt(
        self, task: TaskWrapper, sent: Future[Any] | None
    ) -> tuple[Status, list[Any]]:
        try:
            if sent is None:
                await self._be_ready()  # which has time of its own
                sent = self._submit("run_task", *_arguments(task))
            outcome: tuple[Status, list[Any]] = await self._answer_of(sent, self.max_timeout)
            return outcome
        except _Late:
            doing = await asyncio.to_thread(self._describe)
            told = f"no answer within {self.max_timeout:g} s, and the runner was killed. {doing}"
        except (CallError, SetupError, WorkerDied, ResourceLimit, InvalidArgument) as error:
            told = f"{type(error).__name__}: {error}"
        if not self._is_alive:
            with contextlib.suppress(ResourceLimit):  # the next attempt tries again, and tells
                await self.restart_runner()
        return Status(False, {}, told), []

    async def _be_ready(self) -> None:
        """Wait until the runner is made, anew where it hung or died."""
        if self._pool is None:
            self._pool = await asyncio.to_thread(self._make_pool)
        if not self._is_alive:
            await self.restart_runner()
        if not self._is_ready:
            await self._answer_of(self._submit("ready"), None)
            self._is_ready = True

    def _submit(self, method: str, *arguments: Any) -> Future[Any]:
        assert self._pool is not None
        return self._pool.submit_at(self._worker, method, *arguments)

    async def _answer_of(self, future: Future[Any], timeout_s: float | None) -> Any:
        """What a method of the runner's host gave."""
        self._is_fit = False  # unless it answers
        try:
            answer = await _result_of(future, timeout_s)
        except CallError:
            self._is_fit = True
            raise
        self._is_fit = True
        return answer

    @property
    def _is_alive(self) -> bool:
        return self._is_fit and self._pool is not None and self._pool.is_alive(self._worker)

    def _describe(self) -> str:
        return "" if self._pool is None else self._pool.describe(self._worker)

    async def restart_runner(self) -> None:
        """Kill the runner and begin it anew; what it was at fails.

        Raises:
            ResourceLimit: it could not be started again.
        """
        if self._pool is not None:
            self.num_restarts += 1
            self._is_ready = False
            await asyncio.to_thread(self._pool.restart_at, self._worker)
            self._is_fit = True

    async def close(self) -> None:
        """End the runner, if its pool is its own."""
        if self._owns_pool and self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.close)


def _arguments(task: TaskWrapper) -> tuple[Any, int, int]:
    """What the host's methods take."""
    return task.task, task.repeat_times, task.run_id_base


class _Late(Exception):
    """An answer did not come in time; a TimeoutError may be somebody else's."""


async def _result_of(future: Future[Any], timeout_s: float | None) -> Any:
    """Await a pool's future, which goes on if this is cancelled or late.

    (``wait_for`` and ``wrap_future`` do the same with a further task and three more turns of the
    loop, in which the runner would have nothing to do.)

    Raises:
        _Late: it took longer than ``timeout_s``.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bool] = loop.create_future()

    def tell(is_there: bool) -> None:
        if not told.done():
            told.set_result(is_there)

    when_done(future, functools.partial(tell, True))
    timer = None if timeout_s is None else loop.call_later(timeout_s, tell, False)
    try:
        is_there = await told
    finally:
        if timer is not None:
            timer.cancel()
    if not is_there:
        raise _Late
    return future.result()


def when_done(future: Future[Any], callback: Callable[[], None]) -> None:
    """Call back in the running event loop when a pool's future is done."""
    loop = asyncio.get_running_loop()

    def come(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback)

    future.add_done_callback(come)


def make_pool(
    make_runner: Callable[[], Any], num_runners: int, backend: Kind, **options: Any
) -> WorkerPool:
    """A pool whose workers hold runners.

    Raises:
        InvalidArgument: ``make_runner`` cannot be pickled, or the number or backend is wrong.
    """
    return WorkerPool(
        functools.partial(RunnerHost, make_runner), num_runners, kind=backend, **options
    )
