"""A worker process of a pool: what it was asked, and how its answers come back."""

from __future__ import annotations

import contextlib
import functools
import select
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, TypeAlias

from vectasks.errors import VectasksError
from vectasks.pool import objects
from vectasks.pool.backend import CLOSED, death, settle
from vectasks.pool.cancellation import CancellationTokens
from vectasks.pool.futures import CallFuture
from vectasks.pool.objects import Answer, LastWords
from vectasks.protocol import Failure
from vectasks.transport.channel import Channel, Unreadable
from vectasks.workers.child_process import ChildProcess

_BY_TOKEN = Channel.pack(objects.BY_TOKEN)

#: Gives a future its result or its error, which is done once nothing is locked.
Settle: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class Out:
    """A call that was sent and not answered.

    Attributes:
        method: its name.
        future: None where it is the object's making, and once it was cancelled.
        is_ahead: whether the worker needs a cancellation token to begin it.
    """

    method: str
    future: CallFuture | None
    is_ahead: bool = False


class WorkerProcess(ChildProcess):
    """One process, and what it was asked.

    Attributes:
        out: what was sent and not answered, oldest first.
        end: makes the error for calls that it cannot answer any more; None while it takes calls.
        deadline_s: by when it must be ready, or have ended after it hung up.
    """

    def __init__(self, number: int, context: BaseContext, daemon: bool, tells_begun: bool) -> None:
        super().__init__(f"vectasks-pool-worker-{number}", context, daemon=daemon)
        self.number = number
        self.out: deque[Out] = deque()
        self.end: Callable[[], VectasksError] | None = lambda: death(number, "is being restarted")
        self.deadline_s: float | None = None
        self.last_words: Failure | None = None
        self._late: list[Settle] = []
        self._tokens = CancellationTokens()
        self._tells_begun = tells_begun

    def start(self) -> None:
        """Start the process; it is not waited for."""
        self.begin(objects.run, self._tokens.taking, self._tells_begun)

    def let_go(self) -> None:
        """Close everything and forget the process, which is killed if it still runs."""
        super().let_go()
        self._tokens.close()

    @property
    def is_clogged(self) -> bool:
        """Tell whether a message waits because the channel is full."""
        return self._channel is not None and bool(self._channel.events & select.POLLOUT)

    def post(self, packed: list[memoryview]) -> None:
        """Send a packed message; the loss of one that finds no worker shows as its end."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.post(packed)

    def ask(self, out: Out, packed: list[memoryview]) -> None:
        """Send a call. It is killed where Ctrl-C cuts that short: it would answer out of step."""
        try:
            self.out.append(out)
            self.post(packed)
        except BaseException:
            self.kill()
            raise

    @property
    def has_room_ahead(self) -> bool:
        """True if a call can be sent ahead: behind one at most, and none that was cancelled."""
        ahead = [out for out in self.out if out.is_ahead]
        return len(ahead) <= 1 and all(out.future is not None for out in ahead)

    def ask_ahead(self, out: Out, packed: list[memoryview]) -> None:
        """Send a call that needs a cancellation token, with the cancellation token."""
        self._tokens.give()
        self.ask(out, [*_BY_TOKEN, *packed])

    def cancel(self, future: Future[Any]) -> bool:
        """Make sure that the newest call, which was sent ahead, never begins; False: too late."""
        # Tokens are all alike. Of those that are left, the last one is the newest call's.
        newest = self.out[-1] if self.out else None
        if newest is None or newest.future is not future or not self._tokens.take():
            return False
        newest.future = None
        return True

    def take_answers(self) -> list[Settle]:
        """The futures that were answered since the last time."""
        settled = [item for message in self.take_in() for item in self._settled_by(message)]
        if self.has_hung_up:
            self._close_channel()
        return settled

    def _settled_by(self, message: Any) -> list[Settle]:
        if isinstance(message, LastWords):
            self.last_words = message.failure
            return []
        if message == objects.BEGUN:
            begun = self.out[0].future
            if begun is not None:
                begun.begin()
            return []
        out = self.out.popleft()
        if isinstance(message, Unreadable):
            message = Answer(failure=Failure.of(message.error))
        if out.future is None:
            self.deadline_s = None
            return []
        return [functools.partial(settle, out.future, self.number, out.method, message)]

    def _take_late(self, message: Any) -> None:
        self._late += self._settled_by(message)

    def close(self) -> None:
        """Take no calls any more."""
        self.end = self.end or (lambda: death(self.number, CLOSED))

    def abandon(self) -> list[Settle]:
        """Everything that is out, failed; and what was answered while the process was ending."""
        assert self.end is not None
        settled, self._late = self._late, []
        settled += [
            functools.partial(out.future.set_exception, self.end())
            for out in self.out
            if out.future is not None
        ]
        self.out.clear()
        return settled
