"""Find what the process of the tests and its descendants hold, and other programs do not."""

from __future__ import annotations

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import threading
from collections.abc import Iterator
from multiprocessing import process, shared_memory
from pathlib import Path
from typing import NamedTuple

import psutil

from vectasks.workers.forkserver import server

# Names in /dev/shm do not tell who made them: those of multiprocessing that are made here do.
# Its children inherit the prefix of semaphores.
_SEMAPHORES, _MEMORY = f"mp-{os.getpid()}", f"{os.getpid()}_"
process.current_process()._config["semprefix"] = f"/{_SEMAPHORES}"
shared_memory._SHM_NAME_PREFIX = f"/{_MEMORY}"


class Holdings(NamedTuple):
    """Things of this process that a test could leave behind."""

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
        """Return what is new since before, by kind; descriptors count, numbers may change."""
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
    """The names in /dev/shm that were made here, or that this process or a descendant holds."""
    names = {path.name for path in Path("/dev/shm").iterdir()}
    if not names:
        return names
    made_here = {name for name in names if name.startswith((_MEMORY, f"sem.{_SEMAPHORES}"))}
    family = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return made_here.union(*(names & _held_by(pid) for pid in family))


def _held_by(pid: int) -> set[str]:
    """The names in /dev/shm that a process maps or has open."""
    folder = Path(f"/proc/{pid}")
    try:
        paths = [line.partition("/")[2] for line in (folder / "maps").read_text().splitlines()]
        for descriptor in (folder / "fd").iterdir():
            try:
                paths.append(str(descriptor.readlink())[1:])
            except OSError:  # it is closed by now
                continue
    except OSError:  # it has ended
        return set()
    return {path.removeprefix("dev/shm/") for path in paths if path.startswith("dev/shm/")}
