"""Fixtures of the tests of the scheduler and the policy server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from told_runners import AsyncRunner, Runner, runner_of


@pytest.fixture(params=["process", "inline, async"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Runs a coroutine function with a started scheduler."""
    backend, _, is_async = request.param.partition(", ")
    return runner_of(tmp_path, backend, AsyncRunner if is_async else Runner)


@pytest.fixture
def run_in_processes(tmp_path: Path) -> Callable[..., Any]:
    return runner_of(tmp_path, "process", Runner)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        yield Path(folder)
