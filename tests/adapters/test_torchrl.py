"""The TorchRL environment: its own checks, and its data beside Gymnasium's."""

from __future__ import annotations

import copy
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from space_env import SPACES, SpaceEnv

from vectasks import SingleProcessVectorSampledTasks, TaskError
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

pytest.importorskip("torchrl", reason="needs the extra vectasks[torchrl]")

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchRL warns of its own deprecations when it is imported
    from tensordict import TensorDict
    from torchrl.collectors import Collector
    from torchrl.data import Composite, Unbounded
    from torchrl.envs import (
        Compose,
        EnvBase,
        RewardSum,
        SerialEnv,
        StepCounter,
        TransformedEnv,
        default_info_dict_reader,
    )
    from torchrl.envs.utils import check_env_specs

    from vectasks.adapters.torchrl import Env

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*|tensordict.*")

BOX = spaces.Box(-1, 1, (3,), np.float32)
OBSERVATIONS = {
    "box": SPACES["box"],
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "scalar": SPACES["scalar"],
    "discrete": SPACES["discrete"],
    "multi-discrete": SPACES["multi-discrete"],
    "multi-binary": SPACES["multi-binary"],
    "dict": spaces.Dict({"place": spaces.Dict({"x": spaces.Discrete(4)}), "eyes": BOX}),
}
ACTIONS = ["box", "discrete", "multi-discrete", "multi-binary"]


def envs_of(space: Any = BOX, count: int = 3, **kwargs: Any) -> list[Callable[[], SpaceEnv]]:
    """Environments whose episodes end in different steps."""
    return [
        functools.partial(SpaceEnv, copy.deepcopy(space), first_length=1 + i, **kwargs)
        for i in range(count)
    ]


@pytest.fixture
def opened() -> Iterator[Callable[..., Env]]:
    """Opens environments (in process, if nothing else is said) and closes them at the end."""
    envs: list[Env] = []

    def open_one(source: Any, **options: Any) -> Env:
        if isinstance(source, list):
            options.setdefault("max_processes", 0)
        envs.append(Env(source, **options))
        return envs[-1]

    yield open_one
    while envs:
        envs.pop().close()


@pytest.mark.parametrize("categorical", [True, False])
@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_specs_of_observations(opened: Any, space: Any, categorical: bool) -> None:
    env = opened(envs_of(space), categorical_action_encoding=categorical)
    check_env_specs(env, break_when_any_done="both")
    data = env.rollout(8, break_when_any_done=False)
    assert env.observation_spec.is_in(data[:, 3].select(*env.observation_spec.keys()))


@pytest.mark.parametrize("categorical", [True, False])
@pytest.mark.parametrize("name", ACTIONS)
def test_specs_of_actions(opened: Any, name: str, categorical: bool) -> None:
    env = opened(
        envs_of(action_space=copy.deepcopy(SPACES[name])), categorical_action_encoding=categorical
    )
    check_env_specs(env, seed=1)
    env.reset()
    env.rand_step()
    space = SPACES[name]
    for action in env._envs.get("last_action"):
        assert space.contains(action), action


def test_cartpole_in_processes(opened: Any) -> None:
    env = opened([lambda: gymnasium.make("CartPole-v1")] * 2, max_processes=2)
    check_env_specs(env, seed=1)


def test_one_hot_actions_are_what_they_say(opened: Any) -> None:
    env = opened(envs_of(action_space=spaces.Discrete(4, start=-1)))
    state = env.reset()
    state["action"] = torch.nn.functional.one_hot(torch.tensor([0, 3, 2]), 4)
    env.step(state)
    assert env._envs.get("last_action") == [-1, 2, 1]


def test_as_gymnasium(opened: Any) -> None:
    """Every step beside Gymnasium's vector, whose final observations are in its infos."""
    theirs = SyncVectorEnv(envs_of(), autoreset_mode="SameStep")
    env = opened(envs_of(), categorical_action_encoding=True)
    env.set_seed(5)
    state = env.reset()
    first, _ = theirs.reset(seed=5)
    np.testing.assert_array_equal(first, state["observation"])
    for _ in range(15):
        state["action"] = torch.tensor([0, 1, 2])
        state, following = env.step_and_maybe_reset(state)
        observation, reward, terminated, truncated, infos = theirs.step([0, 1, 2])
        over = terminated | truncated
        final = observation.copy()
        for i in np.flatnonzero(over):
            final[i] = infos["final_obs"][i]
        np.testing.assert_array_equal(final, state["next", "observation"])
        np.testing.assert_array_equal(reward[:, None], state["next", "reward"])
        np.testing.assert_array_equal(terminated[:, None], state["next", "terminated"])
        np.testing.assert_array_equal(truncated[:, None], state["next", "truncated"])
        np.testing.assert_array_equal(over[:, None], state["next", "done"])
        np.testing.assert_array_equal(observation, following["observation"])
        state = following
    theirs.close()


