"""Bad input is refused at the call, in plain words, with nothing sent and nothing changed."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import (
    AlreadyPending,
    InvalidAction,
    InvalidArgument,
    NothingPending,
    SamplerIndexError,
    SamplerState,
    SetupError,
    SingleProcessVectorSampledTasks,
    TaskError,
    VectasksError,
    VectorSampledTasks,
    WrongCount,
)
from vectasks.testing import toy_args
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    ImageTask,
    NestedTask,
    RandomWalk,
    ToySampler,
)


@pytest.fixture(params=[SingleProcessVectorSampledTasks, VectorSampledTasks])
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


def unchanged(tasks: Any) -> None:
    """No sampler took a step, and all can take one now."""
    assert tasks.call("num_steps_taken") == [0] * tasks.num_unpaused_tasks
    assert set(tasks.sampler_states.values()) == {SamplerState.READY}


# -- actions --------------------------------------------------------------------------------------


@pytest.mark.guarantee("all-or-nothing-sent")
@pytest.mark.parametrize(
    "actions", [[], [0], [0] * 3, [0] * 5, np.zeros(3, int), np.zeros((5, 1), int), (0,) * 5]
)
def test_wrong_number_of_actions(tasks: Any, actions: Any) -> None:
    for call in (tasks.step, tasks.async_step):
        with pytest.raises(WrongCount, match="4"):
            call(actions)
    unchanged(tasks)


@pytest.mark.parametrize("actions", [None, 3, "0000", {"a": [0] * 4}, np.int64(3), np.array(2)])
def test_actions_that_are_no_collection(tasks: Any, actions: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)action"):
        tasks.step(actions)
    unchanged(tasks)


@pytest.mark.parametrize("bad", [4, -1, 1.5, "left", None, [0, 1], 10**30, math.nan])
def test_action_outside_a_discrete_space(tasks: Any, bad: Any) -> None:
    with pytest.raises(InvalidAction, match="sampler 2"):
        tasks.step([0, 0, bad, 0])
    with pytest.raises(InvalidAction, match="sampler 2"):
        tasks.step_at(2, bad)
    with pytest.raises(ValueError, match="sampler 2"):
        tasks.command(["step"] * 4, [0, 0, bad, 0])
    unchanged(tasks)


@pytest.mark.parametrize(
    "bad", [[2.0, 0.0], [0.0], [0.0] * 3, [math.nan, 0.0], "ab", None, [[0, 0]]]
)
def test_action_outside_a_box(make: Any, bad: Any) -> None:
    tasks = make(RandomWalk, count=2)
    with pytest.raises(InvalidAction, match="sampler 1"):
        tasks.step([[0.0, 0.0], bad])
    unchanged(tasks)


@pytest.mark.parametrize(
    "bad",
    [
        {"move": 3, "aim": (np.zeros(2, np.float32), 0)},
        {"move": 0, "aim": (np.full(2, 9, np.float32), 0)},
        {"move": 0},
        {"move": 0, "aim": (np.zeros(2, np.float32), 0), "more": 1},
        [0, 0],
    ],
)
def test_action_outside_a_nested_space(make: Any, bad: Any) -> None:
    tasks = make(NestedTask, count=2)
    good = {"move": 0, "aim": (np.zeros(2, np.float32), 0)}
    with pytest.raises(InvalidAction, match="sampler 1"):
        tasks.step([good, bad])
    unchanged(tasks)


def test_actions_unchecked(make: Any) -> None:
    tasks = make(count=2, vector={"check_actions": False})
    assert [r.reward for r in tasks.step([17, 1])] == [17.125, 1.125]


# -- order of calls -------------------------------------------------------------------------------


def test_wait_without_step(tasks: Any) -> None:
    with pytest.raises(NothingPending):
        tasks.wait_step()
    assert issubclass(NothingPending, RuntimeError)
    tasks.step([0] * 4)
    with pytest.raises(NothingPending):
        tasks.step_wait()


def test_step_while_waiting(tasks: Any) -> None:
    tasks.async_step([0] * 4)
    for refused in (
        lambda: tasks.async_step([0] * 4),
        lambda: tasks.step([0] * 4),
        lambda: tasks.step_at(0, 0),
        lambda: tasks.next_task(),
        lambda: tasks.next_task_at(0),
        lambda: tasks.get_observations(),
        lambda: tasks.call("counts"),
        lambda: tasks.attr("note"),
        lambda: tasks.set_attr("note", [1] * 4),
        lambda: tasks.command("attr", ["note"] * 4),
        lambda: tasks.command_at(0, "attr", "note"),
        lambda: tasks.render("raw_rgb_list"),
        lambda: tasks.reset_all(),
        lambda: tasks.set_seeds(1),
        lambda: tasks.restart_at(0),
    ):
        with pytest.raises(AlreadyPending):
            refused()
    results = tasks.wait_step()
    assert [r.observation.tolist() for r in results] == [[i, 0, 1] for i in range(4)]


# -- indices, names, modes ------------------------------------------------------------------------


@pytest.mark.parametrize("index", [4, -1, 100, -4, 1.0, "0", None, slice(0, 1)])
def test_index_out_of_range(tasks: Any, index: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: tasks.step_at(index, 0),
        lambda: tasks.next_task_at(index),
        lambda: tasks.call_at(index, "counts"),
        lambda: tasks.call_sampler_at(index, "scale", [1]),
        lambda: tasks.attr_at(index, "note"),
        lambda: tasks.command_at(index, "attr", "note"),
        lambda: tasks.pause_at(index),
        lambda: tasks.restart_at(index),
    ]
    for call in calls:
        with pytest.raises(SamplerIndexError):
            call()
    assert issubclass(SamplerIndexError, IndexError)
    unchanged(tasks)


@pytest.mark.parametrize("name", ["stp", "", "STEP", "close", "pause", 3, None, ("step",), "setup"])
def test_unknown_command(tasks: Any, name: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)command"):
        tasks.command([name] * 4, [0] * 4)
    with pytest.raises(ValueError, match=r"(?i)command"):
        tasks.command_at(0, name)
    with pytest.raises(ValueError, match=r"(?i)command"):
        tasks.command(["step", "step", "step", name], [0] * 4)
    unchanged(tasks)


def test_wrong_counts_elsewhere(tasks: Any) -> None:
    for call in (
        lambda: tasks.command(["attr"] * 3, ["note"] * 3),
        lambda: tasks.command(["attr"] * 4, ["note"] * 3),
        lambda: tasks.call(["counts"] * 3),
        lambda: tasks.call("add", [[1, 2]] * 5),
        lambda: tasks.call_sampler("scale", [[1]] * 3),
        lambda: tasks.attr(["note"] * 5),
        lambda: tasks.set_attr("note", [1, 2]),
        lambda: tasks.set_seeds([1, 2, 3]),
    ):
        with pytest.raises(WrongCount, match="4"):
            call()
    unchanged(tasks)


@pytest.mark.parametrize("seeds", ["abcd", None, 1.5, {"a": 1}, ["a"] * 4])
def test_seeds_that_are_none(tasks: Any, seeds: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        tasks.set_seeds(seeds)
    unchanged(tasks)


def test_missing_attribute(tasks: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: tasks.attr("mistyped"),
        lambda: tasks.attr_at(1, "mistyped"),
        lambda: tasks.attr(["note", "note", "note", "mistyped"]),
        lambda: tasks.call("mistyped"),
        lambda: tasks.call_at(1, "mistyped", [1]),
        lambda: tasks.call_sampler_at(1, "mistyped", [1]),
        lambda: tasks.call_sampler("mistyped"),
        lambda: tasks.command("sampler_attr", ["mistyped"] * 4),
    ]
    for call in calls:
        with pytest.raises(TaskError, match="mistyped") as caught:
            call()
        assert isinstance(caught.value, AttributeError)
    unchanged(tasks)


@pytest.mark.parametrize("name", ["note", "episode", "task_info"])
def test_calling_what_is_not_callable(tasks: Any, name: str) -> None:
    with pytest.raises(TaskError, match="callable"):
        tasks.call(name)
    with pytest.raises(TaskError, match="callable"):
        tasks.call_at(0, name)
    unchanged(tasks)


@pytest.mark.parametrize("name", [3, None, ["counts"]])
def test_names_that_are_none(tasks: Any, name: Any) -> None:
    for call in (
        lambda: tasks.attr_at(0, name),
        lambda: tasks.call_at(0, name),
        lambda: tasks.call_sampler_at(0, name),
        lambda: tasks.attr([name] * 4),
    ):
        with pytest.raises(ValueError, match="name"):
            call()
    unchanged(tasks)


@pytest.mark.parametrize("mode", ["rgb", "ansi", "", None, 3])
def test_unknown_render_mode(tasks: Any, mode: Any) -> None:
    with pytest.raises(ValueError, match=r"raw_rgb_list"):
        tasks.render(mode)
    unchanged(tasks)


# -- construction ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], (), None, {}, {"task_class": CountingTask}, 3, "ab", [3]]
)
def test_sampler_fn_args_that_are_none(cls: Any, arguments: Any) -> None:
    with pytest.raises(InvalidArgument, match="sampler_fn_args"):
        cls(ToySampler, arguments)


def test_make_sampler_fn_that_is_none(cls: Any) -> None:
    for function in (None, "ToySampler", 3):
        with pytest.raises(InvalidArgument, match="make_sampler_fn"):
            cls(function, toy_args(CountingTask, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"on_worker_death": "ignore"},
        {"observation_transport": "pigeon"},
        {"seed": [1, 2, 3]},
        {"seed": []},
    ],
)
def test_options_that_are_none(cls: Any, options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        cls(ToySampler, toy_args(CountingTask, 2), **options)


@pytest.mark.parametrize("count", [0, -1])
def test_max_processes_out_of_range(count: int) -> None:
    with pytest.raises(ValueError, match="max_processes"):
        VectorSampledTasks(ToySampler, toy_args(CountingTask, 2), max_processes=count)


def test_start_method_or_context() -> None:
    arguments = toy_args(CountingTask, 1)
    context = multiprocessing.get_context("forkserver")
    with pytest.raises(ValueError, match="both"):
        VectorSampledTasks(
            ToySampler, arguments, multiprocessing_start_method="spawn", mp_ctx=context
        )
    with pytest.raises(ValueError, match="neither"):
        VectorSampledTasks(ToySampler, arguments, multiprocessing_start_method=None)
    for unknown in ("thread", "", 3):
        with pytest.raises(ValueError, match="multiprocessing_start_method"):
            VectorSampledTasks(ToySampler, arguments, multiprocessing_start_method=unknown)
    with pytest.raises(ValueError, match="mp_ctx"):
        VectorSampledTasks(ToySampler, arguments, multiprocessing_start_method=None, mp_ctx="spawn")


def test_a_context_beside_the_default_start_method() -> None:
    context = multiprocessing.get_context("fork")
    for options in ({}, {"multiprocessing_start_method": None}):
        with VectorSampledTasks(
            ToySampler, toy_args(CountingTask, 2), mp_ctx=context, **options
        ) as tasks:
            assert tasks.mp_ctx is context
            assert tasks.multiprocessing_start_method in ("fork", None)


@pytest.mark.parametrize("num_tasks", [0, [1, 0, 1]])
def test_sampler_without_a_first_task(make: Any, num_tasks: Any) -> None:
    with pytest.raises(SetupError, match="task"):
        make(count=3, num_tasks=num_tasks)


@pytest.mark.parametrize("where", [[None, "make", None], "make"])
def test_sampler_that_raises_in_its_constructor(every_kind: Any, where: Any) -> None:
    with pytest.raises(SetupError, match="on purpose") as caught:
        every_kind.toys(count=3, fail_at=where)
    assert caught.value.sampler_id == (0 if where == "make" else 1)
    assert "ToyError" in caught.value.remote_traceback


def test_first_observation_that_raises(make: Any) -> None:
    with pytest.raises(SetupError, match="on purpose"):
        make(FailingTask, count=2, fail_at="get_observations", fail_step=0)


def test_make_sampler_fn_with_wrong_keywords(make: Any, kind: Any) -> None:
    with pytest.raises(SetupError, match="colour"):
        kind.make(lambda scene: None, [{"colour": 1}])


def test_unequal_observation_spaces(kind: Any) -> None:
    arguments = toy_args(CountingTask, 3)
    arguments[2]["task_class"] = RandomWalk
    with pytest.raises(ValueError, match=r"(?s)2.*heterogeneous"):
        kind.make(ToySampler, arguments)
    with kind.make(ToySampler, arguments, heterogeneous=True) as tasks:
        assert tasks.observation_spaces == [CountingTask.space] * 2 + [RandomWalk.space]
        assert tasks.action_spaces == [spaces.Discrete(4)] * 2 + [RandomWalk.actions]
        results = tasks.step([1, 2, [0.5, 0.5]])
        assert [r.observation.dtype for r in results] == [np.int32, np.int32, np.float32]
        with pytest.raises(VectasksError):
            _ = tasks.observation_space


# -- what tasks give ------------------------------------------------------------------------------


def test_observation_of_none(make: Any) -> None:
    tasks = make(FailingTask, count=2, how="none", fail_sampler=9, max_steps=9)
    tasks.step([0, 0])
    with pytest.raises(TaskError, match=r"(?s)sampler 0.*None"):
        tasks.step([0, 0])


def test_mixed_image_sizes(make: Any) -> None:
    tasks = make(ImageTask, count=4, height_px=[4, 9, 6, 3], width_px=8, channels=[3, 0, 4, 1])
    assert [i.shape for i in tasks.render("raw_rgb_list")] == [
        (4, 8, 3),
        (9, 8),
        (6, 8, 4),
        (3, 8, 1),
    ]
    tile = tasks.render("rgb_array")
    assert tile.dtype == np.uint8
    assert tile.shape[2] == 3
    assert {40, 80, 120, 160} <= set(np.unique(tile).tolist())
