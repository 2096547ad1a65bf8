"""Play scheduled episodes with a vector; samplers pause after their last ones."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vectasks.errors import (
    RemoteError,
    RemoteTraceback,
    SamplerUnavailable,
    TaskAttributeError,
    WorkerDied,
    WrongCount,
)
from vectasks.evaluation.filming import EpisodeFilmer
from vectasks.evaluation.job_records import now
from vectasks.evaluation.schedule import Slot, task_keywords
from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY
from vectasks.task import RLStepResult
from vectasks.vector import BaseVectorSampledTasks

#: What acts: of (observations) or of (observations, action_spaces), lists with an entry for each
#: sampler that still plays; it returns one action for each.
EvaluationPolicy: TypeAlias = (
    Callable[[list[Any]], Sequence[Any]] | Callable[[list[Any], list[Any]], Sequence[Any]]
)


class Ended(NamedTuple):
    """An episode that ended: with its metrics, or with an error."""

    slot: Slot
    sampler: int
    started_at: datetime
    metrics: dict[str, Any]
    error: str | None = None
    error_type: str | None = None
    traceback: str = ""


@dataclass
class _Playing:
    """An episode that is being played."""

    slot: Slot
    started_at: datetime = field(default_factory=now)
    num_steps: int = 0
    total_reward: Any = 0.0

    def count(self, result: RLStepResult) -> None:
        self.num_steps += 1
        self.total_reward = self.total_reward + np.asarray(result.reward, float)

    def metrics(self, info: Any) -> dict[str, Any]:
        told = info.get(COMPLETE_TASK_METRICS_KEY) if isinstance(info, Mapping) else None
        total = np.asarray(self.total_reward).tolist()  # a float; a list for several agents
        ours = {"return": total, "length": self.num_steps}
        if told is not None and not isinstance(told, Mapping):
            told = {"metrics": told}
        return {**ours, **(told or {}), **ours}


class EvaluationRun:
    """Plays scheduled episodes to their ends.

    Args:
        vector: made with ``auto_resample_when_done=False``; each sampler at its first task.
        policy: acts.
        slots: what is played.
        seed: tasks of a list are seeded by it and their number; samplers that are restarted by it
            and their id.
        filmer: films the chosen episodes.
        on_end: is called when an episode has ended.
    """

    def __init__(
        self,
        vector: BaseVectorSampledTasks,
        policy: EvaluationPolicy,
        slots: Iterable[Slot],
        seed: int | None,
        filmer: EpisodeFilmer,
        on_end: Callable[[Ended], None],
    ) -> None:
        self._vector = vector
        self._policy: Callable[..., Any] = policy
        self._takes_spaces = _takes_two(policy)
        self._seed = seed
        self._filmer = filmer
        self._on_end = on_end
        self._for_anyone: deque[Slot] = deque()
        self._for_one: dict[int, deque[Slot]] = {i: deque() for i in vector.sampler_ids}
        for slot in slots:
            queue = self._for_anyone if slot.sampler_id is None else self._for_one[slot.sampler_id]
            queue.append(slot)
        self._playing: dict[int, _Playing] = {}
        self._observations: dict[int, Any] = dict(
            zip(vector.sampler_ids, vector.get_observations(), strict=True)
        )
        self._positions = dict.fromkeys(vector.sampler_ids, 0)
        self._to_make: set[int] = set()  # samplers that must be restarted

    def run(self) -> None:
        """Play everything."""
        self._begin(self._vector.sampler_ids)
        while self._playing:
            self._step()

    # -- a step -------------------------------------------------------------------------------

    def _step(self) -> None:
        ids = self._vector.sampler_ids
        actions = self._actions(ids)
        failure: RemoteError | WorkerDied | None = None
        try:
            results: Mapping[int, Any] = dict(zip(ids, self._vector.step(actions), strict=True))
        except (RemoteError, WorkerDied) as error:
            failure, results = error, error.results
        free = [] if failure is None else self._fail([i for i in ids if i not in results], failure)
        for sampler_id, result in results.items():
            playing = self._playing[sampler_id]
            playing.count(result)
            self._filmer.film(sampler_id, result)
            self._observations[sampler_id] = result.observation
            if result.done:
                if isinstance(result.info, Mapping) and result.info.get("resampled"):
                    self._positions[sampler_id] += 1  # all were done, and went on together
                self._end(sampler_id, playing.metrics(result.info))
                free.append(sampler_id)
        self._begin(sorted(free))

    def _actions(self, ids: Sequence[int]) -> Sequence[Any]:
        observations = [self._observations[i] for i in ids]
        if self._takes_spaces:
            actions: Sequence[Any] = self._policy(observations, self._vector.action_spaces)
        else:
            actions = self._policy(observations)
        try:
            count = len(actions)
        except TypeError:  # the vector says what is wrong with it
            return actions
        if count != len(ids):
            raise WrongCount(
                f"the policy gave {count} actions for {len(ids)} observations: it is asked "
                "for the samplers that still play, which become fewer."
            )
        return actions

    def _end(self, sampler_id: int, metrics: dict[str, Any], *error: str) -> None:
        """Record an ended episode; ``error`` is a failed one's message, type and traceback."""
        playing = self._playing.pop(sampler_id)
        self._on_end(Ended(playing.slot, sampler_id, playing.started_at, metrics, *error))

    def _fail(self, sampler_ids: Sequence[int], error: RemoteError | WorkerDied) -> list[int]:
        """Record the failed episodes; return the samplers that lost theirs."""
        if isinstance(error, WorkerDied):
            self._to_make.update(error.sampler_ids)
            mates = [i for i in error.sampler_ids if i in self._playing and i not in sampler_ids]
            sampler_ids = [*sampler_ids, *mates]
        for sampler_id in sampler_ids:
            self._filmer.cut(sampler_id)
            # It must be seeded for its next task, which no failed one is.
            if self._playing[sampler_id].slot.position is None:
                self._to_make.add(sampler_id)
            traceback = getattr(error, "remote_traceback", "")
            self._end(sampler_id, {}, str(error), _type_name(error), traceback)
        return list(sampler_ids)

    # -- the next episode ---------------------------------------------------------------------

    def _begin(self, free: Sequence[int]) -> None:
        """Give free samplers their next episodes; pause those that have none left."""
        waiting = deque(free)
        while waiting:
            sampler_id = waiting.popleft()
            slot = self._take(sampler_id)
            if slot is None:
                self._vector.pause_at(self._index(sampler_id))
                continue
            self._playing[sampler_id] = _Playing(slot)
            try:
                observation = self._first_observation(sampler_id, slot)
            except (RemoteError, WorkerDied) as error:
                waiting.extend(self._fail([sampler_id], error))
                continue
            if observation is None:
                self._end(sampler_id, {}, "its sampler gave None for it (next_task)", "NoSuchTask")
                waiting.append(sampler_id)
                continue
            self._observations[sampler_id] = observation
            self._filmer.begin(sampler_id, slot.episode)

    def _take(self, sampler_id: int) -> Slot | None:
        queue = self._for_one[sampler_id] or self._for_anyone
        return queue.popleft() if queue else None

    def _first_observation(self, sampler_id: int, slot: Slot) -> Any:
        """Bring a sampler to its next episode."""
        index = self._index(sampler_id)
        if sampler_id in self._to_make:
            self._restart(sampler_id)
        if slot.position is None:
            if self._seed is not None:
                self._vector.command_at(index, "seed", self._seed + slot.episode)
            return self._vector.next_task_at(index, **task_keywords(slot.task))[0]
        while self._positions[sampler_id] < slot.position - 1:
            self._skip_played(index)
            self._positions[sampler_id] += 1
        if self._positions[sampler_id] == slot.position:
            return self._observations[sampler_id]
        self._positions[sampler_id] = slot.position
        return self._vector.next_task_at(index)[0]

    def _restart(self, sampler_id: int) -> None:
        """Restart a sampler whose worker died; it is at its first task then, as at the start."""
        index = self._index(sampler_id)
        self._vector.restart_at(index)
        self._to_make.discard(sampler_id)
        if self._seed is not None:
            self._vector.command_at(index, "seed", self._seed + sampler_id)
            self._vector.command_at(index, "reset")
        self._positions[sampler_id] = 0
        self._observations[sampler_id] = self._vector.command_at(index, "observe")

    def _skip_played(self, index: int) -> None:
        """Skip a task that was played in an earlier run, in the cheapest way there is."""
        if self._vector.prepared_tasks:  # spares would not skip it
            self._vector.next_task_at(index)
            return
        try:
            self._vector.call_sampler_at(index, "skip_task")
        except (TaskAttributeError, SamplerUnavailable):
            self._vector.next_task_at(index)

    def _index(self, sampler_id: int) -> int:
        return self._vector.sampler_ids.index(sampler_id)


def _type_name(error: RemoteError | WorkerDied) -> str:
    """Name the kind of an error; of a TaskError, the kind that the task raised."""
    cause = error.__cause__
    is_known = isinstance(error, RemoteError) and not isinstance(cause, (RemoteTraceback, NoneType))
    return type(cause if is_known else error).__name__


def _takes_two(policy: Callable[..., Any]) -> bool:
    """Tell whether a policy takes the action spaces, too."""
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):  # builtins and some extension types tell no signature
        return False
    needed = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    return len(needed) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
