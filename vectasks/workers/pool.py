"""The public name of :class:`vectasks.pool.pool.WorkerPool`."""

from vectasks.pool.pool import WorkerPool

__all__ = ["WorkerPool"]
