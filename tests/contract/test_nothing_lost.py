"""One sampler's failure costs the others nothing; a refused call has sent nothing."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import vectasks
from vectasks import AlreadyPending, RLStepResult, SamplerState, TaskError, WaitTimeout, WorkerDied
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, FailingTask, ToySampler


@pytest.mark.guarantee("all-or-nothing-sent", "unpicklable-argument")
def test_an_argument_that_cannot_travel_is_refused_as_a_whole(process_kind: Any) -> None:
    with process_kind.toys(max_steps=9) as tasks:
        arguments: list[Any] = [[1, 1], [1, 1], [1, 1], [threading.Lock(), 1]]
        with pytest.raises(Exception, match="pickle"):
            tasks.call("add", arguments)
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        assert [r.observation.tolist() for r in tasks.step([0] * 4)] == [
            [i, 0, 1] for i in range(4)
        ]


@pytest.mark.guarantee("all-or-nothing-sent", "unpicklable-argument")
def test_an_action_that_cannot_travel_steps_nobody(process_kind: Any) -> None:
    class AnythingTask(CountingTask):
        actions = None

        def reward(self, action: Any) -> float:
            return 1.0

    with process_kind.toys(AnythingTask, max_steps=9) as tasks:
        with pytest.raises(Exception, match="pickle"):
            tasks.step([0, 0, 0, threading.Lock()])
        assert tasks.call("num_steps_taken") == [0] * 4


class Late:
    """Cannot be pickled, for a reason that looks like one of sockets."""

    def __reduce__(self) -> Any:
        raise TimeoutError("too late for a lock")


@pytest.mark.guarantee("unpicklable-result")
@pytest.mark.parametrize("make_value", [threading.Lock, Late])
def test_a_value_that_cannot_travel_back(process_kind: Any, make_value: Any) -> None:
    class LockTask(CountingTask):
        def lock(self) -> Any:
            return make_value()

    with process_kind.toys(LockTask, max_steps=9) as tasks:
        with pytest.raises(TaskError, match=r"lock"):
            tasks.call("lock")
        assert len(tasks.step([0] * 4)) == 4


def test_results_survive_a_failure_in_the_joint_resample(make: Any) -> None:
    tasks = make(
        FailingTask,
        count=3,
        max_steps=[1, 1, 2],
        fail_at=["", "next_task", ""],
        vector={"auto_resample_when_done": False},
    )
    tasks.step([0] * 3)
    with pytest.raises(TaskError, match="sampler 1") as caught:
        tasks.step([0, 0, 3])
    results = caught.value.results
    assert sorted(results) == [0, 2]
    assert isinstance(results[2], RLStepResult)
    assert results[2].reward == 3.25
    assert "__AFTER_TASK_METRICS__" in results[2].info
    assert results[2].observation.tolist() == [2, 1, 0]


@pytest.mark.guarantee("late-answers")
def test_a_late_joint_resample_is_collected_by_wait_step(processes: Any) -> None:
    class SlowSampler(ToySampler):
        def next_task(self, **kwargs: Any) -> Any:
            if self.world.episode >= 0:
                time.sleep(0.5)
            return super().next_task(**kwargs)

    with processes.make(
        SlowSampler,
        toy_args(CountingTask, 2, max_steps=1),
        auto_resample_when_done=False,
        read_timeout=0.2,
    ) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.step([1, 2])
        results = tasks.wait_step(timeout=10)
        assert [r.reward for r in results] == [1.125, 2.125]
        assert [r.observation.tolist() for r in results] == [[0, 1, 0], [1, 1, 0]]


def test_the_last_running_sampler_is_paused(make: Any) -> None:
    tasks = make(count=2, max_steps=[1, 9], vector={"auto_resample_when_done": False})
    tasks.step([0, 0])
    tasks.pause_at(1)
    (result,) = tasks.step([0])  # nobody runs, so nobody is waited for
    assert result.info["resampled"] is True
    assert result.observation.tolist() == [0, 1, 0]


def test_mates_of_a_dead_worker_are_told_of_their_lost_episodes() -> None:
    with vectasks.VectorSampledTasks(
        ToySampler,
        toy_args(FailingTask, 2, how="kill", fail_step=2, max_steps=9),
        max_processes=1,
        on_worker_death="restart",
        should_log=False,
    ) as tasks:
        tasks.step([0, 0])
        (first,) = tasks.step_at(0, 0)
        assert "worker_restarted" in first.info
        mate = tasks.step_at(1, 0)[0]  # its episode was cut off too
        assert mate.done is True
        assert "worker_restarted" in mate.info
        assert mate.observation.tolist() == [1, 0, 0]


@pytest.mark.guarantee("restart-in-call")
def test_a_restart_by_another_command_is_told_by_the_next_step(processes: Any) -> None:
    with processes.toys(
        FailingTask,
        count=2,
        how="kill",
        fail_at="render",
        fail_step=1,
        max_steps=9,
        vector={"on_worker_death": "restart"},
    ) as tasks:
        tasks.step([0, 0])
        with pytest.raises(WorkerDied) as caught:
            tasks.render("raw_rgb_list")
        assert "are FAILED" not in str(caught.value)  # they were restarted
        results = tasks.step([0, 0])
        assert results[0].done is True
        assert "worker_restarted" in results[0].info
        assert results[1].observation.tolist() == [1, 0, 2]


@pytest.mark.parametrize("on_death", ["raise", "restart"])
def test_a_death_between_two_steps(processes: Any, on_death: str) -> None:
    with processes.toys(count=2, max_steps=9, vector={"on_worker_death": on_death}) as tasks:
        (pid, _) = tasks.call("pid")
        tasks.step([0, 0])
        os.kill(pid, signal.SIGKILL)
        if on_death == "raise":
            with pytest.raises(WorkerDied, match="SIGKILL") as caught:
                tasks.step([0, 0])
            mate = caught.value.results[1]
        else:
            first, mate = tasks.step([0, 0])
            assert "worker_restarted" in first.info
        assert mate.observation.tolist() == [1, 0, 2]


def test_large_values_pass_both_ways(every_kind: Any) -> None:
    with every_kind.toys(count=2) as tasks:
        big = np.arange(1 << 20, dtype=np.float64)
        sums = tasks.call("add", [[big, big]] * 2)
        np.testing.assert_array_equal(sums[1], big * 2)
        sums[0][0] = 5  # the caller's own, and writable
        assert big[0] == 0


def test_one_thread_at_a_time(make: Any) -> None:
    tasks = make(count=2)
    thread = threading.Thread(target=lambda: tasks.call("nap", [0.5] * 2))
    thread.start()
    time.sleep(0.2)
    with pytest.raises(AlreadyPending):
        tasks.step([0, 0])
    thread.join()
    assert tasks.call("num_steps_taken") == [0, 0]


@pytest.mark.guarantee("misuse-refused")
def test_a_vector_does_not_pickle(make: Any) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make(count=1))


@pytest.mark.guarantee("killed-parent", "parent-killed")
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_children_end_when_their_parent_is_killed(tmp_path: Path, method: str) -> None:
    code = f"""
import os
from vectasks import VectorSampledTasks
from vectasks.testing.toys import SlowTask, ToySampler, toy_args
arguments = toy_args(SlowTask, 2, delay_s=60)
tasks = VectorSampledTasks(ToySampler, arguments, multiprocessing_start_method={method!r})
print(*tasks.call("pid"), flush=True)
tasks.async_step([0, 0])
os.kill(os.getpid(), 9)
"""
    root = str(Path(vectasks.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 15
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)
