"""Vectors in C++ that step their own Atari games in threads: ALE's and EnvPool's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.workloads import Vector


def make(workload: str, num_envs: int, *, library: str, threads: int) -> Vector:
    """Breakout as agents see it; no other ``workload`` is known here."""
    if workload != "Atari":
        raise ValueError(f"native vectors have games of their own, not {workload}.")
    envs = _LIBRARIES[library](num_envs, threads)
    envs.reset()
    return Vector(lambda actions: (envs.step(actions)[0], num_envs), envs.close)


def _ale(num_envs: int, threads: int) -> Any:
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    return AtariVectorEnv(
        "breakout", num_envs, num_threads=threads, autoreset_mode=AutoresetMode.SAME_STEP
    )


def _envpool(num_envs: int, threads: int) -> Any:
    import envpool

    return envpool.make("Breakout-v5", env_type="gymnasium", num_envs=num_envs, num_threads=threads)


_LIBRARIES: dict[str, Callable[[int, int], Any]] = {"ale": _ale, "envpool": _envpool}
