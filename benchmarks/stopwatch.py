"""Measure how long the calls of one method take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def time_calls(owner: Any, method: str) -> Callable[[], float]:
    """Time a method of an object from now on; gives the seconds so far, all calls together."""
    function, seconds = getattr(owner, method), 0.0

    def timed(*args: Any) -> Any:
        nonlocal seconds
        begin = time.perf_counter()
        try:
            return function(*args)
        finally:
            seconds += time.perf_counter() - begin

    setattr(owner, method, timed)
    return lambda: seconds
