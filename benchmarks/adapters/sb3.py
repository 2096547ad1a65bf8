"""Stable-Baselines3: SubprocVecEnv and DummyVecEnv."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import Vector


def make(
    workload: str, num_envs: int, *, in_process: bool = False, start_method: str | None = None
) -> Vector:
    """A worker process an environment; ``start_method`` None is the library's default."""
    env_fns = makers(workload, num_envs)
    envs: Any = (
        DummyVecEnv(env_fns) if in_process else SubprocVecEnv(env_fns, start_method=start_method)
    )
    envs.seed(0)
    envs.reset()
    return Vector(lambda actions: (envs.step(actions)[0], num_envs), envs.close)
