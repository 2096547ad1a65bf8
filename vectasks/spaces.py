"""Gymnasium spaces: check actions, and copy results.

Everything that depends on the kind of a space is a ``singledispatch`` function on it, so that a new
space is a new registration and edits no chain. Spaces that are not Gymnasium's (those of the old
``gym``, or a user's own) are compared with ``==`` and otherwise left alone.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import singledispatch
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks.errors import InvalidAction, InvalidArgument, WrongCount

_INT64 = np.dtype(np.int64)
_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})
_PLAIN_MUTABLE = frozenset({set, bytearray, np.void})


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


def copy_arrays(value: Any, with_objects: bool = False) -> Any:
    """Copy ``value``, so that it shares no container and no array with the original.

    Args:
        value: what is copied.
        with_objects: also copy objects of any other class, where they can be copied. Otherwise
            they are handed on as they are.
    """
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if isinstance(value, np.ndarray):
        return _copy_if_possible(value) if value.dtype.hasobject else value.copy()
    if kind is dict:
        if not value:
            return {}
        return {
            key: item if type(item) in _IMMUTABLE else copy_arrays(item, with_objects)
            for key, item in value.items()
        }
    if kind is list:
        return [copy_arrays(item, with_objects) for item in value]
    if isinstance(value, tuple):
        items = [copy_arrays(item, with_objects) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, Mapping):
        return _own_mapping(value, with_objects)
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value
    if is_tensor(value):
        return value.detach().clone()
    if kind is deque:
        return deque((copy_arrays(item, with_objects) for item in value), value.maxlen)
    return _copy_if_possible(value) if with_objects or kind in _PLAIN_MUTABLE else value


def _copy_if_possible(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # user code: locks, handles of other libraries, a __deepcopy__ that raises
        return value.copy() if isinstance(value, np.ndarray) else value


def _own_mapping(value: Mapping[Any, Any], with_objects: bool) -> Mapping[Any, Any]:
    """Copy a mapping of another class than dict; as a dict if the class cannot be kept."""
    if isinstance(value, MappingProxyType):
        return MappingProxyType(copy_arrays(value.copy(), with_objects))
    try:
        if not isinstance(value, dict):
            return copy.deepcopy(value)
        duplicate = copy.copy(value)
        for key, item in duplicate.items():
            duplicate[key] = copy_arrays(item, with_objects)
        return duplicate
    except Exception:  # user code: a class that lets nobody copy or fill it
        return {key: copy_arrays(item, with_objects) for key, item in value.items()}


def is_tensor(value: Any) -> bool:
    """Tell whether ``value`` is a torch tensor, without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def tensors_to_arrays(value: Any) -> Any:
    """Replace every torch tensor in ``value`` (on any device) by a numpy array."""
    if is_tensor(value):
        return value.detach().cpu().numpy()
    if type(value) is dict:
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(tensors_to_arrays(item) for item in value)
    return value


def map_leaves(function: Callable[[Any], Any], nest: Any) -> Any:
    """Apply a function to each leaf of a nested observation (dicts and tuples)."""
    if isinstance(nest, Mapping):
        return {key: map_leaves(function, value) for key, value in nest.items()}
    if isinstance(nest, tuple):
        return tuple(map_leaves(function, value) for value in nest)
    return function(nest)


def is_named_tuple(kind: Any) -> bool:
    """Tell whether a class is a plain named tuple."""
    return kind.__bases__ == (tuple,) and hasattr(kind, "_fields")


def items_under(nest: Any, keys: Collection[Any]) -> list[Any]:
    """Return the values of these keys in a mapping of any class, which may have further keys.

    Raises:
        TypeError: it is no mapping, or has no such key. (What a class of the user's raises passes.)
    """
    if not isinstance(nest, Mapping) or not all(key in nest for key in keys):
        raise TypeError(f"{_show(nest)} is no mapping with the keys {sorted(map(str, keys))}")
    return [nest[key] for key in keys]


def items_within(nest: Any, count: int) -> list[Any]:
    """Return the items of a sequence of any class that must have so many.

    Raises:
        TypeError: it is no such sequence. (What a class of the user's raises passes through.)
    """
    is_sequence = isinstance(nest, (Sequence, np.ndarray)) and not isinstance(nest, (str, bytes))
    if not is_sequence or len(nest) != count:
        raise TypeError(f"{_show(nest)} is no sequence of {count} items")
    return list(nest)


