"""The contract that every kind of worker keeps."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from vectasks.errors import ResourceLimit
from vectasks.monitoring.live_stats import Ring
from vectasks.protocol import Failure, Reply, Request
from vectasks.transport.channel import Unreadable


class WorkerEnded(Exception):
    """A worker is gone; the front turns this into the user's ``WorkerDied``.

    Args:
        exitcode: its exit code, minus the signal's number, or None where it is not known.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


def start_failed(number: int, count: int, error: Exception, argument: str) -> ResourceLimit:
    """The error for a worker whose process could not be started.

    Args:
        number: the worker's number.
        count: how many there are to be.
        error: why it could not.
        argument: what the user asked for them by.
    """
    advice = f" Give a smaller {argument}, or raise the limit."
    if isinstance(error, FileNotFoundError):  # fewer workers would not help
        advice = ""
    return ResourceLimit(f"Worker {number} of {count} could not be started: {error}.{advice}")


class Worker(abc.ABC):
    """A place where hosts live. Requests go in, replies come out, nothing here ever waits for them.

    A worker is made, started, and given a ``SETUP`` request for each of its samplers. When it ends
    without being asked to, ``post`` and ``receive`` raise :class:`WorkerEnded`, and :meth:`start`
    restarts it, empty.

    Args:
        number: its number among the workers of a vector, from 0.
        sampler_ids: the samplers whose hosts live in it.
    """

    def __init__(self, number: int, sampler_ids: Sequence[int]) -> None:
        self.number = number
        self.sampler_ids: tuple[int, ...] = tuple(sampler_ids)

    @property
    def pid(self) -> int | None:
        """The id of the process that can be late; None where it is this one."""
        return None

    @property
    def channel_bytes(self) -> int:
        """Bytes that went through its channel, both ways."""
        return 0

    @abc.abstractmethod
    def record_spans(self, ring: Ring) -> None:
        """Record from the start on how long everything takes."""

    @abc.abstractmethod
    def start(self) -> None:
        """Begin; also again after the worker ended."""

    @abc.abstractmethod
    def pack(self, message: list[Request]) -> Any:
        """Make a message ready for :meth:`post`, so that all workers' are before any is sent.

        Raises:
            Exception: it cannot be pickled.
        """

    @abc.abstractmethod
    def post(self, packed: Any) -> None:
        """Hand over a packed message; its requests or steps are carried out in order.

        Raises:
            WorkerEnded: the worker is gone.
        """

    @abc.abstractmethod
    def receive(self) -> list[Reply | Unreadable]:
        """The replies that are there now, perhaps none; ``Unreadable`` for a lost message.

        Raises:
            WorkerEnded: the worker is gone, and every reply that it gave was received before.
        """

    @abc.abstractmethod
    def descriptors(self) -> list[tuple[int, int]]:
        """(descriptor, ``select.poll`` events) to wait for before :meth:`receive` has more to say.

        Empty where replies are always there at once.
        """

    # -- the end, in steps, so that many workers share one grace period ---------------------------

    @abc.abstractmethod
    def ask_to_end(self) -> None:
        """Ask for a close of every task and sampler, and for the end."""

    @abc.abstractmethod
    def has_ended(self) -> bool:
        """Tell whether the worker has ended; take in what it sends last, so that it can end."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """End it, giving it a chance to notice."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it."""

    @abc.abstractmethod
    def release(self) -> list[tuple[int, Failure]]:
        """End it if it has not ended, and give back what it held.

        Returns:
            what closing tasks and samplers raised, with the sampler's id.
        """
