from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_job_outlives_a_failed_test(tmp_path: Path) -> Iterator[None]:
    """Jobs go on when their experiment is gone; those of a test that failed must not."""
    yield
    for path in tmp_path.glob("**/jobs/*/*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "running":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(status["pid"], signal.SIGKILL)


@pytest.fixture
def meeting(tmp_path: Path) -> Callable[[str], Path]:
    """Makes named pipes: who opens one end waits for the other."""

    def make(name: str) -> Path:
        path = tmp_path / name
        os.mkfifo(path)
        return path

    return make


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a Python script that may import the toy tasks; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, name: str = "script.py") -> subprocess.Popen[str]:
        script = tmp_path / name
        script.write_text(source)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
