"""Gymnasium spaces: what an action must be, and copies of what comes back.

Everything that depends on the kind of a space is a ``singledispatch`` function on it, so that a new
space is a new registration and edits no chain. Spaces that are not Gymnasium's (those of the old
``gym``, or a user's own) are compared with ``==`` and otherwise left alone.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
    """Whether two spaces are equal, asking nothing of them but ``==``."""
    return one is other or bool(one == other)


def own(value: Any, with_objects: bool = False) -> Any:
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
            key: item if type(item) in _IMMUTABLE else own(item, with_objects)
            for key, item in value.items()
        }
    if kind is list:
        return [own(item, with_objects) for item in value]
    if isinstance(value, tuple):
        items = [own(item, with_objects) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, dict):
        rebuilt = value.copy()
        for key, item in rebuilt.items():
            rebuilt[key] = own(item, with_objects)
        return rebuilt
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value
    if is_tensor(value):
        return value.detach().clone()
    if kind is deque:
        return deque((own(item, with_objects) for item in value), value.maxlen)
    if kind is MappingProxyType:
        return MappingProxyType(own(dict(value), with_objects))
    return _copy_if_possible(value) if with_objects or kind in _PLAIN_MUTABLE else value


def _copy_if_possible(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # user code: locks, handles of other libraries, a __deepcopy__ that raises
        return value.copy() if isinstance(value, np.ndarray) else value


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor, without importing torch to find out."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def tensors_to_arrays(value: Any) -> Any:
    """``value`` with every torch tensor in it (on any device) as a numpy array."""
    if is_tensor(value):
        return value.detach().cpu().numpy()
    if type(value) is dict:
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(tensors_to_arrays(item) for item in value)
    return value


def map_leaves(function: Callable[[Any], Any], nest: Any) -> Any:
    """What a function gives for each leaf of a nested observation (dicts and tuples), nested so."""
    if isinstance(nest, Mapping):
        return {key: map_leaves(function, value) for key, value in nest.items()}
    if isinstance(nest, tuple):
        return tuple(map_leaves(function, value) for value in nest)
    return function(nest)


def split_actions(actions: Any, space: Any, count: int) -> list[Any]:
    """One action a sampler out of what the user gave for all.

    A list, tuple or array holds one action a sampler along its first axis; for a nested space the
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
                f"space is {space}. Give a list with one action a sampler."
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
            f"actions is {_show(actions)}, which holds no actions one a sampler: give a list, "
            f"tuple, array or tensor of {count}."
        )
    if len(rows) != count:
        raise WrongCount(
            f"{len(rows)} actions were given for {count} unpaused samplers: give one for each."
        )
    return rows


@singledispatch
def task_action(space: Any, action: Any) -> Any:
    """``action`` as the task receives it: an int for Discrete, an array of the dtype for Box.

    Raises:
        TypeError, ValueError: it cannot be made one.
    """
    return action


@task_action.register
def _(space: spaces.Discrete, action: Any) -> int:
    if type(action) is int:
        return action
    array = np.asarray(action)
    if array.size != 1 or array.dtype.kind not in "iub":
        raise TypeError("a Discrete action is one integer")
    return int(array.reshape(()))


@task_action.register
def _(space: spaces.Box, action: Any) -> Any:
    array = np.array(action)
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "f" and space.dtype.kind in "iu"):
        raise TypeError(f"a Box action is an array that {space.dtype} can hold")
    return array.astype(space.dtype, copy=False)


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
        self._check = check

    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        """As a new array [count, ...], as the slab holds it."""
        return None

    def integers(self, actions: Any, count: int) -> list[int] | None:
        """As a list, where each is an integer."""
        return None


class _Integers(ActionBatches):
    def __init__(self, space: spaces.Discrete, check: bool) -> None:
        super().__init__(space, check)
        # Python's integers are compared in a fraction of the time of numpy's.
        self._first = int(space.start)
        self._last = int(space.start + space.n) - 1

    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        array = _as_array(actions)
        if array is None or self.integers(array, count) is None:
            return None
        return array.astype(np.int64)

    def integers(self, actions: Any, count: int) -> list[int] | None:
        array = actions if type(actions) is np.ndarray else _as_array(actions)
        if array is None or not (array.dtype is _INT64 or array.dtype.kind in "iu"):
            return None
        rows: list[int] = array.tolist()
        if type(rows) is not list or len(rows) != count or (rows and type(rows[0]) is not int):
            return None  # of another shape; numpy takes longer to tell which
        # Of few numbers, min and max take a fraction of an array's time.
        if self._check and rows and (min(rows) < self._first or max(rows) > self._last):
            return None
        return rows


class _Boxes(ActionBatches):
    def array(self, actions: Any, count: int) -> NDArray[Any] | None:
        space, array = self.space, _as_array(actions)
        if array is None or array.shape != (count, *space.shape):
            return None
        if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and space.dtype.kind in "iu"):
            return None
        converted: NDArray[Any] = array.astype(space.dtype)
        # count_nonzero takes a fraction of the time of any and all on so short an array.
        inside = (converted >= space.low) & (converted <= space.high)
        if self._check and np.count_nonzero(inside) < inside.size:
            return None
        return converted


@singledispatch
def action_batches(space: Any, check: bool) -> ActionBatches:
    """What takes all actions of a space together; made once, as it is used at every step."""
    return ActionBatches(space, check)


@action_batches.register
def _(space: spaces.Discrete, check: bool) -> ActionBatches:
    return _Integers(space, check)


@action_batches.register
def _(space: spaces.Box, check: bool) -> ActionBatches:
    return _Boxes(space, check)


def dispatch_rows(actions: Any) -> list[Any]:
    """Actions one by one: ints of a Discrete space, arrays (also 0-d ones) of a Box."""
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
