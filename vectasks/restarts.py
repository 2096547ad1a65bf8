"""Deaths of workers, and how many of them a vector mends by itself."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from vectasks.errors import UNKNOWN_EXITCODE

#: In how many seconds ``max_restarts`` may happen.
RESTART_WINDOW_S = 300.0


def how_it_ended(exitcode: int | None) -> str:
    """How a worker ended, as words that follow its name."""
    if exitcode is None:
        return "closed its connection, as by closing descriptors that are not its own"
    if exitcode == 0:
        return "exited with code 0, as by exit() or by closing descriptors that are not its own"
    if exitcode == UNKNOWN_EXITCODE:
        return (
            "ended, and how is not known: the program took its exit status (it ignores SIGCHLD, or "
            "waits for any child), or the fork server was killed"
        )
    if exitcode > 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"was killed by {name}"


class Death(NamedTuple):
    """What came instead of a reply: the worker that should have given it died.

    Attributes:
        restarted: whether it is begun anew by itself.
        refusal: why it is not, where that was wished.
    """

    worker: int
    sampler_ids: tuple[int, ...]
    exitcode: int | None
    restarted: bool
    refusal: str = ""

    def describe(self) -> str:
        """One line: who died, how, and which samplers lived there."""
        mates = ", ".join(map(str, self.sampler_ids))
        return f"worker {self.worker} (samplers {mates}) {how_it_ended(self.exitcode)}"


class RestartLimit:
    """How often dead workers are begun anew: a rate, so that a long run may see many deaths.

    Args:
        max_restarts: so many at most, all workers together, ...
        window_s: ... within any stretch of so many seconds.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        max_restarts: float,
        window_s: float = RESTART_WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._clock = clock
        self._times: deque[float] = deque()

    def refusal(self) -> str:
        """Take one restart, or say why there is none to take."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._window_s:
            self._times.popleft()
        if len(self._times) >= self._max_restarts:
            return (
                f"there were {len(self._times)} restarts within {self._window_s:g} s, and "
                f"max_restarts={self._max_restarts}"
            )
        self._times.append(now)
        return ""
