"""The schedule of an evaluation: the episodes to play, settled before the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vectasks.errors import InvalidArgument, TaskAttributeError
from vectasks.vector import BaseVectorSampledTasks


class Slot(NamedTuple):
    """An episode that is to be played.

    Attributes:
        episode: its number.
        sampler_id: whose task it is; None: of any sampler, which is asked for ``task``.
        position: which of the sampler's tasks, from 0.
        task: what of a list of tasks it is.
    """

    episode: int
    sampler_id: int | None = None
    position: int | None = None
    task: Any = None


def slots_for_episodes(vector: BaseVectorSampledTasks, episodes: int | None) -> list[Slot]:
    """Schedule so many episodes, in turn from each sampler with tasks left; None: all there are.

    Raises:
        InvalidArgument: there are not so many tasks, or there is no end of them.
    """
    capacities = _capacities(vector)
    total = sum(capacities)
    if episodes is None and math.isinf(total):
        raise InvalidArgument(
            "evaluate: a sampler has no last task, so say how many episodes to play (episodes=...)."
        )
    wanted = int(total) if episodes is None else episodes
    if wanted > total:
        raise InvalidArgument(
            f"episodes={wanted}: the samplers have {int(total)} tasks together, and each is played "
            "once. Give fewer episodes, or more samplers."
        )
    slots: list[Slot] = []
    position = 0
    while len(slots) < wanted:
        able = [i for i, capacity in enumerate(capacities) if position < capacity]
        for sampler_id in able[: wanted - len(slots)]:
            slots.append(Slot(len(slots), sampler_id, position))
        position += 1
    return slots


def slots_for_tasks(tasks: Sequence[Any]) -> list[Slot]:
    """Schedule each of these tasks once, on whichever sampler is free."""
    return [Slot(number, task=task) for number, task in enumerate(tasks)]


def task_keywords(task: Any) -> dict[str, Any]:
    """Return the keywords that ask a sampler's ``next_task`` for a task of a list."""
    if not isinstance(task, Mapping):
        return {"task": task}
    if not all(isinstance(key, str) for key in task):
        raise InvalidArgument(
            f"tasks holds {dict(task)!r:.60}: a dict's keys are keywords of next_task, so they "
            "must be strings."
        )
    return dict(task)


def _capacities(vector: BaseVectorSampledTasks) -> list[float]:
    """Count the tasks of each sampler; the first one is sampled already."""
    try:
        lengths = vector.command("sampler_attr", ["length"] * vector.num_unpaused_tasks)
    except TaskAttributeError:  # samplers need not tell
        return [math.inf] * vector.num_unpaused_tasks
    return [1 + length for length in lengths]
