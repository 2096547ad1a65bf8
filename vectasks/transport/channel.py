"""Whole Python objects over one end of a socket pair.

A message is a header, the object's pickle and its large buffers (arrays), which pickle protocol 5
leaves out of band so that they are neither copied into the pickle nor out of it. An envelope, if
there is one, tells whom a message is for that cannot be unpickled::

    | number of buffers: u32 | bytes of the envelope: u32 | bytes of the pickle: u64 |
    | bytes of each buffer: u64 ... | the pickle | the envelope | the buffers ... |

Nothing here waits unless it is asked to: what the socket does not take at once is kept and sent on
later, and what arrives in pieces is put together. So two ends that both send much cannot block
each other, and a wait elsewhere can watch many channels, processes and a deadline together.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import socket
import struct
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cloudpickle

from vectasks._util import pickling
from vectasks.protocol import Failure

_HEADER = struct.Struct("<IIQ")
_SIZE = struct.Struct("<Q")
_PARTS_AT_ONCE = 64
_AWAKE = contextlib.nullcontext()
_OUT_OF_BAND_BYTES = 1 << 14  # smaller buffers are cheaper inside the pickle


class Unreadable(NamedTuple):
    """Stands for a message that could not be unpickled, with its envelope if it has one."""

    error: Exception
    envelope: Any = None


class Channel:
    """One end of a socket pair that carries messages.

    Args:
        end: the socket; the channel closes it.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outbox: deque[memoryview] = deque()
        self._messages: deque[Any] = deque()
        self._ended = False
        self.num_bytes: int = 0  # sent and received
        self._reader = self._read_messages()
        self._wanted = next(self._reader)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_ended(self) -> bool:
        """Whether the other end is closed and every whole message was received."""
        return self._ended and not self._messages

    @property
    def has_news(self) -> bool:
        """Whether a message has been taken in, or the end."""
        return bool(self._messages) or self._ended

    @property
    def events(self) -> int:
        """What ``select.poll`` should wait for on this channel."""
        return select.POLLIN | select.POLLOUT if self._outbox else select.POLLIN

    @staticmethod
    def pack(message: Any, envelope: Any = None) -> list[memoryview]:
        """The bytes of ``message``, for :meth:`post`; large arrays are not copied.

        Args:
            message: what is to travel.
            envelope: plain data, for who cannot unpickle the message; None: there is none.

        Raises:
            Exception: it cannot be pickled.
        """
        body, buffers = plain_parts(message) or _parts(pickling.dumps, message)
        label = b"" if envelope is None else pickle.dumps(envelope, protocol=5)
        head = _HEADER.pack(len(buffers), len(label), len(body))
        sizes = [_SIZE.pack(buffer.nbytes) for buffer in buffers]
        return [memoryview(b"".join((head, *sizes, body, label))), *buffers]

    def post(self, parts: list[memoryview]) -> None:
        """Send a packed message; what does not go at once is copied and goes with later pumps.

        Raises:
            OSError: the other end is closed.
        """
        self._outbox.extend(parts)
        self._flush()
        if self._outbox and len(parts) > 1:  # the caller may change its arrays once this returns
            self._outbox = deque(memoryview(bytes(part)) for part in self._outbox)

    def send(self, message: Any) -> None:
        """Pack and post ``message``.

        Raises:
            OSError: the other end is closed.
            Exception: the message cannot be pickled; nothing was sent.
        """
        self.post(self.pack(message))

    def receive(self) -> Any | None:
        """The next message that has arrived, or None; ``Unreadable`` if it cannot be unpickled.

        Raises:
            EOFError: the other end is closed and every whole message was received.
        """
        if not self._messages:
            self.pump()
        if self._messages:
            return self._messages.popleft()
        if self._ended:
            raise EOFError("the other end of the channel is closed")
        return None

    def ring(self) -> None:
        """Wake the other end up: a message of nothing, which is never received.

        Raises:
            OSError: the other end is closed.
        """
        self._outbox.append(memoryview(_HEADER.pack(0, 0, 0)))
        self._flush()

    def doze(
        self,
        timeout_ms: int,
        asleep: contextlib.AbstractContextManager[Any] = _AWAKE,
    ) -> bool:
        """Block until something comes, or so long; whether a whole message is there.

        Args:
            timeout_ms: how long at most.
            asleep: entered while it blocks, and left before what came is read.

        Raises:
            EOFError: the other end is closed.
        """
        poll = select.poll()
        poll.register(self._socket, self.events)
        with asleep:
            poll.poll(timeout_ms)
        self.pump()
        if self._ended and not self._messages:
            raise EOFError("the other end of the channel is closed")
        return bool(self._messages)

    def receive_blocking(self) -> Any:
        """The next message, however long it takes.

        Raises:
            EOFError: the other end is closed.
        """
        return self._pump_until(lambda: self.receive())

    def send_blocking(self, message: Any) -> None:
        """Send ``message`` and return when it has left.

        Raises:
            OSError: the other end is closed.
            Exception: the message cannot be pickled; nothing was sent.
        """
        self.post_blocking(self.pack(message))

    def post_blocking(self, parts: list[memoryview]) -> None:
        """Send a packed message and return when it has left.

        Raises:
            OSError: the other end is closed.
        """
        self.post(parts)
        self._pump_until(lambda: True if not self._outbox else None)

    def _pump_until(self, condition: Any) -> Any:
        poll = select.poll()
        while (value := condition()) is None:
            poll.register(self._socket, self.events)
            poll.poll()
            self.pump()
        return value

    def pump(self) -> None:
        """Send and take in what can be sent and taken in without waiting."""
        if self._outbox:
            self._flush()
        self._take_in()

    def _flush(self) -> None:
        outbox = self._outbox
        while outbox:
            try:  # a message at once, so that it wakes the other end but once
                sent = self._socket.sendmsg(itertools.islice(outbox, _PARTS_AT_ONCE))
            except BlockingIOError:
                return
            except OSError:
                outbox.clear()
                raise
            self.num_bytes += sent
            while outbox and sent >= len(outbox[0]):
                sent -= len(outbox.popleft())
            if sent:
                outbox[0] = outbox[0][sent:]

    def _take_in(self) -> None:
        while not self._ended:
            try:
                count = self._socket.recv_into(self._wanted)
            except BlockingIOError:
                return
            except OSError:  # reset by the other end
                count = 0
            self.num_bytes += count
            if count == 0:
                self._ended = True
            elif count == len(self._wanted):
                self._wanted = next(self._reader)
            else:
                self._wanted = self._wanted[count:]

    def _read_messages(self) -> Iterator[memoryview]:
        """Yield the memory that the next bytes belong in; queue each message when it is whole."""
        while True:
            header = bytearray(_HEADER.size)
            yield memoryview(header)
            num_buffers, label_size, body_size = _HEADER.unpack(header)
            if body_size == 0:  # a ring
                continue
            sizes = bytearray(num_buffers * _SIZE.size)
            if sizes:
                yield memoryview(sizes)
            body = bytearray(body_size + label_size)
            yield memoryview(body)
            buffers = [bytearray(size) for (size,) in _SIZE.iter_unpack(sizes)]
            for buffer in buffers:
                yield memoryview(buffer)
            try:  # in no variable, which would hold it until the next one comes
                self._messages.append(pickle.loads(body, buffers=buffers))  # the rest is ignored
            except Exception as error:  # user code: what pickles may yet not be built here
                label = body[body_size:]
                self._messages.append(Unreadable(error, pickle.loads(label) if label else None))

    def shut_down(self) -> None:
        """Have both sides see the end of the stream, from any thread; nothing is closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; the other end sees the end of the stream."""
        self._ended = True
        self._outbox.clear()
        self._socket.close()


