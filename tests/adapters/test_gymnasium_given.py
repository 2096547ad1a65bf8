"""Gymnasium's vector over a vector that is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from gymnasium_helpers import BOX, MODES, assert_same, envs_of, make_env
from space_env import SPACES

from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.adapters.gymnasium import VectorEnv
from vectasks.envs import GymnasiumTaskSampler
from vectasks.testing.toys import CountingTask, ToySampler, toy_args


def sampled(env_fns: Any, kind: Any = SingleProcessVectorSampledTasks, **options: Any) -> Any:
    """A vector of environments, seeded as Gymnasium's own vectors are."""
    arguments = [{"env": env_fn, "seed_each_episode": False} for env_fn in env_fns]
    return kind(GymnasiumTaskSampler, arguments, should_log=False, **options)


def without_infos(result: tuple[Any, ...]) -> tuple[Any, ...]:
    return result[:-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["box", "tuple-in-dict"])
def test_from_a_vector_of_environments(opened: Any, mode: AutoresetMode, name: str) -> None:
    space = spaces.Dict({"two": SPACES["tuple"]}) if name == "tuple-in-dict" else BOX
    theirs = opened(SyncVectorEnv, envs_of(space), autoreset_mode=mode)
    ours = opened(VectorEnv, sampled(envs_of(space)), autoreset_mode=mode, copy=False)
    assert ours.metadata["autoreset_mode"] is mode
    theirs.set_attr("length", [2, 3, 4])  # the vector began an episode when it was made
    assert_same(theirs.reset(seed=5), ours.reset(seed=5))
    ended = 0
    for t in range(20):
        expected, got = theirs.step([0, 1, 2]), ours.step([0, 1, 2])
        assert_same(without_infos(expected), without_infos(got), f"step {t}")
        over = expected[2] | expected[3]
        ended += int(over.sum())
        if mode is AutoresetMode.SAME_STEP and over.any():
            assert_same(expected[-1]["final_obs"], got[-1]["final_obs"])
            assert_same(expected[-1]["_final_obs"], got[-1]["_final_obs"])
        if mode is AutoresetMode.DISABLED:
            for i in np.flatnonzero(over):  # one after the other: the others stay as they are
                masks = [{"reset_mask": np.arange(3) == i} for _ in range(2)]
                resets = [theirs.reset(options=masks[0]), ours.reset(options=masks[1])]
                assert_same(*map(without_infos, resets), f"reset {t} {i}")
    assert ended >= 9


def test_resets_of_a_vector_that_begin_episodes_anew(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of(), autoreset_mode="Disabled")
    ours = opened(VectorEnv, sampled(envs_of()), autoreset_mode="Disabled")
    theirs.set_attr("length", [2, 3, 4])
    assert_same(theirs.reset(seed=5), ours.reset(seed=5))
    for _ in range(3):
        over = theirs.step([0, 0, 0])[2:4]
        assert_same(over, ours.step([0, 0, 0])[2:4])
        if np.logical_or(*over).any():
            break
    over_only, midway_only = [np.logical_or(*over), np.array([False, False, True])]
    assert over_only.tolist() == [True, False, False]
    # One in the midst of an episode, while one that is over stays as it is; then that, by a seed.
    for options in ({"reset_mask": midway_only}, {"reset_mask": over_only, "seed": 9}):
        seed = options.pop("seed", None)
        expected = theirs.reset(seed=seed, options=dict(options))[0]
        np.testing.assert_array_equal(expected, ours.reset(seed=seed, options=options)[0])
    assert_same(theirs.step([0, 0, 0])[:4], ours.step([0, 0, 0])[:4])


def test_a_reset_of_all_begins_no_episode_twice(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of())
    ours = opened(VectorEnv, sampled(envs_of()), autoreset_mode="NextStep")
    theirs.set_attr("length", [2, 3, 4])
    assert_same(theirs.reset(seed=5), ours.reset(seed=5))
    for _ in range(3):
        over = theirs.step([0, 0, 0])[2:4]
        assert_same(over, ours.step([0, 0, 0])[2:4])
    assert np.logical_or(*over).tolist() == [True, False, False]
    np.testing.assert_array_equal(theirs.reset()[0], ours.reset()[0])
    assert_same(theirs.step([0, 0, 0])[:4], ours.step([0, 0, 0])[:4])


