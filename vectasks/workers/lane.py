"""The step lane: how parent and workers tell each other what is new in the slab.

::

    parent                                        worker w, with sampler i
    actions, asked[i] = ticket   ──> slab
    step_bell[w] += 1            ──> slab ──poll──> step where asked[i] != answered[i]
    ring the channel if asleep[w]                   observation, reward, flags ──> slab
                                                    what has no place there ──> channel
    <──poll── slab <──────────────────────────────  answered[i] = ticket
                                                    ring the channel if parent_asleep

Both sides poll counters in shared memory first, giving the core up between polls, and after a while
block on the channel: waking a blocked process costs a hundred times what a poll costs, but polling
forever starves whoever shares the core. A wake-up cannot be lost: each side writes its own word (a
counter, or that it is asleep), passes a full memory barrier, and only then reads the other's. The
barrier is taking a lock that is free, an atomic operation, on x86, and elsewhere ``sched_yield``: a
trip through the kernel's scheduler is one. Should it ever not be, blocking waits are short and look
again.

A *ticket* says which step it is, which row it is written to and in which form::

    ticket = step number << 24 | row << 2 | (2 if samplers are announced one by one)
             | (1 if for a StepBatch)
"""

from __future__ import annotations

import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vectasks.batch import StepBatch
from vectasks.errors import InvalidArgument, LayoutError
from vectasks.host import HostGroup
from vectasks.messages import Failure, StepOutcome
from vectasks.spaces import dispatch_rows
from vectasks.task import RLStepResult
from vectasks.workers.blocks import Block, BlockPlace, Blocks, BlocksMoved, shared_block_memory
from vectasks.workers.channel import Channel, unsendable
from vectasks.workers.rows import WORKING_ROW, Rows
from vectasks.workers.slab import (
    DONE,
    EMPTY_INFO,
    EXHAUSTED,
    EXTRA,
    NUM_ROWS,
    TERMINATED,
    TRUNCATED,
    Extra,
    Layout,
    SharedMemory,
    Slab,
    SlabReader,
    SlabWriter,
    pick,
)

_AS_BATCH, _ONE_BY_ONE = 1, 2
_ROW_BITS = 22
_NOTHING_SPECIAL = bytes([0, EMPTY_INFO])  # flags of most samplers in most steps
_FIRST_NAP_MS, _LONGEST_NAP_MS = 5, 200

yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))

_IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
# x86 keeps stores in order; elsewhere a barrier must stand between the data and what announces it.
_keep_order: Callable[[], None] = (lambda: None) if _IS_X86 else yield_core


class _Fence:
    """Calling it is a full memory barrier. One thread at a time may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        if _IS_X86:
            with self._lock:
                pass
        else:
            yield_core()


def _words(array: NDArray[Any]) -> Any:
    """The array as a memoryview, whose items Python reads and writes three times as fast."""
    return memoryview(cast("Any", array))


def row_of(ticket: int) -> int:
    """The row of the slab that a ticket's step is written to."""
    return (ticket >> 2) & ((1 << _ROW_BITS) - 1)


def is_batch(ticket: int) -> bool:
    """Whether a ticket's step is for a StepBatch."""
    return bool(ticket & _AS_BATCH)


