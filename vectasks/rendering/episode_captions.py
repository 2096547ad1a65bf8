"""Write the captions of tiles: a sampler's episodes, counted from its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY
from vectasks.task import RLStepResult

_SUCCESS_KEYS = ("success", "is_success")


@dataclass
class EpisodeCount:
    """The episode that one sampler is in.

    Attributes:
        number: from 1 since the recording began.
        num_steps: steps taken in it.
        episode_return: the sum of its rewards; several agents' all together.
        is_over: its last step was taken.
        is_followed: it is over, and the sampler is at the start of the next one.
        success: how it ended, where the task tells (``success`` or ``is_success`` in its metrics
            or in the info of its last step).
        num_told, num_successes: episodes whose success was told, and those that had it.
    """

    number: int = 1
    num_steps: int = 0
    episode_return: float = 0.0
    is_over: bool = False
    is_followed: bool = False
    success: bool | None = None
    num_told: int = 0
    num_successes: int = 0

    def count(self, result: RLStepResult) -> None:
        """Count one more result."""
        info = result.info if isinstance(result.info, Mapping) else {}
        if info.get("waiting"):
            return
        if self.is_over:
            self._begin()
            if info.get("resampled"):  # it had waited for the others: its next task is new
                return
        reward = result.reward
        self.num_steps += 1
        self.episode_return += reward if type(reward) is float else float(np.sum(reward))
        if result.done:
            self.is_over = True
            self.is_followed = "final_observation" in info
            self.success = _success(info)
            if self.success is not None:
                self.num_told += 1
                self.num_successes += self.success

    def follow(self) -> None:
        """Go on to the next episode if the sampler is there already."""
        if self.is_followed:
            self._begin()

    def abandon(self) -> None:
        """End an episode that has no last step; the sampler is (or will be) at the next one."""
        if self.num_steps and not self.is_over:
            self.is_over = self.is_followed = True

    def caption(self, sampler_id: int) -> tuple[str, str]:
        """Return two lines: the sampler and its episode, and the episode's progress."""
        first = f"sampler {sampler_id}  episode {self.number}"
        second = f"step {self.num_steps}  return {self.episode_return:.6g}"
        if self.num_told:
            first += f"  success {self.num_successes}/{self.num_told}"
        if self.success is not None:
            second += "  success" if self.success else "  no success"
        return first, second

    def _begin(self) -> None:
        self.number += 1
        self.num_steps, self.episode_return = 0, 0.0
        self.is_over = self.is_followed = False
        self.success = None


def _success(info: Mapping[Any, Any]) -> bool | None:
    for place in (info.get(COMPLETE_TASK_METRICS_KEY), info):
        if isinstance(place, Mapping):
            for key in _SUCCESS_KEYS:
                if isinstance(place.get(key), (bool, int, float, np.bool_, np.number)):
                    return bool(place[key] > 0)
    return None
