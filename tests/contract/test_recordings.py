"""Episodes are had again as they were: on every kind of worker, whatever was asked before."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks import (
    LayoutError,
    RecordingError,
    SamplerIndexError,
    SetupError,
    TaskError,
    WorkerDied,
)
from vectasks.debug import Replay, load
from vectasks.envs import GymnasiumTaskSampler
from vectasks.protocol import Command
from vectasks.testing import toy_args
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    MultiAgentTask,
    NestedTask,
    RandomWalk,
    TextTask,
    ToyError,
    ToySampler,
)


def assert_replays(tasks: Any, sampler_index: int, file: Path | None = None) -> Any:
    """A sampler's episode, had again, stands where the vector's does; its recording."""
    sampler_id = tasks.sampler_ids[sampler_index]
    recording = tasks.recording_at(sampler_index)
    if file is not None:
        recording.save(file)
        recording = load(file)[sampler_id]
    with Replay(recording) as replay:
        outcome = replay.run()
        assert outcome.divergence is None
        assert outcome.error is None
        now = tasks.command_at(sampler_index, "call", "get_observations")
        np.testing.assert_equal(replay.task.get_observations(), now)
        assert replay.task.num_steps_taken() == tasks.call_at(sampler_index, "num_steps_taken")
    return recording


def actions_of(tasks: Any, rng: np.random.Generator) -> list[Any]:
    return [rng.uniform(-1, 1, space.shape).astype(space.dtype) for space in tasks.action_spaces]


@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_whatever_was_asked_before_is_had_again(
    every_kind: Any, transport: str, tmp_path: Path
) -> None:
    vector = {"seed": 5, "observation_transport": transport}
    rng = np.random.default_rng(0)
    with every_kind.toys(RandomWalk, count=3, max_steps=[3, 5, 50], vector=vector) as tasks:

        def act(num_steps: int) -> None:
            for k in range(num_steps):
                actions = actions_of(tasks, rng)
                (tasks.step_batch if k % 2 else tasks.step)(actions)

        assert assert_replays(tasks, 1).num_steps == 0
        act(7)
        tasks.step_at(1, actions_of(tasks, rng)[1])
        tasks.send(actions_of(tasks, rng))
        tasks.recv(1)
        tasks.recv()
        tasks.command_at(2, "step", actions_of(tasks, rng)[2])
        for i in range(3):
            assert_replays(tasks, i)
        tasks.next_task_at(0, force=True)
        tasks.pause_at(1)
        act(2)
        tasks.resume_all()
        tasks.reset_all()
        act(4)
        for i in range(3):
            assert_replays(tasks, i)
        tasks.set_seeds(9)
        act(6)  # sampler 2 goes on with the episode in which it was seeded
        for i in range(3):
            assert_replays(tasks, i, tmp_path / "episode.vt")


@pytest.mark.parametrize("task_class", [NestedTask, TextTask, MultiAgentTask])
def test_actions_and_rewards_of_every_form(make: Any, task_class: Any) -> None:
    tasks = make(task_class, count=2, max_steps=3)
    for space in tasks.action_spaces:
        space.seed(0)
    for _ in range(5):
        tasks.step([space.sample() for space in tasks.action_spaces])
    for i in range(2):
        recording = assert_replays(tasks, i)
        assert recording.num_steps == 2


@pytest.mark.parametrize("seed_each_episode", [True, False])
def test_gymnasium_seeded_once_or_for_every_episode(kind: Any, seed_each_episode: bool) -> None:
    arguments = {"env": "CartPole-v1", "seed_each_episode": seed_each_episode}
    rng = np.random.default_rng(0)
    with kind.make(GymnasiumTaskSampler, [arguments] * 2, seed=3) as tasks:
        for _ in range(150):
            tasks.step(rng.integers(2, size=2))
        for i in range(2):
            recording = assert_replays(tasks, i)
            in_all = sum(call.command is Command.STEP for call in recording.calls)
            # Episodes with a seed of their own need no actions but theirs.
            assert in_all == (recording.num_steps if seed_each_episode else 150)
        tasks.set_seeds(8)
        tasks.reset_all()
        for _ in range(4):
            tasks.step(rng.integers(2, size=2))
        for i in range(2):
            recording = assert_replays(tasks, i)
            assert sum(call.command is Command.STEP for call in recording.calls) == 4
            task_info = tasks.attr_at(i, "task_info")
            with Replay(recording) as replay:
                replay.run()
                assert replay.task.task_info == task_info


def test_unseeded_environments_are_had_again(processes: Any) -> None:
    with processes.make(GymnasiumTaskSampler, [{"env": "CartPole-v1"}] * 2) as tasks:
        for _ in range(60):
            tasks.step([1, 1])
        first = assert_replays(tasks, 0)
        assert first.plan.seed != assert_replays(tasks, 1).plan.seed
        tasks.restart_at(0)
        tasks.step([1, 1])
        assert assert_replays(tasks, 0).plan.seed != first.plan.seed


def test_lockstep(make: Any) -> None:
    tasks = make(
        RandomWalk, count=2, max_steps=[2, 4], vector={"auto_resample_when_done": False, "seed": 1}
    )
    rng = np.random.default_rng(0)
    for _ in range(7):  # at the end sampler 0 waits for sampler 1
        tasks.step(actions_of(tasks, rng))
    for i in range(2):
        recording = assert_replays(tasks, i)
        assert recording.num_steps == 3


# -- failures ----------------------------------------------------------------------------------


def test_a_failed_step(every_kind: Any, tmp_path: Path) -> None:
    options = {"fail_sampler": 1, "fail_episode": 1, "fail_step": 2, "max_steps": 3}
    with every_kind.toys(FailingTask, count=2, **options) as tasks:
        for k in range(4):
            tasks.step_batch([k % 4] * 2)
        with pytest.raises(TaskError) as caught:
            tasks.step_batch([2, 3])
        assert list(caught.value.recordings) == [1]
        caught.value.save(tmp_path / "failure.vt")
        recording = load(tmp_path / "failure.vt")[1]
        assert recording.actions == [3, 3]
        assert recording.failure.type_name == "ToyError"
        assert "on purpose" in recording.failure.traceback_text
        with Replay(recording) as replay:
            outcome = replay.run()
            assert isinstance(outcome.error, ToyError)
            assert outcome.divergence is None
            assert outcome.num_steps == 2
            assert replay.task.counts() == (1, 1, 2)
        tasks.next_task_at(1)  # what failed is part of what happened before
        tasks.step([1, 1])
        assert assert_replays(tasks, 1).actions == [1]


@pytest.mark.parametrize("place", ["render", "metrics", "get_observations", "next_task"])
def test_failures_elsewhere(make: Any, place: str) -> None:
    tasks = make(FailingTask, count=1, fail_at=place, fail_step=2, max_steps=3)

    def go_on() -> None:
        for _ in range(3):
            tasks.step([0])
            if place == "render":
                tasks.render("rgb_array")

    with pytest.raises(TaskError) as caught:
        go_on()
    with Replay(caught.value.recordings[0]) as replay:
        outcome = replay.run()
    assert isinstance(outcome.error, ToyError)
    assert outcome.divergence is None


def test_a_sampler_that_cannot_be_made(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        kind.toys(CountingTask, count=1, fail_at="make")
    caught.value.save(tmp_path / "failure.vt")
    with Replay(load(tmp_path / "failure.vt")[0]) as replay:
        assert isinstance(replay.run().error, ToyError)


def test_an_observation_that_misfits(make: Any) -> None:
    tasks = make(FailingTask, count=2, how="none", fail_step=99)
    tasks.step([0, 1])
    with pytest.raises(TaskError) as caught:  # both fail in this step
        tasks.step([2, 3])
    assert [r.actions for r in caught.value.recordings.values()] == [[0, 2], [1, 3]]
    for recording in caught.value.recordings.values():
        with Replay(recording) as replay:
            assert isinstance(replay.run().error, ValueError)


def test_a_layout_error(make: Any) -> None:
    tasks = make(MultiAgentTask, count=1)
    with pytest.raises(LayoutError) as caught:
        tasks.step_batch([(1, 2)])
    assert caught.value.recordings[0].actions == [(1, 2)]
    with Replay(caught.value.recordings[0]) as replay:
        assert replay.run()[1:] == (None, None)  # the task does as it did


def test_a_death_leaves_the_actions(process_kind: Any, tmp_path: Path) -> None:
    with process_kind.toys(FailingTask, how="kill", fail_step=2, max_steps=9) as tasks:
        tasks.step([0, 1, 2, 3])
        with pytest.raises(WorkerDied) as caught:
            tasks.step([3, 2, 1, 0])
        assert set(caught.value.recordings) == set(caught.value.sampler_ids)
        caught.value.save(tmp_path / "death.vt")
        recordings = load(tmp_path / "death.vt")
        assert recordings[0].actions == [0, 3]
        assert recordings[0].failure.died
        assert "SIGKILL" in recordings[0].failure.message
        assert [call.reward for call in recordings[0].calls] == [0.125, None]
        for i in set(recordings) - {0}:
            with Replay(recordings[i]) as replay:
                assert replay.run()[:2] == (2, None)


def test_after_a_restart_the_new_sampler_is_recorded(processes: Any) -> None:
    options = {"how": "exit", "fail_sampler": 1, "fail_step": 2, "max_steps": 9}
    vector = {"on_worker_death": "restart", "seed": 4}
    with processes.toys(FailingTask, count=2, vector=vector, **options) as tasks:
        tasks.step([0, 0])
        assert "worker_restarted" in tasks.step([1, 1])[1].info
        tasks.step([2, 2])
        assert assert_replays(tasks, 1).actions == [2]
        assert assert_replays(tasks, 0).actions == [0, 1, 2]


@pytest.mark.guarantee("restart-recordings")
def test_what_a_restart_cut_off_is_kept(process_kind: Any, tmp_path: Path) -> None:
    options = {"how": "kill", "fail_sampler": 1, "fail_step": 3, "max_steps": 9}
    vector = {"on_worker_death": "restart", "seed": 4}
    with process_kind.toys(FailingTask, count=3, vector=vector, **options) as tasks:
        assert tasks.restart_recordings == {}
        for action in (2, 1, 3, 0):  # the last one is of the sampler's next episode
            tasks.step([action] * 3)
        cut_off = tasks.restart_recordings
        assert 1 in cut_off
        assert cut_off[1].actions == [2, 1, 3]
        assert cut_off[1].failure.died
        assert "SIGKILL" in cut_off[1].failure.message
        cut_off.save(tmp_path / "deaths.vt")
        assert load(tmp_path / "deaths.vt")[1].actions == [2, 1, 3]
        os.kill(tasks.call_at(2, "pid"), signal.SIGKILL)  # idle, and in another episode's midst
        tasks.step([1] * 3)
        assert tasks.restart_recordings[2].failure.died


def test_a_recording_can_be_had_while_a_step_is_out(processes: Any) -> None:
    with processes.toys(count=2) as tasks:
        tasks.step([1, 2])
        tasks.async_step([3, 0])
        assert tasks.recording_at(0).actions == [1, 3]
        tasks.wait_step()


def test_a_pickled_error_leaves_its_recording_behind(kind: Any, tmp_path: Path) -> None:
    arguments = toy_args(FailingTask, 1, fail_step=1)
    with (
        kind.make(lambda **options: ToySampler(**options), arguments) as tasks,
        pytest.raises(TaskError) as caught,
    ):
        tasks.step([0])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.sampler_id == 0
    with pytest.raises(RecordingError, match="pickled"):
        copy.save(tmp_path / "failure.vt")
    caught.value.save(tmp_path / "failure.vt")


# -- differing replays -------------------------------------------------------------------------


class Moody(CountingTask):
    """Does something else the second time."""

    mood = 0

    def reward(self, action: Any) -> float:
        return float(self.mood if self.differs("reward") else 0)

    def get_observations(self) -> Any:
        counts = np.array(self.counts(), np.int32)
        return counts + self.mood if self.differs("observation") else counts

    def reached_terminal_state(self) -> bool:
        return bool(self.mood) and self.differs("done")

    def differs(self, leaf: str) -> bool:
        return self.step_number >= 2 and leaf == self.options.leaf


@pytest.mark.parametrize("leaf", ["reward", "observation", "done"])
def test_a_replay_that_differs_says_where(monkeypatch: Any, leaf: str) -> None:
    from vectasks import SingleProcessVectorSampledTasks

    arguments = toy_args(Moody, 1, max_steps=4, leaf=leaf)
    with (
        SingleProcessVectorSampledTasks(ToySampler, arguments) as tasks,
        tasks.record_episodes(observations=True) as recorder,
    ):
        for k in range(8):
            (tasks.step if k % 2 else tasks.step_batch)([1])
    recording = recorder.recordings[1]
    with Replay(recording) as replay:
        assert replay.run().divergence is None
    monkeypatch.setattr(Moody, "mood", 3)
    with Replay(recording) as replay:
        divergence = replay.run().divergence
    assert divergence[:3] == (0, 2, leaf)
    assert f"step 2 of episode 0: {leaf} was" in divergence.describe()


def test_the_leaf_of_a_nested_observation_is_named(make: Any) -> None:
    tasks = make(NestedTask, count=1, max_steps=2)
    with tasks.record_episodes(observations=True) as recorder:
        for _ in range(2):
            tasks.step_batch([tasks.action_spaces[0].sample()])
    (recording,) = recorder.recordings
    with Replay(recording) as replay:
        assert replay.run().divergence is None
    observation = recording.calls[0].observation
    observation["pose"][0][:] += 1
    with Replay(recording) as replay:
        assert replay.run().divergence.leaf == "observation['pose'][0]"


# -- episodes on demand ------------------------------------------------------------------------


def test_record_episodes_keeps_whole_ones(make: Any) -> None:
    tasks = make(RandomWalk, count=2, max_steps=[3, 4], vector={"seed": 2})
    rng = np.random.default_rng(1)
    taken = []
    for k in range(12):
        if k == 1:  # in the midst of both first episodes
            recorder = tasks.record_episodes()
        taken.append(actions_of(tasks, rng))
        tasks.step(taken[-1])
    assert [r.sampler_id for r in recorder.recordings] == [0, 1, 0, 1, 0, 0, 1]
    second = recorder.recordings[3]
    np.testing.assert_array_equal(second.actions, [row[1] for row in taken[4:8]])
    for recording in recorder.recordings:
        with Replay(recording) as replay:
            outcome = replay.run()
        assert outcome[1:] == (None, None)
        assert outcome.num_steps == [3, 4][recording.sampler_id]
    recorder.close()
    tasks.step(actions_of(tasks, rng))
    tasks.step(actions_of(tasks, rng))
    tasks.step(actions_of(tasks, rng))
    assert len(recorder.recordings) == 7


def test_record_episodes_of_some_samplers_and_the_last_few(make: Any) -> None:
    tasks = make(count=3, max_steps=2)
    with tasks.record_episodes([2], max_episodes=2) as recorder:
        for k in range(8):
            tasks.step([k % 4] * 3)
    assert [(r.sampler_id, r.actions) for r in recorder.recordings] == [(2, [0, 1]), (2, [2, 3])]
    with pytest.raises(SamplerIndexError, match=r"\[0, 1, 2\], got \[3\]"):
        tasks.record_episodes([3])


def test_record_episodes_in_lockstep(make: Any) -> None:
    tasks = make(count=2, max_steps=[2, 3], vector={"auto_resample_when_done": False})
    with tasks.record_episodes() as recorder:
        for k in range(6):
            tasks.step([k % 4] * 2)
    expected = [(0, [0, 1]), (1, [0, 1, 2]), (0, [3, 0]), (1, [3, 0, 1])]
    assert [(r.sampler_id, r.actions) for r in recorder.recordings] == expected
