"""Jobs: a task's folder, the files in it, and the job's state.

::

    WORKDIR/jobs/TYPE/IDENTIFIER/
        params.json         type, parameters, tags and dependencies, for people to read
        task.pkl            the task, for the process that executes it
        environment.json    the packages, the git commit, what hooks added to the environment
        status.json         how far it is: written by the process that executes it
        stdout.txt, stderr.txt
        ...                 what the task writes: this is its working directory
    WORKDIR/jobs/TYPE/IDENTIFIER.lock    held by the process that executes it, while it does
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from vectasks._util.checks import seconds_or_none
from vectasks._util.files import try_lock, whole_or_nothing
from vectasks.errors import WaitTimeout

logger: logging.Logger = logging.getLogger("vectasks.experiment")


class JobState(str, Enum):
    """The state of a job."""

    #: For its dependencies, for its turn, or for another experiment that runs the same job.
    WAITING = "waiting"
    #: A process executes it.
    RUNNING = "running"
    #: It was executed to the end; it is not run again.
    DONE = "done"
    #: It raised, ran out of time or died; or a job that it depends on did.
    FAILED = "failed"
    #: It, or a job that it depends on, was stopped.
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Status:
    """The content of ``status.json``.

    Attributes:
        state: how far it is.
        reason: why it failed or was cancelled.
        run: tells executions apart; "" where there was none.
        attempt: from 1; how often it was executed for the experiment.
        experiment: the experiment's name.
        started_s: when, in seconds since 1970.
        ended_s: when, likewise; None while it runs.
        pid: of the process that executes it.
        parent_pid: of the process that started this one: the experiment, on this machine.
        host: the machine that this process is on.
    """

    state: JobState = JobState.WAITING
    reason: str = ""
    run: str = ""
    attempt: int = 0
    experiment: str = ""
    started_s: float | None = None
    ended_s: float | None = None
    pid: int | None = None
    parent_pid: int | None = None
    host: str = ""

    @classmethod
    def begun(cls, run: str, attempt: int, experiment: str) -> Status:
        """Return the status of an execution that begins in this process now."""
        return cls(
            JobState.RUNNING,
            run=run,
            attempt=attempt,
            experiment=experiment,
            started_s=time.time(),
            pid=os.getpid(),
            parent_pid=os.getppid(),
            host=socket.gethostname(),
        )

    def ended(self, state: JobState, reason: str = "") -> Status:
        """Return the status of the same execution, ended now."""
        return replace(self, state=state, reason=reason, ended_s=time.time())


class Job:
    """The job of a task that was submitted.

    Attributes:
        type: the name of the task's class.
        identifier: the task's identifier.
        path: its folder.
        tags: the task's, those of its dependencies included.
        dependencies: the jobs that are to be done before.
        environ: variables for its process; hooks add to them.
        timeout_s: the longest that an execution may take; None: for ever.
        max_retries: how often it is executed again when it fails.
        reason: why it failed or was cancelled.
    """

    def __init__(
        self, workdir: Path, type: str, identifier: str, tags: dict[str, Any] | None = None
    ) -> None:
        self.workdir: Path = workdir
        self.type: str = type
        self.identifier: str = identifier
        self.path: Path = workdir / "jobs" / type / identifier
        self.tags: dict[str, Any] = dict(tags or {})
        self.dependencies: tuple[Job, ...] = ()
        self.environ: dict[str, str] = {}
        self.timeout_s: float | None = None
        self.max_retries = 0
        self.reason = ""
        self.first_status: Status = Status()
        self.callback_errors: list[Exception] = []
        self._state: JobState | None = None
        self._ended: futures.Future[JobState] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Job, (self.workdir, self.type, self.identifier, self.tags)

    def __repr__(self) -> str:
        return f"<Job {self} {self.state}>"

    def __str__(self) -> str:
        return f"{self.type}/{self.identifier[:8]}"

    @property
    def state(self) -> JobState:
        """The job's state; outside of its experiment, as its folder says."""
        return self._state if self._state is not None else self.status().state

    @property
    def stdout(self) -> Path:
        """The file with its standard output."""
        return self.path / "stdout.txt"

    @property
    def stderr(self) -> Path:
        """The file with its errors and warnings."""
        return self.path / "stderr.txt"

    @property
    def lock_path(self) -> Path:
        """The file that is locked while it is executed; beside its folder, which may be deleted."""
        return self.path.with_name(f"{self.identifier}.lock")

    def wait(self, timeout: float | None = None) -> JobState:
        """Wait for its end, and return its state.

        In a dry run, and outside of its experiment, nothing is awaited.

        Args:
            timeout: how many seconds to wait; None: for ever.

        Raises:
            WaitTimeout: it has not ended by then.
            InvalidArgument: the timeout is no number of at least 0.
        """
        if self._ended is None:
            return self.state
        timeout = seconds_or_none("timeout", timeout)
        # An exception that comes from here is the caller's, of a signal's handler, say.
        if not futures.wait([self._ended], timeout).done:
            assert timeout is not None
            raise WaitTimeout(
                f"{self} is {self.state} after {timeout:g} s. Wait again, or see {self.stderr}.",
                sampler_ids=(),
                timeout_s=timeout,
            )
        return self._ended.result()

    def on_completed(self, callback: Callable[..., object]) -> None:
        """Call a function when it has ended, in whatever state; at once if it has ended already.

        The experiment's block waits for the function, which runs in a thread of the experiment and
        may submit more. If it raises, the experiment fails. In a dry run it is not called.

        Args:
            callback: called with the job if it takes an argument, else without.
        """
        takes_job = _takes_an_argument(callback)

        def call(_: object) -> None:
            try:
                callback(self) if takes_job else callback()
            except Exception as error:
                logger.exception("%s: on_completed raised", self)
                self.callback_errors.append(error)

        if self._ended is not None:
            self._ended.add_done_callback(call)

    # -- for the rest of this package ---------------------------------------------------------

    def status(self) -> Status:
        """Read the status in its folder."""
        try:
            told = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
            return Status(**{**told, "state": JobState(told["state"])})
        except FileNotFoundError:
            return Status()

    def write_status(self, status: Status) -> None:
        """Write the status into its folder."""
        self.write_json("status.json", asdict(status))

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of indented JSON into its folder, atomically."""
        self.write(name, json.dumps(value, indent=2).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file into its folder, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(self.path / name) as partial_path:
            partial_path.write_bytes(content)

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold its lock; yield True, or False while a process executes it."""
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        with try_lock(self.lock_path, "experiment", "the jobs of experiments") as is_ours:
            yield is_ours

    def is_locked(self) -> bool:
        """Tell whether a process executes it right now."""
        with self.lock() as is_ours:
            return not is_ours


def _takes_an_argument(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):  # none is taken; or a builtin does not tell
        return False
    return True