def plain_parts(
    message: Any, most_bytes: int = sys.maxsize
) -> tuple[bytes, list[memoryview]] | None:
    """The pickle, and the large buffers beside it; None for what cloudpickle is to be asked for.

    That takes twice as long. It is for what plain pickle refuses, and for what is in
    ``__main__`` or in modules that are to travel by value: the other end cannot import these.

    Args:
        message: what is to travel.
        most_bytes: None, too, where a buffer is larger than this.
    """
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        parts = _parts(pickle.dumps, message, most_bytes)
    except Exception:  # user code
        return None
    return None if b"__main__" in parts[0] else parts


def _parts(
    dumps: Callable[..., bytes], message: Any, most_bytes: int = sys.maxsize
) -> tuple[bytes, list[memoryview]]:
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < _OUT_OF_BAND_BYTES:
            return True
        if raw.nbytes > most_bytes:
            raise ValueError(f"a buffer of {raw.nbytes} bytes is too large")
        buffers.append(raw)
        return False

    return dumps(message, protocol=5, buffer_callback=keep_in_band), buffers


def unsendable(
    value: Any, what: str, instead: str = "SingleProcessVectorSampledTasks"
) -> Failure | None:
    """Why ``value`` cannot be sent, as a Failure of what made it; None if it can be.

    Args:
        value: what was to be sent.
        what: what gave it.
        instead: what hands objects over without sending them.
    """
    try:
        pickling.dumps(value)
    except Exception as error:  # user code: pickling runs __reduce__ and __getstate__
        explained = pickle.PicklingError(
            f"what {what} gave cannot be sent to the parent process "
            f"({type(error).__name__}: {error}). Return plain data, or use {instead}, which hands "
            "objects over as they are."
        )
        explained.__cause__ = error
        return Failure.of(explained)
    return None


def unreadable(error: Exception) -> Failure:
    """The Failure of whatever was sent to a worker that cannot unpickle it."""
    failure = Failure.of(error)
    explained = (
        f"{failure.message} (what was sent cannot be unpickled in the worker process. Let the "
        "worker import what it is made of, or have a module that only this program has sent along "
        "by cloudpickle.register_pickle_by_value(module))"
    )
    return failure._replace(message=explained)


#: The ends that this process alone holds. A forked child must not keep them open, or the other
#: end would not see the end of the stream when this process dies.
_OWN_ENDS: weakref.WeakSet[Channel] = weakref.WeakSet()


def channel_pair() -> tuple[Channel, socket.socket]:
    """A channel for this process and the socket for the worker at its other end."""
    here, there = socket.socketpair()
    return own_channel(here), there


def own_channel(end: socket.socket) -> Channel:
    """A channel that is closed in every child that is forked from this process."""
    channel = Channel(end)
    _OWN_ENDS.add(channel)
    return channel


def _close_own_ends() -> None:
    for channel in list(_OWN_ENDS):
        channel.close()
    _OWN_ENDS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_own_ends)
