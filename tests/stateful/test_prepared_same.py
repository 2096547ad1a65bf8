"""As :mod:`test_same_everywhere`, with tasks that spares prepare in the vector of processes.

The in-process vector, which prepares nothing, is the model: where episodes are independent of each
other, spares change nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from test_same_everywhere import TestVectorAndInProcess, VectorAndInProcess

from vectasks.testing.toys import ToySampler


class IndependentSampler(ToySampler):
    """Each task has a random state of its own, which follows from the seed and the task's number.

    Args:
        skips: whether it can leave a task out without making it.
    """

    episodes_are_independent = True

    def __init__(self, *args: Any, skips: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seed = 0
        if skips:
            self.skip_task = self._skip_task

    def next_task(self, **kwargs: Any) -> Any:
        self.world.rng = np.random.default_rng([self._seed, self.world.episode + 1])
        self.world.notes = {}
        return super().next_task(**kwargs)

    def _skip_task(self, **kwargs: Any) -> None:
        if self.length > 0:
            self.world.episode += 1

    def set_seed(self, seed: int) -> None:
        self._seed = seed


class PreparedAndInProcess(VectorAndInProcess):
    """Compares a vector that prepares tasks with one that does not."""

    def prepare(self, data: Any) -> None:
        self.skips = data.draw(st.booleans())
        self.vector_options = {"prepared_tasks": data.draw(st.integers(1, 3))}

    def made_from(self, arguments: Any) -> tuple[Any, Any]:
        return IndependentSampler, [{**one, "skips": self.skips} for one in arguments]

    @precondition(lambda self: self.pair and self.count)
    @rule(data=st.data())
    def next_task_with_keywords(self, data: Any) -> None:
        index = data.draw(st.integers(0, self.count - 1))
        self.both(lambda tasks: tasks.next_task_at(index, anything=1))
        self.both(lambda tasks: tasks.command_at(index, "sampler_attr", "keywords"))


TestPreparedAndInProcess = pytest.mark.timeout(600)(PreparedAndInProcess.TestCase)
TestPreparedAndInProcess.settings = settings(TestVectorAndInProcess.settings, max_examples=25)
del TestVectorAndInProcess, VectorAndInProcess
