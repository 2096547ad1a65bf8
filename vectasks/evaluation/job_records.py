"""The jobs of a batch run, and the records of their results."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from vectasks.errors import InvalidArgument
from vectasks.evaluation.json_form import from_json, plain

logger: logging.Logger = logging.getLogger("vectasks.evaluation")


def _any_text(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) else check(value)


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("it must have at least one character")
    return text


def _any_path(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return Path(value) if isinstance(value, str) else check(value)


#: A string, which may hold surrogates, as names of files do that are not UTF-8: pydantic's own
#: refuses them.
Text: TypeAlias = Annotated[str, WrapValidator(_any_text)]

#: The same of a path.
AnyPath: TypeAlias = Annotated[Path, WrapValidator(_any_path)]

#: What is known about where something comes from; anything that JSON can hold.
Provenance: TypeAlias = Annotated[dict[Text, Any], BeforeValidator(plain)]


class RunStatus(str, Enum):
    """The status of a job that ended."""

    success = "success"  # the worker returned, and its output is there
    skipped = "skipped"  # it was done already
    failed = "failed"  # the worker raised, died, or left no output; it is run again next time


class BatchJob(BaseModel):
    """One piece of work: an input to read, an output to make.

    Further fields (``robot="arm"``) are kept and are attributes of the job.

    Args:
        id: what the job is known by; no two jobs of a run share it.
        input: what the worker reads; also accepted as ``motion``.
        output: what the worker makes: a file or a directory.
        name: for people (``id`` if not given).
        config_path: a configuration that the worker reads.
        provenance: where it comes from; goes into the job's record.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="allow",
        frozen=True,
        populate_by_name=True,
        coerce_numbers_to_str=True,
        ser_json_inf_nan="constants",
    )

    id: Annotated[Text, AfterValidator(_not_empty)]
    input: AnyPath = Field(validation_alias=AliasChoices("input", "motion"))
    output: AnyPath
    name: Text = ""
    config_path: AnyPath | None = None
    provenance: Provenance = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("name"):
            data = {**data, "name": data.get("id", "")}
        return data

    @property
    def motion(self) -> Path:
        """Another name of ``input``."""
        return self.input


def read_jobs(path: str | os.PathLike[str]) -> list[BatchJob]:
    """Read the jobs of a file: JSON Lines, one object per job.

    Raises:
        InvalidArgument: a line is no job, or there is none.
        OSError: the file cannot be read.
    """
    jobs = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            jobs.append(BatchJob.model_validate(from_json(line)))
        except ValueError as error:
            raise InvalidArgument(f"{path}, line {number}: {told(error)}") from error
    if not jobs:
        raise InvalidArgument(
            f"{path}: there is no job in it; it must have one JSON object a line."
        )
    return jobs


def told(error: ValueError) -> str:
    """Describe in a line what is wrong with a text that was read as a model."""
    if not isinstance(error, ValidationError):
        return f"Invalid JSON: {error}"
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


class BatchRunRecord(BaseModel):
    """The result of one job.

    Attributes:
        message: why it was skipped or how it failed.
        error_type: the name of the exception's class, where it failed.
        traceback: where it was raised, where that is known.
        provenance: the job's own, and what the worker returned.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, populate_by_name=True, ser_json_inf_nan="constants"
    )

    job_id: Text
    input: AnyPath = Field(validation_alias=AliasChoices("input", "motion"))
    output: AnyPath
    status: RunStatus
    started_at: datetime
    finished_at: datetime
    message: Text = ""
    error_type: Text | None = None
    provenance: Provenance = Field(default_factory=dict)
    traceback: Text = ""

    @property
    def motion(self) -> Path:
        """Another name of ``input``."""
        return self.input

    @property
    def duration_s(self) -> float:
        """The job's duration; next to nothing if it was skipped."""
        return (self.finished_at - self.started_at).total_seconds()


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(timezone.utc)
