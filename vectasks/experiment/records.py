"""Describe jobs for people: write ``params.json``, and read the folders of a ``workdir``."""

from __future__ import annotations

import json
import os
import shutil
import socket
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from vectasks.errors import InvalidArgument
from vectasks.experiment.config import Config, Task, values_of
from vectasks.experiment.identifier import numpy_types, type_name
from vectasks.experiment.job import Job, JobState, Status

_MOST_ELEMENTS = 100


def described(task: Task, job: Job) -> dict[str, Any]:
    """Describe a job's parameters, tags and dependencies, as JSON's types."""
    return {
        "type": job.type,
        "identifier": job.identifier,
        "parameters": {name: _readable(value) for name, value in values_of(task).items()},
        "tags": {name: _readable(value) for name, value in job.tags.items()},
        "dependencies": [
            {"type": dependency.type, "identifier": dependency.identifier}
            for dependency in job.dependencies
        ],
    }


def _readable(value: Any) -> Any:
    if isinstance(value, Config):
        parameters = {name: _readable(item) for name, item in values_of(value).items()}
        made_by = {} if value.job is None else {"job": f"{value.job.type}/{value.job.identifier}"}
        return {"type": type_name(type(value)), **made_by, "parameters": parameters}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, numpy_types("generic")):
        has_a_type_of_its_own = value.dtype.kind == "M" or value.dtype.char in "mgG"
        return str(value) if has_a_type_of_its_own else _readable(value.item())
    if isinstance(value, numpy_types("ndarray")):
        is_small = value.size <= _MOST_ELEMENTS
        return (
            _readable(value.tolist()) if is_small else f"array {list(value.shape)} of {value.dtype}"
        )
    if isinstance(value, dict):
        return {str(key): _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_readable(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


class Record(NamedTuple):
    """A job as its folder describes it.

    Attributes:
        job: the job.
        status: what was written last.
        state: how far it is; one that "runs" though no process holds its lock has failed.
        remark: why it failed or was cancelled, or that its experiment has ended.
    """

    job: Job
    status: Status
    state: JobState
    remark: str


def find_records(workdir: Path) -> list[Record]:
    """Find the jobs in a ``workdir``, in the order in which they began.

    Raises:
        InvalidArgument: there is no such folder, or no experiment ever had it.
    """
    if not (workdir / "jobs").is_dir():
        raise InvalidArgument(f"{workdir} is no workdir of an experiment: it has no folder jobs.")
    folders = [path for path in (workdir / "jobs").glob("*/*") if path.is_dir()]
    records = [read_record(Job(workdir, path.parent.name, path.name)) for path in folders]
    return sorted(records, key=lambda record: (record.status.started_s or 0.0, record.job.path))


def read_record(job: Job) -> Record:
    """Read the record of a job from its folder."""
    params = job.path / "params.json"
    if params.exists():
        job.tags = json.loads(params.read_text(encoding="utf-8"))["tags"]
    status = job.status()
    state, remark = status.state, status.reason
    if state is JobState.RUNNING:
        if not job.is_locked():
            state, remark = JobState.FAILED, "its process ended without a word"
        elif status.host == socket.gethostname() and not _is_alive(status.parent_pid):
            remark = f"its experiment has ended, process {status.pid} goes on"
    return Record(job, status, state, remark)


def _is_alive(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def clean(records: list[Record]) -> list[Record]:
    """Remove the folders of jobs that failed or were cancelled; return these jobs."""
    removed = []
    for record in records:
        if record.state in (JobState.FAILED, JobState.CANCELLED):
            with record.job.lock() as is_ours:
                if is_ours:  # it may have been started again meanwhile
                    shutil.rmtree(record.job.path)
                    removed.append(record)
    return removed
