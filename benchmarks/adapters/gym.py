"""Gymnasium: AsyncVectorEnv and SyncVectorEnv."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import Vector


def make(
    workload: str,
    num_envs: int,
    *,
    in_process: bool = False,
    autoreset: str = "SAME_STEP",
    max_concurrency: int | None = None,
) -> Vector:
    """Both with their defaults, but for when they reset; a step that only resets counts as one."""
    options: dict[str, Any] = {"autoreset_mode": AutoresetMode[autoreset]}
    if max_concurrency is not None:
        options["max_concurrency"] = max_concurrency
    kind: Any = SyncVectorEnv if in_process else AsyncVectorEnv
    envs = kind(makers(workload, num_envs), **options)
    envs.reset(seed=0)
    return Vector(lambda actions: (envs.step(actions)[0], num_envs), envs.close)
