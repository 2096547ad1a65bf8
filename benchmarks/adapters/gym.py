"""Gymnasium: AsyncVectorEnv and SyncVectorEnv."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import Vector


def make(
    workload: str, num_envs: int, *, in_process: bool = False, next_step: bool = False
) -> Vector:
    """Both with their defaults; they reset in the step that ends an episode, or the next one."""
    kind: Any = SyncVectorEnv if in_process else AsyncVectorEnv
    mode = AutoresetMode.NEXT_STEP if next_step else AutoresetMode.SAME_STEP
    envs = kind(makers(workload, num_envs), autoreset_mode=mode)
    envs.reset(seed=0)
    return Vector(lambda actions: (envs.step(actions)[0], num_envs), envs.close)
