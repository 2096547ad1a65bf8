"""The processor's cores: how many there are for us, when to give one up, and where to wake up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

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

    Nobody is bound where there are more cores than workers: the kernel finds an idle one, which is
    better than any that was chosen beforehand. Nor where workers outnumber the cores, nor once
    somebody else has said on which cores the worker may run.

    Args:
        worker: the worker's number, from 0.
        num_workers: of its vector.
    """

    def __init__(self, worker: int, num_workers: int) -> None:
        self._is_bound = False
        self._own: set[int] = set()
        self._every: set[int] = set()
        if num_workers > 1 and hasattr(os, "sched_setaffinity"):  # not on macOS
            cores = os.sched_getaffinity(0)
            if len(cores) == num_workers:
                self._own, self._every = {sorted(cores)[worker]}, cores

    def __enter__(self) -> None:
        if self._own and os.sched_getaffinity(0) == self._every:
            self._is_bound = _bind(self._own)

    def __exit__(self, *_: object) -> None:
        if self._is_bound:
            self._is_bound = False
            if os.sched_getaffinity(0) == self._own:
                _bind(self._every)


def _bind(cores: set[int]) -> bool:
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # the core was taken away from us
        return False
    return True
