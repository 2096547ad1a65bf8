"""Find out, before worker processes start, by which method and how many there may be."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from vectasks.errors import InvalidArgument, ResourceLimit
from vectasks.workers.forkserver import server

#: How workers are started where nothing else is asked for.
DEFAULT_START_METHOD = "forkserver"

#: What a worker costs this process: its channel and two ends of multiprocessing's pipes.
DESCRIPTORS_A_WORKER = 3
#: For what is open only while a worker starts, and for the forkserver.
_SPARE_DESCRIPTORS = 16


def require_descriptors(
    num_workers: int, argument: str = "max_processes", *, each: int = DESCRIPTORS_A_WORKER
) -> None:
    """Refuse to start more workers than the limit of open descriptors allows.

    Args:
        num_workers: how many are to be started.
        argument: what the user asked for them by.
        each: what a worker needs.

    Raises:
        ResourceLimit: it does not allow so many.
    """
    limit = os.sysconf("SC_OPEN_MAX")
    if limit <= 0:
        return  # there is none
    left = limit - len(list(Path("/dev/fd").iterdir())) - _SPARE_DESCRIPTORS
    if num_workers * each > left:
        most = max(0, left // each)
        raise ResourceLimit(
            f"{num_workers} workers need {num_workers * each} descriptors, and "
            f"this process may open {max(0, left)} more: its limit is {limit}. Give {argument}="
            f"{most} or fewer, or raise the limit (ulimit -n, resource.setrlimit). "
            "Nothing was started."
        )


def start_context(start_method: str | None, mp_ctx: Any, preload: Sequence[str]) -> BaseContext:
    """The multiprocessing context to start workers with, its forkserver told what to preload.

    Raises:
        InvalidArgument: both or neither of the two were given, or there is no such start method.
    """
    if mp_ctx is not None and start_method not in (None, DEFAULT_START_METHOD):
        raise InvalidArgument(
            f"both multiprocessing_start_method={start_method!r} and mp_ctx={mp_ctx!r} were given; "
            "give one of them."
        )
    if mp_ctx is None and start_method is None:
        raise InvalidArgument(
            "neither multiprocessing_start_method nor mp_ctx was given; give one of them "
            f"(the default is {DEFAULT_START_METHOD!r})."
        )
    known = multiprocessing.get_all_start_methods()
    if mp_ctx is None:
        if start_method not in known:
            raise InvalidArgument(
                f"multiprocessing_start_method={start_method!r} is unknown; "
                f"this system has {known}."
            )
        mp_ctx = multiprocessing.get_context(start_method)
    elif not hasattr(mp_ctx, "Process") or not hasattr(mp_ctx, "get_start_method"):
        raise InvalidArgument(
            f"mp_ctx must be a multiprocessing context, got {mp_ctx!r}; make one by "
            "multiprocessing.get_context('forkserver')."
        )
    if mp_ctx.get_start_method() == "forkserver":
        server.preload(preload)
    context: BaseContext = mp_ctx
    return context
