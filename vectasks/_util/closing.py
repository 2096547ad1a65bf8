"""Close what holds processes: by its user, by ``with``, in ``__del__`` or at exit."""

from __future__ import annotations

import abc
import atexit
import logging
import multiprocessing.util  # noqa: F401 - its handler of the end must be older than ours
import os
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from vectasks.errors import VectasksError
from vectasks.protocol import Failure

logger: logging.Logger = logging.getLogger("vectasks")

Self = TypeVar("Self", bound="Closable")


class Closable(abc.ABC):
    """Ends its processes when nobody needs them any more, whoever finds out first.

    In a process that was forked from its own it ends nothing: they are not that one's.
    """

    #: What the numbers are that :meth:`_end_all` gives.
    _holds: ClassVar[str]
    _is_open = False
    _owner_pid = 0

    def _must_be_closed(self) -> None:
        """From now on there is something to end."""
        self._is_open = True
        self._owner_pid = os.getpid()
        _OPEN.add(self)

    @abc.abstractmethod
    def close(self) -> None:
        """End everything; works twice."""

    @abc.abstractmethod
    def _end_all(self) -> Sequence[tuple[int, Failure]]:
        """End everything; called once. What closing raised, by number."""

    def _forget(self) -> None:  # noqa: B027 - not all have something to let go of
        """Let go, in a fork's copy, of what is not its own."""

    def _end(self) -> Sequence[tuple[int, Failure]]:
        """End everything that has not ended; what closing raised, by number."""
        if not self._is_open or os.getpid() != self._owner_pid:
            return []
        self._is_open = False
        _OPEN.discard(self)
        return self._end_all()

    def _end_quietly(self) -> None:
        """End everything where nobody can be told of errors."""
        for number, failure in self._end():
            logger.warning("closing %s %d: %s", self._holds, number, failure.traceback_text)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # what the body raised is worth more than what closing raises
            self._end_quietly()

    def __del__(self) -> None:
        self._end_quietly()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__} holds processes and cannot be pickled; pickle what it was made "
            "from, and make another one."
        )


#: They must be closed before multiprocessing joins its children at exit, which would wait for them
#: forever; handlers run in reverse order, and multiprocessing's is older.
_OPEN: weakref.WeakSet[Closable] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    for closable in list(_OPEN):
        try:
            closable._end_quietly()
        except VectasksError:
            logger.exception("closing %r at exit failed", closable)


def _forget_in_child() -> None:
    for closable in list(_OPEN):
        closable._forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
