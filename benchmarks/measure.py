"""One measurement, run by the interpreter of a library's own environment.

``python -m benchmarks.measure JOB``, a JSON object with ``adapter``, ``options``, ``workload``,
``num_envs``, ``seconds``, ``cycles`` (0: none) and ``out``, the file that gets the answer as JSON.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import LEAVES, Simulator, Vector, num_actions, stack

_NUM_BATCHES = 64
_WARM_UP = 0.25  # of the time that is measured
_STEPS_A_CYCLE = 1000
_CYCLES_BEFORE = 5  # until caches are filled

Batches = list[Any]


def measure(make: Callable[[], Vector], actions: Batches, job: dict[str, Any]) -> dict[str, Any]:
    """Steps a second, seconds from nothing to the first batch, and memory of the workers."""
    begin = time.perf_counter()
    vector = make()
    first, count = vector.step(actions[0])
    answer: dict[str, Any] = {"start_s": time.perf_counter() - begin}
    check(first, count, job["workload"], job["num_envs"])
    _run(vector.step, actions, _WARM_UP * job["seconds"])
    answer["rate"] = _run(vector.step, actions, job["seconds"])
    workers = [pss_bytes(child.pid) for child in multiprocessing.active_children()]
    if workers:
        answer["worker_pss_bytes"] = sum(workers) / len(workers)
        answer["num_workers"] = len(workers)
    vector.close()
    return answer


def cycle(make: Callable[[], Vector], actions: Batches, cycles: int) -> dict[str, Any]:
    """Measure what a start, 1,000 steps and a close leave behind, over and over."""
    held = []
    for _ in range(cycles):
        vector = make()
        for i in range(_STEPS_A_CYCLE):
            vector.step(actions[i % _NUM_BATCHES])
        vector.close()
        family = [os.getpid(), *descendants(os.getpid())]
        held.append(
            {
                "pss_bytes": sum(pss_bytes(pid) for pid in family),
                "descriptors": len(list(Path("/proc/self/fd").iterdir())),
                "processes": len(family),
            }
        )
    before = held[min(_CYCLES_BEFORE, cycles - 1)]
    return {
        "cycles": cycles,
        **{f"{name}_grown": held[-1][name] - before[name] for name in before},
    }


def check(batch: Any, count: int, workload: str, num_envs: int) -> None:
    """Hold the first batch against the simulators: a fast vector that is wrong is no peer."""
    if workload not in LEAVES or count != num_envs:
        return
    expected = stack([_after_one_step(workload, seed) for seed in range(num_envs)])
    if not isinstance(expected, dict):
        batch, expected = {"": batch}, {"": expected}
    for name, array in expected.items():
        if not np.array_equal(np.asarray(batch[name]).reshape(array.shape), array):
            raise ValueError(f"leaf {name!r} of the first batch is not what the simulators gave.")


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def pss_bytes(pid: int | None) -> int:
    """Memory of a process, pages that it shares counted in part (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024


def _after_one_step(workload: str, seed: int) -> Any:
    simulator = Simulator(workload, seed)
    return simulator.step(0)[0]


def _run(step: Callable[[Any], tuple[Any, int]], actions: Batches, seconds: float) -> float:
    steps = calls = 0
    begin = now = time.perf_counter()
    while now - begin < seconds:
        steps += step(actions[calls % _NUM_BATCHES])[1]
        calls += 1
        now = time.perf_counter()
    return steps / (now - begin)


def main() -> None:
    """Measure and write the answer."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    adapter = importlib.import_module(f"benchmarks.adapters.{job['adapter']}")
    rng = np.random.default_rng(0)
    actions = list(rng.integers(num_actions(job["workload"]), size=(_NUM_BATCHES, job["num_envs"])))

    def make() -> Vector:
        return adapter.make(job["workload"], job["num_envs"], **job["options"])

    cycles = job["cycles"]
    answer = cycle(make, actions, cycles) if cycles else measure(make, actions, job)
    Path(job["out"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
