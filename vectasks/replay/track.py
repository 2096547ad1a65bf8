"""One sampler's way through the episode log: what a replay of its episode needs."""

from __future__ import annotations

from typing import Any

from vectasks.host.task_host import HostPlan
from vectasks.protocol import Command
from vectasks.replay.recording import Call, Passed

_MAX_PASSED = 100_000


class Track:
    """One sampler's way through the entries."""

    def __init__(self, plan: HostPlan, position: int) -> None:
        self.plan = plan
        self.is_independent = False
        self.episode: int = position  # where its current episode begins
        self.passed: list[Passed] = []  # what happened before that
        self.num_resampled: int = 0  # and so many times autoreset, last
        self.since: list[Passed] = []  # what will have happened once the next episode begins
        self.anchor: int = position  # where a replay must begin, unless episodes are independent
        self.num_passed_at_anchor: int = 0
        self.gap: str | None = None  # what is missing between the anchor and now
        self.is_passed_whole: bool = True
        self.look: Call | None = None  # the last command that changed nothing

    def start_of_replay(self) -> int:
        """The position of the first entry that counts for a replay."""
        return self.episode if self.is_independent else self.anchor

    def passed_before_replay(self) -> list[Passed]:
        """Return what happened before that entry."""
        self._write_down_resampled()
        return self.passed[: None if self.is_independent else self.num_passed_at_anchor]

    def begin_episode(self, position: int, is_seeded: bool = False) -> None:
        """A new episode begins with the entry at ``position``, perhaps with a new random state."""
        self._write_down_resampled()
        for item in self.since:
            self._pass(item)
        self.since = []
        self.episode = position
        if is_seeded or self.is_independent:
            self.begin_replay_at_episode()
            self.gap = None
        if len(self.passed) > _MAX_PASSED:
            num_dropped = len(self.passed) // 2
            del self.passed[:num_dropped]
            self.num_passed_at_anchor = max(0, self.num_passed_at_anchor - num_dropped)
            self.is_passed_whole = False

    def begin_next_episode(self, position: int) -> None:
        """A new episode began by autoreset, just before the entry at ``position``."""
        if self.since:
            self.since.append(Passed(Command.NEXT_TASK))
            self.begin_episode(position)
            return
        self.num_resampled += 1
        self.episode = position
        if self.is_independent:
            self.gap = None

    def begin_replay_at_episode(self) -> None:
        """Leave out what was done in earlier episodes."""
        self._write_down_resampled()
        self.anchor, self.num_passed_at_anchor = self.episode, len(self.passed)

    def _write_down_resampled(self) -> None:
        if self.num_resampled:
            self._pass(Passed(Command.NEXT_TASK, None, self.num_resampled))
            self.num_resampled = 0

    def _pass(self, item: Passed) -> None:
        """Append, or add to the last one; but leave those before the anchor as they are."""
        if self.is_independent or len(self.passed) > self.num_passed_at_anchor:
            last = self.passed[-1] if self.passed else None
            if last is not None and _equal(last[:2], item[:2]):
                self.passed[-1] = last._replace(times=last.times + item.times)
                return
        self.passed.append(item)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays among the arguments
        return False
