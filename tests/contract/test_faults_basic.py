"""Deaths, restarts, timeouts and late replies, on every kind of process."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vectasks import (
    SamplerState,
    SamplerUnavailable,
    SetupError,
    VectasksError,
    WaitTimeout,
    WorkerDied,
)
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, FailingTask, SlowTask, ToySampler

# -- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "exitcode", "told"), [("exit", 7, "7"), ("kill", -9, "SIGKILL")])
def test_a_death_is_told_and_harms_nobody_else(
    process_kind: Any, how: str, exitcode: int, told: str
) -> None:
    with process_kind.toys(FailingTask, how=how, fail_step=1, max_steps=9) as tasks:
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=told) as caught:
            tasks.step([0] * 4)
        assert time.monotonic() - began < 5
        assert caught.value.exitcode == exitcode
        dead = caught.value.sampler_ids
        assert dead[0] == 0
        alive = [i for i in range(4) if i not in dead]
        assert len(dead) == {None: 1, 1: 4, 2: 2}[process_kind.max_processes]
        assert sorted(caught.value.results) == alive
        for i, state in tasks.sampler_states.items():
            assert state is (SamplerState.FAILED if i in dead else SamplerState.READY)
        with pytest.raises(SamplerUnavailable):
            tasks.step([0] * 4)
        for index in reversed(dead):
            tasks.pause_at(index)
        assert [r.observation.tolist() for r in tasks.step([0] * len(alive))] == [
            [i, 0, 2] for i in alive
        ]


def test_restart_at_begins_a_dead_worker_anew(process_kind: Any) -> None:
    with process_kind.toys(FailingTask, how="kill", fail_step=2, max_steps=9) as tasks:
        tasks.step([0] * 4)
        with pytest.raises(WorkerDied):
            tasks.step([0] * 4)
        tasks.restart_at(0)
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        assert tasks.step([0] * 4)[0].observation.tolist() == [0, 0, 1]


def test_a_death_outside_a_step(process_kind: Any) -> None:
    with process_kind.toys(
        FailingTask, fail_at="render", how="kill", fail_step=0, max_steps=9
    ) as tasks:
        with pytest.raises(WorkerDied, match="SIGKILL"):
            tasks.render("raw_rgb_list")
        assert tasks.sampler_states[0] is SamplerState.FAILED


@pytest.mark.guarantee("restart-limit")
def test_workers_restart_where_wished(process_kind: Any) -> None:
    options = {"on_worker_death": "restart", "max_restarts": 1, "seed": 3}
    with process_kind.toys(
        FailingTask, how="kill", fail_step=2, max_steps=9, vector=options
    ) as tasks:
        tasks.step([0] * 4)
        results = tasks.step([0] * 4)
        first = results[0]
        assert first.done is True
        assert first.reward == 0.0
        assert "SIGKILL" in first.info["worker_restarted"]
        assert first.info["truncated"] is True
        assert first.observation.tolist() == [0, 0, 0]
        lost = {None: 1, 1: 4, 2: 2}[process_kind.max_processes]
        for i, result in enumerate(results):
            if i >= lost:
                assert result.observation.tolist() == [i, 0, 2]
                assert result.done is False
                assert "worker_restarted" not in result.info
        assert tasks.stats()["restarts"] == 1
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        tasks.step([0] * 4)
        with pytest.raises(WorkerDied):  # once is the limit here
            tasks.step([0] * 4)


def test_restart_keeps_working_for_many_deaths(processes: Any) -> None:
    options = {"on_worker_death": "restart", "max_restarts": 100}
    with processes.toys(
        FailingTask, count=2, how="exit", fail_step=2, max_steps=9, vector=options
    ) as tasks:
        restarted = 0
        for _ in range(10):
            restarted += "worker_restarted" in tasks.step([0, 0])[0].info
        assert restarted == 5
        assert tasks.stats()["restarts"] == 5
        assert tasks.call_at(1, "counts")[0] == 1


def test_a_death_while_starting_is_no_endless_restart(processes: Any) -> None:
    options = {"on_worker_death": "restart"}
    began = time.monotonic()
    with pytest.raises((SetupError, WorkerDied)):
        processes.toys(
            FailingTask,
            count=2,
            how="exit",
            fail_at="get_observations",
            fail_step=0,
            vector=options,
        )
    assert time.monotonic() - began < 10


# -- timeouts -------------------------------------------------------------------------------------


@pytest.mark.guarantee("slow-task")
def test_a_late_step_is_collected_by_wait_step(process_kind: Any) -> None:
    with process_kind.toys(
        SlowTask, delay_s=2.5, slow_sampler=3, max_steps=9, vector={"read_timeout": 0.1}
    ) as tasks:
        began = time.monotonic()
        with pytest.raises(WaitTimeout) as caught:
            tasks.step([0, 1, 2, 3])
        assert time.monotonic() - began < 2.0  # the wait, and a look at the stacks
        assert 3 in caught.value.sampler_ids
        assert caught.value.timeout_s == pytest.approx(0.1)
        with pytest.raises(TimeoutError):
            tasks.wait_step(timeout=0)
        results = tasks.wait_step(timeout=10)
        assert [r.observation.tolist() for r in results] == [[i, 0, 1] for i in range(4)]
        assert [r.reward for r in results] == [0.125, 1.125, 2.125, 3.125]
        tasks.step([0] * 4)


@pytest.mark.guarantee("late-reply")
def test_the_reply_of_another_command_is_discarded(process_kind: Any) -> None:
    with process_kind.toys(max_steps=9, vector={"read_timeout": 0.2}) as tasks:
        with pytest.raises(WaitTimeout, match="sampler 3"):
            tasks.call_at(3, "nap", 0.6)
        assert tasks.sampler_states[3] is SamplerState.BUSY
        with pytest.raises(SamplerUnavailable, match="3"):
            tasks.step_at(3, 0)
        with pytest.raises(RuntimeError):
            tasks.pause_at(3)
        deadline = time.monotonic() + 10
        while tasks.sampler_states[3] is SamplerState.BUSY:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert tasks.call_at(3, "counts") == (3, 0, 0)
        assert [r.observation.tolist() for r in tasks.step([0] * 4)] == [
            [i, 0, 1] for i in range(4)
        ]


def test_one_deadline_for_all_samplers(processes: Any) -> None:
    with processes.toys(max_steps=9, vector={"read_timeout": 0.3}) as tasks:
        began = time.monotonic()
        with pytest.raises(WaitTimeout) as caught:
            tasks.call("nap", [1.0] * 4)
        assert time.monotonic() - began < 0.9
        assert sorted(caught.value.sampler_ids) == [0, 1, 2, 3]


@pytest.mark.guarantee("hanging-task")
def test_restart_at_replaces_a_busy_worker(processes: Any) -> None:
    with processes.toys(max_steps=9, vector={"read_timeout": 0.3}) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.call_at(1, "nap", 60)
        tasks.read_timeout = 20
        tasks.restart_at(1)
        assert [r.observation.tolist() for r in tasks.step([0] * 4)] == [
            [i, 0, 1] for i in range(4)
        ]


@pytest.mark.guarantee("hangs-in-close")
def test_close_is_bounded_while_a_task_hangs(process_kind: Any) -> None:
    tasks = process_kind.toys(
        SlowTask, delay_s=60, vector={"read_timeout": 0.1, "close_grace_s": 0.3}
    )
    with pytest.raises(WaitTimeout):
        tasks.step([0] * 4)
    began = time.monotonic()
    tasks.close()
    assert time.monotonic() - began < 5


@pytest.mark.guarantee("slow-start")
def test_start_is_bounded(processes: Any) -> None:
    def make(sampler: int) -> ToySampler:
        if sampler == 1:
            time.sleep(60)
        return ToySampler(CountingTask, sampler)

    began = time.monotonic()
    with pytest.raises(VectasksError) as caught:
        processes.make(
            make, [{"sampler": 0}, {"sampler": 1}], start_timeout_s=1.0, close_grace_s=0.3
        )
    assert isinstance(caught.value, WaitTimeout)
    assert caught.value.sampler_ids == (1,)
    assert time.monotonic() - began < 8


def test_the_in_process_accepts_what_only_processes_need(kind: Any) -> None:
    with kind.make(
        ToySampler,
        toy_args(CountingTask, 2),
        on_worker_death="restart",
        max_restarts=3,
        preload=("json",),
        rerun_main=False,
        start_timeout_s=30,
        close_grace_s=1.0,
        daemon=True,
        max_processes=2,
        read_timeout=10,
    ) as tasks:
        assert len(tasks.step([0, 0])) == 2
