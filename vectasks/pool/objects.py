"""An object in a worker of a pool: how its methods are called, and the process it lives in."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from vectasks.pool import cancellation as tokens
from vectasks.protocol import Failure
from vectasks.transport.channel import Channel, Unreadable, unreadable, unsendable
from vectasks.workers import child

#: The message before a call that is made only if the worker gets the cancellation token for it.
BY_TOKEN = "by cancellation token"
#: What a worker says when it begins a call: it is rebuilt, with all that had to be imported for it.
BEGUN = "begun"


class Call(NamedTuple):
    """One call of a method of the object."""

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Answer(NamedTuple):
    """The result of a call, or of the making of the object."""

    value: Any = None
    failure: Failure | None = None


class LastWords(NamedTuple):
    """A worker's last message: what closing its object raised."""

    failure: Failure | None


class ObjectHost:
    """Makes an object and calls its methods, one after another.

    What the user's code raises is an answer; KeyboardInterrupt and SystemExit pass through, for
    they ask for the end of the program.

    Args:
        make_object: makes it; where it fails, so does every call.

    Attributes:
        failure: why the object could not be made; None if it was.
    """

    def __init__(self, make_object: Callable[[], Any]) -> None:
        self.failure: Failure | None = None
        self._object: Any = None
        self._loop: Any = None
        made = self._answer(make_object)
        self._object = made.value
        self.failure = made.failure and made.failure._replace(in_setup=True)

    def call(self, call: Call) -> Answer:
        """Call a method; an awaitable result is awaited."""
        return self._answer(lambda: self._await(self.invoke(call)))

    def begin(self, call: Call) -> Answer:
        """Call a method; an awaitable result is handed out as it is."""
        return self._answer(lambda: self.invoke(call))

    def invoke(self, call: Call) -> Any:
        """Call a method, which may raise."""
        return getattr(self._object, call.method)(*call.args, **call.kwargs)

    def close(self) -> Failure | None:
        """Call the object's ``close()`` if it has one; what it raised."""
        close = getattr(self._object, "close", None)
        closed = self._answer(lambda: self._await(close())) if callable(close) else Answer()
        if self._loop is not None:
            self._loop.close()
        self._object = self._loop = None
        return closed.failure

    def _answer(self, function: Callable[[], Any]) -> Answer:
        if self.failure is not None:
            return Answer(failure=self.failure)
        try:
            return Answer(function())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # user code: whatever else it raises is an answer
            return Answer(failure=Failure.of(error))

    def _await(self, value: Any) -> Any:
        """The value, awaited in a loop that lives as long as the object, if it is awaitable."""
        if not inspect.isawaitable(value):
            return value
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_result_of(value))


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def run(start: child.Start, taking: socket.socket, tells_begun: bool) -> None:
    """The life of a pool's worker process: the first message makes its object, the others call it.

    Answers go back in the order of the calls, one for each.

    Args:
        start: what every worker begins with.
        taking: where the cancellation tokens for calls are taken from that need one.
        tells_begun: whether to send BEGUN before each call.
    """
    hosts: list[ObjectHost] = []

    def serve(channel: Channel) -> None:
        host = ObjectHost(_make_object_of(channel.receive_blocking()))
        hosts.append(host)
        channel.send_blocking(Answer(failure=host.failure))
        while (message := channel.receive_blocking()) != child.END:
            is_allowed = True
            if message == BY_TOKEN:
                is_allowed = tokens.take(taking)
                message = channel.receive_blocking()
            if not is_allowed:
                channel.send_blocking(Answer())  # it was cancelled, and nobody waits for it
            elif isinstance(message, Unreadable):
                channel.send_blocking(Answer(failure=unreadable(message.error)))
            else:
                if tells_begun:
                    channel.send_blocking(BEGUN)
                _send(channel, message.method, host.call(message))

    def close() -> LastWords:
        return LastWords(hosts[0].close() if hosts else None)

    child.serve_until_end(start, serve=serve, close=close)


def _make_object_of(message: Any) -> Callable[[], Any]:
    if not isinstance(message, Unreadable):
        make_object: Callable[[], Any] = message
        return make_object

    def fail() -> Any:
        raise message.error

    return fail


def _send(channel: Channel, method: str, answer: Answer) -> None:
    try:
        parts = channel.pack(answer)
    except Exception:  # user code: a value that cannot be pickled fails its own call only
        failure = unsendable(answer.value, method, 'WorkerPool(kind="inline")')
        parts = channel.pack(Answer(failure=failure))
    channel.post_blocking(parts)
