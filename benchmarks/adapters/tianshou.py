"""Tianshou: ShmemVectorEnv and SubprocVectorEnv, which do not reset by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from tianshou.env import ShmemVectorEnv, SubprocVectorEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import Vector, stack


def make(
    workload: str, num_envs: int, *, shared_memory: bool = True, first_half: bool = False
) -> Vector:
    """A worker process an environment; ``first_half``: a step waits for half of them."""
    kind: Any = ShmemVectorEnv if shared_memory else SubprocVectorEnv
    envs = kind(makers(workload, num_envs), wait_num=num_envs // 2 if first_half else None)
    envs.reset(seed=0)
    ready = np.arange(num_envs)

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal ready
        observation, _, terminated, truncated, infos = envs.step(actions[ready], ready)
        ready = np.array([info["env_id"] for info in infos]) if first_half else ready
        done = np.flatnonzero(terminated | truncated)
        if len(done):
            observation[done] = envs.reset(ready[done])[0]
        if observation.dtype == object:
            observation = stack(observation)
        return observation, len(ready)

    return Vector(step, envs.close)
