"""No test may leave anything behind: processes, descriptors, shared-memory names, threads.

Scripts and ways to start a process are what tests of several rooms share.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from holdings import Holdings
from process_scripts import START_METHODS, Script

# Tests that a shell started in the background, or nohup, ignore these, and so do their scripts.
for _signum, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _handler)

_PATIENCE_S = 5.0  # a child that was killed takes a moment to be reaped
_SLOW_TIMEOUT_S = 900  # against hangs; machines differ by a factor of four in how long they take
_FAILED = pytest.StashKey[bool]()


def _wait_until(condition: Callable[[], bool], timeout_s: float = _PATIENCE_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _watched(request: pytest.FixtureRequest) -> Iterator[None]:
    before = Holdings.now()
    yield
    if request.node.stash.get(_FAILED, False):
        return  # the traceback keeps the test's objects alive; its failure is the news

    def is_clean() -> bool:
        return not Holdings.now().added_to(before)

    if not is_clean():
        gc.collect()  # a vector in a reference cycle is closed by the collector
        if not _wait_until(is_clean):
            pytest.fail(f"left behind: {Holdings.now().added_to(before)}", pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        module = item.getparent(pytest.Module)
        if module is not None:
            module.stash[_FAILED] = True
    return report


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each module nothing is left, of its module-scoped fixtures either."""
    yield from _watched(request)


@pytest.fixture(autouse=True)
def nothing_left_by_test(
    request: pytest.FixtureRequest, nothing_left_by_module: None
) -> Iterator[None]:
    """After each test nothing is left."""
    yield from _watched(request)


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
