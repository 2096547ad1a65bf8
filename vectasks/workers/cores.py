"""The processor's cores: how many there are for us, and when to give one up."""

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
