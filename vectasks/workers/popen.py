"""Start worker processes and wait for them: CPython's three ways, made robust.

- forkserver: by our own fork server. It was started once, and the program goes on: so each child
  first adopts the environment variables that the parent has by then. (The working directory and
  ``sys.path`` travel by CPython's own way.)
- spawn, fork: a child whose exit status somebody else took has ended all the same. CPython takes it
  for running, and so it would for ever where the program ignores SIGCHLD or waits for any child.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import threading
import time
from multiprocessing import (
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    reduction,
    spawn,
    util,
)
from multiprocessing.connection import wait
from typing import Any

from vectasks.errors import UNKNOWN_EXITCODE
from vectasks.workers.forkserver import server

#: What of CPython's preparation of a child runs ``__main__`` again.
_MAIN = ("init_main_from_name", "init_main_from_path")


class _OwnChild(popen_fork.Popen):
    """Waits for a child of this process."""

    def __init__(self, process_obj: Any) -> None:
        self._asking = threading.Lock()  # of two who ask at once, one is told that it is gone
        super().__init__(process_obj)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code; None while it runs."""
        with self._asking:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, flag)
                except ChildProcessError:
                    self.returncode = UNKNOWN_EXITCODE
                else:
                    if pid == self.pid:
                        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class _Forked(_OwnChild):
    pass


class _Spawned(_OwnChild, popen_spawn_posix.Popen):
    pass


class _Served(popen_forkserver.Popen):
    """A child that our fork server forks and waits for."""

    _fds: list[int]  # CPython's, which typeshed does not know

    def _launch(self, process_obj: Any) -> None:
        preparation = spawn.get_preparation_data(process_obj.name)
        main = {name: preparation.pop(name) for name in _MAIN if name in preparation}
        packed, data = io.BytesIO(), io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(process_obj, packed)
            reduction.dump(preparation, data)
            reduction.dump(_Today(dict(os.environ), main, packed.getvalue()), data)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, to_child = server.connect_to_new_process(self._fds)
        ours = os.dup(to_child)  # it stays open as long as we live, which the child watches
        self.finalizer = util.Finalize(self, _close, (ours, self.sentinel))
        with open(to_child, "wb") as stream:  # noqa: PTH123 - a descriptor
            stream.write(data.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None and wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            try:
                self.returncode = forkserver.read_signed(self.sentinel)
            except (OSError, EOFError):  # the server was killed
                self.returncode = UNKNOWN_EXITCODE
        return self.returncode


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Today:
    """Unpickled, it is the process object, in the environment variables that the parent has now.

    They are adopted before the object's parts are unpickled and the user's ``__main__`` runs again,
    but after CPython has set ``sys.path``, by which this module is found.

    Args:
        environ: the variables.
        main: what of CPython's preparation runs ``__main__``.
        packed: the process object, pickled.
    """

    def __init__(self, environ: dict[str, str], main: dict[str, Any], packed: bytes) -> None:
        self._arguments = environ, main, packed

    def __reduce__(self) -> Any:
        return _unpack, self._arguments


def _unpack(environ: dict[str, str], main: dict[str, Any], packed: bytes) -> Any:
    if dict(os.environ) != environ:
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        time.tzset()
    importlib.invalidate_caches()  # of folders that were not there when the server looked
    spawn.prepare(main)
    return pickle.loads(packed)


class _ForkProcess(context.ForkProcess):
    _Popen = staticmethod(_Forked)


class _SpawnProcess(context.SpawnProcess):
    _Popen = staticmethod(_Spawned)


class _ForkServerProcess(context.ForkServerProcess):
    _Popen = staticmethod(_Served)


_PROCESSES = {
    "fork": _ForkProcess,
    "spawn": _SpawnProcess,
    "forkserver": _ForkServerProcess,
}
_CPYTHONS = (
    context.Process,
    context.ForkProcess,
    context.SpawnProcess,
    context.ForkServerProcess,
)


def is_ours(mp_ctx: Any) -> bool:
    """Tell whether we start a context's processes; one that has processes of its own does it."""
    return mp_ctx.Process in _CPYTHONS


def process_class(mp_ctx: Any) -> Any:
    """The class of processes that are started as a context asks for."""
    return _PROCESSES[mp_ctx.get_start_method()] if is_ours(mp_ctx) else mp_ctx.Process
