"""A message that the other side cannot rebuild fails its own request, and nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from vectasks import (
    CallError,
    SamplerState,
    SetupError,
    SingleProcessVectorSampledTasks,
    TaskError,
    VectorSampledTasks,
)
from vectasks.envs import GymnasiumTaskSampler
from vectasks.pool.pool import WorkerPool
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask, StubbornToyError
from vectasks.transport.layout import OUT_OF_BAND_BYTES
from vectasks.workers import step_loop as step_loop


@pytest.mark.guarantee("unbuildable-result")
@pytest.mark.parametrize("size_bytes", [1, OUT_OF_BAND_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_what_cannot_be_rebuilt_fails_its_request_only(transport: Any, size_bytes: int) -> None:
    class Unreadable(CountingTask):
        def explain(self) -> Any:
            return StubbornToyError("travels there, and is not read here", 1)

        def info(self) -> Any:
            if self.env.sampler != 1:
                return None
            return {"why": self.explain(), "padding": bytes(size_bytes)}

    args = toy_args(Unreadable, 3, max_steps=9)
    with VectorSampledTasks(ToySampler, args, observation_transport=transport) as tasks:
        with pytest.raises(TaskError, match="sampler"):
            tasks.call("explain")
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        with pytest.raises(TaskError, match="sampler 1 failed in step") as caught:
            tasks.step([0] * 3)
        assert sorted(caught.value.results) == [0, 2]
        tasks.pause_at(1)
        assert [result.done for result in tasks.step([0] * 2)] == [False] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked worker keeps what was patched")
@pytest.mark.parametrize("as_batch", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_fails_its_step_when_read_before_the_step_is_announced(
    as_batch: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's parts are sent before it is announced, and may be read in between."""

    class Unreadable(CountingTask):
        def info(self) -> Any:
            if self.env.sampler != 1 or self.num_steps_taken() != 1:  # in its second
                return None
            why = StubbornToyError("travels there, and is not read here", 1)
            return {"why": why, "padding": bytes(OUT_OF_BAND_BYTES)}  # too large for a note

    send_extras = step_loop._send_extras

    def send_extras_and_dawdle(channel: Any, extras: Any) -> None:
        send_extras(channel, extras)
        time.sleep(0.3)  # the parent polls for some microseconds, then reads what comes

    monkeypatch.setattr(step_loop, "_send_extras", send_extras_and_dawdle)
    args = toy_args(Unreadable, 3, max_steps=9)
    with VectorSampledTasks(
        ToySampler, args, multiprocessing_start_method="fork", max_processes=workers
    ) as tasks:
        step = tasks.step_batch if as_batch else tasks.step
        step([0] * 3)
        with pytest.raises(TaskError, match="sampler 1 failed in step"):
            step([0] * 3)
        tasks.restart_at(1)
        step([0] * 3)
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}


# -- what the parent sends -------------------------------------------------------------------------

HERE = "a_module_of_this_process_alone"
PROCESSES = [
    "forkserver",
    pytest.param("spawn", marks=pytest.mark.slow),
]
LANES = pytest.mark.parametrize("transport", ["auto", "pipe"])


@pytest.fixture(scope="module")
def here() -> Iterator[Any]:
    """A module that only this process can import."""
    module: Any = types.ModuleType(HERE)
    source = """
class Thing:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): pass
    def get_observations(self, env, task): pass
"""
    exec(source, module.__dict__)
    sys.modules[HERE] = module
    yield module
    del sys.modules[HERE]


def assert_not_found(error: Any) -> None:
    assert isinstance(error.__cause__, ModuleNotFoundError)
    assert HERE in str(error)
    assert "register_pickle_by_value" in str(error)


