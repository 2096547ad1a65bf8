"""The run log: appends to its file, and replaces the manifest when the run ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vectasks._util.files import replace_file, try_lock
from vectasks.errors import ManifestBusy
from vectasks.evaluation.job_records import BatchRunRecord, now
from vectasks.evaluation.manifest import (
    BatchManifest,
    History,
    Line,
    RunHeader,
    make_manifest,
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
        log_path = run_log_path(self._path)
        if earlier is not None and earlier.is_repaired:
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
        if not log_path.exists() and earlier is not None:
            replace_file(log_path, b"".join(_lines(earlier.header, earlier.records.values())))
        self._fd = os.open(log_path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        data = log_path.read_bytes()
        os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        self._append(Line(run=self._header).to_bytes())
        self.manifest().save_json(self._path)

    def owns(self, path: Path) -> bool:
        """Tell whether this log writes to ``path`` itself."""
        copy_arrays = (self._path, run_log_path(self._path), _lock_path(self._path))
        return os.path.normpath(path.absolute()) in {
            os.path.normpath(p.absolute()) for p in copy_arrays
        }

    def add(self, record: BatchRunRecord) -> None:
        """Append the record of a job.

        Raises:
            OSError: the disk is full.
        """
        self._append(Line(record=record).to_bytes())
        self._records[record.job_id] = record

    def _append(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def manifest(self) -> BatchManifest:
        """Return the manifest of the run so far."""
        return make_manifest(self._header, self._records)

    def close(self) -> None:
        """Update the manifest's file, and let others write to it."""
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
    yield Line(run=header).to_bytes()
    for record in records:
        yield Line(record=record).to_bytes()


def _lock_path(manifest_path: Path) -> Path:
    return manifest_path.with_name(f"{manifest_path.name}.lock")


def _acquire_lock(manifest_path: Path) -> contextlib.ExitStack:
    """Acquire the manifest's lock; it is released when this is closed, or when the process ends."""
    path = _lock_path(manifest_path)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(try_lock(path, "evaluation", "locking a manifest")):
            raise ManifestBusy(
                f"another run is writing to {manifest_path}: wait for its end, or give this run "
                "another manifest_path. Nothing was run."
            )
        return stack.pop_all()
