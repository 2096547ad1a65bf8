"""The processor's cores: how many there are for us, when to give one up, and where to wake up."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable

yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))

PROMPT_S = 20e-6  # a trip through the scheduler and back, where nobody else computes on the core


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


def yields_promptly() -> bool:
    """Give the core up once; whether it was back at once, as nobody else computes on it."""
    begin_s = time.monotonic()
    yield_core()
    return time.monotonic() - begin_s < PROMPT_S


def own_core(worker: int, num_workers: int) -> int | None:
    """The core that a worker sleeps on, where each has one of its own; None: it has none.

    Args:
        worker: its number, from 0.
        num_workers: of its vector.
    """
    if num_workers == 1 or not hasattr(os, "sched_setaffinity"):  # not on macOS
        return None
    cores = os.sched_getaffinity(0)
    return sorted(cores)[worker] if len(cores) == num_workers else None


def current_core() -> int | None:
    """The core that runs this now; None: there is no way to know."""
    function = _getcpu()
    return None if function is None else function()


@functools.cache
def _getcpu() -> Callable[[], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    function: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return function


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
        core = own_core(worker, num_workers)
        self._own: set[int] = set() if core is None else {core}
        self._every: set[int] = set() if core is None else os.sched_getaffinity(0)

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
