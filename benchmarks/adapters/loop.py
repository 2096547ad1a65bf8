"""The limits: a plain loop in one process, and the time to copy a batch once."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.gym_envs import makers
from benchmarks.workloads import Simulator, Vector, stack


def make(workload: str, num_envs: int, *, copy_only: bool = False) -> Vector:
    """Step environment after environment, or only copy a batch into arrays that are there."""
    if copy_only:
        return _copier(workload, num_envs)
    envs = [make() for make in makers(workload, num_envs)]
    observations = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    for_checks = [True]

    def step(actions: Any) -> tuple[Any, int]:
        for i, (env, action) in enumerate(zip(envs, actions.tolist(), strict=True)):
            observation, _, terminated, truncated, _ = env.step(action)
            observations[i] = env.reset()[0] if terminated or truncated else observation
        # The limit is the stepping: only the first batch, which is checked, is stacked.
        return stack(observations) if for_checks and for_checks.pop() else None, num_envs

    return Vector(step, lambda: [env.close() for env in envs] and None)


def _copier(workload: str, num_envs: int) -> Vector:
    simulators = [Simulator(workload, seed) for seed in range(num_envs)]
    source = stack([simulator.step(0)[0] for simulator in simulators])
    target = {name: np.empty_like(array) for name, array in source.items()}

    def step(actions: Any) -> tuple[Any, int]:
        for name, array in source.items():
            np.copyto(target[name], array)
        return target, num_envs

    return Vector(step, lambda: None)
