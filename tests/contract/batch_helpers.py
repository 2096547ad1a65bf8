"""Helpers of the tests of batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from vectasks.testing.toys import CountingTask


def batch_by(way: str, tasks: Any, actions: Any) -> Any:
    """Return the result of one step of all, by the method that is named."""
    if way != "recv":
        return getattr(tasks, way)(actions)
    tasks.send(actions)
    return tasks.recv()


class OddTask(CountingTask):
    """From step 2 on, sampler 1 gives what ``odd`` makes of its observation."""

    def get_observations(self) -> Any:
        observation = np.array(self.counts(), np.int32)
        if self.step_number >= 2 and self.env.sampler == 1:
            return self.options.odd(observation)
        return observation
