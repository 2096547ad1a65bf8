"""The journal of a manifest, which survives a kill at any byte, and the log of a run on both.

::

    run.json           the last run, replaced as a whole when a run begins and when it ends
    run.json.journal   everything that ever happened to it, one line each, only ever appended to
    run.json.lock      held by the run that writes them

A line is whole if its newline is there. What a kill leaves behind the last newline is not read, and
is cut off before the next line is written. The journal alone tells all that the manifest tells, so
the manifest is rebuilt from it if its file is behind or damaged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vectasks.errors import ManifestBusy, ManifestError
from vectasks.evaluation.manifest import (
    SCHEMA_VERSION,
    BatchManifest,
    BatchRunRecord,
    logger,
    now,
    read_snapshot,
)
from vectasks.extras import require
from vectasks.files import replace_file


class RunHeader(BaseModel):
    """What a run is about; a line of the journal when it begins."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    created_at: datetime
    started_at: datetime
    input_dir: Path | None = None
    output_dir: Path | None = None
    pattern: str = ""
    total: int
    job_ids: tuple[str, ...]


class _Line(BaseModel):
    """One line: the beginning of a run, or what became of a job."""

    run: RunHeader | None = None
    record: BatchRunRecord | None = None

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"


@dataclass(frozen=True)
class History:
    """All that is known of a manifest.

    Attributes:
        header: the last run's.
        records: the last record of every job that any run had.
        is_repaired: the manifest's own file is damaged, and the journal stands in for it.
    """

    header: RunHeader
    records: Mapping[str, BatchRunRecord]
    is_repaired: bool = False

    @classmethod
    def read(cls, manifest_path: Path) -> History | None:
        """What the manifest and its journal tell; None if there is neither.

        Raises:
            ManifestError: the journal is damaged, or the manifest is and has no journal.
        """
        header, records = None, {}
        snapshot, damage = None, None
        try:
            snapshot = read_snapshot(manifest_path)
        except ManifestError as error:
            damage = error
        if snapshot is not None:
            header, records = _header_of(snapshot), snapshot.records_by_id()
        for line in _read_lines(journal_path(manifest_path)):
            if line.run is not None:
                header = line.run
            if line.record is not None:
                records[line.record.job_id] = line.record
        if header is None:
            if damage is not None:
                raise ManifestError(
                    f"{damage} Its journal, {journal_path(manifest_path).name}, tells nothing "
                    "either. Restore it, or move it away to begin anew."
                ) from damage
            return None
        if damage is not None:
            logger.warning("%s It is rebuilt from its journal.", damage)
        return cls(header, records, is_repaired=damage is not None)

    def manifest(self) -> BatchManifest:
        """The last run as a manifest."""
        return make_manifest(self.header, self.records)


def make_manifest(header: RunHeader, records: Mapping[str, BatchRunRecord]) -> BatchManifest:
    """A manifest of the run's jobs that have a record, in the run's order."""
    mine = [records[job_id] for job_id in header.job_ids if job_id in records]
    manifest = BatchManifest.from_records(
        records=mine,
        total=header.total,
        created_at=header.created_at,
        input_dir=header.input_dir,
        output_dir=header.output_dir,
        pattern=header.pattern,
    )
    # When something last happened, so that reading it twice gives the same.
    updated_at = max((record.finished_at for record in mine), default=header.started_at)
    return manifest.model_copy(update={"updated_at": max(updated_at, header.started_at)})


def journal_path(manifest_path: Path) -> Path:
    """Where the journal of a manifest is."""
    return manifest_path.with_name(f"{manifest_path.name}.journal")


def _header_of(snapshot: BatchManifest) -> RunHeader:
    return RunHeader(
        created_at=snapshot.created_at,
        started_at=snapshot.updated_at,
        input_dir=snapshot.input_dir,
        output_dir=snapshot.output_dir,
        pattern=snapshot.pattern,
        total=snapshot.total,
        job_ids=tuple(record.job_id for record in snapshot.records),
    )


