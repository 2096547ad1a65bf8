"""Cancellation tokens: a worker takes one to begin a call, and the parent to cancel that.

A call that was sent ahead waits in the worker's socket, out of the parent's reach. Its cancellation
token is a byte in a socket that both read, so the parent can still make sure that it never begins:
what one of them has read, the other does not find.
"""

from __future__ import annotations

import contextlib
import socket


class CancellationTokens:
    """The cancellation tokens of one worker.

    Attributes:
        taking: the end to take them from; a worker gets it when it starts.
    """

    taking: socket.socket

    def __init__(self) -> None:
        self._giving, self.taking = socket.socketpair()
        for end in (self._giving, self.taking):
            end.setblocking(False)

    def give(self) -> None:
        """Give one; there is room for some hundred."""
        self._giving.send(b".")

    def take(self) -> bool:
        """Take one back; False if there is none."""
        return take(self.taking)

    def close(self) -> None:
        """Close both ends."""
        self._giving.close()
        self.taking.close()


def take(taking: socket.socket) -> bool:
    """Take a cancellation token; False if there is none."""
    with contextlib.suppress(OSError):
        return bool(taking.recv(1))
    return False
