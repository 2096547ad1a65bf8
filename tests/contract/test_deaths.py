"""A worker ends without being asked to: it is noticed at once, told of, and costs nobody else."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from death_helpers import (
    AT_ONCE_S,
    COMMANDS,
    DEATHS,
    FAILED,
    IDLE,
    READY,
    Death,
    end_idle_worker,
    faulty,
    hold_until,
    is_running,
    mates,
    noticed_at_once,
    wait_for_the_end_of,
)

from vectasks import SamplerUnavailable, TaskError, VectorSampledTasks, WaitTimeout, WorkerDied
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.faults import (
    Action,
    Fault,
    close_descriptors,
    exit_at_once,
    kill,
    with_faults,
)
from vectasks.testing.toys import CountingTask

# -- however it ends ------------------------------------------------------------------------------


@pytest.mark.guarantee("killed", "crashed", "exited", "closed-descriptors")
@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
def test_a_death_is_told_at_once(process_lane: Any, death: Death) -> None:
    tasks, _ = faulty(process_lane, [Fault(death.action, sampler=2, call=2)])
    with tasks:
        tasks.step([0] * 4)
        with noticed_at_once(), pytest.raises(WorkerDied, match=death.told) as caught:
            tasks.step([0, 1, 2, 3])
        error, dead = caught.value, mates(process_lane, 2)
        assert isinstance(error, EOFError)
        assert error.sampler_ids == dead
        assert error.worker == dead[0] // len(dead)
        assert error.exitcode == death.exitcode
        assert f"worker {error.worker} (samplers {', '.join(map(str, dead))})" in str(error)
        alive = [i for i in range(4) if i not in dead]
        assert {i: r.observation.tolist() for i, r in error.results.items()} == {
            i: [i, 0, 2] for i in alive
        }
        assert tasks.sampler_states == {i: FAILED if i in dead else READY for i in range(4)}
        for i in reversed(dead):
            tasks.pause_at(i)
        assert [r.observation.tolist() for r in tasks.step([0] * len(alive))] == [
            [i, 0, 3] for i in alive
        ]
        tasks.resume_all()
        tasks.restart_at(2)
        assert set(tasks.sampler_states.values()) == {READY}
        assert [r.observation.tolist() for r in tasks.step([0] * 4)] == [
            [i, 0, 1 if i in dead else 4] for i in range(4)
        ]


# -- whatever it is at ----------------------------------------------------------------------------


@pytest.mark.guarantee("dies-in-command")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_death_during_any_command(process_lane: Any, command: Any) -> None:
    at, call, reach = command
    tasks, make = faulty(process_lane, [Fault(kill(), sampler=2, at=at, call=call)])
    with tasks:
        with noticed_at_once(), pytest.raises(WorkerDied, match="SIGKILL") as caught:
            reach(tasks)
        dead = mates(process_lane, 2)
        assert make.times_fired(0) == 1
        assert caught.value.sampler_ids == dead
        asked = {2} if reach is COMMANDS["step_at"][2] else set(range(4))
        done_before = {0, 1} if reach is COMMANDS["send"][2] else set()
        assert set(caught.value.results) == asked - (set(dead) - done_before)
        assert tasks.sampler_states == {i: FAILED if i in dead else READY for i in range(4)}
        tasks.restart_at(2)
        assert len(tasks.step([0] * 4)) == 4


@pytest.mark.guarantee("dies-in-make")
@pytest.mark.parametrize("on_death", ["raise", "restart"])
@pytest.mark.parametrize(("at", "call"), [("make", 1), ("next_task", 1), ("get_observations", 1)])
def test_a_death_during_construction(process_kind: Any, at: str, call: int, on_death: str) -> None:
    fault = Fault(exit_at_once(9), sampler=2, at=at, call=call, times=100)
    with noticed_at_once(), pytest.raises(WorkerDied, match="code 9") as caught:
        faulty(process_kind, [fault], on_worker_death=on_death)
    assert caught.value.sampler_ids == mates(process_kind, 2)


@pytest.mark.guarantee("dies-in-close")
@pytest.mark.parametrize("at", ["close", "sampler.close"])
def test_a_death_while_closing(process_kind: Any, at: str) -> None:
    tasks, make = faulty(process_kind, [Fault(kill(), sampler=2, at=at)])
    tasks.step([0] * 4)
    with noticed_at_once():
        tasks.close()
    assert tasks.is_closed
    assert make.times_fired(0) == 1


@pytest.mark.guarantee("dies-idle")
@pytest.mark.parametrize("reach", IDLE.values(), ids=IDLE.keys())
def test_a_death_while_nothing_is_asked(some_process: Any, reach: Any) -> None:
    tasks, _ = faulty(some_process, [])
    with tasks:
        end_idle_worker(tasks, 2)
        with noticed_at_once(), pytest.raises(WorkerDied, match="SIGKILL") as caught:
            reach(tasks)
        assert caught.value.sampler_ids == mates(some_process, 2)
        tasks.restart_at(2)
        assert len(tasks.step([0] * 4)) == 4


@pytest.mark.guarantee("dies-idle")
def test_states_tell_of_a_death_while_nothing_is_asked(process_kind: Any) -> None:
    tasks, _ = faulty(process_kind, [])
    with tasks:
        end_idle_worker(tasks, 2)
        dead = mates(process_kind, 2)
        deadline = time.monotonic() + AT_ONCE_S
        while tasks.sampler_states[2] is not FAILED:  # its last thread takes a moment to go
            assert time.monotonic() < deadline
        assert tasks.sampler_states == {i: FAILED if i in dead else READY for i in range(4)}
        with pytest.raises(SamplerUnavailable):
            tasks.step([0] * 4)


@pytest.mark.guarantee("dies-beside-slow")
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_a_death_while_another_sampler_is_slow(
    processes: Any, tmp_path: Path, transport: str
) -> None:
    gate = tmp_path / "gate"
    faults = [Fault(hold_until(gate), sampler=0), Fault(kill(), sampler=3)]
    tasks, make = faulty(processes, faults, observation_transport=transport)
    with tasks:
        tasks.async_step([0] * 4)
        make.wait_until_fired(1)
        with pytest.raises(WaitTimeout) as late:
            tasks.wait_step(timeout=0.2)
        assert late.value.sampler_ids == (0,)  # the dead one is not awaited
        assert tasks.sampler_states[3] is FAILED  # noticed, though the step is still out
        gate.touch()
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            tasks.wait_step()
        assert {i: r.observation.tolist() for i, r in caught.value.results.items()} == {
            i: [i, 0, 1] for i in range(3)
        }


@pytest.mark.guarantee("dies-beside-slow")
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_recv_tells_of_a_death_without_waiting_for_who_is_slow(
    processes: Any, tmp_path: Path, transport: str
) -> None:
    gate = tmp_path / "gate"
    faults = [Fault(hold_until(gate), sampler=0), Fault(kill(), sampler=3)]
    tasks, _ = faulty(processes, faults, observation_transport=transport)
    with tasks:
        tasks.send([0] * 4)
        with noticed_at_once(), pytest.raises(WorkerDied) as caught:
            tasks.recv(3)
        assert sorted(caught.value.results) == [1, 2]
        gate.touch()
        assert tasks.recv().samplers.tolist() == [0]


@pytest.mark.guarantee("dies-after-mate")
def test_a_dead_worker_is_failed_also_where_its_sampler_had_played_all_its_tasks() -> None:
    make, args = with_faults(
        ToySampler,
        toy_args(CountingTask, 2, max_steps=1, num_tasks=1),
        [Fault(kill(), sampler=1)],
    )
    with VectorSampledTasks(make, args, max_processes=1) as tasks:
        tasks.send([0, 0])
        with noticed_at_once(), pytest.raises(WorkerDied):
            tasks.recv(2)
        assert set(tasks.sampler_states.values()) == {FAILED}


class Told(CountingTask):
    """Says in its info how many steps it had made."""

    def info(self) -> Any:
        return {"steps": self.num_steps_taken()}


@pytest.mark.guarantee("dies-after-mate")
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_step_that_was_done_before_its_worker_died_keeps_its_info(start_method: str) -> None:
    make, args = with_faults(ToySampler, toy_args(Told, 2, max_steps=9), [Fault(kill(), sampler=1)])
    with VectorSampledTasks(
        make, args, max_processes=1, multiprocessing_start_method=start_method
    ) as tasks:
        tasks.send([0, 0])
        with noticed_at_once(), pytest.raises(WorkerDied) as caught:
            tasks.recv(2)
        assert caught.value.results[0].info == {"steps": 0}


# -- what outlives it -----------------------------------------------------------------------------


class ForkingTask(CountingTask):
    """Leaves a child that holds every descriptor of the worker, until a file appears."""

    def fork(self, gate: str) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                while not Path(gate).exists():
                    time.sleep(0.01)
            finally:
                os._exit(0)
        return pid


@pytest.mark.guarantee("orphan-holds-descriptors")
@pytest.mark.parametrize("way", ["step", "step_batch", "call"])
def test_a_death_is_noticed_though_a_child_of_the_task_holds_its_descriptors(
    some_process: Any, tmp_path: Path, way: str
) -> None:
    gate = tmp_path / "gate"
    at, _, reach = {**COMMANDS, "step": ("step", 1, IDLE["step"])}[way]
    tasks, _ = faulty(some_process, [Fault(kill(), sampler=2, at=at)], ForkingTask)
    with tasks:
        child = tasks.call_at(2, "fork", str(gate))
        try:
            with noticed_at_once(), pytest.raises(WorkerDied, match="SIGKILL"):
                reach(tasks)
            tasks.restart_at(2)
            assert len(tasks.step([0] * 4)) == 4
        finally:
            gate.touch()
            wait_for_the_end_of(child)


def then_wait(gate: Path) -> Action:
    """Close all descriptors, then stay until a file appears, and go on as if nothing had been."""
    shut, hold = close_descriptors(), hold_until(gate)
    return lambda proceed: shut(lambda: hold(proceed))


@pytest.mark.guarantee("closed-descriptors")
def test_who_closes_its_descriptors_steps_on_until_it_is_out_of_reach(process_lane: Any) -> None:
    """Steps through shared memory need none: what they give is told, and then that it is gone."""
    tasks, _ = faulty(process_lane, [Fault(close_descriptors(), sampler=2)])
    given: list[Any] = []

    def step_and_call() -> None:
        for _ in range(9):
            given.append([r.observation.tolist() for r in tasks.step([0] * 4)])
            tasks.call("pid")  # this needs the channel

    with tasks:
        # Where the step was done when the loss was noticed, only the next call tells of it.
        with noticed_at_once(), pytest.raises(WorkerDied, match="descriptors") as caught:
            step_and_call()
        dead = mates(process_lane, 2)
        assert caught.value.sampler_ids == dead
        assert caught.value.exitcode in (0, None)  # by itself, or because it was out of reach
        assert tasks.sampler_states == {i: FAILED if i in dead else READY for i in range(4)}
        assert given in ([], [[[i, 0, 1] for i in range(4)]])


@pytest.mark.guarantee("closed-descriptors")
@pytest.mark.parametrize("on_death", ["raise", "restart"])
def test_who_closes_its_descriptors_and_stays_is_ended(
    some_process: Any, tmp_path: Path, on_death: str
) -> None:
    gate = tmp_path / "gate"
    fault = Fault(then_wait(gate), sampler=2)
    tasks, make = faulty(some_process, [fault], on_worker_death=on_death)
    with tasks:
        pid = tasks.call_at(2, "pid")
        tasks.async_step([0] * 4)
        make.wait_until_fired(0)
        if on_death == "raise":
            with noticed_at_once(), pytest.raises(WorkerDied):
                tasks.wait_step()
        else:
            with noticed_at_once():
                result = tasks.wait_step()[2]
            assert "worker_restarted" in result.info
        assert not is_running(pid)
        gate.touch()
        if on_death == "raise":
            tasks.restart_at(2)
        assert tasks.step([0] * 4)[2].observation.tolist() == [2, 0, 1]


class LargeTask(CountingTask):
    """Answers more than a socket takes at once."""

    def large(self) -> Any:
        return bytes(20_000_000)


def sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    return {pair.fd for pair in psutil.Process().net_connections("unix")}


@pytest.mark.guarantee("dies-in-answer")
@pytest.mark.parametrize("on_death", ["raise", "restart"])
def test_a_death_in_the_midst_of_an_answer(some_process: Any, on_death: str) -> None:
    before = sockets()
    tasks, _ = faulty(some_process, [], LargeTask, on_worker_death=on_death)
    channels = sockets() - before
    with tasks:
        pid = tasks.call_at(2, "pid")
        tasks.read_timeout = 0  # the answer is not taken in
        with pytest.raises(WaitTimeout):
            tasks.call_at(2, "large")
        tasks.read_timeout = 30
        assert select.select(channels, [], [], 10)[0], "nothing was answered"
        os.kill(pid, signal.SIGKILL)
        wait_for_the_end_of(pid)
        deadline = time.monotonic() + AT_ONCE_S
        wanted = FAILED if on_death == "raise" else READY
        while tasks.sampler_states[2] is not wanted:
            assert time.monotonic() < deadline
        if on_death == "raise":
            tasks.restart_at(2)
        assert len(tasks.call_at(2, "large")) == 20_000_000


class HungryTask(CountingTask):
    """Takes nearly all memory that it may have, and keeps it so."""

    def move(self, action: Any) -> None:
        if self.env.sampler == 2 and self.step_number == 2:
            resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
            self.env.notes["hoard"] = bytearray(1 << 30)


@pytest.mark.guarantee("no-memory")
def test_no_memory_for_good(some_process: Any) -> None:
    with some_process.toys(HungryTask, max_steps=9) as tasks:
        tasks.step([0] * 4)
        with noticed_at_once(), pytest.raises((TaskError, WorkerDied)) as caught:
            tasks.step([0] * 4)
        lost = set(mates(some_process, 2)) if isinstance(caught.value, WorkerDied) else {2}
        assert set(caught.value.results) == set(range(4)) - lost
        assert {i for i, state in tasks.sampler_states.items() if state is FAILED} == lost
