"""Jobs in the workers of a pool."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from vectasks.errors import SetupError
from vectasks.evaluation.job_attempt import JobToDo, JobWorker, attempt, failed_record, remove
from vectasks.evaluation.job_records import BatchJob, BatchRunRecord, now
from vectasks.pool.feed import feed
from vectasks.pool.kinds import Kind
from vectasks.pool.pool import WorkerPool

_CLOSE_GRACE_S = 1.0  # for what still runs when Ctrl-C ends a run


class JobHost:
    """The object in a worker: it holds the user's function."""

    def __init__(self, worker: JobWorker) -> None:
        self._worker = worker

    def run(self, job: BatchJob, partial: Path) -> BatchRunRecord:
        """Run one job."""
        return attempt(self._worker, job, partial)


def run_in_workers(
    jobs: Sequence[JobToDo], worker: JobWorker, max_workers: int, kind: Kind
) -> Iterator[BatchRunRecord]:
    """Run jobs side by side; yield their records as they end.

    Raises:
        SetupError: the worker cannot be had in another process: its module is not found there.
    """
    running: dict[str, JobToDo] = {}

    def calls() -> Iterator[tuple[tuple[JobToDo, datetime], JobToDo]]:
        for to_do in jobs:
            running[to_do.job.id] = to_do
            yield (to_do, now()), to_do

    make_host = functools.partial(JobHost, worker)
    num_workers = min(max_workers, len(jobs))
    try:
        with WorkerPool(make_host, num_workers, kind=kind, close_grace_s=_CLOSE_GRACE_S) as pool:
            for ((job, partial), started_at), future in feed(pool, "run", calls()):
                error = future.exception()
                if isinstance(error, SetupError):
                    raise error
                if error is None:
                    # Rebuilt, as its NaNs came as others, which nothing equals.
                    record = BatchRunRecord.model_validate(future.result().model_dump())
                else:
                    remove(partial)
                    record = failed_record(job, started_at, error)
                del running[job.id]
                yield record
    finally:
        for _, partial in running.values():  # Ctrl-C ended them
            remove(partial)
