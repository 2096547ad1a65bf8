"""One job, from the worker's call to its record: what runs in this process or in a worker's."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from vectasks.evaluation.records import BatchJob, BatchRunRecord, RunStatus, now

#: What users bring: it reads ``job.input``, makes ``job.output`` and may return provenance.
JobWorker: TypeAlias = Callable[[BatchJob], Mapping[str, Any] | None]

_PARTIAL_NAME = re.compile(r"\.part-[0-9a-f]{8}-(?P<name>.+)", re.DOTALL)


def partial_path(output: Path) -> Path:
    """A new name beside an output, with the same suffix, for it to grow under."""
    return output.with_name(f".part-{secrets.token_hex(4)}-{output.name}")


def attempt(worker: JobWorker, job: BatchJob, partial: Path) -> BatchRunRecord:
    """Run one job; its output gets its own name if all went well. Nothing is raised but Ctrl-C.

    Args:
        worker: the user's function.
        job: the job.
        partial: the name that the output grows under.
    """
    started_at = now()
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        returned = worker(job.model_copy(update={"output": partial}))
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(
                f"the worker returned a {type(returned).__name__}; it must be a dict of provenance "
                "or None."
            )
        if not partial.exists():
            raise FileNotFoundError(
                "the worker returned without an error, but made no output: it must write to "
                "job.output, which is not the path in the job's list but one beside it."
            )
        record = make_record(
            job,
            RunStatus.success,
            started_at,
            provenance={**job.provenance, **(returned or {})},
        )
        _publish(partial, job.output)
    except KeyboardInterrupt:
        remove(partial)
        raise
    except BaseException as error:  # user code; sys.exit() too ends no more than its job
        remove(partial)
        return failed_record(job, started_at, error)
    return record


def make_record(
    job: BatchJob,
    status: RunStatus,
    started_at: datetime,
    *,
    message: str = "",
    error: BaseException | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> BatchRunRecord:
    """A record of a job that ends now."""
    return BatchRunRecord(
        job_id=job.id,
        input=job.input,
        output=job.output,
        status=status,
        started_at=started_at,
        finished_at=now(),
        message=message,
        error_type=None if error is None else type(error).__name__,
        provenance=dict(job.provenance if provenance is None else provenance),
        traceback="" if error is None else "".join(traceback.format_exception(error)),
    )


def failed_record(job: BatchJob, started_at: datetime, error: BaseException) -> BatchRunRecord:
    """The record of a job that this error ended."""
    return make_record(
        job,
        RunStatus.failed,
        started_at,
        message=str(error) or type(error).__name__,
        error=error,
    )


def _publish(partial: Path, output: Path) -> None:
    """Give a whole output its name, in place of an older one."""
    if not output.is_dir() or output.is_symlink():
        partial.replace(output)
        return
    aside = partial_path(output)  # no directory can be replaced in one step
    output.replace(aside)
    partial.replace(output)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there and lets itself be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_leftovers(jobs: Iterable[BatchJob]) -> None:
    """Remove what runs that were killed left of these jobs' outputs."""
    outputs = {job.output for job in jobs}
    for directory in {output.parent for output in outputs}:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                match = _PARTIAL_NAME.fullmatch(entry.name)
                if match and directory / match["name"] in outputs:
                    remove(Path(entry.path))
