"""On which cores workers sleep, and on which they step."""

from __future__ import annotations

import os
import time

import pytest

from vectasks import VectorSampledTasks
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask
from vectasks.workers.cores import usable_cores


class CoresTask(CountingTask):
    """Tells which cores it may run on."""

    def cores(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def metrics(self) -> dict[str, list[int]]:
        return {"cores": self.cores()}


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or not 2 <= usable_cores() <= 3,
    reason="two workers are bound where they take at least half of the cores",
)
def test_workers_sleep_on_a_core_each_and_step_on_any() -> None:
    every = sorted(os.sched_getaffinity(0))
    arguments = toy_args(CoresTask, 4, max_steps=1)
    with VectorSampledTasks(ToySampler, arguments, max_processes=2, should_log=False) as tasks:
        pids = sorted(set(tasks.call("pid")))
        for _ in range(3):
            deadline = time.monotonic() + 20
            while [sorted(os.sched_getaffinity(pid)) for pid in pids] not in (
                [[every[0]], [every[1]]],
                [[every[1]], [every[0]]],
            ):
                assert time.monotonic() < deadline, "they never slept bound"
            assert tasks.call("cores") == [every] * 4
            for info in tasks.step_batch([0] * 4).infos:
                assert info["__AFTER_TASK_METRICS__"]["cores"] == every
