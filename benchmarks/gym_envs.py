"""The workloads, and some real environments, as Gymnasium environments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium

from benchmarks.workloads import LEAVES, Simulator, num_actions, observation_space


class WorkloadEnv(Simulator, gymnasium.Env[Any, Any]):
    """A simulator with spaces."""

    def __init__(self, workload: str, seed: int) -> None:
        super().__init__(workload, seed)
        self.observation_space = observation_space(workload, gymnasium.spaces)
        self.action_space = gymnasium.spaces.Discrete(num_actions(workload))


def make_env(workload: str, seed: int) -> gymnasium.Env[Any, Any]:
    """One environment of a workload; ``seed`` is that of the simulator's frames."""
    if workload in LEAVES:
        return WorkloadEnv(workload, seed)
    if workload == "CartPole":
        return gymnasium.make("CartPole-v1")
    if workload == "MiniGrid":
        from minigrid.wrappers import ImgObsWrapper

        return ImgObsWrapper(gymnasium.make("MiniGrid-Empty-8x8-v0"))
    if workload == "Breakout":
        import ale_py

        gymnasium.register_envs(ale_py)
        return gymnasium.make("ALE/Breakout-v5")
    if workload == "Atari":
        return atari_env("Breakout")
    raise ValueError(f"workload {workload!r} is unknown.")


def atari_env(game: str) -> gymnasium.Env[Any, Any]:
    """A game as agents see it: four grey frames of 84x84, each the last of four."""
    import ale_py

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84)
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def makers(workload: str, num_envs: int) -> list[Callable[[], gymnasium.Env[Any, Any]]]:
    """Functions without arguments that make the environments of a vector."""
    return [functools.partial(make_env, workload, seed) for seed in range(num_envs)]