def usable_cores() -> int:
    """How many cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def polls_before_blocking(num_workers: int) -> int:
    """How often to poll: hardly where workers outnumber the cores, never where there is one."""
    cores = usable_cores()
    if cores == 1:
        return 0
    return 400 if num_workers <= cores else 20


class Attach(NamedTuple):
    """Tells a worker to map the slab: its layout and what it will find there."""

    layout: Layout
    worker: int
    sampler_ids: tuple[int, ...]
    strict: bool
    blocks: tuple[BlockPlace, ...]
    step_bell: int  # the bells' values when this was sent: what they count since is new
    message_bell: int


class Steps(NamedTuple):
    """Steps whose actions have no place in the slab."""

    ticket: int
    actions: dict[int, Any]


class StepExtras(NamedTuple):
    """What of some steps has no place in the slab; sent before they are announced."""

    extras: list[Extra]


Outcome = RLStepResult | StepOutcome | Failure


class Desks:
    """The writers of every row and form, for some samplers."""

    def __init__(
        self, slab: Slab, sampler_ids: Sequence[int], strict: bool, blocks: Blocks
    ) -> None:
        self._blocks = blocks
        self.writers: list[SlabWriter] = [
            SlabWriter(slab, sampler_ids, row, as_batch, strict)
            for row in range(NUM_ROWS)
            for as_batch in (False, True)
        ]

    def at(self, ticket: int) -> SlabWriter:
        """The writer for a ticket's step."""
        row = row_of(ticket)
        if row < NUM_ROWS:
            return self.writers[row * 2 + (ticket & _AS_BATCH)]
        block, index = self._blocks.at(row)
        return block.writer_at(index)


def run_step(group: HostGroup, writer: SlabWriter, sampler_id: int, action: Any) -> Extra | None:
    """Step one host and write what came of it; what has no place in the slab."""
    outcome = group.step(sampler_id, action, writer.places[sampler_id])
    if isinstance(outcome, Failure):
        return writer.fail(sampler_id, outcome)
    try:
        return writer.write(sampler_id, outcome)
    except LayoutError as error:
        return writer.fail(sampler_id, Failure.of(error))


