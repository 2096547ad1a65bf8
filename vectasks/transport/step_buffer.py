"""The step buffer: the arrays of a layout, and what writes a step into them and reads it again.

What has no place here (leaves without a fixed shape, infos, lists of rewards, a value of another
type or shape than usual) is returned by :meth:`RowWriter.write` as :class:`OutOfBand`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import LayoutError
from vectasks.protocol import IN_PLACE, Failure, StepOutcome
from vectasks.spaces import items_under, items_within
from vectasks.task import RLStepResult
from vectasks.transport.compiled import core
from vectasks.transport.layout import (
    SMALL_BYTES,
    Layout,
    Leaf,
    Path,
    is_built_of,
    padded_bytes,
    pick,
)

DONE, TERMINATED, TRUNCATED, EXHAUSTED, EMPTY_INFO, EXTRA = (1 << bit for bit in range(6))


class StepBuffer:
    """The arrays of a layout, over memory that is shared or private.

    Args:
        layout: what it holds.
        memory: where; None: private memory of its own.
        num_rows: it is not the step buffer itself but so many rollout rows beside it.
    """

    def __init__(self, layout: Layout, memory: Any = None, num_rows: int | None = None) -> None:
        self.layout = layout
        memory = bytearray(layout.size_bytes(num_rows)) if memory is None else memory
        self.memory = memory
        self._tree = _tree(layout)
        is_plain = all(container.kind in (dict, tuple) for container in layout.containers)
        #: As :meth:`nest`, in the containers that the task gives.
        self.nest_as_given: Callable[[Sequence[Any]], Any] = functools.partial(
            _build if is_plain else _build_as_given, self._tree
        )
        self._arrays: dict[str, NDArray[Any]] = {}
        self._offsets: dict[str, int] = {}
        offset = 0
        fields = layout.fields() if num_rows is None else layout.row_fields(num_rows)
        for name, (shape, dtype) in fields.items():
            self._arrays[name] = np.ndarray(shape, dtype, memory, offset)
            self._offsets[name] = offset
            offset += padded_bytes(shape, dtype)
        self.leaf_arrays: list[NDArray[Any] | None] = [
            self._arrays.get(f"leaf{number}") for number in range(len(layout.leaves))
        ]
        #: What the compiled core writes and reads; None: there is none, or a leaf has no array.
        self.compiled: Any = None
        if core is not None and all(array is not None for array in self.leaf_arrays):
            self.compiled = core.RowArrays(
                self["flags"], self["reward"], self.leaf_arrays, self._tree, layout.forms
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def get(self, name: str) -> NDArray[Any] | None:
        """An array of the step buffer, or None."""
        return self._arrays.get(name)

    def offset_of(self, name: str) -> int:
        """Where an array begins, in bytes."""
        return self._offsets[name]

    def row(self, number: int) -> list[NDArray[Any] | None]:
        """A row's array for each leaf. Each is an object of its own: views of it refer to it."""
        arrays: list[NDArray[Any] | None] = []
        for leaf, array in enumerate(self.leaf_arrays):
            if array is None:
                arrays.append(None)
                continue
            offset = self._offsets[f"leaf{leaf}"] + number * array[0].nbytes
            arrays.append(np.ndarray(array.shape[1:], array.dtype, self.memory, offset))
        return arrays

    def nest(self, values: Sequence[Any]) -> Any:
        """Leaf values, in the order of the layout's leaves, in dicts and tuples as the space is."""
        return _build(self._tree, values)

    def flat(self, observation: Any) -> list[Any]:
        """The leaf values of an observation, nested in any mappings and sequences.

        Raises:
            Exception: it is nested otherwise, or a mapping of the user's raised this.
        """
        values = [None] * len(self.layout.leaves)
        _flatten(self._tree, observation, values)
        return values