@pytest.mark.guarantee("unbuildable-argument")
@LANES
@pytest.mark.parametrize("start_method", PROCESSES)
def test_what_a_worker_cannot_rebuild_fails_its_command_only(
    start_method: Any, transport: Any, here: Any
) -> None:
    class AnyActionTask(CountingTask):
        action_space: Any = None

        def move(self, action: Any) -> None:
            assert action == 0

    with VectorSampledTasks(
        ToySampler,
        toy_args(AnyActionTask, 4, max_steps=9),
        max_processes=2,
        multiprocessing_start_method=start_method,
        observation_transport=transport,
    ) as tasks:
        pids = tasks.call("pid")
        for ask in (
            lambda: tasks.call_at(1, "add", [here.Thing()]),
            lambda: tasks.call_at(1, "add", {"left": 1, "right": here.Thing()}),
            lambda: tasks.call("add", [[0], [here.Thing()], [0], [0]]),
            lambda: tasks.command("call_sampler", [["set_seed", [here.Thing()]]] * 4),
            lambda: tasks.set_attr("note", [0, here.Thing(), 0, 0]),
        ):
            with pytest.raises(TaskError, match="failed in") as caught:
                ask()
            assert_not_found(caught.value)
            assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        assert tasks.attr("note") == [0, "unset", 0, 0]
        for step in (tasks.step, tasks.step_batch, lambda a: tasks.send(a) or tasks.recv()):
            with pytest.raises(TaskError, match="sampler 1 failed in step") as caught:
                step([0, here.Thing(), 0, 0])
            assert_not_found(caught.value)
            assert sorted(caught.value.results) == [0, 2, 3]
            assert tasks.sampler_states[1] is SamplerState.FAILED
            with pytest.raises(TaskError, match="sampler 1 failed in next_task") as caught:
                tasks.command_at(1, "next_task", {"keyword": here.Thing()})
            assert_not_found(caught.value)
            tasks.next_task_at(1)
        tasks.step([0] * 4)
        assert [step for _, _, step in tasks.call("counts")] == [4, 1, 4, 4]
        assert tasks.call("pid") == pids


@pytest.mark.guarantee("unbuildable-setup")
@pytest.mark.parametrize("what", ["function", "argument", "sensors"])
@pytest.mark.parametrize("start_method", PROCESSES)
def test_a_set_up_that_a_worker_cannot_rebuild_is_a_set_up_error(
    start_method: Any, what: str, here: Any
) -> None:
    args = toy_args(CountingTask, 3)
    if what == "argument":
        args[1]["thing"] = here.Thing()
    with pytest.raises(SetupError) as caught:
        VectorSampledTasks(
            here.Thing() if what == "function" else ToySampler,
            args,
            callback_sensors=here.Thing() if what == "sensors" else None,
            max_processes=1,
            multiprocessing_start_method=start_method,
        )
    assert_not_found(caught.value)
    assert caught.value.sampler_id == (1 if what == "argument" else 0)
    assert ("so did" in str(caught.value)) == (what != "argument")


@pytest.mark.guarantee("unbuildable-setup")
def test_a_set_up_that_cannot_be_rebuilt_leaves_its_mates_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be when the sampler was made, and cannot be when its worker is restarted."""
    source = tmp_path / "a_module_that_goes.py"
    source.write_text("class Thing: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    thing = importlib.import_module(source.stem).Thing()
    args = toy_args(CountingTask, 3)
    args[1]["thing"] = thing
    with VectorSampledTasks(ToySampler, args, max_processes=1, on_worker_death="restart") as tasks:
        shutil.rmtree(tmp_path)
        os.kill(tasks.call_at(0, "pid"), signal.SIGKILL)
        with pytest.raises(SetupError, match="sampler 1 could not be made: ModuleNotFou") as caught:
            tasks.step([0] * 3)
        assert sorted(caught.value.results) == [0, 2]
        tasks.pause_at(1)
        assert len(tasks.step([0, 0])) == 2


def test_a_pool_says_the_same(here: Any) -> None:
    with WorkerPool(dict, 1) as pool, pytest.raises(CallError) as caught:
        pool.submit_at(0, "update", here.Thing()).result()
    assert_not_found(caught.value)


# -- registrations with Gymnasium ------------------------------------------------------------------


@pytest.fixture
def registered(here: Any) -> Iterator[None]:
    """Environments that workers cannot have, beside those that they can."""
    lock = threading.Lock()

    def make(**kwargs: Any) -> Any:
        with lock:
            return CartPoleEnv(**kwargs)

    env_class = type("Env", (CartPoleEnv,), {"__module__": HERE})
    entry_points = {"cannot-be-pickled": make, "cannot-be-unpickled": env_class}
    here.Env = env_class
    for name, entry_point in entry_points.items():
        gymnasium.register(name, entry_point)
    yield
    for name in entry_points:
        del gymnasium.registry[name]


@pytest.mark.guarantee("unregistered")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cannot-be-pickled", "cannot pickle '_thread.lock' object"),
        ("cannot-be-unpickled", f"No module named '{HERE}'"),
    ],
)
def test_a_registration_that_did_not_travel_is_told_where_it_is_missed(
    registered: None, name: str, why: str
) -> None:
    args = [{"env": "CartPole-v1"}, {"env": name}]
    with pytest.raises(SetupError, match="sampler 1 could not be made: Unreg") as caught:
        VectorSampledTasks(GymnasiumTaskSampler, args, max_processes=1)
    assert why in str(caught.value)
    assert "did not travel to this worker" in str(caught.value)
    with SingleProcessVectorSampledTasks(GymnasiumTaskSampler, args) as tasks:
        assert len(tasks.step([0, 0])) == 2