@singledispatch
def nested_as(space: Any, observation: Any) -> Any:
    """Convert an observation to plain dicts and tuples, nested as its space; drop further keys.

    Raises:
        TypeError: it is nested in another way.
    """
    return observation


@nested_as.register
def _(space: spaces.Dict, observation: Any) -> dict[Any, Any]:
    items = items_under(observation, space.spaces)
    return {
        key: nested_as(sub, item)
        for (key, sub), item in zip(space.spaces.items(), items, strict=True)
    }


@nested_as.register(spaces.Tuple)
def _(space: Any, observation: Any) -> tuple[Any, ...]:
    items = items_within(observation, len(space.spaces))
    return tuple(nested_as(sub, item) for sub, item in zip(space.spaces, items, strict=True))


def split_actions(actions: Any, space: Any, count: int) -> list[Any]:
    """Split the user's actions for all into one action per sampler.

    A list, tuple or array holds one action per sampler along its first axis; for a nested space the
    nesting may also be outside, as in ``{"move": array [count, 2], "grip": array [count]}``.

    Raises:
        WrongCount: there are not ``count`` actions.
        InvalidArgument: ``actions`` is no collection of actions.
    """
    actions = tensors_to_arrays(actions)
    if isinstance(actions, Mapping):
        if not isinstance(space, spaces.Dict) or set(actions) != set(space.spaces):
            raise InvalidArgument(
                f"actions is a mapping with the keys {sorted(map(str, actions))}, but the action "
                f"space is {space}. Give a list with one action per sampler."
            )
        columns = {key: split_actions(actions[key], space[key], count) for key in space.spaces}
        return [{key: column[i] for key, column in columns.items()} for i in range(count)]
    if (
        isinstance(actions, tuple)
        and isinstance(space, spaces.Tuple)
        and not (len(actions) == count and all(isinstance(action, tuple) for action in actions))
        and len(actions) == len(space)
    ):
        parts = [
            split_actions(part, sub, count) for part, sub in zip(actions, space.spaces, strict=True)
        ]
        return list(zip(*parts, strict=True))
    if isinstance(actions, np.ndarray) and actions.ndim > 0:
        rows: list[Any] = list(actions)
    elif isinstance(actions, Sequence) and not isinstance(actions, (str, bytes)):
        rows = list(actions)
    else:
        raise InvalidArgument(
            f"actions is {_show(actions)}, which lacks one action per sampler: give a list, "
            f"tuple, array or tensor of {count}."
        )
    if len(rows) != count:
        raise WrongCount(
            f"{len(rows)} actions were given for {count} unpaused samplers: give one for each."
        )
    return rows


@singledispatch
def task_action(space: Any, action: Any) -> Any:
    """Convert ``action`` to what the task receives: an int for Discrete, an array for Box.

    MultiDiscrete and MultiBinary are as Box; for Dict and Tuple the parts are taken likewise.

    Raises:
        TypeError, ValueError: it cannot be made one.
    """
    return action


@task_action.register
def _(space: spaces.Discrete, action: Any) -> int:
    if type(action) is int:
        return action
    array = np.asarray(action)
    if array.size == 1 and array.dtype.kind in "iubf":
        number = array.item()
        if number == int(number):
            return int(number)
    raise TypeError("a Discrete action is one integer")


@task_action.register(spaces.Box)
@task_action.register(spaces.MultiDiscrete)
@task_action.register(spaces.MultiBinary)
def _(space: Any, action: Any) -> NDArray[Any]:
    array = np.asarray(action)
    converted = _converted(array, space.dtype) if array.dtype.kind in "iufb" else None
    if converted is None:
        raise TypeError(f"a {type(space).__name__} action is an array that {space.dtype} can hold")
    return converted


@task_action.register
def _(space: spaces.Dict, action: Any) -> dict[Any, Any]:
    keys = space.spaces.keys()
    items = items_under(action, keys)
    if len(action) != len(keys):
        raise TypeError(f"{_show(action)} has other keys than {sorted(map(str, keys))}")
    return {
        key: task_action(space[key], tensors_to_arrays(item))
        for key, item in zip(keys, items, strict=True)
    }


