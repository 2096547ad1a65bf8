"""A client's connections to its policy server: one that blocks a thread, one for an event loop."""

from __future__ import annotations

import asyncio
import math
import select
import time
import weakref
from collections.abc import Mapping
from typing import Any

from vectasks.protocol import Failure
from vectasks.rollouts.policy_server.messages import Result
from vectasks.rollouts.policy_server.sockets import Address, connect_async
from vectasks.transport.channel import Channel, Unreadable, own_channel

#: A packed message.
Parts = list[memoryview]


class Connection:
    """One thread's connection, which blocks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        weakref.finalize(self, channel.close)  # at the interpreter's end, too

    def ask(self, packed: Mapping[int, Parts], deadline_s: float | None) -> list[Result]:
        """Send packed observations by their numbers, and wait for all answers.

        Raises:
            TimeoutError: they did not all come by the deadline.
            EOFError: the server has hung up.
            OSError: the same.

        It is used no more after any of these: answers would come that nobody waits for.
        """
        results: dict[int, Result] = {}
        for parts in packed.values():
            self._channel.post(parts)
        while len(results) < len(packed):
            message = self._channel.receive()
            if message is None:
                left_ms = -1 if deadline_s is None else math.ceil(_left_s(deadline_s) * 1000)
                if left_ms == 0:
                    raise TimeoutError
                self._channel.doze(left_ms)
            else:
                results.update(_results_in(message))
        return [results[seq] for seq in packed]

    def shut_down(self) -> None:
        """Have its thread see the end, from another one."""
        self._channel.shut_down()

    def close(self) -> None:
        """Close it; the server drops what was asked."""
        self._channel.close()


class LoopConnection:
    """One event loop's connection, on which many requests are out."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._is_writing = False
        self._is_closed = False
        weakref.finalize(self, channel.close)
        self._loop.add_reader(channel.fileno(), self._pump)

    async def ask(self, seq: int, parts: Parts, deadline_s: float | None) -> Result:
        """Send a packed observation, and wait for its answer.

        Raises:
            TimeoutError: it did not come by the deadline; it is dropped when it comes.
            EOFError: the server has hung up.
            OSError: the same.
        """
        if self._is_closed:
            raise EOFError
        answered = self._waiting[seq] = self._loop.create_future()
        timer: asyncio.TimerHandle | None = None
        if deadline_s is not None:
            timer = self._loop.call_later(_left_s(deadline_s), _fail, answered, TimeoutError())
        try:
            self._channel.post(parts)
            self._look_at_outbox()
            result: Result = await answered
            return result
        except OSError as error:
            if not is_late(error):
                self.close()
            raise
        finally:
            del self._waiting[seq]
            if timer is not None:
                timer.cancel()

    def _pump(self) -> None:
        """Send and take in what can be."""
        try:
            self._channel.pump()
            while self._channel.has_news:
                for seq, result in _results_in(self._channel.receive()):
                    answered = self._waiting.get(seq)
                    if answered is not None and not answered.done():
                        answered.set_result(result)
            self._look_at_outbox()
        except (EOFError, OSError):
            self.close()

    def _look_at_outbox(self) -> None:
        has_unsent = bool(self._channel.events & select.POLLOUT)
        if has_unsent and not self._is_writing:
            self._loop.add_writer(self._channel.fileno(), self._pump)
        elif self._is_writing and not has_unsent:
            self._loop.remove_writer(self._channel.fileno())
        self._is_writing = has_unsent

    def close(self) -> None:
        """Close it; who waits is told of the end."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            for answered in self._waiting.values():
                _fail(answered, EOFError())
        self._channel.close()


async def connect_loop(address: Address, key: bytes) -> LoopConnection:
    """Connect the running event loop.

    Raises:
        PolicyServerClosed: as ``connect_async``.
    """
    return LoopConnection(own_channel(await connect_async(address, key)))


def end_connecting(connecting: asyncio.Task[LoopConnection] | None) -> None:
    """Close the connection that a task has made, or is to make."""
    if connecting is None or connecting.cancelled():
        return
    if not connecting.done():
        connecting.cancel()
    elif connecting.exception() is None:
        connecting.result().close()


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _results_in(message: Any) -> list[tuple[int, Result]]:
    """Return what a message tells, by the numbers of the requests."""
    if not isinstance(message, Unreadable):
        return [tuple(told) for told in message]
    failure = Failure.of(message.error)
    text = f"{failure.message} (what the policy gave cannot be rebuilt in this process)"
    return [(seq, failure._replace(message=text)) for seq in message.envelope]


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())


def is_late(error: BaseException) -> bool:
    """Tell a limit that is over from a connection that the system gave up."""
    return isinstance(error, TimeoutError) and error.errno is None
