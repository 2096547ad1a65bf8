"""``vectasks batch JOBS --worker MODULE:FUNCTION``: many jobs, each once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from vectasks.cli import options
from vectasks.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    load_callable,
    see_current_directory,
)
from vectasks.cli.options import PATH, examples
from vectasks.cli.progress import failures_table, progress_bar

_EPILOG = examples(
    "vectasks batch jobs.jsonl --worker my_work:convert --max-workers 4",
    note="Exit code: 0: every job is done; 1: some failed; 2: bad use; 130: Ctrl-C",
)


@click.command(
    "batch", epilog=_EPILOG, short_help="Run many jobs, each once, and go on where it stopped."
)
@click.argument("jobs_path", metavar="JOBS", type=PATH)
@click.option(
    "--worker",
    "worker_name",
    required=True,
    metavar="MODULE:FUNCTION",
    help="The function that does a job.",
)
@options.manifest()
@options.whole_number("--max-workers", 1, "At a time.", default=1)
@click.option("--force", is_flag=True, help="Also run what is done.")
@click.option(
    "--backend",
    type=click.Choice(["process", "inline", "ray"]),
    default="process",
    help="Where: in worker processes, in this one, or in Ray actors.",
)
def command(
    jobs_path: Path,
    worker_name: str,
    manifest: Path,
    max_workers: int,
    force: bool,
    backend: Literal["process", "inline", "ray"],
) -> int:
    """Run a list of jobs in worker processes.

    A job whose output is there is skipped, one that fails is written down and the others go on.
    Ctrl-C ends it; the same command then does the rest.

    JOBS has one JSON object a line: {"id": "a", "input": "in/a.npz", "output": "out/a.npz"}, and
    whatever else the worker wants to know. FUNCTION is called with each job: it reads job.input,
    writes job.output, and may return a dict, which is kept in the manifest.
    """
    see_current_directory()
    from vectasks.evaluation import BatchManifest, BatchProgress, BatchRunner, read_jobs

    jobs = read_jobs(jobs_path)
    worker = load_callable(worker_name, "MODULE:FUNCTION", "--worker")
    try:
        with progress_bar(jobs_path.name) as bar:

            def show(progress: BatchProgress) -> None:
                bar.show_counts(
                    total=progress.total,
                    done=progress.done,
                    skipped=progress.skipped,
                    failed=progress.failed,
                )

            run = BatchRunner(backend, on_progress=show).run(
                jobs, worker, manifest_path=manifest, max_workers=max_workers, force=force
            )
    except KeyboardInterrupt:
        left = len(jobs) - len(BatchManifest.load(manifest).records)
        sys.stderr.write(
            f"vectasks: interrupted; {left} of {len(jobs)} jobs are left, which the same "
            "command does\n"
        )
        return EXIT_INTERRUPTED
    sys.stdout.write(
        f"{manifest}: {run.success_count} done, {run.skipped_count} skipped, "
        f"{run.failed_count} failed\n"
    )
    failed = [
        (record.job_id, record.error_type or "", record.message)
        for record in run.records
        if record.status == "failed"
    ]
    failures_table(failed)
    return EXIT_FAILED if failed else 0