def _read_lines(path: Path) -> Iterator[_Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    *whole, _torn = data.split(b"\n")
    for number, text in enumerate(whole, start=1):
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            raise ManifestError(
                f"{path}, line {number}: it is damaged ({error.errors()[0]['msg']}). Take the line "
                "out, or move the journal away: the manifest is then what its own file tells."
            ) from error
        if line.run is not None and line.run.schema_version > SCHEMA_VERSION:
            raise ManifestError(
                f"{path}, line {number}: it has schema_version {line.run.schema_version}, and this "
                f"vectasks knows {SCHEMA_VERSION} at most: use a newer one."
            )
        yield line


class RunLog:
    """Writes down what happens in a run; the manifest's file is brought up to date at the end.

    Args:
        manifest_path: the manifest; its directory is made if needed.
        job_ids: of the run's jobs, in their order.
        input_dir, output_dir, pattern: see :class:`BatchManifest`.

    Attributes:
        history: the last record of every job from earlier runs.

    Raises:
        ManifestBusy: another run is writing to this manifest.
        ManifestError: what is there is damaged and cannot be rebuilt; it was not touched.
    """

    def __init__(
        self,
        manifest_path: str | os.PathLike[str],
        job_ids: Sequence[str],
        *,
        input_dir: str | os.PathLike[str] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        pattern: str = "",
    ) -> None:
        self._path = Path(manifest_path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = -1
        self._lock = _acquire_lock(self._path)
        try:
            earlier = History.read(self._path)
            started_at = now()
            self._header = RunHeader(
                created_at=started_at if earlier is None else earlier.header.created_at,
                started_at=started_at,
                input_dir=None if input_dir is None else Path(input_dir),
                output_dir=None if output_dir is None else Path(output_dir),
                pattern=pattern,
                total=len(job_ids),
                job_ids=tuple(job_ids),
            )
            self.history: Mapping[str, BatchRunRecord] = {} if earlier is None else earlier.records
            self._records = dict(self.history)
            self._begin(earlier)
        except BaseException:
            self._release()
            raise

    def _begin(self, earlier: History | None) -> None:
        journal = journal_path(self._path)
        if earlier is not None and earlier.is_repaired:
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
        if not journal.exists() and earlier is not None:
            replace_file(journal, b"".join(_lines(earlier.header, earlier.records.values())))
        self._fd = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        data = journal.read_bytes()
        os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        self._append(_Line(run=self._header).to_bytes())
        self.manifest().save_json(self._path)

    def add(self, record: BatchRunRecord) -> None:
        """Write down what became of a job.

        Raises:
            OSError: the disk is full.
        """
        self._append(_Line(record=record).to_bytes())
        self._records[record.job_id] = record

    def _append(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def manifest(self) -> BatchManifest:
        """The run as far as it has come."""
        return make_manifest(self._header, self._records)

    def close(self) -> None:
        """Bring the manifest's file up to date, and let others write to it."""
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            self.manifest().save_json(self._path)
        finally:
            self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lines(header: RunHeader, records: Iterable[BatchRunRecord]) -> Iterator[bytes]:
    yield _Line(run=header).to_bytes()
    for record in records:
        yield _Line(record=record).to_bytes()


def _acquire_lock(manifest_path: Path) -> contextlib.ExitStack:
    """The manifest's lock, which is given back when this is closed, or when the process ends."""
    filelock = require("filelock", "evaluation", "locking a manifest")
    lock = filelock.FileLock(manifest_path.with_name(f"{manifest_path.name}.lock"))
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(lock.acquire(timeout=0))
    except filelock.Timeout:
        raise ManifestBusy(
            f"another run is writing to {manifest_path}: wait for its end, or give this run "
            "another manifest_path. Nothing was run."
        ) from None
    return stack
