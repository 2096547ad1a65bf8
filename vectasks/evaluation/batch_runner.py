"""Run many jobs once each: skip those that are done, record failures, and go on."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vectasks._util.checks import whole_number
from vectasks.errors import InvalidArgument
from vectasks.evaluation.job_attempt import (
    JobToDo,
    JobWorker,
    attempt,
    failed_record,
    make_record,
    partial_output,
    remove_leftovers,
)
from vectasks.evaluation.job_records import BatchJob, BatchRunRecord, RunStatus, now, told
from vectasks.evaluation.manifest import BatchManifest
from vectasks.evaluation.run_log import RunLog
from vectasks.pool.kinds import Kind, checked_kind


class BatchProgress(NamedTuple):
    """The progress of a run.

    Attributes:
        done, skipped, failed: jobs that ended so.
        total: all jobs.
        record: the one that just ended.
    """

    done: int
    skipped: int
    failed: int
    total: int
    record: BatchRunRecord


class BatchRunner:
    """Runs a list of jobs and keeps a manifest of their results.

    A job is skipped if its output exists and its last record is no failure. Others are run: in
    worker processes, so that a job that kills its process is one failed record and no more. The
    worker writes to a name beside the output (with the same suffix), which becomes the output when
    it returns, so that what exists is whole.

    Whatever ends a run, Ctrl-C or SIGKILL, running it again does the rest.

    Args:
        backend: where the worker is called: ``"process"``, ``"inline"`` (in this process, one job
            after the other) or ``"ray"`` (outputs must then be where every node sees them).
        on_progress: is called after every job.
    """

    def __init__(
        self,
        backend: Kind = "process",
        *,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> None:
        self._backend = checked_kind("backend", backend)
        self._on_progress = on_progress

    def run(
        self,
        jobs: Iterable[BatchJob | Mapping[str, Any]],
        worker: JobWorker,
        *,
        manifest_path: str | os.PathLike[str],
        max_workers: int = 1,
        force: bool = False,
        input_dir: str | os.PathLike[str] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        pattern: str = "",
    ) -> BatchManifest:
        """Run the jobs that are not done yet.

        Args:
            jobs: the jobs; dicts are made into :class:`BatchJob`.
            worker: is called with a copy of each job, whose ``output`` is the name to write to;
                returns a dict, which is added to the record's provenance, or None.
            manifest_path: the manifest; beside it are a run log and a lock.
            max_workers: how many jobs run at a time.
            force: run every job, also those that are done; an older output stays until the new one
                is whole.
            input_dir: where the jobs' inputs are; it is kept in the manifest, and not looked at.
            output_dir: the same of the outputs.
            pattern: by which the inputs were found; the same.

        Returns:
            The manifest, which is also in its file: one record per job, in the order of the jobs.

        Raises:
            InvalidArgument: something in the list is no job, two jobs share an id or an output,
                max_workers is below 1, or the worker cannot be called; nothing was run.
            ManifestBusy: another run is writing to this manifest.
            ManifestError: the manifest is damaged and cannot be rebuilt.
        """
        if not callable(worker):
            raise InvalidArgument(f"worker must be callable, got {worker!r}.")
        checked = _checked(jobs)
        max_workers = whole_number("max_workers", max_workers, at_least=1)
        with RunLog(
            manifest_path,
            [job.id for job in checked],
            input_dir=input_dir,
            output_dir=output_dir,
            pattern=pattern,
        ) as log:
            counts: Counter[RunStatus] = Counter()
            with contextlib.closing(
                self._records(checked, worker, log, max_workers, force)
            ) as records:
                for record in records:
                    log.add(record)
                    counts[record.status] += 1
                    self._tell(counts, len(checked), record)
        return log.manifest()

    def _records(
        self,
        jobs: Sequence[BatchJob],
        worker: JobWorker,
        log: RunLog,
        max_workers: int,
        force: bool,
    ) -> Generator[BatchRunRecord, None, None]:
        to_do: list[JobToDo] = []
        for job in jobs:
            earlier = log.history.get(job.id)
            if not force and _is_done(job, earlier):
                yield _skipped(job, earlier)
                continue
            try:
                if log.owns(job.output):
                    raise InvalidArgument(
                        f"the output {str(job.output)!r} is a file that this run writes itself: "
                        "its manifest, run log or lock. Give it another name."
                    )
                to_do.append(JobToDo(job, partial_output(job.output)))
            except InvalidArgument as error:
                yield failed_record(job, now(), error)
        if not to_do:
            return
        remove_leftovers(job for job, _ in to_do)
        if self._backend == "inline":
            for job, partial in to_do:
                yield attempt(worker, job, partial)
        else:
            from vectasks.evaluation.parallel import run_in_workers

            yield from run_in_workers(to_do, worker, max_workers, self._backend)

    def _tell(self, counts: Counter[RunStatus], total: int, record: BatchRunRecord) -> None:
        if self._on_progress is not None:
            self._on_progress(
                BatchProgress(
                    counts[RunStatus.success],
                    counts[RunStatus.skipped],
                    counts[RunStatus.failed],
                    total,
                    record,
                )
            )


def _checked(jobs: Iterable[BatchJob | Mapping[str, Any]]) -> list[BatchJob]:
    checked = []
    for number, job in enumerate(jobs):
        try:
            checked.append(BatchJob.model_validate(job))
        except ValueError as error:
            raise InvalidArgument(f"job {number} of the list: {told(error)}.") from error
    for what, values in (
        ("id", [job.id for job in checked]),
        ("output", [os.path.normpath(job.output.absolute()) for job in checked]),
    ):
        several = [value for value, count in Counter(values).items() if count > 1]
        if several:
            raise InvalidArgument(
                f"{len(several)} {what}s belong to more than one job, {several[0]!r} for one: each "
                f"job needs an {what} of its own. Nothing was run."
            )
    return checked


def _is_done(job: BatchJob, earlier: BatchRunRecord | None) -> bool:
    try:
        exists = job.output.exists()
    except OSError:  # a name that is too long, a folder that nobody may look into
        exists = False
    return exists and (earlier is None or earlier.status is not RunStatus.failed)


def _skipped(job: BatchJob, earlier: BatchRunRecord | None) -> BatchRunRecord:
    return make_record(
        job,
        RunStatus.skipped,
        now(),
        message="its output exists",
        provenance=None if earlier is None else earlier.provenance,
    )
