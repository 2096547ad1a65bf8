"""Scripts that tests start, send signals to and watch the end of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import vectasks

START_METHODS = ("forkserver", "spawn", "fork")

PREAMBLE = """
import os, signal, sys, threading, time
from pathlib import Path
from vectasks import *
from vectasks.testing.toys import CountingTask, FailingTask, ToySampler, ToyTask, toy_args

class GatedTask(ToyTask):
    '''Steps once the file "gate" is there; says before, by a file, that it was asked to.'''
    def move(self, action):
        Path(f"busy {self.env.sampler}").touch()
        while not Path("gate").exists():
            if self.env.sampler % 2 == 0:
                time.sleep(0.01)
"""


class Script:
    """A Python script that runs in a process group of its own.

    Args:
        code: runs after ``PREAMBLE``.
        cwd: where it runs, and where what it prints is kept.
        arguments: of the interpreter.
    """

    def __init__(self, code: str, cwd: Path) -> None:
        (cwd / "script.py").write_text(PREAMBLE + textwrap.dedent(code))
        self.cwd = cwd
        with (cwd / "stdout").open("wb") as stdout, (cwd / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "script.py"],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(Path(vectasks.__file__).parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return (self.cwd / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.cwd / "stderr").read_text()

    @property
    def num_reports(self) -> int:
        """Tracebacks on stderr; an exception and those that it came of are one."""
        chained = ("During handling of the above", "The above exception was the direct cause")
        stderr = self.stderr
        return stderr.count("Traceback (most") - sum(stderr.count(words) for words in chained)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Fail where the condition does not come true in time, or the script ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"too late: {self.stdout}{self.stderr}"
            assert self.process.poll() is None or condition(), self.stderr
            time.sleep(0.005)

    def wait_for_line(self, line: str, timeout_s: float = 30.0) -> None:
        self.wait_until(lambda: line in self.stdout.splitlines(), timeout_s)

    def wait_for_files(self, *names: str) -> None:
        self.wait_until(lambda: all((self.cwd / name).exists() for name in names))

    def open_the_gate(self) -> None:
        (self.cwd / "gate").touch()

    def interrupt(self) -> None:
        """Do what a terminal does on Ctrl-C: SIGINT for the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit code; the script has to end in time."""
        return self.process.wait(timeout_s)

    def family(self) -> list[psutil.Process]:
        """Every process that it has started, directly or not, and that still runs."""
        return psutil.Process(self.process.pid).children(recursive=True)


def still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that have not ended after so long; one that nobody has reaped has ended."""
    deadline = time.monotonic() + timeout_s
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
