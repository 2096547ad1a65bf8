"""Steps that fail, do not fit or are cut off, taken as batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batch_helpers import OddTask, batch_by

from vectasks import (
    LayoutError,
    SamplerState,
    SamplerUnavailable,
    SingleProcessVectorSampledTasks,
    TaskError,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import CountingTask, FailingTask, MultiAgentTask, ToySampler


@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_a_failing_task_costs_the_others_nothing(make: Any, way: str) -> None:
    tasks = make(FailingTask, max_steps=9, fail_sampler=1)
    tasks.step_batch([0] * 4)
    with pytest.raises(TaskError, match="sampler 1") as caught:
        batch_by(way, tasks, [0] * 4)
    assert sorted(caught.value.results) == [0, 2, 3]
    assert caught.value.results[3].observation.tolist() == [3, 0, 2]
    states = [SamplerState.READY] * 4
    states[1] = SamplerState.FAILED
    assert list(tasks.sampler_states.values()) == states
    tasks.pause_at(1)
    assert tasks.step_batch([0] * 3).observation[:, 2].tolist() == [3] * 3
    tasks.resume_all()
    tasks.next_task_at(1)
    assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [4, 1, 4, 4]


class OddSecondEpisode(CountingTask):
    """Sampler 1's second episode begins with an observation that does not fit."""

    def get_observations(self) -> Any:
        sampler, episode, step = self.counts()
        return np.zeros(2 if (sampler, episode, step) == (1, 1, 0) else 3, np.int32)


def test_a_misfit_in_lockstep_leaves_nobody_waiting(make: Any) -> None:
    tasks = make(OddSecondEpisode, max_steps=2, vector={"auto_resample_when_done": False})
    tasks.step_batch([0] * 4)
    with pytest.raises(LayoutError, match="sampler 1"):  # in the step that ends all episodes
        tasks.step_batch([0] * 4)
    assert tasks.stats()["steps"] == 8
    assert tasks.stats()["episodes"] == 4
    tasks.next_task_at(1)
    assert [r.done for r in tasks.step([0] * 4)] == [False] * 4
    assert [r.done for r in tasks.step([0] * 4)] == [True] * 4


@pytest.mark.guarantee("misshaped-observation")
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda o: o.astype(np.float64), r"observation.*int32 \[3\].*float64 \[3\]"),
        (lambda o: o[:2], r"observation.*int32 \[3\].*int32 \[2\]"),
        (lambda o: {"a": o}, r"observation.*int32 \[3\].*dict"),
        (lambda o: "text", r"observation.*int32 \[3\].*str"),
    ],
)
@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_a_misfit_fails_its_sampler_alone(make: Any, odd: Any, message: str, way: str) -> None:
    tasks = make(OddTask, max_steps=9, odd=odd)
    tasks.step_batch([0] * 4)
    with pytest.raises(LayoutError, match=f"sampler 1: {message}"):
        batch_by(way, tasks, [0] * 4)
    assert tasks.sampler_states[1] is SamplerState.FAILED
    with pytest.raises(SamplerUnavailable, match="sampler 1 is FAILED"):
        tasks.step_batch([0] * 4)
    tasks.pause_at(1)
    assert tasks.step_batch([0] * 3).observation[:, 2].tolist() == [3] * 3
    tasks.resume_all()
    tasks.next_task_at(1)
    batch = tasks.step_batch([0] * 4)
    assert batch.observation[:, 1:].tolist() == [[0, 4], [1, 1], [0, 4], [0, 4]]


@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_rewards_of_several_agents_have_no_batch(make: Any, way: str) -> None:
    tasks = make(MultiAgentTask, count=2, max_steps=9)
    with pytest.raises(LayoutError, match="rewards"):
        batch_by(way, tasks, [(0, 0)] * 2)
    assert set(tasks.sampler_states.values()) == {SamplerState.FAILED}
    tasks.next_task()
    assert tasks.step([(0, 1)] * 2)[0].reward == [0.5, 1.5]


@pytest.mark.guarantee("batch-dtypes")
def test_casts_within_a_kind_are_made(make: Any) -> None:
    tasks = make(OddTask, max_steps=9, odd=lambda o: o.astype(np.int64))
    tasks.step_batch([0] * 4)
    batch = tasks.step_batch([0] * 4)
    assert_identical(batch.observation, np.array([[i, 0, 2] for i in range(4)], np.int32))
    assert tasks.step([0] * 4)[1].observation.dtype == np.int64


class InterruptedTask(CountingTask):
    """Ctrl-C comes while sampler 1 takes its second step."""

    def move(self, action: Any) -> None:
        if self.env.sampler == 1 and self.step_number == 2 and self.episode == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["step", "step_batch", "send"])
def test_ctrl_c_passes_through_the_in_process(way: str) -> None:
    arguments = toy_args(InterruptedTask, 4, max_steps=9)
    with SingleProcessVectorSampledTasks(ToySampler, arguments, should_log=False) as tasks:
        tasks.step_batch([0] * 4)
        with pytest.raises(KeyboardInterrupt):
            getattr(tasks, way)([0] * 4)
        states = tasks.sampler_states
        assert states[0] is SamplerState.READY
        assert states[1] is SamplerState.FAILED
        tasks.reset_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [1] * 4
