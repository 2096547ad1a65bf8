"""The scheduler's batches: their open tasks, their results, and the calls that wait for them."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vectasks.rollouts.scheduler.runner import Status, mean_metrics

__all__ = ["BatchId", "sort_batch_id"]

BatchId = int | str
#: What a scheduled task gave: how it went, and the experiences of its runs.
Result = tuple[Status, list[Any]]

_BEGINS_WITH_AN_INTEGER = re.compile(r"-?\d+")


def sort_batch_id(batch_id: BatchId) -> tuple[int, int, int, str]:
    """Return a key that sorts batches by priority: integers first, "3/eval" after 3, others last.

    >>> sorted(["later", 10, "3/eval", 3, "3-eval", 4], key=sort_batch_id)
    [3, '3-eval', '3/eval', 4, 10, 'later']
    """
    if not isinstance(batch_id, str):
        return (0, batch_id, 0, "")
    number = _BEGINS_WITH_AN_INTEGER.match(batch_id)
    return (0, int(number[0]), 1, batch_id) if number else (1, 0, 0, batch_id)


class Scheduled:
    """One scheduled task, whose runs may be split into parts.

    Attributes:
        batch: where its result goes.
        parts: what each part gave, or None while it is out.
        is_cleared: whether nobody wants its result any more.
    """

    __slots__ = ("batch", "is_cleared", "parts", "repeats")

    def __init__(self, batch: Batch, repeats: Sequence[int]) -> None:
        self.batch: Batch = batch
        self.repeats: Sequence[int] = repeats
        self.parts: list[Result | None] = [None] * len(repeats)
        self.is_cleared: bool = False

    def result(self) -> Result | None:
        """Merge the results of all parts into one."""
        results = [part for part in self.parts if part is not None]
        if len(results) < len(self.parts):
            return None
        runs = [
            run
            for (status, _), repeats in zip(results, self.repeats, strict=True)
            for run in _runs_of(status, repeats)
        ]
        failed = [status.message for status, _ in results if not status.ok]
        experiences = [experience for _, given in results for experience in given]
        return Status(not failed, mean_metrics(runs), "; ".join(failed)), experiences


def _runs_of(status: Status, repeats: int) -> list[tuple[Mapping[str, Any], int]]:
    if isinstance(status.metrics, Mapping):
        return [(status.metrics, repeats)]
    return [(metrics, 1) for metrics in status.metrics]


class Waiter(NamedTuple):
    """A waiting call of get_results."""

    min_num: int
    future: asyncio.Future[list[Result]]


class Batch:
    """One batch: its open tasks, the results that were not taken yet, and the waiting calls."""

    def __init__(self, batch_id: BatchId, next_run_id: int) -> None:
        self.batch_id = batch_id
        self.next_run_id = next_run_id
        self.out: set[Scheduled] = set()
        self.done: deque[Result] = deque()
        self.waiters: list[Waiter] = []

    def has(self, min_num: int) -> bool:
        """Tell whether so many results have come, or no more will."""
        return len(self.done) >= min_num or not self.out

    def take(self, max_num: int) -> list[Result]:
        """Take the oldest results, so many at most."""
        return [self.done.popleft() for _ in range(min(max_num, len(self.done)))]

    def serve(self) -> None:
        """Answer the waiting calls whose results have come."""
        for waiter in tuple(self.waiters):
            if self.has(waiter.min_num):
                self.waiters.remove(waiter)
                waiter.future.set_result(self.take(waiter.min_num))
