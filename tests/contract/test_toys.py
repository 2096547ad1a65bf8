"""The shipped conformance suite, run on every toy: neither can rot."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from vectasks import RLStepResult
from vectasks.testing import TaskSamplerContract, ToySampler, assert_identical
from vectasks.testing.toys import (
    CountingTask,
    GraphTask,
    ImageTask,
    MultiAgentTask,
    NestedTask,
    RandomWalk,
    ReusingTask,
    TextTask,
)


class ToyContract(TaskSamplerContract):
    task_class: Any = CountingTask

    def make_task_sampler(self) -> ToySampler:
        return ToySampler(self.task_class, sampler=1, max_steps=7, num_tasks=5)


class TestCounting(ToyContract):
    pass


class TestRandomWalk(ToyContract):
    task_class = RandomWalk


class TestNested(ToyContract):
    task_class = NestedTask


class TestReusing(ToyContract):
    task_class = ReusingTask


class TestText(ToyContract):
    task_class = TextTask


class TestGraph(ToyContract):
    task_class = GraphTask


class TestMultiAgent(ToyContract):
    task_class = MultiAgentTask


class ReadOnlyTask(NestedTask):
    """Gives a read-only mapping, with a list in it and a key that its space does not have."""

    def get_observations(self) -> Any:
        seen = super().get_observations()
        return MappingProxyType({**seen, "pose": list(seen["pose"]), "more": "text"})


class TestReadOnly(ToyContract):
    task_class = ReadOnlyTask


class TestGreyImages(TaskSamplerContract):
    def make_task_sampler(self) -> ToySampler:
        return ToySampler(ImageTask, height_px=4, width_px=6, channels=0)


# -- the suite sees what is wrong ------------------------------------------------------------------


class Never(ToyContract):
    """Holds one broken task to one rule of the contract."""

    __test__ = False

    def __init__(self, task_class: Any, sampler_class: Any = ToySampler) -> None:
        self.task_class = task_class
        self.sampler_class = sampler_class

    def make_task_sampler(self) -> Any:
        return self.sampler_class(self.task_class, max_steps=7, num_tasks=5)


class OutsideTask(CountingTask):
    def get_observations(self) -> Any:
        return np.array([-1, 0, 0], np.int32)


class DriftingTask(CountingTask):
    drift = 0

    def get_observations(self) -> Any:
        type(self).drift += 1
        return np.array([self.drift, 0, 0], np.int32)


class EndlessTask(CountingTask):
    def step(self, action: Any) -> RLStepResult:
        result = self._step(action)
        self._num_steps_taken += 1
        return result._replace(done=self.is_done())


class WrongRewardTask(CountingTask):
    def reward(self, action: Any) -> Any:
        return float("nan")


class OneElementTask(CountingTask):
    def step(self, action: Any) -> RLStepResult:
        result = super().step(action)
        return result._replace(reward=np.array([result.reward]))


class WrongInfoTask(CountingTask):
    def info(self) -> Any:
        return "info"


class FloatImageTask(CountingTask):
    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> Any:
        return np.zeros((4, 4, 3), np.float32)


class WrongMetricsTask(CountingTask):
    def metrics(self) -> Any:
        return [1, 2]


class UnresettableSampler(ToySampler):
    def reset(self) -> None:
        pass


class EndlessSampler(ToySampler):
    @property
    def length(self) -> float:
        return 3


class CloseOnceSampler(ToySampler):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.mark.parametrize(
    ("task_class", "sampler_class", "rule"),
    [
        (OutsideTask, ToySampler, "test_observations_fit_their_space"),
        (DriftingTask, ToySampler, "test_observing_changes_nothing"),
        (DriftingTask, ToySampler, "test_seeds_reproduce"),
        (EndlessTask, ToySampler, "test_done_task_refuses_to_step"),
        (WrongRewardTask, ToySampler, "test_step_results"),
        (OneElementTask, ToySampler, "test_step_results"),
        (WrongInfoTask, ToySampler, "test_step_results"),
        (FloatImageTask, ToySampler, "test_render"),
        (WrongMetricsTask, ToySampler, "test_metrics"),
        (CountingTask, UnresettableSampler, "test_reset"),
        (CountingTask, EndlessSampler, "test_length"),
        (CountingTask, CloseOnceSampler, "test_close_twice"),
    ],
)
def test_the_suite_sees_what_is_wrong(task_class: Any, sampler_class: Any, rule: str) -> None:
    with pytest.raises(AssertionError):
        getattr(Never(task_class, sampler_class), rule)()


def test_a_contract_without_a_sampler_says_so() -> None:
    with pytest.raises(NotImplementedError, match="make_task_sampler"):
        TaskSamplerContract().test_reset()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1], (1,)),
        ([1], [1, 1]),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros(2), np.zeros((2, 1))),
        (np.float32(1), np.float64(1)),
        ("a", "b"),
    ],
)
def test_assert_identical_tells_apart(one: Any, other: Any) -> None:
    with pytest.raises(AssertionError, match=r"(is|are) not"):
        assert_identical(one, other)
    assert_identical(one, one)


def test_assert_identical_takes_nan_as_equal() -> None:
    assert_identical(
        {"a": [float("nan"), np.array([np.nan])]}, {"a": [float("nan"), np.array([np.nan])]}
    )
