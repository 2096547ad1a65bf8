"""What ``timing=True`` costs: the same steps with and without it, in turn.

``python -m benchmarks.timing``, in an environment that has vectasks installed. Tasks either do
nothing or compute for a while; rounds alternate, and the
fastest counts: whatever else the machine does only makes them slower.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from vectasks import RLStepResult, Task, TaskSampler, VectorSampledTasks

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


def measure(work_s: float) -> tuple[float, float]:
    """Microseconds of one step of all samplers, without and with timing."""
    arguments = [{"work_s": work_s}] * _NUM_SAMPLERS
    actions = np.zeros(_NUM_SAMPLERS, np.int64)
    vectors = [
        VectorSampledTasks(
            SpinningSampler,
            arguments,
            max_processes=_NUM_PROCESSES,
            should_log=False,
            timing=timing,
        )
        for timing in (False, True)
    ]
    rounds: list[list[float]] = [[], []]
    try:
        for number in range(_ROUNDS):
            for which in (0, 1) if number % 2 else (1, 0):
                rounds[which].append(_round(vectors[which], actions))
    finally:
        for vector in vectors:
            vector.close()
    off, on = (min(times) * 1e6 for times in rounds)
    return off, on


def _round(vector: Any, actions: Any) -> float:
    """Seconds of the fastest step of a round."""
    best_s, begin_s = float("inf"), time.perf_counter()
    while (now_s := time.perf_counter()) - begin_s < _ROUND_S:
        for _ in range(10):
            vector.step_batch(actions)
        best_s = min(best_s, (time.perf_counter() - now_s) / 10)
    return best_s


def main() -> None:
    """Measure and print."""
    print(f"{_NUM_SAMPLERS} samplers in {_NUM_PROCESSES} processes, one step_batch:")
    for work_s in (0.0, 20e-6, 100e-6, 500e-6):
        off, on = measure(work_s)
        print(
            f"  a task of {work_s * 1e6:4.0f} us: {off:8.1f} us without timing, "
            f"{on:8.1f} us with it: {on / off - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
