"""Tasks and policies that the tests of ``collect`` share."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks.task import RLStepResult
from vectasks.testing.toys import CountingTask, NestedTask

# What is told of one way of stepping holds for both: in lockstep, and in two groups by turns.
SPLITS = (1, 2)


class NestedObservations(NestedTask):
    """Nested observations under plain actions."""

    actions = spaces.MultiDiscrete([3, 4])

    def reward(self, action: Any) -> float:
        return float(action[0] * 4 + action[1])


class InPlace(CountingTask):
    """Writes its observation into the array that it is given."""

    def _step(self, action: Any) -> RLStepResult:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: NDArray[Any]) -> None:
        out[...] = self.counts()


class Dice:
    """A policy that acts at random, and tells what it saw."""

    def __init__(self, space: Any) -> None:
        self._space = space
        self._space.seed(3)

    def __call__(self, observation: Any) -> dict[str, Any]:
        rows = len(first_leaf(observation))
        actions = np.stack([self._space.sample() for _ in range(rows)])
        return {"action": actions, "value": np.arange(rows) / 2}

    def value(self, observation: Any) -> NDArray[Any]:
        return np.zeros(len(first_leaf(observation)))


def first_leaf(observation: Any) -> Any:
    """An array of a nested observation."""
    while isinstance(observation, (dict, tuple)):
        values = observation.values() if isinstance(observation, dict) else observation
        observation = next(iter(values))
    return observation
