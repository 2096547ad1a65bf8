"""Measure what ``timing`` costs: steps without it, with ``True`` and with ``"all"``, in turn.

``python -m benchmarks.timing``, in an environment that has vectasks installed. Tasks either do
nothing or compute for a while. What is measured in a round of a tenth of a second is the mean of
all its steps, whether they are timed or not. Each round with timing is held against the mean of the
rounds without it just before and after, so that whatever else the machine does meets both, and the
median of these ratios is what timing costs. The time without it is the median, too.
"""

from __future__ import annotations

import functools
import statistics
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
_TURNS = 60
_ROUND_S = 0.1
_TIMINGS: tuple[Any, ...] = (True, "all")


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
    """Measure a step of all samplers without timing, and how much more each kind of it takes."""
    actions = np.zeros(_NUM_SAMPLERS, np.int64)
    arguments = [{"work_s": work_s}] * _NUM_SAMPLERS
    off, *timed = (
        make(SpinningSampler, arguments, should_log=False, timing=timing)
        for timing in (False, *_TIMINGS)
    )
    ratios: list[list[float]] = [[] for _ in timed]
    try:
        for vector in (off, *timed):
            _round(vector, actions, clock)
        off_s = [_round(off, actions, clock)]
        for _ in range(_TURNS):
            for vector, its_ratios in zip(timed, ratios, strict=True):
                on_s = _round(vector, actions, clock)
                off_s.append(_round(off, actions, clock))
                its_ratios.append(2 * on_s / (off_s[-2] + off_s[-1]))
    finally:
        for vector in (off, *timed):
            vector.close()
    costs = (
        f"timing={timing!r} {statistics.median(its_ratios) - 1:+.1%}"
        for timing, its_ratios in zip(_TIMINGS, ratios, strict=True)
    )
    return f"{statistics.median(off_s) * 1e6:8.1f} us without; {', '.join(costs)}"


def _round(vector: Any, actions: Any, clock: Callable[[], float]) -> float:
    """Seconds of a step, the mean of all steps of a round."""
    steps, until_s = 0, time.perf_counter() + _ROUND_S
    begin_s = clock()
    while time.perf_counter() < until_s:
        for _ in range(10):
            vector.step_batch(actions)
        steps += 10
    return (clock() - begin_s) / steps


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
