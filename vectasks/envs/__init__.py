"""Environments of other libraries as tasks."""

from __future__ import annotations

from vectasks.envs.atari import AtariTask, AtariTaskSampler, StackedAtariTask
from vectasks.envs.gymnasium import GymnasiumTask, GymnasiumTaskSampler

__all__ = [
    "AtariTask",
    "AtariTaskSampler",
    "GymnasiumTask",
    "GymnasiumTaskSampler",
    "StackedAtariTask",
]
