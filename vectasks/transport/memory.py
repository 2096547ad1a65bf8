"""Memory that several processes map: of the step buffer, the live stats, arrays computed on."""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing import reduction
from typing import Any


class SharedMemory:
    """Anonymous memory that child processes can map: it has no name, so none can be left behind.

    Linux gives it as a memory file; elsewhere it is a temporary file that is unlinked at once. The
    descriptor goes to children when they start, and the size is settled later.
    """

    def __init__(self, name: str = "vectasks") -> None:
        if hasattr(os, "memfd_create"):
            self.fd: int = os.memfd_create(name)
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())

    def resize(self, size_bytes: int) -> None:
        """Give it its size, all zero.

        Raises:
            OSError: there is not so much memory.
        """
        os.ftruncate(self.fd, size_bytes)

    def map(self, size_bytes: int = 0, offset: int = 0) -> mmap.mmap:
        """The memory (0: all of it) as this process sees it; it stays while arrays on it live."""
        return mmap.mmap(self.fd, size_bytes, offset=offset)

    def grow(self, size_bytes: int) -> int:
        """Add memory, all zero, at the end; the offset at which it can be mapped.

        Raises:
            OSError: there is not so much memory.
        """
        page = mmap.ALLOCATIONGRANULARITY
        offset = -(-os.fstat(self.fd).st_size // page) * page
        os.ftruncate(self.fd, offset + size_bytes)
        return offset

    def forget(self, size_bytes: int, offset: int) -> None:
        """Give memory back that nobody reads any more; its place stays empty."""
        if self.fd >= 0 and hasattr(mmap, "MADV_REMOVE"):
            with self.map(size_bytes, offset) as memory:
                memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Give the descriptor back; mapped memory stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __reduce__(self) -> Any:  # while a child is started by forkserver or spawn
        return _received, (reduction.DupFd(self.fd),)


def _received(handle: Any) -> SharedMemory:
    memory = SharedMemory.__new__(SharedMemory)
    memory.fd = handle.detach()
    return memory
