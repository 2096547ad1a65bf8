"""A transport that goes on to the next tasks, where the vector does that and not the hosts.

::

    wait      the inner transport waits for steps
              one of them ended an episode: its outcome is held, and its step counts as out
                  the task source is told, and the next task is asked for, or was prepared
              the next task's first observation is there: it stands in the outcome, which is
              given back
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from vectasks.transport.base import StepTransport, TransportAround
from vectasks.transport.step_buffer import OutOfBand
from vectasks.vector.next_tasks import NextTasks


class EpisodeEnds(TransportAround):
    """Goes on to the next task where a step ended an episode.

    Args:
        inner: carries the steps.
        next_tasks: says what comes next.
    """

    def __init__(self, inner: StepTransport, next_tasks: NextTasks) -> None:
        super().__init__(inner)
        self._next_tasks = next_tasks

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait for steps, and for the next tasks of those that ended an episode."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        remaining_s = timeout_s
        while True:
            self._inner.wait(ids, count, remaining_s, late_is_fine=late_is_fine)
            if not self._go_on(ids):
                return
            if deadline is not None:
                remaining_s = max(0.0, deadline - time.monotonic())

    def _go_on(self, ids: Sequence[int]) -> bool:
        """Go on to the next tasks of those of these that ended an episode; whether some did."""
        ended = self._inner.ended(ids)
        for i in sorted(ended):  # the order in which a source is asked is that of the samplers
            give_back = functools.partial(self._inner.give_back, i)
            self._next_tasks.ended(i, self._inner.hold(i), give_back)
        return bool(ended)

    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Leave out those that have ended an episode since :meth:`wait` looked."""
        while True:
            first = self._inner.earliest(ids, count)
            if not self._go_on(first):
                return first

    def take_plain_extras(self, ids: Sequence[int]) -> dict[int, OutOfBand] | None:
        """Leave it to Python to go on where an episode ended."""
        return None if self._inner.ended(ids) else self._inner.take_plain_extras(ids)
