"""Values of spaces: copy them, walk through their nesting, turn tensors into arrays."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import singledispatch
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium import spaces

_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})

_PLAIN_MUTABLE = frozenset({set, bytearray, np.void})


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
        raise TypeError(f"{shown(nest)} is no mapping with the keys {sorted(map(str, keys))}")
    return [nest[key] for key in keys]


def items_within(nest: Any, count: int) -> list[Any]:
    """Return the items of a sequence of any class that must have so many.

    Raises:
        TypeError: it is no such sequence. (What a class of the user's raises passes through.)
    """
    is_sequence = isinstance(nest, (Sequence, np.ndarray)) and not isinstance(nest, (str, bytes))
    if not is_sequence or len(nest) != count:
        raise TypeError(f"{shown(nest)} is no sequence of {count} items")
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


def shown(value: Any) -> str:
    """Show a value and its type in a message, briefly."""
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f"{text} ({type(value).__name__})"
