"""Environments of other libraries as tasks."""

from __future__ import annotations

from vectasks.envs.gymnasium import GymnasiumTask, GymnasiumTaskSampler

__all__ = ["GymnasiumTask", "GymnasiumTaskSampler"]
