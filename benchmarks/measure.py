"""The measurements of one vector, run by the interpreter of a library's own environment.

``python -m benchmarks.measure JOB``, a JSON object with ``adapter``, ``options``, ``workload``,
``num_envs``, ``purpose`` ("rate", "start" or "cycles"), ``seconds``, ``cycles`` and ``answers``, a
file descriptor that gets each answer as a line of JSON. For rates the first answer says that the
vector is warm; each line of standard input then asks for another rate.
"""

from __future__ import annotations

import functools
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
_WARM_UP_S, _WARM_AGAIN_S = 1.0, 0.1  # at most: at the start, and before each turn
_STEPS_A_CYCLE = 1000
_CYCLES_BEFORE = 5  # until caches are filled

Batches = list[Any]
Tell = Callable[[dict[str, Any]], None]


def serve(make: Callable[[], Vector], actions: Batches, job: dict[str, Any], tell: Tell) -> None:
    """Tell steps a second, again and again, of a vector that stays open."""
    vector = make()
    first, count = vector.step(actions[0])
    check(first, count, job["workload"], job["num_envs"])
    _run(vector.step, actions, min(job["seconds"], _WARM_UP_S))
    tell({"ready": True})
    for _ in sys.stdin:
        _run(vector.step, actions, min(job["seconds"], _WARM_AGAIN_S))  # others had the caches
        tell({"rate": _run(vector.step, actions, job["seconds"])})
    vector.close()


def start(make: Callable[[], Vector], actions: Batches, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds from nothing to the first batch, and memory of the workers after some steps."""
    begin = time.perf_counter()
    vector = make()
    first, count = vector.step(actions[0])
    answer: dict[str, Any] = {"start_s": time.perf_counter() - begin}
    check(first, count, job["workload"], job["num_envs"])
    _run(vector.step, actions, job["seconds"])
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
    """Measure and answer."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    with os.fdopen(job["answers"], "w") as answers:

        def tell(answer: dict[str, Any]) -> None:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

        adapter = importlib.import_module(f"benchmarks.adapters.{job['adapter']}")
        cell = job["workload"], job["num_envs"]
        if hasattr(adapter, "rate"):
            tell({"ready": True})
            rate = adapter.rate(*cell, **job["options"])
            for _ in sys.stdin:
                tell({"rate": rate})
            return
        rng = np.random.default_rng(0)
        actions = list(rng.integers(num_actions(cell[0]), size=(_NUM_BATCHES, cell[1])))
        make = functools.partial(adapter.make, *cell, **job["options"])
        if job["purpose"] == "rate":
            serve(make, actions, job, tell)
        elif job["purpose"] == "start":
            tell(start(make, actions, job))
        else:
            tell(cycle(make, actions, job["cycles"]))


if __name__ == "__main__":
    main()
