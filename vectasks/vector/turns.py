"""A sampler's hosts, the turns in which they prepare its tasks, and what these are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vectasks.host.task_host import HostPlan
from vectasks.protocol import Command, Death, Failure, TaskStart
from vectasks.workers.base import Worker

_FOLD_AT = 1024  # items


class Host:
    """One of a sampler's hosts.

    Attributes:
        number: 0 for the sampler's own, from 1 for its spares.
        worker: where it is.
        is_made: whether it is there, or being made; otherwise it is made when it is next needed.
        failure: why it could not be made.
        first: what its sampler is asked before its next task.
        position: so much of the stream of tasks it has seen, where hosts have the same.
    """

    def __init__(self, number: int, worker: Worker) -> None:
        self.number = number
        self.worker = worker
        self.is_made = False
        self.failure: Failure | None = None
        self.first: list[tuple[Command, Any, int]] = []
        self.position = 0
        self.plan: HostPlan | None = None  # while the log does not know what it was made from


class Turn:
    """One task of a sampler, and the host that prepares it.

    Attributes:
        keywords: of the task source, or none; None: there is no such task.
        seq: of the request that prepares it; 0: none is out.
        answer: what came of that.
        calls: what the host's sampler was asked for it, for the episode log.
    """

    def __init__(self, host: Host, keywords: Mapping[str, Any] | None) -> None:
        self.host = host
        self.keywords = keywords
        self.seq = 0
        self.answer: TaskStart | Failure | Death | None = None
        self.calls: list[tuple[Command, Any]] = []


class Stream:
    """What a sampler was asked since it was made; its hosts go through it side by side.

    Each item counts as often as it says. An item may be left out by the host that was asked it
    when it happened.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.items: list[tuple[Command, Any, int, Host | None]] = []
        self.length: int = 0
        self._fold_at = _FOLD_AT

    def add(self, command: Command, data: Any = None, asked: Host | None = None) -> int:
        """Append an item; the position before it."""
        last = self.items[-1] if self.items else None
        if last is not None and command is last[0] is Command.NEXT_TASK and data is last[1] is None:
            self.items[-1] = (command, data, last[2] + 1, None)
        else:
            self.items.append((command, data, 1, asked))
        self.length += 1
        return self.length - 1

    def between(self, start: int, end: int, host: Host | None) -> list[tuple[Command, Any, int]]:
        """What lies between two positions, for a host; None: for a new one."""
        found, position = [], 0
        for command, data, times, asked in self.items:
            count = min(position + times, end) - max(position, start)
            position += times
            if count > 0 and (asked is None or asked is not host):
                found.append((command, data, count))
        return found

    def cut(self, num_items: int) -> None:
        """Forget the last tasks, which nobody played."""
        for _ in range(num_items):
            position = max(k for k, item in enumerate(self.items) if item[0] is Command.NEXT_TASK)
            command, data, times, asked = self.items[position]
            if times > 1:
                self.items[position] = (command, data, times - 1, asked)
            else:
                del self.items[position]
            self.length -= 1

    def position_of_task(self, count: int) -> int:
        """Where the task is that is the last but ``count - 1``."""
        position = self.length
        for command, _, times, _ in reversed(self.items):
            if command is Command.NEXT_TASK:
                if times >= count:
                    return position - count
                count -= times
            position -= times
        raise IndexError(f"there are {count} tasks fewer")

    def fold(self, hosts: Sequence[Host]) -> None:
        """Forget calls that were made again later, once there are many of them."""
        if len(self.items) < self._fold_at:
            return
        end = min((host.position for host in hosts if host.is_made), default=0)
        kept: list[tuple[Command, Any, int, Host | None]] = []
        seen: list[Any] = []
        position, num_kept = self.length, 0
        for item in reversed(self.items):
            position -= item[2]
            if item[0] is Command.CALL_SAMPLER and position < end:
                if any(_equal(item[1], data) for data in seen):
                    continue
                seen.append(item[1])
            num_kept += item[2]
            if (
                kept
                and item[0] is kept[-1][0] is Command.NEXT_TASK
                and item[1] is kept[-1][1] is None
            ):
                kept[-1] = (*item[:2], item[2] + kept[-1][2], None)
            else:
                kept.append(item)
        num_dropped = self.length - num_kept
        self.items = kept[::-1]
        self.length -= num_dropped
        for host in hosts:
            host.position = max(0, host.position - num_dropped)
        self._fold_at = max(_FOLD_AT, 2 * len(self.items))


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays among the arguments
        return False
