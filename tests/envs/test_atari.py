"""Atari games on the emulator itself: an in-place task."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from vectasks import (
    InvalidArgument,
    RLStepResult,
    SingleProcessVectorSampledTasks,
    Task,
    TaskSampler,
    VectorSampledTasks,
)
from vectasks.envs import AtariTask, AtariTaskSampler
from vectasks.testing import TaskSamplerContract, assert_identical

ale_py = pytest.importorskip("ale_py", reason="needs ale_py: the extra vectasks[atari]")

NUM_SAMPLERS, NUM_STEPS = 3, 12
SHORT_EPISODE = 16  # frames: 4 steps, so that the trace holds ends of episodes


class WrappedTask(Task[AtariTask]):
    """An Atari task that is not in place."""

    @property
    def action_space(self) -> Any:
        return self.env.action_space

    @property
    def observation_space(self) -> Any:
        return self.env.observation_space

    def _step(self, action: Any) -> RLStepResult:
        result = self.env.step(action)
        return result._replace(observation=self.env.get_observations())

    def get_observations(self) -> Any:
        return self.env.get_observations()

    def metrics(self) -> dict[str, Any]:
        return self.env.metrics()


class CountingTask(WrappedTask):
    """In place again; counts how it is asked for its observation."""

    num_asked, num_written = 0, 0

    def _step(self, action: Any) -> RLStepResult:
        return self.env.step(action)

    def get_observations(self) -> Any:
        self.num_asked += 1
        return super().get_observations()

    def write_observation(self, out: Any) -> None:
        assert not out.flags.owndata
        self.num_written += 1
        self.env.write_observation(out)


class WrappingSampler(TaskSampler[Any]):
    def __init__(self, task_type: type[WrappedTask], **kwargs: Any) -> None:
        self.task_type = task_type
        self.inner = AtariTaskSampler("Pong", **kwargs)

    def next_task(self, **kwargs: Any) -> Any:
        return self.task_type(self.inner.next_task())

    def set_seed(self, seed: int) -> None:
        self.inner.set_seed(seed)


def play(sampler: AtariTaskSampler, num_steps: int) -> list[RLStepResult]:
    task = sampler.next_task()
    rng = np.random.default_rng(0)
    return [task.step(int(rng.integers(task.action_space.n))) for _ in range(num_steps)]


def screen_after(sampler: AtariTaskSampler, num_steps: int = 5) -> Any:
    play(sampler, num_steps)
    task = sampler.last_sampled_task
    assert task is not None
    return task.get_observations()


class TestContract(TaskSamplerContract):
    def make_task_sampler(self) -> Any:
        return AtariTaskSampler("Pong", max_num_frames_per_episode=20 * SHORT_EPISODE)


class TestStackedContract(TaskSamplerContract):
    def make_task_sampler(self) -> Any:
        return AtariTaskSampler(
            "Pong",
            obs_type="stacked",
            seed_each_episode=False,
            max_num_frames_per_episode=20 * SHORT_EPISODE,
        )


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale"])
def test_same_as_gymnasium_sees_it(obs_type: Any) -> None:
    env = gymnasium.make(
        "ALE/Breakout-v5",
        obs_type=obs_type,
        repeat_action_probability=0.0,
        full_action_space=False,
    )
    sampler = AtariTaskSampler("Breakout", obs_type=obs_type, repeat_action_probability=0.0)
    task = sampler.next_task()
    observation, _ = env.reset(seed=0)
    assert task.observation_space == env.observation_space
    assert task.action_space == env.action_space
    for action in [1, 2, 2, 3, 0, 1]:
        assert np.array_equal(task.get_observations(), observation)
        observation, reward, *_ = env.step(action)
        assert task.step(action)[:3] == (None, reward, False)
    env.close()


@pytest.mark.parametrize(("frameskip", "size", "count"), [(4, 84, 4), (1, 50, 2), (2, 84, 1)])
def test_stacked_screens_are_those_of_gymnasiums_wrappers(
    frameskip: int, size: int, count: int
) -> None:
    env: Any = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=frameskip, screen_size=size)
    env = FrameStackObservation(env, count)
    sampler = AtariTaskSampler(
        "Breakout",
        obs_type="stacked",
        frameskip=frameskip,
        repeat_action_probability=0.0,
        screen_size_px=size,
        num_stacked=count,
        noop_max=0,
    )
    rng = np.random.default_rng(0)
    num_ended = 0
    task = sampler.next_task()
    assert (task.observation_space, task.action_space) == (env.observation_space, env.action_space)
    observation, _ = env.reset()
    for _ in range(900):
        assert np.array_equal(task.get_observations(), observation)
        action = int(rng.integers(4))
        observation, reward, terminated, truncated, _ = env.step(action)
        result = task.step(action)
        assert result[:3] == (None, reward, terminated or truncated)
        if result.done:
            assert np.array_equal(task.get_observations(), observation)
            assert result.info == {"terminated": terminated, "truncated": truncated}
            num_ended += 1
            observation, _ = env.reset()
            task = sampler.next_task()
    assert num_ended > 0
    env.close()


def test_stacked_episodes_begin_after_some_frames_of_doing_nothing() -> None:
    frames = set()
    sampler = AtariTaskSampler("Pong", obs_type="stacked", noop_max=3, seed=0)
    for _ in range(12):
        task = sampler.next_task()
        frames.add(task.env.getEpisodeFrameNumber())
        first = task.get_observations()
        assert all(np.array_equal(screen, first[0]) for screen in first)
    assert frames == {1, 2, 3}
    at_once = AtariTaskSampler("Pong", obs_type="stacked", noop_max=0, seed=0).next_task()
    assert at_once.env.getEpisodeFrameNumber() == 0


def test_one_seed_for_many_episodes() -> None:
    options = {"obs_type": "stacked", "max_num_frames_per_episode": 200, "seed": 5}
    one, same = (AtariTaskSampler("Pong", seed_each_episode=False, **options) for _ in range(2))
    each = AtariTaskSampler("Pong", **options)
    assert not one.episodes_are_independent
    assert each.episodes_are_independent
    seeds = set()
    for number in range(3):
        first, second = play(one, 20), play(same, 20)
        assert first == second
        assert np.array_equal(*(s.last_sampled_task.get_observations() for s in (one, same)))
        assert one.last_sampled_task.task_info["episode"] == number
        seeds.add(one.last_sampled_task.task_info["seed"])
    assert len(seeds) == 2
    assert None in seeds  # all but the first
    one.skip_task()  # begins an episode, as the emulator's random state is where it leads
    same.next_task()
    assert play(one, 20) == play(same, 20)
    assert np.array_equal(*(s.last_sampled_task.get_observations() for s in (one, same)))
    one.set_seed(6)
    assert one.next_task().task_info["seed"] not in seeds


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale"])
def test_the_screen_is_written_into_any_array(obs_type: Any) -> None:
    task = AtariTaskSampler("Pong", obs_type=obs_type).next_task()
    screen = task.get_observations()
    rows = np.zeros((2, *screen.shape), np.uint8)
    upside_down = np.zeros_like(screen)[::-1]
    wider = np.zeros(screen.shape, np.int64)
    for out in (rows[1], upside_down, wider):
        task.write_observation(out)
        assert np.array_equal(out, screen)
    assert not rows[0].any()


def test_observations_are_owned() -> None:
    task = AtariTaskSampler("Pong").next_task()
    before = task.get_observations()
    copy = before.copy()
    for _ in range(20):
        task.step(2)
    assert np.array_equal(before, copy)
    assert not np.array_equal(before, task.get_observations())


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale", "stacked"])
def test_same_in_processes_in_process_and_not_in_place(obs_type: Any) -> None:
    kwargs = {"obs_type": obs_type, "max_num_frames_per_episode": SHORT_EPISODE}
    in_place = [{"game": "Pong", **kwargs}] * NUM_SAMPLERS
    wrapped = [{"task_type": WrappedTask, **kwargs}] * NUM_SAMPLERS
    vectors = [
        VectorSampledTasks(AtariTaskSampler, in_place, seed=5, max_processes=2),
        SingleProcessVectorSampledTasks(AtariTaskSampler, in_place, seed=5),
        VectorSampledTasks(WrappingSampler, wrapped, seed=5, max_processes=1),
    ]
    rng = np.random.default_rng(1)
    num_ended = 0
    try:
        for _ in range(NUM_STEPS):
            actions = rng.integers(6, size=NUM_SAMPLERS)
            first, *others = [tasks.step_batch(actions) for tasks in vectors]
            num_ended += first.done.sum()
            for other in others:
                assert_identical(first._asdict(), other._asdict())
            for row in np.flatnonzero(first.done):
                info = first.infos[row]
                assert (info["terminated"], info["truncated"]) == (False, True)
                assert info["final_observation"].shape == first.observation.shape[1:]
    finally:
        for tasks in vectors:
            tasks.close()
    assert num_ended >= NUM_SAMPLERS


def test_the_step_lane_hands_out_its_rows() -> None:
    arguments = [{"task_type": CountingTask}] * 2
    with VectorSampledTasks(WrappingSampler, arguments, max_processes=1) as tasks:
        asked = tasks.attr("num_asked")
        for _ in range(10):
            tasks.step_batch([0, 1])
        assert tasks.attr("num_asked") == asked
        assert tasks.attr("num_written") == [10, 10]


def test_seeds_are_honoured() -> None:
    one, same, other = (AtariTaskSampler("Pong", seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(screen_after(one), screen_after(same))
    seeds = [sampler.next_task().task_info["seed"] for sampler in (one, same, other)]
    assert seeds[0] == seeds[1] != seeds[2]
    one.set_seed(9)
    same.set_seed(9)
    first, second = play(one, 30), play(one, 30)
    assert play(same, 30) == first
    assert play(same, 30) == second


def test_an_episode_and_what_it_tells() -> None:
    sampler = AtariTaskSampler("Breakout", seed=0, frameskip=10)
    task = sampler.next_task()
    assert task.lives == 5
    rewards = []
    while not task.is_done():
        result = task.step(1)  # serves and never moves: the lives are lost soon
        rewards.append(result.reward)
        assert bool(result.info) == result.done
    assert result.info == {"terminated": True, "truncated": False}
    assert (task.reached_terminal_state(), task.reached_max_steps()) == (True, False)
    assert task.metrics() == {"reward": sum(rewards), "ep_length": len(rewards)}
    assert task.lives == 0
    assert task.task_info == {"game": "breakout", "seed": task.task_info["seed"], "episode": 0}
    assert sampler.next_task().task_info["episode"] == 1
    sampler.reset()
    assert sampler.next_task().task_info["episode"] == 0


def test_render() -> None:
    task = AtariTaskSampler("Pong", obs_type="grayscale").next_task()
    image = task.render("rgb")
    assert image.shape == (210, 160, 3)
    assert image.dtype == np.uint8
    with pytest.raises(ValueError, match="human"):
        task.render("human")


def test_names_of_games_and_their_actions() -> None:
    assert AtariTaskSampler("SpaceInvaders").game == "space_invaders"
    assert AtariTaskSampler("space_invaders").action_space.n == 6
    assert AtariTaskSampler("pong", full_action_space=True).action_space.n == 18


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"game": "Brakeout"}, r"get_all_rom_ids\(\)"),
        ({"game": "Pong", "obs_type": "ram"}, "obs_type"),
        ({"game": "Pong", "frameskip": 0}, "frameskip"),
        ({"game": "Pong", "obs_type": "stacked", "screen_size_px": 0}, "screen_size_px"),
        ({"game": "Pong", "obs_type": "stacked", "num_stacked": 0}, "num_stacked"),
        ({"game": "Pong", "obs_type": "stacked", "noop_max": -1}, "noop_max"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        AtariTaskSampler(**kwargs)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"vectasks\[atari\]"):
        AtariTaskSampler("Pong")
