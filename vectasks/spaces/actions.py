"""The users' actions: split them by sampler, convert them to what tasks take, check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks.errors import InvalidAction, InvalidArgument, WrongCount
from vectasks.spaces.values import (
    is_named_tuple,
    items_under,
    items_within,
    shown,
    tensors_to_arrays,
)


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
            f"actions is {shown(actions)}, which lacks one action per sampler: give a list, "
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
        raise TypeError(f"{shown(action)} has other keys than {sorted(map(str, keys))}")
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
        f"The action {shown(action)} for sampler {sampler_id} does not fit its action space "
        f"{space}: {reason}. Nothing was sent; give an action that the space contains."
    )
