"""A worker ends without being asked to: it is noticed at once, told of, and costs nobody else."""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from vectasks import (
    RLStepResult,
    SamplerState,
    SamplerUnavailable,
    SetupError,
    SingleProcessVectorSampledTasks,
    TaskError,
    VectorSampledTasks,
    WaitTimeout,
    WorkerDied,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.faults import (
    Action,
    Fault,
    Proceed,
    close_descriptors,
    crash,
    exit_at_once,
    exit_python,
    fail,
    kill,
    with_faults,
)
from vectasks.testing.toys import CountingTask, RandomWalk, ToySampler

READY, FAILED = SamplerState.READY, SamplerState.FAILED
AT_ONCE_S = 10.0  # far below every timeout here, far above what a busy machine needs


def faulty(
    kind: Any, faults: list[Fault], task_class: Any = CountingTask, **vector: Any
) -> tuple[Any, Any]:
    """A vector of four samplers in which these faults happen, and what made them."""
    make, args = with_faults(ToySampler, toy_args(task_class, 4, max_steps=9), faults)
    return kind.make(make, args, **vector), make


def mates(kind: Any, sampler_id: int) -> tuple[int, ...]:
    """The samplers that live in the same worker."""
    per_worker = {None: 1, 1: 4, 2: 2}[kind.max_processes]
    first = sampler_id - sampler_id % per_worker
    return tuple(range(first, first + per_worker))


@contextmanager
def noticed_at_once() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_S


# -- however it ends ------------------------------------------------------------------------------


class Death(NamedTuple):
    action: Action
    exitcode: int | None
    told: str


DEATHS = {
    "SIGKILL": Death(kill(), -9, "SIGKILL"),
    "SIGTERM": Death(kill(signal.SIGTERM), -15, "SIGTERM"),
    "real-time signal": Death(kill(signal.SIGRTMIN + 3), -37, "37"),
    "segfault": Death(crash(), -11, "SIGSEGV"),
    "os._exit": Death(exit_at_once(7), 7, "code 7"),
    "sys.exit": Death(exit_python(3), 3, "code 3"),
    "sys.exit(0)": Death(exit_python(0), 0, "code 0"),
    "KeyboardInterrupt": Death(fail(KeyboardInterrupt), 1, "code 1"),
    "closed descriptors": Death(close_descriptors(), 0, "descriptors"),
}


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

COMMANDS: dict[str, tuple[str, int, Callable[[Any], Any]]] = {
    "step_batch": ("step", 1, lambda tasks: tasks.step_batch([0] * 4)),
    "send": ("step", 1, lambda tasks: (tasks.send([0] * 4), tasks.recv())),
    "step_at": ("step", 1, lambda tasks: tasks.step_at(2, 0)),
    "next_task": ("next_task", 2, lambda tasks: tasks.next_task()),
    "reset_all": ("reset", 1, lambda tasks: tasks.reset_all()),
    "set_seeds": ("set_seed", 1, lambda tasks: tasks.set_seeds(3)),
    "get_observations": ("get_observations", 2, lambda tasks: tasks.get_observations()),
    "render": ("render", 1, lambda tasks: tasks.render("raw_rgb_list")),
    "call": ("add", 1, lambda tasks: tasks.call("add", [(1, 2)] * 4)),
    "call_sampler": ("sampler.scale", 1, lambda tasks: tasks.call_sampler("scale", [2] * 4)),
}


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


@pytest.mark.parametrize("on_death", ["raise", "restart"])
@pytest.mark.parametrize(("at", "call"), [("make", 1), ("next_task", 1), ("get_observations", 1)])
def test_a_death_during_construction(process_kind: Any, at: str, call: int, on_death: str) -> None:
    fault = Fault(exit_at_once(9), sampler=2, at=at, call=call, times=100)
    with noticed_at_once(), pytest.raises(WorkerDied, match="code 9") as caught:
        faulty(process_kind, [fault], on_worker_death=on_death)
    assert caught.value.sampler_ids == mates(process_kind, 2)


@pytest.mark.parametrize("at", ["close", "sampler.close"])
def test_a_death_while_closing(process_kind: Any, at: str) -> None:
    tasks, make = faulty(process_kind, [Fault(kill(), sampler=2, at=at)])
    tasks.step([0] * 4)
    with noticed_at_once():
        tasks.close()
    assert tasks.is_closed
    assert make.times_fired(0) == 1


def end_idle_worker(tasks: Any, sampler_id: int) -> None:
    """Kill the worker of a sampler that is asked nothing, and wait until it is dead."""
    pid = tasks.call_at(sampler_id, "pid")
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end_of(pid)


def wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


IDLE: dict[str, Callable[[Any], Any]] = {
    "step": lambda tasks: tasks.step([0] * 4),
    **{name: reach for name, (_, _, reach) in COMMANDS.items()},
}


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


def hold_until(path: Path) -> Action:
    """An action that waits for a file."""
    name = str(path)

    def act(proceed: Proceed) -> Any:
        while not os.path.exists(name):  # noqa: PTH110  (travels by value)
            time.sleep(0.002)
        return proceed()

    return act


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


@pytest.mark.parametrize("on_death", ["raise", "restart"])
def test_a_death_in_the_midst_of_an_answer(some_process: Any, on_death: str) -> None:
    tasks, _ = faulty(some_process, [], LargeTask, on_worker_death=on_death)
    with tasks:
        pid = tasks.call_at(2, "pid")
        worker = tasks._dispatcher.workers[1]
        tasks.read_timeout = 0  # the answer is not taken in
        with pytest.raises(WaitTimeout):
            tasks.call_at(2, "large")
        tasks.read_timeout = 30
        ((channel, _), _) = worker.descriptors()
        assert select.select([channel], [], [], 10)[0], "nothing was answered"
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


def test_no_memory_for_good(some_process: Any) -> None:
    with some_process.toys(HungryTask, max_steps=9) as tasks:
        tasks.step([0] * 4)
        with noticed_at_once(), pytest.raises((TaskError, WorkerDied)) as caught:
            tasks.step([0] * 4)
        lost = set(mates(some_process, 2)) if isinstance(caught.value, WorkerDied) else {2}
        assert set(caught.value.results) == set(range(4)) - lost
        assert {i for i, state in tasks.sampler_states.items() if state is FAILED} == lost


# -- begun anew -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("death", "way"),
    [
        ("SIGKILL", "step"),
        ("SIGKILL", "step_batch"),
        ("SIGKILL", "send"),
        ("sys.exit(0)", "step"),
        ("closed descriptors", "step"),
    ],
)
def test_a_restart_costs_one_step_and_the_others_nothing(
    process_lane: Any, death: str, way: str
) -> None:
    if way == "send" and process_lane.max_processes == 1:
        pytest.skip("what mates did before is theirs: the next test")
    tasks, _ = faulty(
        process_lane,
        [Fault(DEATHS[death].action, sampler=2, call=3)],
        RandomWalk,
        seed=5,
        on_worker_death="restart",
    )
    twin = SingleProcessVectorSampledTasks(
        ToySampler, toy_args(RandomWalk, 4, max_steps=9), seed=5, should_log=False
    )
    dead = mates(process_lane, 2)
    actions = [[0.5, -0.5]] * 4
    with tasks, twin:
        for number in range(1, 8):
            if number == 3:
                expected = step_all_but(twin, dead, actions)
            else:
                expected = dict(enumerate(twin.step(actions)))
            with noticed_at_once():
                given = results(tasks, way, actions)
            for i in range(4):
                if number == 3 and i in dead:
                    told = given[i]
                    assert told.done is True
                    assert told.reward == 0.0
                    assert told.info.pop("truncated") is True
                    assert DEATHS[death].told in told.info.pop("worker_restarted")
                    assert told.info == {}
                    assert_identical(told.observation, expected[i].observation)
                elif way == "step":
                    assert_identical(given[i], expected[i])
                else:
                    assert_identical(given[i].observation, expected[i].observation)
                    assert given[i].done == expected[i].done
        assert tasks.stats()["restarts"] == 1
        assert set(tasks.sampler_states.values()) == {READY}
        assert tasks.stats()["steps"] == 28


