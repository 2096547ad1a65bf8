"""A fork server of our own, so that nobody else's child processes are changed by ours.

CPython has one fork server for the whole program. What is imported there, numpy's random state
included, is in every child that any library starts by it; so ours would be in theirs. This one
imports what our workers need, and only our workers are forked from it.

It is CPython's but for that, and for where its socket is: CPython puts it into the folder for
temporary files, whose path may be too long for a socket.
"""

from __future__ import annotations

import contextlib
import multiprocessing.forkserver
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import process, util
from typing import Any

#: What the server imports after the user's modules: all that every worker needs.
_OURS = (
    "vectasks.vector",
    "vectasks.envs",
    "vectasks.pool.objects",
    "vectasks.workers.preload",
)

#: A socket's path may have 103 bytes (macOS); the folder's name is followed by a file's.
_LONGEST_FOLDER_BYTES = 85
#: Where else a socket can be, if the folder for temporary files is too deep, or there is none.
_OTHER_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


class ForkServer(multiprocessing.forkserver.ForkServer):
    """CPython's fork server, which also starts where its socket's path would be too long."""

    # CPython's, which typeshed does not know.
    _preload_modules: list[str]
    _forkserver_address: str | None
    _forkserver_alive_fd: int | None
    _forkserver_pid: int | None

    def __init__(self) -> None:
        super().__init__()
        self._starting = threading.RLock()
        self._folder: str | None = None
        self.preload(())
        os.register_at_fork(after_in_child=self._begin_in_fork)

    @property
    def pid(self) -> int | None:
        """Its process id; None where it was not started."""
        return self._forkserver_pid

    @property
    def address(self) -> str | None:
        """The path of its socket; None where it was not started."""
        return self._forkserver_address

    def preload(self, modules: Sequence[str]) -> None:
        """Add to what the server imports when it starts; a running one stays as it is.

        What the user told CPython's fork server to import, other than ``__main__``, comes first.
        """
        cpythons: Any = multiprocessing.forkserver._forkserver
        before = [name for name in self._preload_modules if name not in _OURS]
        names = dict.fromkeys([*cpythons._preload_modules, *before, *modules])
        names.pop("__main__", None)
        self.set_forkserver_preload([*names, *_OURS])

    def ensure_running(self) -> None:
        """Start the server unless it runs."""
        with self._starting, self._short_folder():
            try:
                super().ensure_running()
            except ChildProcessError:  # it has ended, and the program took its exit status
                self._forget()
                super().ensure_running()

    def _begin_in_fork(self) -> None:
        """Leave the parent's server to the parent, and its locks to its threads."""
        self._lock = threading.Lock()
        self._starting = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        if self._forkserver_alive_fd is not None:
            with contextlib.suppress(OSError):  # the program closed all that it has
                os.close(self._forkserver_alive_fd)
        self._forkserver_pid = self._forkserver_alive_fd = self._forkserver_address = None

    @contextlib.contextmanager
    def _short_folder(self) -> Iterator[None]:
        """Have CPython make its socket in a folder whose path is short enough."""
        try:
            usual = util.get_temp_dir()
        except OSError:  # there is no folder for temporary files
            usual = None
        if usual is not None and len(os.fsencode(usual)) <= _LONGEST_FOLDER_BYTES:
            yield
            return
        if self._folder is None:
            self._folder = _make_folder()
        settings: Any = process.current_process()._config  # type: ignore[attr-defined]
        settings["tempdir"] = self._folder
        try:
            yield
        finally:
            settings["tempdir"] = usual


def _make_folder() -> str:
    """Make a folder of this process's own; it is removed when the process ends."""
    for base in _OTHER_FOLDERS:
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix="vectasks-", dir=base)
            # When CPython removes its own, which is after everybody has ended.
            util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-100)
            return folder
    raise FileNotFoundError(
        "the fork server needs a folder for its socket, and neither the folder for temporary files "
        f"(TMPDIR) nor any of {', '.join(_OTHER_FOLDERS)} can be used"
    )


#: The one of this process. A fork of this process starts its own.
server: ForkServer = ForkServer()
