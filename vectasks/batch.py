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


class PlainStep(NamedTuple):
    """One step of all samplers, of which a :class:`StepBatch` is made, or what a trainer wants.

    In most steps no episode ends and no task has an info to give: then the dicts are empty.

    Attributes:
        observation, reward: as in a :class:`StepBatch`.
        infos: those that are not empty, by sampler id.
        ends: of the samplers whose episodes ended, whether each was terminated, was truncated and
            was the last one, by sampler id.
    """

    observation: Any
    reward: NDArray[np.float32]
    infos: dict[int, dict[str, Any]]
    ends: dict[int, tuple[bool, bool, bool]]

    def as_batch(self) -> StepBatch:
        """Make a :class:`StepBatch` of it."""
        count = len(self.reward)
        terminated, truncated, done, exhausted = (np.zeros(count, np.bool_) for _ in range(4))
        for i, end in self.ends.items():
            terminated[i], truncated[i], exhausted[i] = end
            done[i] = True
        infos: list[dict[str, Any]] = [{} for _ in range(count)]
        for i, info in self.infos.items():
            infos[i] = info
        return StepBatch(
            np.arange(count),
            self.observation,
            self.reward,
            terminated,
            truncated,
            done,
            exhausted,
            infos,
        )
