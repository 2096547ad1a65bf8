"""The kinds of workers that a pool may have, by name."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from vectasks.errors import InvalidArgument

Kind = Literal["process", "inline", "ray"]


def checked_kind(option: str, kind: Any) -> Kind:
    """``kind``, which must be one of them; ``option`` is what the user knows it as.

    Raises:
        InvalidArgument: it is another.
    """
    if kind not in get_args(Kind):
        raise InvalidArgument(f"{option}={kind!r} is unknown; use 'process', 'inline' or 'ray'.")
    return cast("Kind", kind)
