"""Where the time of a step goes: each layer measured with all that is below it.

``python -m benchmarks.layers``, in an environment that has vectasks installed.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable

import numpy as np

from benchmarks import workloads
from benchmarks.adapters import vectasks as adapter
from vectasks import SingleProcessVectorSampledTasks
from vectasks.host.step_rows import RowSteps
from vectasks.host.task_host import HostGroup, HostPlan
from vectasks.protocol import Command, Request
from vectasks.transport.layout import Layout
from vectasks.transport.step_buffer import RowWriter, StepBuffer

_NUM_SAMPLERS = 32
_REPEATS = 7
_ARGUMENTS = {"workload": "W1", "seed": 0, "in_place": False}


def main() -> None:
    """Measure and print."""
    workloads.EPISODE_STEPS = sys.maxsize  # an episode's end is not a step's usual cost
    print("one sampler's step of W1, in its worker:")
    for name, seconds in _in_a_worker():
        print(f"  {name:<52}{seconds * 1e6:8.2f} us")
    print(f"the parent's part of step_batch, {_NUM_SAMPLERS} samplers that answer at once:")
    print(f"  {'':<52}{_in_the_parent() * 1e6:8.2f} us")


def _in_a_worker() -> list[tuple[str, float]]:
    group = HostGroup()
    plan = HostPlan(adapter.make_sampler, _ARGUMENTS)
    ready = group.execute(Request(0, 0, Command.SETUP, plan)).value
    task = adapter.make_sampler(**_ARGUMENTS).next_task()
    layout = Layout.of(ready.observation_space, ready.action_space, ready.observation, 1, 1)
    writer = RowWriter(StepBuffer(layout), [0], 1, as_batch=True)
    rows = RowSteps(group, print)
    return [
        ("the simulator", _best(lambda: task.env.step(1))),
        ("+ the user's Task._step", _best(lambda: task._step(1))),
        ("+ Task.step: limits, counts, the return", _best(lambda: task.step(1))),
        ("+ host: the episode's end, errors", _best(lambda: group.step(0, 1))),
        (
            "+ the step buffer: checked and written",
            _best(lambda: rows.run(writer, [0], [1])),
        ),
    ]


class _Idle:
    """A sampler whose only task answers every step at once with the same result."""

    def __init__(self) -> None:
        sampler = adapter.make_sampler(**_ARGUMENTS)
        self._task = sampler.next_task()
        self.observation_space = self._task.observation_space
        self.action_space = self._task.action_space
        self._result = (self._task.get_observations(), 1.0, False, {})

    def next_task(self) -> _Idle:
        return self

    def get_observations(self) -> object:
        return self._result[0]

    def step(self, action: object) -> tuple[object, float, bool, dict[str, object]]:
        return self._result

    def close(self) -> None:
        """Nothing to give back."""


def _in_the_parent() -> float:
    with SingleProcessVectorSampledTasks(_Idle, [{}] * _NUM_SAMPLERS, should_log=False) as tasks:
        actions = np.zeros(_NUM_SAMPLERS, np.int64)
        tasks.step_batch(actions)
        return _best(lambda: tasks.step_batch(actions), 5_000)


def _best(function: Callable[[], object], number: int = 50_000) -> float:
    return min(timeit.repeat(function, number=number, repeat=_REPEATS)) / number


if __name__ == "__main__":
    main()
