"""The simulators that every library steps: the same numpy logic, no other dependency.

W1: a small vector, no work. W2: four stacked frames. W3: a dict of an image, a depth map and a
goal. W4: W1 and 200 us of CPU time a step. W5: W1 and a sleep a step, exponential, mean 2 ms.
Episodes have a fixed length; what is observed depends on the seed and the step alone. R1: W1 and a
sleep of 1 ms a step and of 200 ms a reset, as if a scene was loaded; R2: the same, but a reset
computes for 20 ms. There the lengths of episodes are exponential, mean 100, by the seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

EPISODE_STEPS = 128
_NUM_FRAMES = 4
_WORK_S = 200e-6
_MEAN_SLEEP_S = 2e-3
_STEP_S = 1e-3
_RESET_SLEEP_S = 0.2
_RESET_WORK_S = 0.02
_MEAN_LENGTH = 100
#: Workloads whose resets are slow.
RESETS = frozenset({"R1", "R2"})


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


class Simulator:
    """One environment of a workload, in Gymnasium's terms but without needing Gymnasium."""

    def __init__(self, workload: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._frames = [_draw(LEAVES[workload], rng) for _ in range(_NUM_FRAMES)]
        self._works = workload == "W4"
        self._sleeps_s = rng.exponential(_MEAN_SLEEP_S, 509).tolist() if workload == "W5" else None
        self._num_steps = 0
        self._num_sleeps = 0
        self._resets = workload if workload in RESETS else None
        self._length = EPISODE_STEPS
        self.seed_lengths(seed)

    def seed_lengths(self, seed: int) -> None:
        """Draw the lengths of episodes by this seed from now on."""
        self._lengths = np.random.default_rng(seed)

    def skip_episode(self) -> None:
        """Leave an episode out, without its reset."""
        self._length = 1 + int(self._lengths.exponential(_MEAN_LENGTH))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._num_steps = 0
        if self._resets is not None:
            self.skip_episode()
            if self._resets == "R1":
                time.sleep(_RESET_SLEEP_S)
            else:
                _work(_RESET_WORK_S)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation (arrays that are used again), reward, terminated, truncated, info."""
        if self._works:
            _work(_WORK_S)
        elif self._resets is not None:
            time.sleep(_STEP_S)
        elif self._sleeps_s is not None:
            time.sleep(self._sleeps_s[self._num_sleeps])
            self._num_sleeps = (self._num_sleeps + 1) % len(self._sleeps_s)
        self._num_steps += 1
        return self.observe(), 1.0, False, self._num_steps >= self._length, {}

    def observe(self) -> Any:
        """The current observation: a dict is new, since some libraries write into it."""
        frame = self._frames[self._num_steps % _NUM_FRAMES]
        return dict(frame) if type(frame) is dict else frame

    def close(self) -> None:
        """Nothing to give back."""


def _work(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s  # CPU time: no less work on a busy machine
    while time.thread_time() < until:
        pass


def observation_space(workload: str, spaces: Any) -> Any:
    """The observation space, made of ``gymnasium.spaces`` or the older ``gym.spaces``."""
    boxes = {
        name: spaces.Box(
            *((0, 255) if leaf.dtype is np.uint8 else (-np.inf, np.inf)), leaf.shape, leaf.dtype
        )
        for name, leaf in LEAVES[workload].items()
    }
    return boxes[""] if "" in boxes else spaces.Dict(boxes)


def _draw(leaves: dict[str, Leaf], rng: np.random.Generator) -> Any:
    arrays = {
        name: rng.integers(0, 256, leaf.shape, np.uint8)
        if leaf.dtype is np.uint8
        else rng.random(leaf.shape, np.float32)
        for name, leaf in leaves.items()
    }
    return arrays.get("", arrays)


class Vector(NamedTuple):
    """A library's vector environment, as an adapter makes it."""

    #: Actions int64 [num_envs] -> the batched observation and how many environments stepped.
    step: Callable[[Any], tuple[Any, int]]
    close: Callable[[], None]


def stack(observations: Sequence[Any]) -> Any:
    """The batch of a list of observations."""
    first = observations[0]
    if isinstance(first, dict):
        return {name: np.stack([o[name] for o in observations]) for name in first}
    return np.stack(observations)