def test_a_vector_in_processes(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of())
    tasks = sampled(envs_of(), VectorSampledTasks, max_processes=2)
    ours = wrappers.NormalizeObservation(opened(VectorEnv, tasks, autoreset_mode="NextStep"))
    theirs = wrappers.NormalizeObservation(theirs)
    theirs.unwrapped.set_attr("length", [2, 3, 4])
    assert_same(theirs.reset(seed=5), ours.reset(seed=5))
    for _ in range(12):
        assert_same(without_infos(theirs.step([0, 1, 2])), without_infos(ours.step([0, 1, 2])))
    with pytest.raises(ValueError, match="3"):
        ours.step([0, 1])
    ours.close()
    assert tasks.is_closed


def test_all_episodes_of_a_vector_end_together(opened: Any) -> None:
    def same_length() -> list[Any]:
        return [make_env(first_length=1), make_env(first_length=1)]

    theirs = opened(SyncVectorEnv, same_length())
    ours = opened(VectorEnv, sampled(same_length()), autoreset_mode="NextStep")
    theirs.set_attr("length", 2)
    assert_same(theirs.reset(seed=5), ours.reset(seed=5))
    for _ in range(12):
        assert_same(without_infos(theirs.step([0, 1])), without_infos(ours.step([0, 1])))


def test_from_a_vector_of_tasks(opened: Any) -> None:
    tasks = SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3))
    begun = np.stack(tasks.get_observations())
    ours = opened(VectorEnv, tasks)
    np.testing.assert_array_equal(ours.reset()[0], begun)  # the first tasks are not skipped
    seen = [ours.step(ours.action_space.sample()) for _ in range(30)]
    assert any("final_obs" in infos for *_, infos in seen)
    assert ours.call("num_steps_taken") == tuple(tasks.call("num_steps_taken"))
    ours.set_attr("label", ("a", "b", "c"))
    assert ours.get_attr("label") == ("a", "b", "c")
    assert [image.dtype for image in ours.render()] == [np.uint8] * 3
    with pytest.raises(ValueError, match="not both"):
        ours.call("metrics", 1, scale=2)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, "Disabled"])
def test_modes_that_a_vector_cannot_serve(opened: Any, mode: Any) -> None:
    tasks = opened(sampled, envs_of(SPACES["text"]))
    with pytest.raises(ValueError, match="SameStep"):
        VectorEnv(tasks, autoreset_mode=mode)
    with pytest.raises(ValueError, match="share one space"):
        VectorEnv(tasks, observation_mode="different")


def test_a_vector_in_lockstep_cannot_be_served(opened: Any) -> None:
    tasks = opened(
        SingleProcessVectorSampledTasks,
        ToySampler,
        toy_args(CountingTask, 2),
        auto_resample_when_done=False,
    )
    with pytest.raises(ValueError, match="auto_resample_when_done=True"):
        VectorEnv(tasks)


def test_a_sampler_that_ends(opened: Any) -> None:
    tasks = opened(
        SingleProcessVectorSampledTasks, GymnasiumTaskSampler, [{"env": make_env(), "max_tasks": 1}]
    )
    ours = VectorEnv(tasks)
    with pytest.raises(RuntimeError, match="no next task"):
        ours.reset(seed=1)


def test_samplers_whose_spaces_differ_in_their_bounds(opened: Any) -> None:
    fns = [make_env(spaces.Box(-i, 1 + i, (2,), np.float32)) for i in range(3)]
    ours = opened(VectorEnv, sampled(fns))
    assert ours.single_observation_space == spaces.Box(-2, 3, (2,), np.float32)
    assert ours.observation_space == spaces.Box(-2, 3, (3, 2), np.float32)
    ours.reset(seed=5)
    for _ in range(4):
        observation = ours.step([0, 1, 2])[0]
        assert observation in ours.observation_space
        assert np.abs(observation[2]).max() > 0
