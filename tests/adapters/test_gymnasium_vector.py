"""VectorEnv beside Gymnasium's own vectors: the same results, metadata and errors."""

from __future__ import annotations

import copy
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from space_env import SPACES, SpaceEnv

from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.adapters.gymnasium import VectorEnv, make_vec
from vectasks.envs import GymnasiumTaskSampler
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

BOX = spaces.Box(-1, 1, (3,), np.float32)
MODES = list(AutoresetMode)
OBJECT = np.dtype(object)


def make_env(space: Any = BOX, **kwargs: Any) -> Callable[[], SpaceEnv]:
    return lambda: SpaceEnv(copy.deepcopy(space), **kwargs)


def envs_of(space: Any = BOX, count: int = 3, **kwargs: Any) -> list[Callable[[], SpaceEnv]]:
    """Environments whose episodes end in different steps."""
    return [make_env(space, first_length=1 + i, **kwargs) for i in range(count)]


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Opens vectors, and closes them at the end."""
    vectors: list[Any] = []

    def open_one(kind: Any, *args: Any, **kwargs: Any) -> Any:
        vectors.append(kind(*args, **kwargs))
        return vectors[-1]

    yield open_one
    while vectors:
        vectors.pop().close()


@pytest.fixture
def twin(opened: Callable[..., Any]) -> Callable[..., VectorEnv]:
    return functools.partial(opened, VectorEnv, max_processes=0)


def assert_same(expected: Any, got: Any, where: str = "") -> None:
    """Equal in types, dtypes, shapes and values, whatever the nesting."""
    assert type(expected) is type(got), (where, expected, got)
    if isinstance(expected, dict):
        assert set(expected) == set(got), where
        for key, value in expected.items():
            assert_same(value, got[key], f"{where}[{key!r}]")
    elif isinstance(expected, (tuple, list)) or getattr(expected, "dtype", 0) is OBJECT:
        assert len(expected) == len(got), where
        for number, (one, other) in enumerate(zip(expected, got, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    elif isinstance(expected, np.ndarray):
        assert (expected.dtype, expected.shape) == (got.dtype, got.shape), where
        np.testing.assert_array_equal(expected, got, err_msg=where)
    else:
        assert expected == got, where


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
def test_every_space(opened: Any, twin: Any, space: Any, mode: AutoresetMode) -> None:
    theirs = opened(SyncVectorEnv, envs_of(space), autoreset_mode=mode)
    assert assert_same_run(theirs, twin(envs_of(space), autoreset_mode=mode), 12) >= 3


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_action_space(opened: Any, twin: Any, space: Any) -> None:
    theirs = opened(SyncVectorEnv, envs_of(action_space=space))
    ours = twin(envs_of(action_space=space))
    assert_same_run(theirs, ours, 6)
    pairs = zip(theirs.get_attr("last_action"), ours.get_attr("last_action"), strict=True)
    for expected, got in pairs:
        # The action of a Box is always an array here, also one of no dimensions.
        assert_same(expected, got[()] if isinstance(got, np.ndarray) and got.ndim == 0 else got)


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


def test_environments_that_reuse_their_array(twin: Any) -> None:
    ours = twin([ReusingEnv], autoreset_mode="SameStep")
    ours.reset()
    for t in (1, 2):
        assert ours.step([0])[0].tolist() == [[t, t]]
    observation, _, _, _, infos = ours.step([0])
    assert observation.tolist() == [[0, 0]]
    assert infos["final_obs"][0].tolist() == [3, 3]


def test_making_it_draws_no_numbers(opened: Any, twin: Any) -> None:
    def seeded() -> SpaceEnv:
        env = SpaceEnv(copy.deepcopy(BOX))
        env.observation_space.seed(3)
        return env

    assert_same(opened(SyncVectorEnv, [seeded]).reset(), twin([seeded]).reset())


def test_environments_judge_their_actions_and_take_their_time(twin: Any) -> None:
    ours = twin(envs_of(action_space=spaces.Box(-1, 1, (2,))))
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
def test_different_bounds(opened: Any, twin: Any, dtype: Any) -> None:
    each = [spaces.Box(0, 1 + i, (2,), dtype) for i in range(3)]
    theirs = opened(SyncVectorEnv, list(map(make_env, each)), observation_mode="different")
    assert_same_run(theirs, twin(list(map(make_env, each)), observation_mode="different"))


def test_given_spaces(opened: Any, twin: Any) -> None:
    each = [spaces.Box(0, 1 + i, (2,)) for i in range(2)]
    mode = (spaces.Box(0, 2, (2, 2)), spaces.Box(0, 2, (2,)))
    theirs = opened(SyncVectorEnv, list(map(make_env, each)), observation_mode=mode)
    assert_same_run(theirs, twin(list(map(make_env, each)), observation_mode=mode))


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


def test_reset_gets_seeds_and_options(twin: Any) -> None:
    ours = twin(envs_of())
    ours.reset(seed=[4, None, 6], options={"level": 3})
    assert ours.get_attr("last_options") == ({"level": 3},) * 3
    assert ours.np_random_seed[::2] == (4, 6)
    with pytest.raises(ValueError, match="2 items for 3"):
        ours.reset(seed=[1, 2])


def test_reset_mask_leaves_the_others(twin: Any) -> None:
    ours = twin(envs_of())
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
def test_masks_that_cannot_be(twin: Any, mask: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="reset_mask"):
        twin(envs_of()).reset(options={"reset_mask": mask})


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
def test_gymnasiums_wrappers(opened: Any, twin: Any, wrap: Any, mode: AutoresetMode) -> None:
    theirs = wrap(opened(SyncVectorEnv, envs_of(), autoreset_mode=mode))
    ours = wrap(twin(envs_of(), autoreset_mode=mode))
    assert_times_aside(theirs.reset(seed=2), ours.reset(seed=2))
    for _ in range(12):
        assert_times_aside(theirs.step(np.zeros(3, int)), ours.step(np.zeros(3, int)))


def assert_times_aside(expected: Any, got: Any) -> None:
    for result in (expected, got):
        if isinstance(result[-1], dict) and "episode" in result[-1]:
            assert result[-1]["episode"].pop("t").shape == (3,)
    assert_same(expected, got)


# -- misuse ---------------------------------------------------------------------------------------


def test_step_before_reset(twin: Any) -> None:
    ours = twin(envs_of())
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\]"):
        ours.step([0, 0, 0])
    ours.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        ours.step_async([0, 0, 0])


def test_disabled_wants_resets(twin: Any) -> None:
    ours = twin([make_env(first_length=0), make_env()], autoreset_mode="Disabled")
    ours.reset()
    assert ours.step([0, 0])[2].tolist() == [True, False]
    with pytest.raises(ResetNeeded, match=r"\[0\]"):
        ours.step([0, 0])
    ours.reset(options={"reset_mask": np.array([True, False])})
    ours.step([0, 0])


def test_calls_out_of_order(twin: Any) -> None:
    ours = twin(envs_of())
    for name in ("reset", "step", "call"):
        with pytest.raises(NoAsyncCallError) as missing:
            getattr(ours, f"{name}_wait")()
        assert missing.value.name == name
    ours.reset()
    ours.step_async([0, 0, 0])
    for start in (lambda: ours.step([0, 0, 0]), ours.reset, lambda: ours.set_attr("gravity", 1)):
        with pytest.raises(AlreadyPendingCallError) as pending:
            start()
        assert pending.value.name == "step"
    with pytest.warns(UserWarning, match="a step is out"):
        ours.close()


def test_closed(twin: Any) -> None:
    ours = twin(envs_of())
    ours.reset()
    ours.close()
    ours.close()
    assert ours.observations is None  # it may hold the shared memory
    calls = [ours.reset, ours.step_wait, ours.render, lambda: ours.step([0] * 3)]
    for call in [*calls, lambda: ours.set_attr("gravity", 1)]:
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": print}, "worker="),
        ({"autoreset_mode": "Sometimes"}, "Sometimes"),
        ({"context": "teleport"}, "teleport"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_arguments_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorEnv(envs_of(), **options)


def test_wrong_number_of_actions(twin: Any) -> None:
    ours = twin(envs_of())
    ours.reset()
    with pytest.raises(ValueError, match="3"):
        ours.step([0, 0])
    assert ours.get_attr("t") == (0, 0, 0)


class BrokenEnv(SpaceEnv):
    """Does wrong what it is told to."""

    def __init__(self, fault: str) -> None:
        super().__init__(copy.deepcopy(BOX))
        self.fault = fault
        if fault == "make":
            raise ConnectionError("no simulator")

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        if self.fault == "reset":
            raise KeyError("no level")
        return (observation[:2] if self.fault == "reset shape" else observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        if self.fault == "step":
            raise ZeroDivisionError("by accident")
        if self.fault == "shape":
            observation = observation[:2]
        if self.fault == "dtype":
            observation = observation + 1j
        return observation, *rest


@pytest.mark.parametrize("max_processes", [0, None])
def test_what_environments_raise(opened: Any, max_processes: int | None) -> None:
    def broken(fault: str) -> Any:
        faults = ["", fault]
        return opened(
            VectorEnv,
            [functools.partial(BrokenEnv, f) for f in faults],
            max_processes=max_processes,
        )

    with pytest.raises(ConnectionError, match="no simulator"):
        broken("make")
    with pytest.raises(KeyError, match="no level"):
        broken("reset").reset()
    ours = broken("step")
    ours.reset()
    with pytest.raises(ZeroDivisionError, match="by accident") as raised:
        ours.step([0, 0])
    assert "BrokenEnv" in str(raised.value.__cause__) or "in step" in str(raised.value.__cause__)
    ours.reset()  # a reset mends it


@pytest.mark.parametrize("fault", ["shape", "dtype", "reset shape"])
def test_observations_that_do_not_fit(twin: Any, fault: str) -> None:
    ours = twin([functools.partial(BrokenEnv, f) for f in ("", fault)])

    def run() -> None:
        ours.reset()
        ours.step([0, 0])

    with pytest.raises(ValueError, match=r"expected float32 \[3\]") as raised:
        run()
    assert "1" in str(raised.value)


def test_no_environment() -> None:
    with pytest.raises(TypeError, match=r"must make a gymnasium\.Env"):
        VectorEnv([lambda: "CartPole-v1"], max_processes=0)  # type: ignore[list-item,return-value]
    env = SpaceEnv(BOX)
    with pytest.raises(ValueError, match="in use already"):
        VectorEnv([lambda: env] * 2, max_processes=0)
    VectorEnv([lambda: env], max_processes=0).close()
    VectorEnv([lambda: env], max_processes=0).close()


class GatedEnv(SpaceEnv):
    """Its steps wait until an event is set."""

    def __init__(self, gate: Any) -> None:
        super().__init__(copy.deepcopy(BOX))
        self.gate = gate

    def step(self, action: Any) -> Any:
        self.gate.wait()
        return super().step(action)


def test_a_late_step_is_not_lost(opened: Any) -> None:
    with multiprocessing.Manager() as manager:
        gate = manager.Event()
        ours = opened(VectorEnv, [functools.partial(GatedEnv, gate)])
        ours.reset()
        ours.step_async([0])
        with pytest.raises(multiprocessing.TimeoutError):
            ours.step_wait(timeout=0.05)
        gate.set()
        assert ours.step_wait()[1].tolist() == [0.5]
        ours.close()


# -- from a vector --------------------------------------------------------------------------------


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
    ours.set_attr("label", ["a", "b", "c"])
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
