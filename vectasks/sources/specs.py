"""Check what task sources are made of, and the states that are loaded into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from vectasks.errors import InvalidArgument
from vectasks.sources.base import Keywords


def is_keywords(value: Any) -> bool:
    """Tell whether a value can be given to ``next_task`` as keywords."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def no_keywords(whence: str, value: Any) -> str:
    """Say that a value cannot be given to ``next_task``."""
    return (
        f"{whence} must be keywords for next_task, a mapping with strings as keys such as "
        f"{{'level': 3}}; got {value!r:.60} ({type(value).__name__})."
    )


def checked_specs(specs: Any) -> tuple[Keywords, ...]:
    """Return the tasks to choose from, each as keywords for ``next_task``.

    Raises:
        InvalidArgument: there are none, or one is no mapping with strings as keys.
    """
    if isinstance(specs, Mapping) or not isinstance(specs, Iterable):
        raise InvalidArgument(
            "specs must be a list with the keywords of each task, such as [{'level': 1}, "
            f"{{'level': 2}}]; got {specs!r:.60} ({type(specs).__name__})."
        )
    listed = tuple(specs)
    if not listed:
        raise InvalidArgument("specs is empty: give at least one task.")
    for number, spec in enumerate(listed):
        if not is_keywords(spec):
            raise InvalidArgument(no_keywords(f"specs[{number}]", spec))
    return listed


def digest(specs: Sequence[Keywords]) -> str:
    """Return a digest of the tasks: equal for equal ones in every process.

    Of values that JSON cannot hold it sees the type alone.
    """
    hashed = hashlib.sha256()
    for spec in specs:
        for name in sorted(spec):
            hashed.update(f"{name}={_text(spec[name])};".encode())
        hashed.update(b"\n")
    return hashed.hexdigest()[:16]


def _text(value: Any) -> str:
    try:
        return json.dumps(value, default=_kind, skipkeys=True)
    except (TypeError, ValueError, RecursionError):  # it holds itself
        return _kind(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def check_state(state: Any, identity: Mapping[str, Any], names: Collection[str]) -> None:
    """Check that a state is of a source with this identity, and holds these further names.

    Raises:
        InvalidArgument: it is another source's, or no state at all.
    """
    name = identity["source"]
    if not isinstance(state, Mapping):
        raise InvalidArgument(
            f"{name}: a state is what state_dict() returned, a mapping; got {state!r:.60} "
            f"({type(state).__name__})."
        )
    for key, expected in identity.items():
        if state.get(key) != expected:
            raise InvalidArgument(
                f"{name}: this state is another source's: {key} is {state.get(key)!r} there and "
                f"{expected!r} here. Make the source with the arguments it was saved with."
            )
    missing = sorted(set(names) - set(state))
    if missing:
        raise InvalidArgument(f"{name}: this state is damaged: it lacks {missing}.")
