"""PufferLib: a native environment, which steps a batch of simulators into shared memory."""

from __future__ import annotations

from typing import Any

import gymnasium
import pufferlib.vector
from pufferlib.environment import PufferEnv

from benchmarks.workloads import Simulator, Vector, num_actions, observation_space


class BatchEnv(PufferEnv):
    """Simulators as the agents of one native environment; resets are its own business."""

    def __init__(self, workload: str, num_agents: int, first_seed: int, buf: Any = None) -> None:
        self.single_observation_space = observation_space(workload, gymnasium.spaces)
        self.single_action_space = gymnasium.spaces.Discrete(num_actions(workload))
        self.num_agents = num_agents
        super().__init__(buf)
        self._simulators = [Simulator(workload, first_seed + i) for i in range(num_agents)]

    def reset(self, seed: int | None = None) -> tuple[Any, list[Any]]:
        """First observations and no infos."""
        for i, simulator in enumerate(self._simulators):
            self.observations[i] = simulator.reset()[0]
        return self.observations, []

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, list[Any]]:
        """Step every simulator; it writes into the shared arrays."""
        for i, (simulator, action) in enumerate(
            zip(self._simulators, actions.tolist(), strict=True)
        ):
            observation, reward, terminated, truncated, _ = simulator.step(action)
            self.observations[i] = simulator.reset()[0] if terminated or truncated else observation
            self.rewards[i] = reward
            self.terminals[i] = terminated
            self.truncations[i] = truncated
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self) -> None:
        """Nothing to give back."""


def make(workload: str, num_envs: int, *, workers: int = 1, first_half: bool = False) -> Vector:
    """``workers`` processes that spin; results are views of the shared memory."""
    each = num_envs // workers
    envs = pufferlib.vector.make(
        [BatchEnv] * workers,
        env_args=[[workload, each, i * each] for i in range(workers)],
        env_kwargs=[{}] * workers,
        backend=pufferlib.vector.Multiprocessing,
        num_envs=workers,
        num_workers=workers,
        batch_size=workers // 2 if first_half else workers,
        overwork=True,
    )
    envs.async_reset(0)
    ids = envs.recv()[5]

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal ids
        envs.send(actions[ids])
        observation, _, _, _, _, ids, _ = envs.recv()
        return observation, len(ids)

    return Vector(step, envs.close)
