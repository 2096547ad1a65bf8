"""Steps through memory that the parent and its worker processes share.

How both sides tell each other what is new there is said in ``workers/lane.py``. A sampler's step is
done when it is announced, or when something came in its stead: a worker's death, or the answer to a
request. What came stands beside what the workers wrote, and is put into their row where a batch is
wanted.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vectasks.batch import StepBatch
from vectasks.spaces import ActionBatches, copy_arrays, dispatch_rows
from vectasks.transport.base import Exchange, StepTransport
from vectasks.transport.compiled import core
from vectasks.transport.cpu import current_core, own_core, polls_before_blocking, yield_core
from vectasks.transport.memory import SharedMemory
from vectasks.transport.rollout_rows import RolloutRows, RowsMoved
from vectasks.transport.step_buffer import OutOfBand
from vectasks.transport.step_protocol import Attach, Fence, Steps, keep_order, words
from vectasks.transport.step_results import StepForm, StepResults

_FIRST_NAP_S, _LONGEST_NAP_S = 0.005, 0.2


class SharingWorker(Protocol):
    """What of a worker is needed to share memory with it."""

    number: int
    sampler_ids: tuple[int, ...]

    def attach(self, steps: SharedMemoryTransport) -> None:
        """Use the shared memory for steps from now on."""

    def pack(self, message: Any) -> Any:
        """Make a message ready for :meth:`post`."""

    def post(self, packed: Any) -> None:
        """Hand over a packed message."""

    def wake(self) -> None:
        """Wake it up: it sleeps, and is asked for steps."""


class Signals:
    """The parent's side of the words by which it and the workers announce what is new.

    Args:
        results: over the shared memory.
    """

    def __init__(self, results: StepResults) -> None:
        step_buffer = self._step_buffer = results.step_buffer
        self._results = results
        self._num_samplers = results.layout.num_samplers
        self._all_ids = list(range(self._num_samplers))
        self._step_bell = [words(line) for line in step_buffer["step_bell"]]
        self._message_bell = [words(line) for line in step_buffer["message_bell"]]
        self._asleep = [words(line) for line in step_buffer["asleep"]]
        self._parent_asleep = words(step_buffer["parent_asleep"])
        self._answered = words(step_buffer["answered"])
        self.fence: Fence = Fence()

    def ask(self, ids: Sequence[int], actions: Any, ticket: int) -> None:
        """Put actions and tickets into the memory; :meth:`ring` announces them."""
        where: Any = slice(None) if ids == self._all_ids else list(ids)
        self._step_buffer["action"][where] = actions
        keep_order()
        self._step_buffer["asked"][where] = ticket
        keep_order()  # before the bell

    def ring(self, worker: int) -> None:
        """Announce to a worker that samplers of its were asked."""
        self._step_bell[worker][0] += 1

    def announce_message(self, worker: int) -> None:
        """Announce that a message was sent."""
        self._message_bell[worker][0] += 1

    def is_asleep(self, worker: int) -> bool:
        """Tell whether a worker is blocked and wants a ring on its channel."""
        return bool(self._asleep[worker][0])

    def forget(self, worker: int, sampler_ids: Sequence[int]) -> tuple[int, int]:
        """Call off what a worker's predecessor was asked; the values of its two bells."""
        for i in sampler_ids:
            self._step_buffer["asked"][i] = self._step_buffer["answered"][i] = 0
        self._asleep[worker][0] = 0
        return self._step_bell[worker][0], self._message_bell[worker][0]

    def has_answered(self, sampler_id: int) -> bool:
        """Tell whether the sampler's step is done and written."""
        return bool(self._answered[sampler_id] == self._results.tickets[sampler_id])

    def answered_at(self, sampler_id: int) -> float:
        """Tell when it was, in seconds of ``time.monotonic``."""
        return float(self._step_buffer["answered_at"][sampler_id])

    def poll(self, sampler_ids: Sequence[int], polls: int) -> bool:
        """Look so often and no more whether all of these have answered."""
        tickets, answered = self._results.tickets, self._answered
        if self._results.common and len(sampler_ids) == self._num_samplers:
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
        """Need no more rings."""
        self._parent_asleep[0] = 0


