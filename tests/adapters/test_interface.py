"""Environments whose reset or step gives something other than Gymnasium's interface has it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from vectasks import SetupError, SingleProcessVectorSampledTasks, TaskError, VectorSampledTasks
from vectasks.adapters.environment_episodes import Episodes
from vectasks.adapters.gymnasium import VectorEnv
from vectasks.adapters.sb3 import VecEnv
from vectasks.adapters.torchrl import Env
from vectasks.envs import GymnasiumTaskSampler


class GoodEnv(gymnasium.Env[Any, Any]):
    """Ends after three steps."""

    # Of two numbers, which could be taken for an observation and an info.
    observation_space = spaces.Box(0, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)
    t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        return self.seen(), 1.0, self.ended(), False, {}

    def seen(self) -> Any:
        return np.full(2, self.t, np.float32)

    def ended(self) -> bool:
        self.t += 1
        return self.t == 3


class OldStepEnv(GoodEnv):
    """Its step is of the old Gym interface."""

    def step(self, action: Any) -> Any:
        return self.seen(), 1.0, self.ended(), {}


class OldResetEnv(GoodEnv):
    """Its reset is of the old Gym interface, but for the keywords."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.seen()


class OldEnv(OldStepEnv):
    """All of it is of the old Gym interface."""

    def reset(self) -> Any:  # type: ignore[override]
        return self.seen()


class ThreeEnv(GoodEnv):
    def step(self, action: Any) -> Any:
        return self.seen(), 1.0, self.ended()


class SixEnv(GoodEnv):
    def step(self, action: Any) -> Any:
        return *super().step(action), "more"


class NoStepEnv(GoodEnv):
    def step(self, action: Any) -> Any:
        return None


class NoResetEnv(GoodEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return None


class ListInfoEnv(GoodEnv):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], [1]


class ListResetInfoEnv(GoodEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.seen(), [1]


class ManyFlagsEnv(GoodEnv):
    def step(self, action: Any) -> Any:
        return self.seen(), 1.0, {"a": False}, False, {}


OLD = r"shimmy\.GymV21CompatibilityV0"
TOLD: list[tuple[type[GoodEnv], str]] = [
    (OldStepEnv, rf"OldStepEnv.step\(\) must return five values.*got 4 values.*{OLD}"),
    (OldResetEnv, rf"OldResetEnv.reset\(\) must return .*observation and info.*\(2,\).*{OLD}"),
    (OldEnv, rf"OldEnv.reset\(\) must .*{OLD}"),
    (ThreeEnv, r"ThreeEnv.step\(\) must return five values.*got 3 values"),
    (SixEnv, r"SixEnv.step\(\) must return five values.*too many"),
    (NoStepEnv, r"NoStepEnv.step\(\) must return five values.*NoneType"),
    (NoResetEnv, r"NoResetEnv.reset\(\) must return .*got None \(NoneType\)"),
    (ListInfoEnv, r"ListInfoEnv.step\(\) must return a dict as info .*got \[1\] \(list\)"),
    (ListResetInfoEnv, r"ListResetInfoEnv.reset\(\) must return .*info \(a dict\)"),
    (ManyFlagsEnv, r"terminated must be a bool, got {'a': False} \(dict\).*any\(\) or all\(\)"),
]


def run_tasks(make_env: Callable[[], Any]) -> Any:
    with SingleProcessVectorSampledTasks(
        GymnasiumTaskSampler, [{"env": make_env}], should_log=False
    ) as tasks:
        results = [tasks.step([0])[0] for _ in range(4)]
        batches = [tasks.step_batch([0]) for _ in range(4)]
    return [r.info for r in results], [b.infos for b in batches]


def run_vector_env(make_env: Callable[[], Any], **options: Any) -> Any:
    envs = VectorEnv([make_env], max_processes=0, **options)
    try:
        infos = [envs.reset()[1]]
        return infos + [envs.step(np.zeros(1, int))[4] for _ in range(4)]
    finally:
        envs.close()


def run_same_step(make_env: Callable[[], Any]) -> Any:
    return run_vector_env(make_env, autoreset_mode="SameStep")


def run_vec_env(make_env: Callable[[], Any]) -> Any:
    envs = VecEnv([make_env], max_processes=0)
    try:
        envs.reset()
        return [envs.step(np.zeros(1, int))[3] for _ in range(4)] + [envs.reset_infos]
    finally:
        envs.close()


def run_torchrl(make_env: Callable[[], Any]) -> Any:
    env = Env([make_env], max_processes=0)
    try:
        env.rollout(4, break_when_any_done=False)
    finally:
        env.close()


WAYS = [run_tasks, run_vector_env, run_same_step, run_vec_env, run_torchrl]


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize(("env_class", "message"), TOLD)
def test_what_differs_is_named(run: Any, env_class: Any, message: str) -> None:
    for make_env in (env_class, lambda: TimeLimit(env_class(), 9)):
        with pytest.raises(Exception, match=message):
            run(make_env)


def test_a_worker_says_it_too() -> None:
    class LocalEnv(gymnasium.Env[Any, Any]):  # which a worker gets without this module
        observation_space = spaces.Discrete(3)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return 0, {}

        def step(self, action: Any) -> Any:
            return 0, 1.0, False, {}

    arguments = [{"env": LocalEnv}]
    with VectorSampledTasks(GymnasiumTaskSampler, arguments, should_log=False) as tasks:
        for step in (tasks.step, tasks.step_batch):
            with pytest.raises(TaskError, match=f"LocalEnv.step.*got 4 values.*{OLD}"):
                step([0])
            tasks.next_task_at(0)


class NoInfoEnv(GoodEnv):
    """Gives None where an info belongs."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()[0], None

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], None


class FrozenInfoEnv(GoodEnv):
    """Its infos are read-only views."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()[0], types.MappingProxyType({})

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], types.MappingProxyType({})


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("env_class", [NoInfoEnv, FrozenInfoEnv])
def test_an_info_of_none_is_an_empty_one(run: Any, env_class: Any) -> None:
    assert str(run(env_class)) == str(run(GoodEnv))


class BuggyEnv(GoodEnv):
    """Raises what unpacking raises, and what a call with unknown keywords does."""

    def __init__(self, where: str) -> None:
        self.where = where

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.where == "reset":
            self.seen(seed=3)  # type: ignore[call-arg]
        return super().reset()

    def step(self, action: Any) -> Any:
        if self.where == "none":
            one, two = None  # type: ignore[misc]
        else:
            one, two = [1, 2, 3]
        return one, two


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("reset", "seen"),
        ("none", "^cannot unpack non-iterable NoneType object$"),
        ("step", r"^too many values to unpack \(expected 2\)"),
    ],
)
def test_an_environments_own_errors_are_left_alone(where: str, message: str) -> None:
    episodes = Episodes(lambda: BuggyEnv(where))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        episodes.next_task({}).step(0)
    assert caught.value.__cause__ is None
    episodes.close()


class OtherEnv:
    """An environment of another library."""

    def step(self, action: Any) -> Any: ...

    def reset(self) -> Any: ...


def test_what_is_no_environment() -> None:
    with pytest.raises(TypeError, match=f"env must be a Gymnasium id.*{OLD}"):
        GymnasiumTaskSampler(OtherEnv())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must make an environment, got None"):
        GymnasiumTaskSampler(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=f"gave a OtherEnv; it must make a gymnasium.Env. .*{OLD}"):
        Episodes(OtherEnv)
    with pytest.raises(SetupError, match="must make an environment, got 3"):
        SingleProcessVectorSampledTasks(GymnasiumTaskSampler, [{"env": lambda: 3}])
