"""Every method of part 2 of the contract, on every kind of worker."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import (
    Command,
    InvalidArgument,
    RLStepResult,
    SamplerState,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import CountingTask, ToySampler


def counts(*rows: tuple[int, int, int]) -> list[Any]:
    return [np.array(row, np.int32) for row in rows]


START = counts((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))
SECOND = counts((0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0))


# -- what it is -----------------------------------------------------------------------------------


def test_what_it_is(tasks: Any, every_kind: Any) -> None:
    assert tasks.is_closed is False
    assert tasks.num_unpaused_tasks == 4
    assert tasks.sampler_ids == [0, 1, 2, 3]
    assert tasks.sampler_states == dict.fromkeys(range(4), SamplerState.READY)
    assert tasks.observation_space == CountingTask.space
    assert tasks.observation_spaces == [CountingTask.space] * 4
    assert tasks.action_spaces == [spaces.Discrete(4)] * 4
    assert tasks.auto_resample_when_done is True
    assert tasks.make_sampler_fn is ToySampler
    assert list(tasks.sampler_fn_args) == toy_args(CountingTask, 4, max_steps=4)


def test_start_method_and_context(tasks: Any, every_kind: Any) -> None:
    assert tasks.multiprocessing_start_method == every_kind.start_method
    if every_kind.is_in_process:
        assert tasks.mp_ctx is None
    else:
        assert tasks.mp_ctx.get_start_method() == every_kind.start_method


def test_samplers_are_spread_evenly(tasks: Any, every_kind: Any) -> None:
    pids = tasks.call("pid")
    expected = {None: 4}.get(every_kind.max_processes, every_kind.max_processes)
    assert len(set(pids)) == (1 if every_kind.is_in_process else expected)
    assert {pids.count(pid) for pid in pids} == {4 // len(set(pids))}


# -- stepping -------------------------------------------------------------------------------------


def as_torch(actions: list[int]) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(actions)


@pytest.mark.parametrize(
    "form",
    [list, tuple, np.array, lambda a: np.array(a)[:, None], lambda a: [np.int64(i) for i in a]],
    ids=["list", "tuple", "array", "column", "numpy scalars"],
)
def test_step_takes_actions_in_any_form(tasks: Any, form: Any) -> None:
    results = tasks.step(form([0, 1, 2, 3]))
    assert [type(result) for result in results] == [RLStepResult] * 4
    assert_identical(
        [tuple(result) for result in results],
        [(np.array([i, 0, 1], np.int32), i + 0.125, False, {"sampler": i}) for i in range(4)],
    )
    assert tasks.call("received") == [("int", "")] * 4


def test_step_takes_tensors(tasks: Any) -> None:
    results = tasks.step(as_torch([3, 2, 1, 0]))
    assert [result.reward for result in results] == [3.125, 2.125, 1.125, 0.125]
    results = tasks.step(list(as_torch([0, 1, 2, 3])))
    assert [result.reward for result in results] == [0.25, 1.25, 2.25, 3.25]
    assert tasks.call("received") == [("int", "")] * 4


def test_results_unpack_to_four(tasks: Any) -> None:
    observations, rewards, dones, infos = zip(*tasks.step([1] * 4), strict=True)
    assert_identical(list(observations), counts(*((i, 0, 1) for i in range(4))))
    assert rewards == (1.125,) * 4
    assert dones == (False,) * 4
    infos[0].pop("sampler")  # infos are the caller's


def test_async_step_and_wait_step(tasks: Any) -> None:
    assert tasks.async_step([1, 1, 1, 1]) is None
    assert tasks.sampler_states[0] in (SamplerState.BUSY, SamplerState.READY)
    assert [r.observation[2] for r in tasks.wait_step()] == [1] * 4
    assert tasks.step_async(np.array([1, 1, 1, 1])) is None
    assert [r.observation[2] for r in tasks.step_wait()] == [2] * 4
    tasks.async_step([0] * 4)
    assert [r.observation[2] for r in tasks.wait_step(timeout=20)] == [3] * 4


def test_step_at(tasks: Any) -> None:
    (result,) = tasks.step_at(2, 3)
    assert_identical(tuple(result), (np.array([2, 0, 1], np.int32), 3.125, False, {"sampler": 2}))
    assert_identical(tasks.get_observations(), counts((0, 0, 0), (1, 0, 0), (2, 0, 1), (3, 0, 0)))
    (result,) = tasks.step_at(sampler_index=np.int64(1), action=np.array(2))
    assert result.reward == 2.125


@pytest.mark.guarantee("final-observation")
def test_autoreset_in_the_same_step(tasks: Any) -> None:
    for _ in range(3):
        tasks.step([1] * 4)
    results = tasks.step([1] * 4)
    assert_identical([r.observation for r in results], SECOND)
    assert [r.done for r in results] == [True] * 4
    assert [r.reward for r in results] == [1.5] * 4
    for i, result in enumerate(results):
        assert_identical(result.info["final_observation"], np.array([i, 0, 4], np.int32))
        metrics = result.info["__AFTER_TASK_METRICS__"]
        assert metrics == {
            "ep_length": 4,
            "reward": 5.25,
            "task_info": {"sampler": i, "episode": 0},
        }
        assert result.info["sampler"] == i


# -- tasks ----------------------------------------------------------------------------------------


def test_get_observations(tasks: Any) -> None:
    assert_identical(tasks.get_observations(), START)


def test_next_task(tasks: Any) -> None:
    assert_identical(tasks.next_task(), SECOND)
    assert_identical(tasks.get_observations(), SECOND)
    tasks.next_task(force_advance_scene=True)
    assert tasks.command("sampler_attr", ["keywords"] * 4) == [{"force_advance_scene": True}] * 4


def test_next_task_at(tasks: Any) -> None:
    assert_identical(tasks.next_task_at(1), counts((1, 1, 0)))
    assert_identical(tasks.get_observations(), [START[0], SECOND[1], *START[2:]])


def test_reset_all(tasks: Any) -> None:
    tasks.next_task()
    tasks.step([1] * 4)
    assert tasks.reset_all() is None
    assert_identical(tasks.get_observations(), START)


# -- reaching in ----------------------------------------------------------------------------------


def test_call(tasks: Any) -> None:
    assert tasks.call("counts") == [(i, 0, 0) for i in range(4)]
    assert tasks.call(["counts"] * 4) == [(i, 0, 0) for i in range(4)]
    assert tasks.call(["counts", "num_steps_taken", "is_done", "_whisper"]) == [
        (0, 0, 0),
        0,
        False,
        "psst from 3",
    ]
    assert tasks.call("add", [[1, 2], (3, 4), {"left": 5}, {"left": 6, "right": 7}]) == [
        3,
        7,
        5,
        13,
    ]


def test_a_lone_argument_is_one_positional(tasks: Any) -> None:
    lone = ["text", 7, None, b"bytes"]
    given = tasks.call("echo", lone)
    assert given == [(("text",), {}), ((7,), {}), ((), {}), ((b"bytes",), {})]
    ((array,), _) = tasks.call_at(0, "echo", np.arange(3))
    assert_identical(array, np.arange(3))


def test_call_at(tasks: Any) -> None:
    assert tasks.call_at(2, "counts") == (2, 0, 0)
    assert tasks.call_at(2, "add", [1, 2]) == 3
    assert tasks.call_at(2, "add", {"left": "a", "right": "b"}) == "ab"
    assert tasks.call_at(2, "echo", "word") == (("word",), {})
    assert tasks.call_at(sampler_index=0, function_name="add", function_args=(4, 5)) == 9


def test_attr_and_set_attr(tasks: Any) -> None:
    assert tasks.attr("task_info") == [{"sampler": i, "episode": 0} for i in range(4)]
    assert tasks.attr(["note", "episode", "max_steps", "_private"]) == ["unset", 0, 4, "private"]
    assert tasks.attr_at(3, "task_info") == {"sampler": 3, "episode": 0}
    assert tasks.set_attr("note", ["a", "b", "c", {"d": 1}]) is None
    assert tasks.attr("note") == ["a", "b", "c", {"d": 1}]
    tasks.next_task()
    assert tasks.attr("note") == ["unset"] * 4


@pytest.mark.parametrize("value", [8, "loud", None, (1, 2, 3, 4), {"a": [1]}, b"four"])
def test_set_attr_sets_one_value_everywhere(tasks: Any, value: Any) -> None:
    tasks.set_attr("note", value)
    assert tasks.attr("note") == [value] * 4
    tasks.set_attr("note", [value] * 4)
    assert tasks.attr("note") == [value] * 4
    tasks.pause_at(0)
    tasks.set_attr(["note", "_private", "note"], "other")
    assert tasks.attr("note") == ["other", value, "other"]


def test_set_attr_sets_an_array_everywhere(tasks: Any) -> None:
    tasks.set_attr("note", np.arange(4))
    assert [note.tolist() for note in tasks.attr("note")] == [[0, 1, 2, 3]] * 4


def test_call_sampler_at(tasks: Any) -> None:
    assert tasks.call_sampler_at(2, "scale", [10]) == 20
    assert tasks.call_sampler_at(2, "scale", 10) == 20
    assert tasks.call_sampler_at(1, "scale", {"factor": 3, "offset": 4}) == 7
    tasks.pause_at(0)  # later indices shift down
    assert tasks.call_sampler_at(sampler_index=0, function_name="scale", function_args=(5,)) == 5


def test_call_sampler(tasks: Any) -> None:
    assert tasks.call_sampler("scale", [[10]] * 4) == [0, 10, 20, 30]
    assert tasks.call_sampler(["scale"] * 4, [{"factor": 1, "offset": i} for i in range(4)]) == [
        0,
        2,
        4,
        6,
    ]


# -- commands -------------------------------------------------------------------------------------

COMMANDS = [
    ("attr", ["note"] * 4, ["unset"] * 4),
    ("call", [("add", (i, 1)) for i in range(4)], [1, 2, 3, 4]),
    ("call", [("counts", None)] * 4, [(i, 0, 0) for i in range(4)]),
    ("call_sampler", [("scale", [2])] * 4, [0, 2, 4, 6]),
    ("sampler_attr", ["length"] * 4, [float("inf")] * 4),
    ("next_task", [{}] * 4, SECOND),
    ("next_task", None, SECOND),
    ("observation_space", None, [CountingTask.space] * 4),
    ("action_space", None, [spaces.Discrete(4)] * 4),
    ("seed", [1, 2, 3, 4], None),
    ("reset", None, None),
]


@pytest.mark.parametrize(("name", "data", "expected"), COMMANDS)
@pytest.mark.parametrize("as_enum", [False, True], ids=["string", "enum"])
def test_command(tasks: Any, name: str, data: Any, expected: Any, as_enum: bool) -> None:
    command = Command[name.upper()] if as_enum else name
    got = tasks.command([command] * 4, data)
    assert len(got) == 4
    if expected is not None:
        assert_identical(got, expected)
    tasks.reset_all()
    one = tasks.command_at(2, command, None if data is None else data[2])
    if expected is not None:
        assert_identical(one, expected[2])


def test_command_step(tasks: Any) -> None:
    results = tasks.command(["step"] * 4, [0, 1, 2, 3])
    assert [type(result) for result in results] == [RLStepResult] * 4
    assert [result.reward for result in results] == [0.125, 1.125, 2.125, 3.125]
    assert tasks.command_at(1, "step", 3).reward == 3.25


def test_command_render(tasks: Any) -> None:
    for images in (tasks.command(["render"] * 4, [None] * 4), tasks.command("render")):
        assert [image.shape for image in images] == [(8, 12, 3)] * 4
    image = tasks.command_at(1, "render", (["rgb"], {}))
    assert_identical(image[0, 0], np.array([20, 0, 0], np.uint8))


def test_commands_may_differ(tasks: Any) -> None:
    got = tasks.command(
        ["attr", "call", "sampler_attr", Command.NEXT_TASK],
        ["note", ("add", (1, 1)), "max_steps", None],
    )
    assert got[:3] == ["unset", 2, 4]
    assert_identical(got[3], SECOND[3])


# -- seeing ---------------------------------------------------------------------------------------


def test_render_raw_list(tasks: Any) -> None:
    images = tasks.render("raw_rgb_list")
    assert [(image.shape, image.dtype) for image in images] == [((8, 12, 3), np.uint8)] * 4
    assert [int(image[0, 0, 0]) for image in images] == [0, 20, 40, 60]
    tasks.pause_at(1)
    assert [int(image[0, 0, 0]) for image in tasks.render(mode="raw_rgb_list")] == [0, 40, 60]


def test_render_tile(tasks: Any) -> None:
    tile = tasks.render("rgb_array")
    assert tile.dtype == np.uint8
    assert tile.ndim == 3
    assert tile.shape[2] == 3
    assert tile.shape[0] >= 16
    assert tile.shape[1] >= 24
    tasks.pause_at(1)
    assert tasks.render("rgb_array").shape == tile.shape  # a paused tile keeps its place


def test_a_tile_takes_floats_and_names_whose_image_is_none(make: Any) -> None:
    class DrawnTask(CountingTask):
        def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> Any:
            white = np.ones((2, 3))
            return None if self.env.sampler == 1 and self.step_number else white

    tasks = make(DrawnTask, 2)
    assert (tasks.render("rgb_array") == 255).all()
    tasks.step([0, 0])
    with pytest.raises(InvalidArgument, match="the image of sampler 1 is None"):
        tasks.render("rgb_array")


# -- the two classes ------------------------------------------------------------------------------


def public(cls: type) -> dict[str, Any]:
    return {
        name: inspect.signature(member) if callable(member) else "property"
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_")
    }


def test_both_classes_have_the_same_methods() -> None:
    assert public(VectorSampledTasks) == public(SingleProcessVectorSampledTasks)


def test_both_constructors_take_the_same_keywords() -> None:
    many = inspect.signature(VectorSampledTasks).parameters
    one = inspect.signature(SingleProcessVectorSampledTasks).parameters
    assert {name: p.default for name, p in many.items()}.keys() == one.keys()
    for name in (
        "seed",
        "heterogeneous",
        "check_actions",
        "observation_transport",
        "on_worker_death",
        "max_restarts",
        "preload",
        "rerun_main",
        "start_timeout_s",
        "close_grace_s",
        "daemon",
    ):
        assert many[name].kind is one[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert many[name].default == one[name].default
    assert list(many)[:9] == [
        "make_sampler_fn",
        "sampler_fn_args",
        "callback_sensors",
        "auto_resample_when_done",
        "multiprocessing_start_method",
        "mp_ctx",
        "should_log",
        "max_processes",
        "read_timeout",
    ]
    assert list(one)[:5] == [
        "make_sampler_fn",
        "sampler_fn_args",
        "callback_sensors",
        "auto_resample_when_done",
        "should_log",
    ]


def test_index_process_is_another_name(tasks: Any) -> None:
    assert tasks.step_at(index_process=1, action=0)[0].observation[0] == 1
    assert tasks.call_at(index_process=1, function_name="counts") == (1, 0, 1)
    assert tasks.call_sampler_at(index_process=2, function_name="scale", function_args=[3]) == 6
    assert tasks.attr_at(index_process=2, attr_name="note") == "unset"
    assert_identical(tasks.next_task_at(index_process=3), counts((3, 1, 0)))
    assert tasks.command_at(index_process=3, command="attr", data="episode") == 1
    assert tasks.restart_at(index_process=0) is None
    assert tasks.pause_at(index_process=0) is None
    assert tasks.sampler_ids == [1, 2, 3]


def test_aliases_of_the_constructor(every_kind: Any) -> None:
    arguments = toy_args(CountingTask, 2)
    cls = SingleProcessVectorSampledTasks if every_kind.is_in_process else VectorSampledTasks
    start = (
        {}
        if every_kind.is_in_process
        else {"multiprocessing_start_method": every_kind.start_method}
    )
    with cls(
        make_sampler_fn=ToySampler,
        sampler_fn_args_list=arguments,
        callback_sensor_suite=None,
        auto_resample_when_done=True,
        should_log=False,
        **start,
    ) as tasks:
        assert tasks.num_unpaused_tasks == 2


def test_stats_count(tasks: Any) -> None:
    before = tasks.stats()
    assert isinstance(before, dict)
    for _ in range(4):
        tasks.step([0] * 4)
    after = tasks.stats()
    assert after["steps"] - before["steps"] == 16
    assert after["episodes"] - before["episodes"] == 4
