"""Split data into batches; arrays are sliced without a copy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vectasks.errors import InvalidArgument


def batches_of(data: Any, batch_size: int, prebatched: bool = False) -> Iterator[Any]:
    """Yield the batches, each made when it is asked for.

    Args:
        data: what has a length and can be sliced (an array, a tensor, a list), or any iterable,
            whose batches are lists.
        batch_size: how many items each batch has; the last one may have fewer.
        prebatched: ``data`` is an iterable of batches already.

    Yields:
        A batch; numpy arrays and memoryviews are read-only views.

    Raises:
        InvalidArgument: the data cannot be gone through.
    """
    if isinstance(data, Mapping) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise InvalidArgument(
            f"data must be a list, an array or an iterable, got a {type(data).__name__}"
            + ("; give list(data.items())." if isinstance(data, Mapping) else ".")
        )
    if getattr(data, "shape", None) == ():
        raise InvalidArgument("data must have a first axis to slice, got an array of no axes.")
    if prebatched:
        return map(read_only, data)
    if isinstance(data, Sequence) or hasattr(data, "shape"):
        starts = range(0, len(data), batch_size)
        return (read_only(data[start : start + batch_size]) for start in starts)
    source = iter(data)
    return iter(lambda: list(itertools.islice(source, batch_size)), [])


def count_batches(data: Any, batch_size: int, prebatched: bool = False) -> int | None:
    """Count the batches, or return None if that needs an iteration over the data."""
    try:
        length = len(data)
    except TypeError:
        return None
    return length if prebatched else -(-length // batch_size)


def read_only(batch: Any) -> Any:
    """Return a read-only view of a batch, so that it is the same on every backend.

    The view has the batch's class; that of a file is a plain array, as workers see it.
    """
    if isinstance(batch, memoryview):
        return batch.toreadonly()
    if not isinstance(batch, np.ndarray) or batch is np.ma.masked:
        return batch
    if isinstance(batch, np.ma.MaskedArray):
        view: Any = batch[...]  # unlike view(), it has a mask of its own to lock
        if view.mask is not np.ma.nomask:
            np.ma.getmask(view).flags.writeable = False
    else:
        view = batch.view(np.ndarray) if type(batch) is np.memmap else batch.view()
    view.flags.writeable = False
    return view