def _tree(layout: Layout, path: Path = ()) -> Any:
    """The nesting as a tree: the number of a leaf, or (is a Dict, kind, [(key, tree)])."""
    for container in layout.containers:
        if container.path == path:
            trees = [(key, _tree(layout, (*path, key))) for key in container.keys]
            return container.is_dict, container.kind, trees
    return next(number for number, leaf in enumerate(layout.leaves) if leaf.path == path)


def _build(tree: Any, values: Sequence[Any]) -> Any:
    if type(tree) is int:
        return values[tree]
    is_dict, _, trees = tree
    if is_dict:
        return {key: values[sub] if type(sub) is int else _build(sub, values) for key, sub in trees}
    return tuple([_build(sub, values) for _, sub in trees])


def _build_as_given(tree: Any, values: Sequence[Any]) -> Any:
    if type(tree) is int:
        return values[tree]
    is_dict, kind, trees = tree
    items = [values[sub] if type(sub) is int else _build_as_given(sub, values) for _, sub in trees]
    if is_dict:
        return kind(zip([key for key, _ in trees], items, strict=True))
    return kind._make(items) if hasattr(kind, "_make") else kind(items)


def _flatten(tree: Any, part: Any, values: list[Any]) -> None:
    if type(tree) is int:
        values[tree] = part
        return
    is_dict, _, trees = tree
    items = (
        items_under(part, [key for key, _ in trees]) if is_dict else items_within(part, len(trees))
    )
    for (_, sub), item in zip(trees, items, strict=True):
        _flatten(sub, item, values)


class OutOfBand(NamedTuple):
    """What of one sampler's step is no array of the step buffer: whatever is not None."""

    sampler_id: int
    info: Any = None
    reward: Any = None
    off_leaves: Mapping[int, Any] | None = None
    observation: tuple[Any] | None = None  # the whole of it, in a tuple
    failure: Failure | None = None


