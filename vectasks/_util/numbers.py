"""Check numbers that users pass: Python's or numpy's."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from vectasks.errors import InvalidArgument


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
        isinstance(value, (Real, np.integer, np.floating))
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
