"""The runners of the library: whole episodes of a policy, and rollouts of a vector."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import (
    CallError,
    InvalidAction,
    InvalidArgument,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
)
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.rollouts.episodes import EpisodeRunner, EpisodeTask, RolloutRunner
from vectasks.rollouts.scheduler import Scheduler
from vectasks.testing.toys import CountingTask, RandomWalk, ReusingTask, ToySampler, toy_args


def act(observation: Any) -> dict[str, Any]:
    """Actions and values that depend on what is seen, which tells sampler, episode and step."""
    assert observation.shape == (1, 3)
    return {"action": observation[:, 2] % 4, "value": observation[:, 2] / 2}


def runner(task_class: Any = CountingTask, policy: Any = act, **options: Any) -> EpisodeRunner:
    options.setdefault("max_steps", 4)
    (arguments,) = toy_args(task_class, 1, **options)
    return EpisodeRunner(ToySampler, arguments, policy=policy)


def test_an_episode_is_whole() -> None:
    (arguments,) = toy_args(CountingTask, 1, max_steps=4)
    episode = runner().run(run_id=7)
    with SingleProcessVectorSampledTasks(ToySampler, [arguments], should_log=False) as tasks:
        results = [tasks.step_at(0, t % 4)[0] for t in range(4)]
    assert episode.run_id == 7
    assert episode.observations.shape == (5, 3)
    assert episode.observations[:, 2].tolist() == [0, 1, 2, 3, 4]
    assert episode.actions.tolist() == [0, 1, 2, 3]
    assert episode.rewards.tolist() == [result.reward for result in results]
    assert (episode.terminated, episode.truncated) == (False, True)
    assert episode.kept["value"].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert set(episode.kept) == {"value"}
    assert episode.metrics["reward"] == sum(episode.rewards)


def test_episodes_follow_each_other_as_the_sampler_has_them() -> None:
    played = runner(num_tasks=3)
    assert [played.run().observations[0, 1] for _ in range(3)] == [0, 1, 2]  # the first one too
    with pytest.raises(InvalidArgument, match="no next task"):
        played.run()


def test_seeds_decide_and_not_what_was_played_before() -> None:
    def walk(observation: Any) -> dict[str, Any]:
        return {"action": np.zeros((1, 2), np.float32)}

    one, other = runner(RandomWalk, walk), runner(RandomWalk, walk)
    other.run(EpisodeTask(seed=9))
    task = EpisodeTask(seed=3)
    for run_id in (0, 1):
        first, second = one.run(task, run_id), other.run(task, run_id)
        assert np.array_equal(first.observations, second.observations)
    assert not np.array_equal(one.run(task, 0).observations, one.run(task, 1).observations)


def test_arrays_that_a_task_uses_again_do_not_change_what_was_played() -> None:
    episode = runner(ReusingTask).run()
    assert episode.observations[:, 2].tolist() == [0, 1, 2, 3, 4]


def test_weights_come_with_the_task() -> None:
    class Policy:
        action = 0

        def load_state_dict(self, state: Any) -> None:
            self.action = state

        def __call__(self, observation: Any) -> Any:
            return {"action": np.array([self.action])}

    played = runner(policy=Policy())
    assert played.run(EpisodeTask(weights=2)).actions.tolist() == [2] * 4
    assert played.run().actions.tolist() == [2] * 4


def test_memories_start_at_zero() -> None:
    def remember(observation: Any, memory: Any) -> dict[str, Any]:
        return {"action": np.zeros(1, int), "memory": memory + 1, "seen": memory[:, 0]}

    (arguments,) = toy_args(CountingTask, 1, max_steps=3)
    played = EpisodeRunner(ToySampler, arguments, policy=remember, memory_shape=(2,))
    for _ in range(2):
        assert played.run().kept["seen"].tolist() == [0.0, 1.0, 2.0]


def test_tensors_for_policies_that_want_them() -> None:
    torch = pytest.importorskip("torch")

    class Linear(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, observation: Any) -> Any:
            logits = self.layer(observation.float())
            assert not logits.requires_grad
            return {"action": logits.argmax(-1), "logits": logits}

    (arguments,) = toy_args(CountingTask, 1, max_steps=3)
    episode = EpisodeRunner(ToySampler, arguments, policy=Linear(), device="cpu").run()
    assert isinstance(episode.actions, np.ndarray)
    assert episode.kept["logits"].shape == (3, 4)


class NestedTask(CountingTask):
    space = spaces.Dict({"a": spaces.Box(0, 9, (2,)), "b": spaces.Tuple([spaces.Text(9)])})

    def get_observations(self) -> Any:
        return {"a": np.full(2, self.step_number, np.float32), "b": ("x" * self.step_number,)}


def test_nested_observations() -> None:
    def look(observation: Any) -> dict[str, Any]:
        assert observation["a"].shape == (1, 2)
        assert observation["b"][0].shape == (1,)
        return {"action": np.zeros(1, int)}

    observations = runner(NestedTask, look, max_steps=2).run().observations
    assert observations["a"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert observations["b"][0].tolist() == ["", "x", "xx"]


@pytest.mark.parametrize(
    ("policy", "error", "match"),
    [
        (lambda _: 3, InvalidArgument, 'must return a dict with "action", got int'),
        (lambda _: {"value": np.zeros(1)}, InvalidArgument, r"got \['value'\]"),
        (lambda _: {"action": np.array([4])}, InvalidAction, "4"),
    ],
)
def test_policies_that_are_none(policy: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        runner(policy=policy).run()


def test_close_reaches_task_and_sampler(tmp_path: Any) -> None:
    runner(marks=str(tmp_path)).close()
    assert {path.name for path in tmp_path.iterdir()} == {"task 0", "sampler 0"}


def test_a_scheduler_of_episodes() -> None:
    async def main() -> None:
        async with Scheduler(lambda: runner(RandomWalk, walk), 2) as scheduler:
            scheduler.schedule([EpisodeTask(seed=5, repeat_times=3)] * 2, 0)
            statuses, episodes = await scheduler.get_results(0)
            assert [status.ok for status in statuses] == [True, True]
            alone = runner(RandomWalk, walk)
            for episode in episodes:
                again = alone.run(EpisodeTask(seed=5), episode.run_id)
                assert np.array_equal(episode.observations, again.observations)
            mean = np.mean([sum(episode.rewards) for episode in episodes])
            assert np.mean([s.metrics["reward"] for s in statuses]) == pytest.approx(mean)

    def walk(observation: Any) -> dict[str, Any]:
        return {"action": np.zeros((1, 2), np.float32)}

    asyncio.run(main())


# -- rollouts of a vector -------------------------------------------------------------------------


def act_all(observation: Any) -> dict[str, Any]:
    return {"action": observation[:, 2] % 4, "value": observation[:, 2] / 2}


def make_in_process() -> SingleProcessVectorSampledTasks:
    return SingleProcessVectorSampledTasks(
        ToySampler, toy_args(CountingTask, 3, max_steps=4), should_log=False, seed=0
    )


def test_a_rollout_is_what_collect_gives_and_owned() -> None:
    rollouts = RolloutRunner(make_in_process, policy=act_all, horizon=6, gamma=0.9, lam=0.8)
    with make_in_process() as tasks:
        buffer = RolloutBuffer(tasks, 6)
        given = []
        for _ in range(2):
            given.append(rollouts.run())
            ends = collect(tasks, act_all, buffer)
            returns, advantages = buffer.returns_and_advantages(0.9, 0.8)
            rollout = given[-1]
            assert np.array_equal(rollout.observations, buffer.observations)
            assert np.array_equal(rollout.actions, buffer.actions)
            assert np.array_equal(rollout.rewards, buffer.rewards)
            assert np.array_equal(rollout.truncated, buffer.truncated)
            assert np.array_equal(rollout.episode_starts, buffer.episode_starts)
            assert np.array_equal(rollout.returns, returns)
            assert np.array_equal(rollout.advantages, advantages)
            assert np.array_equal(rollout.kept["value"], buffer["value"])
            assert len(rollout.episodes) == len(ends) == rollout.metrics["num_episodes"]
    rollouts.close()
    assert not np.array_equal(given[0].observations, given[1].observations)  # not written over


def test_a_scheduler_of_rollouts_with_vectors_in_its_runners() -> None:
    def make_runner() -> RolloutRunner:
        def make_tasks() -> VectorSampledTasks:
            return VectorSampledTasks(
                ToySampler, toy_args(CountingTask, 3, max_steps=4), should_log=False, seed=0
            )

        return RolloutRunner(make_tasks, policy=act_all, horizon=6)

    async def main() -> Any:
        async with Scheduler(make_runner, 1) as scheduler:
            scheduler.schedule([None] * 2, 0)
            statuses, rollouts = await scheduler.get_results(0)
            assert all(status.ok for status in statuses)
            return rollouts

    alone = RolloutRunner(make_in_process, policy=act_all, horizon=6)
    for rollout in asyncio.run(main()):
        assert np.array_equal(rollout.observations, alone.run().observations)
    alone.close()


def test_a_policy_without_weights_says_so() -> None:
    async def main() -> None:
        make_runner = lambda: RolloutRunner(make_in_process, policy=act_all, horizon=6)  # noqa: E731
        async with Scheduler(make_runner, 1, backend="inline", max_retry_times=0) as scheduler:
            scheduler.schedule([{"weights": 1}], 0)
            (status,), _ = await scheduler.get_results(0)
            assert CallError.__name__ in status.message
            assert "load_state_dict" in status.message

    asyncio.run(main())
