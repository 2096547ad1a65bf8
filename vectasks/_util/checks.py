"""Check values that users pass everywhere: numbers of Python or numpy, seeds, ids of samplers."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from vectasks.errors import InvalidArgument, SamplerIndexError

_REAL: Any = (Real, np.integer, np.floating)


def is_whole_number(value: Any) -> bool:
    """Tell an integer, Python's or numpy's, from anything else; a flag is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def whole_number(name: str, value: Any, *, at_least: int = 0) -> int:
    """Return ``value``, an integer of Python or numpy, as an ``int``.

    Raises:
        InvalidArgument: it is no integer, or less than ``at_least``.
    """
    if not is_whole_number(value) or value < at_least:
        raise InvalidArgument(
            f"{name} must be an integer of at least {at_least}, "
            f"got {value!r} ({type(value).__name__})."
        )
    return int(value)


def whole_number_or_inf(name: str, value: Any, *, at_least: int = 0) -> float:
    """Return ``value``, an integer or infinity, as an ``int`` or ``math.inf``.

    Raises:
        InvalidArgument: it is neither, or less than ``at_least``.
    """
    if isinstance(value, (float, np.floating)) and value == math.inf:
        return math.inf
    return whole_number(name, value, at_least=at_least)


def real_number(
    name: str, value: Any, *, at_least: float = 0.0, finite: bool = True, positive: bool = False
) -> float:
    """Return ``value``, a number of Python or numpy, as a ``float``.

    Args:
        name: of the argument, for the message.
        value: what was given for it.
        at_least: the smallest that is taken.
        finite: whether infinity is refused; what is no number (nan) always is.
        positive: whether zero is refused too.

    Raises:
        InvalidArgument: it is no such number.
    """
    fits = (
        isinstance(value, _REAL)
        and not isinstance(value, (bool, np.bool_))
        and float(value) >= at_least
        and not (positive and float(value) <= 0)
        and not (finite and math.isinf(value))
    )
    if not fits:
        least = "above 0" if positive else f"of at least {at_least:g}"
        raise InvalidArgument(
            f"{name} must be a number {least}, got {value!r} ({type(value).__name__})."
        )
    return float(value)


def seconds_or_none(name: str, value: Any, *, positive: bool = False) -> float | None:
    """Return a limit in seconds as a ``float``; None, as infinity, is no limit.

    Raises:
        InvalidArgument: it is no such number.
    """
    if value is None:
        return None
    seconds = real_number(name, value, finite=False, positive=positive)
    return None if math.isinf(seconds) else seconds


def checked_ids(what: str, samplers: Any, known: Sequence[int], of_which: str) -> list[int]:
    """Return ids of samplers, from a list, an array or any other sequence, as a list.

    Raises:
        InvalidArgument: it is no sequence.
        SamplerIndexError: an id is no integer, is not among the ``known`` ones, which are those
            ``of_which`` kind, or is there twice.
    """
    expected = f"a list of ids of {of_which}, each once; these are {list(known)}"
    if isinstance(samplers, (str, bytes, Mapping)) or not isinstance(samplers, Iterable):
        raise InvalidArgument(
            f"{what}: samplers must be {expected}, got {samplers!r} ({type(samplers).__name__})."
        )
    items = list(samplers)
    try:
        # A mask of flags is not meant as ids 0 and 1.
        ids = [operator.index(item) for item in items if not isinstance(item, bool)]
    except TypeError:
        ids = []
    if len(ids) != len(items) or len(set(ids)) != len(ids) or not set(ids).issubset(known):
        raise SamplerIndexError(f"{what}: samplers must be {expected}, got {samplers!r}.")
    return ids


def checked_seed(seed: Any) -> int:
    """``seed`` as an int."""
    if not is_whole_number(seed):
        raise InvalidArgument(f"a seed must be an integer, got {seed!r} ({type(seed).__name__}).")
    return int(seed)
