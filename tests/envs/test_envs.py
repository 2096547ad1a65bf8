"""Gymnasium environments as streams of tasks."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from vectasks import InvalidArgument, MissingExtra, SingleProcessVectorSampledTasks
from vectasks.envs import GymnasiumTask, GymnasiumTaskSampler
from vectasks.envs.gymnasium import can_give_images, find_spec
from vectasks.sources import TaskList


class CountdownEnv(gymnasium.Env[Any, Any]):
    """Counts its steps; terminates after ``length`` of them. Reuses its info dict."""

    observation_space = gymnasium.spaces.Discrete(100)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.resets: list[tuple[int | None, Any]] = []
        self.shared_info: dict[str, Any] = {}
        self.num_closed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets.append((seed, options))
        self.count = 0
        return 0, {"fresh": True}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.shared_info["count"] = self.count
        if self.count == self.length:
            self.shared_info["is_success"] = True
        return self.count, 0.5, self.count >= self.length, False, self.shared_info

    def close(self) -> None:
        self.num_closed += 1


def run(task: GymnasiumTask, action: Any = 0) -> list[Any]:
    results = []
    while not task.is_done():
        results.append(task.step(action))
    return results


def first_observation(sampler: GymnasiumTaskSampler) -> Any:
    task = sampler.next_task()
    assert task is not None
    return task.get_observations()


def seeds(sampler: GymnasiumTaskSampler, count: int) -> list[int | None]:
    tasks = [sampler.next_task() for _ in range(count)]
    return [task.task_info["seed"] for task in tasks if task is not None]


def test_termination_is_told_on_the_last_step_only() -> None:
    env = CountdownEnv()
    task = GymnasiumTaskSampler(env).next_task()
    assert task is not None
    results = run(task)
    assert [result.done for result in results] == [False, False, True]
    assert "terminated" not in env.shared_info
    assert results[-1].info == {
        "count": 3,
        "is_success": True,
        "terminated": True,
        "truncated": False,
    }
    assert (task.reached_terminal_state(), task.reached_max_steps()) == (True, False)
    assert task.metrics() == {"reward": 1.5, "ep_length": 3, "success": True}
    assert task.reset_info == {"fresh": True}
    with pytest.raises(RuntimeError, match="done"):
        task.step(0)


def test_a_time_limit_is_told_as_truncation() -> None:
    wrapped = GymnasiumTaskSampler(TimeLimit(CountdownEnv(9), 2)).next_task()
    limited = GymnasiumTaskSampler(partial(CountdownEnv, 9), max_steps=2).next_task()
    for task in (wrapped, limited):
        assert task is not None
        results = run(task)
        assert [result.done for result in results] == [False, True]
        assert results[0].info is task.env.unwrapped.shared_info  # type: ignore[attr-defined]
        assert results[-1].info == {"count": 2, "terminated": False, "truncated": True}
        assert (task.reached_terminal_state(), task.reached_max_steps()) == (False, True)
        assert task.metrics() == {"reward": 1.0, "ep_length": 2}


def test_ending_in_the_last_allowed_step_is_both() -> None:
    task = GymnasiumTaskSampler(CountdownEnv(2), max_steps=2).next_task()
    assert task is not None
    info = run(task)[-1].info
    assert (info["terminated"], info["truncated"]) == (True, True)


def test_an_ended_environment_is_reset_by_the_next_task_only() -> None:
    env = CountdownEnv()
    sampler = GymnasiumTaskSampler(env)
    task = sampler.next_task()
    assert task is not None
    run(task)
    assert len(env.resets) == 1
    assert task.get_observations() == 3
    sampler.next_task()
    assert len(env.resets) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda **kwargs: GymnasiumTaskSampler("CartPole-v1", **kwargs),
        lambda **kwargs: GymnasiumTaskSampler("CartPole", **kwargs),
        lambda **kwargs: GymnasiumTaskSampler(
            "gymnasium.envs.classic_control:CartPole-v1", **kwargs
        ),
        lambda **kwargs: GymnasiumTaskSampler(gymnasium.spec("CartPole-v1"), **kwargs),
        lambda **kwargs: GymnasiumTaskSampler(lambda: gymnasium.make("CartPole-v1"), **kwargs),
        lambda **kwargs: GymnasiumTaskSampler(gymnasium.make("CartPole-v1"), **kwargs),
    ],
    ids=["id", "versionless", "module", "spec", "factory", "env"],
)
@pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment")
def test_every_source_gives_the_same_episodes(make: Any) -> None:
    sampler = make(seed=5)
    expected = GymnasiumTaskSampler("CartPole-v1", seed=5)
    for episode in range(2):
        task, reference = sampler.next_task(), expected.next_task()
        assert reference is not None
        assert task.task_info["env_id"] == "CartPole-v1"
        assert task.task_info["episode"] == episode
        for got, want in zip(run(task, 1), run(reference, 1), strict=True):
            np.testing.assert_array_equal(got.observation, want.observation)
    assert task.action_space == gymnasium.spaces.Discrete(2)
    assert task.observation_space == sampler.env.observation_space
    sampler.close()
    expected.close()


def test_wrappers_are_kept() -> None:
    sampler = GymnasiumTaskSampler(lambda: FrameStackObservation(gymnasium.make("CartPole-v1"), 4))
    task = sampler.next_task()
    assert task is not None
    assert task.get_observations().shape == (4, 4)
    assert task.observation_space.shape == (4, 4)


def test_make_kwargs_reach_the_environment() -> None:
    sampler = GymnasiumTaskSampler("CartPole-v1", make_kwargs={"max_episode_steps": 2})
    task = sampler.next_task()
    assert task is not None
    assert len(run(task)) == 2
    assert GymnasiumTaskSampler(CountdownEnv, make_kwargs={"length": 7}).env.length == 7  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="made already"):
        GymnasiumTaskSampler(CountdownEnv(), make_kwargs={"length": 7})


def test_each_episode_is_reproducible_by_its_own_seed() -> None:
    sampler = GymnasiumTaskSampler("CartPole-v1", seed=3)
    for _ in range(3):
        task = sampler.next_task()
        assert task is not None
        observation, _info = gymnasium.make("CartPole-v1").reset(seed=task.task_info["seed"])
        np.testing.assert_array_equal(task.get_observations(), observation)


def test_set_seed_seeds_the_tasks_after_it() -> None:
    sampler = GymnasiumTaskSampler(CountdownEnv(), seed=3)
    before = seeds(sampler, 3)
    sampler.set_seed(3)
    assert seeds(sampler, 3) == before
    assert seeds(sampler, 3) != before
    assert len(set(before)) == 3


def test_never_seeded_draws_from_the_system() -> None:
    one, two = GymnasiumTaskSampler(CountdownEnv()), GymnasiumTaskSampler(CountdownEnv())
    assert seeds(one, 2) != seeds(two, 2)


def test_seed_each_episode_false_seeds_one_reset() -> None:
    sampler = GymnasiumTaskSampler(CountdownEnv(), seed=3, seed_each_episode=False)
    assert seeds(sampler, 3) == [3, None, None]
    sampler.set_seed(8)
    assert seeds(sampler, 2) == [8, None]
    unseeded = GymnasiumTaskSampler(CountdownEnv(), seed_each_episode=False)
    assert seeds(unseeded, 2) == [None, None]


def test_seed_each_episode_false_is_gymnasiums_own_sequence() -> None:
    sampler = GymnasiumTaskSampler("CartPole-v1", seed=4, seed_each_episode=False)
    env = gymnasium.make("CartPole-v1")
    for seed in (4, None, None):
        np.testing.assert_array_equal(first_observation(sampler), env.reset(seed=seed)[0])


def test_max_tasks_and_reset() -> None:
    sampler = GymnasiumTaskSampler(CountdownEnv(), seed=3, max_tasks=2)
    assert (sampler.length, sampler.total_unique) == (2, 2)
    first = seeds(sampler, 3)
    last = sampler.last_sampled_task
    assert sampler.length == 0
    assert last is not None
    assert last.task_info["episode"] == 1
    sampler.reset()
    assert sampler.length == 2
    second = seeds(sampler, 3)
    assert len(first) == len(second) == 2
    assert set(first).isdisjoint(second), "reset() must keep the random state"


def test_endless_stream() -> None:
    sampler = GymnasiumTaskSampler(CountdownEnv())
    assert (sampler.length, sampler.total_unique) == (math.inf, None)
    assert sampler.last_sampled_task is None
    task = sampler.next_task(force_advance_scene=True)
    assert sampler.last_sampled_task is task
    assert sampler.length == math.inf


def test_reset_options() -> None:
    env = CountdownEnv()
    options = {"level": 1}
    sampler = GymnasiumTaskSampler(env, reset_options=options)
    sampler.next_task()
    sampler.next_task(options={"level": 2})
    GymnasiumTaskSampler(env).next_task()
    assert [given for _, given in env.resets] == [{"level": 1}, {"level": 2}, None]
    assert env.resets[0][1] is not options


def test_render_by_default_for_an_id() -> None:
    sampler = GymnasiumTaskSampler("CartPole-v1", seed=0)
    task = sampler.next_task()
    assert task is not None
    frame = task.render()
    assert frame.dtype == np.uint8
    assert frame.shape == (400, 600, 3)
    np.testing.assert_array_equal(frame, task.render("rgb_array"))
    with pytest.raises(ValueError, match="'depth'"):
        task.render("depth")
    sampler.close()


@pytest.mark.filterwarnings("error")
def test_an_environment_without_images_says_how_to_make_it() -> None:
    for env in (CountdownEnv(), gymnasium.make("CartPole-v1")):
        task = GymnasiumTaskSampler(env).next_task()
        assert task is not None
        with pytest.raises(RuntimeError, match='make it with render_mode="rgb_array"'):
            task.render()
    text = GymnasiumTaskSampler("FrozenLake-v1", make_kwargs={"render_mode": "ansi"}).next_task()
    assert text is not None
    with pytest.raises(RuntimeError, match="its render_mode is 'ansi'"):
        text.render()


class DrawnEnv(CountdownEnv):
    """Draws whatever it is told to."""

    render_mode = "rgb_array"
    drawn: Any = None

    def render(self) -> Any:
        return self.drawn


@pytest.mark.parametrize(
    "drawn",
    [
        np.full((2, 3, 3), 1.0),
        np.full((2, 3, 3), True),
        np.full((2, 3, 3), 255),
        [np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)],
        np.full((2, 3, 3), 255).tolist(),
    ],
)
def test_images_of_other_types_are_made_uint8(drawn: Any) -> None:
    env = DrawnEnv()
    env.drawn = drawn
    task = GymnasiumTaskSampler(env).next_task()
    assert task is not None
    assert task.render().dtype == np.uint8
    np.testing.assert_array_equal(task.render(), np.full((2, 3, 3), 255))


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (None, "gave is None"),
        (np.full((2, 3, 3), 300), "gave is int64 .* with values from 300 to 300"),
        (np.full((2, 3, 3), -0.5), "gave is float64 .* with values from -0.5 to -0.5"),
        (np.zeros((2, 3, 7), np.uint8), r"gave is uint8 with shape \[2, 3, 7\]"),
    ],
)
def test_what_is_no_image_is_told(drawn: Any, told: str) -> None:
    env = DrawnEnv()
    env.drawn = drawn
    task = GymnasiumTaskSampler(env).next_task()
    assert task is not None
    with pytest.raises(InvalidArgument, match=told):
        task.render()


def test_an_id_without_images_is_made_without_a_render_mode() -> None:
    gymnasium.register("vectasks-test/Countdown-v0", entry_point=f"{__name__}:CountdownEnv")
    try:
        assert not can_give_images(find_spec("vectasks-test/Countdown-v0"))
        assert GymnasiumTaskSampler("vectasks-test/Countdown-v0").env.render_mode is None
    finally:
        del gymnasium.registry["vectasks-test/Countdown-v0"]


@pytest.mark.parametrize(
    ("module", "env_id", "extra"),
    [
        ("minigrid", "MiniGrid-NoSuch-v0", "minigrid"),
        ("ale_py", "ALE/NoSuch-v5", "atari"),
        ("ale_py", "NoSuchNoFrameskip-v4", "atari"),
    ],
)
def test_an_id_of_a_package_that_is_missing_names_its_extra(
    module: str, env_id: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"^{env_id}: .*vectasks\[{extra}\]"):
        GymnasiumTaskSampler(env_id)


def test_an_id_that_its_package_does_not_know_is_told_by_gymnasium() -> None:
    pytest.importorskip("minigrid")
    with pytest.raises(gymnasium.error.NameNotFound, match="MiniGrid-NoSuch"):
        GymnasiumTaskSampler("MiniGrid-NoSuch-v0")


def test_pictures_that_want_pygame_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    task = GymnasiumTaskSampler("CartPole-v1").next_task()
    assert task is not None
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtra, match=r"^pictures of CartPoleEnv: pygame .*vectasks\[video\]"):
        task.render()


def test_close_closes_the_environment() -> None:
    env = CountdownEnv()
    GymnasiumTaskSampler(env).close()
    assert env.num_closed == 1


def test_bad_arguments() -> None:
    with pytest.raises(gymnasium.error.NameNotFound, match="CartPole"):
        GymnasiumTaskSampler("CartPol-v1")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        GymnasiumTaskSampler("no_such_module:CartPole-v1")
    with pytest.raises(TypeError, match="got 3"):
        GymnasiumTaskSampler(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tasks"):
        GymnasiumTaskSampler(CountdownEnv(), max_tasks=-1)
    with pytest.raises(ValueError, match="max_steps"):
        GymnasiumTaskSampler(CountdownEnv(), max_steps=0)


@pytest.mark.parametrize(
    ("module", "env_id"),
    [("minigrid", "MiniGrid-Empty-5x5-v0"), ("ale_py", "ALE/Breakout-v5")],
)
def test_an_id_of_a_known_package_needs_no_import(module: str, env_id: str) -> None:
    pytest.importorskip(module)
    script = (
        "import gymnasium\n"
        "from vectasks.envs import GymnasiumTaskSampler\n"
        f"assert {env_id!r} not in gymnasium.registry\n"
        f"sampler = GymnasiumTaskSampler({env_id!r}, seed=0)\n"
        "print(sampler.next_task().task_info['env_id'])\n"
        "sampler.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{env_id}\n", "")


@pytest.mark.parametrize("env_id", ["MiniGrid-Mine-v0", "MineNoFrameskip-v4"])
def test_an_id_of_ones_own_needs_no_package_that_has_such_names(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("minigrid", "ale_py"):
        monkeypatch.setitem(sys.modules, module, None)
    gymnasium.register(env_id, entry_point=CountdownEnv)
    try:
        assert first_observation(GymnasiumTaskSampler(env_id)) == 0
    finally:
        del gymnasium.registry[env_id]


def test_a_task_source_gives_the_seeds_of_episodes() -> None:
    source = TaskList([{"seed": seed} for seed in (7, 3, 7, 5)])
    arguments = [{"env": "CartPole-v1", "seed": 1}]
    seen = []
    with SingleProcessVectorSampledTasks(
        GymnasiumTaskSampler, arguments, task_source=source, should_log=False
    ) as tasks:
        for _ in range(4):
            seen.append((tasks.attr("task_info")[0]["seed"], tasks.get_observations()[0]))
            tasks.next_task()
    assert [seed for seed, _ in seen] == [7, 3, 7, 5]
    env = gymnasium.make("CartPole-v1")
    for seed, observation in seen:
        np.testing.assert_array_equal(observation, env.reset(seed=seed)[0])
    env.close()


def test_a_seed_that_is_none_of_an_episode_is_refused() -> None:
    sampler = GymnasiumTaskSampler("CartPole-v1", seed=1)
    with pytest.raises(InvalidArgument, match="a seed must be an integer"):
        sampler.next_task(seed="7")  # type: ignore[arg-type]
    sampler.close()
