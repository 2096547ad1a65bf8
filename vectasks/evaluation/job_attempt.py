"""One job, from the worker's call to its record: what runs in this process or in a worker's."""

from __future__ import annotations

import contextlib
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from vectasks._util.files import end_of_partial, partial_end, partial_path
from vectasks.errors import InvalidArgument
from vectasks.evaluation.job_records import BatchJob, BatchRunRecord, RunStatus, now
from vectasks.evaluation.json_form import plain

#: What users bring: it reads ``job.input``, makes ``job.output`` and may return provenance.
JobWorker: TypeAlias = Callable[[BatchJob], Mapping[str, Any] | None]


class JobToDo(NamedTuple):
    """A job that is to be run, and the name that its output grows under."""

    job: BatchJob
    partial: Path


def partial_output(output: Path) -> Path:
    """Return a new name beside an output, with the same suffix, for it to grow under.

    Raises:
        InvalidArgument: no file can have the output's name.
    """
    if output.name in ("", ".."):
        raise InvalidArgument(
            f"the output {str(output)!r} is a folder's place and no name: give it a name in there."
        )
    if "\0" in str(output):
        raise InvalidArgument(
            f"the output {str(output)!r} holds a NUL character, which no file's name can."
        )
    try:
        os.fsencode(output)
        return partial_path(output)
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the output {str(output)!r} holds {error.object[error.start]!r}, which no file's name "
            "can: it is no character."
        ) from None


def attempt(worker: JobWorker, job: BatchJob, partial: Path) -> BatchRunRecord:
    """Run one job; its output gets its own name if all went well. Nothing is raised but Ctrl-C.

    Args:
        worker: the user's function.
        job: the job.
        partial: the name that the output grows under.
    """
    started_at = now()
    try:
        _make_room(job.output)
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
            provenance={**job.provenance, **plain(returned or {})},
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
    return make_record(job, RunStatus.failed, started_at, message=_message(error), error=error)


def _message(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # user code
        return type(error).__name__


def _make_room(output: Path) -> None:
    """Make an output's folder, and find out what keeps the output from being there."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            output.lstat()  # refuses a name that is too long
    except OSError as error:
        reason = error.strerror or str(error)
        for parent in output.parents:
            if os.path.lexists(parent) and not parent.is_dir():
                reason = f"{str(parent)!r} is no folder"
        raise type(error)(
            error.errno, f"the output {str(output)!r} cannot be made: {reason}"
        ) from None


def _publish(partial: Path, output: Path) -> None:
    """Give a whole output its name, in place of an older one of its kind."""
    is_there, is_dir = output.exists() and not output.is_symlink(), output.is_dir()
    if is_there and is_dir != partial.is_dir():
        raise FileExistsError(
            f"the output {str(output)!r} is there, and is a {'folder' if is_dir else 'file'}; the "
            f"worker made a {'file' if is_dir else 'folder'}. Remove the one that is there, or "
            "give the job another output."
        )
    if not (is_there and is_dir):
        partial.replace(output)
        return
    aside = partial_output(output)  # no directory can be replaced in one step
    output.replace(aside)
    try:
        partial.replace(output)
    except OSError:
        aside.replace(output)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there and lets itself be removed."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(jobs: Iterable[BatchJob]) -> None:
    """Remove what runs that were killed left of these jobs' outputs."""
    ends: dict[Path, set[str]] = {}
    for job in jobs:
        ends.setdefault(job.output.parent, set()).add(partial_end(job.output.name))
    for directory, names in ends.items():
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if end_of_partial(entry.name) in names:
                    remove(Path(entry.path))