def step_all_but(twin: Any, dead: tuple[int, ...], actions: list[Any]) -> dict[int, Any]:
    """What the twin gives where these samplers are made anew in the midst of a step."""
    expected = {}
    for i in range(4):
        if i in dead:
            twin.restart_at(i)
            expected[i] = RLStepResult(twin.get_observations()[i], 0.0, True, {})
        else:
            (expected[i],) = twin.step_at(i, actions[i])
    return expected


def results(tasks: Any, way: str, actions: list[Any]) -> dict[int, Any]:
    if way == "step":
        return dict(enumerate(tasks.step(actions)))
    if way == "send":
        tasks.send(actions)
        batch = tasks.recv()
    else:
        batch = tasks.step_batch(actions)
    return {
        i: RLStepResult(
            batch.observation[i], float(batch.reward[i]), bool(batch.done[i]), batch.infos[i]
        )
        for i in range(4)
    }


@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_what_was_sent_and_done_before_a_death_is_kept(transport: str) -> None:
    make, args = with_faults(
        ToySampler, toy_args(CountingTask, 3, max_steps=9), [Fault(kill(), sampler=1)]
    )
    with VectorSampledTasks(
        make,
        args,
        max_processes=1,
        on_worker_death="restart",
        observation_transport=transport,
        should_log=False,
    ) as tasks:
        tasks.send([0] * 3)
        batch = tasks.recv()
        told = ["worker_restarted" in info for info in batch.infos]
        first_was_done = transport == "auto"  # by message, all of a worker answer together
        assert told == [not first_was_done, True, True]
        assert batch.observation[:, 2].tolist() == [int(first_was_done), 0, 0]
        following = tasks.step([0] * 3)  # and it is told of its lost episode here
        assert ["worker_restarted" in r.info for r in following] == [first_was_done, False, False]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_restart_during_any_command(some_process: Any, command: Any) -> None:
    at, call, reach = command
    tasks, _ = faulty(
        some_process,
        [Fault(kill(), sampler=2, at=at, call=call)],
        on_worker_death="restart",
    )
    with tasks:
        with noticed_at_once():
            if at in ("render", "add", "sampler.scale", "set_seed"):  # its answer is lost with it
                with pytest.raises(WorkerDied, match="begun anew"):
                    reach(tasks)
            else:
                told = reach(tasks)
        assert set(tasks.sampler_states.values()) == {READY}
        assert tasks.stats()["restarts"] == 1
        if at == "get_observations":
            assert [o.tolist() for o in told] == [[i, 0, 0] for i in range(4)]
        following = tasks.step([0] * 4)
        for i, result in enumerate(following):
            if i not in mates(some_process, 2):
                assert "worker_restarted" not in result.info
        assert [r.done for r in tasks.step([0] * 4)] == [False] * 4


