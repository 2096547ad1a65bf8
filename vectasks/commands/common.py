"""What subcommands share."""

from __future__ import annotations

import sys
from pathlib import Path


class CommandError(Exception):
    """Something the user can put right; its message is the line that they see."""


def see_current_directory() -> None:
    """Let the modules that a user names be found here, as an installed command does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
