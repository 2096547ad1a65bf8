"""vectasks.testing.faults: what fires where, how often, and how one knows of it."""

from __future__ import annotations

import gc
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import vectasks.testing.faults as module
from vectasks import (
    LayoutError,
    SetupError,
    SingleProcessVectorSampledTasks,
    TaskError,
    VectorSampledTasks,
    WaitTimeout,
)
from vectasks.testing import toy_args
from vectasks.testing.faults import (
    ACTIONS,
    CORRUPTIONS,
    Fault,
    FaultError,
    corrupt,
    exit_at_once,
    fail,
    forget_observation,
    hang,
    kill,
    misshape,
    slow_down,
    spin,
    spoil_info,
    spoil_reward,
    stop,
    with_faults,
)
from vectasks.testing.toys import CountingTask, ToyError, ToySampler


def faulty(faults: list[Fault], count: int = 2, in_process: bool = True, **options: Any) -> Any:
    """A vector, by default in process, with these faults; what made it is its make_sampler_fn."""
    make, args = with_faults(ToySampler, toy_args(CountingTask, count, max_steps=3), faults)
    options.setdefault("should_log", False)
    cls = SingleProcessVectorSampledTasks if in_process else VectorSampledTasks
    return cls(make, args, **options)


def failed_steps(tasks: Any, count: int) -> list[int]:
    """Numbers, from 1, of the steps in which sampler 0 failed."""
    failed = []
    for number in range(1, count + 1):
        try:
            tasks.step([0, 0])
        except TaskError:
            failed.append(number)
            tasks.next_task_at(0)
    return failed


def test_a_fault_fires_once_at_its_call() -> None:
    with faulty([Fault(fail(), call=5)]) as tasks:
        assert failed_steps(tasks, 12) == [5]  # counted over episodes of three steps
        assert tasks.make_sampler_fn.times_fired(0) == 1


@pytest.mark.parametrize(("times", "expected"), [(2, [3, 4]), (math.inf, [3, 4, 5, 6, 7])])
def test_a_fault_fires_as_often_as_it_says(times: float, expected: list[int]) -> None:
    with faulty([Fault(fail(), call=3, times=times)]) as tasks:
        assert failed_steps(tasks, 7) == expected
        assert tasks.make_sampler_fn.times_fired(0) == len(expected)


def test_calls_count_from_the_making_of_the_sampler() -> None:
    with faulty([Fault(fail(), call=2, times=2)]) as tasks:
        assert failed_steps(tasks, 2) == [2]
        tasks.restart_at(0)
        assert failed_steps(tasks, 4) == [2]
        tasks.restart_at(0)
        assert failed_steps(tasks, 4) == []


@pytest.mark.parametrize(("times", "restarts"), [(1, 1), (3, 3)])
def test_a_worker_that_was_killed_is_not_killed_again(times: int, restarts: int) -> None:
    fault = Fault(kill(), sampler=1, call=2, times=times)
    with faulty([fault], in_process=False, on_worker_death="restart") as tasks:
        for _ in range(10):
            tasks.step([0, 0])
        assert tasks.stats()["restarts"] == restarts
        assert tasks.make_sampler_fn.times_fired(0) == times


def test_other_samplers_are_left_alone() -> None:
    with faulty([Fault(fail(), sampler=1, at="add", times=math.inf)]) as tasks:
        assert tasks.call_at(0, "add", (1, 2)) == 3
        with pytest.raises(TaskError):
            tasks.call_at(1, "add", (1, 2))


def test_the_sampler_itself() -> None:
    faults = [
        Fault(fail(), at="sampler.scale"),
        Fault(fail(), at="reset"),
        Fault(fail(), at="next_task", call=3),
    ]
    with faulty(faults) as tasks:
        with pytest.raises(TaskError):
            tasks.call_sampler("scale", [1, 1])
        with pytest.raises(TaskError):
            tasks.reset_all()
        tasks.reset_all()  # the second call of next_task
        with pytest.raises(TaskError):
            tasks.next_task()
        assert [tasks.make_sampler_fn.times_fired(n) for n in range(3)] == [1, 1, 1]
    with pytest.raises(SetupError):
        faulty([Fault(fail(), at="make")])


