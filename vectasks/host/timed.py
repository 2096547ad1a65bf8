"""Hosts that record how long everything takes."""

from __future__ import annotations

import time
from typing import Any

from vectasks.host.task_host import HostGroup
from vectasks.monitoring.live_stats import KINDS, Recorder
from vectasks.protocol import Reply, Request

_clock = time.monotonic


class TimedHostGroup(HostGroup):
    """Hosts whose every command is recorded, and every step that is asked for as a timed one."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._pending = recorder.pending

    def execute(self, request: Request) -> Reply:
        """Carry out one request, and record how long it took."""
        begin_s = time.monotonic()
        try:
            return super().execute(request)
        finally:
            code = request.sampler_id * KINDS + request.command
            self._recorder.record(code, begin_s, time.monotonic())

    def timed_step(self, sampler_id: int, action: Any, place: Any = None) -> Any:
        """Step one host; how long that takes, and the writing that follows, is recorded."""
        pending, begin_s = self._pending, _clock()
        if pending:
            pending.append(begin_s)  # what the step before gave has been written
        try:
            return self.step(sampler_id, action, place)
        finally:
            pending += (sampler_id * KINDS, begin_s, _clock())  # Command.STEP is 0

    def end_steps(self) -> None:
        """Record steps whose results have been written."""
        if self._pending:
            self._pending.append(_clock())
            self._recorder.write()
