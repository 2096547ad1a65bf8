"""Which rows of the step buffer may be written: those whose arrays nobody holds.

Row 0 is the *working row*: what is read from it is copied, and it is written again and again, which
keeps large batches in the cache. The others are handed out whole, as the arrays of a ``StepBatch``,
without a copy. Such a row is written again only when the last array on it is gone, which CPython's
reference counts tell at once; where all rows are held, the working row serves, and is copied. It
serves for small batches, too: a copy takes less time than to lend a row.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.transport.layout import NUM_ROWS
from vectasks.transport.step_buffer import StepBuffer

WORKING_ROW = 0
_VIEWS_LAST_STEPS = 2  # so long do views stay valid that the user asked for as such

# Only CPython with its global lock counts exactly.
_COUNTS = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()
_probe = [np.empty(0)]
_UNHELD = sys.getrefcount(_probe[0]) if _COUNTS else 0


class Rows:
    """The rows of one step buffer that are handed out.

    Args:
        step_buffer: whose.
        shared: other processes map the step buffer too.
    """

    def __init__(self, step_buffer: StepBuffer, shared: bool) -> None:
        # Only what is handed out refers to these arrays: every view of a view does so as well.
        self._arrays = [step_buffer.row(number) for number in range(NUM_ROWS)]
        self._lent_as_views = [-_VIEWS_LAST_STEPS] * NUM_ROWS  # the number of the step
        self._free = list(range(1, NUM_ROWS)) if _COUNTS else []
        if shared:
            _SHARED.add(self)

    def next_free(self, step_number: int) -> int:
        """A row for the step of this number; the working row where all others are held."""
        for number in self._free:
            if not self._is_held(number) or (
                0 <= self._lent_as_views[number] <= step_number - _VIEWS_LAST_STEPS
            ):
                self._lent_as_views[number] = -_VIEWS_LAST_STEPS
                return number
        return WORKING_ROW

    def lend(self, number: int, step_number: int, as_views: bool) -> list[NDArray[Any] | None]:
        """The arrays of a row, to be held by the caller as long as it likes.

        Args:
            number: of the row.
            step_number: of the step that wrote it.
            as_views: the caller knows that they change after the second following step.
        """
        if as_views:
            self._lent_as_views[number] = step_number
        return [None if array is None else array.view() for array in self._arrays[number]]

    def _is_held(self, number: int) -> bool:
        arrays: list[Any] = self._arrays[number]
        for leaf in range(len(arrays)):
            if arrays[leaf] is not None and sys.getrefcount(arrays[leaf]) != _UNHELD:
                return True
        return False

    def retire_held(self) -> None:
        """Never write again what is held now: a forked child may go on to read it, uncounted."""
        self._free = [number for number in self._free if not self._is_held(number)]


_SHARED: weakref.WeakSet[Rows] = weakref.WeakSet()


def _retire_rows_before_fork() -> None:
    for rows in list(_SHARED):
        rows.retire_held()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_retire_rows_before_fork)
