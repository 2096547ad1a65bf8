"""Fixtures of the tests that start scripts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from process_scripts import START_METHODS, Script


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Script]]:
    """Starts scripts; whatever is left of them after the test is killed."""
    scripts: list[Script] = []
    families: list[Any] = []

    def start_script(code: str) -> Script:
        scripts.append(Script(code, tmp_path))
        return scripts[-1]

    yield start_script
    for script in scripts:
        with contextlib.suppress(psutil.Error):
            families += script.family()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.process.pid, signal.SIGKILL)
        script.process.wait()
    for process in families:
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture(params=START_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Every way to start a process."""
    return request.param
