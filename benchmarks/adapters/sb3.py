"""Stable-Baselines3: SubprocVecEnv."""

from __future__ import annotations

from stable_baselines3.common.vec_env import SubprocVecEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import Vector


def make(workload: str, num_envs: int, *, start_method: str | None = None) -> Vector:
    """A worker process an environment; ``start_method`` None is the library's default."""
    envs = SubprocVecEnv(makers(workload, num_envs), start_method=start_method)
    envs.seed(0)
    envs.reset()
    return Vector(lambda actions: (envs.step(actions)[0], num_envs), envs.close)
