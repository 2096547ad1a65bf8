"""The slab: the arrays that a step travels in, laid out from the spaces.

For every fixed-shape leaf of the observation space there is one array
``[rows, num_samplers, *shape]``, so that a batch *is* an array and nobody stacks. There are several
rows so that what step t brought can be held, without a copy, while step t + 1 is written (see
``rows``). Beside them stand the actions, the rewards, a byte of flags a sampler, and the counters
by which both sides tell each other what is new (see ``lane``).

What has no place here (leaves without a fixed shape, infos, lists of rewards, a value of another
type or shape than usual) is returned by :meth:`SlabWriter.write` as :class:`Extra`, for the control
lane.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import singledispatch
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks.errors import LayoutError
from vectasks.messages import IN_PLACE, Failure, StepOutcome
from vectasks.task import RLStepResult

Path = tuple[str | int, ...]
Fields = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

_ALIGNMENT_BYTES = 64
NUM_ROWS = 4
_SMALL_BYTES = 512

DONE, TERMINATED, TRUNCATED, EXHAUSTED, EMPTY_INFO, EXTRA = (1 << bit for bit in range(6))


class Leaf(NamedTuple):
    """One leaf of an observation space; ``dtype`` is None where it has no fixed shape."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None

    @property
    def name(self) -> str:
        """The path as users would write it: ``observation['hand'][0]``."""
        return "observation" + "".join(f"[{key!r}]" for key in self.path)

    @property
    def is_large(self) -> bool:
        """Whether copying it costs more than a look at who holds it."""
        return self.dtype is not None and _nbytes(self.shape, self.dtype) > _SMALL_BYTES


@singledispatch
def leaves(space: Any, path: Path = ()) -> list[Leaf]:
    """The leaves of a space, in the space's own order."""
    return [Leaf(path, (), None)]


@leaves.register(spaces.Box)
@leaves.register(spaces.Discrete)
@leaves.register(spaces.MultiDiscrete)
@leaves.register(spaces.MultiBinary)
def _(space: Any, path: Path = ()) -> list[Leaf]:
    return [Leaf(path, tuple(space.shape), np.dtype(space.dtype))]


@leaves.register
def _(space: spaces.Dict, path: Path = ()) -> list[Leaf]:
    return [leaf for key, sub in space.spaces.items() for leaf in leaves(sub, (*path, key))]


@leaves.register(spaces.Tuple)
def _(space: Any, path: Path = ()) -> list[Leaf]:
    return [leaf for i, sub in enumerate(space.spaces) for leaf in leaves(sub, (*path, i))]


class Container(NamedTuple):
    """A Dict or a Tuple in an observation space, its keys in the order that the task gives them."""

    path: Path
    kind: Any  # dict or tuple
    keys: tuple[Any, ...]


def _containers(space: Any, observation: Any, path: Path = ()) -> list[Container]:
    """The containers of a space, outer ones first."""
    if isinstance(space, spaces.Dict):
        kind: Any = dict
        keys: tuple[Any, ...] = tuple(space.spaces)
        if type(observation) is dict and observation.keys() == space.spaces.keys():
            keys = tuple(observation)
    elif isinstance(space, spaces.Tuple):
        kind, keys = tuple, tuple(range(len(space.spaces)))
    else:
        return []
    below: list[Container] = []
    for key in keys:
        try:
            part = observation[key]
        except (TypeError, KeyError, IndexError):
            part = None
        below += _containers(space[key], part, (*path, key))
    return [Container(path, kind, keys), *below]


