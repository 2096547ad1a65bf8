"""AllenAct's classes work as they are: stand-ins of that shape, and the calls its engine makes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from vectasks import (
    SamplerState,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
    WaitTimeout,
    WorkerDied,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import CountingTask, ToySampler


class LegacyDiscrete:
    """A space of the old ``gym``: nothing of Gymnasium, and no hash."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LegacyDiscrete) and other.n == self.n

    def sample(self) -> int:
        return 0


class LegacyDict:
    def __init__(self, **shapes: Any) -> None:
        self.shapes = shapes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LegacyDict) and other.shapes == self.shapes

    def __bool__(self) -> bool:
        raise TypeError("a legacy space has no truth value")


class StepResult(NamedTuple):
    """AllenAct has its own RLStepResult."""

    observation: Any
    reward: Any
    done: bool | None
    info: Any

    def clone(self, new_info: dict[str, Any]) -> StepResult:
        return self._replace(**new_info)


class PointNavTask:
    """Shaped like AllenAct's Task: sensors make observations, nothing is inherited from us."""

    def __init__(self, env: dict[str, Any], task_info: dict[str, Any], max_steps: int) -> None:
        self.env = env
        self.task_info = task_info
        self.max_steps = max_steps
        self.observation_space = LegacyDict(rgb=(2, 2), place=(1,))
        self._num_steps_taken = 0
        self._total_reward = 0.0
        self.shown: list[Any] = []

    def get_observations(self, **kwargs: Any) -> Any:
        return {
            "rgb": np.full((2, 2), self._num_steps_taken, np.float32),
            "place": self.task_info["id"],
        }

    @property
    def action_space(self) -> Any:
        return LegacyDiscrete(3)

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> Any:
        self.shown.append(mode)
        return np.zeros((4, 4, 3), np.uint8) if mode == "rgb" else f"shown as {mode}"

    def step(self, action: Any) -> StepResult:
        assert not self.is_done()
        result = self._step(action)
        self._total_reward += float(result.reward)
        self._num_steps_taken += 1
        return result.clone({"done": result.done or self.is_done()})

    def _step(self, action: Any) -> StepResult:
        return StepResult(self.get_observations(), 0.5, None, {"action": action})

    def reached_max_steps(self) -> bool:
        return self._num_steps_taken >= self.max_steps

    def reached_terminal_state(self) -> bool:
        return False

    def is_done(self) -> bool:
        return self.reached_terminal_state() or self.reached_max_steps()

    def num_steps_taken(self) -> int:
        return self._num_steps_taken

    def metrics(self) -> dict[str, Any]:
        return {"ep_length": self._num_steps_taken, "reward": self._total_reward}

    def close(self) -> None:
        pass