class RowWriter:
    """Writes what some samplers' steps gave into one row of the step buffer.

    Args:
        step_buffer: where to.
        sampler_ids: whose steps.
        row: the row.
        as_batch: convert every fixed-shape leaf to its array's dtype, as a StepBatch has it;
            otherwise only values that the step buffer gives back unchanged go into it.
        strict: a leaf that does not fit is a LayoutError in list-returning steps too.
    """

    def __init__(
        self,
        step_buffer: StepBuffer,
        sampler_ids: Sequence[int],
        row: int,
        as_batch: bool,
        strict: bool = False,
    ) -> None:
        layout = step_buffer.layout
        self._step_buffer = step_buffer
        #: For the compiled core: the arrays, the row, and in which form.
        self.compiled: Any = step_buffer.compiled
        self.row: int = row
        self.as_batch = as_batch
        self._sampler_ids = sampler_ids
        self._layout = layout
        self._paths = [leaf.path for leaf in layout.leaves]
        self._as_batch = as_batch
        self._casts = as_batch or strict
        self._can_be_in_place = all(leaf.dtype is not None for leaf in layout.leaves) and (
            as_batch or all(form is np.ndarray for form in layout.forms)
        )
        self.move_to(row)

    def move_to(self, row: int) -> None:
        """Write into this row from now on."""
        step_buffer = self._step_buffer
        self.row = row
        self.flags: Any = memoryview(step_buffer["flags"][row])
        self.rewards: Any = memoryview(step_buffer["reward"][row])
        #: A view for each leaf, by sampler.
        self._views: dict[int, list[Any]] = {
            i: [None if array is None else array[row, i, ...] for array in step_buffer.leaf_arrays]
            for i in self._sampler_ids
        }
        #: By sampler: the arrays that a task may write its observation into, nested as the space.
        self.places: dict[int, Any] = {
            i: step_buffer.nest(views) if self._can_be_in_place else None
            for i, views in self._views.items()
        }

    def write(self, sampler_id: int, outcome: RLStepResult | StepOutcome) -> OutOfBand | None:
        """Write one outcome; what has no place in the row.

        Raises:
            LayoutError: a leaf does not fit the space that was declared.
        """
        flags, whole, off, several = 0, None, None, None
        if not isinstance(outcome, StepOutcome):
            observation, reward, _, info = outcome
        else:
            observation, reward, _, info, terminated, truncated, exhausted = outcome
            flags = DONE | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
            flags |= EXHAUSTED if exhausted else 0
        if flags & EXHAUSTED:
            for view in self._views[sampler_id]:
                if view is not None:
                    view[...] = 0
        elif observation is not IN_PLACE:
            views, layout = self._views[sampler_id], self._layout
            if is_built_of(observation, layout.containers):
                off = self._write_leaves(views, [pick(observation, path) for path in self._paths])
            else:
                if self._casts:
                    off = self._write_leaves(views, self._flat(observation))
                if not self._as_batch:
                    off, whole = None, (observation,)
        if type(reward) is float:
            self.rewards[sampler_id] = reward
        elif self._as_batch:
            raise LayoutError(
                f"the step gave a list of {len(reward)} rewards, and a StepBatch holds one a "
                "sampler; use step(), or add the agents' rewards up in the task."
            )
        else:
            several = reward
        if type(info) is dict and not info:
            flags |= EMPTY_INFO
            info = None
        if info is None and several is None and not off and whole is None:
            self.flags[sampler_id] = flags
            return None
        self.flags[sampler_id] = flags | EXTRA
        # As the constructor, in less time.
        return tuple.__new__(OutOfBand, (sampler_id, info, several, off or None, whole, None))

    def fail(self, sampler_id: int, failure: Failure) -> OutOfBand:
        """Write that the step failed."""
        self.flags[sampler_id] = EXTRA
        return OutOfBand(sampler_id, failure=failure)

    def _write_leaves(self, views: Sequence[Any], values: Sequence[Any]) -> dict[int, Any] | None:
        off: dict[int, Any] | None = None
        leaves, forms = self._layout.leaves, self._layout.forms
        for number, value in enumerate(values):
            form: Any = forms[number]
            view = views[number]
            if (
                form is not None
                and type(value) is form
                and (
                    form is not np.ndarray
                    or (value.dtype == view.dtype and value.shape == view.shape)
                )
            ):
                try:
                    view[...] = value
                except OverflowError:  # a Python int that int64 cannot hold
                    if self._casts:
                        raise _misfit(leaves[number], value) from None
                else:
                    continue
            elif view is not None and self._casts:
                _cast_into(view, value, leaves[number])
                if self._as_batch:
                    continue
            off = {} if off is None else off
            off[number] = value
        return off

    def _flat(self, observation: Any) -> list[Any]:
        try:
            return self._step_buffer.flat(observation)
        except Exception as error:  # user code: a mapping of its own may raise anything
            raise self._wrong_structure(observation) from error

    def _wrong_structure(self, observation: Any) -> LayoutError:
        expected = ", ".join(leaf.name for leaf in self._layout.leaves)
        given = (
            f"keys {sorted(map(str, observation))}"
            if isinstance(observation, dict)
            else f"a {type(observation).__name__}"
        )
        return LayoutError(
            f"the observation is not nested as its space: it has {given}, the space has "
            f"{expected}. Make the task's observations and observation_space agree."
        )


def _cast_into(view: NDArray[Any], value: Any, leaf: Leaf) -> None:
    """Write ``value`` into ``view``, casting within a kind of dtype.

    Raises:
        LayoutError: its shape or its kind of dtype is another.
    """
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except Exception as error:  # user data: whatever cannot become an array does not fit
        raise _misfit(leaf, value) from error
    if array.shape != view.shape or not np.can_cast(array.dtype, view.dtype, "same_kind"):
        plain = isinstance(value, (int, list, tuple)) and array.dtype.kind in "iu"
        fits = plain and array.shape == view.shape and view.dtype.kind in "iuf"
        if not (fits and np.array_equal(array.astype(view.dtype), array)):
            raise _misfit(leaf, value)
    view[...] = array


