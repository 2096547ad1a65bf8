"""The experiment: takes tasks and runs each one's job when all that it depends on is done.

::

    submit ──> WAITING ──(dependencies done)──> a thread of the pool, one per job at once
                                                  │  done by another experiment meanwhile?    DONE
                                                  │  locked by a process? wait for it
                                                  ▼
                                                process ── holds the lock, writes status.json
                                                  │
                                                  ▼  failed, and retries are left: once more
                                  DONE, FAILED, CANCELLED ──> dependents, on_completed
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from vectasks._util import pickling
from vectasks._util.checks import seconds_or_none, whole_number
from vectasks.errors import FailedExperiment, InvalidArgument, WaitTimeout
from vectasks.experiment import context, view
from vectasks.experiment.config import Task, bind, jobs_of, output, reachable
from vectasks.experiment.environment import environment
from vectasks.experiment.hooks import apply_hooks
from vectasks.experiment.identifier import main_name, type_name
from vectasks.experiment.job import Job, JobState, Status, logger
from vectasks.experiment.job_process import EXIT_BUSY, command
from vectasks.experiment.launchers import Execution, Launcher, LocalLauncher
from vectasks.experiment.records import described

_LOOK_AT_LOCK_S = 0.2


class experiment:
    """A block in which tasks are submitted; it ends when all of them have.

    ::

        with experiment("results", "sweep"):
            agents = [Train(seed=seed).submit() for seed in range(3)]
            Report(agents=agents).submit()

    Jobs whose folders say that they are done are not run again, by whomever they were run. If the
    block is left by an exception (Ctrl-C, SIGTERM and SIGHUP among them), its jobs are cancelled.
    If its process is killed, those that run go on, and the next experiment waits for them.

    Args:
        workdir: the folder for everything; several experiments may share it, also at once.
        name: what the experiment is called in ``vectasks jobs``.
        launcher: where jobs run; None: on this machine.
        max_jobs: how many run at once; None: as the launcher says, on this machine one per core.
        dry_run: run and write nothing; ``jobs`` then tells what would run: all that is not done.
        rerun_failed: run jobs again that failed before; else they have failed again.
        progress: show how far the jobs are while the block waits; None: on a terminal.

    Raises:
        InvalidArgument: ``max_jobs`` is less than 1.
        FailedExperiment: on leaving the block: a job was not done, or an ``on_completed`` raised.
    """

    def __init__(
        self,
        workdir: str | Path,
        name: str,
        *,
        launcher: Launcher | None = None,
        max_jobs: int | None = None,
        dry_run: bool = False,
        rerun_failed: bool = True,
        progress: bool | None = None,
    ) -> None:
        if max_jobs is not None:
            max_jobs = whole_number("max_jobs", max_jobs, at_least=1)
        self.workdir: Path = Path(workdir).absolute()
        self.name = name
        self.launcher: Launcher = launcher or LocalLauncher(max_jobs)
        self.dry_run = dry_run
        self._max_jobs = max_jobs or self.launcher.max_jobs
        self._rerun_failed = rerun_failed
        self._progress = progress
        self._jobs: dict[Path, Job] = {}
        self._tasks: dict[Path, Task] = {}
        self._begun: set[Path] = set()
        self._executions: dict[Path, Execution] = {}
        self._unfinished = 0
        self._changed = threading.Condition(threading.RLock())
        self._stopping = threading.Event()
        self._exits = contextlib.ExitStack()

    @property
    def jobs(self) -> list[Job]:
        """All jobs that were submitted, in order."""
        with self._changed:
            return list(self._jobs.values())

    def __enter__(self) -> experiment:
        if not self.dry_run:
            self.workdir.mkdir(parents=True, exist_ok=True)
        self._pool = self._exits.enter_context(
            ThreadPoolExecutor(self._max_jobs, thread_name_prefix=f"vectasks-{self.name}")
        )
        self._exits.enter_context(_exit_on_signals())
        context.enter(self)
        self._exits.callback(context.leave, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        with self._exits:
            if error is not None:
                self._cancel()
                return
            try:
                self.wait()
            except BaseException:
                self._cancel()
                raise
        self._raise_failures()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all jobs that were submitted have ended, and their ``on_completed``.

        Raises:
            WaitTimeout: they have not within so many seconds.
            InvalidArgument: the timeout is no number of at least 0.
        """
        timeout = seconds_or_none("timeout", timeout)
        with view.shown(self.name, lambda: self.jobs, self._progress):
            is_over = self._wait_until_over(timeout)
        if not is_over:
            assert timeout is not None
            raise WaitTimeout(
                f"{self._unfinished} jobs of {self.name} have not ended after {timeout:g} s.",
                sampler_ids=(),
                timeout_s=timeout,
            )

    def _wait_until_over(self, timeout_s: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._unfinished == 0, timeout_s)

    def _raise_failures(self) -> None:
        if self.dry_run:
            return
        failed = [job for job in self.jobs if job.state is not JobState.DONE or job.callback_errors]
        if failed:
            raise FailedExperiment(_told(self.name, failed, len(self.jobs)), jobs=failed)

    def _cancel(self) -> None:
        """Cancel all jobs; kill those that do not end in time, or all at another Ctrl-C."""
        self._stopping.set()
        try:
            for execution in self._running():
                execution.cancel()
            self._wait_until_over(self.launcher.grace_s)
        finally:
            for execution in self._running():
                execution.kill()
            self._wait_until_over(None)

    def _running(self) -> list[Execution]:
        with self._changed:
            return list(self._executions.values())

    # -- submitting ---------------------------------------------------------------------------

    def _submit(self, task: Any, timeout_s: float | None, max_retries: int) -> Any:
        timeout_s = seconds_or_none("timeout_s", timeout_s, positive=True)
        max_retries = whole_number("max_retries", max_retries)
        with self._changed:
            job = Job(self.workdir, type_name(type(task)), task.identifier)
            job, is_new = self._jobs.get(job.path, job), job.path not in self._jobs
            bind(task, job)
            if is_new:
                job.timeout_s, job.max_retries = timeout_s, max_retries
                job.tags, job.dependencies = task.tags(), tuple(jobs_of(task))
                apply_hooks(reachable(task), job, self.launcher)
            outputs = task.task_outputs(lambda config: _depending(config, task, job))
            if is_new:
                self._jobs[job.path], self._tasks[job.path] = job, task
                self._schedule(job)
        return outputs

    def _schedule(self, job: Job) -> None:
        job.first_status = job.status()
        is_done = job.first_status.state is JobState.DONE
        job._state = JobState.DONE if is_done else JobState.WAITING
        if self.dry_run:
            logger.info("%s: %s", job, "is done" if is_done else "would run")
            return
        job._ended = Future()
        self._unfinished += 1
        if is_done:
            self._finish(job, job.first_status)
            return
        for dependency in job.dependencies:
            if dependency._ended is not None:
                dependency._ended.add_done_callback(lambda _: self._begin_if_ready(job))
        self._begin_if_ready(job)

    def _begin_if_ready(self, job: Job) -> None:
        with self._changed:
            if job.path in self._begun:
                return
            ended = [dep for dep in job.dependencies if dep._ended is None or dep._ended.done()]
            failed = [dep for dep in ended if dep.state is not JobState.DONE]
            if not failed and len(ended) < len(job.dependencies):
                return
            self._begun.add(job.path)
        try:
            if not failed:
                self._pool.submit(self._run, job)
                return
            status = self._marked(job, failed[0])
        except Exception as error:  # no thread can be started, the disk is full, ...
            status = _not_run(job, error)
        self._finish(job, status)

    def _marked(self, job: Job, dependency: Job) -> Status:
        """Record in a job's folder that it cannot run because of a job that it depends on."""
        state = dependency.state
        state = state if state is JobState.CANCELLED else JobState.FAILED
        status = Status(experiment=self.name).ended(state, f"{dependency} {dependency.state}")
        with job.lock() as is_ours:
            if is_ours:
                job.write_json("params.json", described(self._tasks[job.path], job))
                job.write_status(status)
        return status

    def _finish(self, job: Job, status: Status) -> None:
        job.reason, job._state = status.reason, status.state
        logger.info("%s: %s %s", job, status.state, status.reason)
        assert job._ended is not None
        job._ended.set_result(status.state)  # what waits for it is called here
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    # -- running, in a thread of the pool -----------------------------------------------------

    def _run(self, job: Job) -> None:
        try:
            status = self._outcome(job)
        except Exception as error:  # it could not be pickled or started, the disk is full, ...
            status = _not_run(job, error)
        self._finish(job, status)

    def _outcome(self, job: Job) -> Status:
        attempt = 1
        while not self._stopping.is_set():
            status = job.status()
            if status.state is JobState.DONE or (attempt == 1 and self._is_final(job, status)):
                return status
            if job.is_locked():
                self._stopping.wait(_LOOK_AT_LOCK_S)
                continue
            run = secrets.token_hex(8)
            exit_code = self._execute(job, run, attempt)
            if exit_code == EXIT_BUSY:
                continue
            status = self._settled(job, Status(run=run, attempt=attempt), exit_code)
            if status.state is not JobState.FAILED or attempt > job.max_retries:
                return status
            attempt += 1
        return Status().ended(JobState.CANCELLED, "the experiment was stopped")

    def _is_final(self, job: Job, status: Status) -> bool:
        """Tell whether a failure is final: not to be rerun, or just run by another experiment."""
        is_news = status != job.first_status
        was_run = status.state is JobState.FAILED and status.attempt > 0
        return was_run and (is_news or not self._rerun_failed)

    def _execute(self, job: Job, run: str, attempt: int) -> int:
        task = self._tasks[job.path]
        job.write_json("params.json", described(task, job))
        job.write_json("environment.json", {**environment(), "environ": job.environ})
        job.write("task.pkl", pickling.dumps((main_name(), task)))
        execution = self.launcher.start(job, command(job, run, attempt, self.name))
        with self._changed:
            self._executions[job.path] = execution
            job._state = JobState.RUNNING
        try:
            if self._stopping.is_set():
                execution.cancel()
            return execution.wait()
        finally:
            with self._changed:
                del self._executions[job.path]

    def _settled(self, job: Job, run: Status, exit_code: int) -> Status:
        """Return the status of an execution that is over; write it if its process could not."""
        deadline_s = time.monotonic() + self.launcher.grace_s
        while job.status().run == run.run and job.is_locked() and time.monotonic() < deadline_s:
            time.sleep(_LOOK_AT_LOCK_S)  # Slurm may tell of the end before it has come
        status = job.status()
        is_ours = status.run == run.run
        if status.state is JobState.DONE or (is_ours and status.state is not JobState.RUNNING):
            return status
        begun = status if is_ours else replace(run, experiment=self.name)
        reason = _death(exit_code, is_ours)
        took_s = 0.0 if begun.started_s is None else time.time() - begun.started_s
        if job.timeout_s is not None and took_s > job.timeout_s:
            reason = f"timed out after {job.timeout_s:g} s and had to be killed"
        stopped = self._stopping.is_set()
        ended = begun.ended(JobState.CANCELLED if stopped else JobState.FAILED, reason)
        with job.lock() as is_free:
            if is_free:
                job.write_status(ended)
        return ended


