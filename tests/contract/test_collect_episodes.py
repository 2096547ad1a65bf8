"""``collect_episodes``: exactly so many whole episodes."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from collect_helpers import NestedObservations
from kinds_of_worker import Kind
from test_collect_ready_first import Streams

from vectasks import InvalidArgument, SamplerUnavailable, TaskError
from vectasks.rollouts import collect_episodes
from vectasks.testing import assert_identical
from vectasks.testing.toys import CountingTask, FailingTask


class Plain(Streams):
    """Gives what can be kept of a single sampler."""


@pytest.mark.parametrize("num_episodes", [1, 4, 11])
@pytest.mark.parametrize("options", [{}, {"min_batch": 1}, {"min_batch": 4, "max_wait_s": 0.0}])
def test_so_many_and_which_they_are(
    quick_lane: Any, num_episodes: int, options: dict[str, Any]
) -> None:
    lengths = [1, 2, 9, 3]
    with quick_lane.toys(max_steps=lengths) as tasks:
        episodes = collect_episodes(tasks, Plain(), num_episodes, **options)
    assert [episode.run_id for episode in episodes] == list(range(num_episodes))
    for k, episode in enumerate(episodes):
        i, number = k % 4, k // 4
        expected = [[i, number, t] for t in range(lengths[i] + 1)]
        assert episode.observations.tolist() == expected
        assert len(episode.actions) == len(episode.rewards) == lengths[i]
        np.testing.assert_allclose(
            episode.rewards, episode.actions + np.arange(1, lengths[i] + 1) / 8
        )
        assert (episode.terminated, episode.truncated) == (False, True)
        assert episode.metrics["ep_length"] == lengths[i]
        assert episode.kept["who"].tolist() == [i] * lengths[i]


def test_calls_follow_each_other(quick_lane: Any) -> None:
    with quick_lane.toys(max_steps=[1, 2, 3, 4]) as tasks:
        first = collect_episodes(tasks, Plain(), 4)
        second = collect_episodes(tasks, Plain(), 6)
        tasks.step([0] * 4)  # in the midst of an episode: that is no whole one
        third = collect_episodes(tasks, Plain(), 1)
    assert [episode.observations[0, 1] for episode in (*first, *second)] == [0] * 4 + [1] * 4 + [
        2
    ] * 2
    assert third[0].observations[0].tolist() == [0, 5, 0]


def test_the_same_in_every_place_and_with_prepared_tasks() -> None:
    def collected(kind: Kind, **vector: Any) -> Any:
        with kind.toys(NestedObservations, max_steps=[1, 2, 3, 4], vector=vector) as tasks:
            return collect_episodes(tasks, Always(), 9)

    expected = collected(Kind())
    assert_identical(expected, collected(Kind("forkserver", 2)))
    assert_identical(expected, collected(Kind("forkserver", 2, "pipe")))


class Always:
    """Takes the first action there is."""

    def __call__(self, observation: Any) -> dict[str, Any]:
        count = len(next(iter(_leaves(observation))))
        return {"action": np.zeros((count, 2), int), "value": np.zeros(count)}


def _leaves(observation: Any) -> Any:
    if isinstance(observation, dict):
        for part in observation.values():
            yield from _leaves(part)
    elif isinstance(observation, tuple):
        for part in observation:
            yield from _leaves(part)
    else:
        yield observation


def test_memories_begin_anew_with_each_episode(kind: Any) -> None:
    class Counting:
        def __call__(self, observation: Any, memory: Any) -> dict[str, Any]:
            zeros = np.zeros(len(memory), int)
            return {"action": zeros, "memory": memory + 1, "was": memory[:, 0]}

    with kind.toys(max_steps=[1, 2, 3, 4]) as tasks:
        for episode in collect_episodes(tasks, Counting(), 9, memory_shape=(1,)):
            assert episode.kept["was"].tolist() == list(range(len(episode.actions)))


def test_an_episode_that_a_death_cuts_off_does_not_count() -> None:
    class Kills(Plain):
        def __call__(self, observation: Any, *, sampler_ids: list[int]) -> dict[str, Any]:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                os.kill(self.pid, signal.SIGKILL)
            return super().__call__(observation, sampler_ids=sampler_ids)

    policy = Kills()
    options = {"on_worker_death": "restart"}
    with Kind("forkserver", 1).toys(max_steps=3, vector=options) as tasks:
        policy.pid = tasks.call("pid")[0]
        episodes = collect_episodes(tasks, policy, 8, min_batch=4)
        assert [episode.metrics["ep_length"] for episode in episodes] == [3] * 8
        for episode in episodes:
            assert episode.observations[:, 2].tolist() == [0, 1, 2, 3]


def test_errors_leave_nothing_out(kind: Any) -> None:
    class Wrong(Plain):
        def __call__(self, observation: Any, *, sampler_ids: list[int]) -> dict[str, Any]:
            return {"action": [0]}

    with kind.toys(max_steps=3, num_tasks=2) as tasks:
        with pytest.raises(InvalidArgument, match=r"'action' has the shape \[1\], expected \[4"):
            collect_episodes(tasks, Wrong(), 4)
        for wrong in (0, -1, 1.5, True, "3"):
            with pytest.raises(InvalidArgument, match="num_episodes"):
                collect_episodes(tasks, Plain(), wrong)
        with pytest.raises(InvalidArgument, match="memory_shape"):
            collect_episodes(tasks, Plain(), 4, memory_shape=(1,))
        with pytest.raises(SamplerUnavailable, match=r"no further task.*1 more episodes"):
            collect_episodes(tasks, Plain(), 12)
    with kind.toys(FailingTask, fail_at="step", max_steps=9) as tasks:
        with pytest.raises(TaskError):
            collect_episodes(tasks, Plain(), 4)
        tasks.next_task()
        tasks.step([0] * 4)


def test_paused_samplers_play_none(kind: Any) -> None:
    with kind.toys(CountingTask, max_steps=2) as tasks:
        tasks.pause_at(1)
        episodes = collect_episodes(tasks, Plain(), 5)
        assert [episode.observations[0, 0] for episode in episodes] == [0, 2, 3, 0, 2]
