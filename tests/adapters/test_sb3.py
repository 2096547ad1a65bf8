"""VecEnv beside Stable-Baselines3's own DummyVecEnv."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from space_env import SPACES, SpaceEnv

from vectasks import SingleProcessVectorSampledTasks, TaskError, VectorSampledTasks
from vectasks.envs import GymnasiumTaskSampler
from vectasks.replay.replay import Replay
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

pytest.importorskip("stable_baselines3", reason="needs the extra vectasks[sb3]")

import torch
from stable_baselines3 import A2C, DQN, PPO, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from vectasks.adapters.sb3 import VecEnv

BOX = spaces.Box(-1, 1, (3,), np.float32)
FIXED = {name: space for name, space in SPACES.items() if name not in ("text", "text-and-box")}
FLAT = {name: space for name, space in FIXED.items() if name != "nested"}


def envs_of(space: Any = BOX, count: int = 3, **kwargs: Any) -> list[Callable[[], SpaceEnv]]:
    """Environments whose episodes end in different steps."""
    return [
        functools.partial(SpaceEnv, copy.deepcopy(space), first_length=1 + i, **kwargs)
        for i in range(count)
    ]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and those take the cores of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Opens VecEnvs (in process, if nothing else is said) and closes them at the end."""
    vectors: list[Any] = []

    def open_one(env_fns: Any, kind: Any = VecEnv, max_processes: int | None = 0) -> Any:
        options = {"max_processes": max_processes} if kind is VecEnv else {}
        vectors.append(kind(env_fns, **options))
        return vectors[-1]

    yield open_one
    while vectors:
        vectors.pop().close()


def opening(env_fns: Any, *args: Any, **options: Any) -> Any:
    """A VecEnv in processes, closed at the end of the block."""
    return contextlib.closing(VecEnv(env_fns, *args, **options))


def assert_same(expected: Any, got: Any) -> None:
    """Equal values and dtypes, whatever the nesting."""
    if isinstance(expected, dict):
        assert set(expected) == set(got)
        for key, value in expected.items():
            assert_same(value, got[key])
    elif isinstance(expected, (tuple, list)):
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(expected, got)
        assert np.asarray(expected).dtype == np.asarray(got).dtype


def assert_same_run(theirs: Any, ours: Any, num_steps: int = 15) -> None:
    for vector in (theirs, ours):
        vector.seed(5)
        vector.set_options([{"level": i} for i in range(vector.num_envs)])
    assert_same(theirs.reset(), ours.reset())
    assert_same(theirs.reset_infos, ours.reset_infos)
    theirs.action_space.seed(3)
    for _ in range(num_steps):
        actions = np.array([theirs.action_space.sample() for _ in range(theirs.num_envs)])
        assert_same(theirs.step(actions), ours.step(actions))
        assert_same(theirs.reset_infos, ours.reset_infos)
    assert_same(theirs.reset(), ours.reset())
    for name in ("length", "last_options"):
        assert theirs.get_attr(name) == ours.get_attr(name)


@pytest.mark.parametrize("max_processes", [0, 2])
def test_as_dummy_vec_env(opened: Any, max_processes: int) -> None:
    assert_same_run(opened(envs_of(), DummyVecEnv), opened(envs_of(), max_processes=max_processes))


@pytest.mark.parametrize("space", FLAT.values(), ids=FLAT)
def test_every_space(opened: Any, space: Any) -> None:
    assert_same_run(opened(envs_of(space), DummyVecEnv), opened(envs_of(space)))


@pytest.mark.parametrize("name", ["box", "multi-discrete", "multi-binary"])
def test_every_action_space(opened: Any, name: str) -> None:
    theirs = opened(envs_of(action_space=SPACES[name]), DummyVecEnv)
    ours = opened(envs_of(action_space=SPACES[name]))
    assert_same_run(theirs, ours)
    assert_same(theirs.get_attr("last_action"), ours.get_attr("last_action"))


@pytest.mark.parametrize("name", ["nested", "text", "text-and-box"])
def test_spaces_that_sb3_cannot_take(name: str) -> None:
    with pytest.raises(NotImplementedError):
        VecEnv(envs_of(SPACES[name]), max_processes=0)


