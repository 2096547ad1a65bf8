"""On which cores workers sleep, and on which they step."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from vectasks import COMPLETE_TASK_METRICS_KEY, VectorSampledTasks
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask
from vectasks.transport.cpu import usable_cores


class CoresWhereRead:
    """Becomes, where it is unpickled, the cores that this may happen on."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.sched_getaffinity, (0,)


class CoresTask(CountingTask):
    """Tells which cores it may run on."""

    def cores(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def returned(self, value: set[int]) -> list[int]:
        return sorted(value)

    def metrics(self) -> dict[str, list[int]]:
        return {"cores": self.cores()}


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or usable_cores() != 2,
    reason="two workers are bound where there are two cores",
)
def test_workers_sleep_on_a_core_each_and_step_on_any() -> None:
    every = sorted(os.sched_getaffinity(0))
    arguments = toy_args(CoresTask, 4, max_steps=1)
    with VectorSampledTasks(ToySampler, arguments, max_processes=2, should_log=False) as tasks:
        pids = set(tasks.call("pid"))
        for _ in range(3):
            deadline = time.monotonic() + 20
            while sorted(map(sorted, map(os.sched_getaffinity, pids))) != [[i] for i in every]:
                assert time.monotonic() < deadline, "they never slept bound"
            # What a message brings may start threads, which inherit the cores.
            assert tasks.call("returned", [[CoresWhereRead()]] * 4) == [every] * 4
            assert tasks.call("cores") == [every] * 4
            for info in tasks.step_batch([0] * 4).infos:
                assert info[COMPLETE_TASK_METRICS_KEY]["cores"] == every
