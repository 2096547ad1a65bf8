"""``vectasks report run.json -o report.html``: a run as one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vectasks.cli.common import CommandError


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    report = commands.add_parser(
        "report",
        help="make one HTML page of an evaluation or a batch run",
        description="Make one HTML page of a manifest: tables, plots and films are all in it.",
        allow_abbrev=False,
    )
    report.add_argument("manifest", metavar="MANIFEST", type=Path, help="run.json")
    report.add_argument("-o", "--out", required=True, type=Path, help="the page: report.html")
    report.add_argument(
        "--confidence", type=float, default=0.95, metavar="P", help="of intervals (default: 0.95)"
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    if not 0 < args.confidence < 1:
        raise CommandError(f"--confidence {args.confidence}: must lie between 0 and 1")
    from vectasks.evaluation import write_report

    write_report(args.manifest, args.out, confidence=args.confidence)
    sys.stdout.write(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB\n")
    return 0
