"""What ``timing=True`` costs: the same steps with and without it, in turn.

``python -m benchmarks.timing``, in an environment that has vectasks installed. Tasks either do
nothing or compute for a while; rounds alternate, and the
fastest counts: whatever else the machine does only makes them slower.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from vectasks import (
    RLStepResult,
    SingleProcessVectorSampledTasks,
    Task,
    TaskSampler,
    VectorSampledTasks,
)

_NUM_SAMPLERS, _NUM_PROCESSES = 8, 2
_ROUNDS = 40
_ROUND_S = 0.1


class SpinningTask(Task[None]):
    """Computes for ``work_s`` seconds a step."""

    def __init__(self, work_s: float) -> None:
        super().__init__(None, observation_space=gymnasium.spaces.Box(-1, 1, (4,), np.float32))
        self._work_s = work_s
        self._observation = np.zeros(4, np.float32)

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Two actions."""
        return gymnasium.spaces.Discrete(2)

    def get_observations(self) -> Any:
        """Zeros."""
        return self._observation

    def _step(self, action: Any) -> RLStepResult:
        if self._work_s:
            end_s = time.thread_time() + self._work_s
            while time.thread_time() < end_s:
                pass
        return RLStepResult(self._observation, 0.0, False, {})


class SpinningSampler(TaskSampler[SpinningTask]):
    """The same task again and again."""

    def __init__(self, work_s: float) -> None:
        self._work_s = work_s

    def next_task(self, **kwargs: Any) -> SpinningTask:
        """A new one."""
        return SpinningTask(self._work_s)


def measure(make: Callable[..., Any], work_s: float, clock: Callable[[], float]) -> str:
    """What a step of all samplers takes, without and with timing."""
    actions = np.zeros(_NUM_SAMPLERS, np.int64)
    arguments = [{"work_s": work_s}] * _NUM_SAMPLERS
    vectors = [make(SpinningSampler, arguments, should_log=False, timing=t) for t in (False, True)]
    best_s = [float("inf")] * 2
    try:
        for number in range(_ROUNDS):
            for which in (0, 1) if number % 2 else (1, 0):
                best_s[which] = min(best_s[which], _round(vectors[which], actions, clock))
    finally:
        for vector in vectors:
            vector.close()
    off, on = best_s
    return f"{off * 1e6:8.1f} us without, {on * 1e6:8.1f} us with timing: {on / off - 1:+.1%}"


def _round(vector: Any, actions: Any, clock: Callable[[], float]) -> float:
    """Seconds of the fastest ten steps of a round, each."""
    best_s, end_s = float("inf"), time.perf_counter() + _ROUND_S
    while time.perf_counter() < end_s:
        begin_s = clock()
        for _ in range(10):
            vector.step_batch(actions)
        best_s = min(best_s, (clock() - begin_s) / 10)
    return best_s


def main() -> None:
    """Measure and print."""
    in_processes = functools.partial(VectorSampledTasks, max_processes=_NUM_PROCESSES)
    for title, make, clock in (
        ("in this process, CPU time", SingleProcessVectorSampledTasks, time.thread_time),
        (f"in {_NUM_PROCESSES} processes, wall time", in_processes, time.perf_counter),
    ):
        print(f"one step_batch of {_NUM_SAMPLERS} samplers {title}:")
        for work_s in (0.0, 20e-6, 100e-6, 500e-6):
            print(f"  a task of {work_s * 1e6:3.0f} us: {measure(make, work_s, clock)}")


if __name__ == "__main__":
    main()
