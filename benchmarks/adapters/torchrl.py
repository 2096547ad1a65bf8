"""TorchRL: ParallelEnv and AsyncEnvPool over Gymnasium environments."""

from __future__ import annotations

import functools
import multiprocessing
from typing import Any

import numpy as np
import torch
from torchrl.envs import AsyncEnvPool, GymWrapper, ParallelEnv

from benchmarks.gym_envs import makers
from benchmarks.workloads import LEAVES, Vector


def make(
    workload: str,
    num_envs: int,
    *,
    pool: bool = False,
    first_half: bool = False,
    start_method: str | None = None,
) -> Vector:
    """A worker process an environment; ``start_method`` None is the library's default, "spawn".

    Args:
        workload: the environments.
        num_envs: how many.
        pool: an AsyncEnvPool that exchanges tensors through shared memory.
        first_half: a step of the pool waits for half of them.
        start_method: of the workers.
    """
    torch.set_num_threads(1)
    env_fns = [functools.partial(_wrapped, make_env) for make_env in makers(workload, num_envs)]
    if pool:
        if start_method is not None:  # it has no argument for that
            multiprocessing.set_start_method(start_method, force=True)
        envs: Any = AsyncEnvPool(env_fns, backend="multiprocessing", exchange="auto")
    else:
        envs = ParallelEnv(num_envs, env_fns, mp_start_method=start_method)
    state = envs.reset()
    names = list(LEAVES.get(workload, {"": None}))
    sent = False

    def batch() -> Any:
        if names == [""]:
            return state["observation" if "observation" in state else "pixels"].numpy()
        return {name: state[name].numpy() for name in names}

    def step(actions: Any) -> tuple[Any, int]:
        nonlocal state
        state["action"] = torch.from_numpy(actions)
        _, state = envs.step_and_maybe_reset(state)
        return batch(), num_envs

    def step_pool(actions: Any) -> tuple[Any, int]:
        nonlocal state, sent
        ready = _indices(state["env_index"]) if sent else list(range(num_envs))
        state["action"] = torch.from_numpy(actions[ready])
        envs.async_step_and_maybe_reset_send(state, env_index=ready)
        wait_for = num_envs // 2 if first_half else num_envs
        _, state = envs.async_step_and_maybe_reset_recv(min_get=wait_for)
        observation = batch()
        if not sent:  # rows come as they were ready; the first batch is compared, in order
            order = np.argsort(_indices(state["env_index"]))
            if isinstance(observation, dict):
                observation = {name: array[order] for name, array in observation.items()}
            else:
                observation = observation[order]
        sent = True
        return observation, len(state)

    return Vector(step_pool if pool else step, envs.close)


def _wrapped(make_env: Any) -> Any:
    return GymWrapper(make_env(), categorical_action_encoding=True)


def _indices(stacked: Any) -> list[int]:
    return stacked.tolist() if isinstance(stacked, torch.Tensor) else [int(i) for i in stacked]