class SharedMemoryTransport(StepTransport):
    """Carries steps through shared memory; what has no place there goes by the workers' channels.

    Args:
        results: over the shared memory.
        memory: where that is.
        workers: all of which can map it.
        exchange: the requests of the vector.
    """

    def __init__(
        self,
        results: StepResults,
        memory: SharedMemory,
        workers: Sequence[SharingWorker],
        exchange: Exchange,
    ) -> None:
        super().__init__(results)
        self._results = results
        self.signals: Signals = Signals(results)
        self._memory = memory
        self._workers = workers
        self._exchange = exchange
        self._homes = exchange.homes
        self._homes.show_in(results.step_buffer["home"])
        self._held: set[int] = set()  # their outcomes are here, and their next tasks are not
        self._given_back_at: dict[int, float] = {}
        self._answers = exchange.answers
        self._usual_steps: Any = None
        self._actions_sent: dict[int, Any] = {}  # of the last step that went by message
        self._has_action_rows = results.layout.action is not None
        self._own_cores = [own_core(number, len(workers)) for number in range(len(workers))]
        self._polls = polls_before_blocking(len(workers))

    def attach(self, workers: Iterable[SharingWorker]) -> None:
        """Tell workers where the memory is laid out."""
        for worker in workers:
            self._exchange.reach(worker, functools.partial(worker.attach, self))

    def attach_message(self, worker: SharingWorker) -> Attach:
        """Say how a worker finds its place; steps that its predecessor was asked for are off."""
        results = self._results
        residents = self._homes.ids_in(worker)
        step_bell, message_bell = self.signals.forget(worker.number, residents)
        results.forget(residents)
        return Attach(
            results.layout,
            worker.number,
            worker.sampler_ids,
            results.strict,
            results.row_sets.places(),
            step_bell,
            message_bell,
        )

    def keep(self, extras: Iterable[OutOfBand]) -> None:
        """Keep what a worker sent ahead of its steps, until these are taken."""
        for extra in extras:
            self._results.keep(extra)

    @property
    def tickets_at(self) -> tuple[int, int, int] | None:
        """The memory's inode, and where in it the tickets asked and answered stand, in bytes."""
        step_buffer = self._results.step_buffer
        inode = os.fstat(self._memory.fd).st_ino
        return inode, step_buffer.offset_of("asked"), step_buffer.offset_of("answered")

    def add_rows(self, num_rows: int, living: Iterable[Any]) -> RolloutRows:
        """Lay out further rows in the memory, and tell the workers."""
        rollout_rows = self._results.add_rollout_rows(num_rows, self._memory)
        for worker in living:
            packed = worker.pack(RowsMoved(self._results.row_sets.places()))
            self._exchange.reach(worker, functools.partial(worker.post, packed))
        return rollout_rows

    # -- a step out -------------------------------------------------------------------------------

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Ask for steps in the memory, or by message where actions have no place there."""
        ticket = self._results.begin(ids, form, timed=self.is_timed)
        if self._held:  # what they still held was dropped
            self._held.difference_update(ids)
        for i in ids if self._given_back_at else ():
            self._given_back_at.pop(i, None)
        if by_request:
            rows = dict(zip(ids, dispatch_rows(actions), strict=True))
            ids = [i for i in ids if i not in by_request]
            actions = [rows[i] for i in ids]
        workers = self._homes.of_all(ids)
        if not self._has_action_rows or not isinstance(actions, np.ndarray):
            self._send(workers, dict(zip(ids, dispatch_rows(actions), strict=True)), ticket)
            return
        signals = self.signals
        self._exchange.open_steps(ids, actions)
        signals.ask(ids, actions, ticket)
        for worker in workers:
            signals.ring(worker.number)
        signals.fence()  # between the bells and the look at who is asleep
        asleep = [worker for worker in workers if signals.is_asleep(worker.number)]
        for worker in self._in_order_of_waking(asleep):
            self._exchange.reach(worker, worker.wake)

    def _send(
        self, workers: Sequence[SharingWorker], actions: Mapping[int, Any], ticket: int
    ) -> None:
        packed_messages = []
        for worker in workers:
            its = {i: actions[i] for i in self._homes.ids_in(worker) if i in actions}
            packed_messages.append(worker.pack(Steps(ticket, its)))
        kept = copy_arrays(list(actions.values()))  # what the caller holds may change
        self._exchange.open_steps(list(actions), kept)
        self._actions_sent.update(zip(actions, kept, strict=True))
        for worker, packed in zip(workers, packed_messages, strict=True):
            self._exchange.reach(worker, functools.partial(worker.post, packed))

    def send_again(self, sampler_id: int) -> None:
        """Send the sampler's action by a message of its own."""
        if self.signals.has_answered(sampler_id):
            return
        ticket, worker = self._results.tickets[sampler_id], self._homes.of(sampler_id)
        steps = Steps(ticket, {sampler_id: self._actions_sent[sampler_id]})
        self._exchange.reach(worker, lambda: worker.post(worker.pack(steps)))

    def _in_order_of_waking(self, workers: Sequence[SharingWorker]) -> Sequence[SharingWorker]:
        """Put last who wakes up on our own core: it may keep us from waking another."""
        if len(workers) < 2 or self._own_cores[0] is None:
            return workers
        core = current_core()
        return sorted(workers, key=lambda worker: self._own_cores[worker.number] == core)

    def usual_steps(self, batches: ActionBatches, hooks: Any) -> Any:
        """Make what steps all samplers, compiled."""
        results = self._results
        steps = results.usual_steps(core and core.UsualStepsOfWorkers, batches, hooks)
        if steps is not None:
            steps.share(results.step_buffer, self._homes.residents, self._polls, self._wake)
            self._usual_steps = steps
        return steps

    def _wake(self, numbers: Sequence[int]) -> bool:
        """Wake workers that are asleep; False: one is gone, which waiting for it will show."""
        workers = self._in_order_of_waking([self._workers[number] for number in numbers])
        return all([self._exchange.can_reach(worker, worker.wake) for worker in workers])

    def take_plain_extras(self, ids: Sequence[int]) -> dict[int, OutOfBand] | None:
        """Collect out-of-band data first."""
        self._collect_extras(ids)
        return None if self._answers else self._results.take_plain_extras(ids)

    # -- waiting ----------------------------------------------------------------------------------

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Poll for a while, then block on the workers' channels."""
        signals = self.signals
        is_usual = count == len(ids) and not self._answers and not self._held
        if is_usual and signals.poll(ids, self._polls):
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        nap_s = _FIRST_NAP_S
        polls_left = 0 if count == len(ids) else self._polls
        while len(self._done(ids)) < count:
            if polls_left > 0:
                polls_left -= 1
                yield_core()
                continue
            remaining = nap_s if deadline is None else min(nap_s, deadline - time.monotonic())
            missing = [i for i in ids if not self._is_done(i)]
            if remaining <= 0 and late_is_fine:
                return
            if remaining <= 0:
                raise self._exchange.timeout(missing, timeout_s or 0.0)
            workers = self._homes.of_all(missing)
            signals.fall_asleep()
            if len(self._done(ids)) < count:
                workers = self._exchange.wait_for_news(workers, remaining)
            signals.wake_up()
            for worker in workers:
                self._exchange.take_in(worker)
            nap_s = min(2 * nap_s, _LONGEST_NAP_S)

    def _is_done(self, sampler_id: int) -> bool:
        return sampler_id in self._answers or (
            sampler_id not in self._held and self.signals.has_answered(sampler_id)
        )

    def _done(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if self._is_done(i)]

    def earliest(self, ids: Iterable[int], count: int) -> list[int]:
        """Sort by the time at which each was announced."""
        return sorted(sorted(self._done(ids), key=self._done_at)[:count])

    def _done_at(self, sampler_id: int) -> float:
        """When its step was announced, or its next task was there."""
        if sampler_id in self._given_back_at:
            return self._given_back_at[sampler_id]
        # What came by another way than the memory (a death) is old news already.
        return -1.0 if sampler_id in self._answers else self.signals.answered_at(sampler_id)

    # -- what it gave -----------------------------------------------------------------------------

    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Read outcomes out of the memory, beside those that came another way."""
        self._collect_extras(ids)
        answers, written = self._answers, ids
        if answers:
            written = [i for i in ids if i not in answers]
        outcomes: dict[int, Any] = dict(zip(written, self._results.outcomes(written), strict=True))
        if len(written) == len(ids):
            return outcomes
        outcomes.update(self._exchange.take([i for i in ids if i in answers]))
        return {i: outcomes[i] for i in ids}

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Give the memory's rows, or copies of them."""
        self._collect_extras(ids)
        return self._results.bring_in(ids, self._exchange) or self._results.batch(ids, out, copy)

    def take_rows(self, ids: Sequence[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
        """Leave everything where the workers wrote it."""
        self._collect_extras(ids)
        failed = self._results.bring_in(ids, self._exchange)
        return ({}, failed) if failed else (self._results.take_infos(ids), {})

    def _collect_extras(self, ids: Sequence[int]) -> None:
        """Collect the steps' data that is no array: out-of-band data, and what was sent ahead."""
        results, answers = self._results, self._answers
        written = [i for i in ids if i not in answers] if answers else ids
        for i in results.owing(written):
            while i not in answers and results.needs_extra(i):
                self._exchange.take_in(self._homes.of(i))
                unread = self._exchange.unread.get(i)
                if unread is not None and i not in answers and results.needs_extra(i):
                    answers[i] = unread
        for i in ids if self._exchange.unread else ():
            self._exchange.unread.pop(i, None)

    def written_outcome(self, sampler_id: int) -> Any:
        """Read what a dead worker's step gave, if all of it was written."""
        if not self.has_written(sampler_id):
            return None
        return self._results.outcomes([sampler_id])[0]

    def has_written(self, sampler_id: int) -> bool:
        """Tell whether all that the step that is out gave is here."""
        return (
            sampler_id not in self._held
            and self.signals.has_answered(sampler_id)
            and not self._results.owing([sampler_id])
        )

    # -- where the vector goes on to the next tasks ------------------------------------------------

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Look at the flags of those that have written."""
        answers, held = self._answers, self._held
        if answers or held:
            ids = [i for i in ids if i not in answers and i not in held]
        return self._results.ended([i for i in ids if self.signals.has_answered(i)])

    def hold(self, sampler_id: int) -> Any:
        """Read the outcome."""
        self._collect_extras([sampler_id])
        if sampler_id in self._answers:  # its worker died before it sent all of that
            return self._exchange.take([sampler_id])[sampler_id]
        self._held.add(sampler_id)
        return self._results.outcome_of(sampler_id)

    def give_back(self, sampler_id: int, outcome: Any) -> None:
        """Let it stand beside what was written."""
        self._held.discard(sampler_id)
        self._given_back_at[sampler_id] = time.monotonic()
        self._answers[sampler_id] = outcome

    # -- what it says of itself --------------------------------------------------------------------

    @property
    def off_buffer(self) -> Sequence[str]:
        """Those without a fixed shape, and those that left the memory once."""
        without = {leaf.name for leaf in self._results.layout.leaves if leaf.dtype is None}
        return sorted(without.union(self._results.detoured))

    def bytes_of(self, num_steps: int) -> Mapping[str, int]:
        """Count what each step moves, and the out-of-band data that was read."""
        layout = self._results.layout
        arrays = [leaf[1:] for leaf in layout.leaves]
        arrays += [] if layout.action is None else [layout.action[1:]]
        step_bytes = sum(
            math.prod(shape) * dtype.itemsize for shape, dtype in arrays if dtype is not None
        )
        out_of_band_bytes = self._results.out_of_band.num_bytes
        if self._usual_steps is not None:
            out_of_band_bytes += self._usual_steps.num_info_bytes
        return {"slab": num_steps * step_bytes, "notes": out_of_band_bytes}

    def close(self) -> None:
        """Let go of all arrays on the memory: its mapping goes with the last of them."""
        super().close()
        self._homes.show_in(np.empty_like(self._results.tickets))
        del self._results, self.signals, self._usual_steps
