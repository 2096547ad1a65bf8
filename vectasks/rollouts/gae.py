"""Generalised advantage estimation, over arrays that exist already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def estimate_advantages(
    rewards: NDArray[Any],
    values: NDArray[Any],
    last_values: NDArray[Any],
    final_values: NDArray[Any],
    dones: NDArray[np.bool_],
    terminated: NDArray[np.bool_],
    gamma: float,
    lam: float,
    out: NDArray[np.float32],
) -> None:
    """Write the advantages into ``out``.

    What follows a step is worth: nothing where the episode terminated; the value of its final
    observation where it was cut off; else the value of the next observation.

    Args:
        rewards: [horizon, n].
        values: [horizon, n], of the observations that the actions were chosen by.
        last_values: [n], of the observations after the last step.
        final_values: [horizon, n], of the final observations of truncated episodes; else unread.
        dones: bool [horizon, n], whether the step ended an episode.
        terminated: bool [horizon, n], whether it did so by terminating.
        gamma: discount, 0 to 1.
        lam: how far to look ahead: 0 one step, 1 to the episode's end.
        out: float32 [horizon, n].
    """
    following = last_values.astype(np.float64)
    advantage = np.zeros_like(following)
    for t in range(len(rewards) - 1, -1, -1):
        done = dones[t]
        np.copyto(following, final_values[t], where=done)
        np.copyto(following, 0.0, where=terminated[t])
        np.copyto(advantage, 0.0, where=done)
        advantage *= gamma * lam
        following *= gamma
        following -= values[t]
        advantage += following
        advantage += rewards[t]
        out[t] = advantage
        following[...] = values[t]
