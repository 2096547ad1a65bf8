"""AllenAct: VectorSampledTasks and SingleProcessVectorSampledTasks."""

from __future__ import annotations

from typing import Any

import gym
import numpy as np
from allenact.algorithms.onpolicy_sync.vector_sampled_tasks import (
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
)
from allenact.base_abstractions.misc import RLStepResult
from allenact.base_abstractions.task import Task, TaskSampler

from benchmarks.workloads import LEAVES, Simulator, Vector, num_actions, observation_space, stack


class EnvTask(Task):
    """One episode of a simulator or a Gymnasium environment."""

    def __init__(self, env: Any, space: Any, action_space: Any) -> None:
        # Not super().__init__: it wants sensors, which would only cost time here.
        self.env, self.observation_space, self._action_space = env, space, action_space
        self.task_info, self.max_steps = {}, float("inf")
        self._num_steps_taken, self._total_reward, self._is_done = 0, 0.0, False
        self._observation = env.reset()[0]

    @property
    def action_space(self) -> Any:
        """A Discrete space."""
        return self._action_space

    def get_observations(self, **kwargs: Any) -> Any:
        """The current observation."""
        return self._observation

    def _step(self, action: Any) -> RLStepResult:
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._is_done = terminated or truncated
        return RLStepResult(self._observation, reward, self._is_done, info)

    def reached_terminal_state(self) -> bool:
        """Tell whether the environment ended the episode."""
        return self._is_done

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> Any:
        """Nothing to see."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to give back."""


class EnvTaskSampler(TaskSampler):
    """Episodes of one environment."""

    def __init__(self, workload: str, seed: int, mp_ctx: Any = None) -> None:
        if workload in LEAVES:
            self._env: Any = Simulator(workload, seed)
            self._space = observation_space(workload, gym.spaces)
        else:
            from benchmarks.gym_envs import make_env

            self._env = make_env(workload, seed)
            space = self._env.observation_space
            self._space = gym.spaces.Box(space.low, space.high, space.shape, space.dtype)
        self._action_space = gym.spaces.Discrete(num_actions(workload))
        self._task: Any = None

    length = float("inf")
    total_unique = None
    all_observation_spaces_equal = True
    last_sampled_task = property(lambda self: self._task)

    def next_task(self, force_advance_scene: bool = False) -> EnvTask:
        """One more episode; they never end."""
        self._task = EnvTask(self._env, self._space, self._action_space)
        return self._task

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def reset(self) -> None:
        """Nothing to restart."""

    def set_seed(self, seed: int) -> None:
        """Seeds are given at construction."""


def make(
    workload: str,
    num_envs: int,
    *,
    processes: int | None = None,
    start_method: str = "forkserver",
) -> Vector:
    """``processes``: 0 the in-process class, None one per sampler. Results are stacked."""
    arguments = [{"workload": workload, "seed": seed} for seed in range(num_envs)]
    tasks: Any = (
        SingleProcessVectorSampledTasks(EnvTaskSampler, arguments, should_log=False)
        if processes == 0
        else VectorSampledTasks(
            EnvTaskSampler,
            arguments,
            multiprocessing_start_method=start_method,
            should_log=False,
            max_processes=processes,
        )
    )

    def step(actions: Any) -> tuple[Any, int]:
        observations, rewards, dones, _ = zip(*tasks.step(actions.tolist()), strict=True)
        np.array(rewards)
        np.array(dones)
        return stack(observations), num_envs

    return Vector(step, tasks.close)
