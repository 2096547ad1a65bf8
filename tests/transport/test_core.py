"""The compiled core against the Python that it stands for, piece by piece."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vectasks import RLStepResult, Task
from vectasks.spaces import action_batches
from vectasks.transport.compiled import core
from vectasks.transport.layout import NUM_ROWS, Layout
from vectasks.transport.step_buffer import RowWriter, StepBuffer

pytestmark = pytest.mark.skipif(core is None, reason="the core is not built, or not wanted")

NUM_SAMPLERS = 3
CANARY = b"\xa5" * 64
KINDS = [np.dtype(kind) for kind in ("u1", "i8", "f4", "f8", "?")]


def box(shape: tuple[int, ...], dtype: np.dtype[Any]) -> spaces.Space[Any]:
    if dtype.kind == "b":
        return spaces.MultiBinary([max(1, side) for side in shape] or [1])
    low, high = (0, 255) if dtype == np.uint8 else (-1000, 1000)
    return spaces.Box(low, high, shape, dtype.type)


leaf_spaces = st.one_of(
    st.builds(
        box,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        st.sampled_from(KINDS),
    ),
    st.builds(spaces.Discrete, st.integers(1, 9)),
)
observation_spaces = st.recursive(
    leaf_spaces,
    lambda part: st.one_of(
        st.dictionaries(st.sampled_from("abcd"), part, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(part, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=4,
)
infos = st.one_of(st.none(), st.just({}), st.dictionaries(st.sampled_from("xy"), st.integers()))


def spoiled(observation: Any, how: str) -> Any:
    """An observation that is not as its space says, or is in another memory order."""
    if how == "as it is":
        return observation
    if isinstance(observation, dict):
        if how == "other order":
            return dict(reversed(observation.items()))
        if how == "other kind":
            return OrderedDict(observation)
        name = next(iter(observation))
        return {**observation, name: spoiled(observation[name], how)}
    if isinstance(observation, tuple):
        return (spoiled(observation[0], how), *observation[1:])
    if not isinstance(observation, np.ndarray):
        return {"other dtype": float(observation), "huge": 2**70}.get(how, observation)
    if how == "other dtype":
        return observation.astype(np.float16)
    if how == "strided":
        return np.repeat(observation, 2, axis=-1)[..., ::2]
    if how == "other shape":
        return observation[None]
    return observation


ways = st.sampled_from(
    ["as it is"] * 4
    + ["other order", "other kind", "other dtype", "strided", "other shape", "huge"]
)


class Rows:
    """A step buffer in memory of its own, with canaries behind it."""

    def __init__(self, space: Any, first: Any, with_core: bool) -> None:
        self.layout = Layout.of(space, spaces.Discrete(2), first, NUM_SAMPLERS, 1)
        self.memory = bytearray(self.layout.size_bytes()) + bytearray(CANARY)
        self.step_buffer = StepBuffer(self.layout, self.memory)
        if not with_core:
            self.step_buffer.compiled = None

    def contents(self) -> list[bytes]:
        arrays = [
            self.step_buffer["flags"],
            self.step_buffer["reward"],
            *self.step_buffer.leaf_arrays,
        ]
        return [array.tobytes() for array in arrays if array is not None]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_what_it_writes_is_what_python_writes(data: st.DataObject) -> None:
    space = data.draw(observation_spaces)
    space.seed(data.draw(st.integers(0, 99)))
    first = space.sample()
    compiled, plain = Rows(space, first, True), Rows(space, first, False)
    if compiled.step_buffer.compiled is None:
        return
    for _ in range(data.draw(st.integers(1, 6))):
        row, sampler = data.draw(st.tuples(st.integers(0, 3), st.integers(0, NUM_SAMPLERS - 1)))
        as_batch = data.draw(st.booleans())
        observation = spoiled(space.sample(), data.draw(ways))
        info = data.draw(infos)
        result = RLStepResult(observation, data.draw(st.floats(width=32)), False, info)
        before = compiled.contents()
        if compiled.step_buffer.compiled.put(row, sampler, as_batch, result):
            writer = RowWriter(plain.step_buffer, range(NUM_SAMPLERS), row, as_batch)
            extra = writer.write(sampler, result)
            assert (extra is None) == (not info)
            assert extra is None or (extra.info == info and extra[2:] == (None,) * 4)
            assert compiled.contents() == plain.contents()
        else:  # whatever it wrote belongs to this row and sampler
            after = compiled.contents()
            for old, new, array in zip(
                before, after, [compiled.step_buffer["flags"], compiled.step_buffer["reward"],
                                *compiled.step_buffer.leaf_arrays], strict=True,
            ):  # fmt: skip
                changed = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
                changed = changed.reshape(NUM_ROWS, NUM_SAMPLERS, -1)
                changed[row, sampler] = False
                assert not changed.any(), array.dtype
            plain.memory[:] = compiled.memory
    assert compiled.memory.endswith(CANARY)


def test_it_takes_what_is_usual() -> None:
    space = spaces.Dict({"a": box((2,), KINDS[2]), "b": spaces.Discrete(5)})
    rows = Rows(space, {"a": np.zeros(2, np.float32), "b": 1}, True).step_buffer.compiled
    usual = {"a": np.ones(2, np.float32), "b": 3}
    for result in (RLStepResult(usual, 1.0, False, None), (usual, 1.0, False, {"why": 1})):
        assert rows.put(0, 0, True, result)
        assert rows.put(0, 0, False, result)
    for result in (
        RLStepResult(usual, 1.0, True, {}),
        RLStepResult(usual, 1.0, None, {}),
        RLStepResult(usual, np.float32(1), False, {}),
        RLStepResult(None, 1.0, False, {}),
        (usual, 1.0, False),
        None,
    ):
        assert not rows.put(0, 0, True, result)


@pytest.mark.parametrize(("row", "sampler"), [(-1, 0), (NUM_ROWS, 0), (0, -1), (0, NUM_SAMPLERS)])
def test_it_never_writes_elsewhere(row: int, sampler: int) -> None:
    rows = Rows(box((2,), KINDS[2]), np.zeros(2, np.float32), True)
    result = RLStepResult(np.ones(2, np.float32), 1.0, False, {})
    with pytest.raises(IndexError, match=f"no row {row} of sampler {sampler}"):
        rows.step_buffer.compiled.put(row, sampler, True, result)
    host = SimpleNamespace(is_plain=True, task=SimpleNamespace(step=lambda action: result))
    if row == 0:
        with pytest.raises(IndexError):
            core.run_steps(
                {sampler: host}, rows.step_buffer.compiled, row, True, [sampler], [0], {}, print, {}
            )
    assert not any(rows.memory[: -len(CANARY)])


FLAGS, REWARDS = np.zeros((2, 3), np.uint8), np.zeros((2, 3))
LEAF = np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("flags", "rewards", "leaf"),
    [
        (FLAGS.astype(np.int8), REWARDS, LEAF),
        (FLAGS, REWARDS.astype(np.float32), LEAF),
        (FLAGS, REWARDS[:, :2], LEAF),
        (FLAGS, np.zeros((3, 2)).T, LEAF),
        (FLAGS, REWARDS, LEAF[:1]),
        (FLAGS, REWARDS, LEAF[:, :2]),
        (FLAGS, REWARDS, LEAF[..., ::2]),
        (FLAGS, REWARDS, np.empty((2, 3, 4), object)),
    ],
)
def test_a_wrong_layout_is_an_error(flags: Any, rewards: Any, leaf: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|contiguous"):
        core.RowArrays(flags, rewards, [leaf], 0, [np.ndarray])
    core.RowArrays(FLAGS, REWARDS, [LEAF], 0, [np.ndarray])


actions_given = st.one_of(
    st.lists(st.integers(-3, 9), min_size=1, max_size=4),
    hnp.arrays(
        st.sampled_from(["i8", "i4", "u1", "f8", ">i8", "?"]), st.integers(1, 4),
        elements=st.integers(0, 1),
    ),
    hnp.arrays(st.sampled_from(["f4", "f8", "i8"]), st.just((3, 2)), elements=st.integers(-2, 2)),
    st.lists(st.lists(st.floats(-2, 2), min_size=2, max_size=2), min_size=3, max_size=3),
    st.just(np.full((3, 2), np.nan, np.float32)),
    st.just([True, False, 2**70]),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    actions_given,
    st.sampled_from(
        [
            spaces.Discrete(5),
            spaces.Discrete(5, start=-2),
            spaces.Box(-1, 1, (2,), np.float32),
            spaces.Box(np.array([-1, 0.0]), np.array([0.5, 2.0]), (2,), np.float64),
            spaces.Box(0, 9, (2,), np.uint8),
        ]
    ),
    st.booleans(),
)
def test_actions_are_taken_as_python_takes_them(actions: Any, space: Any, check: bool) -> None:
    batches = action_batches(space, check)
    bounds = batches.bounds(3)
    assert bounds is not None
    is_discrete = isinstance(space, spaces.Discrete)
    taken = core.Actions(3, is_discrete, batches.array, *bounds, check)
    expected = batches.array(actions, 3)
    assert taken.take(actions) == (expected is not None)
    if expected is not None:
        np.testing.assert_array_equal(taken.array, expected)
        assert taken.array.dtype == expected.dtype


@given(
    st.dictionaries(
        st.text(max_size=4),
        st.one_of(st.integers(), st.floats(), st.text(max_size=9), st.none(), st.booleans()),
        max_size=4,
    )
)
def test_simple_infos_come_back_as_they_were(info: dict[str, Any]) -> None:
    out_of_band = core.InfoPlaces(np.zeros(2, np.int64), np.zeros((2, 400), np.uint8))
    if out_of_band.write(1, info):
        assert repr(out_of_band.read(1)) == repr(info)
    else:
        assert len(repr(info)) > 30  # it had no room
    assert out_of_band.read(0) is None


@pytest.mark.parametrize(
    "info", [{"a": np.float64(1)}, {"a": [1]}, {1: 1}, {"a": {}}, {"a": "x" * 400}, {"a": 1j}]
)
def test_other_infos_are_left_to_pickle(info: dict[Any, Any]) -> None:
    data = np.zeros((2, 400), np.uint8)
    assert not core.InfoPlaces(np.zeros(2, np.int64), data).write(0, info)
    assert not data[1].any()


def test_a_size_that_cannot_be_is_an_error() -> None:
    num_parts, data = np.zeros(2, np.int64), np.zeros((2, 400), np.uint8)
    out_of_band = core.InfoPlaces(num_parts, data)
    assert out_of_band.write(0, {"a": 1})
    data[0].view(np.int64)[0] = 1 << 40
    with pytest.raises(ValueError, match="said to have"):
        out_of_band.read(0)
    with pytest.raises(IndexError):
        out_of_band.read(2)


# -- Task.step -----------------------------------------------------------------------------------


class Scripted(Task[None]):
    """Gives what it is told to."""

    action_space = spaces.Discrete(2)  # type: ignore[assignment]

    def __init__(self, script: list[Any], max_steps: float) -> None:
        super().__init__(None, max_steps=max_steps)
        self.script = list(script)

    def _step(self, action: Any) -> Any:
        given = self.script[self.num_steps_taken() % len(self.script)]
        if isinstance(given, Exception):
            raise given
        return given

    def get_observations(self) -> Any:
        return np.zeros(1, np.float32)


class Terminal(Scripted):
    def reached_terminal_state(self) -> bool:
        return self.num_steps_taken() >= 3


class DoneEarly(Scripted):
    def is_done(self) -> bool:
        return self.num_steps_taken() >= 2


class Short(Scripted):
    def reached_max_steps(self) -> bool:
        return self.num_steps_taken() >= 1


class Whole(Scripted):
    def step(self, action: Any) -> Any:
        return super().step(action)


scripts = st.lists(
    st.one_of(
        st.builds(
            RLStepResult,
            st.just(np.zeros(1, np.float32)),
            st.sampled_from([0.5, 1, np.float64(2), [1.0, 2.0], None, "x"]),
            st.sampled_from([False, True, None, np.bool_(True), 1, []]),
            st.sampled_from([None, {}, {"a": 1}]),
        ),
        st.sampled_from([(1, 2.0, False, {}), (1, 2), None, ValueError("on purpose")]),
    ),
    min_size=1,
    max_size=4,
)


def attempt(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as error:
        return type(error), str(error)


@settings(deadline=None, max_examples=300)
@given(
    scripts,
    st.sampled_from([Scripted, Terminal, DoneEarly, Short, Whole]),
    st.sampled_from([np.inf, 1, 2, 2.5]),
)
def test_a_task_is_stepped_as_by_its_own_step(
    script: list[Any], kind: type[Scripted], max_steps: float
) -> None:
    plain, compiled = kind(script, max_steps), kind(script, max_steps)
    rows = Rows(box((1,), KINDS[2]), np.zeros(1, np.float32), True)
    came: list[Any] = []

    def unusual(sampler: int, action: Any, result: Any, error: Any) -> None:
        came.append(result if error is None else (type(error), str(error)))

    host = SimpleNamespace(is_plain=True, task=compiled)
    for _ in range(6):
        expected = attempt(lambda: plain.step(0))
        rows.step_buffer["reward"][...] = -1
        kept: dict[int, Any] = {}
        core.run_steps(
            {0: host}, rows.step_buffer.compiled, 0, True, [0], [0], {0: None}, unusual, kept
        )
        if came:
            assert repr(came.pop()) == repr(expected)
        else:
            assert isinstance(expected, RLStepResult)
            assert expected.done is False
            assert rows.step_buffer["reward"][0, 0] == expected.reward
            assert kept == ({0: expected.info} if expected.info else {})
        assert plain.num_steps_taken() == compiled.num_steps_taken()
        assert plain.cumulative_reward == compiled.cumulative_reward
        assert plain._is_over == compiled._is_over
