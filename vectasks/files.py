"""Files that are there whole or not at all, and locks that keep others off."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vectasks.extras import require


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` only if the body succeeds."""
    partial_path = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield partial_path
        partial_path.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone already, or what failed is worth more
            partial_path.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, which is on the disk before the old one is gone."""
    with whole_or_nothing(path) as partial_path, partial_path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def try_lock(path: Path, extra: str, what: str) -> Iterator[bool]:
    """Hold a file's lock; gives whether that was possible: not while anybody else holds it.

    Args:
        path: the file that is locked.
        extra: the extra of vectasks that installs filelock.
        what: who needs it.

    Raises:
        MissingExtra: filelock is not installed.
    """
    filelock = require("filelock", extra, what)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