def test_seeds_make_rollouts_equal(opened: Any) -> None:
    def rollout() -> Any:
        env = opened(envs_of())
        env.set_seed(3)
        torch.manual_seed(0)
        return env.rollout(12, break_when_any_done=False)

    assert (rollout() == rollout()).all()


def test_a_collector(opened: Any) -> None:
    env = TransformedEnv(opened(envs_of(), max_processes=1), Compose(StepCounter(), RewardSum()))
    collector = Collector(env, None, frames_per_batch=30, total_frames=60)
    batches = list(collector)
    collector.shutdown()
    assert [batch.shape for batch in batches] == [(3, 10)] * 2
    counts = batches[0]["next", "step_count"].squeeze(-1)
    over = batches[0]["next", "done"].squeeze(-1)
    # Episodes of 2, 3, 4, ... steps: three of them end within ten steps.
    assert counts[0][over[0]].tolist() == [2, 3, 4]
    assert batches[0]["next", "episode_reward"][0].squeeze(-1)[over[0]].tolist() == [1.5, 3.0, 5.0]


def test_resets_of_some(opened: Any) -> None:
    env = opened(envs_of())
    state = env.reset()
    state = env.rand_step(state)["next"]
    state["_reset"] = torch.tensor([[False], [True], [False]])
    again = env.reset(state.clone())
    assert env._envs.get("t") == [1, 0, 1]
    assert torch.equal(again["observation"][0], state["observation"][0])
    assert not torch.equal(again["observation"][1], state["observation"][1])
    env.reset(seed=4)
    assert env._envs.get("np_random_seed") == [4, 4, 4]
    env.set_seed(4)
    env.reset()
    assert env._envs.get("np_random_seed") == [4, 5, 6]


def assert_same_data(expected: Any, got: Any) -> None:
    assert set(expected.keys(True, True)) == set(got.keys(True, True))
    for key in expected.keys(True, True):
        torch.testing.assert_close(expected[key], got[key], msg=str(key))


@pytest.mark.parametrize("max_processes", [0, 2])
def test_steps_of_some(opened: Any, max_processes: int) -> None:
    env = opened(envs_of(count=4), max_processes=max_processes)
    state = env.reset()
    state["action"] = env.action_spec.rand()
    state["_step"] = torch.tensor([[False], [True], [False], [True]])
    following = env.step(state)["next"]
    assert list(env.t) == [0, 1, 0, 1]
    stays = torch.tensor([True, False, True, False])
    assert torch.equal(following["observation"][stays], state["observation"][stays])
    assert not torch.equal(following["observation"][~stays], state["observation"][~stays])
    assert following["reward"].flatten().tolist() == [0, 0.5, 0, 0.5]
    env.rand_step(following.exclude("reward"))  # and all of them go on
    assert list(env.t) == [1, 2, 1, 2]


class GymLike(EnvBase):  # type: ignore[misc]
    """One environment as TorchRL has it, for its SerialEnv; GymEnv wants gym's registry."""

    def __init__(self, env_fn: Any) -> None:
        super().__init__()
        self.env = env_fn()
        one = Env([env_fn], max_processes=0, categorical_action_encoding=True)
        self.observation_spec = one.observation_spec[0].clone()
        self.action_spec = one.action_spec[0].clone()
        self.reward_spec, self.done_spec = one.reward_spec[0].clone(), one.done_spec[0].clone()
        one.close()

    def _reset(self, tensordict: Any = None, **kwargs: Any) -> Any:
        seed, self.seed = self.__dict__.get("seed"), None
        return TensorDict({"observation": torch.tensor(self.env.reset(seed=seed)[0])}, [])

    def _step(self, tensordict: Any) -> Any:
        observation, reward, terminated, truncated, _ = self.env.step(tensordict["action"].item())
        entries = {"reward": float(reward), "terminated": terminated, "truncated": truncated}
        entries["done"] = terminated or truncated
        data = {name: torch.tensor([value]) for name, value in entries.items()}
        return TensorDict({"observation": torch.tensor(observation), **data}, [])

    def _set_seed(self, seed: int | None) -> None:
        self.seed = seed


