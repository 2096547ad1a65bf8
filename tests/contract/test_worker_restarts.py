"""A worker that died is restarted: one step is lost, the others' results are not."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from death_helpers import (
    AT_ONCE_S,
    COMMANDS,
    DEATHS,
    FAILED,
    IDLE,
    READY,
    end_idle_worker,
    faulty,
    hold_until,
    mates,
    noticed_at_once,
)

from vectasks import (
    RLStepResult,
    SamplerState,
    SetupError,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
    WaitTimeout,
    WorkerDied,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.faults import Fault, kill, with_faults
from vectasks.testing.toys import CountingTask, RandomWalk, ToySampler


@pytest.mark.guarantee("restarted-worker", "restart-in-step")
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
    in_process = SingleProcessVectorSampledTasks(
        ToySampler, toy_args(RandomWalk, 4, max_steps=9), seed=5, should_log=False
    )
    dead = mates(process_lane, 2)
    actions = [[0.5, -0.5]] * 4
    with tasks, in_process:
        for number in range(1, 8):
            if number == 3:
                expected = step_all_but(in_process, dead, actions)
            else:
                expected = dict(enumerate(in_process.step(actions)))
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


def step_all_but(in_process: Any, dead: tuple[int, ...], actions: list[Any]) -> dict[int, Any]:
    """Step an in-process vector in which these samplers are restarted in the midst of a step."""
    expected = {}
    for i in range(4):
        if i in dead:
            in_process.restart_at(i)
            expected[i] = RLStepResult(in_process.get_observations()[i], 0.0, True, {})
        else:
            (expected[i],) = in_process.step_at(i, actions[i])
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


@pytest.mark.guarantee("restart-after-step")
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


@pytest.mark.guarantee("restart-in-command", "restart-in-call")
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
                with pytest.raises(WorkerDied, match="restarted"):
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


@pytest.mark.guarantee("restart-idle")
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


@pytest.mark.guarantee("restart-waits")
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


@pytest.mark.guarantee("restart-waits")
def test_a_restart_that_takes_too_long(processes: Any, tmp_path: Path) -> None:
    processes.toys().close()  # so that a fork server is there, and the first start is quick
    tasks, open_gate = made_anew_behind(processes, tmp_path / "gate", start_timeout_s=2)
    with tasks:
        with pytest.raises(WaitTimeout, match="start_timeout_s") as caught:
            tasks.step([0] * 4)
        assert caught.value.sampler_ids == (2,)
        thread = open_gate()
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


@pytest.mark.guarantee("restart-fails")
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


@pytest.mark.guarantee("restart-in-step")
def test_many_deaths_at_once(process_kind: Any) -> None:
    faults = [Fault(kill(), sampler=i, call=2) for i in range(4)]
    tasks, _ = faulty(process_kind, faults, on_worker_death="restart")
    with tasks:
        tasks.step([0] * 4)
        with noticed_at_once():
            results = tasks.step([0] * 4)
        assert all("SIGKILL" in r.info["worker_restarted"] for r in results)


@pytest.mark.guarantee("restart-in-lockstep")
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
