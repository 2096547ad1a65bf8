"""StepBatch: one step of many samplers as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepBatch"]


class StepBatch(NamedTuple):
    """One step of ``n`` samplers; row k of everything belongs to sampler ``samplers[k]``.

    Attributes:
        samplers: int64 [n], sampler ids.
        observation: nested as the observation space, each fixed-shape leaf an array [n, *shape] of
            the space's dtype; a leaf of no fixed shape is a list of n values. Exhausted rows are
            zero.
        reward: float32 [n].
        terminated, truncated, done, exhausted: bool [n].
        infos: n dicts.
    """

    samplers: NDArray[np.int64]
    observation: Any
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    exhausted: NDArray[np.bool_]
    infos: list[dict[str, Any]]