def _misfit(leaf: Leaf, value: Any) -> LayoutError:
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    given = (
        f"{type(value).__name__} {value!r:.60}"
        if dtype is None
        else f"{dtype} {list(shape) if shape is not None else '?'}"
    )
    return LayoutError(
        f"{leaf.name}: expected {leaf.dtype} {list(leaf.shape)} as its space declares, got "
        f"{given}. Make the task's observations and observation_space agree."
    )


class RowReader:
    """Reads what writers wrote: as outcomes, or as arrays of a batch."""

    def __init__(self, step_buffer: StepBuffer) -> None:
        self._step_buffer = step_buffer
        self._layout = step_buffer.layout

    def outcomes(
        self,
        ids: Sequence[int],
        row: int,
        as_batch: bool,
        extras: Mapping[int, OutOfBand],
        lent: Sequence[NDArray[Any] | None] | None = None,
    ) -> list[RLStepResult | StepOutcome | Failure]:
        """The outcomes of some samplers' steps, which share a row; owned.

        Args:
            ids: whose.
            row: where they were written.
            as_batch: in the form of a batch.
            extras: what is no array of the step buffer, by sampler id.
            lent: the row's arrays, where nobody writes to it while they are held: large leaves are
                given out as they are.
        """
        flags_of = self._step_buffer["flags"][row].tolist()
        reward_of = self._step_buffer["reward"][row].tolist()
        forms = self._layout.forms
        rows = lent or [
            None if array is None else array[row] for array in self._step_buffer.leaf_arrays
        ]
        columns = [
            None
            if array is None
            else _values(array, ids, np.ndarray if as_batch else form, copy=lent is None)
            for array, form in zip(rows, forms, strict=True)
        ]
        single = columns[0] if not self._layout.containers else None
        nest = self._step_buffer.nest if as_batch else self._step_buffer.nest_as_given
        results: list[RLStepResult | StepOutcome | Failure] = []
        for k, i in enumerate(ids):
            flags, reward = flags_of[i], reward_of[i]
            if not flags & ~EMPTY_INFO and single is not None:
                info: Any = {} if flags else None
                results.append(RLStepResult(single[k], reward, False, info))
                continue
            extra = extras.get(i)
            info = {} if flags & EMPTY_INFO else None
            whole = None
            off: Mapping[int, Any] = {}
            if extra is not None:
                if extra.failure is not None:
                    results.append(extra.failure)
                    continue
                info = extra.info if extra.info is not None else info
                reward = extra.reward if extra.reward is not None else reward
                off, whole = extra.off_leaves or off, extra.observation
            if whole is not None:
                observation = whole[0]
            elif flags & EXHAUSTED:
                observation = None
            else:
                observation = nest(
                    [
                        off.get(number) if number in off or column is None else column[k]
                        for number, column in enumerate(columns)
                    ]
                )
            if not flags & DONE:
                results.append(RLStepResult(observation, reward, False, info))
                continue
            results.append(
                StepOutcome(
                    observation,
                    reward,
                    True,
                    info,
                    bool(flags & TERMINATED),
                    bool(flags & TRUNCATED),
                    bool(flags & EXHAUSTED),
                )
            )
        return results


def _values(
    array: NDArray[Any], ids: Sequence[int], form: type | None, copy: bool
) -> list[Any] | None:
    """One sampler's value each, of the type it came as; large arrays are not copied if not told."""
    if form is None:
        return None
    if form is not np.ndarray:
        values: list[Any] = list(array) if issubclass(form, np.generic) else array.tolist()
        return [values[i] for i in ids]
    if array.ndim > 1 and array[0].nbytes <= SMALL_BYTES:
        array = array.copy()  # one copy for all: a kept row keeps little else alive
        return [array[i] for i in ids]
    if array.ndim > 1 and not copy:
        return [array[i] for i in ids]
    return [array[i, ...].copy() for i in ids]