class PointNavSampler:
    """Shaped like AllenAct's TaskSampler."""

    def __init__(self, ids: Sequence[str], max_steps: int = 2, mp_ctx: Any = None) -> None:
        self.ids = list(ids)
        self.left = list(ids)
        self.max_steps = max_steps
        self.mp_ctx = mp_ctx
        self.advanced = False
        self.seed: int | None = None
        self.task: PointNavTask | None = None

    @property
    def length(self) -> int:
        return len(self.left)

    @property
    def total_unique(self) -> int | None:
        return len(self.ids)

    @property
    def last_sampled_task(self) -> Any:
        return self.task

    @property
    def all_observation_spaces_equal(self) -> bool:
        return True

    def next_task(self, force_advance_scene: bool = False) -> Any:
        self.advanced = force_advance_scene
        if not self.left:
            self.task = None
        else:
            self.task = PointNavTask({}, {"id": self.left.pop(0)}, self.max_steps)
        return self.task

    def reset(self) -> None:
        self.left = list(self.ids)

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def _travel_by_value() -> Any:
    """Children cannot import this module."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def navigation(every_kind: Any) -> Any:
    arguments = [{"ids": [f"{i}a", f"{i}b"]} for i in range(3)]
    with every_kind.make(PointNavSampler, arguments) as tasks:
        yield tasks


def test_a_rollout_as_the_engine_makes_it(navigation: Any) -> None:
    n = navigation.num_unpaused_tasks
    assert [o["place"] for o in navigation.get_observations()] == ["0a", "1a", "2a"]
    assert navigation.command("sampler_attr", ["length"] * n) == [1] * n
    assert navigation.command("sampler_attr", ["total_unique"] * n) == [2] * n
    assert navigation.attr("task_info") == [{"id": "0a"}, {"id": "1a"}, {"id": "2a"}]
    assert navigation.action_spaces == [LegacyDiscrete(3)] * n
    assert navigation.observation_space == LegacyDict(rgb=(2, 2), place=(1,))

    outputs = navigation.step(actions=[0, 1, 2])
    observations, rewards, dones, infos = (list(x) for x in zip(*outputs, strict=True))
    assert_identical(observations[1]["rgb"], np.zeros((2, 2), np.float32))
    assert rewards == [0.5] * n
    assert dones == [False] * n
    assert infos == [{"action": 0}, {"action": 1}, {"action": 2}]

    outputs = navigation.step([0, 1, 2])
    for i, (observation, _, done, info) in enumerate(outputs):
        assert done
        assert observation["place"] == f"{i}b"
        assert info["final_observation"]["place"] == f"{i}a"
        assert info["__AFTER_TASK_METRICS__"] == {"ep_length": 2, "reward": 1.0}
        del info["__AFTER_TASK_METRICS__"]  # the engine deletes keys from infos
    navigation.step([0] * n)
    outputs = navigation.step([0] * n)
    assert [output[0] for output in outputs] == [None] * n
    for index in reversed(range(n)):  # the engine pauses from the highest index down
        navigation.pause_at(sampler_index=index)
    assert navigation.num_unpaused_tasks == 0
    navigation.resume_all()
    navigation.set_seeds([3, 4, 5])
    navigation.reset_all()
    assert navigation.command("sampler_attr", ["seed"] * n) == [3, 4, 5]
    assert [o["place"] for o in navigation.get_observations()] == ["0a", "1a", "2a"]


def test_calls_of_the_engine(navigation: Any) -> None:
    n = navigation.num_unpaused_tasks
    assert navigation.call_at(1, "render", ["human"]) == "shown as human"
    assert navigation.attr_at(1, "shown") == ["human"]
    observations = navigation.next_task(force_advance_scene=True)
    assert [o["place"] for o in observations] == ["0b", "1b", "2b"]
    assert navigation.command("sampler_attr", ["advanced"] * n) == [True] * n
    assert [image.shape for image in navigation.render("raw_rgb_list")] == [(4, 4, 3)] * n
    actions = np.array([0, 1, 2])
    assert [r.info["action"] for r in navigation.step(list(actions))] == [0, 1, 2]


def test_lockstep_as_the_engine_evaluates(every_kind: Any) -> None:
    arguments = [{"ids": "abc", "max_steps": steps} for steps in (1, 2)]
    with every_kind.make(PointNavSampler, arguments, auto_resample_when_done=False) as tasks:
        first = tasks.step([0, 0])
        assert first[0].done
        assert first[0].observation["place"] == "a"
        assert [r.observation["place"] for r in tasks.step([0, 0])] == ["b", "b"]


def test_legacy_spaces_are_compared_by_equality_only(kind: Any) -> None:
    class OddTask(PointNavTask):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.observation_space = LegacyDict(rgb=(9, 9))

    class OddSampler(PointNavSampler):
        def next_task(self, force_advance_scene: bool = False) -> Any:
            return OddTask({}, {"id": "odd"}, 2)

    def make(odd: bool) -> Any:
        return OddSampler("ab") if odd else PointNavSampler("ab")

    with pytest.raises(ValueError, match="heterogeneous"):
        kind.make(make, [{"odd": False}, {"odd": True}])
    with kind.make(make, [{"odd": True}, {"odd": True}]) as tasks:
        assert len(tasks.step([0, 0])) == 2


def test_errors_that_the_engine_catches() -> None:
    assert issubclass(WaitTimeout, TimeoutError)
    assert issubclass(WaitTimeout, multiprocessing.TimeoutError)
    assert issubclass(WorkerDied, EOFError)


# AllenAct's engine passes keywords only; start method None beside a context, or the other way.


def test_torch_spawn_context() -> None:
    torch_multiprocessing = pytest.importorskip("torch.multiprocessing")
    context = torch_multiprocessing.get_context("spawn")
    arguments = toy_args(CountingTask, 3)
    with VectorSampledTasks(
        make_sampler_fn=ToySampler,
        sampler_fn_args=arguments,
        callback_sensors=None,
        multiprocessing_start_method=None,
        mp_ctx=context,
        max_processes=2,
        read_timeout=60,
    ) as tasks:
        assert tasks.mp_ctx is context
        assert [r.reward for r in tasks.step([1, 2, 3])] == [1.125, 2.125, 3.125]
        assert tasks.call_sampler("scale", [[1]] * 3) == [0, 1, 2]


def test_in_process_by_keywords_only() -> None:
    with SingleProcessVectorSampledTasks(
        make_sampler_fn=PointNavSampler,
        sampler_fn_args_list=[{"ids": "ab"}],
        auto_resample_when_done=True,
        should_log=False,
    ) as tasks:
        assert tasks.sampler_states == {0: SamplerState.READY}