@task_action.register(spaces.Tuple)
def _(space: Any, action: Any) -> tuple[Any, ...]:
    items = items_within(action, len(space.spaces))
    parts = [
        task_action(sub, tensors_to_arrays(item))
        for sub, item in zip(space.spaces, items, strict=True)
    ]
    return action._make(parts) if is_named_tuple(type(action)) else tuple(parts)


def _converted(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Copy to a dtype, rounding to floats; return None if the dtype cannot hold a number."""
    if dtype.kind == "f" or array.dtype == dtype:
        return array.astype(dtype)
    with np.errstate(invalid="ignore"):  # NaN
        converted = array.astype(dtype)
    return converted if np.array_equal(converted, array) else None


class ActionBatches:
    """Converts and checks all actions of one space together, which is the fast way.

    Gives None where it cannot, or something is wrong: going through the actions one by one then
    tells what.

    Args:
        space: the space of each action.
        check: whether actions must be in it.
    """

    def __init__(self, space: Any, check: bool) -> None:
        self.space = space
        self.is_checked: bool = check

    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        """Return a new array [count, ...], as the step buffer holds it."""
        return None

    def bounds(self, count: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return the lowest and the highest actions, as arrays [count, ...]."""
        return None


class _Integers(ActionBatches):
    def __init__(self, space: spaces.Discrete, check: bool) -> None:
        super().__init__(space, check)
        self._first = int(space.start)
        self._last = int(space.start + space.n) - 1

    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        array = _as_array(actions)
        if array is None or array.dtype.kind not in "iu" or array.shape != (count,):
            return None
        if self.is_checked and count and (array.min() < self._first or array.max() > self._last):
            return None
        return array.astype(np.int64)

    def bounds(self, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.full(count, self._first, np.int64), np.full(count, self._last, np.int64)


class _Boxes(ActionBatches):
    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        space, array = self.space, _as_array(actions)
        if array is None or array.shape != (count, *space.shape) or array.dtype.kind not in "iuf":
            return None
        converted = _converted(array, space.dtype)
        if converted is None:
            return None
        # count_nonzero takes a fraction of the time of any and all on so short an array.
        inside = (converted >= space.low) & (converted <= space.high)
        if self.is_checked and np.count_nonzero(inside) < inside.size:
            return None
        return converted

    def bounds(self, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        space, shape = self.space, (count, *self.space.shape)
        return np.broadcast_to(space.low, shape), np.broadcast_to(space.high, shape)


@singledispatch
def action_batches(space: Any, check: bool) -> ActionBatches:
    """Make the converter for all actions of a space together; made once, used at every step."""
    return ActionBatches(space, check)


action_batches.register(spaces.Discrete, _Integers)
action_batches.register(spaces.Box, _Boxes)


def dispatch_rows(actions: Any) -> list[Any]:
    """Split actions into rows: ints of a Discrete space, arrays (also 0-d ones) of a Box."""
    if not isinstance(actions, np.ndarray):
        return list(actions)
    if actions.ndim == 1 and actions.dtype == np.int64:
        rows: list[Any] = actions.tolist()
        return rows
    return [actions[k, ...] for k in range(len(actions))]


def _as_array(actions: Any) -> NDArray[Any] | None:
    if type(actions) is np.ndarray:
        return actions
    try:
        return np.asarray(tensors_to_arrays(actions))
    except (TypeError, ValueError, OverflowError):
        return None


def prepare_action(space: Any, action: Any, sampler_id: int, check: bool) -> Any:
    """Convert one action to what its task receives, and hold it against its space.

    Raises:
        InvalidAction: it cannot be converted or, if ``check``, lies outside ``space``.
    """
    action = tensors_to_arrays(action)
    try:
        prepared = task_action(space, action)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(space, action, sampler_id, str(error)) from None
    if check and isinstance(space, spaces.Space) and not space.contains(prepared):
        raise _invalid(space, action, sampler_id, "it is outside the space")
    return prepared


def _invalid(space: Any, action: Any, sampler_id: int, reason: str) -> InvalidAction:
    return InvalidAction(
        f"The action {_show(action)} for sampler {sampler_id} does not fit its action space "
        f"{space}: {reason}. Nothing was sent; give an action that the space contains."
    )


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f"{text} ({type(value).__name__})"