def _not_run(job: Job, error: Exception) -> Status:
    logger.error("%s could not be run", job, exc_info=error)
    return Status().ended(JobState.FAILED, f"{type(error).__name__}: {error}")


def _depending(config: Any, task: Task, job: Job) -> Any:
    if config is task:
        return task
    if isinstance(config, Task):
        raise InvalidArgument(
            f"task_outputs of {type(task).__name__}: dep takes the task itself or configs that are "
            f"no tasks, not a {type(config).__name__}."
        )
    return output(config, job)


def _death(exit_code: int, has_begun: bool) -> str:
    told = f"ended with exit code {exit_code}"
    if exit_code < 0:
        told = f"was killed by {signal.Signals(-exit_code).name}"
    return told if has_begun else f"{told} before it began"


def _told(name: str, failed: list[Job], num_jobs: int) -> str:
    lines = [f"{name}: {len(failed)} of {num_jobs} jobs did not end well:"]
    for job in failed:
        lines.append(f"  {job} {job.state}: {job.reason or 'no reason is known'}")
        lines += [f"    on_completed raised {error!r}" for error in job.callback_errors]
        if job.stderr.exists():
            lines.append(f"    see {job.stderr}")
    return "\n".join(lines)


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave the block as Ctrl-C does, unless the script handles them."""
    previous: dict[int, Any] = {}

    def leave(signum: int, frame: object) -> NoReturn:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)  # once is enough
        raise SystemExit(128 + signum)

    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                previous[signum] = signal.signal(signum, leave)
    try:
        yield
    finally:
        for stopped, handler in previous.items():
            signal.signal(stopped, handler)