class WorkerLane:
    """The worker's half.

    Args:
        attach: what the parent told.
        memory: where the slab is, and the blocks behind it.
        channel: for extras and rings.
        group: the hosts to step.
    """

    def __init__(
        self, attach: Attach, memory: SharedMemory, channel: Channel, group: HostGroup
    ) -> None:
        slab = Slab(attach.layout, memory.map(attach.layout.size_bytes()))
        w = attach.worker
        self._memory = memory
        self._layout, self._strict = attach.layout, attach.strict
        self._blocks = Blocks()
        self._held_blocks: list[Block] = []
        self._channel = channel
        self._group = group
        self._ids = attach.sampler_ids
        self.desks: Desks = Desks(slab, attach.sampler_ids, attach.strict, self._blocks)
        self.move_blocks(BlocksMoved(attach.blocks))
        self._step_bell = _words(slab["step_bell"][w])
        self._message_bell = _words(slab["message_bell"][w])
        self._asleep = _words(slab["asleep"][w])
        self._parent_asleep = _words(slab["parent_asleep"])
        self._asked = _words(slab["asked"])
        self._answered = _words(slab["answered"])
        self._answered_at = _words(slab["answered_at"])
        self._last = dict.fromkeys(attach.sampler_ids, 0)  # the tickets that were answered last
        self._action: Any = slab.get("action")
        self.fence: _Fence = _Fence()
        self._seen_steps = attach.step_bell
        self._seen_messages = attach.message_bell
        self._polls = polls_before_blocking(attach.layout.num_workers)

    def next_message(self) -> Any:
        """Serve steps until a message comes, and return it.

        Raises:
            EOFError: the parent is gone.
        """
        step_bell, message_bell = self._step_bell, self._message_bell
        polls_left, nap_ms = self._polls, _FIRST_NAP_MS
        while True:
            if step_bell[0] != self._seen_steps:
                _keep_order()
                if message_bell[0] > self._seen_messages and self._is_asked_for_block_rows():
                    # Sent before these steps, it may say where the rows are that they go to.
                    self._seen_messages += 1
                    return self._channel.receive_blocking()
                self._seen_steps = step_bell[0]
                self._serve()
                polls_left, nap_ms = self._polls, _FIRST_NAP_MS
            elif message_bell[0] > self._seen_messages:
                self._seen_messages += 1
                return self._channel.receive_blocking()
            elif polls_left > 0:
                polls_left -= 1
                yield_core()
            elif self._sleep(nap_ms):  # the message came before its bell
                self._seen_messages += 1
                return self._channel.receive_blocking()
            else:
                nap_ms = min(2 * nap_ms, _LONGEST_NAP_MS)

    def _is_asked_for_block_rows(self) -> bool:
        asked, last = self._asked, self._last
        return any(asked[i] > last[i] and row_of(asked[i]) >= NUM_ROWS for i in self._ids)

    def _sleep(self, nap_ms: int) -> bool:
        """Block until something comes; whether it is a message."""
        self._asleep[0] = 1
        self.fence()
        try:
            if (
                self._step_bell[0] == self._seen_steps
                and self._message_bell[0] <= self._seen_messages
            ):
                # What was asked for before a message comes before it.
                return self._channel.doze(nap_ms) and self._step_bell[0] == self._seen_steps
            return False
        finally:
            self._asleep[0] = 0

    def _serve(self) -> None:
        """Step every sampler that was asked to."""
        asked, last = self._asked.tolist(), self._last
        # What came by message was answered, and never asked here.
        new = [i for i in self._ids if asked[i] > last[i]]
        tickets = {asked[i] for i in new}
        for ticket in sorted(tickets):
            ids = new if len(tickets) == 1 else [i for i in new if asked[i] == ticket]
            self._run(ticket, ids, dispatch_rows(self._action[ids]))

    def serve_message(self, steps: Steps) -> None:
        """Steps whose actions came by message."""
        self._run(steps.ticket, list(steps.actions), steps.actions.values())

    def move_blocks(self, moved: BlocksMoved) -> None:
        """Map the blocks that there are now, and no others."""
        known = {block.place: block for block in self._held_blocks}
        self._held_blocks = [
            known[place]
            if place in known
            else Block(
                place,
                self._layout,
                self._memory.map(self._layout.size_bytes(place.num_rows), place.offset),
                self._ids,
                self._strict,
            )
            for place in moved.places
        ]
        for block in self._held_blocks:
            self._blocks.add(block)

    def _run(self, ticket: int, ids: Sequence[int], actions: Iterable[Any]) -> None:
        """Step samplers and announce them together, or one by one where that is wanted."""
        group, writer = self._group, self.desks.at(ticket)
        one_by_one = ticket & _ONE_BY_ONE
        extras: list[Extra] = []
        for i, action in zip(ids, actions, strict=True):
            extra = run_step(group, writer, i, action)
            if extra is not None:
                extras.append(extra)
            if one_by_one:
                self._answered_at[i] = time.monotonic()
                self._announce(ticket, [i], extras)
                extras = []
        if not one_by_one:
            self._announce(ticket, ids, extras)

    def _announce(self, ticket: int, ids: Sequence[int], extras: list[Extra]) -> None:
        if extras:
            _send_extras(self._channel, extras)
        _keep_order()
        answered, last = self._answered, self._last
        for i in ids:
            answered[i] = last[i] = ticket
        self.fence()
        if self._parent_asleep[0]:
            self._channel.ring()


def _send_extras(channel: Channel, extras: list[Extra]) -> None:
    try:
        channel.send_blocking(StepExtras(extras))
    except OSError:
        raise
    except Exception:  # user code: an info that cannot be pickled fails its own sampler only
        channel.send_blocking(StepExtras([_sendable(extra) for extra in extras]))


def _sendable(extra: Extra) -> Extra:
    failure = unsendable(extra, "step")
    return extra if failure is None else Extra(extra.sampler_id, failure=failure)


