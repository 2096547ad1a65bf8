"""Batched computing beside its peers: ``python -m benchmarks.compute``.

Mean and spread of the columns of one large array, in batches of rows, by two workers: by
``vectasks.compute`` (of a private array and of a ``shared_array``), by
``ProcessPoolExecutor.map`` and by joblib. Each contender runs in a process of its own. Told are the
time from the call to the last result, workers' start included (the best of some), and the most
memory that the process and its workers held together (proportional set size, so that shared pages
count once), as a multiple of the array.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

NUM_COLUMNS = 64
NUM_BATCHES = 64
NUM_WORKERS = 2
_SAMPLE_S = 0.01


def work(batch: Any) -> Any:
    """Mean and spread of each column: float64 [2, NUM_COLUMNS]."""
    return np.stack([batch.mean(axis=0), batch.std(axis=0)])


def _rows_a_batch(data: Any) -> int:
    return -(-len(data) // NUM_BATCHES)


def _batches(data: Any) -> list[Any]:
    rows = _rows_a_batch(data)
    return [data[start : start + rows] for start in range(0, len(data), rows)]


def by_vectasks(data: Any) -> list[Any]:
    """``TaskManager`` over worker processes."""
    from vectasks.compute import Task, TaskManager

    class Work(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return work(batch)

    manager = TaskManager(Work, backend="process", num_workers=NUM_WORKERS)
    return manager.submit(data, batch_size=_rows_a_batch(data)).values()


def by_executor(data: Any) -> list[Any]:
    """``ProcessPoolExecutor.map``, with the start method that is fastest here."""
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(NUM_WORKERS, mp_context=context) as executor:
        return list(executor.map(work, _batches(data)))


def by_executor_forkserver(data: Any) -> list[Any]:
    """``ProcessPoolExecutor.map``, with the start method that ``TaskManager`` has."""
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(NUM_WORKERS, mp_context=context) as executor:
        return list(executor.map(work, _batches(data)))


def by_joblib(data: Any) -> list[Any]:
    """``joblib.Parallel``, which puts large arrays into files of its own."""
    import joblib

    calls = (joblib.delayed(work)(batch) for batch in _batches(data))
    results: list[Any] = joblib.Parallel(n_jobs=NUM_WORKERS)(calls)
    return results


CONTENDERS: dict[str, Callable[[Any], list[Any]]] = {
    "vectasks": by_vectasks,
    "vectasks, shared_array": by_vectasks,
    "ProcessPoolExecutor (fork)": by_executor,
    "ProcessPoolExecutor (forkserver)": by_executor_forkserver,
    "joblib": by_joblib,
}


class _Memory:
    """The most that this process and its children held together."""

    peak_bytes = 0


@contextmanager
def _watched_memory() -> Iterator[_Memory]:
    memory, is_over = _Memory(), threading.Event()
    me = psutil.Process()

    def watch() -> None:
        while not is_over.wait(_SAMPLE_S):
            held = 0
            for process in itertools.chain([me], me.children(recursive=True)):
                try:
                    held += process.memory_full_info().pss
                except psutil.Error:  # it has ended
                    continue
            memory.peak_bytes = max(memory.peak_bytes, held)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        is_over.set()
        thread.join()


def measure(name: str, size_bytes: int, repeats: int) -> dict[str, float]:
    """Time and memory of one contender, in this process."""
    num_rows = size_bytes // (8 * NUM_COLUMNS)
    if name == "vectasks, shared_array":
        from vectasks.compute import shared_array

        data = shared_array((num_rows, NUM_COLUMNS))
    else:
        data = np.empty((num_rows, NUM_COLUMNS))
    rng = np.random.default_rng(0)
    for batch in _batches(data):
        rng.standard_normal(out=batch)
    run = CONTENDERS[name]
    run(data[: num_rows // 64])  # what is imported and started once a process
    times_s = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        results = run(data)
        times_s.append(time.perf_counter() - began_s)
    np.testing.assert_array_equal(results, [work(batch) for batch in _batches(data)])
    with _watched_memory() as memory:
        run(data)
    return {"time_s": min(times_s), "memory": memory.peak_bytes / data.nbytes}


def main() -> None:
    """Measure all contenders, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=1000, help="of the array (default: 1000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size_bytes = args.size_mb * 10**6
    if args.contender is not None:
        print(json.dumps(measure(args.contender, size_bytes, args.repeats)))
        return
    print(f"{args.size_mb} MB, {NUM_BATCHES} batches, {NUM_WORKERS} workers")
    for name in CONTENDERS:
        command = [sys.executable, "-m", "benchmarks.compute", "--contender", name]
        command += ["--size-mb", str(args.size_mb), "--repeats", str(args.repeats)]
        told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        print(f"{name:<34} {told['time_s']:6.2f} s   {told['memory']:5.2f} x the array")


if __name__ == "__main__":
    main()