def test_the_first_of_two_comes_first() -> None:
    trace: list[str] = []

    def told(name: str) -> Any:
        def act(proceed: Any) -> Any:
            trace.append(name)
            return proceed()

        return act

    with faulty([Fault(told("first")), Fault(told("second"))]) as tasks:
        tasks.step([0, 0])
    assert trace == ["first", "second"]
    with faulty([Fault(fail()), Fault(told("never reached"))]) as tasks:
        with pytest.raises(TaskError):
            tasks.step([0, 0])
        assert tasks.make_sampler_fn.times_fired(1) == 0


def test_the_users_arguments_stay_as_they_are() -> None:
    args = toy_args(CountingTask, 2, max_steps=3)
    before = [dict(a) for a in args]
    make, wrapped = with_faults(ToySampler, args, [])
    assert args == before
    assert len(wrapped) == 2
    with VectorSampledTasks(make, wrapped, should_log=False) as tasks:
        assert tasks.call_sampler("scale", [3, 3]) == [0, 3]


def test_make_sampler_fn_is_given_mp_ctx_if_it_takes_it() -> None:
    seen: list[Any] = []

    def takes(sampler: int, mp_ctx: Any) -> Any:
        seen.append(mp_ctx)
        return ToySampler(CountingTask, sampler)

    def does_not(sampler: int) -> Any:
        return ToySampler(CountingTask, sampler)

    for make_sampler_fn in (takes, does_not):
        make, args = with_faults(make_sampler_fn, [{"sampler": 0}], [])
        SingleProcessVectorSampledTasks(make, args, should_log=False).close()
    assert seen == [None]


def test_one_task_that_is_given_again_and_again_counts_on() -> None:
    class OneTaskSampler(ToySampler):
        def next_task(self, **kwargs: Any) -> Any:
            if self.last_sampled_task is None:
                return super().next_task()
            self.last_sampled_task._num_steps_taken = 0
            self.last_sampled_task._is_over = False
            return self.last_sampled_task

    make, args = with_faults(
        OneTaskSampler, toy_args(CountingTask, 2, max_steps=3), [Fault(fail(), call=5)]
    )
    with SingleProcessVectorSampledTasks(make, args, should_log=False) as tasks:
        assert failed_steps(tasks, 9) == [5]


@pytest.mark.parametrize("error", [ToyError("this"), ToyError, lambda: ToyError("that")])
def test_fail_raises_what_it_is_told(error: Any) -> None:
    with faulty([Fault(fail(error))]) as tasks:
        with pytest.raises(TaskError) as caught:
            tasks.step([0, 0])
        assert isinstance(caught.value.__cause__, ToyError)


# -- what comes late ------------------------------------------------------------------------------


@pytest.mark.guarantee("hanging-task", "stopped-worker")
@pytest.mark.parametrize("action", [hang(), spin(), stop()], ids=["hang", "spin", "stop"])
def test_nothing_comes(action: Any) -> None:
    with faulty([Fault(action, sampler=1)], in_process=False, close_grace_s=0.05) as tasks:
        pid = tasks.call_at(1, "pid")
        tasks.async_step([0, 0])
        tasks.make_sampler_fn.wait_until_fired(0)
        with pytest.raises(WaitTimeout) as caught:
            tasks.wait_step(timeout=0.2)
        assert caught.value.sampler_ids == (1,)
        if action.__qualname__.startswith("stop"):
            assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
            os.kill(pid, signal.SIGCONT)
            assert tasks.wait_step(timeout=10)[1].observation.tolist() == [1, 0, 1]


@pytest.mark.guarantee("slow-task")
def test_slow_down_only_takes_longer() -> None:
    with faulty([Fault(slow_down(0.3), sampler=1)], in_process=False) as tasks:
        tasks.async_step([0, 0])
        with pytest.raises(WaitTimeout):
            tasks.wait_step(timeout=0.1)
        assert [r.observation.tolist() for r in tasks.wait_step()] == [[0, 0, 1], [1, 0, 1]]


