"""VectorEnv beside Gymnasium's own vectors: the same results, metadata and errors."""

from __future__ import annotations

import copy
import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from gymnasium_helpers import BOX, MODES, assert_same, envs_of, make_env
from space_env import SPACES, SpaceEnv

from vectasks import SingleProcessVectorSampledTasks
from vectasks.adapters.gymnasium import VectorEnv, make_vec
from vectasks.testing.toys import CountingTask, ToySampler, toy_args


def assert_same_run(theirs: Any, ours: Any, num_steps: int = 25) -> int:
    """Reset and step both; how many episodes ended."""
    assert_same(theirs.metadata, ours.metadata)
    for name in ("single_observation_space", "observation_space", "single_action_space"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.action_space == ours.action_space
    assert theirs.num_envs == ours.num_envs
    assert_same(theirs.reset(seed=5), ours.reset(seed=5), "reset(seed)")
    theirs.action_space.seed(1)
    ended = 0
    for t in range(num_steps):
        actions = theirs.action_space.sample()
        expected = theirs.step(actions)
        assert_same(expected, ours.step(actions), f"step {t}")
        over = expected[2] | expected[3]
        ended += int(over.sum())
        if over.any() and theirs.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            masks = [{"reset_mask": over.copy(), "level": t} for _ in range(2)]
            assert_same(theirs.reset(options=masks[0]), ours.reset(options=masks[1]), f"mask {t}")
    assert_same(theirs.reset(), ours.reset(), "reset()")
    return ended


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_processes", [0, 2])
def test_as_gymnasiums_own(opened: Any, mode: AutoresetMode, max_processes: int) -> None:
    theirs = opened(SyncVectorEnv, envs_of(), autoreset_mode=mode)
    ours = opened(VectorEnv, envs_of(), autoreset_mode=mode, max_processes=max_processes)
    assert assert_same_run(theirs, ours) >= 9


@pytest.mark.parametrize("mode", MODES)
def test_as_async_vector_env(opened: Any, mode: AutoresetMode) -> None:
    env_fns = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=8)] * 2
    # Its shared memory would stay with this process for good, so it goes without.
    theirs = opened(
        AsyncVectorEnv, env_fns, shared_memory=False, context="forkserver", autoreset_mode=mode
    )
    ours = opened(VectorEnv, env_fns, autoreset_mode=mode.value)
    assert assert_same_run(theirs, ours) >= 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space(opened: Any, in_process: Any, space: Any, mode: AutoresetMode) -> None:
    theirs = opened(SyncVectorEnv, envs_of(space), autoreset_mode=mode)
    assert assert_same_run(theirs, in_process(envs_of(space), autoreset_mode=mode), 12) >= 3


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_action_space(opened: Any, in_process: Any, space: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of(action_space=space))
    ours = in_process(envs_of(action_space=space))
    assert_same_run(theirs, ours, 6)
    pairs = zip(theirs.get_attr("last_action"), ours.get_attr("last_action"), strict=True)
    for expected, got in pairs:
        assert_same(expected, got)


@pytest.mark.parametrize("max_processes", [0, 1])
def test_actions_without_dimensions_come_as_they_were_given(
    opened: Any, max_processes: int
) -> None:
    env_fns = envs_of(action_space=spaces.Box(0, 1, (), np.float32))
    theirs = opened(SyncVectorEnv, env_fns)
    ours = opened(VectorEnv, env_fns, max_processes=max_processes)
    assert ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    for actions in (theirs.action_space.sample(), np.array([0.1, 0.2, 0.3]), [0.1, 1, 0.5]):
        for envs in (theirs, ours):
            envs.reset(seed=1)
            envs.step(actions)
        assert_same(theirs.get_attr("last_action"), ours.get_attr("last_action"))


class Word(spaces.Space[str]):
    """A space of a kind that Gymnasium does not know."""

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return str(self.np_random.integers(10))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Word)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", [Word(), spaces.Dict({"says": Word(), "sees": BOX})])
def test_spaces_of_ones_own(opened: Any, space: Any, mode: AutoresetMode) -> None:
    env_fns = envs_of(space, action_space=Word())
    theirs = opened(SyncVectorEnv, env_fns, autoreset_mode=mode)
    ours = opened(VectorEnv, env_fns, False, max_processes=1, autoreset_mode=mode)
    assert_same_run(theirs, ours, 12)
    assert_same(theirs.get_attr("last_action"), ours.get_attr("last_action"))
    with pytest.raises(ValueError, match="give shared_memory=False"):
        VectorEnv(env_fns, max_processes=0)


