"""The futures of calls of a pool's workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class CallFuture(Future[Any]):
    """The answer to a call.

    Attributes:
        begun_s: ``time.monotonic()`` when the worker had rebuilt the call's arguments and began it;
            None: it has not yet, or the pool was not made to tell.
    """

    begun_s: float | None = None

    def begin(self) -> None:
        """Note that the worker has begun the call."""
        self.begun_s = time.monotonic()


class Cancellable(CallFuture):
    """The answer to a call that needs a cancellation token.

    Args:
        cancel: makes sure that it never begins; False if it is too late for that.
    """

    def __init__(self, cancel: Callable[[Cancellable], bool]) -> None:
        super().__init__()
        self._cancel = cancel

    def cancel(self) -> bool:
        """Cancel the call unless the worker has begun it, or another was sent after it."""
        if self._cancel(self):
            super().cancel()
            self.set_running_or_notify_cancel()
        return self.cancelled()