class ParentLane:
    """The parent's half: one slab for all workers, or a private one where none can share it.

    Args:
        layout: of the slab.
        memory: the mapped shared memory; None: the slab is private, and outcomes that came another
            way are written into it by :meth:`put`.
        strict: a leaf that does not fit is a LayoutError in list-returning steps too.
    """

    def __init__(self, layout: Layout, memory: Any = None, strict: bool = False) -> None:
        self.layout = layout
        self.shared: bool = memory is not None
        self.strict = strict
        self.slab: Slab = Slab(layout, memory)
        self.step_number: int = 0
        self._rows = Rows(self.slab, self.shared)
        self._reader = SlabReader(self.slab)
        self.blocks: Blocks = Blocks()
        self.desks: Desks = Desks(self.slab, range(layout.num_samplers), strict, self.blocks)
        self._extras: dict[int, Extra] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._warned = strict
        self.detoured: list[str] = []  # names of leaves that the user was warned of
        self._detoured: list[str] = []  # names of leaves that the user is to be warned of
        self._all_ids = list(range(layout.num_samplers))
        self._id_array = np.arange(layout.num_samplers)
        self._step_bell = [_words(line) for line in self.slab["step_bell"]]
        self._message_bell = [_words(line) for line in self.slab["message_bell"]]
        self._asleep = [_words(line) for line in self.slab["asleep"]]
        self._parent_asleep = _words(self.slab["parent_asleep"])
        self._answered = _words(self.slab["answered"])
        self._flags = [memoryview(self.slab["flags"][row]) for row in range(NUM_ROWS)]
        self.fence: _Fence = _Fence()
        tickets = np.zeros(layout.num_samplers, np.int64)
        self._set_tickets = tickets
        #: By sampler: the ticket of the step that is out, or was last.
        self.tickets: Any = _words(tickets)
        self._common = 0  # the last ticket, if it was every sampler's
        # Small observations are copied sooner than a row of them is handed out.
        self._lists_are_lent = self.shared and any(leaf.is_large for leaf in layout.leaves)

    def begin(
        self,
        ids: Sequence[int],
        *,
        as_batch: bool,
        one_by_one: bool = False,
        to_hand_out: bool = False,
        into: tuple[Block, int] | None = None,
    ) -> int:
        """The ticket of a new step of these samplers.

        Args:
            ids: whose.
            as_batch: it will be taken as a StepBatch.
            one_by_one: each sampler is announced at once.
            to_hand_out: without a copy, if it is a step of all and a row is free.
            into: write it to this row of this block.
        """
        self.step_number += 1
        whole = len(ids) == self.layout.num_samplers
        row = WORKING_ROW
        self.blocks.in_use = None
        if into is not None:
            self.blocks.in_use, index = into
            row = self.blocks.in_use.place.first_row + index
        elif to_hand_out and whole and (as_batch or self._lists_are_lent):
            row = self._rows.next_free(self.step_number)
        ticket = (self.step_number << _ROW_BITS | row) << 2
        ticket |= (_ONE_BY_ONE if one_by_one else 0) | as_batch
        self._set_tickets[slice(None) if whole else ids] = ticket
        self._common = ticket if whole else 0
        return ticket

    def ask(self, ids: Sequence[int], actions: Any, ticket: int) -> None:
        """Put actions and tickets into the slab; :meth:`ring` announces them."""
        where: Any = slice(None) if ids == self._all_ids else list(ids)
        self.slab["action"][where] = actions
        _keep_order()
        self.slab["asked"][where] = ticket
        _keep_order()  # before the bell

    def ring(self, worker: int) -> None:
        """Announce to a worker that samplers of its were asked."""
        self._step_bell[worker][0] += 1

    def announce_message(self, worker: int) -> None:
        """Announce that a message was sent."""
        self._message_bell[worker][0] += 1

    def is_asleep(self, worker: int) -> bool:
        """Whether a worker is blocked and wants a ring on its channel."""
        return bool(self._asleep[worker][0])

    def attach_message(self, worker: int, sampler_ids: Sequence[int]) -> Attach:
        """What a worker is told to find the slab; steps that its predecessor was asked are off."""
        for i in sampler_ids:
            self.slab["asked"][i] = self.slab["answered"][i] = 0
            self._extras.pop(i, None)
        self._asleep[worker][0] = 0
        return Attach(
            self.layout,
            worker,
            tuple(sampler_ids),
            self.strict,
            self.blocks.places(),
            self._step_bell[worker][0],
            self._message_bell[worker][0],
        )

    def add_block(self, num_rows: int, memory: SharedMemory | None) -> Block:
        """Further rows, in the shared memory if there is one; the workers are not told here.

        Raises:
            OSError: there is not so much memory.
        """
        mapped, offset = None, 0
        if memory is not None:
            mapped, offset = shared_block_memory(memory, self.layout.size_bytes(num_rows))
        place = BlockPlace(self.blocks.free_rows(num_rows), num_rows, offset)
        if place.first_row + num_rows > 1 << _ROW_BITS:
            raise LayoutError(
                f"{num_rows} more rows: a vector's rollout buffers have {1 << _ROW_BITS} together "
                "at most; make a shorter one, or let go of another."
            )
        block = Block(place, self.layout, mapped, range(self.layout.num_samplers), self.strict)
        self.blocks.add(block)
        return block

    # -- waiting -------------------------------------------------------------------------------

    def has_answered(self, sampler_id: int) -> bool:
        """Whether the sampler's step is done and written."""
        return bool(self._answered[sampler_id] == self.tickets[sampler_id])

    def answered_at(self, sampler_id: int) -> float:
        """When it was, in seconds of ``time.monotonic``."""
        return float(self.slab["answered_at"][sampler_id])

    def poll(self, sampler_ids: Sequence[int], polls: int) -> bool:
        """Whether all of these have answered, after looking so often and no more."""
        tickets, answered = self.tickets, self._answered
        if self._common and len(sampler_ids) == self.layout.num_samplers:
            while answered != tickets:
                if polls <= 0:
                    return False
                polls -= 1
                yield_core()
            return True
        waiting = list(sampler_ids)
        while True:
            while waiting and answered[waiting[-1]] == tickets[waiting[-1]]:
                waiting.pop()
            if not waiting:
                return True
            if polls <= 0:
                return False
            polls -= 1
            yield_core()

    def fall_asleep(self) -> None:
        """Ask the workers to ring on their channels; look once more after this, then block."""
        self._parent_asleep[0] = 1
        self.fence()

    def wake_up(self) -> None:
        """No rings are needed any more."""
        self._parent_asleep[0] = 0

    # -- results -------------------------------------------------------------------------------

    def keep(self, extra: Extra | None) -> None:
        """Keep what came by the control lane until its step is read."""
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
        """Say once that a leaf with a place in the slab does not use it.

        A warning may be made an exception, so this is called when the step's results are taken.
        """
        names, self._detoured = self._detoured, []
        if names:
            self._warned = True
            self.detoured = names
            warnings.warn(
                f"{', '.join(names)} left the shared-memory lane for the slower pipe: the task "
                "gives it as another type, dtype or shape than its space declares (or than at "
                "first). Results are the same; observation_transport='pipe' silences this.",
                RuntimeWarning,
                stacklevel=2,
            )

    def give(self, sampler_id: int, outcome: Outcome) -> None:
        """Take an outcome as it is: it was made in this process."""
        self._outcomes[sampler_id] = outcome

    def answer(self, sampler_id: int, ticket: int) -> None:
        """The step of a sampler in this process is done."""
        if ticket & _ONE_BY_ONE:
            self.slab["answered_at"][sampler_id] = time.monotonic()
        self._answered[sampler_id] = ticket

    def owing(self, ids: Sequence[int]) -> list[int]:
        """Those of these samplers whose step may have something on the control lane."""
        if not self.shared:  # nothing is under way; flags of list-returning steps are not written
            return []
        if self._common:
            return list(ids) if self._is_special(row_of(self._common)) else []
        # count_nonzero takes a fraction of the time of any() on so short an array.
        return list(ids) if np.count_nonzero(self.slab["flags"] & EXTRA) else []

    def _is_special(self, row: int) -> bool:
        """Whether any sampler's step in a row was more than an observation and a reward."""
        if row < NUM_ROWS:
            return bool(self._flags[row].tobytes().strip(_NOTHING_SPECIAL))
        block, index = self.blocks.at(row)
        return bool(block.slab["flags"][index].tobytes().strip(_NOTHING_SPECIAL))

    def needs_extra(self, sampler_id: int) -> bool:
        """Whether something of this sampler's step comes by the control lane."""
        slab, row = self._where(self.tickets[sampler_id])
        flags = slab["flags"][row, sampler_id]
        return bool(flags & EXTRA) and sampler_id not in self._extras

    def _where(self, ticket: int) -> tuple[Slab, int]:
        """The arrays that a ticket's step is written to, and the row there."""
        row = row_of(ticket)
        if row < NUM_ROWS:
            return self.slab, row
        block, index = self.blocks.at(row)
        return block.slab, index

    def outcomes(self, ids: Sequence[int]) -> list[Outcome]:
        """The samplers' outcomes, owned."""
        if self._outcomes:
            here = [i for i in ids if i not in self._outcomes]
            written = dict(zip(here, self._written(here), strict=True))
            return [written[i] if i in written else self._outcomes.pop(i) for i in ids]
        return self._written(ids)

    def _written(self, ids: Sequence[int]) -> list[Outcome]:
        extras = self._extras
        ticket = self.tickets[ids[0]] if ids else 0
        if ids and all(self.tickets[i] == ticket for i in ids):
            slab, row = self._where(ticket)
            reader = self._reader if slab is self.slab else SlabReader(slab)
            lent = None
            if self._is_lent_to_list(ticket) and len(ids) == self.layout.num_samplers:
                lent = self._rows.lend(row, self.step_number, as_views=False)
            quick = reader.outcomes(ids, row, is_batch(ticket), extras, lent)
        else:
            quick = [
                self._reader.outcomes(
                    [i], row_of(self.tickets[i]), is_batch(self.tickets[i]), extras
                )[0]
                for i in ids
            ]
        for i in ids if extras else ():
            extras.pop(i, None)
        return quick

    def _is_lent_to_list(self, ticket: int) -> bool:
        is_of_all = ticket == self._common
        return is_of_all and not is_batch(ticket) and WORKING_ROW < row_of(ticket) < NUM_ROWS

    def outcome(self, sampler_id: int) -> Outcome:
        """One sampler's outcome, owned."""
        return self.outcomes([sampler_id])[0]

    def failures(self, ids: Sequence[int]) -> bool:
        """Whether the step of any of these failed."""
        extras = self._extras
        return bool(extras) and any(i in extras and extras[i].failure is not None for i in ids)

    def take_failures(self, ids: Sequence[int]) -> dict[int, Failure]:
        """Which of these samplers' steps failed, and how; if any did, the step is not read."""
        if not self.failures(ids):
            return {}
        extras = {i: self._extras.pop(i) for i in ids if i in self._extras}
        return {i: extra.failure for i, extra in extras.items() if extra.failure is not None}

    def take_infos(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What a step into a block gave beside what is in it: infos that are not empty, by id."""
        self.blocks.in_use = None
        taken = [self._extras.pop(i) for i in ids if i in self._extras] if self._extras else []
        return {extra.sampler_id: dict(extra.info) for extra in taken if extra.info is not None}

    def batch(self, ids: Sequence[int], out: StepBatch | None, copy: bool) -> StepBatch:
        """The steps of some samplers as arrays.

        Args:
            ids: whose; none of them failed.
            out: write into the arrays of this earlier batch.
            copy: False gives arrays that change after the second following step.
        """
        slab, n = self.slab, len(ids)
        whole = n == self.layout.num_samplers
        rows = {row_of(self._common)} if whole and self._common else self._rows_of(ids)
        row = rows.pop() if len(rows) == 1 else None
        where: Any = row
        if row is None:
            where = ([row_of(self.tickets[i]) for i in ids], list(ids))
        elif not whole:
            where = (row, list(ids))
        special = row is None or self._is_special(row)
        extras: dict[int, Extra] = {}
        if special and self._extras:
            extras = {i: self._extras.pop(i) for i in ids if i in self._extras}
        lent = None
        if whole and row and out is None:  # and not the working row
            lent = self._rows.lend(row, self.step_number, as_views=not copy)
        targets = None if out is None else self._flat(out.observation)
        leaf_values: list[Any] = []
        for number, array in enumerate(slab.leaf_arrays):
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
        infos: list[dict[str, Any]] = [{} for _ in range(n)]
        for k, i in enumerate(ids) if extras else ():
            if i in extras and extras[i].info is not None:
                infos[k] = dict(extras[i].info)
        if special:
            flags = slab["flags"][where]
            bits = [(flags & bit) != 0 for bit in (TERMINATED, TRUNCATED, DONE, EXHAUSTED)]
        else:
            bits = [np.zeros(n, np.bool_) for _ in range(4)]
        reward = slab["reward"][where].astype(np.float32)
        samplers = self._id_array.copy() if whole else np.array(ids, np.int64)
        if out is None:
            terminated, truncated, done, exhausted = bits
            return StepBatch(
                samplers,
                slab.nest(leaf_values),
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
        return out._replace(observation=slab.nest(leaf_values), infos=infos)

    def _rows_of(self, ids: Sequence[int]) -> set[int]:
        return {row_of(self.tickets[i]) for i in ids}

    def check_out(self, out: StepBatch, count: int) -> None:
        """Refuse a batch that ``count`` samplers' steps cannot be written into.

        Raises:
            InvalidArgument: an array of it is missing, or has another shape or dtype.
        """
        expected: dict[str, tuple[Any, tuple[int, ...], Any]] = {
            "samplers": (out.samplers, (count,), np.int64),
            "reward": (out.reward, (count,), np.float32),
            **{
                name: (getattr(out, name), (count,), np.bool_)
                for name in ("terminated", "truncated", "done", "exhausted")
            },
        }
        try:
            for leaf, array in zip(self.layout.leaves, self._flat(out.observation), strict=True):
                if leaf.dtype is not None:
                    expected[leaf.name] = (array, (count, *leaf.shape), leaf.dtype)
        except (KeyError, IndexError, TypeError):
            raise InvalidArgument(
                "out: its observation is not nested as the observation space; give the StepBatch "
                "of an earlier call."
            ) from None
        for name, (array, shape, dtype) in expected.items():
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
                given = getattr(array, "shape", type(array).__name__)
                raise InvalidArgument(
                    f"out: {name} must be {np.dtype(dtype)} {list(shape)} for {count} unpaused "
                    f"samplers, got {getattr(array, 'dtype', '')} {given}; give the StepBatch of "
                    "an earlier call with as many samplers. Nothing was sent."
                )

    def _flat(self, observation: Any) -> list[Any]:
        return [pick(observation, leaf.path) for leaf in self.layout.leaves]

    def put(self, sampler_id: int, ticket: int, outcome: Outcome) -> None:
        """Write an outcome that came another way, for a batch."""
        self.tickets[sampler_id] = ticket
        writer = self.desks.at(ticket | _AS_BATCH)
        extra: Extra | None
        if isinstance(outcome, Failure):
            extra = writer.fail(sampler_id, outcome)
        else:
            try:
                extra = writer.write(sampler_id, outcome)
            except LayoutError as error:
                extra = writer.fail(sampler_id, Failure.of(error))
        self.keep(extra)