def test_some_environments_by_their_indices(opened: Any) -> None:
    ours = opened(VectorEnv, envs_of(render_mode="rgb_array"), max_processes=2)
    ours.reset(seed=3)
    assert ours.get_attr("np_random_seed", indices=[2, 0]) == (5, 3)
    assert ours.get_attr("np_random_seed", -1) == (5,)
    ours.set_attr("gravity", [1.0, 2.0], indices=[2, 0])
    ours.set_attr("gravity", 7.0, indices=1)
    assert ours.get_attr("gravity") == (2.0, 7.0, 1.0)
    assert ours.call("scaled", 2.0, indices=(1, 2), offset=0.5) == (14.5, 2.5)
    ours.call_async("scaled", 3.0, indices=range(1, 2))
    assert ours.call_wait() == (21.0,)
    assert len(ours.call("render", indices=[0])) == 1
    with pytest.raises(IndexError, match="no environment 3"):
        ours.call("scaled", 2.0, indices=3)
    with pytest.raises(ValueError, match="must be an integer"):
        ours.get_attr("gravity", indices=[True, False, True])
    with pytest.raises(ValueError, match="3 items for 2"):
        ours.set_attr("gravity", [1, 2, 3], indices=[0, 1])
    assert ours.get_attr("gravity") == (2.0, 7.0, 1.0)


def test_some_tasks_by_their_indices(opened: Any) -> None:
    ours = opened(VectorEnv, SingleProcessVectorSampledTasks(ToySampler, toy_args(CountingTask, 3)))
    ours.set_attr("label", ["a", "b"], indices=[2, 0])
    assert ours.get_attr("label", indices=[0, 2]) == ("b", "a")
    assert ours.call("num_steps_taken", indices=1) == (0,)
    assert [image.dtype for image in ours.call("render", indices=[1, 0])] == [np.uint8] * 2


@pytest.mark.parametrize("max_processes", [0, 2])
def test_spaces_that_are_not_the_same(opened: Any, max_processes: int) -> None:
    def make(*of_each: Any, mode: Any) -> Any:
        env_fns = [make_env(space) for space in of_each]
        return opened(VectorEnv, env_fns, max_processes=max_processes, observation_mode=mode)

    bounds = [spaces.Box(0, high, (2,)) for high in (1, 2, 3)]
    instead = ".*If this is intentional, use `observation_mode='different'` instead."
    message = "the sub-environments observation spaces are not equivalent. " + instead
    with pytest.raises(RuntimeError, match=message):
        make(*bounds, mode="same")
    with pytest.raises(RuntimeError, match=message):
        make(BOX, spaces.Discrete(3), mode="same")
    with pytest.raises(RuntimeError, match="do not share a common shape and dtype"):
        make(BOX, spaces.Discrete(3), mode="different")
    make(*bounds, mode="different").reset()


def test_without_shared_memory_and_without_copies(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of(SPACES["nested"]))
    ours = opened(
        VectorEnv, envs_of(SPACES["nested"]), shared_memory=False, copy=False, max_processes=1
    )
    assert_same_run(theirs, ours)


def test_copies_are_ones_own(opened: Any) -> None:
    ours = opened(VectorEnv, envs_of(), max_processes=1)
    ours.reset(seed=1)
    first = ours.step([0, 0, 0])[0]
    kept = first.copy()
    for _ in range(3):
        ours.step([0, 0, 0])
    np.testing.assert_array_equal(first, kept)
    first[:] = 7
    assert not np.any(ours.step([0, 0, 0])[0] == 7)


