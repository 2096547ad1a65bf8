"""From data to batches; arrays are sliced without a copy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vectasks.errors import InvalidArgument


def batches_of(data: Any, batch_size: int, prebatched: bool = False) -> Iterator[Any]:
    """The batches, made when they are asked for.

    Args:
        data: what has a length and can be sliced (an array, a tensor, a list), or any iterable,
            whose batches are lists.
        batch_size: how many items each batch has; the last one may have fewer.
        prebatched: ``data`` is an iterable of batches already.

    Yields:
        A batch; numpy arrays are read-only views.

    Raises:
        InvalidArgument: the data cannot be gone through, or ``batch_size`` is below 1.
    """
    if not prebatched and batch_size < 1:
        raise InvalidArgument(f"batch_size must be at least 1, got {batch_size!r}.")
    if isinstance(data, Mapping) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise InvalidArgument(
            f"data must be a list, an array or an iterable, got a {type(data).__name__}"
            + ("; give list(data.items())." if isinstance(data, Mapping) else ".")
        )
    if getattr(data, "shape", None) == ():
        raise InvalidArgument("data must have a first axis to slice, got an array of no axes.")
    if prebatched:
        return map(_read_only, data)
    if isinstance(data, Sequence) or hasattr(data, "shape"):
        return _slices(data, batch_size)
    return _lists(data, batch_size)


def count_batches(data: Any, batch_size: int, prebatched: bool = False) -> int | None:
    """How many batches there will be, or None where only going through the data tells."""
    try:
        length = len(data)
    except TypeError:
        return None
    return length if prebatched else -(-length // batch_size)


def _slices(data: Any, batch_size: int) -> Iterator[Any]:
    for start in range(0, len(data), batch_size):
        yield _read_only(data[start : start + batch_size])


def _lists(data: Iterable[Any], batch_size: int) -> Iterator[list[Any]]:
    source = iter(data)
    while batch := list(itertools.islice(source, batch_size)):
        yield batch


def _read_only(batch: Any) -> Any:
    """A view that cannot be written through: a batch is the same on every backend."""
    if not isinstance(batch, np.ndarray):
        return batch
    view = batch.view()
    view.flags.writeable = False
    return view
