"""Checks of what a step gives: each returns the plain value, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMBERS = (float, int, np.floating, np.integer, np.bool_)
_COLLECTIONS = (Mapping, list, tuple, set, frozenset, str, bytes)
_NO_REAL_KINDS = ("c", "S", "U", "m", "M")  # numpy's complex numbers, texts and times


def as_reward(reward: Any) -> float | list[float]:
    """Return a step's reward as a float; a list, or an array of several, as a list of floats.

    Raises:
        TypeError: it is neither a real number nor a list of them.
    """
    if isinstance(reward, _NUMBERS):
        return float(reward)
    if isinstance(reward, (list, tuple)):
        return [_as_number(item, reward) for item in reward]
    if getattr(reward, "ndim", 0) == 1 and len(reward) != 1:
        return [_as_number(item, reward) for item in reward]
    return _as_number(reward, reward)


def as_flag(name: str, value: Any) -> bool:
    """Return a step's ``done`` (or ``terminated``, ``truncated``) as a bool; None is False.

    Raises:
        TypeError: it is a collection, which would be true whatever it holds.
    """
    if not isinstance(value, _COLLECTIONS):
        try:
            return bool(value)
        except Exception as error:  # an array of several; whatever the value's class raises
            raise _no_flag(name, value) from error
    raise _no_flag(name, value)


def no_step_result(method: str, result: Any) -> TypeError:
    """The error of a task whose step gave something other than four values."""
    count = f"{len(result)} values" if isinstance(result, (tuple, list)) else shown(result)
    return TypeError(
        f"{method}() returned {count}; it must return an RLStepResult, which has four: "
        "observation, reward, done and info. (An environment of Gymnasium's interface, with five, "
        "becomes tasks by vectasks.envs.GymnasiumTaskSampler.)"
    )


def _as_number(value: Any, reward: Any) -> float:
    is_real = not (
        isinstance(value, (str, bytes, complex))
        or getattr(value, "ndim", 0) > 0
        or getattr(getattr(value, "dtype", None), "kind", None) in _NO_REAL_KINDS
    )
    if is_real:
        try:
            return float(value)
        except Exception as error:  # whatever the value's class raises
            raise _no_reward(reward) from error
    raise _no_reward(reward)


def _no_reward(reward: Any) -> TypeError:
    if isinstance(reward, Mapping):
        advice = "Give list(reward.values()), or the sum of them"
    elif getattr(reward, "ndim", 0) == 1 and len(reward) == 1:
        advice = "Give reward.item() instead"
    else:
        advice = "Make it one in the task or the environment"
    return TypeError(
        "the step's reward must be a real number (or, where there are several agents, a list of "
        f"them), got {shown(reward)}. {advice}."
    )


def _no_flag(name: str, value: Any) -> TypeError:
    return TypeError(
        f"the step's {name} must be a bool, got {shown(value)}. Where there are several agents, "
        "say with any() or all() whether the episode is over."
    )


def shown(value: Any) -> str:
    """Return a value for a message: itself, shortened, with its type and shape."""
    shape = getattr(value, "shape", None)
    of_shape = f" of shape {tuple(shape)}" if shape else ""
    return f"{value!r:.80} ({type(value).__name__}{of_shape})"
