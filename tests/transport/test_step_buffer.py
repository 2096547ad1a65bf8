"""The step buffer: how spaces are laid out in it, and what finds a place there."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import LayoutError
from vectasks.protocol import IN_PLACE, Failure, StepOutcome
from vectasks.task import RLStepResult
from vectasks.testing import assert_identical
from vectasks.transport.layout import NUM_ROWS, Layout, leaves
from vectasks.transport.memory import SharedMemory
from vectasks.transport.step_buffer import (
    DONE,
    EMPTY_INFO,
    EXHAUSTED,
    EXTRA,
    TERMINATED,
    TRUNCATED,
    OutOfBand,
    RowReader,
    RowWriter,
    StepBuffer,
)

NESTED = spaces.Dict(
    {
        "hand": spaces.Tuple((spaces.Box(-1.0, 1.0, (2, 3), np.float32), spaces.Discrete(5))),
        "flags": spaces.MultiBinary([2, 2]),
        "inner": spaces.Dict(
            {"choice": spaces.MultiDiscrete([3, 7]), "deep": spaces.Tuple((spaces.Text(5),))}
        ),
        "void": spaces.Box(0, 1, (0, 4), np.uint8),
    }
)

# Every dtype that a fixed-shape space may have, in usual and unusual shapes.
PLAIN = [
    spaces.Box(-1, 1, (3,), np.float16),
    spaces.Box(-1, 1, (2, 2), np.float32),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Box(0, 9, (1,), np.uint16),
    spaces.Box(0, 9, (2,), np.uint32),
    spaces.Box(0, 9, (2,), np.uint64),
    spaces.Box(-9, 9, (5,), np.int8),
    spaces.Box(-9, 9, (5,), np.int16),
    spaces.Box(-9, 9, (5,), np.int32),
    spaces.Box(-9, 9, (5,), np.int64),
    spaces.Box(0, 1, (3,), bool),
    spaces.Box(0, 1, (0,), np.float32),
    spaces.Box(0, 1, (3, 0, 2), np.int32),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), dtype=np.int32),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 3]),
]


def layout_of(space: Any, observation: Any, action: Any = None, samplers: int = 3) -> Layout:
    action = spaces.Discrete(2) if action is None else action
    return Layout.of(space, action, observation, samplers, 2)


def outcome(observation: Any, **changes: Any) -> RLStepResult | StepOutcome:
    if "done" in changes:
        return StepOutcome(observation, 1.5, True, None, False, False, False)._replace(**changes)
    return RLStepResult(observation, 1.5, False, None)._replace(**changes)


class Desk:
    """A step buffer with one writer for all samplers and one reader."""

    def __init__(self, space: Any, first: Any, samplers: int = 3, strict: bool = False) -> None:
        self.step_buffer = StepBuffer(layout_of(space, first, samplers=samplers))
        self.writers = {
            (row, as_batch): RowWriter(self.step_buffer, range(samplers), row, as_batch, strict)
            for row in range(NUM_ROWS)
            for as_batch in (False, True)
        }
        self.reader = RowReader(self.step_buffer)

    def back(
        self, observation: Any, *, sampler: int = 1, row: int = 0, as_batch: bool = False
    ) -> Any:
        """An observation after its way through the buffer, and what went beside it."""
        extra = self.writers[row, as_batch].write(sampler, outcome(observation))
        extras = {} if extra is None else {sampler: extra}
        (got,) = self.reader.outcomes([sampler], row, as_batch, extras)
        assert isinstance(got, RLStepResult)
        return got.observation, extra


# -- the layout ------------------------------------------------------------------------------------


def test_leaves_of_a_nested_space() -> None:
    found = {leaf.name: (leaf.shape, leaf.dtype) for leaf in leaves(NESTED)}
    assert found == {
        "observation['hand'][0]": ((2, 3), np.dtype(np.float32)),
        "observation['hand'][1]": ((), np.dtype(np.int64)),
        "observation['flags']": ((2, 2), np.dtype(np.int8)),
        "observation['inner']['choice']": ((2,), np.dtype(np.int64)),
        "observation['inner']['deep'][0]": ((), None),
        "observation['void']": ((0, 4), np.dtype(np.uint8)),
    }
    assert [leaf.name for leaf in leaves(spaces.Discrete(2))] == ["observation"]


@pytest.mark.parametrize("space", [spaces.Text(4), spaces.Sequence(spaces.Discrete(2)), object()])
def test_spaces_of_no_fixed_shape_have_no_dtype(space: Any) -> None:
    (leaf,) = leaves(space)
    assert leaf.dtype is None


def test_arrays_hold_a_batch_in_each_row() -> None:
    step_buffer = StepBuffer(layout_of(NESTED, NESTED.sample()))
    shapes = [None if a is None else (a.shape, a.dtype) for a in step_buffer.leaf_arrays]
    for leaf, shape in zip(leaves(NESTED), shapes, strict=True):
        if leaf.dtype is None:
            assert shape is None
        else:
            assert shape == ((NUM_ROWS, 3, *leaf.shape), leaf.dtype)


@pytest.mark.parametrize(
    ("action_space", "expected"),
    [
        (spaces.Discrete(4, start=2), ((3,), np.dtype(np.int64))),
        (spaces.Box(-1, 1, (2, 5), np.float16), ((3, 2, 5), np.dtype(np.float16))),
        (spaces.MultiDiscrete([2, 2]), None),
        (spaces.Tuple((spaces.Discrete(2),)), None),
        (object(), None),
    ],
)
def test_actions_that_have_a_place(action_space: Any, expected: Any) -> None:
    array = StepBuffer(layout_of(spaces.Discrete(2), 0, action_space)).get("action")
    assert (None if array is None else (array.shape, array.dtype)) == expected


@pytest.mark.parametrize("space", [NESTED, *PLAIN], ids=str)
def test_arrays_are_aligned_and_apart(space: Any) -> None:
    layout = layout_of(space, space.sample(), spaces.Box(-1, 1, (3,), np.float32), samplers=5)
    memory = SharedMemory()
    memory.resize(layout.size_bytes())
    mapped = memory.map()
    memory.close()
    step_buffer = StepBuffer(layout, mapped)
    arrays = [step_buffer[name] for name in layout.fields()]
    ends = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.size)
    assert all(start % 64 == 0 for start, _ in ends)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(ends))
    assert ends[-1][1] <= ends[0][0] + layout.size_bytes()


def test_counters_of_workers_share_no_cache_line() -> None:
    step_buffer = StepBuffer(Layout.of(spaces.Discrete(2), None, 0, 8, 4))
    for name in ("step_bell", "message_bell", "asleep"):
        assert step_buffer[name].strides[0] == 64


def test_a_layout_travels() -> None:
    layout = layout_of(NESTED, NESTED.sample())
    copy = pickle.loads(pickle.dumps(layout))
    assert copy == layout
    assert copy.fields() == layout.fields()


def test_a_slab_of_empty_leaves_only() -> None:
    space = spaces.Dict({"void": spaces.Box(0, 1, (0,), np.float32), "none": spaces.Tuple(())})
    first = {"void": np.zeros(0, np.float32), "none": ()}
    desk = Desk(space, first)
    for as_batch in (False, True):
        got, extra = desk.back(first, as_batch=as_batch)
        assert_identical(got, first)
        assert extra is None


# -- memory ----------------------------------------------------------------------------------------


def test_shared_memory_has_no_name_and_outlives_its_descriptor() -> None:
    layout = layout_of(spaces.Discrete(3), 0)
    before = set(Path("/dev/shm").iterdir())
    memory = SharedMemory()
    memory.resize(layout.size_bytes())
    one, two = StepBuffer(layout, memory.map()), StepBuffer(layout, memory.map())
    memory.close()
    memory.close()
    one["reward"][1, 2] = 2.5
    assert two["reward"][1, 2] == 2.5
    assert not two["flags"].any()
    assert set(Path("/dev/shm").iterdir()) == before


# -- what comes back unchanged ---------------------------------------------------------------------


@pytest.mark.parametrize("space", PLAIN, ids=str)
def test_samples_come_back_bit_by_bit(space: Any) -> None:
    space.seed(3)
    first = space.sample()
    desk = Desk(space, first)
    for row in range(NUM_ROWS):
        value = space.sample()
        got, extra = desk.back(value, row=row)
        assert_identical(got, value)
        assert extra is None


def test_nested_samples_come_back_bit_by_bit() -> None:
    NESTED.seed(1)
    desk = Desk(NESTED, NESTED.sample())
    value = NESTED.sample()
    got, extra = desk.back(value)
    assert_identical(got, value)
    assert extra == OutOfBand(1, off_leaves={4: value["inner"]["deep"][0]})


def test_nan_infinity_and_minus_zero_come_back() -> None:
    space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    value = np.array([np.nan, -0.0, np.inf, -np.inf], np.float32)
    value.view(np.uint32)[0] |= 0x1234  # a NaN with a payload
    desk = Desk(space, np.zeros(4, np.float32))
    for as_batch in (False, True):
        assert_identical(desk.back(value, as_batch=as_batch)[0], value)


@pytest.mark.parametrize(
    ("space", "value", "form"),
    [
        (spaces.Discrete(5), 3, int),
        (spaces.Discrete(5), np.int64(3), np.int64),
        (spaces.Discrete(5), np.array(3), np.ndarray),
        (spaces.Discrete(5), np.int32(3), None),
        (spaces.Discrete(5), True, None),
        (spaces.Box(0, 1, (), np.float64), 0.25, float),
        (spaces.Box(0, 1, (), np.float64), np.float64(0.25), np.float64),
        (spaces.Box(0, 1, (), np.float32), 0.25, None),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2, np.float32), np.ndarray),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2), None),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2, ">f4"), None),
        (spaces.Box(0, 1, (2,), np.float32), [0.0, 0.0], None),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros((1, 2), np.float32), None),
        (spaces.Box(0, 1, (2,), np.float32), np.ma.zeros(2, np.float32), None),
        (spaces.Text(3), "abc", None),
    ],
)
def test_the_type_of_the_first_observation_is_what_comes_back(
    space: Any, value: Any, form: type | None
) -> None:
    layout = layout_of(space, value)
    assert layout.forms == (form,)
    got, extra = Desk(space, value).back(value)
    assert_identical(got, value)
    assert (extra is None) == (form is not None)


@pytest.mark.parametrize(
    "other",
    [3, np.int32(3), np.array(3), np.array([3]), True, 2**70, "text", None, 3.0, [3]],
    ids=repr,
)
def test_a_value_unlike_the_first_leaves_the_slab_alone(other: Any) -> None:
    space = spaces.Dict({"odd": spaces.Discrete(5), "even": spaces.Box(0, 1, (2,), np.float32)})
    even = np.array([0.25, 0.5], np.float32)
    desk = Desk(space, {"odd": np.int64(1), "even": even})
    got, extra = desk.back({"odd": other, "even": even})
    assert_identical(got, {"odd": other, "even": even})
    assert extra is not None
    assert list(extra.off_leaves) == [list(space.spaces).index("odd")]


def test_an_int_too_large_for_its_array() -> None:
    desk = Desk(spaces.Discrete(5), 1)
    got, _ = desk.back(2**70)
    assert got == 2**70
    with pytest.raises(LayoutError, match="observation: expected int64"):
        desk.back(2**70, as_batch=True)


def test_keys_come_back_in_the_order_of_the_task() -> None:
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Dict({"c": spaces.Discrete(3)})})
    desk = Desk(space, {"b": {"c": 1}, "a": 2})
    for value in ({"b": {"c": 0}, "a": 1}, {"a": 1, "b": {"c": 0}}):
        got, _ = desk.back(value)
        assert_identical(got, value)


@pytest.mark.parametrize(
    "value", [{"a": 1}, {"a": 1, "b": 2, "more": 3}, [1, 2], None, 7, "text"], ids=repr
)
def test_another_nesting(value: Any) -> None:
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Discrete(3)})
    usual = {"a": 1, "b": 2}
    got, extra = Desk(space, usual).back(value)
    assert_identical(got, value)
    assert extra is not None
    assert extra.observation == (value,)
    if isinstance(value, dict) and "more" in value:
        return
    with pytest.raises(LayoutError, match=r"observation\['a'\], observation\['b'\]"):
        Desk(space, usual).back(value, as_batch=True)
    with pytest.raises(LayoutError, match="not nested"):
        Desk(space, usual, strict=True).back(value)


def test_what_comes_back_is_owned() -> None:
    for shape in ((3,), (40, 40)):
        space = spaces.Box(0, 1, shape, np.float64)
        desk = Desk(space, np.zeros(shape))
        value = np.ones(shape)
        got, _ = desk.back(value)
        others = [desk.back(value, sampler=i)[0] for i in (0, 2)]
        value[:] = 5
        desk.back(np.full(shape, 7.0))
        assert (got == 1).all()
        assert got.flags.writeable
        got[:] = 9
        assert all((other == 1).all() for other in others)


def test_rows_and_samplers_are_apart() -> None:
    space = spaces.Box(0, 99, (2,), np.int32)
    desk = Desk(space, np.zeros(2, np.int32))
    for row in range(NUM_ROWS):
        for sampler in range(3):
            value = np.full(2, 10 * row + sampler, np.int32)
            desk.writers[row, False].write(sampler, outcome(value, reward=float(row + sampler)))
    for row in range(NUM_ROWS):
        got = desk.reader.outcomes([2, 0], row, False, {})
        assert [o.observation.tolist() for o in got] == [[10 * row + 2] * 2, [10 * row] * 2]
        assert [o.reward for o in got] == [row + 2.0, row]


# -- as a batch has it -----------------------------------------------------------------------------

FITTING = [
    (spaces.Box(0, 1, (2,), np.float32), np.array([0.5, 1.0])),
    (spaces.Box(0, 1, (2,), np.float32), [0.5, 1.0]),
    (spaces.Box(0, 9, (2,), np.float32), [1, 2]),
    (spaces.Box(0, 1, (), np.float32), 0.5),
    (spaces.Box(0, 9, (2,), np.int64), np.array([1, 2], np.int16)),
    (spaces.Box(0, 9, (2,), np.int16), np.array([1, 2], np.int64)),
    (spaces.Box(0, 9, (2,), np.uint8), [1, 2]),
    (spaces.Discrete(5), np.int32(4)),
    (spaces.Discrete(5), np.array(4, np.int8)),
    (spaces.MultiBinary(2), np.array([True, False])),
    (spaces.MultiBinary(2), [1, 0]),
]

MISFITS = [
    (spaces.Box(0, 9, (2,), np.int32), np.array([1.0, 2.0]), r"int32 \[2\].*float64 \[2\]"),
    (spaces.Box(0, 9, (2,), np.float32), np.zeros(3, np.float32), r"float32 \[2\].*float32 \[3\]"),
    (spaces.Box(0, 9, (2,), np.float32), np.zeros((1, 2), np.float32), r"float32 \[2\].*\[1, 2\]"),
    (spaces.Box(0, 9, (2,), np.float32), np.float32(1), r"float32 \[2\].*float32 \[\]"),
    (spaces.Box(0, 255, (2,), np.uint8), [300, 0], r"uint8 \[2\].*list"),
    (spaces.Discrete(5), 2.5, r"int64 \[\].*float 2\.5"),
    (spaces.Discrete(5), "two", r"int64 \[\].*str 'two'"),
    (spaces.Discrete(5), None, r"int64 \[\].*NoneType"),
    (spaces.Box(0, 1, (2,), np.float32), [[1], [1, 2]], r"float32 \[2\].*list"),
]


@pytest.mark.parametrize(("space", "value"), FITTING, ids=str)
@pytest.mark.parametrize("usual", [True, False])
def test_casts_within_a_kind(space: Any, value: Any, usual: bool) -> None:
    desk = Desk(space, space.sample() if usual else value)
    got, _ = desk.back(value, as_batch=True)
    expected = np.asarray(value).astype(space.dtype)
    assert_identical(np.asarray(got), expected)


@pytest.mark.parametrize(("space", "value", "expected"), MISFITS, ids=str)
@pytest.mark.parametrize("usual", [True, False])
def test_misfits_name_the_leaf_the_expected_and_the_given(
    space: Any, value: Any, expected: str, usual: bool
) -> None:
    nested = spaces.Dict({"deep": spaces.Tuple((spaces.Discrete(2), space))})
    first = nested.sample() if usual else {"deep": (0, value)}
    desk = Desk(nested, first)
    with pytest.raises(LayoutError, match=rf"observation\['deep'\]\[1\]: expected {expected}"):
        desk.back({"deep": (0, value)}, as_batch=True)


@pytest.mark.parametrize(("space", "value", "expected"), MISFITS, ids=str)
@pytest.mark.parametrize("usual", [True, False])
def test_a_strict_writer_refuses_misfits_in_list_steps_too(
    space: Any, value: Any, expected: str, usual: bool
) -> None:
    desk = Desk(space, space.sample() if usual else value, strict=True)
    with pytest.raises(LayoutError, match=rf"observation: expected {expected}"):
        desk.back(value)


def test_a_tensor_is_cast_like_an_array() -> None:
    torch = pytest.importorskip("torch")
    space = spaces.Box(0, 9, (2,), np.float32)
    desk = Desk(space, torch.zeros(2))
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    assert_identical(desk.back(value, as_batch=True)[0], np.array([1, 2], np.float32))
    got, _ = desk.back(value)
    assert got is value


def test_an_unshaped_leaf_goes_beside_the_batch() -> None:
    space = spaces.Dict({"words": spaces.Text(9), "number": spaces.Discrete(4)})
    desk = Desk(space, {"words": "a", "number": 1})
    _, extra = desk.back({"words": "bcd", "number": 2}, as_batch=True)
    assert extra == OutOfBand(1, off_leaves={list(space.spaces).index("words"): "bcd"})


# -- rewards, flags, infos -------------------------------------------------------------------------


def test_flags_and_rewards() -> None:
    desk = Desk(spaces.Discrete(3), 0)
    flags = desk.step_buffer["flags"]
    desk.writers[1, False].write(0, outcome(1, done=True, terminated=True))
    desk.writers[1, False].write(1, outcome(1, done=True, truncated=True, info={}))
    desk.writers[1, False].write(2, outcome(1, reward=float("nan"), info={"a": 1}))
    assert flags[1].tolist() == [DONE | TERMINATED, DONE | TRUNCATED | EMPTY_INFO, EXTRA]
    one, two, three = desk.reader.outcomes([0, 1, 2], 1, False, {2: OutOfBand(2, info={"a": 1})})
    assert one == outcome(1, done=True, terminated=True)
    assert two == outcome(1, done=True, truncated=True, info={})
    assert_identical(tuple(three), tuple(outcome(1, reward=float("nan"), info={"a": 1})))
    assert [type(flag) for flag in one[4:]] == [bool] * 3


@pytest.mark.parametrize("as_batch", [False, True])
@pytest.mark.parametrize(
    ("info", "beside"),
    [
        (None, False),
        ({}, False),
        ({"k": 1}, True),
        (np.float64(0), True),  # nonsense of the user's, but it comes back
    ],
)
def test_infos(info: Any, beside: bool, as_batch: bool) -> None:
    desk = Desk(spaces.Discrete(3), 0)
    extra = desk.writers[0, as_batch].write(0, outcome(1, info=info))
    assert (extra is not None) == beside
    extras = {} if extra is None else {0: extra}
    (got,) = desk.reader.outcomes([0], 0, False, extras)
    assert_identical(got.info, info)


def test_rewards_of_several_agents() -> None:
    desk = Desk(spaces.Discrete(3), 0)
    extra = desk.writers[0, False].write(0, outcome(1, reward=[1.0, 2.0]))
    (got,) = desk.reader.outcomes([0], 0, False, {0: extra})
    assert got.reward == [1.0, 2.0]
    with pytest.raises(LayoutError, match="list of 2 rewards"):
        desk.writers[0, True].write(0, outcome(1, reward=[1.0, 2.0]))


@pytest.mark.parametrize("as_batch", [False, True])
def test_an_exhausted_sampler_has_zeros(as_batch: bool) -> None:
    space = spaces.Dict({"box": spaces.Box(0, 9, (2,), np.float32), "n": spaces.Discrete(9)})
    first = {"box": np.ones(2, np.float32), "n": 7}
    desk = Desk(space, first)
    desk.back(first)
    ended = StepOutcome(None, 2.0, True, {}, True, False, True)
    assert desk.writers[0, as_batch].write(1, ended) is None
    assert desk.step_buffer["flags"][0, 1] == DONE | TERMINATED | EXHAUSTED | EMPTY_INFO
    assert not any(array[0, 1].any() for array in desk.step_buffer.leaf_arrays if array is not None)
    (got,) = desk.reader.outcomes([1], 0, as_batch, {})
    assert got == ended


def test_a_failure() -> None:
    desk = Desk(spaces.Discrete(3), 0)
    failure = Failure.of(ValueError("no"))
    extra = desk.writers[1, False].fail(2, failure)
    assert desk.step_buffer["flags"][1, 2] & EXTRA
    assert desk.reader.outcomes([2], 1, False, {2: extra}) == [failure]


# -- in place --------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_batch", [False, True])
def test_a_task_may_write_into_its_place(as_batch: bool) -> None:
    space = spaces.Dict({"a": spaces.Box(0, 9, (2,), np.float32), "b": spaces.MultiBinary(3)})
    desk = Desk(space, {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.int8)})
    place = desk.writers[1, as_batch].places[1]
    assert list(place) == ["a", "b"]
    place["a"][:] = 4
    place["b"][1] = 1
    desk.writers[1, as_batch].write(1, outcome(IN_PLACE))
    (got,) = desk.reader.outcomes([1], 1, as_batch, {})
    place["a"][:] = 5
    expected = {"a": np.full(2, 4, np.float32), "b": np.array([0, 1, 0], np.int8)}
    assert_identical(got.observation, expected)
    assert not any(array[0].any() for array in desk.step_buffer.leaf_arrays if array is not None)


def test_a_place_for_a_single_number_can_be_written() -> None:
    desk = Desk(spaces.Box(0, 9, (), np.float64), np.array(0.0))
    place = desk.writers[0, True].places[0]
    place[...] = 3.5
    assert desk.step_buffer.leaf_arrays[0][0].tolist() == [3.5, 0, 0]


@pytest.mark.parametrize(
    ("space", "first", "listed", "batched"),
    [
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2, np.float32), True, True),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2), False, True),
        (spaces.Discrete(4), 1, False, True),
        (spaces.Text(4), "a", False, False),
    ],
)
def test_who_has_a_place(space: Any, first: Any, listed: bool, batched: bool) -> None:
    writers = Desk(space, first).writers
    assert (writers[0, False].places[0] is not None) == listed
    assert (writers[0, True].places[0] is not None) == batched