class Layout(NamedTuple):
    """What a slab holds; it travels to the workers, and both sides find the same arrays by it.

    Attributes:
        forms: for each leaf, the type that carries it through a list-returning step: ``ndarray``,
            ``int``, ``float``, a numpy scalar type, or None where the leaf leaves the slab there.
    """

    leaves: tuple[Leaf, ...]
    containers: tuple[Container, ...]
    forms: tuple[type | None, ...]
    action: tuple[str, tuple[int, ...], Any] | None  # (kind, shape, dtype); None: by control lane
    num_samplers: int
    num_workers: int

    @classmethod
    def of(
        cls,
        observation_space: Any,
        action_space: Any,
        first_observation: Any,
        num_samplers: int,
        num_workers: int,
    ) -> Layout:
        """Lay out a slab for these spaces; ``action_space`` None: actions differ a sampler."""
        its_leaves = tuple(leaves(observation_space))
        containers = tuple(_containers(observation_space, first_observation))
        usual = structure_fits(first_observation, containers, in_order=True)
        action: tuple[str, tuple[int, ...], Any] | None = None
        if isinstance(action_space, spaces.Discrete):
            action = ("int", (), np.dtype(np.int64))
        elif isinstance(action_space, spaces.Box):
            action = ("array", action_space.shape, action_space.dtype)
        return cls(
            its_leaves,
            containers,
            tuple(
                _form(pick(first_observation, leaf.path), leaf) if usual else None
                for leaf in its_leaves
            ),
            action,
            num_samplers,
            num_workers,
        )

    def fields(self) -> Fields:
        """Name, shape and dtype of every array in the slab."""
        n, w = self.num_samplers, self.num_workers
        word, line = np.dtype(np.int64), _ALIGNMENT_BYTES // 8
        fields: Fields = {
            # One cache line a worker: neighbours do not slow each other down.
            "step_bell": ((w, line), word),
            "message_bell": ((w, line), word),
            "asleep": ((w, line), word),
            "parent_asleep": ((line,), word),
            "asked": ((n,), word),
            "answered": ((n,), word),
            "answered_at": ((n,), np.dtype(np.float64)),
        }
        if self.action is not None:
            _, shape, dtype = self.action
            fields["action"] = ((n, *shape), np.dtype(dtype))
        return {**fields, **self.row_fields(NUM_ROWS)}

    def row_fields(self, num_rows: int) -> Fields:
        """Name, shape and dtype of what steps are written to: all that a block of rows has."""
        n = self.num_samplers
        fields: Fields = {
            "flags": ((num_rows, n), np.dtype(np.uint8)),
            "reward": ((num_rows, n), np.dtype(np.float64)),
        }
        for number, leaf in enumerate(self.leaves):
            if leaf.dtype is not None:
                fields[f"leaf{number}"] = ((num_rows, n, *leaf.shape), leaf.dtype)
        return fields

    def size_bytes(self, num_rows: int | None = None) -> int:
        """The memory that the slab takes, or a block of so many rows."""
        fields = self.fields() if num_rows is None else self.row_fields(num_rows)
        return max(1, sum(_aligned(_nbytes(*field)) for field in fields.values()))


def _nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def pick(observation: Any, path: Path) -> Any:
    """What stands at ``path`` in a nested observation."""
    for key in path:
        observation = observation[key]
    return observation


def structure_fits(observation: Any, containers: Sequence[Container], *, in_order: bool) -> bool:
    """Whether an observation is nested like this, its dicts' keys in this order too if wanted."""
    try:
        for path, kind, keys in containers:
            part: Any = pick(observation, path)
            if type(part) is not kind or len(part) != len(keys):
                return False
            if kind is tuple:
                continue
            if tuple(part) != keys and (in_order or not all(key in part for key in keys)):
                return False
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _form(value: Any, leaf: Leaf) -> type | None:
    """The type that this leaf has in a task's observations, if the slab can give it back so."""
    if leaf.dtype is None:
        return None
    kind = type(value)
    if kind is np.ndarray:
        return kind if value.dtype == leaf.dtype and value.shape == leaf.shape else None
    if leaf.shape != ():
        return None
    if isinstance(value, np.generic):
        return kind if value.dtype == leaf.dtype else None
    if (kind is int and leaf.dtype == np.int64) or (kind is float and leaf.dtype == np.float64):
        return kind
    return None


