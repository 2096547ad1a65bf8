"""The worker's half of the step lane: it steps what was asked for, and tells what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from vectasks.host.step_rows import run_steps
from vectasks.host.task_host import HostGroup
from vectasks.protocol import Failure
from vectasks.spaces import dispatch_rows
from vectasks.transport.channel import Channel, unsendable
from vectasks.transport.cpu import WakesOnOwnCore, polls_before_blocking, yields_promptly
from vectasks.transport.layout import NUM_ROWS
from vectasks.transport.memory import SharedMemory
from vectasks.transport.out_of_band import Notes
from vectasks.transport.rollout_rows import Block, Blocks, BlocksMoved
from vectasks.transport.step_buffer import Extra, Slab
from vectasks.transport.step_protocol import (
    ONE_BY_ONE,
    TIMED,
    Attach,
    Desks,
    Fence,
    StepExtras,
    Steps,
    keep_order,
    row_of,
    words,
)

_FIRST_NAP_MS, _LONGEST_NAP_MS = 5, 200


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
        self._step_bell = words(slab["step_bell"][w])
        self._message_bell = words(slab["message_bell"][w])
        self._asleep = words(slab["asleep"][w])
        self._parent_asleep = words(slab["parent_asleep"])
        self._asked = words(slab["asked"])
        self._answered = words(slab["answered"])
        self._answered_at = words(slab["answered_at"])
        self._notes = Notes(slab)
        self._last = dict.fromkeys(attach.sampler_ids, 0)  # the tickets that were answered last
        self._action: Any = slab.get("action")
        self.fence: Fence = Fence()
        self._seen_steps = attach.step_bell
        self._seen_messages = attach.message_bell
        self._polls = polls_before_blocking(attach.layout.num_workers)
        self._wakes_on_own_core = WakesOnOwnCore(w, attach.layout.num_workers)

    def next_message(self) -> Any:
        """Serve steps until a message comes, and return it.

        Raises:
            EOFError: the parent is gone.
        """
        step_bell, message_bell = self._step_bell, self._message_bell
        polls_left, nap_ms = self._polls, _FIRST_NAP_MS
        while True:
            if step_bell[0] != self._seen_steps:
                keep_order()
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
                # Who polls on beside somebody else may be moved to where a mate is to wake up.
                polls_left = polls_left - 1 if yields_promptly() else 0
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
                is_message = self._channel.doze(nap_ms, self._wakes_on_own_core)
                # What was asked for before a message comes before it.
                return is_message and self._step_bell[0] == self._seen_steps
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

    def fail_step(self, ticket: int, sampler_id: int, failure: Failure) -> None:
        """A step that cannot be made: its action came by message and cannot be unpickled."""
        extra = self.desks.at(ticket).fail(sampler_id, failure)
        self._answered_at[sampler_id] = time.monotonic()
        self._announce(ticket, [sampler_id], [] if self._notes.write(extra) else [extra])

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
        group, writer, timed = self._group, self.desks.at(ticket), bool(ticket & TIMED)
        extras: list[Extra] = []

        def keep(extra: Extra) -> None:
            if not self._notes.write(extra):
                extras.append(extra)

        if not ticket & ONE_BY_ONE:
            run_steps(group, timed, writer, ids, actions, keep)
            self._announce(ticket, ids, extras)
            return
        for i, action in zip(ids, actions, strict=True):
            run_steps(group, timed, writer, [i], [action], keep)
            self._answered_at[i] = time.monotonic()
            self._announce(ticket, [i], extras)
            extras.clear()

    def _announce(self, ticket: int, ids: Sequence[int], extras: list[Extra]) -> None:
        if extras:
            _send_extras(self._channel, extras)
        keep_order()
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
