"""Compare spaces, and join those that differ in their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import spaces

_INT64 = np.dtype(np.int64)


def spaces_equal(one: Any, other: Any) -> bool:
    """Tell whether two spaces are equal, by nothing but ``==``."""
    return one is other or bool(one == other)


def shared_space(each: Sequence[Any]) -> Any | None:
    """Return the smallest space that contains these, which may differ in their bounds alone.

    Bounds are those of Box, Discrete and MultiDiscrete, in Dict and Tuple too. Where all spaces are
    equal it is the first one itself; where they differ in more there is none.
    """
    first = each[0]
    return first if all(spaces_equal(space, first) for space in each) else _joined(first, each)


def are_alike(one: Any, other: Any) -> bool:
    """Tell whether two spaces are equal, but for their bounds."""
    return spaces_equal(one, other) or _joined(one, [one, other]) is not None


@singledispatch
def _joined(first: Any, each: Sequence[Any]) -> Any | None:
    return None


@_joined.register
def _(first: spaces.Box, each: Sequence[Any]) -> spaces.Box | None:
    if not _are_arrays_alike(spaces.Box, each):
        return None
    low = np.minimum.reduce([space.low for space in each])
    high = np.maximum.reduce([space.high for space in each])
    return spaces.Box(low, high, first.shape, first.dtype)


@_joined.register(spaces.Discrete)
def _(first: Any, each: Sequence[Any]) -> spaces.Discrete[Any] | None:
    if not _are_arrays_alike(spaces.Discrete, each):
        return None
    start = min(int(space.start) for space in each)
    end = max(int(space.start) + int(space.n) for space in each)
    # Gymnasium did not always take a dtype.
    options = {} if first.dtype == _INT64 else {"dtype": first.dtype.type}
    return spaces.Discrete(end - start, start=start, **options)


@_joined.register(spaces.MultiDiscrete)
def _(first: Any, each: Sequence[Any]) -> spaces.MultiDiscrete[Any] | None:
    if not _are_arrays_alike(spaces.MultiDiscrete, each):
        return None
    start = np.minimum.reduce([space.start for space in each])
    end = np.maximum.reduce([space.start.astype(np.int64) + space.nvec for space in each])
    return spaces.MultiDiscrete(end - start, first.dtype.type, start=start)


@_joined.register
def _(first: spaces.Dict, each: Sequence[Any]) -> spaces.Dict | None:
    keys = first.spaces.keys()
    if not all(isinstance(space, spaces.Dict) and space.spaces.keys() == keys for space in each):
        return None
    parts: list[Any] = [(key, shared_space([space[key] for space in each])) for key in keys]
    return None if any(part is None for _, part in parts) else spaces.Dict(parts)


@_joined.register(spaces.Tuple)
def _(first: Any, each: Sequence[Any]) -> spaces.Tuple[Any] | None:
    if not all(isinstance(space, spaces.Tuple) and len(space) == len(first) for space in each):
        return None
    columns = zip(*(space.spaces for space in each), strict=True)
    parts: list[Any] = [shared_space(column) for column in columns]
    return None if any(part is None for part in parts) else spaces.Tuple(parts)


def _are_arrays_alike(kind: Any, each: Sequence[Any]) -> bool:
    """Tell whether all spaces are of one kind, and their elements of one shape and dtype."""
    first = each[0]
    return all(
        isinstance(space, kind) and (space.shape, space.dtype) == (first.shape, first.dtype)
        for space in each
    )
