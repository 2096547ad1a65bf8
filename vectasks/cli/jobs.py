"""``vectasks jobs WORKDIR``: the jobs of experiments, as their folders tell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vectasks._util.extras import require
from vectasks.cli import options
from vectasks.cli.common import CommandError
from vectasks.cli.options import PATH, examples

if TYPE_CHECKING:
    from vectasks.experiment.records import Record

_EPILOG = examples(
    "vectasks jobs runs",
    "vectasks jobs runs --failed",
    note='A job that "runs" although its process is gone is shown as failed.',
)


@click.command("jobs", epilog=_EPILOG, short_help="List the jobs of experiments.")
@click.argument("workdir", type=PATH, metavar="WORKDIR")
@click.option("--failed", is_flag=True, help="Only those that failed.")
@click.option(
    "--log", metavar="JOB", help="What a job printed: its identifier, or how that begins."
)
@click.option("--clean", is_flag=True, help="Remove the folders of failed and cancelled jobs.")
def command(workdir: Path, failed: bool, log: str | None, clean: bool) -> int:
    """List the jobs of the experiments that have this workdir, newest last.

    WORKDIR is the folder that was given to experiment().
    """
    options.refuse_together(failed=failed, log=log, clean=clean)
    from vectasks.experiment import JobState, records, view

    console = require("rich.console", None, "jobs").Console()
    found = records.find_records(workdir.absolute())
    if log is not None:
        _show_log(_choose(found, log))
        return 0
    if clean:
        found = records.clean(found)
        console.print(f"removed {len(found)} {'job' if len(found) == 1 else 'jobs'}")
    elif failed:
        found = [record for record in found if record.state is JobState.FAILED]
    if found:
        console.print(view.table(found))
    return 0


def _choose(found: Sequence[Record], name: str) -> Record:
    """The one job whose identifier, or type and identifier, begins like this."""
    chosen = [
        record
        for record in found
        if f"{record.job.type}/{record.job.identifier}".startswith(name)
        or record.job.identifier.startswith(name)
    ]
    if len(chosen) == 1:
        return chosen[0]
    several = ", ".join(f"{record.job.type}/{record.job.identifier}" for record in chosen)
    raise CommandError(f"--log {name}: {several or 'there is no such job'}")


def _show_log(record: Record) -> None:
    for path in (record.job.stdout, record.job.stderr):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if text:
            sys.stdout.write(f"== {path}\n{text}" + ("" if text.endswith("\n") else "\n"))
    if record.remark:
        sys.stdout.write(f"== {record.state}: {record.remark}\n")
