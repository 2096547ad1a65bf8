"""Let one thread at a time into a vector, in the process that made it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from vectasks._util.interrupts import ctrl_c
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


def exclusive(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let one thread at a time in, and only in the process that made the vector.

    Args:
        name: of the call, as users know it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def enter(*args: P.args, **kwargs: P.kwargs) -> R:
            vector: Any = args[0]
            guard: Guard = vector._guard
            guard.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                guard.leave()

        return enter

    return decorate


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
        self.lock: Any = threading.RLock()
        self._pid = _own_pid
        #: Called at the beginning of each call.
        self.before_each_call: Callable[[], None] | None = None

    def enter(self, name: str) -> None:
        """Begin the call ``name``, if it may begin; :meth:`leave` ends it."""
        if self._pid != _own_pid:
            raise UsageError(
                f"{name}: this vector belongs to process {self._pid}, and this is a fork of it "
                f"({_own_pid}): make a new vector here."
            )
        if not self.lock.acquire(False):
            raise AlreadyPending(
                f"{name}: another thread is using this vector; one thread at a time may."
            )
        if self._holds_ctrl_c:
            ctrl_c.hold()
        if self.before_each_call is not None:
            self.before_each_call()

    def leave(self) -> None:
        """End what :meth:`enter` began."""
        self.lock.release()
        if self._holds_ctrl_c:
            ctrl_c.let_go()

    @property
    def is_owner(self) -> bool:
        """True in the process that made the vector."""
        return self._pid == _own_pid
