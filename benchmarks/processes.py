"""Measurements as processes of their own, each with the interpreter that it needs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 300
_CLOSE_S = 20
_POLL_S = 0.5

Answer = dict[str, Any]


class Runner:
    """A process that answers one request after another, until it is closed.

    ``python -m module JOB``: requests are lines to its standard input, answers are lines of JSON,
    the first of which says that it is ready. Whatever it started is ended with it.
    """

    def __init__(
        self, python: Path, module: str, job: Mapping[str, Any], root: Path = ROOT
    ) -> None:
        self._stderr: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._folder = tempfile.TemporaryDirectory()  # some libraries leave files where they are
        reads, writes = os.pipe()
        self._answers = os.fdopen(reads, "rb", buffering=0)
        self._unread = b""
        self._process = subprocess.Popen(
            [str(python), "-m", module, json.dumps({**job, "answers": writes})],
            cwd=self._folder.name,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
            pass_fds=[writes],
            text=True,
        )
        os.close(writes)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, request: str | None = None, timeout_s: float = _TIMEOUT_S) -> Answer:
        """The answer to a request (None: the next one, without asking), or its error."""
        if request is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is told below
                self._process.stdin.write(request + "\n")
                self._process.stdin.flush()
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            has_ended = self._process.poll() is not None
            # Its children may hold the pipe open, so that its end is not told by the pipe.
            if select.select([self._answers], [], [], 0 if has_ended else _POLL_S)[0]:
                self._unread += (more := self._answers.read(65536))
                if more:
                    continue
            if has_ended:
                return {"error": self._last_words()}
            if time.monotonic() > until_s:
                return {"error": f"took longer than {timeout_s:.0f} s"}
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and what it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):  # mostly nobody is left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._answers.close()
            self._stderr.close()
            self._folder.cleanup()

    def _last_words(self) -> str:
        self._stderr.seek(0)
        said = self._stderr.read().strip().splitlines()
        return (said[-1] if said else f"ended with status {self._process.returncode}")[:300]


def answer_of(python: Path, module: str, job: Mapping[str, Any], root: Path = ROOT) -> Answer:
    """The one answer of a process, or its error.

    Args:
        python: the interpreter.
        module: what it runs.
        job: for the module.
        root: where ``benchmarks`` and ``vectasks`` lie.
    """
    with Runner(python, module, job, root) as runner:
        return runner.ask()
