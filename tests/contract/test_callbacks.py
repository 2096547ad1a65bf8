"""Callback sensors: asked when an episode ends; the answer is in the info."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vectasks import (
    COMPLETE_TASK_CALLBACK_KEY,
    COMPLETE_TASK_METRICS_KEY,
    SamplerState,
    TaskError,
)
from vectasks.testing import assert_identical
from vectasks.testing.toys import ReusingTask


def sensors() -> list[Any]:
    class Sensor:
        def __init__(self, uuid: str) -> None:
            self.uuid = uuid

        def get_observation(self, env: Any, task: Any) -> Any:
            return {"env": env.sampler, "steps": task.num_steps_taken(), "array": env.buffer}

    return [Sensor("one"), Sensor("two")]


def suite(fail_in_sampler: int = -1) -> Any:
    class Suite:
        def get_observations(self, *, env: Any, task: Any) -> Any:
            if env.sampler == fail_in_sampler:
                raise KeyError("sensor failed")
            return {"all": (env.sampler, task.counts())}

    return Suite()


def test_the_keys() -> None:
    assert COMPLETE_TASK_METRICS_KEY == "__AFTER_TASK_METRICS__"
    assert COMPLETE_TASK_CALLBACK_KEY == "__AFTER_TASK_CALLBACK__"


@pytest.mark.parametrize("resample", [True, False], ids=["autoreset", "lockstep"])
def test_a_suite(every_kind: Any, resample: bool) -> None:
    vector = {"callback_sensors": suite(), "auto_resample_when_done": resample}
    with every_kind.toys(max_steps=[1, 2, 2, 2], vector=vector) as tasks:
        first = tasks.step([0] * 4)
        second = tasks.step([0] * 4)
    assert first[0].info[COMPLETE_TASK_CALLBACK_KEY] == {"all": (0, (0, 0, 1))}
    assert all(COMPLETE_TASK_CALLBACK_KEY not in result.info for result in first[1:])
    assert second[3].info[COMPLETE_TASK_CALLBACK_KEY] == {"all": (3, (3, 0, 2))}


def test_a_sequence_of_sensors(every_kind: Any) -> None:
    for given in (sensors(), tuple(sensors())):
        vector = {"callback_sensors": given}
        with every_kind.toys(ReusingTask, max_steps=1, vector=vector) as tasks:
            told = tasks.step([0] * 4)[2].info[COMPLETE_TASK_CALLBACK_KEY]
            tasks.step([0] * 4)
        one = {"env": 2, "steps": 1, "array": np.array([2, 0, 1], np.int32)}
        assert_identical(told, {"one": one, "two": one})


def test_a_sensor_that_raises_fails_that_sampler_only(every_kind: Any) -> None:
    vector = {"callback_sensors": suite(fail_in_sampler=1)}
    with every_kind.toys(max_steps=1, vector=vector) as tasks:
        with pytest.raises(TaskError, match=r"(?s)sampler 1.*sensor failed") as caught:
            tasks.step([0] * 4)
        assert sorted(caught.value.results) == [0, 2, 3]
        assert [i for i, s in tasks.sampler_states.items() if s is SamplerState.FAILED] == [1]
        tasks.pause_at(1)
        assert len(tasks.step([0] * 3)) == 3