def test_an_idle_death_is_told_by_the_next_step(some_process: Any) -> None:
    tasks, _ = faulty(some_process, [], on_worker_death="restart")
    with tasks:
        tasks.step([0] * 4)
        end_idle_worker(tasks, 2)
        results = tasks.step([0] * 4)
        for i, result in enumerate(results):
            if i in mates(some_process, 2):
                assert "SIGKILL" in result.info["worker_restarted"]
                assert result.observation.tolist() == [i, 0, 0]
            else:
                assert result.observation.tolist() == [i, 0, 2]


def made_anew_behind(
    kind: Any, gate: Path, **vector: Any
) -> tuple[Any, Callable[[], threading.Thread]]:
    """A vector whose sampler 2 is being made anew and gets ready once the thread was started."""
    gate.touch()
    fault = Fault(hold_until(gate), sampler=2, at="make", times=math.inf)
    tasks, make = faulty(kind, [fault], on_worker_death="restart", **vector)
    gate.unlink()
    end_idle_worker(tasks, 2)
    deadline = time.monotonic() + AT_ONCE_S
    while tasks.sampler_states[2] is not SamplerState.BUSY:
        assert time.monotonic() < deadline

    def open_gate() -> None:
        while make.times_fired(0) < 2:
            time.sleep(0.002)
        gate.touch()

    thread = threading.Thread(target=open_gate)
    return tasks, lambda: (thread.start(), thread)[1]


NEXT: dict[str, Callable[[Any], Any]] = {
    **IDLE,
    "pause_at": lambda tasks: tasks.pause_at(2),
    "command": lambda tasks: tasks.command("attr", ["note"] * 4),
    "restart_at": lambda tasks: tasks.restart_at(2),
}


