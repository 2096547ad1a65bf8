"""``auto_resample_when_done=False``: done samplers wait, and all move on together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vectasks import SamplerUnavailable, TaskError
from vectasks.testing import assert_identical
from vectasks.testing.toys import CountingTask, FailingTask, RandomWalk, ReusingTask

LOCKSTEP = {"auto_resample_when_done": False}


def lists(results: list[Any]) -> list[Any]:
    return [None if r.observation is None else r.observation.tolist() for r in results]


@pytest.mark.guarantee("lockstep")
def test_a_done_sampler_waits(every_kind: Any) -> None:
    with every_kind.toys(max_steps=[2, 9, 9, 9], vector=dict(LOCKSTEP)) as tasks:
        assert tasks.auto_resample_when_done is False
        tasks.step([1] * 4)
        done = tasks.step([1] * 4)[0]
        assert done.observation.tolist() == [0, 0, 2]
        assert done.done is True
        assert done.reward == 1.25
        assert done.info["__AFTER_TASK_METRICS__"]["ep_length"] == 2
        assert not done.info.get("waiting")
        assert not done.info.get("resampled")
        for _ in range(2):
            waiting = tasks.step([3] * 4)[0]
            assert waiting.observation.tolist() == [0, 0, 2]
            assert waiting.reward == 0.0
            assert waiting.done is True
            assert waiting.info["waiting"] is True
            assert "__AFTER_TASK_METRICS__" not in waiting.info
        assert tasks.call("counts") == [(0, 0, 2), (1, 0, 4), (2, 0, 4), (3, 0, 4)]


@pytest.mark.guarantee("lockstep")
def test_the_last_one_moves_all_on(every_kind: Any) -> None:
    with every_kind.toys(max_steps=[1, 2, 3, 3], vector=dict(LOCKSTEP)) as tasks:
        tasks.step([0] * 4)
        tasks.step([0] * 4)
        results = tasks.step([2] * 4)
        assert lists(results) == [[i, 1, 0] for i in range(4)]
        assert [r.done for r in results] == [True] * 4
        assert [r.reward for r in results] == [0.0, 0.0, 2.375, 2.375]
        assert [r.info["resampled"] for r in results] == [True] * 4
        assert [r.info["final_observation"].tolist() for r in results] == [
            [0, 0, 1],
            [1, 0, 2],
            [2, 0, 3],
            [3, 0, 3],
        ]
        assert ["__AFTER_TASK_METRICS__" in r.info for r in results] == [False, False, True, True]
        following = tasks.step([0] * 4)
        assert lists(following) == [[i, 1, 1] for i in range(4)]
        assert [r.done for r in following] == [True, False, False, False]


def test_all_done_at_once(every_kind: Any) -> None:
    with every_kind.toys(max_steps=1, vector=dict(LOCKSTEP)) as tasks:
        for episode in (1, 2, 3):
            results = tasks.step([0] * 4)
            assert lists(results) == [[i, episode, 0] for i in range(4)]
            assert [(r.done, r.info["resampled"]) for r in results] == [(True, True)] * 4


def test_async_step_behaves_the_same(every_kind: Any) -> None:
    with every_kind.toys(max_steps=[1, 2, 2, 2], vector=dict(LOCKSTEP)) as tasks:
        tasks.async_step([0] * 4)
        assert lists(tasks.wait_step())[0] == [0, 0, 1]
        tasks.async_step([0] * 4)
        assert lists(tasks.wait_step()) == [[i, 1, 0] for i in range(4)]


def test_the_action_of_a_waiting_sampler_is_ignored(make: Any) -> None:
    tasks = make(RandomWalk, count=2, max_steps=[1, 9], limit=1e9, vector=dict(LOCKSTEP))
    tasks.step(np.zeros((2, 2)))
    nonsense = np.array([[99.0, 99.0], [0.0, 0.0]])
    assert tasks.step(nonsense)[0].info["waiting"] is True
    with pytest.raises(ValueError, match="1 action"):
        tasks.step([0])


def test_step_at(make: Any) -> None:
    tasks = make(count=2, max_steps=[1, 2], vector=dict(LOCKSTEP))
    assert tasks.step_at(0, 0)[0].done is True
    (waiting,) = tasks.step_at(0, 0)
    assert waiting.observation.tolist() == [0, 0, 1]
    assert waiting.info["waiting"] is True
    assert waiting.reward == 0.0
    assert tasks.step_at(1, 0)[0].done is False
    (last,) = tasks.step_at(1, 1)
    assert last.observation.tolist() == [1, 1, 0]
    assert last.info["resampled"] is True
    assert [o.tolist() for o in tasks.get_observations()] == [[0, 1, 0], [1, 1, 0]]
    assert lists(tasks.step([0, 0])) == [[0, 1, 1], [1, 1, 1]]


def test_next_task_moves_on_at_any_time(make: Any) -> None:
    tasks = make(count=3, max_steps=[1, 9, 9], vector=dict(LOCKSTEP))
    tasks.step([0] * 3)
    assert tasks.step([0] * 3)[0].info["waiting"] is True
    assert [o.tolist() for o in tasks.next_task()] == [[i, 1, 0] for i in range(3)]
    assert [r.done for r in tasks.step([0] * 3)] == [True, False, False]
    assert_identical(tasks.next_task_at(0), [np.array([0, 2, 0], np.int32)])
    assert lists(tasks.step([0] * 3)) == [[0, 2, 1], [1, 1, 2], [2, 1, 2]]


def test_reset_all_ends_the_waiting(make: Any) -> None:
    tasks = make(count=2, max_steps=[1, 9], vector=dict(LOCKSTEP))
    tasks.step([0] * 2)
    tasks.reset_all()
    assert lists(tasks.step([0] * 2)) == [[0, 0, 1], [1, 0, 1]]


def test_paused_samplers_are_not_waited_for(make: Any) -> None:
    tasks = make(count=3, max_steps=[9, 1, 2], vector=dict(LOCKSTEP))
    tasks.pause_at(0)
    assert lists(tasks.step([0] * 2)) == [[1, 0, 1], [2, 0, 1]]
    assert lists(tasks.step([0] * 2)) == [[1, 1, 0], [2, 1, 0]]
    tasks.resume_all()
    assert [o.tolist() for o in tasks.get_observations()] == [[0, 0, 0], [1, 1, 0], [2, 1, 0]]


def test_exhausted_samplers_are_not_waited_for(make: Any) -> None:
    tasks = make(count=3, max_steps=[1, 1, 2], num_tasks=[1, 9, 9], vector=dict(LOCKSTEP))
    tasks.step([0] * 3)
    results = tasks.step([0] * 3)
    assert lists(results) == [None, [1, 1, 0], [2, 1, 0]]
    assert [r.done for r in results] == [True] * 3
    with pytest.raises(SamplerUnavailable):
        tasks.step([0] * 3)
    tasks.pause_at(0)
    assert lists(tasks.step([0] * 2)) == [[1, 1, 1], [2, 1, 1]]
    assert lists(tasks.step([0] * 2)) == [[1, 2, 0], [2, 2, 0]]


def test_failed_samplers_are_not_waited_for(make: Any) -> None:
    tasks = make(FailingTask, count=3, max_steps=3, fail_step=2, vector=dict(LOCKSTEP))
    tasks.step([0] * 3)
    with pytest.raises(TaskError):
        tasks.step([0] * 3)
    tasks.step_at(1, 0)
    (last,) = tasks.step_at(2, 0)
    assert last.info["resampled"] is True
    assert last.observation.tolist() == [2, 1, 0]
    assert tasks.call_at(1, "counts") == (1, 1, 0)


@pytest.mark.guarantee("reused-task-arrays")
def test_a_reused_array_does_not_change_the_kept_result(make: Any) -> None:
    tasks = make(ReusingTask, count=2, max_steps=[1, 2], vector=dict(LOCKSTEP))
    tasks.step([0, 0])
    results = tasks.step([0, 0])
    assert [r.info["final_observation"].tolist() for r in results] == [[0, 0, 1], [1, 0, 2]]
    assert lists(results) == [[0, 1, 0], [1, 1, 0]]


def test_the_default_resamples(make: Any) -> None:
    assert make(CountingTask).auto_resample_when_done is True