# -- training -------------------------------------------------------------------------------------


def weights(algorithm: Any, env: Any) -> list[Any]:
    """Return a policy's weights after a short training."""
    # What is not the algorithm's default only makes it short.
    options = {} if algorithm is A2C else {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
    model = algorithm("MlpPolicy", env, seed=3, device="cpu", **options).learn(128)
    return [parameter.detach().numpy() for parameter in model.policy.parameters()]


@pytest.mark.parametrize(
    ("algorithm", "env_id", "max_processes"),
    [(PPO, "CartPole-v1", 2), (PPO, "Pendulum-v1", 0), (A2C, "CartPole-v1", 0)],
)
def test_the_same_weights(opened: Any, algorithm: Any, env_id: str, max_processes: int) -> None:
    env_fns = [lambda: Monitor(gymnasium.make(env_id, max_episode_steps=15))] * 2
    ours = opened(env_fns, max_processes=max_processes)
    assert_same(weights(algorithm, opened(env_fns, DummyVecEnv)), weights(algorithm, ours))


def test_an_info_that_is_no_dict_and_kept_by_its_environment(opened: Any) -> None:
    class ReadOnlyInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
        info = types.MappingProxyType({"kept": 1})

        def step(self, action: Any) -> Any:
            return *self.env.step(action)[:4], self.info

    (make,) = envs_of(count=1)
    env = opened([lambda: ReadOnlyInfo(make())])
    env.reset()
    infos = [env.step(np.array([0]))[3][0] for _ in range(3)]
    assert [info["kept"] for info in infos] == [1] * 3
    assert ["terminal_observation" in info for info in infos] == [False, True, False]
    assert dict(ReadOnlyInfo.info) == {"kept": 1}


def test_evaluate_policy_and_wrappers(opened: Any) -> None:
    def evaluated(kind: Any) -> Any:
        env_fns = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=20)] * 2
        env = VecNormalize(VecFrameStack(VecMonitor(opened(env_fns, kind)), 2))
        env.seed(1)
        model = A2C("MlpPolicy", env, seed=3, device="cpu").learn(50)
        env.seed(2)
        return evaluate_policy(model, env, n_eval_episodes=3, return_episode_rewards=True)

    assert evaluated(VecEnv) == evaluated(DummyVecEnv)


def test_make_vec_env(tmp_path: Path) -> None:
    env = make_vec_env(
        "CartPole-v1", 2, vec_env_cls=VecEnv, vec_env_kwargs={"max_processes": 0}, seed=1
    )
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(VecMonitor, indices=0) == [False]
    env.close()


