"""Runners: the objects that run scheduled tasks, their workers, and their restarts.

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
import math
import numbers
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vectasks._util.checks import real_number, seconds_or_none, whole_number
from vectasks.errors import CallError, InvalidArgument, ResourceLimit, SetupError, WorkerDied
from vectasks.host.task_host import takes
from vectasks.pool.futures import CallFuture
from vectasks.pool.kinds import Kind, checked_kind
from vectasks.pool.pool import WorkerPool

__all__ = ["RunnerWrapper", "Status", "TaskWrapper"]

logger: logging.Logger = logging.getLogger("vectasks")

MAX_TIMEOUT_S = 900.0
MAX_RETRY_TIMES = 2
START_TIMEOUT_S = 300.0

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Status:
    """The status of a scheduled task.

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
    """Average every number over the runs that report it; leave out what is no number.

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
    """Holds a runner in its worker, and runs tasks by whichever method the runner has.

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
        """Answer once the runner is made."""

    def run_task(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        """Run a task so often; return a Status and its experiences, or an awaitable of both."""
        self._went_well = False
        return _drive(self._runs(task, repeat_times, run_id_base))

    def run_next(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        """Run a task if the last one succeeded; else return None: it may be retried first."""
        return self.run_task(task, repeat_times, run_id_base) if self._went_well else None

    def _runs(self, task: Any, repeat_times: int, run_id_base: int) -> _Steps:
        if self._run_task is not None:
            status, given = _checked((yield self._run_task(task, repeat_times, run_id_base)))
            self._went_well = status.ok
            return status, given
        metrics: list[Metrics] = []
        experiences: list[Any] = []
        for run_id in range(run_id_base, run_id_base + repeat_times):
            given = yield self._run(task, run_id=run_id) if self._takes_run_id else self._run(task)
            of_run = [] if given is None else given if type(given) is list else [given]
            metrics.append(mean_metrics((_metrics_of(experience), 1) for experience in of_run))
            experiences += of_run
        self._went_well = True
        return Status(True, metrics), experiences

    def close(self) -> Any:
        """Close the runner, if it has a ``close()``."""
        close = getattr(self._runner, "close", None)
        return close() if callable(close) else None


#: Yields what may be awaitable, is sent what that gave, and returns a Status and experiences.
_Steps = Generator[Any, Any, tuple[Status, list[Any]]]


def _drive(steps: _Steps) -> Any:
    """Run the steps and return their result, or an awaitable of it if a step is awaitable."""
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
    """One runner in a worker, restarted when it hangs or dies.

    Args:
        runner_id: its number; in a pool that it shares, its worker's.
        make_runner: makes the runner, in the worker.
        backend: what kind of worker: "process", "inline" or "ray".
        max_timeout: how many seconds one attempt at a task may take, from when the runner has it.
        max_retry_times: how many further attempts a task has.
        start_timeout_s: how many seconds ``make_runner`` may take, and a task to reach the runner
            and be rebuilt there, with what that imports; None: as long as it takes.
        pool: the pool whose worker ``runner_id`` holds a :class:`RunnerHost`; None: one of its own,
            which :meth:`close` closes.

    Attributes:
        num_retries: attempts after the first one, all tasks of :meth:`run_with_retry` together.
        num_restarts: how often the runner was restarted.

    Raises:
        InvalidArgument: an argument has a value that cannot be.
    """

    def __init__(
        self,
        runner_id: int,
        make_runner: Callable[[], Any],
        *,
        backend: Kind = "process",
        max_timeout: float = MAX_TIMEOUT_S,
        max_retry_times: int = MAX_RETRY_TIMES,
        start_timeout_s: float | None = START_TIMEOUT_S,
        pool: WorkerPool | None = None,
    ) -> None:
        self.runner_id: int = whole_number("runner_id", runner_id)
        self.max_timeout: float = real_number(
            "max_timeout", max_timeout, finite=False, positive=True
        )
        self.max_retry_times: int = whole_number("max_retry_times", max_retry_times)
        self.num_retries: int = 0
        self.num_restarts: int = 0
        self._start_timeout_s = seconds_or_none("start_timeout_s", start_timeout_s)
        self._make_pool = functools.partial(
            make_pool,
            make_runner,
            1,
            checked_kind("backend", backend),
            start_timeout_s=self._start_timeout_s,
        )
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

    def send_ahead(self, task: TaskWrapper) -> CallFuture | None:
        """Send a busy runner its next task, so that it need not wait for it.

        It runs it unless an attempt at what it is at fails, or the future is cancelled before.

        Returns:
            the future, for :meth:`run_once` when its turn has come; None: it has no room.
        """
        is_busy = self._is_ready and not self._is_fit
        if self._pool is None or not is_busy:
            return None
        try:
            return self._pool.submit_ahead_at(self._worker, "run_next", *_arguments(task))
        except InvalidArgument:  # its own attempts will tell
            return None

    async def run_with_retry(self, task: TaskWrapper) -> tuple[Status, list[Any], int]:
        """Run a task, or a part of its runs, in up to 1 + ``max_retry_times`` attempts.

        Each attempt is on a live runner: one that hangs or dies is killed and restarted at once.

        Returns:
            how it went, what its runs gave, and ``runner_id``.
        """
        num_attempts = 1 + self.max_retry_times
        status = Status(False)
        experiences: list[Any] = []
        for attempt in range(num_attempts):
            self.num_retries += attempt > 0
            status, experiences = await self.run_once(task)
            if not self.is_alive:
                with contextlib.suppress(ResourceLimit):  # the next attempt tries again, and tells
                    await self.restart_runner()
            if status.ok:
                break
            self.log_failure(task, attempt + 1, num_attempts, status)
        return status, experiences, self.runner_id

    def log_failure(self, task: TaskWrapper, attempt: int, num_attempts: int, to: Status) -> None:
        """Log how an attempt at a task failed."""
        logger.warning(
            "runner %d, attempt %d of %d at a task of batch %r: %s",
            *(self.runner_id, attempt, num_attempts, task.batch_id, to.message),
        )

    async def run_once(
        self, task: TaskWrapper, sent: CallFuture | None = None
    ) -> tuple[Status, list[Any]]:
        """Run a task, or a part of its runs, in one attempt.

        Afterwards, a runner that hung, died or could not be made is no longer alive.

        Args:
            task: the task.
            sent: what :meth:`send_ahead` gave for it, if what was before it went well.
        """
        try:
            if sent is None:
                await self._be_ready()  # which has time of its own
                sent = self._submit("run_task", *_arguments(task))
            outcome: tuple[Status, list[Any]]
            outcome = await self._answer_of(sent, self.max_timeout, self._start_timeout_s)
            return outcome
        except _Late:
            late = self._what_is_late(sent)
            doing = await asyncio.to_thread(self._describe)
            told = f"{late}, and the runner was killed. {doing}"
        except (CallError, SetupError, WorkerDied, ResourceLimit, InvalidArgument) as error:
            told = f"{type(error).__name__}: {error}"
        return Status(False, {}, told), []

    def _what_is_late(self, sent: CallFuture | None) -> str:
        if sent is not None and sent.begun_s is None:
            return (
                f"the task had not been rebuilt in the runner, with all that it imports, within "
                f"{self._start_timeout_s:g} s (start_timeout_s)"
            )
        return f"no answer within {self.max_timeout:g} s"

    async def _be_ready(self) -> None:
        """Wait until the runner is made, or restarted if it hung or died."""
        if self._pool is None:
            self._pool = await asyncio.to_thread(self._make_pool)
        if not self.is_alive:
            await self.restart_runner()
        if not self._is_ready:
            await self._answer_of(self._submit("ready"), math.inf, None)  # the pool has a limit
            self._is_ready = True

    def _submit(self, method: str, *arguments: Any) -> CallFuture:
        assert self._pool is not None
        return self._pool.submit_at(self._worker, method, *arguments)

    async def _answer_of(
        self, future: CallFuture, timeout_s: float, start_timeout_s: float | None
    ) -> Any:
        """Await the result of a method of the runner's host."""
        self._is_fit = False  # unless it answers
        try:
            answer = await _result_of(future, timeout_s, start_timeout_s)
        except CallError:
            self._is_fit = True
            raise
        self._is_fit = True
        return answer

    @property
    def is_alive(self) -> bool:
        """True if it takes tasks; otherwise it is restarted before the next one."""
        return self._is_fit and self._pool is not None and self._pool.is_alive(self._worker)

    def _describe(self) -> str:
        return "" if self._pool is None else self._pool.describe(self._worker)

    async def restart_runner(self) -> None:
        """Kill and restart the runner; its current task fails.

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
    """Return the arguments of the host's methods."""
    return task.task, task.repeat_times, task.run_id_base


class _Late(Exception):
    """The runner did not answer in time; distinct from a TimeoutError that a task raised."""


async def _result_of(future: CallFuture, timeout_s: float, start_timeout_s: float | None) -> Any:
    """Await a pool's future, which goes on if this is cancelled or late.

    (``wait_for`` and ``wrap_future`` do the same with a further task and three more turns of the
    loop, in which the runner would have nothing to do.)

    Args:
        future: the future.
        timeout_s: how long it may take from when the worker begins the call.
        start_timeout_s: how long that may take; None: as long as it takes.

    Raises:
        _Late: it was not begun, or not done, in time.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bool] = loop.create_future()
    must_begin_s = time.monotonic() + (math.inf if start_timeout_s is None else start_timeout_s)
    timer: asyncio.TimerHandle | None = None

    def tell(is_there: bool) -> None:
        if not told.done():
            told.set_result(is_there)

    def look() -> None:
        nonlocal timer
        now_s = time.monotonic()
        if future.begun_s is not None:
            left_s = look_again_s = future.begun_s + timeout_s - now_s
        else:  # whenever it begins, it cannot be late before that
            left_s = must_begin_s - now_s
            look_again_s = min(left_s, timeout_s)
        if left_s <= 0:
            tell(False)
        elif look_again_s < math.inf:
            timer = loop.call_later(look_again_s, look)

    when_done(future, functools.partial(tell, True))
    look()
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
    """Make a pool whose workers hold runners.

    Raises:
        InvalidArgument: ``make_runner`` cannot be pickled, or the number or backend is wrong.
    """
    return WorkerPool(
        functools.partial(RunnerHost, make_runner),
        num_runners,
        kind=backend,
        tells_begun=True,
        **options,
    )
