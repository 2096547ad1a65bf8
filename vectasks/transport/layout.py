"""The layout: which arrays a step travels in, made out from the spaces.

For every fixed-shape leaf of the observation space there is one array
``[rows, num_samplers, *shape]``, so that a batch *is* an array and nobody stacks. There are several
rows so that what step t brought can be held, without a copy, while step t + 1 is written (see
``rows``). Beside them stand the actions, the rewards, a byte of flags a sampler, and the counters
by which both sides tell each other what is new (see ``lane``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from vectasks.spaces import is_named_tuple

Path = tuple[str | int, ...]
Fields = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

_ALIGNMENT_BYTES = 64
NUM_ROWS = 4
OUT_OF_BAND_BYTES = 1 << 20  # an image of 640x480; the memory that no note reaches is never taken
SMALL_BYTES = 512  # copying so little costs less than a look at who holds it


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
        return self.dtype is not None and _nbytes(self.shape, self.dtype) > SMALL_BYTES


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
    """A Dict or a Tuple in an observation space, as the task gives it if it can be built again.

    Attributes:
        path: where it is.
        kind: dict or OrderedDict; tuple, list or a class of named tuples.
        keys: in the order that the task gives them.
    """

    path: Path
    kind: Any
    keys: tuple[Any, ...]

    @property
    def is_dict(self) -> bool:
        """Whether it is a Dict; otherwise it is a Tuple."""
        return self.kind in _DICTS


_DICTS = (dict, OrderedDict)


def _containers(space: Any, observation: Any, path: Path = ()) -> list[Container]:
    """The containers of a space, outer ones first."""
    kind: Any = type(observation)
    if isinstance(space, spaces.Dict):
        keys: tuple[Any, ...] = tuple(space.spaces)
        if kind in _DICTS and observation.keys() == space.spaces.keys():
            keys = tuple(observation)
        else:
            kind = dict
    elif isinstance(space, spaces.Tuple):
        keys = tuple(range(len(space.spaces)))
        if not (kind in (tuple, list) or is_named_tuple(kind)):
            kind = tuple
    else:
        return []
    below: list[Container] = []
    for key in keys:
        try:
            part = observation[key]
        except Exception:  # user code, perhaps; it is nested in another way
            part = None
        below += _containers(space[key], part, (*path, key))
    return [Container(path, kind, keys), *below]


class Layout(NamedTuple):
    """Describe a step buffer; it travels to the workers, so that both sides find the same arrays.

    Attributes:
        forms: for each leaf, the type that carries it through a list-returning step: ``ndarray``,
            ``int``, ``float``, a numpy scalar type, or None where the leaf has no place there.
    """

    leaves: tuple[Leaf, ...]
    containers: tuple[Container, ...]
    forms: tuple[type | None, ...]
    action: tuple[str, tuple[int, ...], Any] | None  # (kind, shape, dtype); None: by channel
    num_samplers: int
    num_workers: int
    out_of_band_bytes: int = 0

    @classmethod
    def of(
        cls,
        observation_space: Any,
        action_space: Any,
        first_observation: Any,
        num_samplers: int,
        num_workers: int,
    ) -> Layout:
        """Lay out a step buffer for these spaces; ``action_space`` None: actions differ."""
        its_leaves = tuple(leaves(observation_space))
        containers = tuple(_containers(observation_space, first_observation))
        usual = is_built_of(first_observation, containers)
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

    @property
    def has_integer_actions(self) -> bool:
        """Whether an action is one integer."""
        return self.action is not None and self.action[0] == "int"

    def fields(self) -> Fields:
        """Name, shape and dtype of every array in the step buffer."""
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
            "home": ((n,), word),  # the number of the worker that is to answer
            "answered_at": ((n,), np.dtype(np.float64)),
            "out_of_band_parts": ((n,), word),
            "out_of_band": ((n, self.out_of_band_bytes), np.dtype(np.uint8)),
        }
        if self.action is not None:
            _, shape, dtype = self.action
            fields["action"] = ((n, *shape), np.dtype(dtype))
        return {**fields, **self.row_fields(NUM_ROWS)}

    def row_fields(self, num_rows: int) -> Fields:
        """Name, shape and dtype of what steps are written to: all that rollout rows has."""
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
        """The memory that the step buffer takes, or so many rollout rows."""
        fields = self.fields() if num_rows is None else self.row_fields(num_rows)
        return max(1, sum(padded_bytes(*field) for field in fields.values()))


def _nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def padded_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """The memory that an array takes, up to where the next one may begin."""
    return -(-_nbytes(shape, dtype) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def pick(observation: Any, path: Path) -> Any:
    """What stands at ``path`` in a nested observation."""
    for key in path:
        observation = observation[key]
    return observation


def is_built_of(observation: Any, containers: Sequence[Container]) -> bool:
    """Whether an observation is nested in just these containers, their keys in this order."""
    try:
        for path, kind, keys in containers:
            part: Any = pick(observation, path)
            if type(part) is not kind or len(part) != len(keys):
                return False
            if (kind is dict or kind is OrderedDict) and tuple(part) != keys:
                return False
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _form(value: Any, leaf: Leaf) -> type | None:
    """Find the type of this leaf in a task's observations, if the buffer can give it back."""
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
