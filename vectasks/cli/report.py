"""``vectasks report run.json -o report.html``: a run as one page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vectasks.cli import options
from vectasks.cli.options import PATH, examples


@click.command(
    "report",
    epilog=examples("vectasks report run.json -o report.html"),
    short_help="Make one HTML page of an evaluation or a batch run.",
)
@click.argument("manifest", metavar="MANIFEST", type=PATH)
@options.out("-o", help="The page: report.html.")
@click.option("--confidence", type=float, default=0.95, metavar="P", help="Of intervals.")
def command(manifest: Path, out: Path, confidence: float) -> int:
    """Make one HTML page of a manifest: tables, plots and films are all in it.

    MANIFEST is the run.json that `vectasks eval` or `vectasks batch` wrote.
    """
    from vectasks.evaluation import write_report

    write_report(manifest, out, confidence=confidence)
    sys.stdout.write(f"{out}: {out.stat().st_size / 2**20:.1f} MiB\n")
    return 0