@pytest.mark.parametrize("reach", NEXT.values(), ids=NEXT.keys())
def test_who_is_made_anew_is_waited_for(processes: Any, tmp_path: Path, reach: Any) -> None:
    tasks, open_gate = made_anew_behind(processes, tmp_path / "gate")
    with tasks:
        assert tasks.step_at(0, 0)[0].observation.tolist() == [0, 0, 1]  # the others go on
        thread = open_gate()
        with noticed_at_once():
            reach(tasks)
        thread.join()
        assert tasks.stats()["restarts"] == 1
        tasks.resume_all()
        assert len(tasks.step([0] * 4)) == 4


def test_a_restart_that_takes_too_long(processes: Any, tmp_path: Path) -> None:
    tasks, open_gate = made_anew_behind(processes, tmp_path / "gate")
    with tasks:
        tasks._start_timeout_s = 0.1
        with pytest.raises(WaitTimeout, match="start_timeout_s") as caught:
            tasks.step([0] * 4)
        assert caught.value.sampler_ids == (2,)
        thread = open_gate()
        tasks._start_timeout_s = 10
        told = tasks.step([0] * 4)
        thread.join()
        assert "worker_restarted" in told[2].info
        assert told[0].observation.tolist() == [0, 0, 1]  # nothing was sent before


class Once(ToySampler):
    """Sampler 1 can be made once, until its mark is taken away."""

    def __init__(self, sampler: int, home: str, how: str) -> None:
        mark = Path(home) / str(sampler)
        if mark.exists() and sampler == 1:
            if how == "die":
                os._exit(4)
            raise KeyError("the scene is gone")
        mark.touch()
        super().__init__(CountingTask, sampler, max_steps=9)


@pytest.mark.parametrize("way", ["step", "step_batch"])
@pytest.mark.parametrize(("how", "error"), [("raise", SetupError), ("die", WorkerDied)])
def test_a_restart_that_fails(
    some_process: Any, tmp_path: Path, how: str, error: type[Exception], way: str
) -> None:
    args = [{"sampler": i, "home": str(tmp_path), "how": how} for i in range(4)]
    make, args = with_faults(Once, args, [Fault(kill(), sampler=1, call=2)])
    with some_process.make(make, args, on_worker_death="restart") as tasks:
        tasks.step([0] * 4)
        told = "the scene is gone.*SIGKILL" if how == "raise" else "code 4"
        with noticed_at_once(), pytest.raises(error, match=told) as caught:
            getattr(tasks, way)([0] * 4)
        dead = mates(some_process, 1)
        assert {2, 3} - set(dead) <= set(caught.value.results)  # type: ignore[attr-defined]
        assert tasks.sampler_states[1] is FAILED
        (tmp_path / "1").unlink()
        tasks.restart_at(1)
        results = tasks.step([0] * 4)
        assert results[1].observation.tolist() == [1, 0, 1]  # it was told already
        assert set(tasks.sampler_states.values()) == {READY}


def test_many_deaths_at_once(process_kind: Any) -> None:
    faults = [Fault(kill(), sampler=i, call=2) for i in range(4)]
    tasks, _ = faulty(process_kind, faults, on_worker_death="restart")
    with tasks:
        tasks.step([0] * 4)
        with noticed_at_once():
            results = tasks.step([0] * 4)
        assert all("SIGKILL" in r.info["worker_restarted"] for r in results)


def test_a_death_in_lockstep(process_kind: Any) -> None:
    make, args = with_faults(
        ToySampler, toy_args(CountingTask, 4, max_steps=3), [Fault(kill(), sampler=2, call=2)]
    )
    with process_kind.make(
        make, args, on_worker_death="restart", auto_resample_when_done=False
    ) as tasks:
        dead = mates(process_kind, 2)
        tasks.step([0] * 4)
        told = tasks.step([0] * 4)
        assert [i for i in range(4) if "worker_restarted" in told[i].info] == list(dead)
        for _ in range(3):
            last = tasks.step([0] * 4)
        assert [r.info.get("resampled") for r in last] == [True] * 4  # together again
        assert [r.done for r in tasks.step([0] * 4)] == [False] * 4