def test_waiting_for_a_fault_has_an_end() -> None:
    make, _ = with_faults(ToySampler, [{}], [Fault(fail())])
    with pytest.raises(TimeoutError, match="did not fire"):
        make.wait_until_fired(0, timeout_s=0.02)


# -- what comes wrong -----------------------------------------------------------------------------


@pytest.mark.guarantee("no-observation", "odd-reward", "unpicklable-result")
@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forget_observation, "None as observation"),
        (spoil_reward, "reward must be a real number"),
        (spoil_info, "cannot be sent|pickle"),
    ],
)
def test_corrupt_steps_fail(change: Any, message: str, in_process: bool) -> None:
    if in_process and change is spoil_info:
        pytest.skip("nothing is sent")
    with faulty([Fault(corrupt(change))], in_process=in_process) as tasks:
        with pytest.raises(TaskError, match=message) as caught:
            tasks.step([0, 0])
        assert sorted(caught.value.results) == [1]


@pytest.mark.guarantee("misshaped-observation")
@pytest.mark.parametrize("in_process", [True, False])
def test_misshaped_observations(in_process: bool) -> None:
    with (
        faulty([Fault(corrupt(misshape))], in_process=in_process) as tasks,
        pytest.raises(LayoutError, match="float64"),
    ):
        tasks.step_batch([0, 0])
    with faulty(
        [Fault(corrupt(misshape), at="get_observations", call=2)], in_process=in_process
    ) as tasks:
        assert tasks.get_observations()[0].shape == (7, 7)


def test_misshape_keeps_the_rest_of_a_step() -> None:
    with faulty(
        [Fault(corrupt(misshape))], in_process=False, observation_transport="pipe"
    ) as tasks:
        result = tasks.step([3, 0])[0]
    assert result.observation.shape == (7, 7)
    assert result.observation.dtype == np.float64
    assert (result.reward, result.done) == (3.125, False)


# -- guards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [kill(), exit_at_once(), stop()])
def test_the_in_process_vector_does_not_end_your_process(action: Any) -> None:
    with (
        faulty([Fault(action)]) as tasks,
        pytest.raises(TaskError, match="Use VectorSampledTasks") as caught,
    ):
        tasks.step([0, 0])
    assert isinstance(caught.value.__cause__, FaultError)
    assert tasks.make_sampler_fn.times_fired(0) == 0


@pytest.mark.parametrize("options", [{"call": 0}, {"times": 0}])
def test_counts_begin_with_one(options: Any) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        Fault(fail(), **options)


def test_an_action_that_was_not_made() -> None:
    with pytest.raises(TypeError, match="brackets"):
        Fault("kill")  # type: ignore[arg-type]


def test_a_sampler_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no sampler 2"):
        with_faults(ToySampler, [{}, {}], [Fault(fail(), sampler=2)])
    with pytest.raises(ValueError, match="sampler must be an integer of at least 0, got -1"):
        Fault(fail(), sampler=-1)


def test_a_method_that_does_not_exist() -> None:
    with pytest.raises(SetupError, match="no attribute 'fly'"):
        faulty([Fault(fail(), at="fly")])


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_records_are_removed(start_method: str) -> None:
    tasks = faulty([Fault(fail())], in_process=False, multiprocessing_start_method=start_method)
    records: Path = tasks.make_sampler_fn._records
    with pytest.raises(TaskError):
        tasks.step([0, 0])
    assert [path.name for path in records.iterdir()] == ["0"]
    tasks.close()
    del tasks
    gc.collect()
    assert not records.exists()


def test_every_action_is_listed() -> None:
    made = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__annotations__", {}).get("return") == "Action" and name[0] != "_"
    }
    assert {action.__name__ for action in ACTIONS} == made
    assert all(change.__doc__.startswith("For :func:`corrupt`") for change in CORRUPTIONS)