class SharedMemory:
    """Anonymous memory that child processes can map: it has no name, so none can be left behind.

    Linux gives it as a memory file; elsewhere it is a temporary file that is unlinked at once. The
    descriptor goes to children when they start, and the size is settled later.
    """

    def __init__(self, name: str = "vectasks") -> None:
        if hasattr(os, "memfd_create"):
            self.fd: int = os.memfd_create(name)
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())

    def resize(self, size_bytes: int) -> None:
        """Give it its size, all zero.

        Raises:
            OSError: there is not so much memory.
        """
        os.ftruncate(self.fd, size_bytes)

    def map(self, size_bytes: int = 0, offset: int = 0) -> mmap.mmap:
        """The memory (0: all of it) as this process sees it; it stays while arrays on it live."""
        return mmap.mmap(self.fd, size_bytes, offset=offset)

    def grow(self, size_bytes: int) -> int:
        """Add memory, all zero, at the end; the offset at which it can be mapped.

        Raises:
            OSError: there is not so much memory.
        """
        page = mmap.ALLOCATIONGRANULARITY
        offset = -(-os.fstat(self.fd).st_size // page) * page
        os.ftruncate(self.fd, offset + size_bytes)
        return offset

    def forget(self, size_bytes: int, offset: int) -> None:
        """Give memory back that nobody reads any more; its place stays empty."""
        if self.fd >= 0 and hasattr(mmap, "MADV_REMOVE"):
            with self.map(size_bytes, offset) as memory:
                memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Give the descriptor back; mapped memory stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __reduce__(self) -> Any:  # while a child is started by forkserver or spawn
        return _received, (reduction.DupFd(self.fd),)


def _received(handle: Any) -> SharedMemory:
    memory = SharedMemory.__new__(SharedMemory)
    memory.fd = handle.detach()
    return memory


class Slab:
    """The arrays of a layout, over memory that is shared or private.

    Args:
        layout: what it holds.
        memory: where; None: private memory of its own.
        num_rows: it is not the slab itself but a block of so many rows beside it.
    """

    def __init__(self, layout: Layout, memory: Any = None, num_rows: int | None = None) -> None:
        self.layout = layout
        memory = bytearray(layout.size_bytes(num_rows)) if memory is None else memory
        self.memory = memory
        self._template = _template(layout)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._offsets: dict[str, int] = {}
        offset = 0
        fields = layout.fields() if num_rows is None else layout.row_fields(num_rows)
        for name, (shape, dtype) in fields.items():
            self._arrays[name] = np.ndarray(shape, dtype, memory, offset)
            self._offsets[name] = offset
            offset += _aligned(_nbytes(shape, dtype))
        self.leaf_arrays: list[NDArray[Any] | None] = [
            self._arrays.get(f"leaf{number}") for number in range(len(layout.leaves))
        ]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def get(self, name: str) -> NDArray[Any] | None:
        """An array of the slab, or None."""
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
            shape = array.shape[1:]
            offset = self._offsets[f"leaf{leaf}"] + number * _nbytes(shape, array.dtype)
            arrays.append(np.ndarray(shape, array.dtype, self.memory, offset))
        return arrays

    def nest(self, values: Sequence[Any]) -> Any:
        """Leaf values, in the order of the layout's leaves, nested as the space is."""
        return _build(self._template, values)


def _template(layout: Layout, path: Path = ()) -> Any:
    """The nesting as a tree of leaf numbers: a number, (dict, [(key, tree)]) or (tuple, [tree])."""
    for container in layout.containers:
        if container.path == path:
            trees = [(key, _template(layout, (*path, key))) for key in container.keys]
            return container.kind, trees
    return next(number for number, leaf in enumerate(layout.leaves) if leaf.path == path)


def _build(tree: Any, values: Sequence[Any]) -> Any:
    if type(tree) is int:
        return values[tree]
    kind, trees = tree
    if kind is dict:
        return {key: values[sub] if type(sub) is int else _build(sub, values) for key, sub in trees}
    return tuple([_build(sub, values) for _, sub in trees])


class Extra(NamedTuple):
    """What of one sampler's step goes by the control lane: whatever is not None."""

    sampler_id: int
    info: Any = None
    reward: Any = None
    off_leaves: Mapping[int, Any] | None = None
    observation: tuple[Any] | None = None  # the whole of it, in a tuple
    failure: Failure | None = None


class SlabWriter:
    """Writes what some samplers' steps gave into one row of the slab.

    Args:
        slab: where to.
        sampler_ids: whose steps.
        row: the row.
        as_batch: convert every fixed-shape leaf to its array's dtype, as a StepBatch has it;
            otherwise only values that the slab gives back unchanged go into it.
        strict: a leaf that does not fit is a LayoutError in list-returning steps too.
    """

    def __init__(
        self,
        slab: Slab,
        sampler_ids: Sequence[int],
        row: int,
        as_batch: bool,
        strict: bool = False,
    ) -> None:
        layout = slab.layout
        self._slab = slab
        self._sampler_ids = sampler_ids
        self._layout = layout
        self._as_batch = as_batch
        self._casts = as_batch or strict
        self._can_be_in_place = all(leaf.dtype is not None for leaf in layout.leaves) and (
            as_batch or all(form is np.ndarray for form in layout.forms)
        )
        self.move_to(row)
        # Of the one leaf, if it usually is an array: looked at in every step.
        is_array = not layout.containers and layout.forms[0] is np.ndarray
        self._usual_dtype = layout.leaves[0].dtype if is_array else None
        self._usual_shape = layout.leaves[0].shape if is_array else None

    def move_to(self, row: int) -> None:
        """Write into this row from now on."""
        slab = self._slab
        self._flags: Any = memoryview(slab["flags"][row])
        self._reward: Any = memoryview(slab["reward"][row])
        #: A view for each leaf, by sampler.
        self._views: dict[int, list[Any]] = {
            i: [None if array is None else array[row, i, ...] for array in slab.leaf_arrays]
            for i in self._sampler_ids
        }
        #: By sampler: the arrays that a task may write its observation into, nested as the space.
        self.places: dict[int, Any] = {
            i: slab.nest(views) if self._can_be_in_place else None
            for i, views in self._views.items()
        }

    def write(self, sampler_id: int, outcome: RLStepResult | StepOutcome) -> Extra | None:
        """Write one outcome; what has no place in the row.

        Raises:
            LayoutError: a leaf does not fit the space that was declared.
        """
        flags, whole, off, several = 0, None, None, None
        if isinstance(outcome, RLStepResult):
            observation, reward, _, info = outcome
        else:
            observation, reward, _, info, terminated, truncated, exhausted = outcome
            flags = DONE | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
            flags |= EXHAUSTED if exhausted else 0
        if (
            type(observation) is np.ndarray
            and observation.dtype == self._usual_dtype
            and observation.shape == self._usual_shape
        ):
            self._views[sampler_id][0][...] = observation
        elif flags & EXHAUSTED:
            for view in self._views[sampler_id]:
                if view is not None:
                    view[...] = 0
        elif observation is not IN_PLACE:
            views = self._views[sampler_id]
            if structure_fits(observation, self._layout.containers, in_order=not self._as_batch):
                off = self._write_leaves(views, observation)
            elif self._casts:
                raise self._wrong_structure(observation)
            else:
                whole = (observation,)
        if type(reward) is float:
            self._reward[sampler_id] = reward
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
            self._flags[sampler_id] = flags
            return None
        self._flags[sampler_id] = flags | EXTRA
        return Extra(sampler_id, info, several, off or None, whole)

    def fail(self, sampler_id: int, failure: Failure) -> Extra:
        """Write that the step failed."""
        self._flags[sampler_id] = EXTRA
        return Extra(sampler_id, failure=failure)

    def _write_leaves(self, views: Sequence[Any], observation: Any) -> dict[int, Any] | None:
        off: dict[int, Any] | None = None
        for number, leaf in enumerate(self._layout.leaves):
            value: Any = pick(observation, leaf.path)
            view = views[number]
            form: Any = self._layout.forms[number]
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
                        raise _misfit(leaf, value) from None
                else:
                    continue
            elif view is not None and self._casts:
                _cast_into(view, value, leaf)
                if self._as_batch:
                    continue
            off = {} if off is None else off
            off[number] = value
        return off

    def _wrong_structure(self, observation: Any) -> LayoutError:
        expected = ", ".join(leaf.name for leaf in self._layout.leaves)
        given = (
            f"keys {sorted(map(str, observation))}"
            if isinstance(observation, Mapping)
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


class SlabReader:
    """Reads what writers wrote: as outcomes, or as arrays of a batch."""

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self._layout = slab.layout

    def outcomes(
        self,
        ids: Sequence[int],
        row: int,
        as_batch: bool,
        extras: Mapping[int, Extra],
        lent: Sequence[NDArray[Any] | None] | None = None,
    ) -> list[RLStepResult | StepOutcome | Failure]:
        """The outcomes of some samplers' steps, which share a row; owned.

        Args:
            ids: whose.
            row: where they were written.
            as_batch: in the form of a batch.
            extras: what came by the control lane, by sampler id.
            lent: the row's arrays, where nobody writes to it while they are held: large leaves are
                given out as they are.
        """
        flags_of = self._slab["flags"][row].tolist()
        reward_of = self._slab["reward"][row].tolist()
        forms = self._layout.forms
        rows = lent or [None if array is None else array[row] for array in self._slab.leaf_arrays]
        columns = [
            None
            if array is None
            else _values(array, ids, np.ndarray if as_batch else form, copy=lent is None)
            for array, form in zip(rows, forms, strict=True)
        ]
        single = columns[0] if not self._layout.containers else None
        nest = self._slab.nest
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
                        off[number] if number in off or column is None else column[k]
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
    if array.ndim > 1 and array[0].nbytes <= _SMALL_BYTES:
        array = array.copy()  # one copy for all: a kept row keeps little else alive
        return [array[i] for i in ids]
    if array.ndim > 1 and not copy:
        return [array[i] for i in ids]
    return [array[i, ...].copy() for i in ids]