@pytest.mark.parametrize("when", ["all", "any", "never"])
def test_rollouts_as_torchrls_own(opened: Any, when: str) -> None:
    breaks = {"break_when_any_done": when == "any"}
    if when == "all":
        breaks["break_when_all_done"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SerialEnv(3, [functools.partial(GymLike, fn) for fn in envs_of()])
    ours = opened(envs_of(), categorical_action_encoding=True)

    def rollouts(env: Any) -> Any:
        env.reset()  # SerialEnv makes its environments at their first
        assert env.set_seed(5, static_seed=True) == 5
        torch.manual_seed(0)
        first = env.rollout(20, **breaks)
        torch.manual_seed(1)
        return first, env.rollout(20, **breaks)

    pairs = list(zip(rollouts(theirs), rollouts(ours), strict=True))
    for expected, got in pairs:
        assert_same_data(expected, got)
    assert pairs[0][1].shape == (3, {"all": 5, "any": 3, "never": 20}[when])
    theirs.close()


def test_episodes_that_end_in_steps_of_some(opened: Any) -> None:
    """An episode that begins after an end that only some reached is kept until it is asked for."""
    env = opened(envs_of(), categorical_action_encoding=True)
    in_process = opened(envs_of(), categorical_action_encoding=True)
    for one in (env, in_process):
        one.set_seed(7)
    state, expected = env.reset(), in_process.reset()
    actions = torch.tensor([0, 1, 2])
    order: list[list[int]] = [[0], [0, 1], [1, 2], [1], [2], [2], [2]]  # 2, 3 and 4 steps
    for rows in order:
        state["action"] = actions
        state["_step"] = torch.zeros(3, 1, dtype=torch.bool)
        state["_step"][rows] = True
        state = env.step(state)["next"].exclude("reward")
    assert state["done"].flatten().tolist() == [True] * 3
    firsts = []
    for i in range(4):
        expected["action"] = actions
        data, expected = in_process.step_and_maybe_reset(expected)
        done = data["next", "done"].flatten()
        if done.any():
            (row,) = done.nonzero().flatten().tolist()
            assert row == i - 1
            firsts.append(expected["observation"][row])
            assert torch.equal(state["observation"][row], data["next", "observation"][row])
    state["_reset"] = torch.tensor([[True], [False], [True]])
    again = env.reset(state)
    assert torch.equal(again["observation"][[0, 2]], torch.stack([firsts[0], firsts[2]]))
    assert torch.equal(again["observation"][1], state["observation"][1])
    again["_reset"] = torch.tensor([[False], [True], [False]])
    assert torch.equal(env.reset(again)["observation"], torch.stack(firsts))


def test_one_seed_for_all(opened: Any) -> None:
    env = opened(envs_of())
    assert env.set_seed(np.int64(4), static_seed=True) == 4
    env.reset()
    assert list(env.np_random_seed) == [4, 4, 4]
    assert env.set_seed(4) != 4
    env.reset()
    assert list(env.np_random_seed) == [4, 5, 6]


# -- infos, methods, attributes -------------------------------------------------------------------


def test_entries_of_infos(opened: Any) -> None:
    env = opened(envs_of())
    assert env.set_info_dict_reader(default_info_dict_reader(["t", "length"])) is env
    check_env_specs(env)
    data = env.rollout(7, break_when_any_done=False)
    # Odd steps tell t, and resets tell the length. Episodes have 2, 3, ... steps more each time.
    lengths = data["length"][0]
    first = int(lengths[0])
    assert data["next", "t"][0, :first].tolist() == [t if t % 2 else 0 for t in range(1, first + 1)]
    assert lengths.nonzero().flatten().tolist()[:2] == [0, first]
    assert lengths[first] == first + 1
    assert (data["next", "length"] == 0).all()


def test_all_numbers_of_infos(opened: Any) -> None:
    env = opened(envs_of(), max_processes=1).auto_register_info_dict()
    assert {"t", "half", "length"} <= set(env.observation_spec.keys())
    assert env.observation_spec["half"].dtype is torch.float64
    check_env_specs(env)

    def depth(info: Any, data: Any) -> None:
        if "deep" in info:
            data["depth"] = torch.from_numpy(info["deep"]["array"])

    with pytest.raises(ValueError, match="info_spec"):
        env.set_info_dict_reader(depth)
    depth.info_spec = Composite(depth=Unbounded((2,), dtype=torch.int64))  # type: ignore[attr-defined]
    env.set_info_dict_reader(depth)
    check_env_specs(env)
    state = env.rand_step(env.reset())
    assert state["next", "depth"].tolist() == [[1, 1]] * 3
    state = state["next"].exclude("reward")
    state["_step"] = torch.tensor([[True], [False], [True]])
    assert env.rand_step(state)["next", "t"].tolist() == [0, 1, 0]


def test_infos_are_asked_for_after_an_episode(opened: Any) -> None:
    env = opened(envs_of(count=1))
    env.rollout(2)  # the whole episode, so that the next one has begun
    env.auto_register_info_dict()
    env.reset()
    assert list(env.t) == [0]


@pytest.mark.parametrize("max_processes", [0, 1])
def test_methods_and_attributes_of_the_environments(opened: Any, max_processes: int) -> None:
    env = opened(envs_of(), max_processes=max_processes)
    for _ in range(2):
        env.reset()
        assert env.scaled(2, offset=1) == [9.81 * 2 + 1] * 3
        assert list(env.gravity) == [9.81] * 3
        assert list(env.observation_space.shape) == [(3,)] * 3
        assert env.observation_space.contains(np.zeros(3, np.float32)) == [True] * 3
        assert TransformedEnv(env, StepCounter()).scaled(1) == [9.81] * 3
        assert not hasattr(env, "no_such_thing")
        env.close()
        assert env.is_closed
        assert not hasattr(env, "gravity")
        with pytest.raises(RuntimeError, match=r"reset\(\)"):
            env.rand_step()  # the next reset opens it again


def test_a_vector_of_tasks_stays_closed(opened: Any) -> None:
    env = opened(SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3)))
    env.reset()
    assert env.num_steps_taken() == [0, 0, 0]
    env.close()
    with pytest.raises(RuntimeError, match="make new ones"):
        env.reset()


