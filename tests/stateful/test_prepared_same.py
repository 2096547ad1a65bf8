"""As :mod:`test_same_everywhere`, with tasks that spares prepare in the vector of processes.

The in-process vector, which prepares nothing, is the model: where episodes are independent of each
other, spares change nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from test_same_everywhere import TestVectorAndInProcess, VectorAndInProcess

from vectasks.sources import EpisodeOutcome, TaskSource
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


class CountedTasks(TaskSource):
    """Tells each sampler the number of its task, and now and then that there is none."""

    def __init__(self, num_tasks: float) -> None:
        self.num_tasks = num_tasks
        self.given: Counter[int] = Counter()
        self.told: list[tuple[int, int, int]] = []
        self.returned: list[tuple[int, int]] = []

    def next(self, sampler_id: int) -> dict[str, int] | None:
        self.given[sampler_id] += 1
        number = self.given[sampler_id]
        return {"number": number} if number < self.num_tasks else None

    def ended(self, sampler_id: int, keywords: Any, outcome: EpisodeOutcome) -> None:
        self.told.append((sampler_id, keywords["number"], outcome.length))

    def give_back(self, sampler_id: int, keywords: Any) -> None:
        self.returned.append((sampler_id, keywords["number"]))


class TakingTurns(VectorAndInProcess):
    """Compares both vectors where hosts take turns, and where a source says what comes next."""

    def prepare(self, data: Any) -> None:
        self.prepared_tasks = data.draw(st.integers(0, 3))
        self.num_tasks = data.draw(st.sampled_from([None, math.inf, 7]))
        self.sources: list[CountedTasks] = []

    def options_of_one(self) -> dict[str, Any]:
        source = None if self.num_tasks is None else CountedTasks(self.num_tasks)
        if source is not None:
            self.sources.append(source)
        return {"prepared_tasks": self.prepared_tasks, "task_source": source}

    @invariant()
    def sources_were_told_the_same(self) -> None:
        if len(self.sources) == 2:
            one, other = self.sources
            assert one.given == other.given
            assert sorted(one.told) == sorted(other.told)
            assert sorted(one.returned) == sorted(other.returned)

    def teardown(self) -> None:
        super().teardown()
        for source in self.sources:  # each task that was given was played or is given back, once
            ends = Counter((i, number) for i, number, _ in source.told)
            ends += Counter(source.returned)
            for i, number in ends:
                assert ends[i, number] == 1, (i, number)


TestTakingTurns = pytest.mark.timeout(600)(TakingTurns.TestCase)
TestTakingTurns.settings = settings(TestVectorAndInProcess.settings, max_examples=25)
TestPreparedAndInProcess = pytest.mark.timeout(600)(PreparedAndInProcess.TestCase)
TestPreparedAndInProcess.settings = settings(TestVectorAndInProcess.settings, max_examples=25)
del TestVectorAndInProcess, VectorAndInProcess
