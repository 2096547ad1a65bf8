"""The simulators that every library steps: the same numpy logic, no other dependency.

W1: a small vector, no work. W2: four stacked frames. W3: a dict of an image, a depth map and a
goal. W4: W1 and 200 us of CPU time a step. W5: W1 and a sleep a step, exponential, mean 2 ms.
Episodes of these have a fixed length. R1 and R2 are W1 with costly resets: a step sleeps 1 ms, a
reset sleeps 200 ms (R1) or computes 20 ms (R2), and episode lengths are exponential, mean 100.
What is observed depends on the seed and the step alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

EPISODE_STEPS = 128
SLOW_RESETS = ("R1", "R2")
STEP_SLEEP_S = 1e-3  # of R1 and R2
RESET_SLEEP_S = 0.2  # of R1
_RESET_WORK_S = 0.02  # of R2
_NUM_FRAMES = 4
_WORK_S = 200e-6
_MEAN_SLEEP_S = 2e-3
_NUM_SLEEPS = 509
_MEAN_LENGTH = 100  # steps, of R1 and R2


class Leaf(NamedTuple):
    """An array of an observation."""

    shape: tuple[int, ...]
    dtype: type


_VECTOR = Leaf((4,), np.float32)
#: Leaves by name; an observation that is no dict has one leaf, "".
LEAVES: dict[str, dict[str, Leaf]] = {
    "W1": {"": _VECTOR},
    "W2": {"": Leaf((4, 84, 84), np.uint8)},
    "W3": {
        "rgb": Leaf((224, 224, 3), np.uint8),
        "depth": Leaf((224, 224, 1), np.float32),
        "goal": Leaf((2,), np.float32),
    },
    "W4": {"": _VECTOR},
    "W5": {"": _VECTOR},
    "R1": {"": _VECTOR},
    "R2": {"": _VECTOR},
}
_NUM_ACTIONS = {"CartPole": 2, "MiniGrid": 7}


def num_actions(workload: str) -> int:
    """Size of the (discrete) action space."""
    return _NUM_ACTIONS.get(workload, 4)


def sleeps_s(seed: int) -> Iterator[float]:
    """How long the steps of W5 sleep, one after another, without end."""
    sleeps = np.random.default_rng(seed).exponential(_MEAN_SLEEP_S, _NUM_SLEEPS).tolist()
    while True:
        yield from sleeps


def episode_lengths(workload: str, seed: int) -> Iterator[int]:
    """How many steps the episodes of a simulator have, one after another, without end."""
    rng = np.random.default_rng(seed)
    while True:  # at least 2, so that no first step ends an episode
        slow = workload in SLOW_RESETS
        yield 2 + int(rng.exponential(_MEAN_LENGTH - 1.5)) if slow else EPISODE_STEPS


class Simulator:
    """One environment of a workload, in Gymnasium's terms but without needing Gymnasium."""

    def __init__(self, workload: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._frames = [_draw(LEAVES[workload], rng) for _ in range(_NUM_FRAMES)]
        self._work_s = _WORK_S if workload == "W4" else 0.0
        self._sleeps_s: Iterator[float] | None = None
        self._reset_sleep_s = RESET_SLEEP_S if workload == "R1" else 0.0
        self._reset_work_s = _RESET_WORK_S if workload == "R2" else 0.0
        if workload == "W5":
            self._sleeps_s = sleeps_s(seed)
        elif workload in SLOW_RESETS:
            self._sleeps_s = itertools.repeat(STEP_SLEEP_S)
        self._lengths = episode_lengths(workload, seed)
        self._length = EPISODE_STEPS
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        if self._reset_sleep_s:
            time.sleep(self._reset_sleep_s)
        elif self._reset_work_s:
            _work(self._reset_work_s)
        self._length = next(self._lengths)
        self._num_steps = 0
        return self.observe(), {}

    def skip_episode(self) -> None:
        """Leave an episode out: the next one is that after it."""
        next(self._lengths)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation (arrays that are used again), reward, terminated, truncated, info."""
        if self._work_s:
            _work(self._work_s)
        elif self._sleeps_s is not None:
            time.sleep(next(self._sleeps_s))
        self._num_steps += 1
        return self.observe(), 1.0, False, self._num_steps >= self._length, {}

    def observe(self) -> Any:
        """The current observation: a dict is new, since some libraries write into it."""
        frame = self._frames[self._num_steps % _NUM_FRAMES]
        return dict(frame) if type(frame) is dict else frame

    def close(self) -> None:
        """Nothing to give back."""


def observation_space(workload: str, spaces: Any) -> Any:
    """The observation space, made of ``gymnasium.spaces`` or the older ``gym.spaces``."""
    boxes = {
        name: spaces.Box(
            *((0, 255) if leaf.dtype is np.uint8 else (-np.inf, np.inf)), leaf.shape, leaf.dtype
        )
        for name, leaf in LEAVES[workload].items()
    }
    return boxes[""] if "" in boxes else spaces.Dict(boxes)


def _work(seconds: float) -> None:
    """Compute: CPU time, so that it is no less work on a busy machine."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def _draw(leaves: dict[str, Leaf], rng: np.random.Generator) -> Any:
    arrays = {
        name: rng.integers(0, 256, leaf.shape, np.uint8)
        if leaf.dtype is np.uint8
        else rng.random(leaf.shape, np.float32)
        for name, leaf in leaves.items()
    }
    return arrays.get("", arrays)


class Vector(NamedTuple):
    """What an adapter makes of a library's vector environment."""

    #: Actions int64 [num_envs] -> the batched observation and how many environments stepped.
    step: Callable[[Any], tuple[Any, int]]
    close: Callable[[], None]


def stack(observations: Sequence[Any]) -> Any:
    """The batch of a list of observations."""
    first = observations[0]
    if isinstance(first, dict):
        return {name: np.stack([o[name] for o in observations]) for name in first}
    return np.stack(observations)