def test_record_video(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy", reason="VecVideoRecorder writes by moviepy")
    # Its progress bars would leave a thread and a semaphore behind.
    tqdm = pytest.importorskip("tqdm").tqdm
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    monkeypatch.setattr(tqdm, "_lock", threading.RLock(), raising=False)
    env = VecVideoRecorder(
        opened(envs_of(render_mode="rgb_array")), str(tmp_path), lambda step: step == 0, 4
    )
    assert env.frames_per_sec == 7
    env.reset()
    for t in range(1, 4):
        env.step(np.zeros(3, int))
        # Three images of 4 x 6 pixels on a board of 2 x 2; the last place is black.
        assert [frame.shape for frame in env.recorded_frames] == [(8, 12, 3)] * (t + 1)
        assert env.recorded_frames[-1][0, 0, 0] == env.get_attr("t")[0]
    env.step(np.zeros(3, int))
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


# -- reaching in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_processes", [0, 2])
def test_attributes_and_methods(opened: Any, max_processes: int) -> None:
    theirs = opened(envs_of(), DummyVecEnv)
    ours = opened(envs_of(), max_processes=max_processes)
    for env in (theirs, ours):
        env.set_attr("gravity", 2.0)
        env.set_attr("gravity", 3.0, indices=[0, -1])
        env.set_attr("gravity", 4.0, indices=1)
        assert env.get_attr("gravity") == [3.0, 4.0, 3.0]
        assert env.get_attr("gravity", indices=[2, 1]) == [3.0, 4.0]
        assert env.env_method("scaled", 2, offset=1.0) == [7.0, 9.0, 7.0]
        assert env.env_method("scaled", 2, indices=1) == [8.0]
        assert env.has_attr("gravity")
        assert not env.has_attr("nonsense")
        with pytest.raises(AttributeError):
            env.get_attr("nonsense")
        assert env.render_mode is None
        assert env.get_attr("render_mode", indices=[0]) == [None]
        with pytest.warns(UserWarning, match="render"):
            assert env.get_images() == [None] * 3
    with pytest.raises(IndexError):
        ours.get_attr("gravity", indices=3)
    assert ours.get_attr("gravity", indices=np.int64(1)) == [4.0]
    assert ours.get_attr("gravity", indices=[]) == ours.get_attr("render_mode", indices=[]) == []
    ours.seed(np.int64(3))
    ours.reset()
    assert ours.get_attr("np_random_seed") == [3, 4, 5]


def test_environments_that_start_processes(opened: Any) -> None:
    with opening(envs_of(count=1)) as ours:
        assert ours.env_method("start_process") == [0]
    strict = VecEnv(envs_of(count=1), daemon=True)
    with contextlib.closing(strict), pytest.raises(TaskError, match="daemonic"):
        strict.env_method("start_process")


def test_options_of_the_vector() -> None:
    with opening(envs_of(), max_processes=np.int64(1), name="sb3", read_timeout=7.5) as ours:
        assert len({*ours.env_method("process_id")}) == 1
        assert ours._envs.vector.read_timeout == 7.5
    with pytest.raises(TypeError, match="no option 'preloads'; did you mean 'preload'"):
        VecEnv(envs_of(), preloads=["json"])
    with pytest.raises(ValueError, match="on_worker_death='cry'"):
        VecEnv(envs_of(), max_processes=0, on_worker_death="cry")
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 1))
    with tasks, pytest.raises(ValueError, match="daemon, start_method cannot be given"):
        VecEnv(tasks, "spawn", daemon=False)


def test_images(opened: Any) -> None:
    ours = opened(envs_of(render_mode="rgb_array"))
    ours.reset()
    ours.step(np.zeros(3, int))
    assert [image.tolist() for image in ours.get_images()] == [np.ones((4, 6, 3)).tolist()] * 3
    assert ours.render().shape == (8, 12, 3)


# -- misuse ---------------------------------------------------------------------------------------


def test_step_before_reset(opened: Any) -> None:
    ours = opened(envs_of())
    for step in (ours.step, ours.step_async):
        with pytest.raises(RuntimeError, match=r"reset\(\)"):
            step(np.zeros(3, int))


def test_misuse(opened: Any) -> None:
    ours = opened(envs_of())
    ours.reset()
    with pytest.raises(ValueError, match="3"):
        ours.step(np.zeros(2, int))
    ours.step_async(np.zeros(3, int))
    with pytest.raises(RuntimeError):
        ours.step_async(np.zeros(3, int))
    ours.step_wait()
    with pytest.raises(RuntimeError):
        ours.step_wait()
    with pytest.raises(ValueError, match="cannot find context for 'teleport'"):
        VecEnv(envs_of(), start_method="teleport")
    env = SpaceEnv(BOX)
    with pytest.raises(Exception, match="in use already"):
        VecEnv([lambda: env] * 2, max_processes=0)
    ours.close()
    ours.close()
    with pytest.raises(RuntimeError, match="closed"):
        ours.reset()


