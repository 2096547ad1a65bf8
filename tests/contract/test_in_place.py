"""Tasks that write their observations in place."""

from __future__ import annotations

from typing import Any

import pytest
from batch_helpers import batch_by

from vectasks.testing import assert_identical
from vectasks.testing.toys import NestedTask, RandomWalk


class InPlaceTask(RandomWalk):
    """Writes its observation where it is told to."""

    def _step(self, action: Any) -> Any:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: Any) -> None:
        out[...] = self.position


class InPlaceNestedTask(NestedTask):
    """The same with a nested observation."""

    def _step(self, action: Any) -> Any:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: Any) -> None:
        seen = self.get_observations()
        for key in ("rgb", "flags", "choice"):
            out[key][...] = seen[key]
        for target, value in zip(out["pose"], seen["pose"], strict=True):
            target[...] = value


@pytest.mark.parametrize(
    ("usual", "in_place"), [(RandomWalk, InPlaceTask), (NestedTask, InPlaceNestedTask)]
)
@pytest.mark.parametrize("way", ["step", "step_batch", "recv"])
def test_tasks_that_write_in_place_give_the_same(
    every_kind: Any, usual: Any, in_place: Any, way: str
) -> None:
    space = usual.actions
    space.seed(0)
    with (
        every_kind.toys(usual, count=3, max_steps=3) as one,
        every_kind.toys(in_place, count=3, max_steps=3) as two,
    ):
        assert_identical(two.get_observations(), one.get_observations())
        for _ in range(8):
            actions = [space.sample() for _ in range(3)]
            results = []
            for tasks in (one, two):
                results.append(batch_by(way, tasks, actions))
            assert_identical(*results)
