"""Step the hosts of one worker, and write at once what comes of it into rows of the step buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vectasks.errors import LayoutError
from vectasks.host.task_host import HostGroup
from vectasks.protocol import Failure
from vectasks.spaces import copy_arrays
from vectasks.transport.compiled import core
from vectasks.transport.step_buffer import DONE, OutOfBand, RowWriter
from vectasks.transport.step_protocol import Outcome

_NO_OTHERS = OutOfBand(0)[2:]  # nothing but an info


class RowSteps:
    """Steps hosts, one after another, and writes at once what comes of it into rows.

    Args:
        group: the hosts.
        keep: is given what has no place in the rows, before the next step; where Ctrl-C or an exit
            passes through, also that the steps which were not made failed.
        owned: copy that before, because tasks of this process may write into it.
    """

    def __init__(
        self, group: HostGroup, keep: Callable[[OutOfBand], object], *, owned: bool = False
    ) -> None:
        self._group = group
        self._keep = keep
        self._owned = owned

    @property
    def hosts(self) -> dict[int, Any]:
        """The hosts, by sampler id."""
        return self._group.hosts

    def run(
        self, writer: RowWriter, ids: Sequence[int], actions: Iterable[Any], *, timed: bool = False
    ) -> None:
        """Step hosts.

        Args:
            writer: of the row.
            ids: whose.
            actions: one for each.
            timed: record how long each takes.
        """
        if writer.compiled is not None and not timed:
            core.run_steps(
                self._group.hosts,
                writer.compiled,
                writer.row,
                writer.as_batch,
                list(ids),
                list(actions),
                writer.places,
                functools.partial(self.write_unusual, writer),
                self.keep_info,
            )
            return
        step = self._group.timed_step if timed else self._group.step
        num_done = 0
        try:
            for i, action in zip(ids, actions, strict=True):
                self._write(writer, i, step(i, action, writer.places[i]))
                num_done += 1
        except BaseException as error:
            for cut in ids[num_done:]:
                self._keep(writer.fail(cut, Failure.of(error)))
            raise
        finally:
            if timed:
                self._group.end_steps()

    def write_unusual(
        self,
        writer: RowWriter,
        sampler_id: int,
        action: Any,
        result: Any,
        error: BaseException | None,
    ) -> None:
        """Write what the compiled core leaves to Python.

        Args:
            writer: of the row.
            sampler_id: whose.
            action: what its task was, or is to be, given.
            result: what its task gave; ``core.UNMADE``: the step is still to be made.
            error: what its task raised instead.
        """
        group, place = self._group, writer.places[sampler_id]
        if error is not None:
            self._write(writer, sampler_id, Failure.of(error))
        elif result is core.UNMADE:
            self._write(writer, sampler_id, group.step(sampler_id, action, place))
        else:
            self._write(writer, sampler_id, group.outcome_of(sampler_id, result, place))

    def keep_info(self, sampler_id: int, info: Any) -> None:
        """Keep the info of a step that the compiled core wrote."""
        extra = OutOfBand(sampler_id, info)
        self._keep(copy_arrays(extra, with_objects=True) if self._owned else extra)

    def _write(self, writer: RowWriter, i: int, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, Failure):
                extra: OutOfBand | None = writer.fail(i, outcome)
            else:
                extra = writer.write(i, outcome)
        except LayoutError as error:
            extra = writer.fail(i, Failure.of(error))
        if extra is None:
            return
        # An episode's last info is owned already.
        if self._owned and (not writer.flags[i] & DONE or extra[2:] != _NO_OTHERS):
            extra = copy_arrays(extra, with_objects=True)
        self._keep(extra)
