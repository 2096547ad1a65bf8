"""The tasks that are out: drawn, and neither ended nor given back."""

from __future__ import annotations

import pickle
from typing import Any, Generic, NamedTuple, TypeVar

from vectasks.errors import InvalidArgument
from vectasks.sources.base import Keywords

ItemT = TypeVar("ItemT")


class _Draw(NamedTuple, Generic[ItemT]):
    keywords: Keywords
    item: ItemT
    counts: bool  # False: a state has been loaded since it was drawn


class DrawnTasks(Generic[ItemT]):
    """The tasks that are out, by sampler, each with what its source knows it by."""

    def __init__(self, name: str) -> None:
        """``name`` is the source's, for messages."""
        self._name = name
        self._draws: dict[int, list[_Draw[ItemT]]] = {}  # by sampler, oldest first

    def add(self, sampler_id: int, keywords: Keywords, item: ItemT) -> None:
        """Note that a sampler was given these keywords."""
        self._draws.setdefault(sampler_id, []).append(_Draw(keywords, item, counts=True))

    def remove(self, sampler_id: int, keywords: Keywords) -> ItemT | None:
        """Take a task off; return its item, or None if it was drawn before a state was loaded.

        The very object that was given is found first, otherwise the oldest one that is equal.

        Raises:
            InvalidArgument: the sampler was not given these keywords, or they are no longer out.
        """
        draws = self._draws.get(sampler_id, [])
        for is_this in (_is_identical, is_equal):
            for number, draw in enumerate(draws):
                if is_this(draw.keywords, keywords):
                    del draws[number]
                    return draw.item if draw.counts else None
        raise InvalidArgument(
            f"{self._name}: sampler {sampler_id} has no task {keywords!r:.80} out: it was not "
            "drawn for this sampler, or it was reported already. Report each task once, with the "
            "keywords and the sampler id of next()."
        )

    def items(self) -> list[ItemT]:
        """Return the items of all that is out."""
        return [draw.item for draws in self._draws.values() for draw in draws if draw.counts]

    def disown(self) -> None:
        """Count nothing that is out now: its source goes on from another state."""
        for draws in self._draws.values():
            draws[:] = [draw._replace(counts=False) for draw in draws]


def _is_identical(one: Keywords, other: Keywords) -> bool:
    return one is other


def is_equal(one: Keywords, other: Keywords) -> bool:
    """Tell whether keywords are the same by value, whatever the values are."""
    try:
        return bool(one == other)
    except Exception:  # arrays have no single answer
        return bool(_pickled(one) == _pickled(other))


def _pickled(keywords: Keywords) -> Any:
    try:
        return pickle.dumps(dict(keywords))
    except Exception:  # user code: equal to nothing else, then
        return object()
