"""Steps: through the slab where the workers reach it, as requests elsewhere.

::

    front ── actions ──> StepDispatcher ── slab, or Steps ──> Worker
    front <── outcomes, a batch, or a row of a block ──────── slab, and what has no place there

A sampler's step is done when it is announced in the slab, or when something arrived in its stead:
a worker's death, or the reply to a request. What arrived stands beside what the workers wrote and
is put into their row where a batch is wanted.
"""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.batch import PlainStep, StepBatch
from vectasks.dispatch import Dispatcher
from vectasks.errors import ResourceLimit
from vectasks.host import HostPlan
from vectasks.ledger import Ledger
from vectasks.messages import Command, Failure, Reply, StepOutcome
from vectasks.restarts import Death
from vectasks.spaces import dispatch_rows, own
from vectasks.workers.base import Worker
from vectasks.workers.blocks import Block, BlocksMoved
from vectasks.workers.cores import current_core, own_core, polls_before_blocking, yield_core
from vectasks.workers.inline import InlineWorker
from vectasks.workers.lane import Steps
from vectasks.workers.layout import NOTE_BYTES, Layout
from vectasks.workers.memory import SharedMemory
from vectasks.workers.parent_lane import ParentLane
from vectasks.workers.slab import EXHAUSTED, Extra
from vectasks.workers.worker_lane import run_steps

_FIRST_NAP_S, _LONGEST_NAP_S = 0.005, 0.2


def _laid_out(layout: Layout, memory: SharedMemory) -> tuple[Layout, Any]:
    """A layout, with notes if there is room for them, and the memory for it, mapped.

    Raises:
        OSError: there is not so much memory.
    """
    with_notes = layout._replace(note_bytes=NOTE_BYTES)
    try:
        memory.resize(with_notes.size_bytes())
        return with_notes, memory.map(with_notes.size_bytes())
    except OSError:  # the address space is limited, perhaps: these are a mebibyte a sampler
        memory.resize(layout.size_bytes())
        return layout, memory.map(layout.size_bytes())


