"""Files that are there whole or not at all, and locks that keep others off."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vectasks._util.extras import require

_MOST_NAME_BYTES = 255  # of usual file systems
_DIGEST_CHARS = 16
_PARTIAL_PREFIX_BYTES = len(".part-01234567-")
_PARTIAL_NAME = re.compile(r"\.part-[0-9a-f]{8}-(?P<end>.*)", re.DOTALL)
_REST_OF_CHARACTER = bytes(range(0x80, 0xC0))  # in UTF-8


def shortened(name: str, num_bytes: int) -> str:
    """Return a file's name, so shortened that a prefix of ``num_bytes`` has room before it.

    The end of the name stays, and with it the suffix (unless that alone is too long); for what is
    cut off stands a digest of the whole name.

    Raises:
        UnicodeEncodeError: no file can have this name.
    """
    data = os.fsencode(name)
    if num_bytes + len(data) <= _MOST_NAME_BYTES:
        return name
    digest = hashlib.sha256(data).hexdigest()[:_DIGEST_CHARS]
    end = data[num_bytes + _DIGEST_CHARS + 1 - _MOST_NAME_BYTES :]
    return f"{digest}-{os.fsdecode(end.lstrip(_REST_OF_CHARACTER))}"


def partial_path(path: Path) -> Path:
    """Return a new name beside ``path``, with the same suffix, to write to until all is there.

    Raises:
        UnicodeEncodeError: no file can have the name of ``path``.
    """
    return path.with_name(f".part-{secrets.token_hex(4)}-{partial_end(path.name)}")


def partial_end(name: str) -> str:
    """Return how the partial names of a file end: with its name, or what of it has room."""
    return shortened(name, _PARTIAL_PREFIX_BYTES)


def end_of_partial(name: str) -> str | None:
    """Return the :func:`partial_end` that a name was made with; None if it is no partial name."""
    match = _PARTIAL_NAME.fullmatch(name)
    return None if match is None else match["end"]


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` only if the body succeeds."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone already, or what failed is worth more
            partial.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, which is on the disk before the old one is gone."""
    with whole_or_nothing(path) as partial, partial.open("xb") as file:
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
