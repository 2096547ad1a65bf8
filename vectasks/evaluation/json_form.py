r"""The JSON of manifests, run logs and metrics: standard JSON that loses no value.

Standard JSON has no NaN and no infinities. They are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, as Protocol Buffers do; a text that reads like one of them gets
a backslash in front. What UTF-8 cannot hold (Python has the file name ``b"\x80"`` as
``"\udc80"``) is written as JSON's own escape.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from datetime import date
from enum import Enum
from numbers import Integral, Real
from typing import Any

_NAMED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

#: Python neither writes nor reads the digits of greater integers.
_MOST_BITS = 14_000


def plain(value: Any, *, otherwise: Callable[[Any], Any] | None = None) -> Any:
    """Return a value as JSON has it: arrays and tuples become lists, numpy's numbers Python's own.

    NaN and infinities stay what they are.

    Args:
        value: nested in whatever way.
        otherwise: what to put in place of something that JSON cannot hold.

    Raises:
        ValueError: there is such a thing, and nothing to put in its place.
    """
    if isinstance(value, Enum):
        return plain(value.value, otherwise=otherwise)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        if (number := int(value)).bit_length() < _MOST_BITS:
            return number
    elif isinstance(value, Real):
        return math.nan if math.isnan(value) else float(value)  # one NaN: equal to itself in lists
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, otherwise=otherwise) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, otherwise=otherwise) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, torch's tensors
        return plain(value.tolist(), otherwise=otherwise)
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value), otherwise=otherwise)
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if otherwise is not None:
        return otherwise(value)
    raise ValueError(f"JSON cannot hold a {type(value).__name__} ({described(value):.60})")


def described(value: Any) -> str:
    """Return the ``repr`` of a value, or its type where it has none."""
    try:
        return repr(value)
    except Exception:  # user code, or too many digits
        return f"<{type(value).__name__}>"


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """Write a value; what it may hold is what :func:`plain` takes."""
    text = json.dumps(_standard(plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # which is how JSON escapes surrogates


def from_json(data: bytes) -> Any:
    """Read what :func:`to_json` wrote, and the NaN and Infinity that Python's ``json`` writes.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return _original(json.loads(data.decode("utf-8")))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _standard(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return f"\\{value}" if value.lstrip("\\") in _NAMED else value
    return _in_depth(value, _standard)


def _original(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith("\\") and value.lstrip("\\") in _NAMED:
            return value[1:]
        return _NAMED.get(value, value)
    return _in_depth(value, _original)


def _in_depth(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, list):
        return [change(item) for item in value]
    return value
