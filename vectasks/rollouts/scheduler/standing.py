"""The runners' success: one that keeps failing while others succeed is set aside for a while.

A failure is laid to the runner, until the task fails on another one that does well: then it is the
task's. A success clears all. A runner to which two failures are laid is set aside where any other
is better; then it is given one task now and then, and is back at its first success. Where all do
badly, none is set aside: nothing ever stalls.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from vectasks.rollouts.scheduler.queue import Part
from vectasks.rollouts.scheduler.runner import RunnerWrapper

_MOST_FAILURES = 1
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class _Record:
    """The record of one runner.

    Attributes:
        failures: the parts that it failed at since its last success, as far as that is laid to it.
        has_succeeded: whether it ever did.
        pause_s: how long its last pause is.
        paused_until_s: on the clock of ``time.monotonic()``.
    """

    def __init__(self) -> None:
        self.failures: list[Part] = []
        self.has_succeeded = False
        self.pause_s = 0.0
        self.paused_until_s = 0.0

    @property
    def is_trusted(self) -> bool:
        return len(self.failures) <= _MOST_FAILURES

    @property
    def does_well(self) -> bool:
        return self.has_succeeded and not self.failures


class Standing:
    """Keeps the records of all runners."""

    def __init__(self, runners: Iterable[RunnerWrapper]) -> None:
        self._records = {runner: _Record() for runner in runners}

    def succeeded(self, runner: RunnerWrapper) -> None:
        """Record that an attempt succeeded."""
        record = self._records[runner]
        record.failures.clear()
        record.has_succeeded = True
        record.pause_s = 0.0

    def failed(self, runner: RunnerWrapper, part: Part) -> float | None:
        """Record that an attempt failed; call it before the part records it.

        Returns:
            the seconds after which the runner may be probed, if it may have to be; else None.
        """
        record = self._records[runner]
        others = part.runners_that_failed - {runner}
        if others and record.does_well:
            for other in others:
                theirs = self._records[other]
                theirs.failures = [failed for failed in theirs.failures if failed is not part]
            return None
        record.failures.append(part)
        if record.is_trusted:
            return None
        record.pause_s = min(2 * record.pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        record.paused_until_s = time.monotonic() + record.pause_s
        return record.pause_s

    @property
    def trusted(self) -> list[RunnerWrapper]:
        """The runners that are not set aside."""
        return [runner for runner in self._records if not self.is_set_aside(runner)]

    def is_set_aside(self, runner: RunnerWrapper) -> bool:
        """Tell whether a runner keeps failing while another one succeeds."""
        if self._records[runner].is_trusted:
            return False
        return any(record.is_trusted for record in self._records.values())

    def may_begin(self, runner: RunnerWrapper) -> bool:
        """Tell whether a runner may get a task now: not set aside, or due for a probe."""
        is_due = self._records[runner].paused_until_s <= time.monotonic()
        return is_due or not self.is_set_aside(runner)
