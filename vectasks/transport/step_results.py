"""What steps gave, as the parent holds it: rows of the step buffer, and what has no place there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vectasks.batch import StepBatch
from vectasks.errors import LayoutError
from vectasks.protocol import Death, Failure, StepOutcome
from vectasks.spaces import ActionBatches
from vectasks.transport.compiled import core
from vectasks.transport.given_batch import leaves_of
from vectasks.transport.layout import NUM_ROWS, Layout
from vectasks.transport.memory import SharedMemory
from vectasks.transport.out_of_band import OutOfBandArea
from vectasks.transport.rollout_rows import (
    RolloutRows,
    RolloutRowSets,
    RowsPlace,
    shared_rows_memory,
)
from vectasks.transport.row_pool import WORKING_ROW, Rows
from vectasks.transport.step_buffer import (
    DONE,
    EMPTY_INFO,
    EXHAUSTED,
    EXTRA,
    TERMINATED,
    TRUNCATED,
    OutOfBand,
    RowReader,
    StepBuffer,
)
from vectasks.transport.step_protocol import (
    AS_BATCH,
    ONE_BY_ONE,
    ROW_BITS,
    ROW_SHIFT,
    TIMED,
    Outcome,
    RowWriters,
    is_batch,
    row_of,
    words,
)

_SMALL_ROW_BYTES = 4096  # of a leaf, all samplers together: copied sooner than a row is lent
_NOTHING_ELSE = OutOfBand(0)[2:]  # than an info
_NOTHING_SPECIAL = bytes([0, EMPTY_INFO])  # flags of most samplers in most steps
# What a batch tells of an episode's end, by a sampler's flags: looked up sooner than worked out.
_BITS = np.array(
    [
        [bool(flags & bit) for flags in range(256)]
        for bit in (TERMINATED, TRUNCATED, DONE, EXHAUSTED)
    ]
)


class StepForm(NamedTuple):
    """How a step's results will be taken.

    Attributes:
        as_batch: as a StepBatch, or in rollout rows; otherwise as outcomes.
        one_by_one: samplers are waited for one by one, so each is announced at once.
        to_hand_out: not into a batch of the caller's: what is given may be the buffer itself.
        rows: write it to the row of this index of these rollout rows.
    """

    as_batch: bool
    one_by_one: bool = False
    to_hand_out: bool = False
    rows: tuple[RolloutRows, int] | None = None


class Answers(Protocol):
    """What came as messages, or in the place of steps."""

    #: By sampler id: a reply, or a death.
    answers: dict[int, Any]

    def take(self, ids: Iterable[int]) -> dict[int, Any]:
        """Hand out the answers of these samplers, each once."""


class StepResults:
    """The steps that are out and what they gave: outcomes, batches, or the rows of a rollout.

    Every step gets a *ticket*, which says to which row it is written and in which form.

    Args:
        layout: of the step buffer.
        memory: the mapped shared memory; None: the step buffer is private, and outcomes that came
            another way are written into it by :meth:`put`.
        strict: a leaf that does not fit is a LayoutError in list-returning steps too.
    """

    def __init__(self, layout: Layout, memory: Any = None, strict: bool = False) -> None:
        self.layout = layout
        self.shared: bool = memory is not None
        self.strict = strict
        self.step_buffer: StepBuffer = StepBuffer(layout, memory)
        self.step_number: int = 0
        self._rows = Rows(self.step_buffer, self.shared)
        self._reader = RowReader(self.step_buffer)
        self.row_sets: RolloutRowSets = RolloutRowSets()
        self.row_writers: RowWriters = RowWriters(
            self.step_buffer, range(layout.num_samplers), strict, self.row_sets
        )
        self._extras: dict[int, OutOfBand] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._warned = strict
        self.detoured: list[str] = []  # names of leaves that the user was warned of
        self._detoured: list[str] = []  # names of leaves that the user is to be warned of
        self._id_array = np.arange(layout.num_samplers)
        self.out_of_band: OutOfBandArea = OutOfBandArea(self.step_buffer)
        self._flags = [memoryview(self.step_buffer["flags"][row]) for row in range(NUM_ROWS)]
        tickets = np.zeros(layout.num_samplers, np.int64)
        self._set_tickets = tickets
        #: By sampler: the ticket of the step that is out, or was last.
        self.tickets: Any = words(tickets)
        self.common: int = 0  # the last ticket, if it was every sampler's
        # Small observations are copied sooner than a row of them is handed out.
        self._lists_are_lent = self.shared and any(leaf.is_large for leaf in layout.leaves)
        self._batches_are_lent = any(
            array is not None and array[0].nbytes > _SMALL_ROW_BYTES
            for array in self.step_buffer.leaf_arrays
        )

    def begin(self, ids: Sequence[int], form: StepForm, *, timed: bool = False) -> int:
        """Give out the ticket of a new step of these samplers.

        What is handed out without a copy is a large step of all samplers, if a row is free.
        """
        as_batch, one_by_one, to_hand_out, into = form
        self.step_number += 1
        whole = len(ids) == self.layout.num_samplers
        row = WORKING_ROW
        self.row_sets.in_use = None
        if into is not None:
            self.row_sets.in_use, index = into
            row = self.row_sets.in_use.place.first_row + index
        elif (
            to_hand_out and whole and (self._batches_are_lent if as_batch else self._lists_are_lent)
        ):
            row = self._rows.next_free(self.step_number)
        ticket = (self.step_number << ROW_BITS | row) << ROW_SHIFT
        ticket |= (TIMED if timed else 0) | (ONE_BY_ONE if one_by_one else 0) | as_batch
        self._set_tickets[slice(None) if whole else ids] = ticket
        self.common = ticket if whole else 0
        return ticket

    def usual_steps(self, kind: Any, batches: ActionBatches, hooks: Any) -> Any:
        """Make what steps all samplers, if the compiled core can; None: it cannot.

        Args:
            kind: the core's class, or None.
            batches: checks all actions together.
            hooks: of the vector.
        """
        num_samplers = self.layout.num_samplers
        bounds = batches.bounds(num_samplers)
        has_arrays = self.step_buffer.compiled is not None and self.layout.action is not None
        if kind is None or bounds is None or not has_arrays:
            return None
        actions = core.Actions(
            num_samplers,
            self.layout.has_integer_actions,
            batches.array,
            *bounds,
            batches.is_checked,
        )
        next_free = self._rows.next_free
        return kind(
            self.step_buffer.compiled,
            actions,
            hooks.entries,
            hooks.lock,
            hooks.called,
            next_free if self._batches_are_lent else None,
            next_free if self._lists_are_lent else None,
            self._rows.lend,
            hooks.hand_over,
            hooks.read_unusual,
        )

    def catch_up(self, step_number: int, ticket: int, rows: RolloutRows | None) -> None:
        """Take in that steps of all samplers were made; the last one's ticket, and its rows."""
        if ticket:
            self.step_number, self.common = step_number, ticket
            self._set_tickets[:] = ticket
            self.row_sets.in_use = rows

    def add_rollout_rows(self, num_rows: int, memory: SharedMemory | None) -> RolloutRows:
        """Further rows, in the shared memory if there is one; the workers are not told here.

        Raises:
            OSError: there is not so much memory.
        """
        mapped, offset = None, 0
        if memory is not None:
            mapped, offset = shared_rows_memory(memory, self.layout.size_bytes(num_rows))
        place = RowsPlace(self.row_sets.free_rows(num_rows), num_rows, offset)
        if place.first_row + num_rows > 1 << ROW_BITS:
            raise LayoutError(
                f"{num_rows} more rows: a vector's rollout buffers have {1 << ROW_BITS} together "
                "at most; make a shorter one, or let go of another."
            )
        rollout_rows = RolloutRows(
            place, self.layout, mapped, range(self.layout.num_samplers), self.strict
        )
        self.row_sets.add(rollout_rows)
        return rollout_rows

    def forget(self, sampler_ids: Iterable[int]) -> None:
        """Forget what is kept of steps of these samplers, whose worker died."""
        for i in sampler_ids:
            self._extras.pop(i, None)

    # -- what they gave ------------------------------------------------------------------------

    def keep(self, extra: OutOfBand | None) -> None:
        """Keep what is no array of a step until that step is read."""
        if extra is not None:
            self._extras[extra.sampler_id] = extra
            if self._warned or not self.shared:
                return
            if extra.observation is not None:
                self._detoured = self._detoured or ["observation"]
            elif extra.off_leaves is not None:
                numbers = extra.off_leaves
                self._detoured = self._detoured or [
                    leaf.name
                    for n, leaf in enumerate(self.layout.leaves)
                    if leaf.dtype and n in numbers
                ]

    def warn_of_detours(self) -> None:
        """Say once that a leaf with a place in the step buffer does not use it.

        A warning may be made an exception, so this is called when the step's results are taken.
        """
        names, self._detoured = self._detoured, []
        if names:
            self._warned = True
            self.detoured = names
            warnings.warn(
                f"{', '.join(names)} left the shared memory and is pickled, which is slower: "
                "the task gives it as another type, dtype or shape, or with other keys, than its "
                "space declares (or than at first). Results are the same; "
                "observation_transport='pipe' silences this.",
                RuntimeWarning,
                stacklevel=2,
            )

    def give(self, sampler_id: int, outcome: Outcome) -> None:
        """Take an outcome as it is: it was made in this process."""
        self._outcomes[sampler_id] = outcome

    def owing(self, ids: Sequence[int]) -> list[int]:
        """Read these samplers' out-of-band data; those who have some on the channel instead."""
        if not self.shared:  # nothing is under way; flags of list-returning steps are not written
            return []
        ticket = self.common or self._ticket_of(ids)
        if ticket:
            # Other samplers' flags in this row may be old, or be written just now.
            flags = self._flags_in(row_of(ticket))
            if not flags.strip(_NOTHING_SPECIAL):
                return []
            ids = [i for i in ids if flags[i] & EXTRA and i not in self._extras]
        # count_nonzero takes a fraction of the time of any() on so short an array.
        elif self.row_sets.in_use is not None or np.count_nonzero(
            self.step_buffer["flags"] & EXTRA
        ):
            ids = [i for i in ids if self.needs_extra(i)]
        else:
            return []
        owing = []
        for i in ids:
            note = self.out_of_band.read(i)
            if note is None:
                owing.append(i)
            self.keep(note)
        return owing

    def _ticket_of(self, ids: Sequence[int]) -> int:
        """The ticket that these samplers have in common; 0: they have several."""
        tickets = self.tickets
        ticket = int(tickets[ids[0]]) if ids else 0
        return ticket if all(tickets[i] == ticket for i in ids) else 0

    def _flags_in(self, row: int) -> bytes:
        """Each sampler's flags in a row, which say whether its step was more than usual."""
        if row < NUM_ROWS:
            return self._flags[row].tobytes()
        rollout_rows, index = self.row_sets.at(row)
        flags: Any = rollout_rows.step_buffer["flags"][index]
        return bytes(flags)

    def needs_extra(self, sampler_id: int) -> bool:
        """Whether something of this sampler's step is no array, and is not here."""
        step_buffer, row = self._where(self.tickets[sampler_id])
        flags = step_buffer["flags"][row, sampler_id]
        return bool(flags & EXTRA) and sampler_id not in self._extras

    def _where(self, ticket: int) -> tuple[StepBuffer, int]:
        """The arrays that a ticket's step is written to, and the row there."""
        row = row_of(ticket)
        if row < NUM_ROWS:
            return self.step_buffer, row
        rollout_rows, index = self.row_sets.at(row)
        return rollout_rows.step_buffer, index

    def outcomes(self, ids: Sequence[int]) -> list[Outcome]:
        """The samplers' outcomes, owned."""
        if self._outcomes:
            here = [i for i in ids if i not in self._outcomes]
            written = dict(zip(here, self._written(here), strict=True))
            return [written[i] if i in written else self._outcomes.pop(i) for i in ids]
        return self._written(ids)

    def _written(self, ids: Sequence[int]) -> list[Outcome]:
        extras = self._extras
        ticket = self._ticket_of(ids)
        if not ticket:
            return [outcome for i in ids for outcome in self._written([i])]
        step_buffer, row = self._where(ticket)
        reader = self._reader if step_buffer is self.step_buffer else RowReader(step_buffer)
        lent = None
        if self._is_lent_to_list(ticket) and len(ids) == self.layout.num_samplers:
            lent = self._rows.lend(row, self.step_number, as_views=False)
        quick = reader.outcomes(ids, row, is_batch(ticket), extras, lent)
        for i in ids if extras else ():
            extras.pop(i, None)
        return quick

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Name those of these, whose steps are here, that ended an episode."""
        if self._outcomes:
            return [i for i in ids if type(self._outcomes.get(i)) is StepOutcome]
        ticket = self._ticket_of(ids)
        if ticket:
            flags = self._flags_in(row_of(ticket))
            if not flags.strip(_NOTHING_SPECIAL):
                return []
            return [i for i in ids if flags[i] & DONE]
        return [i for i in ids if self._flags_in(row_of(self.tickets[i]))[i] & DONE]

    def outcome_of(self, sampler_id: int) -> Outcome:
        """Take one sampler's outcome, owned; its step stays out."""
        if sampler_id in self._outcomes:
            return self._outcomes[sampler_id]
        ticket = self.tickets[sampler_id]
        step_buffer, row = self._where(ticket)
        reader = RowReader(step_buffer)
        (outcome,) = reader.outcomes([sampler_id], row, is_batch(ticket), self._extras, None)
        self._extras.pop(sampler_id, None)
        return outcome

    def replace(self, sampler_id: int, outcome: Any) -> None:
        """Put another outcome in the place of the one that was taken."""
        if sampler_id in self._outcomes or not is_batch(self.tickets[sampler_id]):
            self._outcomes[sampler_id] = outcome
        else:
            self.put(sampler_id, outcome)

    def _is_lent_to_list(self, ticket: int) -> bool:
        is_of_all = ticket == self.common
        return is_of_all and not is_batch(ticket) and WORKING_ROW < row_of(ticket) < NUM_ROWS

    def failures(self, ids: Sequence[int]) -> bool:
        """Whether the step of any of these failed."""
        extras = self._extras
        return bool(extras) and any(i in extras and extras[i].failure is not None for i in ids)

    def take_infos(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What a step into a block gave beside what is in it: infos that are not empty, by id."""
        taken = [self._extras.pop(i) for i in ids if i in self._extras] if self._extras else []
        return {extra.sampler_id: dict(extra.info) for extra in taken if extra.info is not None}

    def take_plain_extras(self, ids: Sequence[int]) -> dict[int, OutOfBand] | None:
        """Take what belongs to the steps of these beside arrays, if it is nothing but infos."""
        extras = {i: self._extras[i] for i in ids if i in self._extras}
        if any(extra[2:] != _NOTHING_ELSE for extra in extras.values()):
            return None
        for i in extras:
            del self._extras[i]
        return extras

    def batch(self, ids: Sequence[int], out: StepBatch | None, copy: bool) -> StepBatch:
        """The steps of some samplers as arrays.

        Args:
            ids: whose; none of them failed.
            out: write into the arrays of this earlier batch.
            copy: False gives arrays that change after the second following step.
        """
        step_buffer, n = self.step_buffer, len(ids)
        whole = n == self.layout.num_samplers
        row = self._row_of_all(ids)
        where: Any = row
        if row is None:
            rows = [row_of(self.tickets[i]) for i in ids]
            where = (np.array(rows, np.intp), np.array(ids, np.intp))  # perhaps there are none
        elif not whole:
            where = (row, list(ids))
        extras: dict[int, OutOfBand] = {}
        if self._extras:
            extras = {i: self._extras.pop(i) for i in ids if i in self._extras}
        lent = None
        if whole and row and out is None:  # and not the working row
            lent = self._rows.lend(row, self.step_number, as_views=not copy)
        targets = None if out is None else leaves_of(out, self.layout)
        leaf_values: list[Any] = []
        for number, array in enumerate(step_buffer.leaf_arrays):
            if array is None:
                leaf_values.append(
                    [(extras[i].off_leaves or {}).get(number) if i in extras else None for i in ids]
                )
            elif lent is not None:
                leaf_values.append(lent[number])
            elif targets is not None:
                np.copyto(targets[number], array[where])
                leaf_values.append(targets[number])
            else:
                part = array[where]
                leaf_values.append(part.copy() if where is row else part)
        infos: list[dict[str, Any]] = [{} for _ in ids]
        for k, i in enumerate(ids) if extras else ():
            if i in extras and extras[i].info is not None:
                infos[k] = dict(extras[i].info)
        bits = _BITS.take(step_buffer["flags"][where], axis=1)
        reward = step_buffer["reward"][where].astype(np.float32)
        samplers = self._id_array.copy() if whole else np.array(ids, np.int64)
        if out is None:
            terminated, truncated, done, exhausted = bits
            return StepBatch(
                samplers,
                step_buffer.nest(leaf_values),
                reward,
                terminated,
                truncated,
                done,
                exhausted,
                infos,
            )
        targets_of_flags: list[Any] = [
            out.samplers,
            out.reward,
            out.terminated,
            out.truncated,
            out.done,
            out.exhausted,
        ]
        for target, values in zip(targets_of_flags, (samplers, reward, *bits), strict=True):
            np.copyto(target, values)
        return out._replace(observation=step_buffer.nest(leaf_values), infos=infos)

    def _row_of_all(self, ids: Sequence[int]) -> int | None:
        """The row that these samplers' steps were written to; None: to several."""
        if self.common and len(ids) == self.layout.num_samplers:
            return row_of(self.common)
        rows = {row_of(self.tickets[i]) for i in ids}
        return rows.pop() if len(rows) == 1 else None

    def bring_in(self, ids: Sequence[int], came: Answers) -> dict[int, Any]:
        """Write what came another way beside what was written; all outcomes, if one failed."""
        answers = came.answers
        if not answers:
            return self.failed_outcomes(ids)
        lost = []
        for i in ids:
            if isinstance(answers.get(i), (Failure, Death)):
                lost.append(i)
            elif i in answers:
                self.put(i, came.take([i])[i])
        if not lost and not self.failures(ids):
            return {}
        values = came.take(lost)
        written = [i for i in ids if i not in values]
        values.update(zip(written, self.outcomes(written), strict=True))
        return {i: values[i] for i in ids}

    def failed_outcomes(self, ids: Sequence[int]) -> dict[int, Any]:
        """Hand out all outcomes of these samplers by id, if one failed; none otherwise."""
        return dict(zip(ids, self.outcomes(ids), strict=True)) if self.failures(ids) else {}

    def put(self, sampler_id: int, outcome: Outcome) -> Failure | None:
        """Write an outcome that came another way into the step's row, for a batch.

        Returns:
            why it cannot be in a batch, or what it failed with.
        """
        writer = self.row_writers.at(self.tickets[sampler_id] | AS_BATCH)
        extra: OutOfBand | None
        if isinstance(outcome, Failure):
            extra = writer.fail(sampler_id, outcome)
        else:
            try:
                extra = writer.write(sampler_id, outcome)
            except LayoutError as error:
                extra = writer.fail(sampler_id, Failure.of(error))
        self.keep(extra)
        return None if extra is None else extra.failure
