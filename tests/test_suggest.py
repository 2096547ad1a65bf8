"""The model is tested without timing; what is measured is only held against what cannot be."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from gymnasium import spaces

import vectasks.suggest
from vectasks import (
    InvalidArgument,
    RLStepResult,
    SetupError,
    Suggestion,
    Task,
    TaskError,
    TaskSampler,
    suggest_max_processes,
)
from vectasks.suggest import recommend
from vectasks.testing.toys import CountingTask, FailingTask, RandomWalk, ToySampler, toy_args

# -- the model -------------------------------------------------------------------------------------


def test_tasks_that_cost_nothing_stay_in_one_process() -> None:
    suggestion = recommend(1e-6, 1.0, num_samplers=32, num_cores=2)
    assert suggestion.max_processes == 0
    assert suggestion.reason.endswith("Use the in-process vector, SingleProcessVectorSampledTasks.")


def test_cart_poles_do_not_pay_for_waking_workers() -> None:
    assert recommend(11e-6, 1.0, num_samplers=8, num_cores=2).max_processes == 0


def test_tasks_that_compute_get_a_process_a_core() -> None:
    assert recommend(2e-3, 1.0, num_samplers=32, num_cores=2).max_processes == 2
    suggestion = recommend(2e-3, 1.0, num_samplers=32, num_cores=8)
    assert suggestion.max_processes == 8
    assert suggestion.reason.startswith("A step of one sampler takes 2 ms, 100% of it CPU time.")
    assert suggestion.reason.endswith("Use VectorSampledTasks with max_processes=8.")


def test_tasks_that_wait_get_more_processes_than_cores() -> None:
    assert recommend(20e-3, 0.01, num_samplers=16, num_cores=2).max_processes == 16


def test_there_are_never_more_processes_than_samplers() -> None:
    suggestion = recommend(1.0, 1.0, num_samplers=3, num_cores=64)
    assert suggestion.max_processes == 3
    assert sorted(suggestion.predictions) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cpu_share", "num_samplers", "num_cores"),
    [
        (1.0, 8, 1),  # one core: nothing to share
        (1.0, 1, 4),
        (4.0, 8, 4),  # its threads have all cores busy
    ],
)
def test_where_processes_bring_nothing(cpu_share: float, num_samplers: int, num_cores: int) -> None:
    assert recommend(2e-3, cpu_share, num_samplers, num_cores).max_processes == 0


def test_the_steps_of_one_worker_add_up() -> None:
    predictions = recommend(1.0, 0.0, num_samplers=6, num_cores=2).predictions
    assert [round(predictions[w]) for w in range(7)] == [6, 6, 3, 2, 2, 2, 1]


def test_all_workers_share_the_cores() -> None:
    predictions = recommend(1.0, 1.0, num_samplers=6, num_cores=2).predictions
    assert [round(predictions[w]) for w in range(7)] == [6, 6, 3, 3, 3, 3, 3]


# -- measuring -------------------------------------------------------------------------------------


class WorkingTask(Task[None]):
    """Computes and sleeps for so long in each step."""

    def __init__(self, busy_s: float, asleep_s: float, action_space: Any) -> None:
        super().__init__(None, max_steps=3, observation_space=spaces.Discrete(2))
        self._busy_s = busy_s
        self._asleep_s = asleep_s
        self._action_space = action_space

    @property
    def action_space(self) -> Any:
        return self._action_space

    def _step(self, action: Any) -> RLStepResult:
        assert type(action) is int  # as the vector hands it on
        until = time.process_time() + self._busy_s
        while time.process_time() < until:
            pass
        time.sleep(self._asleep_s)
        return RLStepResult(0, 1.0, False, {})

    def get_observations(self) -> int:
        return 0


class WorkingSampler(TaskSampler[WorkingTask]):
    """Its ``reset`` does not begin the stream anew."""

    def __init__(
        self,
        busy_s: float = 0.0,
        asleep_s: float = 0.0,
        action_space: Any = None,
        max_tasks: int | None = None,
    ) -> None:
        space = spaces.Discrete(3) if action_space is None else action_space
        self._task_args = busy_s, asleep_s, space
        self._tasks_left = max_tasks

    def next_task(self, **kwargs: Any) -> WorkingTask | None:
        if self._tasks_left == 0:
            return None
        if self._tasks_left is not None:
            self._tasks_left -= 1
        return WorkingTask(*self._task_args)


def suggest(num_samplers: int, **kwargs: Any) -> Suggestion:
    return suggest_max_processes(WorkingSampler, [kwargs] * num_samplers, budget_s=0.1)


def test_it_measures_in_a_process_of_its_own() -> None:
    made_here = []

    def make(mp_ctx: Any) -> ToySampler:
        assert mp_ctx is not None
        made_here.append("a sampler")
        return ToySampler(RandomWalk)

    suggestion = suggest_max_processes(make, [{}] * 4, budget_s=0.05)
    assert made_here == []
    assert suggestion.step_s > 0
    assert suggestion.cpu_share >= 0
    assert set(suggestion.predictions) == {0, 1, 2, 3, 4}
    assert suggestion.max_processes in suggestion.predictions


def test_a_task_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectasks.suggest, "usable_cores", lambda: 4)
    suggestion = suggest(8, busy_s=2e-3)
    assert suggestion.step_s >= 2e-3
    assert suggestion.cpu_share > 0
    assert suggestion.max_processes >= 4  # more where other programs make it wait


def test_a_task_that_sleeps_gets_many() -> None:
    suggestion = suggest(16, asleep_s=0.05)
    assert suggestion.step_s >= 0.05
    assert suggestion.max_processes == 16


def test_a_step_longer_than_the_budget() -> None:
    assert suggest(2, asleep_s=0.2).step_s >= 0.2


def test_a_stream_that_cannot_be_restarted() -> None:
    suggestion = suggest(2, max_tasks=1)
    assert suggestion.step_s > 0


@pytest.mark.parametrize(
    ("arguments", "budget_s", "error"),
    [
        ([], 1.0, InvalidArgument),
        ({}, 1.0, InvalidArgument),
        ([{}], 0, InvalidArgument),
        ([{}], float("nan"), InvalidArgument),
        ([{"no": 1}], 1.0, SetupError),
    ],
)
def test_bad_input(arguments: Any, budget_s: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        suggest_max_processes(lambda: ToySampler(RandomWalk), arguments, budget_s=budget_s)


def test_what_cannot_be_called() -> None:
    with pytest.raises(InvalidArgument, match="make_sampler_fn must be callable"):
        suggest_max_processes("a name", [{}])  # type: ignore[arg-type]


def test_a_task_without_actions_to_draw() -> None:
    with pytest.raises(TaskError, match="no sample"):
        suggest(1, action_space="left or right")


def test_a_task_that_fails() -> None:
    with pytest.raises(TaskError, match="on purpose"):
        suggest_max_processes(ToySampler, toy_args(FailingTask, 1))


@pytest.mark.parametrize(
    ("reset_s", "episode_steps", "expected"),
    [
        (0.0, 100, 0),
        (0.2, math.inf, 0),  # no episode ended
        (0.2, 100, 3),  # R1 of the benchmarks: 16 samplers wait 32 ms for each step of 1 ms
        (2.0, 100, 8),
        (1e-4, 100, 0),
    ],
)
def test_prepared_tasks_where_resets_are_slow(
    reset_s: float, episode_steps: float, expected: int
) -> None:
    suggestion = recommend(1e-3, 0.01, 16, 2, reset_s, episode_steps)
    assert suggestion.prepared_tasks == expected
    assert suggestion.reset_s == reset_s
    assert ("prepared_tasks=" in suggestion.reason) == (expected > 0)
    if expected:
        assert suggestion.max_processes == 16
        assert f"{16 * expected} further worker processes" in suggestion.reason


class Loading(ToySampler):
    """Loads for a while before each task."""

    def next_task(self, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return super().next_task(**kwargs)


def test_resets_are_measured() -> None:
    arguments = toy_args(CountingTask, 8, max_steps=5)
    suggestion = suggest_max_processes(Loading, arguments, budget_s=0.2)
    assert suggestion.reset_s >= 0.05
    assert suggestion.prepared_tasks > 0
