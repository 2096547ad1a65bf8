"""Launch the processes of jobs: on this machine, or by Slurm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vectasks._util.checks import real_number, whole_number
from vectasks._util.extras import require
from vectasks.experiment.job import Job, logger

_POLL_S = 0.5


class Execution(ABC):
    """A process that executes a job."""

    @abstractmethod
    def wait(self) -> int:
        """Wait for its end; return its exit code, or minus the signal that ended it."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask it to end: SIGTERM."""

    @abstractmethod
    def kill(self) -> None:
        """End it, and what it started."""


class Launcher(ABC):
    """Starts the processes of jobs.

    Args:
        max_jobs: how many run at once.
        environ: variables for all of them; what hooks set for a job goes first.
        grace_s: how long a job that is cancelled may clean up before it is killed.

    Raises:
        InvalidArgument: ``max_jobs`` or ``grace_s`` is no such number.
    """

    def __init__(
        self, max_jobs: int, environ: Mapping[str, str] | None = None, grace_s: float = 10.0
    ) -> None:
        self.max_jobs: int = whole_number("max_jobs", max_jobs, at_least=1)
        self.environ: dict[str, str] = dict(environ or {})
        self.grace_s: float = real_number("grace_s", grace_s)

    @abstractmethod
    def start(self, job: Job, command: Sequence[str]) -> Execution:
        """Start ``command`` in the job's folder, with its variables, and its output into files."""

    def variables(self, job: Job) -> dict[str, str]:
        """Return a job's further environment variables, so that it finds the same modules."""
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        return {"PYTHONPATH": path, **self.environ, **job.environ}


class LocalLauncher(Launcher):
    """Runs jobs on this machine.

    They are in sessions of their own, so that Ctrl-C reaches the experiment alone, which then stops
    them in order.

    Args:
        max_jobs: how many run at once; None: one per core.
        environ: variables for all of them.
        grace_s: how long a job that is cancelled may clean up before it is killed.
    """

    def __init__(
        self,
        max_jobs: int | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        grace_s: float = 10.0,
    ) -> None:
        super().__init__(os.cpu_count() or 1 if max_jobs is None else max_jobs, environ, grace_s)

    def start(self, job: Job, command: Sequence[str]) -> Execution:
        """Start it."""
        with job.stdout.open("ab") as stdout, job.stderr.open("ab") as stderr:
            return _LocalExecution(
                subprocess.Popen(
                    command,
                    cwd=job.path,
                    env={**os.environ, **self.variables(job)},
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            )


class _LocalExecution(Execution):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait(self) -> int:
        return self._process.wait()

    def cancel(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        # The pid is its group's, and cannot be another's before it was waited for.
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)


class SlurmLauncher(Launcher):
    """Runs jobs on a Slurm cluster, by submitit.

    vectasks must be installed on all machines, and the experiment's ``workdir`` be seen by them, in
    a file system on which locks work.

    Args:
        max_jobs: how many are submitted at once; the others wait here.
        environ: variables for all of them.
        grace_s: how long a job that is cancelled may clean up.
        cluster: ``"local"`` runs them on this machine, to try things out; None: Slurm.
        **parameters: for submitit's ``AutoExecutor.update_parameters``: ``timeout_min=60``,
            ``gpus_per_node=1``, ``slurm_partition="gpu"``, ...

    Raises:
        MissingExtra: submitit is not installed.
    """

    def __init__(
        self,
        max_jobs: int = 100,
        *,
        environ: Mapping[str, str] | None = None,
        grace_s: float = 30.0,
        cluster: str | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(max_jobs, environ, grace_s)
        require("submitit", "slurm", "SlurmLauncher")
        self._cluster, self._parameters = cluster, parameters

    def start(self, job: Job, command: Sequence[str]) -> Execution:
        """Submit it."""
        submitit = require("submitit", "slurm", "SlurmLauncher")
        executor = submitit.AutoExecutor(job.workdir / "slurm" / "%j", cluster=self._cluster)
        executor.update_parameters(name=str(job), **self._parameters)
        return _SlurmExecution(
            executor.submit(run_there, list(command), str(job.path), self.variables(job))
        )


class _SlurmExecution(Execution):
    def __init__(self, submitted: Any) -> None:
        self._submitted = submitted

    def wait(self) -> int:
        while not self._submitted.done():
            time.sleep(_POLL_S)  # Slurm tells nobody
        try:
            return int(self._submitted.result())
        except Exception as error:  # cancelled, out of memory, killed, ...
            logger.debug("submitit: %s", error)
            return 1

    def cancel(self) -> None:
        self._submitted.cancel()

    kill = cancel  # Slurm kills what does not end by itself


def run_there(command: list[str], folder: str, environ: dict[str, str]) -> int:
    """Run a job's command inside a Slurm job; pass signals on to it. Returns its exit code."""
    path = Path(folder)
    with (path / "stdout.txt").open("ab") as stdout, (path / "stderr.txt").open("ab") as stderr:
        process = subprocess.Popen(
            command, cwd=path, env={**os.environ, **environ}, stdout=stdout, stderr=stderr
        )

    def forward(signum: int, frame: object) -> None:
        process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    return process.wait()
