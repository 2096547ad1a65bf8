"""The run log: appends to its file, and replaces the manifest when the run ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vectasks._util.files import replace_file, try_lock
from vectasks.errors import ManifestBusy
from vectasks.evaluation.job_records import BatchRunRecord, now
from vectasks.evaluation.manifest import (
    BatchManifest,
    History,
    Line,
    RunHeader,
    run_log_path,
)


class RunLog:
    """Logs what happens in a run, and updates the manifest's file at the end.

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
        with contextlib.ExitStack() as exits:
            lock = try_lock(_lock_path(self._path), "evaluation", "locking a manifest")
            if not exits.enter_context(lock):
                raise ManifestBusy(
                    f"another run is writing to {self._path}: wait for its end, or give this run "
                    "another manifest_path. Nothing was run."
                )
            earlier = History.read(self._path)
            started_at = now()
            header = RunHeader(
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
            self._run = History(header, self._records)
            log_path = self._restored_log(earlier)
            self._file = exits.enter_context(log_path.open("ab", buffering=0))
            self._file.truncate(log_path.read_bytes().rfind(b"\n") + 1)
            self._append(Line(run=header))
            self.manifest().save_json(self._path)
            self._exits = exits.pop_all()

    def _restored_log(self, earlier: History | None) -> Path:
        """Return the run log's path, after whatever only the manifest knew was written there."""
        log_path = run_log_path(self._path)
        if earlier is not None and earlier.is_repaired:
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
        if not log_path.exists() and earlier is not None:
            lines = [Line(run=earlier.header)]
            lines += [Line(record=record) for record in earlier.records.values()]
            replace_file(log_path, b"".join(line.to_bytes() for line in lines))
        return log_path

    def owns(self, path: Path) -> bool:
        """Tell whether this log writes to ``path`` itself."""
        own = (self._path, run_log_path(self._path), _lock_path(self._path))
        return os.path.normpath(path.absolute()) in {os.path.normpath(p.absolute()) for p in own}

    def add(self, record: BatchRunRecord) -> None:
        """Append the record of a job.

        Raises:
            OSError: the disk is full.
        """
        self._append(Line(record=record))
        self._records[record.job_id] = record

    def _append(self, line: Line) -> None:
        data = line.to_bytes()
        while data:
            data = data[self._file.write(data) :]

    def manifest(self) -> BatchManifest:
        """Return the manifest of the run so far."""
        return self._run.manifest()

    def close(self) -> None:
        """Update the manifest's file, and let others write to it."""
        with self._exits:
            if not self._file.closed:
                os.fsync(self._file.fileno())
                self.manifest().save_json(self._path)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock_path(manifest_path: Path) -> Path:
    return manifest_path.with_name(f"{manifest_path.name}.lock")
