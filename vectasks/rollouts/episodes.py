"""Runners for the scheduler: one plays whole episodes with a policy, one collects rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import real_number
from vectasks.errors import InvalidArgument
from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY, HostPlan, TaskHost
from vectasks.protocol import StepOutcome
from vectasks.rollouts.buffer import RolloutBuffer
from vectasks.rollouts.collect import collect
from vectasks.rollouts.devices import without_gradients
from vectasks.rollouts.policy import Policy, checked_decision
from vectasks.spaces import copy_arrays, map_leaves, nested_as, prepare_action, tensors_to_arrays

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = ["Episode", "EpisodeRunner", "EpisodeTask", "Rollout", "RolloutRunner"]


@dataclass(frozen=True)
class EpisodeTask:
    """The episodes that an :class:`EpisodeRunner` is asked to play.

    Attributes:
        seed: run ``k`` of the batch is seeded with ``seed + k``; None: episodes follow each other
            as the sampler has them.
        next_task: keyword arguments of the sampler's ``next_task``.
        weights: given to the policy's ``load_state_dict`` before; None: it stays as it is.
        repeat_times: how many episodes.
    """

    seed: int | None = None
    next_task: Mapping[str, Any] = field(default_factory=dict)
    weights: Any = None
    repeat_times: int = 1


class Episode(NamedTuple):
    """A whole episode of n steps.

    Attributes:
        run_id: of the run that it is.
        observations: nested as the observation space, each leaf [n + 1, *shape]: the last one is
            the final observation. Leaves of changing shape are lists.
        actions: [n, ...], as the policy gave them.
        rewards: float64 [n].
        terminated: whether the task ended it.
        truncated: whether it was cut off.
        metrics: what ``task.metrics()`` gave at its end.
        kept: what else the policy gave, by name: [n, ...].
    """

    run_id: int
    observations: Any
    actions: Any
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    metrics: Mapping[str, Any]
    kept: dict[str, Any]


class EpisodeRunner:
    """Plays whole episodes: a policy on the tasks of one sampler.

    Its tasks are :class:`EpisodeTask`; it gives an :class:`Episode` each.

    Args:
        make_sampler_fn: makes the task sampler, as for a vector.
        sampler_fn_args: its keyword arguments.
        policy: as for ``collect``; it sees one observation at a time, with a leading axis of 1.
        memory_shape: of what a recurrent policy remembers; None: it is not recurrent.
        device: where the policy wants tensors; None: numpy arrays.
        check_actions: whether actions are held against the action space.
    """

    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Mapping[str, Any] | None = None,
        *,
        policy: Policy,
        memory_shape: tuple[int, ...] | None = None,
        device: Any = None,
        check_actions: bool = True,
    ) -> None:
        self._policy = policy
        self._memory_shape = memory_shape
        self._device = device
        self._check_actions = check_actions
        # With no resampling by itself, an episode's end is not the start of one that nobody wants.
        self._host = TaskHost(
            HostPlan(make_sampler_fn, dict(sampler_fn_args or {}), auto_resample_when_done=False)
        )
        self._was_begun = False

    def run(self, task: EpisodeTask | None = None, run_id: int = 0) -> Episode:
        """Play one episode.

        Raises:
            InvalidArgument: the sampler has no next task, or the policy's action is no action.
        """
        task = task or EpisodeTask()
        if task.weights is not None:
            self._policy.load_state_dict(task.weights)  # type: ignore[attr-defined]
        if task.seed is not None:
            self._host.seed(task.seed + run_id)
        with without_gradients(self._device):
            return self._play(run_id, copy_arrays(self._first_observation(task), True))

    def _first_observation(self, task: EpisodeTask) -> Any:
        was_begun, self._was_begun = self._was_begun, True
        if not was_begun and task.seed is None and not task.next_task:
            return self._host.observe()  # of the task that the host came with
        start = self._host.next_task(task.next_task)
        if start.exhausted:
            raise InvalidArgument("the task sampler has no next task: next_task() gave None.")
        return start.observation

    def _play(self, run_id: int, observation: Any) -> Episode:
        action_space, space = self._host.action_space(), self._host.observation_space()
        observation = nested_as(space, observation)
        memory = []
        if self._memory_shape is not None:
            memory = [self._as_batch(np.zeros(self._memory_shape, np.float32))]
        observations, decisions, rewards = [observation], [], []
        outcome: Any = None
        while type(outcome) is not StepOutcome:
            inputs = [map_leaves(self._as_batch, observation), *memory]
            given = checked_decision(self._policy(*inputs))
            decision = {name: value[0] for name, value in given.items()}  # of the one observation
            if memory:
                memory = [decision.pop("memory")[None]]
            action = prepare_action(action_space, decision["action"], 0, self._check_actions)
            outcome = self._host.step(action)
            observation = nested_as(space, copy_arrays(outcome.observation, True))
            observations.append(observation)
            decisions.append(copy_arrays(tensors_to_arrays(decision)))
            rewards.append(outcome.reward)
        kept = {name: stacked([d[name] for d in decisions]) for name in decisions[0]}
        return Episode(
            run_id,
            stacked(observations),
            kept.pop("action"),
            np.asarray(rewards, np.float64),
            outcome.terminated,
            outcome.truncated,
            outcome.info.get(COMPLETE_TASK_METRICS_KEY, {}),
            kept,
        )

    def _as_batch(self, leaf: Any) -> Any:
        array = np.asarray(tensors_to_arrays(leaf))[None]
        if self._device is None:
            return array
        import torch

        return torch.as_tensor(array, device=self._device)

    def close(self) -> None:
        """Close the task and the sampler."""
        for failure in self._host.close():
            raise failure.exception() or RuntimeError(f"{failure.type_name}: {failure.message}")


class Rollout(NamedTuple):
    """A copy of the buffer that :func:`collect` filled, as arrays [horizon, num_samplers, ...].

    Attributes:
        observations: nested as the observation space.
        actions: what the tasks were given.
        rewards: float64.
        dones: bool, whether a step ended an episode; ``terminated`` and ``truncated`` say how.
        episode_starts: bool, whether an observation is the first of its episode.
        returns: float32.
        advantages: float32.
        kept: what else the policy gave, by name.
        episodes: the metrics of the episodes that ended.
        metrics: their number.
    """

    observations: Any
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    dones: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode_starts: NDArray[np.bool_]
    returns: NDArray[np.float32]
    advantages: NDArray[np.float32]
    kept: dict[str, NDArray[Any]]
    episodes: list[Mapping[str, Any]]
    metrics: dict[str, float]


class RolloutRunner:
    """Collects rollouts with its own vector, which steps on shared memory in its process.

    A task is the policy's weights, for its ``load_state_dict``, or None to keep those it has; it
    gives a :class:`Rollout`. Consecutive rollouts go on where the last one ended.

    Args:
        make_tasks: makes the vector.
        policy: as for ``collect``; with values, and not recurrent.
        horizon: steps a rollout, for each sampler.
        gamma: discounts rewards.
        lam: discounts the errors of the value estimates.
        device: where the policy is; None: it takes numpy arrays.
    """

    def __init__(
        self,
        make_tasks: Callable[[], VectorSampledTasks | SingleProcessVectorSampledTasks],
        *,
        policy: Policy,
        horizon: int,
        gamma: float = 0.99,
        lam: float = 0.95,
        device: Any = None,
    ) -> None:
        self._policy = policy
        self._gamma, self._lam = real_number("gamma", gamma), real_number("lam", lam)
        self._tasks = make_tasks()
        try:
            self._buffer = RolloutBuffer(self._tasks, horizon, device=device)
        except BaseException:
            self._tasks.close()
            raise

    def run(self, weights: Any = None) -> Rollout:
        """Collect one rollout."""
        if weights is not None:
            self._policy.load_state_dict(weights)  # type: ignore[attr-defined]
        buffer = self._buffer
        ends = collect(self._tasks, self._policy, buffer)
        returns, advantages = buffer.returns_and_advantages(self._gamma, self._lam)
        episodes = [end.info.get(COMPLETE_TASK_METRICS_KEY, {}) for end in ends]
        fields = (
            buffer.observations,
            buffer.actions,
            buffer.rewards,
            buffer.dones,
            buffer.terminated,
            buffer.truncated,
            buffer.episode_starts,
            returns,
            advantages,
            buffer._kept,
        )
        rest = (episodes, {"num_episodes": float(len(episodes))})
        return Rollout._make([*copy_arrays(tensors_to_arrays(fields)), *rest])

    def close(self) -> None:
        """Close the vector."""
        self._tasks.close()


def stacked(values: list[Any]) -> Any:
    """Stack the values of an episode's steps to arrays [n, ...], nested as each value is."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: stacked([value[key] for value in values]) for key in first}
    if type(first) is tuple:
        return tuple(stacked(list(items)) for items in zip(*values, strict=True))
    try:
        return np.stack([np.asarray(value) for value in values])
    except ValueError:  # of changing shape
        return values
