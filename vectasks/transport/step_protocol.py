"""How parent and workers tell each other what is new in the step buffer.

The halves are ``transport/shared_memory.py`` and ``workers/step_loop.py``.

::

    parent                                        worker w, with sampler i
    actions, asked[i] = ticket   ──> memory
    step_bell[w] += 1            ──> memory ──poll──> step where asked[i] != answered[i]
    ring the channel if asleep[w]                   observation, reward, flags ──> memory
                                                    what is no array: out-of-band data ──> memory
                                                    what is large, or not plain ──> channel
    <──poll── memory <──────────────────────────────  answered[i] = ticket
                                                    ring the channel if parent_asleep

Both sides poll counters in shared memory first, giving the core up between polls, and after a while
block on the channel: waking a blocked process costs a hundred times what a poll costs, but polling
forever starves whoever shares the core. A wake-up cannot be lost: each side writes its own word (a
counter, or that it is asleep), passes a full memory barrier, and only then reads the other's. The
barrier is taking a lock that is free, an atomic operation, on x86, and elsewhere ``sched_yield``: a
trip through the kernel's scheduler is one. Should it ever not be, blocking waits are short and look
again.

A *ticket* says which step it is, which row it is written to and in which form::

    ticket = step number << 25 | row << 3 | (4 if how long it takes is to be recorded)
             | (2 if samplers are announced one by one) | (1 if for a StepBatch)
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from vectasks.protocol import Failure, StepOutcome
from vectasks.task import RLStepResult
from vectasks.transport.cpu import yield_core
from vectasks.transport.layout import NUM_ROWS, Layout
from vectasks.transport.rollout_rows import RolloutRowSets, RowsPlace
from vectasks.transport.step_buffer import OutOfBand, RowWriter, StepBuffer

AS_BATCH, ONE_BY_ONE, TIMED = 1, 2, 4
ROW_SHIFT, ROW_BITS = 3, 22

_IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
# x86 keeps stores in order; elsewhere a barrier must stand between the data and what announces it.
keep_order: Callable[[], None] = (lambda: None) if _IS_X86 else yield_core


class Fence:
    """Calling it is a full memory barrier. One thread at a time may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Pass it."""
        if _IS_X86:
            with self._lock:
                pass
        else:
            yield_core()


def words(array: NDArray[Any]) -> Any:
    """The array as a memoryview, whose items Python reads and writes three times as fast."""
    return memoryview(cast("Any", array))


def row_of(ticket: int) -> int:
    """The row of the step buffer that a ticket's step is written to."""
    return (ticket >> ROW_SHIFT) & ((1 << ROW_BITS) - 1)


def is_batch(ticket: int) -> bool:
    """Whether a ticket's step is for a StepBatch."""
    return bool(ticket & AS_BATCH)


class Attach(NamedTuple):
    """Tells a worker to map the step buffer: its layout and what it will find there."""

    layout: Layout
    worker: int
    sampler_ids: tuple[int, ...]
    strict: bool
    row_sets: tuple[RowsPlace, ...]
    step_bell: int  # the bells' values when this was sent: what they count since is new
    message_bell: int


class Steps(NamedTuple):
    """Steps whose actions have no place in the step buffer."""

    ticket: int
    actions: dict[int, Any]


class StepsOutOfBand(NamedTuple):
    """What of some steps has no place in the step buffer; sent before they are announced."""

    extras: list[OutOfBand]


Outcome = RLStepResult | StepOutcome | Failure


class RowWriters:
    """The writers of every row and form, for some samplers."""

    def __init__(
        self,
        step_buffer: StepBuffer,
        sampler_ids: Sequence[int],
        strict: bool,
        row_sets: RolloutRowSets,
    ) -> None:
        self._row_sets = row_sets
        self.writers: list[RowWriter] = [
            RowWriter(step_buffer, sampler_ids, row, as_batch, strict)
            for row in range(NUM_ROWS)
            for as_batch in (False, True)
        ]

    def at(self, ticket: int) -> RowWriter:
        """The writer for a ticket's step."""
        row = row_of(ticket)
        if row < NUM_ROWS:
            return self.writers[row * 2 + (ticket & AS_BATCH)]
        rollout_rows, index = self._row_sets.at(row)
        return rollout_rows.writer_at(index)
