"""The process of a job.

It holds the job's lock while it lives, and it alone writes how the job fares; so it needs nobody.
If its experiment is killed, it goes on to its end (or to its time limit, which it keeps by itself),
and the next experiment that wants the job waits for it.

The job is done when Python has nothing to wait for any more: threads that ``execute`` left,
processes of ``multiprocessing``, and what was registered with ``atexit``, may still be writing.
The time limit, and the signals that cancel, hold until then. A job that failed waits for its
threads for a moment only, and ends its processes.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from vectasks.experiment import context
from vectasks.experiment.config import Task, located, own_parts, parameters_of
from vectasks.experiment.identifier import set_main_name
from vectasks.experiment.job import Job, JobState, Status
from vectasks.experiment.parameters import Kind

#: The exit code of a process that found another executing the job.
EXIT_BUSY = 75
_LAST_GRACE_S = 10.0
_MOST_CHARACTERS = 1000


def command(job: Job, run: str, attempt: int, experiment: str) -> list[str]:
    """Return the command line that executes a job, with unbuffered output."""
    options = [f"--run={run}", f"--attempt={attempt}", f"--experiment={experiment}"]
    if job.timeout_s is not None:
        options.append(f"--timeout-s={job.timeout_s}")
    return [sys.executable, "-u", "-m", "vectasks.experiment", *options, str(job.path)]


def main() -> int:
    """Execute a job; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vectasks.experiment")
    parser.add_argument("--run", required=True, help="tells executions apart")
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--experiment", default="")
    parser.add_argument("--timeout-s", type=float)
    parser.add_argument("path", type=Path, metavar="JOB_FOLDER")
    args = parser.parse_args()
    with contextlib.suppress(ValueError):
        sys.path.remove(str(Path.cwd()))  # what the task writes here is no module of Python's
    path = args.path.resolve()
    job = Job(path.parents[2], path.parent.name, path.name)
    with contextlib.ExitStack() as exits:
        if not exits.enter_context(job.lock()):
            return EXIT_BUSY
        if job.status().state is JobState.DONE:
            return 0
        if args.attempt == 1:
            _empty_output()
        begun = Status.begun(args.run, args.attempt, args.experiment)
        stop = _Stop(args.timeout_s)
        job.write_status(begun)

        def write(state: JobState, reason: str = "") -> None:
            job.write_status(begun.ended(state, reason[:_MOST_CHARACTERS]))

        unfinished = exits.pop_all()  # the lock is held while the process lives
        atexit.register(_end, stop, write, unfinished)
        failure = _execute(job, stop)
        if failure is None:
            return 0
        write(*failure)
        stop.has_failed()
        _end_processes()
        return 1


def _end(stop: _Stop, write: Callable[..., None], exits: contextlib.ExitStack) -> None:
    """Write how the job ended, as the last thing of all, after its threads have ended.

    If its time is over before they have, or a signal comes, it ends without them.
    """
    if stop.is_over:  # it failed before, and that is written
        exits.close()
        return
    left: list[str] = []
    try:
        main_thread = threading.main_thread()
        others = [thread for thread in threading.enumerate() if thread is not main_thread]
        left += [thread.name for thread in others if not thread.daemon]
        for child in multiprocessing.active_children():
            if not child.daemon:
                left.append(child.name)
                if stop.outcome is None:
                    child.join()
                    left.pop()
        stop.disarm()
    except SystemExit:
        stop.disarm()
    with contextlib.suppress(OSError, ValueError):  # it may be closed
        sys.stdout.flush()
    state, reason = stop.outcome or (JobState.DONE, "")
    if left:
        reason += f"; execute() had returned, but left these running: {', '.join(left)}"
    write(state, reason)
    exits.close()
    if state is not JobState.DONE:
        _end_processes()
        os._exit(1)


def _end_processes() -> None:
    for child in multiprocessing.active_children():
        child.terminate()


def _empty_output() -> None:
    """Remove what an earlier execution wrote, now that no other process can be writing there."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # run by hand: a terminal
            os.ftruncate(descriptor, 0)


class _Stop:
    """Ends the task early, on a signal or when its time is over, by unwinding the main thread.

    If that does not happen in time, since it hangs in compiled code say, its stacks are written to
    stderr and the process ends: that needs no Python code to run any more.

    Attributes:
        outcome: why it was ended; None while it was not.
        is_over: whether the job has failed, and that is written.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self.outcome: tuple[JobState, str] | None = None
        self.is_over = False
        self._unwinds = False
        self._timer: threading.Timer | None = None
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        if timeout_s is not None:
            told = (JobState.FAILED, f"timed out after {timeout_s:g} s")
            self._timer = threading.Timer(timeout_s, self._on_timeout, [told])
            self._timer.daemon = True
            self._timer.start()
            faulthandler.dump_traceback_later(timeout_s + _LAST_GRACE_S, exit=True)

    def disarm(self) -> None:
        """Disarm, because the task has ended and nothing is left to unwind."""
        self._unwinds = True
        if self._timer is not None:
            self._timer.cancel()

    def has_failed(self) -> None:
        """Let the process of a failed job end, if need be without what it still waits for."""
        self.is_over = True
        faulthandler.dump_traceback_later(_LAST_GRACE_S, exit=True)

    def _on_timeout(self, told: tuple[JobState, str]) -> None:
        if not self._unwinds:
            self.outcome = told
            os.kill(os.getpid(), signal.SIGTERM)

    def _on_signal(self, signum: int, frame: object) -> None:
        if not self._unwinds:
            self._unwinds = True
            name = signal.Signals(signum).name
            self.outcome = self.outcome or (JobState.CANCELLED, f"stopped by {name}")
            raise SystemExit(128 + signum)


def _execute(job: Job, stop: _Stop) -> tuple[JobState, str] | None:
    """Execute the task; return how it failed, if it did."""
    try:
        _load(job).execute()
    except BaseException as error:
        if stop.outcome is None and isinstance(error, SystemExit) and error.code in (None, 0):
            return None
        stop.disarm()
        traceback.print_exc()
        reason = "".join(traceback.format_exception_only(error)).strip()
        return stop.outcome or (JobState.FAILED, reason)
    finally:
        sys.stdout.flush()
    return stop.outcome  # it may have hidden that it was stopped


def _load(job: Job) -> Task:
    """Load the task, bound to its job."""
    with (job.path / "task.pkl").open("rb") as file:
        payload: tuple[str, Task] = pickle.load(file)
    main_name, task = payload
    set_main_name(main_name)
    context.enter(context.InJob(job.workdir))
    for _, config in located(task, everything=True):
        vars(config).update(
            __tags__=config.tags(), __taskdir__=(config.job or job).path, __maintaskdir__=job.path
        )
    for _, config in own_parts(task):
        for name, parameter in parameters_of(type(config)).items():
            if parameter.kind is Kind.GENERATED:
                vars(config)[name].parent.mkdir(parents=True, exist_ok=True)
    return task
