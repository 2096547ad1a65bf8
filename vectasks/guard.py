"""What stands before every public call of a vector."""

from __future__ import annotations

import functools
import os
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
        with vector._guard(function.__name__):
            return function(*args, **kwargs)

    return enter


class Guard:
    """Refuses other threads and other processes; re-entrant within its thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def __call__(self, name: str) -> Guard:
        """Check that the call ``name`` may enter; used as ``with guard(name):``."""
        if os.getpid() != self._pid:
            raise UsageError(
                f"{name}: this vector belongs to process {self._pid}, and this is a fork of it "
                f"({os.getpid()}): make a new vector here."
            )
        if not self._lock.acquire(blocking=False):
            raise AlreadyPending(
                f"{name}: another thread is using this vector; one thread at a time may."
            )
        return self

    @property
    def is_owner(self) -> bool:
        """Whether this is the process that made the vector."""
        return os.getpid() == self._pid

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._lock.release()
