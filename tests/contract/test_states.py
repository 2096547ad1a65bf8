"""Pausing, exhausted samplers, failed ones, and the end of a vector."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks import (
    SamplerIndexError,
    SamplerState,
    SamplerUnavailable,
    TaskError,
    VectorClosed,
    VectorState,
)
from vectasks.testing import assert_identical
from vectasks.testing.toys import FailingTask, InfoTask, RandomWalk, SlowTask


def samplers(observations: list[Any]) -> list[int]:
    return [int(observation[0]) for observation in observations]


# -- pausing --------------------------------------------------------------------------------------


@pytest.mark.guarantee("pausing-shifts-indices")
def test_pausing_shifts_indices_down(tasks: Any) -> None:
    assert tasks.pause_at(1) is None
    assert tasks.sampler_ids == [0, 2, 3]
    assert tasks.num_unpaused_tasks == 3
    assert tasks.sampler_states[1] is SamplerState.PAUSED
    assert samplers(tasks.get_observations()) == [0, 2, 3]
    assert samplers([r.observation for r in tasks.step([0, 1, 2])]) == [0, 2, 3]
    assert samplers([tasks.step_at(1, 0)[0].observation]) == [2]
    assert tasks.attr_at(2, "task_info")["sampler"] == 3
    tasks.pause_at(1)
    assert tasks.sampler_ids == [0, 3]
    assert tasks.call("counts") == [(0, 0, 1), (3, 0, 1)]
    assert tasks.attr("note") == ["unset"] * 2
    assert len(tasks.command("attr", ["note"] * 2)) == 2
    assert len(tasks.observation_spaces) == len(tasks.action_spaces) == 2
    assert samplers(tasks.next_task()) == [0, 3]
    with pytest.raises(SamplerIndexError):
        tasks.step_at(2, 0)


@pytest.mark.guarantee("pausing-shifts-indices")
def test_resuming_restores_the_original_order(tasks: Any) -> None:
    for index in (3, 1, 0):
        tasks.pause_at(index)
    assert tasks.sampler_ids == [2]
    tasks.step([1])
    assert tasks.resume_all() is None
    assert tasks.sampler_ids == [0, 1, 2, 3]
    assert [o.tolist() for o in tasks.get_observations()] == [
        [0, 0, 0],
        [1, 0, 0],
        [2, 0, 1],
        [3, 0, 0],
    ]


def test_reset_all_leaves_paused_samplers_alone(tasks: Any) -> None:
    tasks.step([0] * 4)
    tasks.pause_at(0)
    tasks.reset_all()
    tasks.resume_all()
    assert [int(o[2]) for o in tasks.get_observations()] == [1, 0, 0, 0]


def test_everything_may_be_paused(tasks: Any) -> None:
    for index in reversed(range(4)):  # as AllenAct does, from the highest index down
        tasks.pause_at(index)
    assert tasks.num_unpaused_tasks == 0
    assert tasks.sampler_ids == []
    assert tasks.step([]) == []
    assert tasks.step(np.zeros((0,), np.int64)) == []
    assert tasks.get_observations() == tasks.next_task() == tasks.attr("note") == []
    assert tasks.call("counts") == tasks.command("attr", []) == tasks.render("raw_rgb_list") == []
    assert tasks.reset_all() is None
    assert tasks.set_seeds(3) is None
    tasks.async_step([])
    assert tasks.wait_step() == []
    tasks.resume_all()
    assert tasks.num_unpaused_tasks == 4


def test_pausing_while_a_step_is_out_is_refused(tasks: Any) -> None:
    tasks.async_step([0] * 4)
    with pytest.raises(RuntimeError):
        tasks.pause_at(0)
    with pytest.raises(RuntimeError):
        tasks.resume_all()
    assert samplers([r.observation for r in tasks.wait_step()]) == [0, 1, 2, 3]


# -- exhausted ------------------------------------------------------------------------------------


def exhausted(make: Any, **options: Any) -> Any:
    """Sampler 1 of three is exhausted: it had one task of one step."""
    tasks = make(count=3, max_steps=[9, 1, 9], num_tasks=[9, 1, 9], **options)
    result = tasks.step([0, 2, 0])[1]
    assert result.observation is None
    assert result.done is True
    assert result.reward == 2.125
    assert result.info["final_observation"].tolist() == [1, 0, 1]
    assert result.info["__AFTER_TASK_METRICS__"]["ep_length"] == 1
    assert tasks.sampler_states[1] is SamplerState.EXHAUSTED
    return tasks


def test_exhausted_sampler_takes_no_step(make: Any) -> None:
    tasks = exhausted(make)
    before = tasks.call_at(0, "counts")
    for refused in (
        lambda: tasks.step([0, 0, 0]),
        lambda: tasks.async_step([0, 0, 0]),
        lambda: tasks.step_at(1, 0),
    ):
        with pytest.raises(SamplerUnavailable, match=r"1.*(?i:exhausted)"):
            refused()
    assert tasks.call_at(0, "counts") == before
    tasks.pause_at(1)
    assert [r.observation[0] for r in tasks.step([0, 0])] == [0, 2]


def test_what_an_exhausted_sampler_answers(make: Any) -> None:
    tasks = exhausted(make)
    assert [o if o is None else int(o[0]) for o in tasks.get_observations()] == [0, None, 2]
    for refused in (
        lambda: tasks.call("counts"),
        lambda: tasks.call_at(1, "counts"),
        lambda: tasks.attr("note"),
        lambda: tasks.attr_at(1, "note"),
        lambda: tasks.render("raw_rgb_list"),
    ):
        with pytest.raises(SamplerUnavailable):
            refused()
    assert tasks.call_sampler("scale", [[1]] * 3) == [0, 1, 2]
    assert tasks.command("sampler_attr", ["length"] * 3) == [8, 0, 8]
    assert tasks.set_seeds(4) is None
    assert [o is None for o in tasks.next_task()] == [False, True, False]
    assert tasks.next_task_at(1) == [None]
    assert tasks.call_at(0, "counts") == (0, 1, 0)


def test_reset_all_revives_an_exhausted_sampler(make: Any) -> None:
    tasks = exhausted(make)
    tasks.reset_all()
    assert tasks.sampler_states[1] is SamplerState.READY
    assert [r.observation is None for r in tasks.step([0, 0, 0])] == [False, True, False]


def test_pausing_and_resuming_keeps_it_exhausted(make: Any) -> None:
    tasks = exhausted(make)
    tasks.pause_at(1)
    assert tasks.sampler_states[1] is SamplerState.PAUSED
    tasks.resume_all()
    assert tasks.sampler_states[1] is SamplerState.EXHAUSTED


def test_next_task_exhausts_without_an_error(make: Any) -> None:
    tasks = make(count=2, num_tasks=[1, 2])
    assert [o is None for o in tasks.next_task()] == [True, False]
    assert [o is None for o in tasks.next_task()] == [True, True]
    assert set(tasks.sampler_states.values()) == {SamplerState.EXHAUSTED}


# -- failed ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("failed-sampler")
@pytest.mark.parametrize("revive", ["next_task_at", "restart_at", "reset_all", "next_task"])
def test_a_failed_sampler_harms_nobody_and_can_be_revived(make: Any, revive: str) -> None:
    tasks = make(FailingTask, count=3, max_steps=9, fail_sampler=1, fail_step=2)
    tasks.step([0] * 3)
    with pytest.raises(TaskError, match=r"(?s)sampler 1.*on purpose") as caught:
        tasks.step([0] * 3)
    assert caught.value.sampler_id == 1
    assert "ToyError" in str(caught.value)
    assert "on purpose" in caught.value.remote_traceback
    assert caught.value.__cause__ is not None
    assert sorted(caught.value.results) == [0, 2]
    assert caught.value.results[2].observation.tolist() == [2, 0, 2]
    states = tasks.sampler_states
    assert [states[i] for i in range(3)] == [
        SamplerState.READY,
        SamplerState.FAILED,
        SamplerState.READY,
    ]
    with pytest.raises(SamplerUnavailable):
        tasks.step([0] * 3)
    assert tasks.call_at(0, "counts") == (0, 0, 2)
    assert tasks.step_at(2, 0)[0].observation.tolist() == [2, 0, 3]
    getattr(tasks, revive)(*([1] if revive.endswith("_at") else []))
    assert tasks.sampler_states[1] is SamplerState.READY
    assert int(tasks.step([0] * 3)[1].observation[2]) == 1


def test_a_failed_sampler_can_be_paused(make: Any) -> None:
    tasks = make(FailingTask, count=3, max_steps=9, fail_sampler=0)
    tasks.step([0] * 3)
    with pytest.raises(TaskError):
        tasks.step([0] * 3)
    tasks.pause_at(0)
    assert samplers([r.observation for r in tasks.step([0, 0])]) == [1, 2]


@pytest.mark.parametrize("place", ["step", "get_observations", "metrics", "next_task"])
@pytest.mark.parametrize("how", ["raise", "raise_stubborn"])
def test_errors_of_a_step_wherever_they_arise(make: Any, place: str, how: str) -> None:
    tasks = make(FailingTask, count=2, max_steps=2, fail_at=place, how=how, fail_sampler=0)
    tasks.step([0, 0])
    with pytest.raises(TaskError, match="on purpose"):
        tasks.step([0, 0])
    assert tasks.sampler_states[0] is SamplerState.FAILED
    assert tasks.sampler_states[1] in (SamplerState.READY, SamplerState.FAILED)


@pytest.mark.parametrize("place", ["render", "call"])
def test_errors_beside_the_episode_leave_the_sampler_ready(make: Any, place: str) -> None:
    tasks = make(FailingTask, count=2, max_steps=9, fail_at=place, fail_step=0)
    fail = {
        "render": lambda: tasks.render("raw_rgb_list"),
        "call": lambda: tasks.call("add", [["a", 1], [1, 1]]),
    }[place]
    with pytest.raises(TaskError):
        fail()
    assert set(tasks.sampler_states.values()) == {SamplerState.READY}
    assert len(tasks.step([0, 0])) == 2


# -- the ends of episodes -------------------------------------------------------------------------


def test_info_is_what_the_task_gave(make: Any) -> None:
    for info in (None, {}, {"a": [1, "b"], "c": np.arange(3)}):
        tasks = make(InfoTask, count=2, max_steps=2, step_info=info)
        assert_identical(tasks.step([0, 0])[0].info, info)
        last = tasks.step([0, 0])[0].info
        assert {"final_observation", "__AFTER_TASK_METRICS__"} | set(info or {}) <= set(last)


def test_restart_at_makes_a_new_sampler(make: Any) -> None:
    tasks = make(RandomWalk, count=2, limit=1e9, max_steps=9, vector={"seed": 5})
    tasks.step(np.zeros((2, 2)))
    assert tasks.restart_at(1) is None
    assert tasks.call("num_steps_taken") == [1, 0]


# -- closing --------------------------------------------------------------------------------------


def test_close_twice_and_with(every_kind: Any) -> None:
    with every_kind.toys() as tasks:
        assert tasks.is_closed is False
        tasks.step([0] * 4)
    assert tasks.is_closed is True
    assert tasks.close() is None
    assert tasks.close() is None
    assert tasks.is_closed is True


def test_del_closes(every_kind: Any, tmp_path: Path) -> None:
    tasks = every_kind.toys(marks=str(tmp_path))
    del tasks
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.guarantee("all-closed")
def test_close_reaches_every_task_and_sampler_once(every_kind: Any, tmp_path: Path) -> None:
    tasks = every_kind.toys(max_steps=9, marks=str(tmp_path))
    tasks.pause_at(2)
    tasks.async_step([0] * 3)  # closing is possible from any state
    tasks.close()
    closed = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert closed == {f"{kind} {i}": "closed\n" for kind in ("task", "sampler") for i in range(4)}


def test_close_tells_what_closing_raised(make: Any, tmp_path: Path) -> None:
    tasks = make(FailingTask, fail_at="close", fail_step=0, fail_sampler=1, marks=str(tmp_path))
    with pytest.raises(TaskError, match=r"(?s)1.*on purpose"):
        tasks.close()
    assert tasks.is_closed
    assert len(list(tmp_path.iterdir())) == 8  # the others were closed all the same
    tasks.close()


def test_an_exception_inside_with_is_worth_more(make: Any) -> None:
    with pytest.raises(ZeroDivisionError), make(FailingTask, fail_at="close", fail_step=0):
        raise ZeroDivisionError


def test_use_after_close(every_kind: Any) -> None:
    tasks = every_kind.toys()
    tasks.close()
    for use in (
        lambda: tasks.step([0] * 4),
        lambda: tasks.async_step([0] * 4),
        lambda: tasks.wait_step(),
        lambda: tasks.step_at(0, 0),
        lambda: tasks.next_task(),
        lambda: tasks.next_task_at(0),
        lambda: tasks.get_observations(),
        lambda: tasks.reset_all(),
        lambda: tasks.set_seeds(1),
        lambda: tasks.call("counts"),
        lambda: tasks.call_at(0, "counts"),
        lambda: tasks.call_sampler("scale", [[1]] * 4),
        lambda: tasks.attr("note"),
        lambda: tasks.attr_at(0, "note"),
        lambda: tasks.set_attr("note", [1] * 4),
        lambda: tasks.command("attr", ["note"] * 4),
        lambda: tasks.command_at(0, "attr", "note"),
        lambda: tasks.pause_at(0),
        lambda: tasks.resume_all(),
        lambda: tasks.restart_at(0),
        lambda: tasks.render("raw_rgb_list"),
    ):
        with pytest.raises(VectorClosed):
            use()


def test_two_vectors_at_once(every_kind: Any) -> None:
    with every_kind.toys(count=2) as one, every_kind.toys(SlowTask, count=3, delay_s=0.1) as other:
        other.async_step([0] * 3)
        one.async_step([0] * 2)
        assert samplers([r.observation for r in one.wait_step()]) == [0, 1]
        one.step([1] * 2)
        assert samplers([r.observation for r in other.wait_step()]) == [0, 1, 2]
        one.close()
        assert len(other.step([0] * 3)) == 3


def test_the_state_of_the_whole_follows_from_the_samplers(make: Any) -> None:
    tasks = make(FailingTask, count=2, fail_step=1)
    assert tasks.vector_state is VectorState.IDLE
    tasks.async_step([0, 0])
    assert tasks.vector_state is VectorState.STEPPING
    with pytest.raises(TaskError):
        tasks.wait_step()
    assert tasks.vector_state is VectorState.BROKEN
    tasks.pause_at(0)
    assert tasks.vector_state is VectorState.IDLE  # whoever is paused does not count
    tasks.send([0], samplers=[1])
    assert tasks.vector_state is VectorState.STEPPING
    tasks.recv()
    assert tasks.vector_state is VectorState.IDLE
    tasks.close()
    assert tasks.vector_state is VectorState.CLOSED
