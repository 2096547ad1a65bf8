"""Values that a step may give: any real number is a reward; what is none is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from vectasks import LayoutError, TaskError
from vectasks.adapters.gymnasium import VectorEnv
from vectasks.adapters.sb3 import VecEnv
from vectasks.adapters.torchrl import Env
from vectasks.envs import GymnasiumTaskSampler
from vectasks.evaluation import evaluate
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.rollouts.episodes import EpisodeRunner
from vectasks.task import RLStepResult
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

#: Given by the steps of an episode, one after another; each is worth 1.0.
NUMBERS: tuple[Callable[[], Any], ...] = (
    lambda: np.where(np.array(1) == 1, 1.0, -1.0),
    lambda: np.array(1),
    lambda: np.array(True),
    lambda: np.float32(1),
    lambda: np.int64(1),
    lambda: torch.tensor(1.0),
    lambda: torch.tensor(1),
    lambda: Fraction(1),
    lambda: Decimal(1),
    lambda: True,
    lambda: 1,
    lambda: 1.0,
)
#: What is no reward, with what the error says of it.
NO_NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "one element": (lambda: np.array([1.0]), r"ndarray of shape \(1,\).*Give reward.item\(\)"),
    "tensor": (lambda: torch.tensor([1.0]), r"Tensor of shape \(1,\).*Give reward.item\(\)"),
    "table": (lambda: np.ones((2, 2)), r"ndarray of shape \(2, 2\)"),
    "dict": (lambda: {"a": 1.0}, r"got {'a': 1.0} \(dict\).*Give list\(reward.values\(\)\)"),
    "list of arrays": (lambda: [np.array([1.0])], r"got \[array\(\[1.\]\)\] \(list\)"),
    "none": (lambda: None, r"got None \(NoneType\)"),
    "text": (lambda: "1.0", r"got '1.0' \(str\)"),
    "complex": (lambda: np.complex64(1), r"complex64"),
}
LISTS: tuple[Callable[[], Any], ...] = (
    lambda: [1.0, np.float32(2)],
    lambda: (1, np.array(2.0)),
    lambda: np.array([1.0, 2.0]),
    lambda: torch.tensor([1.0, 2.0]),
)


class NumberTask(CountingTask):
    """Its rewards are ``NUMBERS``, or what ``options.kind`` names."""

    def reward(self, action: Any) -> Any:
        kind = getattr(self.options, "kind", None)
        return NUMBERS[self.step_number - 1]() if kind is None else NO_NUMBERS[kind][0]()


class ListTask(CountingTask):
    """Its rewards are ``LISTS``."""

    def reward(self, action: Any) -> Any:
        return LISTS[self.step_number - 1]()


class NumberEnv(gymnasium.Env[Any, Any]):
    """The same as :class:`NumberTask`, as an environment."""

    observation_space = spaces.Box(0, 99, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        self.t += 1
        reward = NUMBERS[self.t - 1]() if self.kind is None else NO_NUMBERS[self.kind][0]()
        return np.zeros(1, np.float32), reward, self.t == len(NUMBERS), False, {}


def zeros(observation: Any) -> dict[str, Any]:
    return {"action": np.zeros(len(observation), int), "value": np.zeros(len(observation))}


def either_way(tasks: Any, index: int) -> Iterator[Callable[[], Any]]:
    """Step one sampler as a single one, and in a batch; it may fail each time."""
    yield lambda: tasks.step_at(index, 0)
    tasks.next_task_at(index)
    tasks.send([0], samplers=[index])
    yield tasks.recv


COUNT = len(NUMBERS)


# -- any real number ------------------------------------------------------------------------------


def test_any_real_number_is_a_reward(quick_lane: Any) -> None:
    with quick_lane.toys(NumberTask, 2, max_steps=COUNT) as tasks:
        results = [tasks.step([0, 0])[0] for _ in range(COUNT)]
        assert [(r.reward, type(r.reward)) for r in results] == [(1.0, float)] * COUNT
        assert results[-1].info["__AFTER_TASK_METRICS__"]["reward"] == float(COUNT)
        batches = [tasks.step_batch([0, 0]) for _ in range(COUNT)]
        assert [b.reward.tolist() for b in batches] == [[1.0, 1.0]] * COUNT
        for _ in range(COUNT):
            tasks.send([0, 0])
            assert tasks.recv().reward.tolist() == [1.0, 1.0]
        buffer = RolloutBuffer(tasks, COUNT)
        collect(tasks, zeros, buffer)
        assert buffer.rewards.tolist() == [[1.0, 1.0]] * COUNT


@pytest.mark.parametrize("max_processes", [0, 1])
def test_evaluation_and_tasks_of_gymnasium(max_processes: int) -> None:
    for make, arguments in (
        (ToySampler, {"task_class": NumberTask, "max_steps": COUNT}),
        (GymnasiumTaskSampler, {"env": NumberEnv}),
    ):
        report = evaluate(
            lambda seen: [0] * len(seen),
            make,
            [arguments],
            episodes=1,
            max_processes=max_processes,
        )
        assert report.num_failed == 0
        metrics = report.episodes[0].metrics
        assert (metrics["return"], metrics["reward"]) == (float(COUNT), float(COUNT))


def test_an_episode_runner() -> None:
    (arguments,) = toy_args(NumberTask, 1, max_steps=COUNT)
    episode = EpisodeRunner(ToySampler, arguments, policy=zeros).run()
    assert episode.rewards.tolist() == [1.0] * COUNT


@pytest.mark.parametrize("max_processes", [0, 1])
def test_gymnasiums_vector(max_processes: int) -> None:
    envs = VectorEnv([NumberEnv] * 2, max_processes=max_processes)
    envs.reset()
    assert [envs.step([0, 0])[1].tolist() for _ in range(COUNT)] == [[1.0, 1.0]] * COUNT
    envs.close()


def test_other_adapters() -> None:
    envs = VecEnv([NumberEnv] * 2, max_processes=0)
    envs.reset()
    steps = [envs.step(np.zeros(2, int)) for _ in range(COUNT)]
    assert [rewards.tolist() for _, rewards, _, _ in steps] == [[1.0, 1.0]] * COUNT
    envs.close()
    env = Env([NumberEnv] * 2, max_processes=0)
    rewards = env.rollout(COUNT)["next", "reward"]
    assert rewards.squeeze(-1).tolist() == [[1.0] * COUNT] * 2
    env.close()


# -- what is none ---------------------------------------------------------------------------------


def test_what_is_no_reward_is_named(quick_lane: Any) -> None:
    kinds = list(NO_NUMBERS)
    with quick_lane.toys(NumberTask, len(kinds), kind=kinds) as tasks:
        for i, kind in enumerate(kinds):
            for step in either_way(tasks, i):
                with pytest.raises(TaskError, match=NO_NUMBERS[kind][1]) as caught:
                    step()
                assert isinstance(caught.value.__cause__, TypeError)
                assert "must be a real number" in str(caught.value)


@pytest.mark.parametrize("kind", ["one element", "dict"])
def test_an_evaluation_says_what_is_no_reward(kind: str) -> None:
    arguments = {"task_class": NumberTask, "kind": kind}
    report = evaluate(
        lambda seen: [0] * len(seen), ToySampler, [arguments], episodes=1, max_processes=0
    )
    (episode,) = report.episodes
    assert episode.error is not None
    assert "the step's reward must be a real number" in episode.error
    with pytest.raises(KeyError, match=r"'return'.*1 of 1 failed.*reward must be a real number"):
        report.aggregates["return"]


def test_an_evaluation_has_no_number_of_several_agents() -> None:
    arguments = {"task_class": ListTask, "max_steps": len(LISTS)}
    report = evaluate(
        lambda seen: [0] * len(seen), ToySampler, [arguments], episodes=1, max_processes=0
    )
    assert report.episodes[0].metrics["return"] == [4.0, 8.0]
    with pytest.raises(KeyError, match=r"'return'.*has \[4.0, 8.0\] \(list\)"):
        report.aggregates["return"]


def test_adapters_say_what_is_no_reward() -> None:
    for made in (VectorEnv, VecEnv):
        envs: Any = made([lambda: NumberEnv("one element")], max_processes=0)
        envs.reset()
        with pytest.raises(Exception, match=r"Give reward.item\(\)"):
            envs.step(np.zeros(1, int))
        envs.close()


def test_lists_of_rewards_are_of_several_agents(quick_lane: Any) -> None:
    with quick_lane.toys(ListTask, 2, max_steps=len(LISTS)) as tasks:
        results = [tasks.step([0, 0])[0] for _ in LISTS]
        assert [result.reward for result in results] == [[1.0, 2.0]] * len(LISTS)
        total = results[-1].info["__AFTER_TASK_METRICS__"]["reward"]
        assert total == [float(len(LISTS)), 2.0 * len(LISTS)]
        with pytest.raises(LayoutError, match="a list of 2 rewards"):
            tasks.step_batch([0, 0])


# -- the rest of a step's result ------------------------------------------------------------------


class ShapeTask:
    """A task that inherits nothing; its step returns what it is told to."""

    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, result: Any) -> None:
        self.result = result

    def get_observations(self) -> Any:
        return np.zeros(1, np.float32)

    def step(self, action: Any) -> Any:
        return self.result

    def is_done(self) -> bool:
        return False


class ShapeSampler:
    """Makes :class:`ShapeTask`."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def next_task(self, **_: Any) -> ShapeTask:
        return ShapeTask(self.result)

    def close(self) -> None: ...


