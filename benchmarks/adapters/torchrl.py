"""TorchRL: ParallelEnv over Gymnasium environments."""

from __future__ import annotations

from typing import Any

import torch
from torchrl.envs import GymWrapper, ParallelEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import LEAVES, Vector


def make(workload: str, num_envs: int, *, start_method: str | None = None) -> Vector:
    """A worker process an environment; ``start_method`` None is the library's default."""
    torch.set_num_threads(1)

    def wrapped(make_env: Any) -> Any:
        return lambda: GymWrapper(make_env(), categorical_action_encoding=True)

    envs = ParallelEnv(
        num_envs,
        [wrapped(make_env) for make_env in makers(workload, num_envs)],
        mp_start_method=start_method,
    )
    state = envs.reset()
    names = list(LEAVES.get(workload, {"": None}))

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal state
        state["action"] = torch.from_numpy(actions)
        _, state = envs.step_and_maybe_reset(state)
        if names == [""]:
            return state["observation" if "observation" in state else "pixels"].numpy(), num_envs
        return {name: state[name].numpy() for name in names}, num_envs

    return Vector(step, envs.close)
