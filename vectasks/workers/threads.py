"""Next tasks that are prepared in threads of this process, for samplers that allow it."""

from __future__ import annotations

import contextlib
import os
import select
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from vectasks.host.task_host import TaskHost
from vectasks.protocol import Failure, Reply, Request
from vectasks.spaces import copy_arrays


class Preparations:
    """Prepares hosts' next tasks, each host's one after another in a thread of its own.

    The workers of one vector share it: hosts move from one to the other meanwhile.
    """

    def __init__(self) -> None:
        self._threads: weakref.WeakKeyDictionary[TaskHost, ThreadPoolExecutor] = (
            weakref.WeakKeyDictionary()
        )
        self._replies: deque[Reply] = deque()
        self._num_out = 0
        self._bell: tuple[int, int] | None = None  # a pipe, once there is a thread

    def begin(self, host: TaskHost, request: Request) -> bool:
        """Have a host prepare its next task in a thread, if its sampler allows it; whether."""
        if getattr(host.sampler, "prepares_in_thread", False) is not True:
            return False
        if self._bell is None:
            self._bell = os.pipe()
            os.set_blocking(self._bell[0], False)
        if host not in self._threads:
            self._threads[host] = ThreadPoolExecutor(1, f"vectasks-prepares-{request.sampler_id}")
        self._num_out += 1
        self._threads[host].submit(self._prepare, host, request)
        return True

    def _prepare(self, host: TaskHost, request: Request) -> None:
        try:
            value = copy_arrays(host.prepare(request.data), with_objects=True)
        except BaseException as error:  # user code
            value = Failure.of(error)
        self._replies.append(Reply(request.seq, request.sampler_id, value))
        assert self._bell is not None
        os.write(self._bell[1], b"\0")

    def receive(self) -> list[Reply]:
        """Take the replies that have come."""
        if not self._num_out:
            return []
        assert self._bell is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell[0], 4096)
        replies = []
        while self._replies:
            replies.append(self._replies.popleft())
        self._num_out -= len(replies)
        return replies

    def descriptors(self) -> list[tuple[int, int]]:
        """Give what tells of further replies; none: nothing is being prepared."""
        if not self._num_out or self._replies:
            return []
        assert self._bell is not None
        return [(self._bell[0], select.POLLIN)]

    def close(self) -> None:
        """Wait for what is being prepared; what was not begun is left."""
        for thread in list(self._threads.values()):
            thread.shutdown(wait=True, cancel_futures=True)
        self._threads.clear()
        self._num_out = 0
        if self._bell is not None:
            for end in self._bell:
                os.close(end)
            self._bell = None
