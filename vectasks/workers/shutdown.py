"""Waiting for many workers side by side, and their end: one grace period for all, then SIGTERM."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

from vectasks._util.interrupts import ctrl_c

_TERMINATE_GRACE_S = 1.0

logger: logging.Logger = logging.getLogger("vectasks")


class Talking(Protocol):
    """The part of a worker that is needed to wait for it."""

    def descriptors(self) -> list[tuple[int, int]]:
        """(descriptor, ``select.poll`` events) that tell of news."""


class Ending(Talking, Protocol):
    """The part of a worker that is needed to end it."""

    @property
    def number(self) -> int:
        """Its number among its mates."""

    def ask_to_end(self) -> None:
        """Ask it to close what it holds, and to end."""

    def has_ended(self) -> bool:
        """Tell whether it has ended; take in what it sends last, so that it can end."""

    def terminate(self) -> None:
        """SIGTERM."""


Workers = TypeVar("Workers", bound=Talking)


def wait_for_news(workers: Sequence[Workers], timeout_s: float) -> Sequence[Workers]:
    """Those of these workers that have something to say; all of them when the time is over.

    A worker without descriptors has always something to say, and nobody is waited for.
    """
    poll = select.poll()
    worker_of: dict[int, Workers] = {}
    for worker in workers:
        descriptors = worker.descriptors()
        if not descriptors:
            return workers
        for descriptor, events in descriptors:
            poll.register(descriptor, events)
            worker_of[descriptor] = worker
    news = poll.poll(timeout_s * 1000)
    return list({worker_of[descriptor]: None for descriptor, _ in news}) or workers


def end_workers(workers: Sequence[Ending], grace_s: float) -> None:
    """Ask all to end, wait, and terminate those that do not; who is left then must be killed.

    Args:
        workers: those to end.
        grace_s: how long all of them together may take.
    """
    for worker in workers:
        worker.ask_to_end()
    remaining = _join(workers, grace_s)
    for worker in remaining:
        logger.warning("worker %d did not end within %g s", worker.number, grace_s)
        worker.terminate()
    _join(remaining, _TERMINATE_GRACE_S)


def _join(workers: Sequence[Ending], timeout_s: float) -> list[Ending]:
    """Wait for the end of these workers, side by side; those that have not ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [worker for worker in workers if not worker.has_ended()]
        remaining = deadline - time.monotonic()
        if not left or remaining <= 0:
            return left
        with ctrl_c:
            wait_for_news(left, remaining)
