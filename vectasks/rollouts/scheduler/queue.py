"""Parts of tasks that no runner has begun: queued, or sent ahead to a busy runner.

A busy runner is sent its next part ahead, so that its worker can begin it without a round trip.
Until then it is still a queued part: it is taken back for a runner that is idle, for one of a
better batch, when it is cleared, and when its own runner fails with what it is at.

A part that failed is queued again where it was. Not every runner may run it then.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vectasks.pool.futures import CallFuture
from vectasks.rollouts.scheduler.runner import RunnerWrapper, TaskWrapper, when_done
from vectasks.rollouts.scheduler.scheduled_batches import Batch, Result, Scheduled, sort_batch_id


@dataclass(eq=False)
class Part:
    """Some runs of a scheduled task, for one runner.

    Attributes:
        scheduled: the task.
        number: the part's, among those of the task.
        wrapper: what the runner is given.
        failed_on: of each attempt that failed, the runner and how often it had been restarted.
        order: its place in the queue, once it was there.
    """

    scheduled: Scheduled
    number: int
    wrapper: TaskWrapper
    failed_on: list[tuple[RunnerWrapper, int]] = field(default_factory=list)
    order: int | None = None

    @property
    def runners_that_failed(self) -> set[RunnerWrapper]:
        """The runners of all failed attempts."""
        return {runner for runner, _ in self.failed_on}

    def note_failure(self, runner: RunnerWrapper) -> None:
        """Record that an attempt failed."""
        self.failed_on.append((runner, runner.num_restarts))

    def has_failed_on(self, runner: RunnerWrapper) -> bool:
        """Tell whether it failed on this runner since the runner's last restart."""
        return bool(self.failed_on) and (runner, runner.num_restarts) in self.failed_on


def parts_of(batch: Batch, wrapper: TaskWrapper, most_repeats: int | None) -> list[Part]:
    """Number the runs of a task, and split them where a runner may be given only so many."""
    most = most_repeats or wrapper.repeat_times
    starts = range(0, wrapper.repeat_times, most)
    repeats = [min(most, wrapper.repeat_times - start) for start in starts]
    scheduled = Scheduled(batch, repeats)
    batch.out.add(scheduled)
    base = wrapper.run_id_base + batch.next_run_id
    batch.next_run_id += wrapper.repeat_times
    return [
        Part(
            scheduled,
            number,
            replace(wrapper, run_id_base=base + start, repeat_times=repeats[number]),
        )
        for number, start in enumerate(starts)
    ]


class _Entry(NamedTuple):
    """A part in the queue; entries sort by the batch's priority, then by their order."""

    priority: tuple[int, int, int, str]
    order: int
    part: Part


class Ahead(NamedTuple):
    """The part that a busy runner was sent to run next, and its future result."""

    entry: _Entry
    answer: CallFuture


