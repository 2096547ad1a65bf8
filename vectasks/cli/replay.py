"""The arguments of ``vectasks replay``; what it does is imported when it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Make the sampler of a recording anew, in this process, and ask it what it was asked then: to the
step that failed, and into the debugger there. FILE is what error.save(), recording.save() or
recordings.save() wrote.

Replaying a file executes the code in it: replay only files that you trust. --info executes nothing.
"""

_EPILOG = """\
exit code: 0: it went as recorded; 1: it did not; 2: FILE cannot be replayed
"""


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    replay = commands.add_parser(
        "replay",
        help="have a recorded episode or failure again, under the debugger if wanted",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    replay.add_argument("file", metavar="FILE", type=Path, help="the recording")
    replay.add_argument(
        "--sampler", type=int, metavar="ID", help="only this one of several (default: in turn)"
    )
    replay.add_argument(
        "--pdb",
        action="store_true",
        help="stop in the debugger: where it raises or, if nothing was raised then (a worker that "
        "died), in the last step",
    )
    replay.add_argument(
        "--video", type=Path, metavar="OUT", help="film the last episode: .mp4 or .gif"
    )
    replay.add_argument("--info", action="store_true", help="say what is in FILE, and do no more")
    replay.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from vectasks.replay.debugger import run

    return run(args)
