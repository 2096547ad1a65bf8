"""Gymnasium's vector misused: its own error types, and nothing lost."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import re
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium_helpers import BOX, MODES, envs_of, make_env
from space_env import SPACES, SpaceEnv

from vectasks import SingleProcessVectorSampledTasks
from vectasks.adapters.gymnasium import VectorEnv, make_vec
from vectasks.testing.toys import CountingTask, ToySampler, toy_args


@pytest.mark.parametrize("mode", MODES)
def test_environments_judge_a_step_before_their_reset(in_process: Any, mode: Any) -> None:
    ours = in_process([make_env()] * 3, autoreset_mode=mode)
    ours.step([0, 0, 0])
    assert ours.get_attr("t") == (1, 1, 1)
    strict = in_process([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=mode)
    with pytest.raises(ResetNeeded):
        strict.step([0])
    strict.reset()
    strict.step([0])


def test_a_vector_of_tasks_wants_a_reset_before_its_first_step(opened: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3))
    ours = opened(VectorEnv, tasks)
    actions = [ours.single_action_space.sample()] * 3
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\]"):
        ours.step(actions)
    ours.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        ours.step_async(actions)


def test_disabled_wants_resets(in_process: Any) -> None:
    ours = in_process([make_env(first_length=0), make_env()], autoreset_mode="Disabled")
    ours.reset()
    assert ours.step([0, 0])[2].tolist() == [True, False]
    with pytest.raises(ResetNeeded, match=r"\[0\]"):
        ours.step([0, 0])
    ours.reset(options={"reset_mask": np.array([True, False])})
    ours.step([0, 0])


def test_calls_out_of_order(in_process: Any) -> None:
    ours = in_process(envs_of())
    for name in ("reset", "step", "call"):
        message = f"Calling `{name}_wait` without any prior call to `{name}_async`."
        with pytest.raises(NoAsyncCallError, match=re.escape(message)) as missing:
            getattr(ours, f"{name}_wait")()
        assert missing.value.name == name
    ours.reset()
    ours.step_async([0, 0, 0])
    waiting = "while waiting for a pending call to `step` to complete"
    for name, start in {
        "step": lambda: ours.step([0, 0, 0]),
        "step_async": lambda: ours.step_async([0, 0, 0]),
        "reset_async": ours.reset,
        "set_attr": lambda: ours.set_attr("gravity", 1),
    }.items():
        with pytest.raises(AlreadyPendingCallError, match=f"Calling `{name}` {waiting}") as pending:
            start()
        assert pending.value.name == "step"
    with pytest.warns(UserWarning, match=f"Calling `close` {waiting}"):
        ours.close()


def test_closed(in_process: Any) -> None:
    ours = in_process(envs_of())
    ours.reset()
    ours.close()
    ours.close()
    assert ours.observations is None  # it may hold the shared memory
    calls = [ours.reset, ours.step_wait, ours.render, lambda: ours.step([0] * 3)]
    for call in [*calls, lambda: ours.set_attr("gravity", 1)]:
        with pytest.raises(ClosedEnvironmentError, match="Trying to operate on `VectorEnv`"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": print}, "worker="),
        ({"autoreset_mode": "Sometimes"}, "Sometimes"),
        ({"context": "teleport"}, "teleport"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_processes": -1}, "max_processes"),
        ({"max_processes": 1.0}, "max_processes"),
        ({"on_worker_death": "cry"}, "on_worker_death"),
        (
            {"observation_mode": "some"},
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and "
            "batch observation space, actual got some",
        ),
    ],
)
def test_arguments_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorEnv(envs_of(), **options)


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ([True] * 3, TypeError, "must be a numpy array, got <class 'list'>"),
        (np.ones(1, bool), ValueError, "must have shape `(3,)`, got (1,)"),
        (np.ones((1, 3), bool), ValueError, "must have shape `(3,)`, got (1, 3)"),
        (np.ones(3), TypeError, "must have `dtype=np.bool_`, got float64"),
        (np.zeros(3, bool), ValueError, "got reset_mask=[False False False]"),
    ],
)
def test_masks_that_cannot_be(in_process: Any, mask: Any, kind: Any, message: str) -> None:
    ours = in_process(envs_of())
    with pytest.raises(kind, match=re.escape("`options['reset_mask']` must")) as raised:
        ours.reset(options={"reset_mask": mask})
    assert message in str(raised.value)


@pytest.mark.parametrize("space", [None, BOX, SPACES["scalar"], SPACES["nested"]])
def test_wrong_number_of_actions(in_process: Any, space: Any) -> None:
    ours = in_process(envs_of(action_space=space))
    ours.reset()
    for none in (0, np.array(1), 1.5, None):
        with pytest.raises(TypeError, match="3 environments"):
            ours.step(none)
        with pytest.raises(TypeError, match="3 environments"):
            ours.step_async(none)
    if space is not SPACES["nested"]:
        with pytest.raises(ValueError, match="3"):
            ours.step([0, 0])
    assert ours.get_attr("t") == (0, 0, 0)


def test_numpy_numbers_as_arguments(opened: Any) -> None:
    ours = opened(
        VectorEnv,
        envs_of(),
        max_processes=np.int32(2),
        max_concurrency=np.int64(1),
    )
    assert len({*ours.call("process_id")}) == 1
    ours.reset(seed=np.array([3, 4, 5]))
    assert ours.np_random_seed == (3, 4, 5)
    ours.reset(seed=[np.int64(7), None, 8])
    assert ours.np_random_seed == (7, 4, 8)
    assert ours.get_attr("gravity", indices=np.int64(1)) == (9.81,)
    for name, args in {"reset": (), "step": ([0, 0, 0],), "call": ("scaled", 1.0)}.items():
        getattr(ours, f"{name}_async")(*args)
        getattr(ours, f"{name}_wait")(timeout=np.float32(30))
    options = {"max_processes": np.uint8(0)}
    assert opened(make_vec, "CartPole-v1", np.int64(2), vector_kwargs=options).num_envs == 2


def test_options_of_the_vector(opened: Any) -> None:
    with pytest.raises(TypeError, match="no option 'deamon'; did you mean 'daemon'"):
        VectorEnv(envs_of(), deamon=False)
    with pytest.raises(TypeError, match="no option 'seed'"):
        VectorEnv(envs_of(), max_processes=0, seed=1)
    ours = opened(VectorEnv, envs_of(), max_processes=1, daemon=False, read_timeout=7.5)
    assert ours.call("is_daemonic") == (False,) * 3
    assert ours._envs.vector.read_timeout == 7.5
    usual = opened(VectorEnv, envs_of(), max_processes=1)
    assert usual.call("is_daemonic") == (True,) * 3  # as in AsyncVectorEnv


@pytest.mark.parametrize(
    "options",
    [{"context": "spawn"}, {"max_processes": 1}, {"max_concurrency": 1}, {"preload": ["json"]}],
)
def test_options_beside_a_vector_that_has_its_workers(options: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 1))
    with tasks, pytest.raises(ValueError, match="where the vector is made"):
        VectorEnv(tasks, **options)


def make_angry() -> Any:
    return AngryEnv(copy.deepcopy(BOX), action_space=spaces.Box(0, 9, (1,)))


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


class AngryEnv(SpaceEnv):
    """Raises what it is told to."""

    def reset(self, **kwargs: Any) -> Any:
        if kwargs["seed"] == 1:
            raise ValueError("seeds at 100%")
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        if action:
            raise ArithmeticError(f"step {action!r}")
        return super().step(action)


@pytest.mark.parametrize("max_processes", [0, 1, None])
def test_all_that_environments_raise_is_logged(opened: Any, max_processes: int | None) -> None:
    ours = opened(VectorEnv, [make_angry] * 3, max_processes=max_processes)
    with warnings.catch_warnings(record=True) as one:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="100%"):
            ours.reset(seed=[0, 1, 2])
    assert [str(warning.message)[:-4] for warning in one][::2] == [
        "\x1b[31mERROR: Received the following error from Worker-1 - Shutting it down",
        "\x1b[31mERROR: Raising the last exception back to the main process.",
    ]
    assert "in reset\n" in str(one[1].message)
    assert "ValueError: seeds at 100%" in str(one[1].message)
    ours.reset(seed=[0, 0, 0])
    with warnings.catch_warnings(record=True) as both:
        warnings.simplefilter("always")
        # The last is raised; actions that are no arrays of the space come as they were given.
        with pytest.raises(ArithmeticError, match="step 2"):
            ours.step([1, 0, 2])
    texts = [str(warning.message) for warning in both]
    assert ["Worker-0" in texts[0], "Worker-2" in texts[2]] == [True, True]
    assert ["ArithmeticError: step 1" in texts[1], "step 2" in texts[3]] == [True, True]
    assert len(texts) == 5
    ours.reset(seed=[0, 0, 0])


@pytest.mark.parametrize("fault", ["shape", "dtype", "reset shape"])
def test_observations_that_do_not_fit(in_process: Any, fault: str) -> None:
    ours = in_process([functools.partial(BrokenEnv, f) for f in ("", fault)])

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
