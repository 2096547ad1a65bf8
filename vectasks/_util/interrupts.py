"""Hold Ctrl-C back where it must not cut a call off in its midst."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


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
