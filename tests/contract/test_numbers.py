"""Numbers of numpy are taken wherever a number is; a wrong one is refused at the call, by name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contract.kinds_of_worker import IN_PROCESS, Kind
from vectasks import (
    InvalidArgument,
    SamplerIndexError,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
    suggest_max_processes,
)
from vectasks.envs import GymnasiumTaskSampler
from vectasks.envs.atari import AtariTaskSampler
from vectasks.pool.pool import WorkerPool
from vectasks.rendering.tiles import tile_images
from vectasks.rendering.video import VideoRecorder
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.rollouts.devices import Device
from vectasks.rollouts.episodes import RolloutRunner
from vectasks.testing import Fault, record_trace
from vectasks.testing.check import check_sampler
from vectasks.testing.faults import exit_python, fail, slow_down
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

WORDS = ("four", "")
NO_COUNTS: tuple[Any, ...] = (*WORDS, 1.5, np.float64(2), True, -1, [1], None)
NO_SECONDS: tuple[Any, ...] = (*WORDS, True, -1, np.float32(-1), math.nan, [1])


def wrong(name: str, call: Callable[[Any], Any], values: Any, error: Any = InvalidArgument) -> None:
    """Every value is refused, by the name of its argument and with the value."""
    for value in values:
        with pytest.raises(error) as caught:
            call(value)
        assert name in str(caught.value), (name, value)
        assert repr(value) in str(caught.value), (name, value)


# -- making a vector ------------------------------------------------------------------------------

SECONDS = ("read_timeout", "start_timeout_s", "close_grace_s")


def test_a_vector_of_numpys_numbers(kind: Kind) -> None:
    options: dict[str, Any] = {
        "read_timeout": np.float32(30),
        "start_timeout_s": np.int64(30),
        "close_grace_s": np.float64(2.5),
        "max_restarts": np.int32(3),
        "max_processes": np.int64(2),
        "seed": np.uint8(3),
    }
    arguments = toy_args(CountingTask, np.int64(3))  # type: ignore[arg-type]
    with kind.make(ToySampler, arguments, **options) as tasks:
        assert (tasks.read_timeout, type(tasks.read_timeout)) == (30.0, float)
        assert len(tasks.step(np.zeros(3, int))) == 3


def test_no_limit_is_none_or_infinite() -> None:
    options: dict[str, Any] = {
        "read_timeout": math.inf,
        "start_timeout_s": np.float64("inf"),
        "max_restarts": math.inf,
        "should_log": False,
    }
    with SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 1), **options) as tasks:
        assert tasks.read_timeout is None
        tasks.step([0])


@pytest.mark.parametrize("cls", [SingleProcessVectorSampledTasks, VectorSampledTasks])
@pytest.mark.parametrize("name", [*SECONDS, "max_restarts"])
def test_a_vector_refuses_what_is_no_number(cls: Any, name: str) -> None:
    values = NO_COUNTS if name == "max_restarts" else NO_SECONDS
    if name == "close_grace_s":
        values = (*values, None)
    arguments = toy_args(CountingTask, 1)
    wrong(name, lambda value: cls(ToySampler, arguments, **{name: value}), values)


def test_max_processes_refuses_what_is_no_number() -> None:
    arguments = toy_args(CountingTask, 1)
    values = (*WORDS, 1.5, np.float64(2), True, 0, np.int64(-1), [1])
    wrong(
        "max_processes",
        lambda value: VectorSampledTasks(ToySampler, arguments, max_processes=value),
        values,
    )


# -- calling it -----------------------------------------------------------------------------------


def test_indices_of_numpy(tasks: Any) -> None:
    order = np.argsort([3, 2, 1, 0])
    for index in order:
        assert tasks.step_at(index, 0)[0].observation[0] == index
        assert tasks.call_at(index, "counts")[0] == index
        assert tasks.attr_at(index, "task_info")["sampler"] == index
        assert tasks.command_at(index, "attr", "note") == "unset"
        assert tasks.next_task_at(index)[0][0] == index
    tasks.set_seeds(np.int64(3))
    tasks.set_seeds(np.arange(4))
    tasks.command(["seed"] * 4, np.arange(4))
    tasks.restart_at(np.int64(2))
    tasks.pause_at(np.int32(0))
    assert tasks.sampler_ids == [1, 2, 3]


def test_sends_of_numpys_ids(make: Any) -> None:
    tasks = make(count=4)
    tasks.send(np.zeros(2, int), samplers=np.array([2, 0]))
    tasks.send([1], samplers=iter([np.int64(3)]))
    assert tasks.recv(np.int64(1), timeout=np.float32(30)).samplers.shape == (1,)
    assert tasks.recv(timeout=np.int64(30)).samplers.shape == (2,)
    tasks.send([0] * 4)
    assert tasks.recv(timeout=math.inf).samplers.tolist() == [0, 1, 2, 3]
    tasks.async_step([0] * 4)
    assert len(tasks.wait_step(np.float64(30))) == 4
    tasks.async_step([0] * 4)
    assert len(tasks.step_wait(timeout=np.uint8(30))) == 4
    with tasks.record_episodes(np.array([1, 3]), max_episodes=np.int64(1)) as recorder:
        for _ in range(4):
            tasks.step([0] * 4)
        assert [recording.sampler_id for recording in recorder.recordings] == [3]


def test_wrong_numbers_at_a_call(make: Any, tmp_path: Path) -> None:
    tasks = make(count=3, vector={"timing": True})
    wrong("steps", lambda n: tasks.trace(tmp_path / "t.json", n), (*NO_COUNTS, 0))
    tasks.step([0] * 3)
    tasks.trace(tmp_path / "t.json", np.int64(2))
    samplers: tuple[Any, ...] = ([1.0], ["1"], [1, 1], [3], [-1], [True, False, True], [None])
    wrong("samplers", lambda ids: tasks.send([0], ids), samplers, SamplerIndexError)
    wrong("samplers", lambda ids: tasks.record_episodes(ids), samplers, SamplerIndexError)
    masks: tuple[Any, ...] = (np.array([True, False]), np.array([1.0]))
    wrong("samplers", lambda ids: tasks.send([0], ids), masks, SamplerIndexError)
    lone: tuple[Any, ...] = (1, np.int64(1), "01", {"a": 1})
    wrong("samplers", lambda ids: tasks.send([0], ids), lone)
    wrong("samplers", lambda ids: tasks.record_episodes(ids), lone)
    values = (*NO_COUNTS[:-1], -1)
    wrong("max_episodes", lambda n: tasks.record_episodes(max_episodes=n), values)
    tasks.send([0] * 3)
    wrong("min_samplers", tasks.recv, (*NO_COUNTS[:-1], 0, 4, np.int64(4)))
    wrong("timeout", lambda t: tasks.recv(timeout=t), NO_SECONDS)
    assert len(tasks.recv().samplers) == 3
    tasks.async_step([0] * 3)
    wrong("timeout", tasks.wait_step, NO_SECONDS)
    assert len(tasks.wait_step()) == 3


# -- rollouts -------------------------------------------------------------------------------------


def act(observation: Any, *memory: Any) -> dict[str, Any]:
    decision: dict[str, Any] = {"action": np.zeros(len(observation), int)}
    decision["value"] = np.zeros(len(observation))
    return decision | ({"memory": memory[0]} if memory else {})


def filled(tasks: Any) -> Any:
    buffer = RolloutBuffer(tasks, np.int64(3))  # type: ignore[arg-type]
    collect(tasks, act, buffer, num_splits=np.int32(2))  # type: ignore[arg-type]
    return buffer


def test_rollouts_of_numpys_numbers(make: Any) -> None:
    buffer = filled(make(count=4))
    assert (buffer.horizon, type(buffer.horizon)) == (3, int)
    returns, _ = buffer.returns_and_advantages(np.float32(0.5), np.int64(1))
    expected, _ = buffer.returns_and_advantages(0.5, 1.0)
    np.testing.assert_array_equal(returns, expected)
    batches = list(buffer.minibatches(np.int64(5), epochs=np.int32(2), rng=np.int64(3)))
    assert [len(batch.action) for batch in batches] == [5, 5, 2] * 2
    columns = list(buffer.sequences(np.uint8(3), epochs=np.int64(1)))
    assert [batch.action.shape for batch in columns] == [(3, 3), (3, 1)]


@pytest.mark.parametrize("shape", [(np.int64(2), 3), [2, np.int64(3)]])
def test_a_memorys_shape(make: Any, shape: Any) -> None:
    tasks = make(count=2)
    buffer = RolloutBuffer(tasks, 2, memory_shape=shape)
    collect(tasks, act, buffer)
    assert buffer.memory.shape == (2, 2, 2, 3)
    assert RolloutBuffer(tasks, 2, memory_shape=np.int64(5)).memory.shape == (2, 2, 5)


def test_wrong_numbers_of_rollouts(make: Any) -> None:
    tasks = make(count=4)
    buffer = filled(tasks)
    wrong("horizon", lambda n: RolloutBuffer(tasks, n), (*NO_COUNTS, 0))
    wrong("memory_shape", lambda n: RolloutBuffer(tasks, 2, memory_shape=(n,)), NO_COUNTS)
    wrong("num_splits", lambda n: collect(tasks, act, buffer, num_splits=n), (*NO_COUNTS, 0, 5))
    for name in ("gamma", "lam"):
        values = (*NO_SECONDS, math.inf, None)
        wrong(name, lambda x, name=name: buffer.returns_and_advantages(**{name: x}), values)
    # At the call, not when the first batch is asked for.
    wrong("batch_size", buffer.minibatches, (*NO_COUNTS, 0, 13, np.int64(13)))
    wrong("num_samplers", buffer.sequences, (*NO_COUNTS, 0, 5))
    wrong("epochs", lambda n: buffer.minibatches(4, epochs=n), NO_COUNTS)
    wrong("rng", lambda rng: buffer.minibatches(4, rng=rng), ("seed", 1.5, -1))
    wrong("gamma", lambda x: RolloutRunner(lambda: tasks, policy=act, horizon=2, gamma=x), WORDS)


def test_devices() -> None:
    if torch.cuda.is_available():
        assert Device(np.int64(0), "a test").device == torch.device(0)
    assert Device("cpu", "a test").device == torch.device("cpu")
    wrong("device", lambda device: Device(device, "a test"), ("warp", 1.5, -2))


# -- pools ----------------------------------------------------------------------------------------


def test_a_pool_of_numpys_numbers() -> None:
    pool = WorkerPool(
        dict,
        np.int64(2),  # type: ignore[arg-type]
        kind="inline",
        start_timeout_s=np.float32(9),
        close_grace_s=np.int64(2),
    )
    with pool:
        assert [pool.submit_at(i, "get", 1, 2).result() for i in np.arange(2)] == [2, 2]
        assert pool.is_alive(np.int64(1))
        pool.restart_at(np.int64(1))
        values = (*WORDS, 1.5, True, None, 2, -1)
        wrong("worker", lambda n: pool.submit_at(n, "get", 1), values, IndexError)


def test_a_pool_refuses_what_is_no_number() -> None:
    with contextlib.ExitStack() as stack:

        def made(**options: Any) -> None:
            stack.enter_context(WorkerPool(dict, **{"num_workers": 1, **options}))

        wrong("num_workers", lambda n: made(num_workers=n), (*NO_COUNTS, 0))
        wrong("start_timeout_s", lambda s: made(start_timeout_s=s), NO_SECONDS)
        wrong("close_grace_s", lambda s: made(close_grace_s=s), (*NO_SECONDS, None))


# -- pictures -------------------------------------------------------------------------------------


def test_tiles_of_numpys_numbers() -> None:
    images = [np.full((2, 2), 90, np.uint8)] * 3
    tile = tile_images(images, columns=np.int64(3), dimmed=np.array([1]))
    assert tile.shape == (2, 6, 3)
    assert tile[0, ::2, 0].tolist() == [90, 30, 90]
    wrong("columns", lambda n: tile_images(images, columns=n), (*NO_COUNTS[:-1], 0))
    wrong("dimmed", lambda n: tile_images(images, dimmed=[n]), NO_COUNTS)


@pytest.mark.parametrize("fps", [np.int64(25), np.float32(25), Fraction(25), 25])
def test_a_video_of_numpys_numbers(tmp_path: Path, fps: Any) -> None:
    tasks = IN_PROCESS.toys(CountingTask, 2, max_steps=2)
    options: dict[str, Any] = {"every_episodes": np.int64(2), "columns": np.int32(1)}
    recorder = VideoRecorder(tasks, tmp_path / "a.mp4", fps=fps, **options)
    for _ in range(2):
        recorder.step([0, 0])
    recorder.next_task_at(np.int64(1))
    recorder.close()
    assert len(recorder.paths) == 2


def test_a_video_refuses_what_is_no_number(tmp_path: Path) -> None:
    with IN_PROCESS.toys(CountingTask, 1) as tasks:

        def record(**options: Any) -> None:
            VideoRecorder(tasks, tmp_path / "a.gif", **options)

        wrong("fps", lambda x: record(fps=x), (*NO_SECONDS, 0, math.inf, None, 51, np.int64(51)))
        wrong("every_episodes", lambda n: record(every_episodes=n), (*NO_COUNTS[:-1], 0))
        wrong("columns", lambda n: record(columns=n), (*NO_COUNTS[:-1], 0))
        recorder = VideoRecorder(tasks, tmp_path / "a.gif")
        wrong("sampler_index", recorder.next_task_at, (1.5, "0"), SamplerIndexError)
        recorder.finish()


# -- tasks and environments -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [np.int64(2), np.float32(2), 2.0])
def test_limits_of_tasks(limit: Any) -> None:
    task = ToySampler(CountingTask, max_steps=limit).next_task()
    assert task is not None
    assert [task.step(0).done for _ in range(2)] == [False, True]


def test_wrong_limits_of_tasks() -> None:
    values = (*WORDS, 0, -1, math.nan, None, [1])
    wrong(
        "max_steps", lambda n: ToySampler(CountingTask, max_steps=n).next_task(), values, ValueError
    )


@pytest.mark.parametrize("seed_each_episode", [True, False])
def test_environments_of_gymnasium(seed_each_episode: bool) -> None:
    def first(number: Any) -> list[float]:
        sampler = GymnasiumTaskSampler(
            "CartPole-v1",
            seed=number(3),
            seed_each_episode=seed_each_episode,
            max_tasks=number(2),
            max_steps=number(5),
        )
        task = sampler.next_task()
        sampler.set_seed(number(4))
        following = sampler.next_task()
        assert task is not None
        assert following is not None
        assert (sampler.length, following.max_steps) == (0, 5)
        return [*task.get_observations(), *following.get_observations()]

    assert first(np.int64) == first(int)
    endless = GymnasiumTaskSampler("CartPole-v1", max_steps=math.inf)
    assert endless.max_steps == math.inf
    for name in ("max_tasks", "max_steps", "seed"):
        values = (*WORDS, math.nan, True, [1]) + ((-1,) if name != "seed" else ())
        wrong(name, lambda n, name=name: GymnasiumTaskSampler("CartPole-v1", **{name: n}), values)


def test_games_refuse_what_is_no_number() -> None:
    for name in ("frameskip", "screen_size_px", "num_stacked"):
        wrong(name, lambda n, name=name: AtariTaskSampler("pong", **{name: n}), (*NO_COUNTS, 0))
    for name in ("noop_max", "max_num_frames_per_episode"):
        wrong(name, lambda n, name=name: AtariTaskSampler("pong", **{name: n}), NO_COUNTS)
    wrong(
        "repeat_action_probability",
        lambda x: AtariTaskSampler("pong", repeat_action_probability=x),
        (*NO_SECONDS, None),
    )


# -- tools ----------------------------------------------------------------------------------------


def test_tools_of_numpys_numbers() -> None:
    with IN_PROCESS.toys(CountingTask, 2) as tasks:
        assert len(record_trace(tasks, np.int64(2), np.int32(1))) == 3  # type: ignore[arg-type]
    Fault(fail(), sampler=np.int64(1), call=np.int64(2), times=np.float64("inf"))  # type: ignore[arg-type]
    slow_down(np.float32(0.1))  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as caught:
        exit_python(np.int64(3))(lambda: None)  # type: ignore[arg-type]
    assert caught.value.code == 3


def test_tools_refuse_what_is_no_number() -> None:
    with IN_PROCESS.toys(CountingTask, 1) as tasks:
        wrong("num_steps", lambda n: record_trace(tasks, n), NO_COUNTS)
    wrong("count", lambda n: toy_args(CountingTask, n), NO_COUNTS)
    wrong("seconds", slow_down, (*NO_SECONDS, None))
    for name in ("call", "times", "sampler"):
        wrong(name, lambda n, name=name: Fault(fail(), **{name: n}), NO_COUNTS)
    wrong("num_steps", lambda n: next(check_sampler(ToySampler, {}, num_steps=n)), NO_COUNTS)
    arguments = toy_args(CountingTask, 1)
    values = (*NO_SECONDS, 0, math.inf, None)
    wrong("budget_s", lambda s: suggest_max_processes(ToySampler, arguments, budget_s=s), values)
