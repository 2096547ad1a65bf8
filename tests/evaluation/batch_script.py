"""A batch run in a process of its own, for tests that kill it: DIRECTORY NUM_JOBS [hang]."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from vectasks.evaluation import BatchJob, BatchRunner

directory, num_jobs, hangs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["hang"]


def work(job: BatchJob) -> dict[str, str]:
    """Say that the job has begun, then write its output in pieces."""
    fd = os.open(job.input, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{job.id}\n".encode())
    os.close(fd)
    with job.output.open("w") as file:
        for piece in range(4):
            file.write(f"{piece}\n")
            file.flush()
    while hangs:
        time.sleep(0.01)
    return {"made": job.id}


jobs = [
    BatchJob(id=str(i), input=directory / "begun.log", output=directory / "out" / f"{i}.txt")
    for i in range(num_jobs)
]
try:
    BatchRunner().run(jobs, work, manifest_path=directory / "run.json", max_workers=2)
except KeyboardInterrupt:
    sys.exit(130)
