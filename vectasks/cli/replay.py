"""The arguments of ``vectasks replay``; what it does is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

import click

from vectasks.cli.options import PATH, examples

_EPILOG = examples(
    "vectasks replay failure.vt --pdb",
    note="Exit code: 0: it went as recorded; 1: it did not; 2: FILE cannot be replayed",
)


@click.command(
    "replay",
    epilog=_EPILOG,
    short_help="Replay a recorded episode or failure, under the debugger if wanted.",
)
@click.argument("file", metavar="FILE", type=PATH)
@click.option(
    "--sampler", type=int, metavar="ID", show_default="in turn", help="Only this one of several."
)
@click.option(
    "--pdb",
    "use_pdb",
    is_flag=True,
    help="Stop in the debugger: where it raises or, if nothing was raised then (a worker that "
    "died), in the last step.",
)
@click.option("--video", type=PATH, metavar="OUT", help="Film the last episode: .mp4 or .gif.")
@click.option("--info", is_flag=True, help="Say what is in FILE, and do no more.")
def command(file: Path, sampler: int | None, use_pdb: bool, video: Path | None, info: bool) -> int:
    """Make the sampler of a recording again, in this process, and ask it what it was asked then.

    It goes to the step that failed, and into the debugger there. FILE is what error.save(),
    recording.save() or recordings.save() wrote.

    Replaying a file executes the code in it: replay only files that you trust. --info executes
    nothing.
    """
    from vectasks.replay import debugger

    if info:
        return debugger.describe(file)
    return debugger.run(file, sampler=sampler, use_pdb=use_pdb, video=video)
