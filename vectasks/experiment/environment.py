"""Describe what a job ran with: the interpreter, the packages, the git commit."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_GIT_TIMEOUT_S = 10.0


@functools.cache
def environment() -> dict[str, Any]:
    """Describe what this process runs with, as JSON's types; the result is cached."""
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    folder = Path.cwd() if main_file is None else Path(main_file).resolve().parent
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "command": sys.argv,
        "git": git_commit(folder),
        "packages": dict(sorted(packages.items(), key=lambda item: str(item[0]).lower())),
    }


def git_commit(folder: Path) -> dict[str, Any] | None:
    """Return the commit that is checked out, and whether files differ from it; None if none is."""
    try:
        top, commit = _git(folder, "rev-parse", "--show-toplevel", "HEAD").split("\n")
        changed = _git(folder, "status", "--porcelain").splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no repository, no commit
        return None
    return {"repository": top, "commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=_GIT_TIMEOUT_S,
    )
    return done.stdout.strip("\n")