class ReusingEnv(SpaceEnv):
    """Gives the same array again and again, which counts the steps."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(0, 99, (2,), np.float32))
        self.array = np.zeros(2, np.float32)

    def reset(self, **kwargs: Any) -> Any:
        _, info = super().reset(**kwargs)
        self.array[:] = 0
        return self.array, info

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        self.array += 1
        return self.array, *rest


def test_environments_that_reuse_their_array(in_process: Any) -> None:
    ours = in_process([ReusingEnv], autoreset_mode="SameStep")
    ours.reset()
    for t in (1, 2):
        assert ours.step([0])[0].tolist() == [[t, t]]
    observation, _, _, _, infos = ours.step([0])
    assert observation.tolist() == [[0, 0]]
    assert infos["final_obs"][0].tolist() == [3, 3]


def test_making_it_draws_no_numbers(opened: Any, in_process: Any) -> None:
    def seeded() -> SpaceEnv:
        env = SpaceEnv(copy.deepcopy(BOX))
        env.observation_space.seed(3)
        return env

    assert_same(opened(SyncVectorEnv, [seeded]).reset(), in_process([seeded]).reset())


def test_environments_judge_their_actions_and_take_their_time(in_process: Any) -> None:
    ours = in_process(envs_of(action_space=spaces.Box(-1, 1, (2,))))
    ours.reset()
    ours.step(np.full((3, 2), 7.0))
    assert [action.tolist() for action in ours.get_attr("last_action")] == [[7.0, 7.0]] * 3
    assert ours._envs.vector.read_timeout is None


def test_step_in_two_halves(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of())
    ours = opened(VectorEnv, envs_of(), max_processes=2)
    ours.reset_async(seed=3)
    assert_same(theirs.reset(seed=3), ours.reset_wait())
    for _ in range(8):
        ours.step_async(np.array([0, 1, 2]))
        assert_same(theirs.step(np.array([0, 1, 2])), ours.step_wait())


# -- observation modes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_different_bounds(opened: Any, in_process: Any, dtype: Any) -> None:
    each = [spaces.Box(0, 1 + i, (2,), dtype) for i in range(3)]
    theirs = opened(SyncVectorEnv, list(map(make_env, each)), observation_mode="different")
    assert_same_run(theirs, in_process(list(map(make_env, each)), observation_mode="different"))


def test_different_bounds_are_not_the_same() -> None:
    each = [spaces.Box(0, 1 + i, (2,)) for i in range(3)]
    with pytest.raises(RuntimeError, match=r"not equivalent\. \(environment 1 .*'different'"):
        VectorEnv(list(map(make_env, each)), max_processes=0)


def test_given_spaces(opened: Any, in_process: Any) -> None:
    each = [spaces.Box(0, 1 + i, (2,)) for i in range(2)]
    mode = (spaces.Box(0, 2, (2, 2)), spaces.Box(0, 2, (2,)))
    theirs = opened(SyncVectorEnv, list(map(make_env, each)), observation_mode=mode)
    assert_same_run(theirs, in_process(list(map(make_env, each)), observation_mode=mode))


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("sideways", ValueError),
        ((BOX, "box"), TypeError),
        ((spaces.Box(0, 1, (1, 9)), spaces.Box(0, 1, (9,))), RuntimeError),
    ],
)
def test_modes_that_cannot_be(mode: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        VectorEnv([make_env()], observation_mode=mode, max_processes=0)


@pytest.mark.parametrize("mode", ["same", "different"])
def test_spaces_that_do_not_go_together(mode: Any) -> None:
    others = [make_env(), make_env(spaces.Discrete(3))]
    with pytest.raises(RuntimeError, match="observation"):
        VectorEnv(others, observation_mode=mode, max_processes=0)
    others = [make_env(), make_env(action_space=spaces.Discrete(9))]
    with pytest.raises(RuntimeError, match="action space"):
        VectorEnv(others, observation_mode=mode, max_processes=0)


# -- reaching in ----------------------------------------------------------------------------------


def test_call_and_attributes(opened: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of(render_mode="rgb_array"))
    ours = opened(VectorEnv, envs_of(render_mode="rgb_array"), max_processes=2)
    for vector in (theirs, ours):
        vector.reset(seed=7)
        vector.set_attr("gravity", [1.0, 2.0, 3.0])
        assert vector.get_attr("gravity") == (1.0, 2.0, 3.0)
        assert vector.call("scaled", 2, offset=0.5) == (2.5, 4.5, 6.5)
        vector.set_attr("gravity", 4.0)
        assert vector.call("gravity") == (4.0, 4.0, 4.0)
        assert vector.np_random_seed == (7, 8, 9)
        assert vector.render_mode == "rgb_array"
    assert_same(theirs.render(), ours.render())
    assert theirs.np_random[0].integers(99) == ours.np_random[0].integers(99)
    with pytest.raises(AttributeError, match="nonsense"):
        ours.get_attr("nonsense")
    with pytest.raises(ValueError, match="one for each"):
        ours.set_attr("gravity", [1.0])
    with pytest.raises(ValueError, match="use step"):
        ours.call("step", 0)


def test_reset_gets_seeds_and_options(in_process: Any) -> None:
    ours = in_process(envs_of())
    ours.reset(seed=[4, None, 6], options={"level": 3})
    assert ours.get_attr("last_options") == ({"level": 3},) * 3
    assert ours.np_random_seed[::2] == (4, 6)
    with pytest.raises(ValueError, match="2 items for 3"):
        ours.reset(seed=[1, 2])


def test_reset_mask_leaves_the_others(in_process: Any) -> None:
    ours = in_process(envs_of())
    options = {"reset_mask": np.array([False, True, False])}
    ours.reset()
    seen = ours.step([0, 0, 0])[0]
    again, infos = ours.reset(options=options)
    assert list(options) == ["reset_mask"]
    np.testing.assert_array_equal(again[::2], seen[::2])
    assert not np.array_equal(again[1], seen[1])
    assert infos["_length"].tolist() == [False, True, False]
    assert ours.get_attr("t") == (1, 0, 1)
    ours.reset_async(options=options)
    options["reset_mask"][:] = True  # its owner uses it for something else
    ours.reset_wait()
    assert ours.get_attr("t") == (1, 0, 1)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False, True], TypeError),
        (np.array([1, 0, 1]), TypeError),
        (np.array([True]), ValueError),
        (np.zeros(3, bool), ValueError),
    ],
)
def test_masks_that_cannot_be(in_process: Any, mask: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="reset_mask"):
        in_process(envs_of()).reset(options={"reset_mask": mask})


OBSERVATION_WRAPPERS = [
    wrappers.NormalizeObservation,
    wrappers.FlattenObservation,
    functools.partial(wrappers.TransformObservation, func=lambda observation: observation * 2),
]

OTHER_WRAPPERS = [
    wrappers.RecordEpisodeStatistics,
    wrappers.NormalizeReward,
    wrappers.DictInfoToList,
    functools.partial(wrappers.ClipReward, max_reward=0.75),
]


@pytest.mark.parametrize(
    ("wrap", "mode"),
    [
        *[(wrap, AutoresetMode.NEXT_STEP) for wrap in OBSERVATION_WRAPPERS + OTHER_WRAPPERS],
        *[(wrap, AutoresetMode.SAME_STEP) for wrap in OTHER_WRAPPERS],
    ],
)
def test_gymnasiums_wrappers(opened: Any, in_process: Any, wrap: Any, mode: AutoresetMode) -> None:
    theirs = wrap(opened(SyncVectorEnv, envs_of(), autoreset_mode=mode))
    ours = wrap(in_process(envs_of(), autoreset_mode=mode))
    assert_times_aside(theirs.reset(seed=2), ours.reset(seed=2))
    for _ in range(12):
        assert_times_aside(theirs.step(np.zeros(3, int)), ours.step(np.zeros(3, int)))


def assert_times_aside(expected: Any, got: Any) -> None:
    for result in (expected, got):
        if isinstance(result[-1], dict) and "episode" in result[-1]:
            assert result[-1]["episode"].pop("t").shape == (3,)
    assert_same(expected, got)


# -- by an environment's id ----------------------------------------------------------------------


def test_make_vec(opened: Any) -> None:
    theirs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    ours = make_vec(
        "CartPole-v1",
        2,
        wrappers=[gymnasium.wrappers.TimeAwareObservation],
        vector_kwargs={"max_processes": 0},
        max_episode_steps=3,
    )
    assert ours.spec is not None
    assert theirs.spec is not None
    assert ours.spec.id == theirs.spec.id
    assert ours.reset(seed=1)[0].shape == (2, 5)
    assert [ours.step([0, 1])[3].tolist() for _ in range(3)][-1] == [True, True]
    ours.close()
    theirs.close()
