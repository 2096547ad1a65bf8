"""What stands before every public call of a vector."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from vectasks.errors import AlreadyPending, UsageError

P = ParamSpec("P")
R = TypeVar("R")


def also_named(**aliases: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept keywords under other names, as AllenAct has them: ``also_named(old="new")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accept(*args: P.args, **kwargs: P.kwargs) -> R:
            if not aliases.keys().isdisjoint(kwargs):
                for alias, name in aliases.items():
                    if alias in kwargs:
                        if name in kwargs:
                            raise TypeError(f"{name} was given twice, as {name} and as {alias}.")
                        kwargs[name] = kwargs.pop(alias)
            return function(*args, **kwargs)

        return accept

    return decorate


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """Let one thread at a time in, and only in the process that made the vector."""

    @functools.wraps(function)
    def enter(*args: P.args, **kwargs: P.kwargs) -> R:
        vector: Any = args[0]
        guard: Guard = vector._guard
        guard.enter(function.__name__)
        try:
            return function(*args, **kwargs)
        finally:
            guard.leave()

    return enter


class CtrlC:
    """Holds Ctrl-C back while a call is at what must not be cut off in its midst.

    A message half sent or a reply half taken in would leave the vector out of step with its
    workers. So SIGINT's handler is replaced while a call runs in the main thread, and called when
    the call is over, or at once where the call only waits, which is nearly all of the time.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._is_waiting = False
        self._held: tuple[Any, ...] | None = None  # what to give to the handler, once
        self._handler: Any = None

    def hold(self) -> None:
        """Begin to hold it back; may be nested."""
        if not _in_main_thread():
            return
        if self._depth == 0:
            handler = _get_handler(signal.SIGINT)
            if not callable(handler):  # it is ignored, or deadly
                return
            self._handler = handler
            _set_handler(signal.SIGINT, self._arrive)
        self._depth += 1

    def let_go(self) -> None:
        """End what :meth:`hold` began."""
        if self._depth == 0 or not _in_main_thread():
            return
        self._depth -= 1
        if self._depth == 0:
            _set_handler(signal.SIGINT, self._handler)
            self._deliver()

    def forget(self) -> None:
        """Start afresh, in a process that was forked in the midst of a call."""
        self._depth, self._is_waiting, self._held = 0, False, None

    def _arrive(self, *args: Any) -> None:
        self._held = args
        if self._is_waiting:
            self._deliver()

    def _deliver(self) -> None:
        if self._held is not None:
            args, self._held = self._held, None
            self._handler(*args)

    def __enter__(self) -> None:
        """Let it through at once: the call waits, and nothing is cut off."""
        if self._depth > 0 and _in_main_thread():
            self._is_waiting = True
            self._deliver()

    def __exit__(self, *_: object) -> None:
        if _in_main_thread():
            self._is_waiting = False


# What the functions of ``signal`` wrap into enums, at many times the cost: they look for the
# handler among them, and under asyncio the error of not finding it shows the whole running task.
_native: Any = sys.modules.get("_signal", signal)
_get_handler: Callable[..., Any] = _native.getsignal
_set_handler: Callable[..., Any] = _native.signal


def _in_main_thread() -> bool:  # only there do handlers run, and may they be replaced
    return threading.get_ident() == threading.main_thread().ident


#: Used as ``with ctrl_c:`` around what only waits.
ctrl_c: CtrlC = CtrlC()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ctrl_c.forget)


_own_pid = os.getpid()  # asking is a trip into the kernel, which every call would make


def _look_at_pid() -> None:
    global _own_pid
    _own_pid = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_at_pid)


class Guard:
    """Refuses other threads and other processes; re-entrant within its thread.

    Args:
        holds_ctrl_c: hold Ctrl-C back in a call, but for where it waits; no user's code runs there.
    """

    def __init__(self, holds_ctrl_c: bool = False) -> None:
        self._holds_ctrl_c = holds_ctrl_c
        self._lock = threading.RLock()
        self._pid = _own_pid
        #: So many calls came in, those within others too.
        self.num_calls: int = 0

    def enter(self, name: str) -> None:
        """Begin the call ``name``, if it may begin; :meth:`leave` ends it."""
        if self._pid != _own_pid:
            raise UsageError(
                f"{name}: this vector belongs to process {self._pid}, and this is a fork of it "
                f"({_own_pid}): make a new vector here."
            )
        if not self._lock.acquire(False):
            raise AlreadyPending(
                f"{name}: another thread is using this vector; one thread at a time may."
            )
        self.num_calls += 1
        if self._holds_ctrl_c:
            ctrl_c.hold()

    def leave(self) -> None:
        """End what :meth:`enter` began."""
        self._lock.release()
        if self._holds_ctrl_c:
            ctrl_c.let_go()

    @property
    def is_owner(self) -> bool:
        """Whether this is the process that made the vector."""
        return self._pid == _own_pid
