"""Tianshou: ShmemVectorEnv and SubprocVectorEnv, which do not reset by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from tianshou.env import ShmemVectorEnv, SubprocVectorEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import SLOW_RESETS, Vector, stack


def make(
    workload: str, num_envs: int, *, shared_memory: bool = True, first_half: bool = False
) -> Vector:
    """A worker process an environment; ``first_half``: a step waits for half of them.

    Where resets are slow, the first half's environments reset by themselves, in the step after an
    episode's end: the vector's own ``reset`` would wait for them.
    """
    kind: Any = ShmemVectorEnv if shared_memory else SubprocVectorEnv
    env_fns: list[Callable[[], Any]] = list(makers(workload, num_envs))
    resets_itself = first_half and workload in SLOW_RESETS
    if resets_itself:
        env_fns = [_resetting(env_fn) for env_fn in env_fns]
    envs = kind(env_fns, wait_num=num_envs // 2 if first_half else None)
    envs.reset(seed=0)
    ready = np.arange(num_envs)

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal ready
        observation, _, terminated, truncated, infos = envs.step(actions[ready], ready)
        ready = np.array([info["env_id"] for info in infos]) if first_half else ready
        done = np.flatnonzero(terminated | truncated)
        if len(done) and not resets_itself:
            observation[done] = envs.reset(ready[done])[0]
        if observation.dtype == object:
            observation = stack(observation)
        return observation, len(ready)

    return Vector(step, envs.close)


def _resetting(env_fn: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: gymnasium.wrappers.Autoreset(env_fn())
