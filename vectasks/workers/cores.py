"""The processor's cores: how many there are for us, when to give one up, and where to wake up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType

yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


def usable_cores() -> int:
    """How many cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def polls_before_blocking(num_workers: int) -> int:
    """How often to poll: hardly where workers outnumber the cores, never where there is one."""
    cores = usable_cores()
    if cores == 1:
        return 0
    return 400 if num_workers <= cores else 20


class WakesOnOwnCore:
    """Used as ``with wakes_on_own_core:`` around a worker's sleep: it wakes up on its own core.

    Workers that are woken together are often put on the core of who wakes them, to run there one
    after the other while another core idles. So each is bound to a core of its own while it sleeps,
    and only then: awake, it is moved as the kernel sees fit.

    Where workers take less than half of the cores nobody is bound: the kernel finds idle ones,
    which are better than any that was chosen beforehand. Nor where they outnumber the cores.

    Args:
        worker: the worker's number, from 0.
        num_workers: of its vector.
    """

    def __init__(self, worker: int, num_workers: int) -> None:
        self._own: set[int] | None = None
        if hasattr(os, "sched_setaffinity"):  # not on macOS
            cores = sorted(os.sched_getaffinity(0))
            if 2 <= num_workers <= len(cores) < 2 * num_workers:
                self._own = {cores[worker]}

    def __enter__(self) -> None:
        if self._own is not None:
            # Asked for every time: whoever runs the program may have changed it.
            self._before = os.sched_getaffinity(0)
            self._bind(self._own)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own is not None:
            self._bind(self._before)

    def _bind(self, cores: set[int]) -> None:
        try:
            os.sched_setaffinity(0, cores)
        except OSError:  # a core was taken away from us: let the kernel choose from now on
            self._own = None
