"""Read the manifest of a run, and its run log.

::

    run.json           the last run, replaced as a whole when a run begins and when it ends
    run.json.journal   the run log: all that ever happened to it, one line each, only appended to
    run.json.lock      held by the run that writes them

A line is whole if its newline is there; what a kill leaves behind the last newline is not read. The
run log alone holds all that the manifest holds, so the manifest is rebuilt from it if its file is
behind or damaged.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from vectasks._util.files import replace_file
from vectasks.errors import ManifestError
from vectasks.evaluation.job_records import (
    AnyPath,
    BatchRunRecord,
    RunStatus,
    Text,
    logger,
    now,
    told,
)
from vectasks.evaluation.json_form import from_json, to_json

SCHEMA_VERSION = 1
_COMMON = {"created_at", "input_dir", "output_dir", "pattern", "total"}  # of manifest and run log


class BatchManifest(BaseModel):
    """A whole run: one record per job, in the order in which the jobs were given.

    Attributes:
        created_at: when the first run on this manifest began; it survives reruns.
        updated_at: when it was written.
        input_dir, output_dir, pattern: where the jobs came from, as the caller told; nothing is
            looked up there.
        total: how many jobs there are. Of a run that was interrupted there are fewer records.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    schema_version: int = SCHEMA_VERSION
    created_at: datetime
    updated_at: datetime
    input_dir: AnyPath | None = None
    output_dir: AnyPath | None = None
    pattern: Text = ""
    total: int
    success_count: int
    skipped_count: int
    failed_count: int
    records: tuple[BatchRunRecord, ...]

    @classmethod
    def from_records(
        cls,
        *,
        records: Iterable[BatchRunRecord],
        total: int,
        created_at: datetime,
        input_dir: str | os.PathLike[str] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        pattern: str = "",
    ) -> BatchManifest:
        """Make a manifest of these records, and count them."""
        kept = tuple(records)
        counts = Counter(record.status for record in kept)
        return cls(
            created_at=created_at,
            updated_at=now(),
            input_dir=None if input_dir is None else Path(input_dir),
            output_dir=None if output_dir is None else Path(output_dir),
            pattern=pattern,
            total=total,
            success_count=counts[RunStatus.success],
            skipped_count=counts[RunStatus.skipped],
            failed_count=counts[RunStatus.failed],
            records=kept,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BatchManifest:
        """Load a manifest from its file and its run log, also after the run was killed.

        Raises:
            FileNotFoundError: there is neither.
            ManifestError: the file is damaged and there is no run log to rebuild it from, or the
                run log itself is damaged.
        """
        history = History.read(Path(path))
        if history is None:
            raise FileNotFoundError(f"there is no manifest {path}, and no run log beside it.")
        return history.manifest()

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest; the file is replaced whole or not at all."""
        replace_file(Path(path), to_json(self.model_dump(), indent=2) + b"\n")

    @property
    def duration_s(self) -> float:
        """The time from the first run's beginning to the last event, with pauses between runs."""
        return (self.updated_at - self.created_at).total_seconds()

    def records_by_id(self) -> dict[str, BatchRunRecord]:
        """Return the records by their jobs' ids."""
        return {record.job_id: record for record in self.records}


def read_snapshot(path: Path) -> BatchManifest | None:
    """Read the manifest's own file; return None if there is no file.

    Raises:
        ManifestError: it is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        manifest = BatchManifest.model_validate(from_json(data))
    except ValueError as error:
        raise ManifestError(f"{path} is no manifest of a batch run ({told(error)}).") from error
    _require_known(manifest.schema_version, f"{path} has")
    return manifest


def _require_known(version: int, what_has: str) -> None:
    if version > SCHEMA_VERSION:
        raise ManifestError(
            f"{what_has} schema_version {version}, and this vectasks knows {SCHEMA_VERSION} at "
            "most: use a newer one."
        )


class RunHeader(BaseModel):
    """The line of the run log that begins a run: its jobs and settings."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    created_at: datetime
    started_at: datetime
    input_dir: AnyPath | None = None
    output_dir: AnyPath | None = None
    pattern: Text = ""
    total: int
    job_ids: tuple[Text, ...]


class Line(BaseModel):
    """One line of the run log: the beginning of a run, or the record of a job."""

    run: RunHeader | None = None
    record: BatchRunRecord | None = None

    def to_bytes(self) -> bytes:
        """Return the line, with its newline."""
        return to_json(self.model_dump()) + b"\n"


@dataclass(frozen=True)
class History:
    """The whole content of a manifest and its run log.

    Attributes:
        header: the last run's.
        records: the last record of every job that any run had.
        is_repaired: the manifest's own file is damaged, and the run log stands in for it.
    """

    header: RunHeader
    records: Mapping[str, BatchRunRecord]
    is_repaired: bool = False

    @classmethod
    def read(cls, manifest_path: Path) -> History | None:
        """Read the manifest and its run log; return None if there is neither.

        Raises:
            ManifestError: the run log is damaged, or the manifest is and has no run log.
        """
        header, records, damage = None, {}, None
        try:
            if (snapshot := read_snapshot(manifest_path)) is not None:
                header, records = _header_of(snapshot), snapshot.records_by_id()
        except ManifestError as error:
            damage = error
        for line in _read_lines(run_log_path(manifest_path)):
            if line.run is not None:
                header = line.run
            if line.record is not None:
                records[line.record.job_id] = line.record
        if header is None:
            if damage is not None:
                raise ManifestError(
                    f"{damage} Its run log, {run_log_path(manifest_path).name}, tells nothing "
                    "either. Restore it, or move it away to start over."
                ) from damage
            return None
        if damage is not None:
            logger.warning("%s It is rebuilt from its run log.", damage)
        return cls(header, records, is_repaired=damage is not None)

    def manifest(self) -> BatchManifest:
        """Return the last run as a manifest: its jobs that have a record, in the run's order."""
        header, records = self.header, self.records
        mine = [records[job_id] for job_id in header.job_ids if job_id in records]
        about = header.model_dump(include=_COMMON)
        manifest = BatchManifest.from_records(records=mine, **about)
        # When something last happened, so that reading it twice gives the same.
        updated_at = max([header.started_at, *(record.finished_at for record in mine)])
        return manifest.model_copy(update={"updated_at": updated_at})


def run_log_path(manifest_path: Path) -> Path:
    """Return the path of a manifest's run log."""
    return manifest_path.with_name(f"{manifest_path.name}.journal")


def _header_of(snapshot: BatchManifest) -> RunHeader:
    return RunHeader(
        **snapshot.model_dump(include=_COMMON),
        started_at=snapshot.updated_at,
        job_ids=tuple(record.job_id for record in snapshot.records),
    )


def _read_lines(path: Path) -> Iterator[Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    *whole, _torn = data.split(b"\n")
    for number, text in enumerate(whole, start=1):
        try:
            line = Line.model_validate(from_json(text))
        except ValueError as error:
            raise ManifestError(
                f"{path}, line {number}: it is damaged ({told(error)}). Take the line "
                "out, or move the run log away: the manifest is then what its own file tells."
            ) from error
        if line.run is not None:
            _require_known(line.run.schema_version, f"{path}, line {number}: it has")
        yield line
