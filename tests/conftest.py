"""No test may leave anything behind: processes, descriptors, shared-memory names, threads."""

from __future__ import annotations

import gc
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from vectasks.workers.forkserver import server

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


class Holdings(NamedTuple):
    """What this process holds that a test could leave behind."""

    children: frozenset[tuple[int, str]]
    descriptors: frozenset[tuple[int, str]]
    shared_memory: frozenset[str]
    threads: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        """Holdings, less the fork servers, CPython's one resource tracker, and their pipes."""
        servers = (server, multiprocessing.forkserver._forkserver)
        tracker = multiprocessing.resource_tracker._resource_tracker
        own_pids = {*(server._forkserver_pid for server in servers), tracker._pid}
        own_descriptors = {*(server._forkserver_alive_fd for server in servers), tracker._fd}
        return cls(
            frozenset(child for child in _children() if child[0] not in own_pids),
            frozenset(item for item in _descriptors() if item[0] not in own_descriptors),
            frozenset(_shared_memory()),
            frozenset(thread.name for thread in threading.enumerate()),
        )

    def added_to(self, before: Holdings) -> dict[str, list[object]]:
        """What is here and was not there before, by kind; descriptors count, numbers may change."""
        added = {
            name: sorted(now - then)
            for name, now, then in zip(self._fields, self, before, strict=True)
            if len(now) > len(then) or (name != "descriptors" and now - then)
        }
        return {name: items for name, items in added.items() if items}


def _children() -> Iterator[tuple[int, str]]:
    for child in psutil.Process().children(recursive=True):
        try:
            yield child.pid, child.name()
        except psutil.Error:  # it has ended meanwhile
            continue


def _descriptors() -> Iterator[tuple[int, str]]:
    for path in Path("/proc/self/fd").iterdir():
        try:
            yield int(path.name), str(path.readlink())
        except OSError:  # the descriptor of the listing itself
            continue


def _shared_memory() -> set[str]:
    names = set()
    for path in Path("/dev/shm").iterdir():
        try:
            if path.stat().st_uid == os.getuid():
                names.add(path.name)
        except OSError:
            continue
    return names - _mapped_by_strangers() if names else names


def _mapped_by_strangers() -> set[str]:
    """Names in use by processes that are none of this one's: other programs run here too."""
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    names = set()
    for process in psutil.process_iter():
        if process.pid in family:
            continue
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            continue
        names |= {line.rpartition("/")[2] for line in maps.splitlines() if " /dev/shm/" in line}
    return names


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
