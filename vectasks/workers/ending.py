"""The end of many workers side by side: one grace period for all, then SIGTERM."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

_TERMINATE_GRACE_S = 1.0

logger = logging.getLogger("vectasks")


class Ending(Protocol):
    """What of a worker its end needs."""

    @property
    def number(self) -> int:
        """Its number among its mates."""

    def ask_to_end(self) -> None:
        """Ask it to close what it holds, and to end."""

    def has_ended(self) -> bool:
        """Whether it has ended; what it sends last is taken in, so that it can."""

    def terminate(self) -> None:
        """SIGTERM."""


Workers = TypeVar("Workers", bound=Ending)


def end_workers(
    workers: Sequence[Workers],
    grace_s: float,
    wait_for_news: Callable[[Sequence[Workers], float], object],
) -> None:
    """Ask all to end, wait, and terminate those that do not; who is left then must be killed.

    Args:
        workers: those to end.
        grace_s: how long all of them together may take.
        wait_for_news: waits until one of some workers has something to say, or so many seconds.
    """
    for worker in workers:
        worker.ask_to_end()
    remaining = _join(workers, grace_s, wait_for_news)
    for worker in remaining:
        logger.warning("worker %d did not end within %g s", worker.number, grace_s)
        worker.terminate()
    _join(remaining, _TERMINATE_GRACE_S, wait_for_news)


def _join(
    workers: Sequence[Workers],
    timeout_s: float,
    wait_for_news: Callable[[Sequence[Workers], float], object],
) -> list[Workers]:
    """Wait for the end of these workers, side by side; those that have not ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [worker for worker in workers if not worker.has_ended()]
        remaining = deadline - time.monotonic()
        if not left or remaining <= 0:
            return left
        wait_for_news(left, remaining)
