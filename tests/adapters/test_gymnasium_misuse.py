"""Gymnasium's vector misused: its own error types, and nothing lost."""

from __future__ import annotations

import copy
import functools
import multiprocessing
from typing import Any

import numpy as np
import pytest
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium_helpers import BOX, envs_of, make_env
from space_env import SpaceEnv

from vectasks.adapters.gymnasium import VectorEnv


def test_step_before_reset(twin: Any) -> None:
    ours = twin(envs_of())
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\]"):
        ours.step([0, 0, 0])
    ours.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        ours.step_async([0, 0, 0])


def test_disabled_wants_resets(twin: Any) -> None:
    ours = twin([make_env(first_length=0), make_env()], autoreset_mode="Disabled")
    ours.reset()
    assert ours.step([0, 0])[2].tolist() == [True, False]
    with pytest.raises(ResetNeeded, match=r"\[0\]"):
        ours.step([0, 0])
    ours.reset(options={"reset_mask": np.array([True, False])})
    ours.step([0, 0])


def test_calls_out_of_order(twin: Any) -> None:
    ours = twin(envs_of())
    for name in ("reset", "step", "call"):
        with pytest.raises(NoAsyncCallError) as missing:
            getattr(ours, f"{name}_wait")()
        assert missing.value.name == name
    ours.reset()
    ours.step_async([0, 0, 0])
    for start in (lambda: ours.step([0, 0, 0]), ours.reset, lambda: ours.set_attr("gravity", 1)):
        with pytest.raises(AlreadyPendingCallError) as pending:
            start()
        assert pending.value.name == "step"
    with pytest.warns(UserWarning, match="a step is out"):
        ours.close()


def test_closed(twin: Any) -> None:
    ours = twin(envs_of())
    ours.reset()
    ours.close()
    ours.close()
    assert ours.observations is None  # it may hold the shared memory
    calls = [ours.reset, ours.step_wait, ours.render, lambda: ours.step([0] * 3)]
    for call in [*calls, lambda: ours.set_attr("gravity", 1)]:
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": print}, "worker="),
        ({"autoreset_mode": "Sometimes"}, "Sometimes"),
        ({"context": "teleport"}, "teleport"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_arguments_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorEnv(envs_of(), **options)


def test_wrong_number_of_actions(twin: Any) -> None:
    ours = twin(envs_of())
    ours.reset()
    with pytest.raises(ValueError, match="3"):
        ours.step([0, 0])
    assert ours.get_attr("t") == (0, 0, 0)


class BrokenEnv(SpaceEnv):
    """Does wrong what it is told to."""

    def __init__(self, fault: str) -> None:
        super().__init__(copy.deepcopy(BOX))
        self.fault = fault
        if fault == "make":
            raise ConnectionError("no simulator")

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        if self.fault == "reset":
            raise KeyError("no level")
        return (observation[:2] if self.fault == "reset shape" else observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        if self.fault == "step":
            raise ZeroDivisionError("by accident")
        if self.fault == "shape":
            observation = observation[:2]
        if self.fault == "dtype":
            observation = observation + 1j
        return observation, *rest


@pytest.mark.parametrize("max_processes", [0, None])
def test_what_environments_raise(opened: Any, max_processes: int | None) -> None:
    def broken(fault: str) -> Any:
        faults = ["", fault]
        return opened(
            VectorEnv,
            [functools.partial(BrokenEnv, f) for f in faults],
            max_processes=max_processes,
        )

    with pytest.raises(ConnectionError, match="no simulator"):
        broken("make")
    with pytest.raises(KeyError, match="no level"):
        broken("reset").reset()
    ours = broken("step")
    ours.reset()
    with pytest.raises(ZeroDivisionError, match="by accident") as raised:
        ours.step([0, 0])
    assert "BrokenEnv" in str(raised.value.__cause__) or "in step" in str(raised.value.__cause__)
    ours.reset()  # a reset mends it


@pytest.mark.parametrize("fault", ["shape", "dtype", "reset shape"])
def test_observations_that_do_not_fit(twin: Any, fault: str) -> None:
    ours = twin([functools.partial(BrokenEnv, f) for f in ("", fault)])

    def run() -> None:
        ours.reset()
        ours.step([0, 0])

    with pytest.raises(ValueError, match=r"expected float32 \[3\]") as raised:
        run()
    assert "1" in str(raised.value)


def test_no_environment() -> None:
    with pytest.raises(TypeError, match=r"must make a gymnasium\.Env"):
        VectorEnv([lambda: "CartPole-v1"], max_processes=0)  # type: ignore[list-item,return-value]
    env = SpaceEnv(BOX)
    with pytest.raises(ValueError, match="in use already"):
        VectorEnv([lambda: env] * 2, max_processes=0)
    VectorEnv([lambda: env], max_processes=0).close()
    VectorEnv([lambda: env], max_processes=0).close()


class GatedEnv(SpaceEnv):
    """Its steps wait until an event is set."""

    def __init__(self, gate: Any) -> None:
        super().__init__(copy.deepcopy(BOX))
        self.gate = gate

    def step(self, action: Any) -> Any:
        self.gate.wait()
        return super().step(action)


def test_a_late_step_is_not_lost(opened: Any) -> None:
    with multiprocessing.Manager() as manager:
        gate = manager.Event()
        ours = opened(VectorEnv, [functools.partial(GatedEnv, gate)])
        ours.reset()
        ours.step_async([0])
        with pytest.raises(multiprocessing.TimeoutError):
            ours.step_wait(timeout=0.05)
        gate.set()
        assert ours.step_wait()[1].tolist() == [0.5]
        ours.close()
