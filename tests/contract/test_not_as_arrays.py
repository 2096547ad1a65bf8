"""Leaves that have a place in the step buffer and do not use it: told once, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from batch_helpers import OddTask
from gymnasium import spaces

from vectasks import LayoutError, SamplerState
from vectasks.testing import assert_identical
from vectasks.testing.toys import CountingTask, InfoTask, NestedTask, TextTask, ToyTask


@contextmanager
def warned() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings about the step buffer that were given."""
    ours: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield ours
    ours += [w for w in caught if "left the shared memory" in str(w.message)]


OFF_SPACE = [
    lambda o: o.astype(np.int64),
    lambda o: o.astype(np.float64),
    lambda o: o[:2],
    lambda o: o.tolist(),
    lambda o: {"nested": "otherwise"},
]


@pytest.mark.parametrize("odd", OFF_SPACE)
def test_auto_warns_once(processes: Any, odd: Any) -> None:
    with warned() as ours, processes.toys(OddTask, max_steps=9, odd=odd) as tasks:
        for number in range(1, 7):
            observation = tasks.step([0] * 4)[1].observation
            expected = np.array([1, 0, number], np.int32)
            assert_identical(observation, odd(expected) if number >= 2 else expected)
    assert [w.category for w in ours] == [RuntimeWarning]
    assert "observation" in str(ours[0].message)


class WholeTask(ToyTask):
    """Nested otherwise than its space."""

    space = spaces.Dict({"a": spaces.Discrete(9), "b": spaces.Discrete(9)})

    def get_observations(self) -> Any:
        if self.step_number >= 2:
            return {"a": self.step_number}
        return {"a": self.step_number, "b": 0}


def test_auto_warns_of_another_nesting(processes: Any) -> None:
    with warned() as ours, processes.toys(WholeTask, max_steps=9) as tasks:
        for _ in range(3):
            results = tasks.step([0] * 4)
        assert [r.observation for r in results] == [{"a": 3}] * 4
    assert len(ours) == 1


@pytest.mark.parametrize("odd", OFF_SPACE)
def test_pipe_says_nothing(processes: Any, odd: Any) -> None:
    with (
        warned() as ours,
        processes.toys(
            OddTask, max_steps=9, odd=odd, vector={"observation_transport": "pipe"}
        ) as tasks,
    ):
        for _ in range(4):
            tasks.step([0] * 4)
    assert ours == []


@pytest.mark.guarantee("batch-dtypes")
@pytest.mark.parametrize("odd", OFF_SPACE[1:3])
def test_slab_refuses_what_does_not_fit(processes: Any, odd: Any) -> None:
    with (
        warned() as ours,
        processes.toys(
            OddTask, max_steps=9, odd=odd, vector={"observation_transport": "slab"}
        ) as tasks,
    ):
        tasks.step([0] * 4)
        with pytest.raises(LayoutError, match=r"sampler 1: observation: expected int32 \[3\]"):
            tasks.step([0] * 4)
        assert tasks.sampler_states[1] is SamplerState.FAILED
        tasks.next_task_at(1)
        assert [r.observation[2] for r in tasks.step([0] * 4)] == [3, 1, 3, 3]
    assert ours == []


@pytest.mark.parametrize("transport", ["auto", "slab", "pipe"])
@pytest.mark.parametrize("task_class", [CountingTask, NestedTask, TextTask, InfoTask])
def test_usual_tasks_cause_no_warning(processes: Any, task_class: Any, transport: str) -> None:
    vector = {"observation_transport": transport}
    with (
        warned() as ours,
        processes.toys(
            task_class, count=2, max_steps=2, step_info={"a": 1}, vector=vector
        ) as tasks,
    ):
        for number in range(4):
            actions = [space.sample() for space in tasks.action_spaces]
            tasks.step(actions) if number % 2 else tasks.step_batch(actions)
    assert ours == []
