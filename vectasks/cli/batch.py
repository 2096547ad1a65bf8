"""``vectasks batch JOBS --worker MODULE:FUNCTION``: many jobs, each once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vectasks.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    at_least,
    load_callable,
    see_current_directory,
)
from vectasks.cli.progress import failures_table, job_bar

_DESCRIPTION = """\
Run a list of jobs in worker processes. A job whose output is there is skipped, one that fails is
written down and the others go on. Ctrl-C ends it; the same command then does the rest.

JOBS has one JSON object a line: {"id": "a", "input": "in/a.npz", "output": "out/a.npz"}, and
whatever else the worker wants to know. FUNCTION is called with each job: it reads job.input, writes
job.output, and may return a dict, which is kept in the manifest.
"""

_EPILOG = """\
exit code: 0: every job is done; 1: some failed; 2: bad use; 130: Ctrl-C
"""


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    batch = commands.add_parser(
        "batch",
        help="run many jobs, each once, and go on where it stopped",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    batch.add_argument("jobs", metavar="JOBS", type=Path, help="the jobs: JSON Lines")
    batch.add_argument("--worker", required=True, metavar="MODULE:FUNCTION", help="does a job")
    batch.add_argument(
        "--manifest",
        type=Path,
        default=Path("run.json"),
        help="what became of them (default: run.json)",
    )
    batch.add_argument(
        "--max-workers", type=at_least(1), default=1, metavar="N", help="at a time (default: 1)"
    )
    batch.add_argument("--force", action="store_true", help="also run what is done")
    batch.add_argument(
        "--backend",
        choices=["process", "inline", "ray"],
        default="process",
        help="where: in worker processes (default), in this one, or in Ray actors",
    )
    batch.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the jobs, tell what failed, and return the exit code."""
    see_current_directory()
    from vectasks.evaluation import BatchManifest, BatchProgress, BatchRunner, read_jobs

    jobs = read_jobs(args.jobs)
    worker = load_callable(args.worker, "MODULE:FUNCTION", "--worker")
    with job_bar(args.jobs.name) as bar:

        def show(progress: BatchProgress) -> None:
            bar.show(
                total=progress.total,
                done=progress.done,
                skipped=progress.skipped,
                failed=progress.failed,
            )

        try:
            manifest = BatchRunner(args.backend, on_progress=show).run(
                jobs,
                worker,
                manifest_path=args.manifest,
                max_workers=args.max_workers,
                force=args.force,
            )
        except KeyboardInterrupt:
            bar.end()
            left = len(jobs) - len(BatchManifest.load(args.manifest).records)
            sys.stderr.write(
                f"vectasks: interrupted; {left} of {len(jobs)} jobs are left, which the same "
                "command does\n"
            )
            return EXIT_INTERRUPTED
    sys.stdout.write(
        f"{args.manifest}: {manifest.success_count} done, {manifest.skipped_count} skipped, "
        f"{manifest.failed_count} failed\n"
    )
    failed = [
        (record.job_id, record.error_type or "", record.message)
        for record in manifest.records
        if record.status == "failed"
    ]
    failures_table(failed)
    return EXIT_FAILED if failed else 0