class PartQueue:
    """Parts by their batch's priority, then first in, first out.

    Args:
        may_run: whether a runner may run a part.
        take_in: is given what a part gave that was run although it was to be run elsewhere.
        dispatch_soon: called when a part is back in the queue.

    Attributes:
        ahead: what busy runners were sent: one part each, all of one priority, as a rule.
    """

    def __init__(
        self,
        may_run: Callable[[RunnerWrapper, Part], bool],
        take_in: Callable[[Part, Result], None],
        dispatch_soon: Callable[[], None],
    ) -> None:
        self.ahead: dict[RunnerWrapper, Ahead] = {}
        self._entries: list[_Entry] = []
        self._order = itertools.count()
        self._may_run = may_run
        self._take_in = take_in
        self._dispatch_soon = dispatch_soon

    def __len__(self) -> int:
        """Count the parts that, as far as is known, have not begun."""
        return len(self._entries) + len(self.ahead)

    def put(self, part: Part) -> None:
        """Queue a part behind those of its batch; one that was queued before gets its old place."""
        if part.order is None:
            part.order = next(self._order)
        priority = sort_batch_id(part.wrapper.batch_id)
        heapq.heappush(self._entries, _Entry(priority, part.order, part))

    def pop(self, idle: Sequence[RunnerWrapper]) -> tuple[RunnerWrapper, Part] | None:
        """Pop the first part that one of these runners may run; return it and the runner."""
        passed = []
        found = None
        while idle and self._entries and found is None:
            entry = heapq.heappop(self._entries)
            able = next((runner for runner in idle if self._may_run(runner, entry.part)), None)
            if able is None:
                passed.append(entry)
            else:
                found = able, entry.part
        for entry in passed:
            heapq.heappush(self._entries, entry)
        return found

    def drop_cleared(self) -> None:
        """Drop cleared parts, except those that may have begun by now."""
        self._entries = [entry for entry in self._entries if not entry.part.scheduled.is_cleared]
        heapq.heapify(self._entries)
        for runner, ahead in tuple(self.ahead.items()):
            if ahead.entry.part.scheduled.is_cleared and ahead.answer.cancel():
                del self.ahead[runner]

    # -- ahead ----------------------------------------------------------------------------------

    def send_ahead(self, runner: RunnerWrapper) -> None:
        """Send a busy runner the first part of the queue, so that it need not wait for it."""
        if not self._entries or runner in self.ahead:
            return
        first = self._entries[0]
        if not self._may_run(runner, first.part):
            return
        # Of two batches, a runner could begin the worse one while the better one waits elsewhere.
        if all(ahead.entry.priority == first.priority for ahead in self.ahead.values()):
            answer = runner.send_ahead(first.part.wrapper)
            if answer is not None:
                self.ahead[runner] = Ahead(heapq.heappop(self._entries), answer)

    def begun_by(self, runner: RunnerWrapper) -> tuple[Part, CallFuture] | None:
        """Return the part that a runner has begun after its last one; None: it was sent nothing."""
        ahead = self.ahead.pop(runner, None)
        return None if ahead is None else (ahead.entry.part, ahead.answer)

    def take_back(self, idle: Sequence[RunnerWrapper]) -> None:
        """Queue parts again that were sent ahead and should begin elsewhere, as on an idle runner.

        It is too late for those that have been begun by now.
        """
        for runner, ahead in sorted(self.ahead.items(), key=lambda item: item[1].entry):
            if self._is_out_of_place(ahead.entry, idle) and ahead.answer.cancel():
                del self.ahead[runner]
                self._put_back(ahead.entry.part)

    def _is_out_of_place(self, entry: _Entry, idle: Sequence[RunnerWrapper]) -> bool:
        """Tell whether a part sent ahead should begin elsewhere."""
        num_idle = sum(self._may_run(runner, entry.part) for runner in idle)
        others = (each for each in self._entries if any(self._may_run(r, each.part) for r in idle))
        if num_idle > sum(1 for _ in itertools.islice(others, num_idle)):
            return True
        for_the_idle = heapq.nsmallest(num_idle, self._entries)
        return bool(self._entries) and (
            entry.priority > self._entries[0].priority
            or any(entry.priority < other.priority for other in for_the_idle)
        )

    def give_back(self, runner: RunnerWrapper) -> None:
        """Queue again what a runner was sent ahead, because its current part failed."""
        ahead = self.ahead.pop(runner, None)
        if ahead is None:
            return
        if ahead.answer.cancel():
            self._skipped(ahead)
        else:  # it is skipping it, as a rule
            when_done(ahead.answer, functools.partial(self._skipped, ahead))

    def _skipped(self, ahead: Ahead) -> None:
        answer = ahead.answer
        outcome = None if answer.cancelled() or answer.exception() else answer.result()
        if outcome is not None and outcome[0].ok:  # the failure was in what became of the answer
            self._take_in(ahead.entry.part, outcome)
        else:
            self._put_back(ahead.entry.part)
            self._dispatch_soon()

    def _put_back(self, part: Part) -> None:
        if not part.scheduled.is_cleared:
            self.put(part)
