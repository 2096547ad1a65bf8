"""The worker's half of shared memory: step what is asked for, and tell what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vectasks.host.step_rows import RowSteps
from vectasks.host.task_host import HostGroup
from vectasks.protocol import Failure
from vectasks.spaces import dispatch_rows
from vectasks.transport.channel import Channel, unsendable
from vectasks.transport.compiled import core
from vectasks.transport.cpu import (
    PROMPT_S,
    WakesOnOwnCore,
    polls_before_blocking,
    yields_promptly,
)
from vectasks.transport.layout import NUM_ROWS
from vectasks.transport.memory import SharedMemory
from vectasks.transport.out_of_band import OutOfBandArea
from vectasks.transport.rollout_rows import RolloutRows, RolloutRowSets, RowsMoved
from vectasks.transport.step_buffer import OutOfBand, StepBuffer
from vectasks.transport.step_protocol import (
    ONE_BY_ONE,
    TIMED,
    Attach,
    Fence,
    RowWriters,
    Steps,
    StepsOutOfBand,
    keep_order,
    row_of,
    words,
)

_FIRST_NAP_MS, _LONGEST_NAP_MS = 5, 200


class StepServer:
    """The worker's half.

    Args:
        attach: what the parent told.
        memory: where the step buffer is, and the blocks behind it.
        channel: for extras and rings.
        group: the hosts to step.
    """

    def __init__(
        self, attach: Attach, memory: SharedMemory, channel: Channel, group: HostGroup
    ) -> None:
        step_buffer = StepBuffer(attach.layout, memory.map(attach.layout.size_bytes()))
        w = attach.worker
        self._memory = memory
        self._layout, self._strict = attach.layout, attach.strict
        self._row_sets = RolloutRowSets()
        self._held_row_sets: list[RolloutRows] = []
        self._channel = channel
        self._extras: list[OutOfBand] = []  # to be sent before the steps are announced
        self._rows = RowSteps(group, self._keep)
        self._ids = attach.sampler_ids
        self._number = w
        self.row_writers: RowWriters = RowWriters(
            step_buffer, attach.sampler_ids, attach.strict, self._row_sets
        )
        self.move_row_sets(RowsMoved(attach.row_sets))
        self._step_bell = words(step_buffer["step_bell"][w])
        self._message_bell = words(step_buffer["message_bell"][w])
        self._asleep = words(step_buffer["asleep"][w])
        self._parent_asleep = words(step_buffer["parent_asleep"])
        self._asked = words(step_buffer["asked"])
        self._answered = words(step_buffer["answered"])
        self._home = words(step_buffer["home"])
        self._answered_at = words(step_buffer["answered_at"])
        self._out_of_band = OutOfBandArea(step_buffer)
        last = np.zeros(attach.layout.num_samplers, np.int64)
        self._last = words(last)  # the tickets that were answered last
        self._action: Any = step_buffer.get("action")
        self.fence: Fence = Fence()
        self._seen_steps = attach.step_bell
        self._seen_messages = attach.message_bell
        self._polls = polls_before_blocking(attach.layout.num_workers)
        self._wakes_on_own_core = WakesOnOwnCore(w, attach.layout.num_workers)
        self._compiled: Any = None
        if step_buffer.compiled is not None and self._action is not None:
            self._compiled = core.WorkerSteps(
                step_buffer,
                w,
                attach.sampler_ids,
                attach.layout.has_integer_actions,
                last,
                group.hosts,
                self.row_writers.at,
                self._write_unusual,
                self._rows.keep_info,
                self._extras,
                self._send_extras,
                channel.ring,
            )

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
                if message_bell[0] > self._seen_messages and self._is_asked_for_rollout_rows():
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
                polls_left = self._poll(polls_left)
            elif self._sleep(nap_ms):  # the message came before its bell
                self._seen_messages += 1
                return self._channel.receive_blocking()
            else:
                nap_ms = min(2 * nap_ms, _LONGEST_NAP_MS)

    def _poll(self, polls_left: int) -> int:
        """Look whether a bell has rung, and give the core up; how many looks are left.

        Who polls on beside somebody else may be moved to where a mate is to wake up.
        """
        if self._compiled is None:
            return polls_left - 1 if yields_promptly() else 0
        has_rung = self._compiled.poll(self._seen_steps, self._seen_messages, polls_left, PROMPT_S)
        return polls_left if has_rung else 0

    def _is_asked_for_rollout_rows(self) -> bool:
        return any(row_of(ticket) >= NUM_ROWS for ticket in self._asked_here().values())

    def _asked_here(self) -> dict[int, int]:
        """Find the steps that are asked for and to be made here: tickets by sampler id."""
        asked, answered, last, home = self._asked, self._answered, self._last, self._home
        # What came by message was answered, and never asked here; what a spare was asked, it
        # answered before the sampler moved here.
        new = {i: asked[i] for i in self._ids if last[i] < asked[i] > answered[i]}
        keep_order()
        return {i: ticket for i, ticket in new.items() if home[i] == self._number}

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
        if self._compiled is not None and self._compiled.serve():
            return
        asked = self._asked_here()
        for ticket in sorted(set(asked.values())):
            ids = [i for i in asked if asked[i] == ticket]
            self._run(ticket, ids, dispatch_rows(self._action[ids]))

    def serve_message(self, steps: Steps) -> None:
        """Steps whose actions came by message."""
        self._run(steps.ticket, list(steps.actions), steps.actions.values())

    def fail_step(self, ticket: int, sampler_id: int, failure: Failure) -> None:
        """A step that cannot be made: its action came by message and cannot be unpickled."""
        extra = self.row_writers.at(ticket).fail(sampler_id, failure)
        self._answered_at[sampler_id] = time.monotonic()
        self._keep(extra)
        self._announce(ticket, [sampler_id])

    def move_row_sets(self, moved: RowsMoved) -> None:
        """Map the blocks that there are now, and no others."""
        known = {rollout_rows.place: rollout_rows for rollout_rows in self._held_row_sets}
        self._held_row_sets = [
            known[place]
            if place in known
            else RolloutRows(
                place,
                self._layout,
                self._memory.map(self._layout.size_bytes(place.num_rows), place.offset),
                self._ids,
                self._strict,
            )
            for place in moved.places
        ]
        for rollout_rows in self._held_row_sets:
            self._row_sets.add(rollout_rows)

    def _run(self, ticket: int, ids: Sequence[int], actions: Iterable[Any]) -> None:
        """Step samplers and announce them together, or one by one where that is wanted."""
        rows, writer, timed = self._rows, self.row_writers.at(ticket), bool(ticket & TIMED)
        if not ticket & ONE_BY_ONE:
            rows.run(writer, ids, actions, timed=timed)
            self._announce(ticket, ids)
            return
        for i, action in zip(ids, actions, strict=True):
            rows.run(writer, [i], [action], timed=timed)
            self._answered_at[i] = time.monotonic()
            self._announce(ticket, [i])

    def _write_unusual(
        self, sampler_id: int, action: Any, result: Any, error: BaseException | None
    ) -> None:
        writer = self.row_writers.at(self._compiled.ticket)
        self._rows.write_unusual(writer, sampler_id, action, result, error)

    def _keep(self, extra: OutOfBand) -> None:
        if not self._out_of_band.write(extra):
            self._extras.append(extra)

    def _announce(self, ticket: int, ids: Sequence[int]) -> None:
        if self._extras:
            self._send_extras()
        keep_order()
        answered, last = self._answered, self._last
        for i in ids:
            answered[i] = last[i] = ticket
        self.fence()
        if self._parent_asleep[0]:
            self._channel.ring()

    def _send_extras(self) -> None:
        extras = self._extras.copy()
        self._extras.clear()
        _send_extras(self._channel, extras)


def _send_extras(channel: Channel, extras: list[OutOfBand]) -> None:
    try:
        channel.send_blocking(StepsOutOfBand(extras))
    except OSError:
        raise
    except Exception:  # user code: an info that cannot be pickled fails its own sampler only
        channel.send_blocking(StepsOutOfBand([_sendable(extra) for extra in extras]))


def _sendable(extra: OutOfBand) -> OutOfBand:
    failure = unsendable(extra, "step")
    return extra if failure is None else OutOfBand(extra.sampler_id, failure=failure)
