"""Batched computing and a batch of jobs on Ray actors; a process of its own runs it: DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from vectasks.compute import Task, TaskManager
from vectasks.evaluation import BatchJob, BatchRunner


class Halve(Task[Any, Any]):
    """Halves even numbers, and sums up large arrays."""

    def do(self, batch: Any) -> Any:
        if isinstance(batch, np.ndarray):
            return float(batch.sum())
        if batch[0] % 2:
            raise ValueError(f"{batch[0]} is odd")
        return batch[0] // 2


def write(job: BatchJob) -> dict[str, str]:
    if job.id == "bad":
        raise KeyError("bad")
    job.output.write_text(job.id)
    return {"made": job.id}


manager = TaskManager(Halve, backend="ray", num_workers=2)
results = manager.submit([0, 2, 3, 4], batch_size=1).get()
assert [result.value for result in results] == [0, 1, None, 2], results
assert isinstance(results[2].error, ValueError)
assert "in do" in results[2].traceback
data = np.arange(400_000.0).reshape(400, 1000)
assert manager.submit(data, batch_size=100).values() == [
    float(part.sum()) for part in np.split(data, 4)
]


class Measured(np.ndarray):
    def __array_finalize__(self, of: Any) -> None:
        self.unit = getattr(of, "unit", "none")


class Mean(Task[Any, Any]):
    def do(self, batch: Any) -> Any:
        return type(batch).__name__, getattr(batch, "unit", ""), float(np.mean(batch))


measured = data.view(Measured)
measured.unit = "m"
for whole in (np.ma.array(data, mask=data % 2 == 0), memoryview(data), measured):
    here = TaskManager(Mean).submit(whole, batch_size=200).values()
    there = TaskManager(Mean, backend="ray", num_workers=1).submit(whole, batch_size=200).values()
    assert here == there, (here, there)

directory = Path(sys.argv[1])
jobs = [BatchJob(id=i, input="in", output=directory / "out" / i) for i in ("a", "bad", "c")]
options: dict[str, Any] = {"manifest_path": directory / "run.json", "max_workers": 2}
manifest = BatchRunner("ray").run(jobs, write, **options)
assert [record.status.value for record in manifest.records] == ["success", "failed", "success"]
assert manifest.records[0].provenance == {"made": "a"}
again = BatchRunner("ray").run(jobs, write, **options)
assert (again.skipped_count, again.failed_count) == (2, 1)