SEEN = np.zeros(1, np.float32)
FIVE = (SEEN, 1.0, False, False, {})
WRONG: list[tuple[Any, str]] = [
    (FIVE, r"ShapeTask.step\(\) returned 5 values.*observation, reward, done and info.*Gymnasium"),
    (FIVE[:3], r"returned 3 values"),
    (list(FIVE), r"returned 5 values"),
    (None, r"returned None \(NoneType\)"),
    ((SEEN, 1.0, {"a": False}, {}), r"done must be a bool, got {'a': False} \(dict\)"),
    ((SEEN, 1.0, [False, False], {}), r"done must be a bool, got \[False, False\] \(list\)"),
    (RLStepResult(SEEN, 1.0, np.zeros(2, bool), {}), r"done must be a bool.*of shape \(2,\)"),  # type: ignore[arg-type]
]


def test_results_that_are_none(quick_lane: Any) -> None:
    arguments = [{"result": result} for result, _ in WRONG]
    with quick_lane.make(ShapeSampler, arguments) as tasks:
        for i, (_, message) in enumerate(WRONG):
            for step in either_way(tasks, i):
                with pytest.raises(TaskError, match=message):
                    step()


@pytest.mark.parametrize(
    "done", [np.True_, np.array(True), np.array([True]), torch.tensor(True), 1]
)
def test_flags_of_numpy_and_torch(done: Any) -> None:
    class FlagTask(CountingTask):
        def _step(self, action: Any) -> RLStepResult:
            return super()._step(action)._replace(done=done)

    task = ToySampler(FlagTask).next_task()
    assert task is not None
    assert task.step(0).done is True


@pytest.mark.parametrize(("result", "message"), WRONG)
def test_tasks_that_inherit_say_it_too(result: Any, message: str) -> None:
    class ShapedTask(CountingTask):
        def _step(self, action: Any) -> Any:
            return result

    task = ToySampler(ShapedTask).next_task()
    assert task is not None
    with pytest.raises(TypeError, match=message.replace("ShapeTask.step", "ShapedTask._step")):
        task.step(0)
