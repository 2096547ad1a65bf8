"""``vectasks jobs WORKDIR``: the jobs of experiments, as their folders tell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vectasks._util.extras import require
from vectasks.cli.common import CommandError

if TYPE_CHECKING:
    from vectasks.experiment.records import Record

_EPILOG = """\
A job that "runs" although its process is gone is shown as failed.
"""


def register(commands: Any) -> None:
    """Add ``jobs`` to the command line's commands."""
    parser = commands.add_parser(
        "jobs",
        help="list the jobs of experiments",
        description="List the jobs of the experiments that have this workdir, newest last.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="as given to experiment()")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--failed", action="store_true", help="only those that failed")
    what.add_argument(
        "--log", metavar="JOB", help="what a job printed: its identifier, or how that begins"
    )
    what.add_argument(
        "--clean", action="store_true", help="remove the folders of failed and cancelled jobs"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show a log, or clean up."""
    from vectasks.experiment import JobState, records, view

    console = require("rich.console", None, "jobs").Console()
    found = records.find_records(args.workdir.absolute())
    if args.log is not None:
        _show_log(_choose(found, args.log))
        return 0
    if args.clean:
        found = records.clean(found)
        console.print(f"removed {len(found)} {'job' if len(found) == 1 else 'jobs'}")
    elif args.failed:
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
