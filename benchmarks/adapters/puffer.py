"""PufferLib: a native environment that is a batch of simulators, or ordinary environments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pufferlib.vector
from pufferlib.emulation import GymnasiumPufferEnv

from benchmarks.gym_envs import make_env
from benchmarks.workloads import LEAVES, Simulator, Vector, num_actions, observation_space


class BatchEnv(pufferlib.PufferEnv):
    """Simulators as the agents of one native environment; resets are its own business."""

    def __init__(
        self, workload: str, num_agents: int, first_seed: int, buf: Any = None, seed: int = 0
    ) -> None:
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


def make(
    workload: str,
    num_envs: int,
    *,
    workers: int | None = 1,
    ordinary: bool = False,
    first_half: bool = False,
) -> Vector:
    """``workers`` processes that spin (None: one each); results are views of the shared memory.

    Args:
        workload: the environments.
        num_envs: how many.
        workers: among how many processes they are spread.
        ordinary: Gymnasium environments instead of one native environment a worker.
        first_half: a step waits for half of them; there must be a worker each.
    """
    workers = workers or num_envs
    each = num_envs // workers
    creators: list[Callable[..., Any]]
    if ordinary:
        creators = [functools.partial(_ordinary, workload, i) for i in range(num_envs)]
        arguments: list[list[Any]] = [[]] * num_envs
    else:
        creators = [BatchEnv] * workers
        arguments = [[workload, each, i * each] for i in range(workers)]
    count = len(creators)
    # Not by pufferlib.vector.make, which refuses sync_traj: with it, halves take turns in order.
    envs = pufferlib.vector.Multiprocessing(
        creators,
        arguments,
        [{}] * count,
        count,
        num_workers=workers,
        batch_size=count // 2 if first_half else count,
        zero_copy=not first_half,
        sync_traj=not first_half,
        overwork=True,
    )
    dtype = None
    if ordinary and "" not in LEAVES.get(workload, {"": None}):
        dtype = envs.driver_env.obs_dtype  # observations are bytes; this tells them apart
    envs.async_reset(0)
    ids = envs.recv()[-2]

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal ids
        envs.send(actions[ids])
        observation, *_, ids, _ = envs.recv()  # the newest release has one value more between
        if dtype is not None:
            rows = observation.view(dtype)[:, 0]
            observation = {name: rows[name] for name in rows.dtype.names}
        return np.asarray(observation) if dtype is None else observation, len(ids)

    return Vector(step, envs.close)


def _ordinary(workload: str, seed: int, *_: Any, buf: Any = None, **__: Any) -> Any:
    return GymnasiumPufferEnv(make_env(workload, seed), buf=buf)
