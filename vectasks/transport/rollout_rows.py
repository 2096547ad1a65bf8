"""Rollout rows: rows beside the step buffer's own, which a rollout's steps are written into.

They lie in the memory behind the step buffer, or in private memory where nobody shares it. Rows are
numbered through: a ticket's row is one of the step buffer's own, or a rollout row. These live as
long as somebody holds them, and their memory as long as an array on it lives.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from vectasks.transport.layout import NUM_ROWS, Layout
from vectasks.transport.memory import SharedMemory
from vectasks.transport.step_buffer import RowWriter, StepBuffer


class RowsPlace(NamedTuple):
    """Where a block is: the numbers of its rows, and its offset in the shared memory."""

    first_row: int
    num_rows: int
    offset: int


class RowsMoved(NamedTuple):
    """Tells a worker which blocks there are now; it forgets all others."""

    places: tuple[RowsPlace, ...]


class RolloutRows:
    """Rows that hold what steps gave as a StepBatch does: cast to the space's dtypes.

    Args:
        place: where it is.
        layout: of the step buffer that it belongs to.
        memory: the mapped memory; None: private.
        sampler_ids: whose steps are written here, in this process.
        strict: as for ``RowWriter``.
    """

    def __init__(
        self,
        place: RowsPlace,
        layout: Layout,
        memory: Any,
        sampler_ids: Sequence[int],
        strict: bool,
    ) -> None:
        self.place = place
        self.step_buffer: StepBuffer = StepBuffer(layout, memory, place.num_rows)
        # One writer that moves: one for each of thousands of rows would outweigh the rows.
        self._writer = RowWriter(self.step_buffer, sampler_ids, 0, as_batch=True, strict=strict)
        self._writer_is_at = 0

    def has(self, row: int) -> bool:
        """Whether the row of this number is one of its own."""
        return self.place.first_row <= row < self.place.first_row + self.place.num_rows

    def writer_at(self, index: int) -> RowWriter:
        """The writer, at the block's row of this index (from 0)."""
        if index != self._writer_is_at:
            self._writer.move_to(index)
            self._writer_is_at = index
        return self._writer


class RolloutRowSets:
    """The blocks of one step buffer that somebody holds."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[RolloutRows] = weakref.WeakSet()
        #: The block of the steps that are out, held so that they can be read.
        self.in_use: RolloutRows | None = None

    def add(self, rollout_rows: RolloutRows) -> None:
        """One more."""
        self._all.add(rollout_rows)

    def places(self) -> tuple[RowsPlace, ...]:
        """Where they are, in order of their rows."""
        return tuple(sorted(rollout_rows.place for rollout_rows in self._all))

    def free_rows(self, num_rows: int) -> int:
        """The first of so many row numbers that no block has."""
        first = NUM_ROWS
        for place in self.places():
            if place.first_row - first >= num_rows:
                break
            first = place.first_row + place.num_rows
        return first

    def at(self, row: int) -> tuple[RolloutRows, int]:
        """The block that a row is in, and its index there."""
        if self.in_use is not None and self.in_use.has(row):  # nearly always
            return self.in_use, row - self.in_use.place.first_row
        for rollout_rows in self._all:
            if rollout_rows.has(row):
                return rollout_rows, row - rollout_rows.place.first_row
        raise LookupError(f"no block has row {row}")


def shared_rows_memory(memory: SharedMemory, size_bytes: int) -> tuple[Any, int]:
    """Shared memory for a block, mapped, and its offset; it is given back when it is unmapped.

    Raises:
        OSError: there is not so much memory.
    """
    offset = memory.grow(size_bytes)
    mapped = memory.map(size_bytes, offset)
    weakref.finalize(mapped, memory.forget, size_bytes, offset).atexit = False
    return mapped, offset
