"""A batch of the caller's own, which a step's results are written into."""

from __future__ import annotations

from typing import Any

import numpy as np

from vectasks.batch import StepBatch
from vectasks.errors import InvalidArgument
from vectasks.transport.layout import Layout, pick


def leaves_of(batch: StepBatch, layout: Layout) -> list[Any]:
    """Give the leaves of a batch's observation, in the layout's order."""
    return [pick(batch.observation, leaf.path) for leaf in layout.leaves]


def check_given(out: StepBatch, layout: Layout, count: int) -> None:
    """Refuse a batch that ``count`` samplers' steps cannot be written into.

    Raises:
        InvalidArgument: an array of it is missing, or has another shape or dtype.
    """
    expected: dict[str, tuple[Any, tuple[int, ...], Any]] = {
        "samplers": (out.samplers, (count,), np.int64),
        "reward": (out.reward, (count,), np.float32),
        **{
            name: (getattr(out, name), (count,), np.bool_)
            for name in ("terminated", "truncated", "done", "exhausted")
        },
    }
    try:
        for leaf, array in zip(layout.leaves, leaves_of(out, layout), strict=True):
            if leaf.dtype is not None:
                expected[leaf.name] = (array, (count, *leaf.shape), leaf.dtype)
    except (KeyError, IndexError, TypeError):
        raise InvalidArgument(
            "out: its observation is not nested as the observation space; give the StepBatch "
            "of an earlier call."
        ) from None
    for name, (array, shape, dtype) in expected.items():
        if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
            given = getattr(array, "shape", type(array).__name__)
            raise InvalidArgument(
                f"out: {name} must be {np.dtype(dtype)} {list(shape)} for {count} unpaused "
                f"samplers, got {getattr(array, 'dtype', '')} {given}; give the StepBatch of "
                "an earlier call with as many samplers. Nothing was sent."
            )