class MisshapenEnv(SpaceEnv):
    """Gives a number too few after the reset."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation[:2], *rest


def test_an_observation_that_does_not_fit(opened: Any) -> None:
    ours = opened([functools.partial(MisshapenEnv, copy.deepcopy(BOX))])
    ours.reset()
    with pytest.raises(ValueError, match=r"expected float32 \[3\]"):
        ours.step(np.zeros(1, int))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vectasks.adapters.sb3")
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.preprocessing", None)
    with pytest.raises(ImportError, match=r"vectasks\[sb3\]"):
        import vectasks.adapters.sb3  # noqa: F401


# -- from a vector --------------------------------------------------------------------------------


def test_from_a_vector_of_environments(opened: Any) -> None:
    tasks = VectorSampledTasks(
        GymnasiumTaskSampler,
        [{"env": env_fn, "seed_each_episode": False} for env_fn in envs_of(count=2)],
        max_processes=1,
        should_log=False,
    )
    theirs, ours = opened(envs_of(count=2), DummyVecEnv), VecEnv(tasks)
    theirs.set_attr("length", 2, indices=0)  # the vector began an episode when it was made
    theirs.set_attr("length", 3, indices=1)
    for env in (theirs, ours):
        env.seed(5)
    assert_same(theirs.reset(), ours.reset())
    for _ in range(12):
        *expected, expected_infos = theirs.step(np.zeros(2, int))
        *got, infos = ours.step(np.zeros(2, int))
        assert_same(expected, got)
        for expected_info, info in zip(expected_infos, infos, strict=True):
            for key in ("terminal_observation", "TimeLimit.truncated"):
                assert (key in expected_info) == (key in info)
                if key in info:
                    assert_same(expected_info[key], info[key])
    ours.close()
    assert tasks.is_closed


def test_from_a_vector_of_tasks(opened: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3))
    begun = np.stack(tasks.get_observations())
    ours = opened(tasks, max_processes=None)
    np.testing.assert_array_equal(ours.reset(), begun)  # the first tasks are not skipped
    for _ in range(4):
        ours.step(np.zeros(3, int))
    assert ours.env_method("num_steps_taken", indices=[1]) == tasks.call("num_steps_taken")[1:2]
    ours.set_attr("label", "a", indices=[2])
    assert tasks.attr_at(2, "label") == "a"
    assert ours.has_attr("label") is False
    assert len(ours.get_images()) == 3
    assert PPO("MlpPolicy", ours, n_steps=8, batch_size=8, device="cpu").learn(24)


def test_environments_whose_spaces_differ_in_their_bounds(opened: Any) -> None:
    each = [spaces.Box(-i, 1 + i, (3,), np.float32) for i in range(3)]
    fns = [functools.partial(lambda space: SpaceEnv(copy.deepcopy(space)), space) for space in each]
    theirs, ours = opened(fns, DummyVecEnv), opened(fns)
    assert ours.observation_space == spaces.Box(-2, 3, (3,), np.float32)
    assert_same_run(theirs, ours)


def test_a_vector_in_lockstep_cannot_be_served(opened: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(
        ToySampler, toy_args(CountingTask, 2), auto_resample_when_done=False
    )
    with pytest.raises(ValueError, match="auto_resample_when_done=True"):
        VecEnv(tasks)
    tasks.close()


def test_a_replay_of_an_environment_shows_frames(opened: Any) -> None:
    ours = opened(envs_of(render_mode="rgb_array"))
    ours.seed(1)
    ours.reset()
    with ours._envs.vector.record_episodes() as recorder:
        for _ in range(9):
            ours.step(np.zeros(3, int))
    assert len(recorder.recordings) >= 3
    for recording in recorder.recordings:
        frames: list[Any] = []
        with Replay(recording) as replay:
            outcome = replay.run(on_frame=frames.append)
        assert outcome.divergence is None
        assert outcome.error is None
        assert len(frames) == outcome.num_steps + 1
        assert {frame.shape for frame in frames} == {(4, 6, 3)}


@pytest.mark.parametrize("max_processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_hindsight_of_an_environment_that_shows_ordered_dicts(
    opened: Any, max_processes: int
) -> None:
    weights = []
    for kind in (DummyVecEnv, VecEnv):
        make_env = functools.partial(BitFlippingEnv, n_bits=4, max_steps=4)
        env = opened([make_env] * 2, kind, max_processes)
        model = DQN(
            "MultiInputPolicy",
            env,
            replay_buffer_class=HerReplayBuffer,
            learning_starts=40,
            batch_size=16,
            buffer_size=1000,
            policy_kwargs={"net_arch": [16]},
            seed=3,
        ).learn(120)
        weights.append(model.policy.state_dict())
    for name, expected in weights[0].items():
        assert torch.equal(expected, weights[1][name])
