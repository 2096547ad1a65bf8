"""Many observations as one batch, and one batch of decisions as many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import InvalidArgument, LayoutError, WrongCount
from vectasks.spaces import items_under, items_within, tensors_to_arrays

_TEXT = "US"  # kinds of dtypes whose size is that of the longest text


class _Leaf(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ObservationLayout:
    """How observations are nested, and the shape and dtype of each leaf.

    Args:
        example: an observation; dicts (any mapping) and tuples are nested, all else is a leaf.

    Raises:
        LayoutError: a leaf is no number, text or array of these.
    """

    def __init__(self, example: Any) -> None:
        self._leaves: list[_Leaf] = []
        self._nest = self._describe(example, "observation")

    def _describe(self, example: Any, name: str) -> Any:
        """Return the same nesting with the number of each leaf."""
        if isinstance(example, Mapping):
            return {key: self._describe(item, f"{name}[{key!r}]") for key, item in example.items()}
        if isinstance(example, tuple):
            return tuple(self._describe(item, f"{name}[{i}]") for i, item in enumerate(example))
        array = _as_array(example, name)
        self._leaves.append(_Leaf(name, array.shape, array.dtype))
        return len(self._leaves) - 1

    def leaves_of(self, observation: Any) -> list[NDArray[Any]]:
        """Return the leaves of an observation of this layout; further keys are left out.

        Raises:
            LayoutError: it is nested otherwise, or a leaf has another shape, or a dtype that cannot
                be cast within its kind.
        """
        found: list[NDArray[Any]] = []
        self._gather(self._nest, observation, "observation", found)
        return found

    def _gather(self, nest: Any, observation: Any, name: str, found: list[NDArray[Any]]) -> None:
        if isinstance(nest, int):
            found.append(_fitting(observation, self._leaves[nest]))
            return
        try:
            if isinstance(nest, dict):
                items = items_under(observation, nest)
                parts = list(nest.items())
            else:
                items = items_within(observation, len(nest))
                parts = list(enumerate(nest))
        except TypeError as error:
            raise LayoutError(
                f"{name} does not fit what this policy server takes: {error}."
            ) from None
        for (key, part), item in zip(parts, items, strict=True):
            self._gather(part, item, f"{name}[{key!r}]", found)

    def stack(self, rows: Sequence[Sequence[NDArray[Any]]]) -> Any:
        """Stack the leaves of n observations: each [n, *shape], nested as one observation is."""
        return self._nested(self._nest, [self._stacked(i, rows) for i in range(len(self._leaves))])

    def _stacked(self, index: int, rows: Sequence[Sequence[NDArray[Any]]]) -> NDArray[Any]:
        leaf = self._leaves[index]
        arrays = [row[index] for row in rows]
        if leaf.dtype.kind in _TEXT:
            return np.stack(arrays)
        out = np.empty((len(arrays), *leaf.shape), leaf.dtype)
        return np.stack(arrays, out=out, casting="same_kind")

    def _nested(self, nest: Any, stacked: list[NDArray[Any]]) -> Any:
        if isinstance(nest, int):
            return stacked[nest]
        if isinstance(nest, dict):
            return {key: self._nested(part, stacked) for key, part in nest.items()}
        return tuple(self._nested(part, stacked) for part in nest)


def _as_array(value: Any, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(tensors_to_arrays(value))
    except ValueError as error:  # lists of changing length
        raise LayoutError(f"{name} cannot be an array: {error}.") from None
    if array.dtype.hasobject:
        raise LayoutError(
            f"{name} is of type {type(value).__name__}; a policy server takes numbers, texts, "
            "arrays of these, and dicts and tuples of them."
        )
    return array


def _fitting(value: Any, leaf: _Leaf) -> NDArray[Any]:
    array = _as_array(value, leaf.name)
    if array.shape != leaf.shape:
        raise LayoutError(
            f"{leaf.name} has the shape {array.shape}; this policy server takes {leaf.shape}, as "
            "its example or the first observation that came has it."
        )
    if array.dtype == leaf.dtype:
        return array
    fits = np.can_cast(array.dtype, leaf.dtype, "same_kind")
    if fits and leaf.dtype.kind in "iu":  # a narrower one may not hold it
        fits = bool((array.astype(leaf.dtype) == array).all())
    if not fits:
        raise LayoutError(
            f"{leaf.name} is {array.dtype}, which cannot be cast to {leaf.dtype}, as this policy "
            "server's example or the first observation that came has it."
        )
    return array


def split_decision(given: Any, count: int) -> list[tuple[Any, dict[str, Any]]]:
    """Split what a policy gave for a batch into each observation's action and extras.

    Args:
        given: a mapping with ``"action"``, a pair of actions and a mapping of extras, or just the
            actions. Every leaf has ``count`` rows; tensors become arrays.
        count: how many observations there were.

    Raises:
        WrongCount: there are more or fewer rows.
        InvalidArgument: something has no rows.
    """
    given = tensors_to_arrays(given)
    if isinstance(given, Mapping) and "action" in given:
        actions = given["action"]
        extras = {name: value for name, value in given.items() if name != "action"}
    elif type(given) is tuple and len(given) == 2 and isinstance(given[1], Mapping):
        actions, extras = given[0], dict(given[1])
    else:
        actions, extras = given, {}
    by_name = {name: _rows(value, count, f"{name!r}") for name, value in extras.items()}
    return [
        (action, {name: rows[i] for name, rows in by_name.items()})
        for i, action in enumerate(_rows(actions, count, "actions"))
    ]


def _rows(value: Any, count: int, what: str) -> list[Any]:
    """Split nested arrays [count, ...] into their rows."""
    value = tensors_to_arrays(value)
    if isinstance(value, Mapping) and value:
        columns = [_rows(item, count, f"{what}[{key!r}]") for key, item in value.items()]
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(value, tuple) and value:
        columns = [_rows(item, count, f"{what}[{i}]") for i, item in enumerate(value)]
        return list(zip(*columns, strict=True))
    if not isinstance(value, list) and not (isinstance(value, np.ndarray) and value.ndim):
        raise InvalidArgument(
            f"the policy must return {what} as an array, a tensor or a list with one row for each "
            f"of {count} observations, got {value!r:.200} ({type(value).__name__})."
        )
    if len(value) != count:
        raise WrongCount(
            f"the policy returned {len(value)} rows of {what} for a batch of {count} observations; "
            "it must return one for each."
        )
    return list(value)


def stack_rows(rows: Sequence[Any]) -> Any:
    """Stack n nested values: each leaf [n, ...]; a list of n where shapes differ."""
    first = rows[0]
    if isinstance(first, Mapping):
        return {key: stack_rows([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack_rows(items) for items in zip(*rows, strict=True))
    try:
        return np.stack([np.asarray(row) for row in rows])
    except ValueError:
        return list(rows)


def split_rows(batch: Any) -> list[Any]:
    """Split n observations, nested leaves [n, ...], into each.

    Raises:
        InvalidArgument: the leaves have no rows, or not equally many.
    """
    batch = tensors_to_arrays(batch)
    sizes = {len(leaf) if np.ndim(leaf) else 0 for leaf in _leaves(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise InvalidArgument(
            "observations must have a leading axis of their number, the same in every leaf, got "
            f"{sorted(sizes)} rows."
        )
    return [_row(batch, i) for i in range(sizes.pop())]


def _leaves(nest: Any) -> list[Any]:
    if isinstance(nest, Mapping):
        return [leaf for item in nest.values() for leaf in _leaves(item)]
    if isinstance(nest, tuple):
        return [leaf for item in nest for leaf in _leaves(item)]
    return [nest]


def _row(nest: Any, i: int) -> Any:
    if isinstance(nest, Mapping):
        return {key: _row(item, i) for key, item in nest.items()}
    if isinstance(nest, tuple):
        return tuple(_row(item, i) for item in nest)
    return nest[i]