def test_environments_that_start_processes(opened: Any) -> None:
    env = opened(envs_of(count=1), max_processes=None)
    assert env.start_process() == [0]
    with pytest.raises(TypeError, match="no option 'deamon'"):
        Env(envs_of(), deamon=True)
    strict = opened(envs_of(count=1), max_processes=None, daemon=True)
    with pytest.raises(TaskError, match="daemonic"):
        strict.start_process()


# -- misuse ---------------------------------------------------------------------------------------


def test_step_before_reset(opened: Any) -> None:
    env = opened(envs_of())
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        env.rand_step()


def test_episodes_that_are_over_want_resets(opened: Any) -> None:
    env = opened(envs_of())
    state = env.reset()
    for _ in range(2):
        state = env.rand_step(state)["next"].exclude("done", "terminated", "truncated", "reward")
    with pytest.raises(RuntimeError, match=r"\[0\]"):
        env.rand_step(state)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (SPACES["text"], "Text"),
        (SPACES["tuple"], "Tuple"),
        (spaces.Dict({"reward": BOX}), "reward"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), "MultiDiscrete"),
    ],
)
def test_spaces_that_torchrl_cannot_take(space: Any, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        Env(envs_of(space), max_processes=0)


def test_action_spaces_that_torchrl_cannot_take() -> None:
    with pytest.raises(NotImplementedError, match="action space"):
        Env(envs_of(action_space=SPACES["tuple"]), max_processes=0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vectasks.adapters.torchrl")
    monkeypatch.setitem(sys.modules, "torchrl", None)
    with pytest.raises(ImportError, match=r"vectasks\[torchrl\]"):
        import vectasks.adapters.torchrl  # noqa: F401


# -- from a vector --------------------------------------------------------------------------------


def test_from_a_vector_of_tasks(opened: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3))
    begun = np.stack(tasks.get_observations())
    env = opened(tasks)
    np.testing.assert_array_equal(env.reset()["observation"], begun)
    check_env_specs(env)
    assert env.rollout(20, break_when_any_done=False)["next", "done"].any()
    env.close()
    assert tasks.is_closed


def test_environments_whose_spaces_differ_in_their_bounds(opened: Any) -> None:
    each = [spaces.Dict({"x": spaces.Discrete(2 + i, start=-i)}) for i in range(3)]
    env = opened([functools.partial(SpaceEnv, space) for space in each])
    assert env.observation_spec["x"].shape == (3, 4)
    check_env_specs(env)


def test_a_vector_in_lockstep_cannot_be_served() -> None:
    tasks = SingleProcessVectorSampledTasks(
        ToySampler, toy_args(CountingTask, 2), auto_resample_when_done=False
    )
    with pytest.raises(ValueError, match="auto_resample_when_done=True"):
        Env(tasks)
    tasks.close()