class StepDispatcher(Dispatcher):
    """A dispatcher whose workers may step on shared memory.

    Args:
        workers: every sampler id is in exactly one of them.
        plans: what each sampler's host is made from, by id.
        ledger: is told of every request and every reply.
        memory: where the slab will be; the workers were given it. None: steps are requests.
        restart_dead_workers: whether a dead worker is begun anew by itself.
        max_restarts: how often within five minutes, all workers together.
    """

    moves: int  # the requests' are counted by the dispatcher, the steps' here

    def __init__(
        self,
        workers: Sequence[Worker],
        plans: Sequence[HostPlan],
        ledger: Ledger,
        *,
        memory: SharedMemory | None,
        restart_dead_workers: bool,
        max_restarts: float,
    ) -> None:
        super().__init__(
            workers,
            plans,
            ledger,
            restart_dead_workers=restart_dead_workers,
            max_restarts=max_restarts,
        )
        self._memory = memory
        self._slab_is_reached = False
        self._actions_go_by_slab = False
        self._actions_sent: dict[int, Any] = {}  # of the last step that went by message
        self._lane: ParentLane | None = None
        self._here: InlineWorker | None = None  # steps at once, without tickets
        self._own_cores = [own_core(number, len(workers)) for number in range(len(workers))]
        self._polls = polls_before_blocking(len(workers))
        # Once so many steps were sent, the batch after the next is to be timed (here, never).
        self._time_after: float = math.inf

    # -- the slab -------------------------------------------------------------------------------

    def open_lane(self, layout: Layout, *, use: bool, strict: bool) -> None:
        """Lay the slab out.

        Args:
            layout: what it holds.
            use: whether the workers use it; otherwise it only serves to make batches here.
            strict: whether a leaf that does not fit it is an error.

        Raises:
            ResourceLimit: there is not enough memory, and ``strict``; otherwise steps are requests.
        """
        mapped = None
        if self._memory is not None:
            try:
                layout, mapped = _laid_out(layout, self._memory)
            except OSError as error:
                told = f"There is no shared memory of {layout.size_bytes()} bytes: {error}."
                if strict:
                    raise ResourceLimit(told) from error
                use = False
                warnings.warn(
                    f"{told} Steps go by pipes, which is slower.", RuntimeWarning, stacklevel=2
                )
        lane = self._lane = ParentLane(layout, mapped, strict)
        self._slab_is_reached = use
        self._actions_go_by_slab = layout.action is not None and all(
            worker.reads_actions_from_slab for worker in self.workers
        )
        if use:
            if len(self.workers) == 1 and lane.takes_rows_here:
                (worker,) = self.workers
                self._here = worker if isinstance(worker, InlineWorker) else None
            for worker in self.workers:
                if worker.number not in self._dead:
                    self._reach(worker, functools.partial(worker.attach, lane))

    def tickets_at(self) -> tuple[int, int, int] | None:
        """The slab's inode, and where in it the tickets asked and answered stand, in bytes."""
        if self._lane is None or self._memory is None or not self._slab_is_reached:
            return None
        slab = self._lane.slab
        inode = os.fstat(self._memory.fd).st_ino
        return inode, slab.offset_of("asked"), slab.offset_of("answered")

    def add_block(self, num_rows: int) -> Block:
        """Lay out further rows, for steps to be written to; all workers are idle.

        Raises:
            OSError: there is not enough memory.
        """
        lane = self._lane
        assert lane is not None
        block = lane.add_block(num_rows, self._memory)
        if self._memory is not None:
            for worker in self.workers:
                if worker.number not in self._dead:
                    parcel = worker.pack(BlocksMoved(lane.blocks.places()))
                    self._reach(worker, functools.partial(worker.post, parcel))
        return block

    # -- a step out, and waiting ------------------------------------------------------------------

    def send_step(
        self,
        ids: Sequence[int],
        actions: Any,
        *,
        as_batch: bool,
        one_by_one: bool = False,
        to_hand_out: bool = False,
        into: tuple[Block, int] | None = None,
    ) -> None:
        """Begin one step of some samplers.

        Args:
            ids: whose; their states were checked before.
            actions: an array [n, ...], as the slab holds it, or a list of what each task receives.
            as_batch: it will be taken by :meth:`take_batch`.
            one_by_one: samplers are waited for one by one, so each is announced at once.
            to_hand_out: :meth:`take_batch` will take it without ``out``, or
                :meth:`take_outcomes` where it is no batch; what they give may be the slab itself.
            into: write it to this row of this block; :meth:`take_infos` will take it.
        """
        self.moves += 1
        if self._ledger.steps_sent >= self._time_after:
            self._time_next()
        lane = self._lane
        ticket = 0
        if lane is not None:
            ticket = lane.begin(
                ids, as_batch=as_batch, one_by_one=one_by_one, to_hand_out=to_hand_out, into=into
            )
        if lane is None or not self._slab_is_reached:
            rows = dispatch_rows(actions)
            self.send([(i, Command.STEP, row) for i, row in zip(ids, rows, strict=True)])
            return
        if self._owed and not self._owed.keys().isdisjoint(ids):
            by_id = dict(zip(ids, dispatch_rows(actions), strict=True))
            self.send([(i, Command.STEP, None) for i in ids if i in self._owed])
            ids = [i for i in ids if i not in self._wanted]
            actions = [by_id[i] for i in ids]
        workers = self._workers_of(ids)
        try:
            if self._actions_go_by_slab and isinstance(actions, np.ndarray):
                self.journal.steps(ids, actions)
                lane.ask(ids, actions, ticket)
                self._ledger.open_step(ids)
                for worker in workers:
                    lane.ring(worker.number)
                lane.fence()  # between the bells and the look at who is asleep
                asleep = [worker for worker in workers if lane.is_asleep(worker.number)]
                for worker in self._in_order_of_waking(asleep):
                    self._reach(worker, worker.wake)
            else:
                by_id = dict(zip(ids, dispatch_rows(actions), strict=True))
                parcels = []
                for worker in workers:
                    its = {i: by_id[i] for i in worker.sampler_ids if i in by_id}
                    parcels.append(worker.pack(Steps(ticket, its)))
                kept = own(actions)
                self.journal.steps(ids, kept)
                self._actions_sent.update(zip(ids, dispatch_rows(kept), strict=True))
                self._ledger.open_step(ids)
                for worker, parcel in zip(workers, parcels, strict=True):
                    self._reach(worker, functools.partial(worker.post, parcel))
        except KeyboardInterrupt:
            if all(isinstance(worker, InlineWorker) for worker in workers):
                self.take_outcomes(ids)
            raise

    def _send_alone(self, worker: Worker, reply: Reply) -> None:
        i = reply.sampler_id
        if reply.seq != 0:
            super()._send_alone(worker, reply)
        elif self._lane is not None and not self._lane.has_answered(i):
            steps = Steps(self._lane.tickets[i], {i: self._actions_sent[i]})
            self._reach(worker, lambda: worker.post(worker.pack(steps)))

    def _in_order_of_waking(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Last who wakes up on our own core: it may keep us from waking another."""
        if len(workers) < 2 or self._own_cores[0] is None:
            return workers
        core = current_core()
        return sorted(workers, key=lambda worker: self._own_cores[worker.number] == core)

    def _time_next(self) -> None:
        """Have the next batch timed; never called where nothing is."""

    @property
    def steps_here(self) -> bool:
        """Whether :meth:`step_here` can be used: tasks are in this process, and small."""
        return self._here is not None

    def step_here(
        self,
        ids: Sequence[int],
        actions: Sequence[Any],
        written_down: Any,
        out: StepBatch | None,
        copy: bool,
    ) -> PlainStep | StepBatch | dict[int, Any]:
        """Send, wait and take in one, where nothing is sent and nobody waits.

        Short tasks take less time than tickets, bells and notes do; and most steps give no more
        than what is in the row.

        Args:
            ids: whose; their states were checked before.
            actions: what each task receives.
            written_down: the same for the journal; nobody may write into it later.
            out: write into the arrays of this batch.
            copy: as for :meth:`take_batch`.
        """
        lane, worker, ledger = self._lane, self._here, self._ledger
        assert lane is not None
        assert worker is not None
        self.moves += 1
        if ledger.steps_sent >= self._time_after:
            self._time_next()
        extras: list[Extra] = []
        try:
            ledger.stepping_here = ids
            ledger.steps_sent += len(ids)
            timed, row = bool(lane.timed), worker.working_row
            run_steps(worker.group, timed, row, ids, actions, extras.append, owned=True)
            is_plain = out is None and len(ids) == lane.layout.num_samplers
            step = lane.plain_step(extras) if is_plain else None
            if step is not None:
                for i, (_, _, exhausted) in step.ends.items():
                    if exhausted:
                        ledger.settle_step(i, exhausted, failed=False)
                self.journal.stepped(written_down, step)
                return step
            self._bring_in(lane, ids, written_down, extras)
            return self.take_batch(ids, out, copy)
        except BaseException:  # Ctrl-C: no step stays out
            self._bring_in(lane, ids, written_down, extras)
            self.take_outcomes(ids)
            raise
        finally:
            ledger.stepping_here = ()

    def _bring_in(
        self, lane: ParentLane, ids: Sequence[int], written_down: Any, extras: Iterable[Extra]
    ) -> None:
        """Announce steps as if they had been asked for; does no more where Ctrl-C had it begun."""
        if not self.journal.has_steps(written_down):
            self.journal.steps(ids, written_down)
        for extra in extras:
            lane.keep(extra)
        lane.answer(ids, lane.begin(ids, as_batch=True))

    def wait_step(self, ids: Sequence[int], count: int, timeout_s: float | None) -> None:
        """Wait until ``count`` of these samplers' steps are done.

        Raises:
            WaitTimeout: fewer are; nothing is lost, and waiting again is allowed.
        """
        lane = self._lane
        if lane is None or not self._slab_is_reached:
            self._wait_for(ids, count, timeout_s, "read_timeout")
            return
        if count == len(ids) and not self._arrived and lane.poll(ids, self._polls):
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        nap_s = _FIRST_NAP_S
        polls_left = 0 if count == len(ids) else self._polls
        while len(self.done_steps(ids)) < count:
            if polls_left > 0:
                polls_left -= 1
                yield_core()
                continue
            remaining = nap_s if deadline is None else min(nap_s, deadline - time.monotonic())
            missing = [i for i in ids if i not in self._arrived and not lane.has_answered(i)]
            if remaining <= 0:
                raise self._timeout(missing, timeout_s or 0.0, "read_timeout")
            workers = self._workers_of(missing)
            lane.fall_asleep()
            if len(self.done_steps(ids)) < count:
                workers = self._wait_for_news(workers, remaining)
            lane.wake_up()
            for worker in workers:
                self._take_in(worker)
            nap_s = min(2 * nap_s, _LONGEST_NAP_S)

    def done_steps(self, ids: Iterable[int]) -> list[int]:
        """Those of these samplers whose step is done."""
        lane = self._lane
        if lane is None or not self._slab_is_reached:
            return [i for i in ids if i in self._arrived]
        return [i for i in ids if i in self._arrived or lane.has_answered(i)]

    def earliest(self, ids: Iterable[int], count: int) -> list[int]:
        """The first ``count`` of these samplers to be done with their steps, in id order."""
        done = self.done_steps(ids)
        lane = self._lane
        if lane is not None and self._slab_is_reached:
            # What came by another way than the slab (a death) is old news already.
            done.sort(key=lambda i: -1.0 if i in self._arrived else lane.answered_at(i))
        else:
            arrived = list(self._arrived)
            done.sort(key=arrived.index)
        return sorted(done[:count])

    # -- what it gave -----------------------------------------------------------------------------

    def take_outcomes(self, ids: Sequence[int]) -> dict[int, Any]:
        """Each sampler's StepOutcome (or Failure, or Death); each is handed out once."""
        lane = self._lane
        if lane is None or not self._slab_is_reached:
            return self.take(ids)
        self._take_extras(lane, ids)
        if not self._arrived:
            return self._take_written(lane, ids)
        here = [i for i in ids if i in self._arrived]
        written = self._take_written(lane, [i for i in ids if i not in self._arrived])
        values = {**written, **self.take(here)}
        return {i: values[i] for i in ids}

    def check_out(self, out: StepBatch, count: int) -> None:
        """Refuse a batch that ``count`` samplers' steps cannot be written into."""
        assert self._lane is not None
        self._lane.check_out(out, count)

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """The steps of these samplers as arrays; as outcomes by id if one of them failed."""
        lane = self._lane
        assert lane is not None
        failed = self._put_into_row(lane, ids)
        if failed is not None:
            return failed
        batch = lane.batch(ids, out, copy)
        self._settle_row(ids, batch.exhausted)
        return batch

    def take_infos(
        self, ids: Sequence[int], block: Block, index: int
    ) -> tuple[dict[int, dict[str, Any]], dict[int, Any] | None]:
        """Take a step of some samplers, or of all, that was written to a block's row.

        Returns:
            the infos that are not empty, by id; and all outcomes by id if one of them failed.
        """
        lane = self._lane
        assert lane is not None
        failed = self._put_into_row(lane, ids)
        if failed is not None:
            self.let_go_of_block()
            return {}, failed
        flags = block.slab["flags"][index]
        its = flags if len(ids) == len(flags) else flags[ids]
        self._settle_row(ids, its & EXHAUSTED)
        self.let_go_of_block()
        return lane.take_infos(ids), None

    def let_go_of_block(self) -> None:
        """Hold the block no longer that steps were written to, once none of them is out."""
        if self._lane is not None and self._ledger.step_ids is None:
            self._lane.blocks.in_use = None

    def _put_into_row(self, lane: ParentLane, ids: Sequence[int]) -> dict[int, Any] | None:
        """Write what came another way beside what the workers wrote; all outcomes if one failed."""
        if self._slab_is_reached:
            self._take_extras(lane, ids)
        if self._arrived:
            failed = [i for i in ids if isinstance(self._arrived.get(i), (Failure, Death))]
            for i in ids:
                if i in self._arrived and i not in failed:
                    lane.put(i, lane.tickets[i], self._arrived.pop(i))
                    self._wanted.discard(i)
            if failed:
                values = self.take(failed)
                values.update(self._take_written(lane, [i for i in ids if i not in values]))
                return {i: values[i] for i in ids}
        return self._take_written(lane, ids) if lane.failures(ids) else None

    def _settle_row(self, ids: Sequence[int], exhausted: NDArray[Any]) -> None:
        self._ledger.settle_steps(ids)
        if exhausted.tobytes().strip(b"\0"):
            for i, is_exhausted in zip(ids, exhausted.tolist(), strict=True):
                if is_exhausted:
                    self._ledger.settle_step(i, exhausted=True, failed=False)

    def batch_of(
        self, outcomes: Mapping[int, StepOutcome], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Outcomes that were taken already, as arrays."""
        lane = self._lane
        assert lane is not None
        ids = list(outcomes)
        for i, outcome in outcomes.items():
            lane.put(i, lane.tickets[i], outcome)
        failures = lane.take_failures(ids)
        for i in failures:
            self._ledger.fail(i)
        return {**outcomes, **failures} if failures else lane.batch(ids, out, copy)

    def _take_written(self, lane: ParentLane, ids: Sequence[int]) -> dict[int, Any]:
        values: dict[int, Any] = dict(zip(ids, lane.outcomes(ids), strict=True))
        self._ledger.settle_steps(ids)
        for i, outcome in values.items():
            if type(outcome) is Failure:
                self._ledger.fail(i)
            elif type(outcome) is StepOutcome and outcome.exhausted:
                self._ledger.settle_step(i, exhausted=True, failed=False)
        lane.warn_of_detours()
        return values

    def _take_extras(self, lane: ParentLane, ids: Sequence[int]) -> None:
        """Take in what of these steps is no array: notes, and what was sent before they ended."""
        written = [i for i in ids if i not in self._arrived] if self._arrived else ids
        for i in lane.owing(written):
            while i not in self._arrived and lane.needs_extra(i):
                self._take_in(self._worker_of[i])
                if i in self._unread and i not in self._arrived and lane.needs_extra(i):
                    self._ledger.fail(i)
                    self._wanted.add(i)
                    self._arrived[i] = self._unread[i]
        for i in ids if self._unread else ():
            self._unread.pop(i, None)

    # -- the end ----------------------------------------------------------------------------------

    def _has_done_its_steps(self, worker: Worker) -> bool:
        """Whether steps are out in a worker, and all of them are done and written."""
        out = [r for i in worker.sampler_ids if (r := self._ledger.outstanding(i)) is not None]
        return bool(out) and all(r.seq == 0 and self._is_written(r.sampler_id) for r in out)

    def _is_written(self, sampler_id: int) -> bool:
        """Whether all that the step that is out gave is here."""
        lane = self._lane
        return lane is not None and lane.has_answered(sampler_id) and not lane.owing([sampler_id])

    def _written_outcome(self, sampler_id: int) -> Any:
        """What the step that is out gave, if all of it was written before the worker died."""
        if self._lane is None or not self._is_written(sampler_id):
            return None
        return self._lane.outcome(sampler_id)

    def close(self, grace_s: float) -> list[tuple[int, Failure]]:
        """End every worker, and let go of the slab."""
        try:
            return super().close(grace_s)
        finally:
            # The mapping, which holds a descriptor, goes with the last array on it.
            self._lane = self._here = None
            if self._memory is not None:
                self._memory.close()
