"""Samplers whose spaces differ in their bounds alone share arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batch_helpers import batch_by
from collect_helpers import Dice
from gymnasium import spaces

from vectasks import InvalidAction, InvalidArgument
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.spaces import are_alike, shared_space
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler, ToyTask


def observation_space_of(sampler: int) -> Any:
    return spaces.Dict(
        {
            "counts": spaces.Box(-sampler, 9 + sampler, (3,), np.int32),
            "inner": spaces.Tuple((spaces.Discrete(9 + sampler, start=-sampler),)),
            "flag": spaces.MultiBinary(1),
        }
    )


class BoundedTask(ToyTask):
    """Its spaces depend on its sampler: sampler i takes the actions up to i + 1."""

    @property
    def observation_space(self) -> Any:
        return observation_space_of(self.env.sampler)

    @property
    def action_space(self) -> Any:
        return spaces.Discrete(2 + self.env.sampler)

    def get_observations(self) -> Any:
        counts = np.array(self.counts(), np.int32)
        return {"counts": counts, "inner": (int(counts[2]),), "flag": np.ones(1, np.int8)}


class NestedActionsTask(BoundedTask):
    """The same with nested actions."""

    @property
    def action_space(self) -> Any:
        limit = 1.0 + self.env.sampler
        return spaces.Dict({"x": spaces.Box(-limit, limit, (1,), np.float32)})

    def reward(self, action: Any) -> float:
        return float(action["x"][0])


EVERY_SAMPLER = spaces.Dict(
    {
        "counts": spaces.Box(-2, 11, (3,), np.int32),
        "inner": spaces.Tuple((spaces.Discrete(11, start=-2),)),
        "flag": spaces.MultiBinary(1),
    }
)


@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_observations_share_arrays(every_kind: Any, way: str) -> None:
    with every_kind.toys(BoundedTask, count=3, max_steps=2) as tasks:
        assert tasks.observation_space == EVERY_SAMPLER
        assert tasks.observation_spaces == [observation_space_of(i) for i in range(3)]
        assert tasks.action_spaces == [spaces.Discrete(2 + i) for i in range(3)]
        for step in (1, 0):
            batch = batch_by(way, tasks, [1, 2, 3])
            assert batch.observation["counts"].tolist() == [[i, 1 - step, step] for i in range(3)]
            assert batch.observation["inner"][0].tolist() == [step] * 3
        assert [result.observation["counts"][2] for result in tasks.step([0, 0, 0])] == [1] * 3


def test_each_action_is_held_against_its_own_space(kind: Any) -> None:
    with kind.toys(BoundedTask, count=3, max_steps=9) as tasks:
        for step in (tasks.step, tasks.step_batch, tasks.send):
            with pytest.raises(InvalidAction, match=r"sampler 1.*Discrete\(3\)"):
                step([1, 3, 3])
        tasks.send([2, 3], samplers=[1, 2])
        assert tasks.recv().reward.tolist() == [2.125, 3.125]
        tasks.pause_at(0)
        assert tasks.step_batch([2, 3]).reward.tolist() == [2.25, 3.25]
        with pytest.raises(InvalidAction, match="sampler 2"):
            tasks.step_batch([2, 4])


def test_nested_actions_with_the_nesting_outside(kind: Any) -> None:
    with kind.toys(NestedActionsTask, count=3, max_steps=9) as tasks:
        batch = tasks.step_batch({"x": np.array([[1.0], [2.0], [3.0]])})
        assert batch.reward.tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(InvalidAction, match="sampler 0"):
            tasks.step_batch({"x": np.array([[2.0], [2.0], [3.0]])})


def test_rollouts(kind: Any) -> None:
    with kind.toys(BoundedTask, count=3, max_steps=2) as tasks:
        buffer = RolloutBuffer(tasks, 4)
        collect(tasks, Dice(spaces.Discrete(2)), buffer)
        assert buffer.observations["counts"][..., 0].tolist() == [[0, 1, 2]] * 4
        assert buffer.actions.shape == (4, 3)


@pytest.mark.parametrize(
    ("each", "shared"),
    [
        (
            [spaces.Box(0, 1, (2,), np.float64), spaces.Box(0, 1, (2,), np.float32)],
            None,
        ),
        (
            [spaces.Box(np.float32([0, -1]), np.float32([1, 2])), spaces.Box(-0.5, 1.5, (2,))],
            spaces.Box(np.float32([-0.5, -1]), np.float32([1.5, 2])),
        ),
        ([spaces.Box(0, np.inf, (2,)), spaces.Box(-1, 1, (2,))], spaces.Box(-1, np.inf, (2,))),
        ([spaces.Box(0, 9, (1,), np.uint8)] * 3, spaces.Box(0, 9, (1,), np.uint8)),
        ([spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (3,))], None),
        ([spaces.Discrete(3, start=5), spaces.Discrete(2)], spaces.Discrete(8)),
        ([spaces.Discrete(3), spaces.Box(0, 1, (), np.int64)], None),
        (
            [spaces.MultiDiscrete([200, 2], np.uint8), spaces.MultiDiscrete([2, 200], np.uint8)],
            spaces.MultiDiscrete([200, 200], np.uint8),
        ),
        (
            [spaces.MultiDiscrete([3, 3], start=[-1, 0]), spaces.MultiDiscrete([3, 4])],
            spaces.MultiDiscrete([4, 4], start=[-1, 0]),
        ),
        ([spaces.MultiBinary(2), spaces.MultiBinary(3)], None),
        ([spaces.MultiBinary(2), spaces.MultiBinary(2)], spaces.MultiBinary(2)),
        ([spaces.Text(2), spaces.Text(3)], None),
        ([spaces.Dict(a=spaces.Discrete(2)), spaces.Dict(b=spaces.Discrete(2))], None),
        ([spaces.Dict(a=spaces.Text(2)), spaces.Dict(a=spaces.Text(3))], None),
        ([spaces.Tuple([spaces.Discrete(2)]), spaces.Tuple([spaces.Discrete(2)] * 2)], None),
        (["own", "own"], "own"),
        (["own", "other"], None),
    ],
    ids=str,
)
def test_the_space_that_contains_all(each: Any, shared: Any) -> None:
    for spaces_in_order in (each, each[::-1]):
        assert shared_space(spaces_in_order) == shared
        assert are_alike(*spaces_in_order[:2]) is (shared is not None)


def test_equal_spaces_are_the_first_one_itself() -> None:
    each = [observation_space_of(1), observation_space_of(1)]
    assert shared_space(each) is each[0]


class SpacelessTask(BoundedTask):
    """Says nothing of its spaces."""

    observation_space: Any = None
    action_space: Any = None


def test_tasks_without_spaces(kind: Any) -> None:
    with kind.toys(SpacelessTask, count=2, max_steps=9) as tasks:
        assert tasks.observation_space is None
        assert [result.reward for result in tasks.step([1, 2])] == [1.125, 2.125]
        arguments = toy_args(SpacelessTask, 2)
    arguments[1]["task_class"] = CountingTask
    with pytest.raises(InvalidArgument, match="Sampler 1"):
        kind.make(ToySampler, arguments)


def test_spaces_that_differ_in_more_are_refused(kind: Any) -> None:
    arguments = toy_args(BoundedTask, 3)
    arguments[1]["task_class"] = CountingTask
    with pytest.raises(InvalidArgument, match=r"Sampler 1 .* more than their bounds.*hetero"):
        kind.make(ToySampler, arguments)
