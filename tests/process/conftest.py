"""Fixtures of the tests that start scripts, and of those of the pool."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pool_things import Thing
from process_scripts import START_METHODS, Script

from vectasks.pool.pool import WorkerPool


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


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., WorkerPool]]:
    """Makes pools of Things, which are closed after the test."""
    pools = []

    def make_pool(num_workers: int = 2, **options: Any) -> WorkerPool:
        options.setdefault("make_object", lambda: Thing(tmp_path))
        pools.append(WorkerPool(num_workers=num_workers, **options))
        return pools[-1]

    yield make_pool
    for pool in pools:
        pool.close()


@pytest.fixture(params=["process", "inline"])
def pool(request: pytest.FixtureRequest, make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(kind=request.param)


@pytest.fixture
def processes(make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(close_grace_s=1.0)
