"""How a sampler moves on from one of its hosts to the next, where the vector prepares its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vectasks.workers.base import Worker
from vectasks.workers.homes import Homes
from vectasks.workers.inline import InlineWorker


class Moves(Protocol):
    """A sampler's way through its hosts: the one that is done makes room for the next."""

    def spares_of(self, sampler_id: int) -> Sequence[Worker]:
        """The workers in which its first spare hosts are made, in their order."""

    def leave(self, sampler_id: int) -> Worker:
        """Take the current host away; the worker in which it prepares its next task."""

    def arrive(self, sampler_id: int, worker: Worker) -> None:
        """Make the host that prepared its task in this worker the current one."""


class BetweenWorkers:
    """Hosts stay where they are: it is the sampler that moves to another worker.

    Args:
        homes: where samplers live.
    """

    def __init__(self, homes: Homes) -> None:
        self._homes = homes

    def spares_of(self, sampler_id: int) -> Sequence[Worker]:
        """Name the other workers of its column."""
        return self._homes.spares_of(sampler_id)

    def leave(self, sampler_id: int) -> Worker:
        """Leave the host where it is."""
        home: Worker = self._homes.of(sampler_id)
        return home

    def arrive(self, sampler_id: int, worker: Worker) -> None:
        """Move there."""
        self._homes.move(sampler_id, worker)


class IntoOneWorker:
    """All current hosts are in one worker of this process, and step there: hosts move.

    Args:
        current: that worker.
        spares: one more than there are spare hosts of a sampler, so that one has room.
    """

    def __init__(self, current: InlineWorker, spares: Sequence[InlineWorker]) -> None:
        self._current = current
        self._spares = spares
        self._room = {i: spares[-1] for i in current.sampler_ids}

    def spares_of(self, sampler_id: int) -> Sequence[Worker]:
        """Name those besides the last, which has room."""
        return self._spares[:-1]

    def leave(self, sampler_id: int) -> Worker:
        """Take the host out of the current ones."""
        room = self._room.pop(sampler_id)
        _move(sampler_id, self._current, room)
        return room

    def arrive(self, sampler_id: int, worker: Worker) -> None:
        """Put the host among the current ones."""
        spare = next(spare for spare in self._spares if spare is worker)
        _move(sampler_id, spare, self._current)
        self._room[sampler_id] = spare


def _move(sampler_id: int, one: InlineWorker, other: InlineWorker) -> None:
    host = one.group.hosts.pop(sampler_id, None)
    if host is not None:  # else it could not be made
        other.group.hosts[sampler_id] = host
