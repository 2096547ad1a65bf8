"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` only if the body succeeds."""
    partial_path = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield partial_path
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, which is on the disk before the old one is gone."""
    with whole_or_nothing(path) as partial_path, partial_path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
