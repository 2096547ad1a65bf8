"""Sending requests to workers and matching what comes back.

::

    front ── Request ──> Dispatcher ── by sampler id ──> Worker ── TaskHost
    front <── value ──── Dispatcher <── Reply (id, seq) ── Worker

One request a sampler may be out at a time. What arrives is kept by sampler id until it is taken;
a reply whose caller gave up is dropped when it comes. A worker's death is an event like a reply:
it answers for every request that was out in that worker, either as :class:`Death` or, where
workers are restarted, as the truncated outcome of the restarted sampler.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.batch import StepBatch
from vectasks.errors import ResourceLimit, WaitTimeout
from vectasks.guard import ctrl_c
from vectasks.host import HostPlan, HostReady
from vectasks.journal import Journal
from vectasks.ledger import Ledger, SamplerState
from vectasks.messages import Command, Failure, Reply, Request, StepOutcome, TaskStart
from vectasks.restarts import Death, RestartLimit
from vectasks.spaces import dispatch_rows, own
from vectasks.workers import stacks
from vectasks.workers.base import Unreadable, Worker, WorkerEnded
from vectasks.workers.blocks import Block, BlocksMoved
from vectasks.workers.ending import end_workers, wait_for_news
from vectasks.workers.inline import InlineWorker
from vectasks.workers.lane import ParentLane, Steps, polls_before_blocking, yield_core
from vectasks.workers.slab import EXHAUSTED, Layout, SharedMemory

logger: logging.Logger = logging.getLogger("vectasks")

_FIRST_NAP_S, _LONGEST_NAP_S = 0.005, 0.2

# Asked of a sampler whose worker is dead, these begin the worker anew.
_REVIVING = frozenset({Command.NEXT_TASK, Command.RESET, Command.SETUP})

# These leave tasks as they are.
_LOOKING = frozenset(
    {
        Command.OBSERVE,
        Command.RENDER,
        Command.ATTR,
        Command.SAMPLER_ATTR,
        Command.OBSERVATION_SPACE,
        Command.ACTION_SPACE,
        Command.KEEP_FRAMES,
    }
)


class Dispatcher:
    """The workers of one vector, and the requests that they are at.

    Args:
        workers: every sampler id is in exactly one of them.
        plans: what each sampler's host is made from, by id.
        ledger: is told of every request and every reply.
        memory: where the slab will be; the workers were given it. None: steps are requests.
        restart_dead_workers: whether a dead worker is begun anew by itself.
        max_restarts: how often within five minutes, all workers together.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        plans: Sequence[HostPlan],
        ledger: Ledger,
        *,
        memory: SharedMemory | None,
        restart_dead_workers: bool,
        max_restarts: int,
    ) -> None:
        self.restarts: int = 0
        #: Counts whatever may have changed a task: as long as it stays, so do the observations.
        self.moves: int = 0
        self.workers: Sequence[Worker] = workers
        self._plans = list(plans)
        self.journal: Journal = Journal(plans)
        self._ledger = ledger
        self._restart_dead_workers = restart_dead_workers
        self._restart_limit = RestartLimit(max_restarts)
        self._worker_of = {i: worker for worker in workers for i in worker.sampler_ids}
        self._dead: dict[int, Death] = {}  # by worker number
        self._wanted: set[int] = set()  # samplers whose reply somebody will take
        self._arrived: dict[int, Any] = {}
        self._interrupted: dict[int, tuple[Request, Death]] = {}  # restarted in the midst of these
        self._unread: dict[int, Failure] = {}  # a message that could not be rebuilt, mid-step
        self._restarting: dict[int, Death] = {}  # being made anew, not because the user asked
        self._owed: dict[int, Death] = {}  # begun anew, and the user was not told by a step
        self._generation = [0] * len(self._plans)
        self._memory = memory
        self._slab_is_reached = False
        self._actions_go_by_slab = False
        self._lane: ParentLane | None = None
        self._polls = polls_before_blocking(len(workers))

    # -- requests out, values in ----------------------------------------------------------------

    def start(self, ids: Sequence[int], timeout_s: float | None) -> dict[int, Any]:
        """Start every worker and set every host up, side by side; what each set-up gave."""
        for worker in self.workers:
            try:
                worker.start()
            except (OSError, EOFError) as error:
                raise ResourceLimit(
                    f"Worker {worker.number} of {len(self.workers)} could not be started: {error}. "
                    "None is left running; give a smaller max_processes, or raise the limit."
                ) from error
        self.send([(i, Command.SETUP, self._plans[i]) for i in ids])
        self.wait(ids, timeout_s, "start_timeout_s")
        return self.take(ids)

    def send(self, orders: Iterable[tuple[int, Command, Any]]) -> None:
        """Send one command to each of some samplers; their states were checked before.

        Raises:
            Exception: some data cannot be pickled; the samplers of that worker got nothing.
        """
        by_worker: dict[Worker, list[Request]] = {}
        for sampler_id, command, data in orders:
            self.moves += command not in _LOOKING
            if command is Command.STEP and sampler_id in self._owed:
                # It was begun anew since its last step: this one tells so, instead of stepping.
                step = Request(0, sampler_id, Command.STEP)
                self._interrupted[sampler_id] = (step, self._owed.pop(sampler_id))
                command, data = Command.OBSERVE, None
            request = self._ledger.open(sampler_id, command, data)
            self._wanted.add(sampler_id)
            by_worker.setdefault(self._worker_of[sampler_id], []).append(request)
        sent = set()
        try:
            parcels = {worker: worker.pack(requests) for worker, requests in by_worker.items()}
            for worker, requests in by_worker.items():
                for request in requests:
                    self.journal.asked(*request[1:])
                self._send_to(worker, requests, parcels[worker])
                sent.add(worker)
        except BaseException:
            for worker, requests in by_worker.items():
                for request in requests:
                    if request.sampler_id in self._interrupted:
                        self._owed[request.sampler_id] = self._interrupted[request.sampler_id][1]
                    if worker not in sent:
                        self._ledger.withdraw(request)
                self.abandon(request.sampler_id for request in requests)
            raise

    def _send_to(self, worker: Worker, requests: list[Request], parcel: Any) -> None:
        death = self._dead.get(worker.number)
        if death is not None:
            # Only commands that revive are allowed on the samplers of a dead worker.
            for request in requests:
                self._interrupted[request.sampler_id] = (request, death)
            asked = {r.sampler_id: r.data for r in requests if r.command is Command.SETUP}
            self._begin_anew(worker, asked)
            return
        self._reach(worker, functools.partial(worker.post, parcel))

    # -- steps ----------------------------------------------------------------------------------

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
                self._memory.resize(layout.size_bytes())
                mapped = self._memory.map(layout.size_bytes())
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
                for worker in workers:
                    if lane.is_asleep(worker.number):
                        self._reach(worker, worker.wake)
            else:
                by_id = dict(zip(ids, dispatch_rows(actions), strict=True))
                parcels = []
                for worker in workers:
                    its = {i: by_id[i] for i in worker.sampler_ids if i in by_id}
                    parcels.append(worker.pack(Steps(ticket, its)))
                self.journal.steps(ids, own(actions))
                self._ledger.open_step(ids)
                for worker, parcel in zip(workers, parcels, strict=True):
                    self._reach(worker, functools.partial(worker.post, parcel))
        except KeyboardInterrupt:
            if all(isinstance(worker, InlineWorker) for worker in workers):
                self.take_outcomes(ids)
            raise

    def _reach(self, worker: Worker, tell: Callable[[], None]) -> None:
        try:
            tell()
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)

    def _workers_of(self, ids: Sequence[int]) -> Sequence[Worker]:
        if len(ids) == len(self._worker_of):
            return self.workers
        return list({self._worker_of[i]: None for i in ids})

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
        self._settle_row(ids, batch.samplers[batch.exhausted])
        return batch

    def take_infos(
        self, ids: Sequence[int], block: Block, index: int
    ) -> tuple[dict[int, dict[str, Any]], dict[int, Any] | None]:
        """Take a step that was written to a block's row.

        Returns:
            the infos that are not empty, by id; and all outcomes by id if one of them failed.
        """
        lane = self._lane
        assert lane is not None
        failed = self._put_into_row(lane, ids)
        if failed is not None:
            return {}, failed
        self._settle_row(ids, np.flatnonzero(block.slab["flags"][index] & EXHAUSTED))
        return lane.take_infos(ids), None

    def _put_into_row(self, lane: ParentLane, ids: Sequence[int]) -> dict[int, Any] | None:
        """Write what came another way beside what the workers wrote; all outcomes if one failed."""
        if self._slab_is_reached:
            self._take_extras(lane, ids)
        if self._arrived:
            for i in ids:
                if isinstance(self._arrived.get(i), (Failure, Death)):
                    return self.take_outcomes(ids)
            for i in ids:
                if i in self._arrived:
                    lane.put(i, lane.tickets[i], self._arrived.pop(i))
                    self._wanted.discard(i)
        return self._take_written(lane, ids) if lane.failures(ids) else None

    def _settle_row(self, ids: Sequence[int], exhausted: NDArray[Any]) -> None:
        self._ledger.settle_steps(ids)
        for i in exhausted.tolist() if exhausted.size else ():
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
        """Take in what of these steps came by the control lane; it was sent before they ended."""
        for i in lane.owing(ids):
            while i not in self._arrived and lane.needs_extra(i):
                self._take_in(self._worker_of[i])
                if i in self._unread and i not in self._arrived and lane.needs_extra(i):
                    self._ledger.fail(i)
                    self._wanted.add(i)
                    self._arrived[i] = self._unread[i]
        for i in ids if self._unread else ():
            self._unread.pop(i, None)

    # -- waiting ----------------------------------------------------------------------------------

    def wait(
        self,
        ids: Sequence[int],
        timeout_s: float | None,
        limit: str = "read_timeout",
        deadline: float | None = None,
    ) -> None:
        """Wait until each of these samplers has answered: one deadline for all of them.

        Args:
            ids: whose answers.
            timeout_s: for how long.
            limit: the name of the option that says so.
            deadline: when the time is over, where it began to run before this call.

        Raises:
            WaitTimeout: some have not; nothing is lost, and waiting again is allowed.
        """
        self._wait_for(ids, len(ids), timeout_s, limit, deadline)

    def _wait_for(
        self,
        ids: Sequence[int],
        count: int,
        timeout_s: float | None,
        limit: str,
        deadline: float | None = None,
    ) -> None:
        def missing() -> list[int]:
            away = [i for i in ids if i not in self._arrived]
            return away if len(away) > len(ids) - count else []

        if deadline is None and timeout_s is not None:
            deadline = time.monotonic() + timeout_s
        self._take_in_until_none(missing, deadline, timeout_s, limit)

    def await_restarts(self, ids: Iterable[int], timeout_s: float | None) -> None:
        """Wait until those of these samplers are there again that are being made anew unasked.

        Raises:
            WaitTimeout: some are not; they go on, and nothing was sent.
        """
        if not self._restarting:
            return
        ids = list(ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._take_in_until_none(
            lambda: [i for i in ids if i in self._restarting],
            deadline,
            timeout_s,
            "start_timeout_s",
        )

    def _take_in_until_none(
        self,
        missing: Callable[[], Sequence[int]],
        deadline: float | None,
        timeout_s: float | None,
        limit: str,
    ) -> None:
        """Take in what comes, at least once, until no sampler is ``missing()`` any more.

        Raises:
            WaitTimeout: some are, when the time is over.
        """
        is_over = False
        while late := missing():
            if is_over:
                raise self._timeout(late, timeout_s or 0.0, limit)
            # Looked at again now and then: where a child of a task's holds all that its dead worker
            # held, nothing tells of the death but the exit code.
            nap_s = _LONGEST_NAP_S
            if deadline is not None:
                nap_s = min(nap_s, max(0.0, deadline - time.monotonic()))
            for worker in self._wait_for_news(self._workers_of(late), nap_s):
                self._take_in(worker)
            is_over = deadline is not None and time.monotonic() >= deadline

    def _wait_for_news(self, workers: Sequence[Worker], timeout_s: float) -> Sequence[Worker]:
        with ctrl_c:
            return wait_for_news(workers, timeout_s)

    def _timeout(self, missing: Sequence[int], timeout_s: float, limit: str) -> WaitTimeout:
        late = []
        is_step = True
        for sampler_id in missing:
            request = self._ledger.outstanding(sampler_id)
            name = request.command.label if request is not None else "its reply"
            is_step &= request is not None and request.command is Command.STEP
            late.append(
                f"sampler {sampler_id} ({name}, worker {self._worker_of[sampler_id].number})"
            )
        collected = " A late step can still be collected by wait_step() or recv()."
        workers = self._workers_of(missing)
        pids = {worker.number: worker.pid for worker in workers if worker.pid is not None}
        looks = stacks.look_at(pids, timeout_s)
        return WaitTimeout(
            f"No answer within {timeout_s:g} s from {', '.join(late)}."
            f"{collected if is_step else ''} {limit} sets how long is waited.\n"
            f"{stacks.describe(looks, pids)}".rstrip(),
            sampler_ids=missing,
            timeout_s=timeout_s,
            stacks={number: look.stack for number, look in looks.items() if look.stack},
        )

    def take(self, ids: Iterable[int]) -> dict[int, Any]:
        """The values that arrived for these samplers; each is handed out once."""
        values = {i: self._arrived.pop(i) for i in ids}
        self._wanted.difference_update(values)
        return values

    def abandon(self, ids: Iterable[int]) -> None:
        """Their callers gave up: what has come and what will come for them is dropped."""
        for sampler_id in ids:
            self._wanted.discard(sampler_id)
            self._arrived.pop(sampler_id, None)
            self._interrupted.pop(sampler_id, None)

    def take_in_news(self) -> None:
        """Take in, without waiting, whatever came, deaths of idle workers too."""
        for worker in self.workers:
            self._take_in(worker)

    def take_in_late(self) -> None:
        """Take in, without waiting, what came after its caller gave up."""
        if not self._ledger.has_requests_out:
            return
        for worker in self.workers:
            if any(self._ledger.outstanding(i) is not None for i in worker.sampler_ids):
                self._take_in(worker)

    def _take_in(self, worker: Worker) -> None:
        if worker.number in self._dead:
            return
        try:
            replies = worker.receive()
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)
            return
        for reply in replies:
            if isinstance(reply, Unreadable):
                self._settle_unreadable(worker, reply.error)
            else:
                self._settle(reply)

    def _settle_unreadable(self, worker: Worker, error: Exception) -> None:
        """A worker's message was lost: it holds something that cannot be rebuilt here."""
        failure = Failure.of(error)
        for i in worker.sampler_ids:
            request = self._ledger.outstanding(i)
            if request is None:
                continue
            if request.seq != 0:
                self._settle(Reply(request.seq, i, failure))
            else:  # whose step it came with shows once that step is announced
                self._unread[i] = failure

    def _settle(self, reply: Reply) -> None:
        request = self._ledger.settle(reply)
        if request is not None and isinstance(reply.value, HostReady):
            self.journal.ready(reply.sampler_id, reply.value)
        if request is not None and isinstance(reply.value, (HostReady, TaskStart)):
            self._owed.pop(reply.sampler_id, None)
        if request is not None and request.command is Command.SETUP:
            death = self._restarting.pop(reply.sampler_id, None)
            if death is not None and isinstance(reply.value, HostReady):
                self._owed[reply.sampler_id] = death
        if request is None or reply.sampler_id not in self._wanted:
            return
        value = reply.value
        if reply.sampler_id in self._interrupted:
            value = self._after_restart(reply.sampler_id, value)
        self._arrived[reply.sampler_id] = value

    # -- death and restart ------------------------------------------------------------------------

    def _bury(self, worker: Worker, exitcode: int | None) -> None:
        """Answer for what was out in a worker that died; begin it anew if that is wanted."""
        out = [self._ledger.outstanding(i) for i in worker.sampler_ids]
        for sampler_id in worker.sampler_ids:
            self._ledger.fail(sampler_id)
        # A worker that dies while it is set up would die again and again.
        starting = any(request is not None and request.command is Command.SETUP for request in out)
        refusal = ""
        if self._restart_dead_workers:
            refusal = "it died while it was set up" if starting else self._restart_limit.refusal()
        restart = self._restart_dead_workers and not refusal
        death = Death(worker.number, worker.sampler_ids, exitcode, restart, refusal)
        self._dead[worker.number] = death
        logger.warning("%s", death.describe())
        for request in out:
            if request is None:
                continue
            sampler_id = request.sampler_id
            on_lane = request.seq == 0
            if on_lane and self._lane is not None and self._has_come(self._lane, sampler_id):
                self._arrived[sampler_id] = self._lane.outcome(sampler_id)  # done before it died
                continue
            if not on_lane and sampler_id not in self._wanted:
                continue
            self._wanted.add(sampler_id)
            if restart:
                self._interrupted[request.sampler_id] = (request, death)
            else:
                self._interrupted.pop(request.sampler_id, None)
                self._arrived[request.sampler_id] = death
        for sampler_id in worker.sampler_ids:
            self._restarting.pop(sampler_id, None)
            self._owed.pop(sampler_id, None)
            self._unread.pop(sampler_id, None)
        if restart:
            self._restarting.update(dict.fromkeys(worker.sampler_ids, death))
            self._begin_anew(worker)

    @staticmethod
    def _has_come(lane: ParentLane, sampler_id: int) -> bool:
        return lane.has_answered(sampler_id) and not lane.needs_extra(sampler_id)

    def _begin_anew(self, worker: Worker, plans: Mapping[int, HostPlan] | None = None) -> None:
        """Start a dead worker and set its samplers up, by these plans or else their next ones."""
        self.restarts += 1
        self.moves += 1
        plans = plans or {}
        requests = [
            self._ledger.open(i, Command.SETUP, plans.get(i) or self.next_plan(i))
            for i in worker.sampler_ids
        ]
        for request in requests:
            self.journal.made(request.sampler_id, request.data)
        try:
            worker.start()
            self._dead.pop(worker.number, None)
            worker.post(worker.pack(requests))
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)
        except OSError as error:
            logger.warning("worker %d could not be begun anew: %s", worker.number, error)
            self._bury(worker, None)

    def next_plan(self, sampler_id: int) -> HostPlan:
        """The plan to make a sampler anew from: the same arguments, seeded onward."""
        self._generation[sampler_id] += 1
        plan = self._plans[sampler_id]
        if plan.seed is None:
            return plan
        onward = np.random.SeedSequence([plan.seed, self._generation[sampler_id]])
        return plan._replace(seed=int(onward.generate_state(1)[0]))

    def amend_plan(self, sampler_id: int, **changes: Any) -> None:
        """What a restart makes this sampler from is no longer what it was made from."""
        self._plans[sampler_id] = self._plans[sampler_id]._replace(**changes)

    def replace_worker(self, sampler_id: int) -> None:
        """Kill the worker of this sampler, so that a SETUP begins it anew with all its samplers."""
        worker = self._worker_of[sampler_id]
        if worker.number not in self._dead:
            worker.kill()
            worker.release()
            self._dead[worker.number] = Death(worker.number, worker.sampler_ids, None, False)
            for mate in worker.sampler_ids:
                self._ledger.fail(mate)

    def _after_restart(self, sampler_id: int, value: Any) -> Any:
        """What the interrupted command gives, now that its sampler was made anew."""
        request, death = self._interrupted.pop(sampler_id)
        if isinstance(value, Failure) and request.command is not Command.SETUP:
            message = f"{value.message} (it was made anew because {death.describe()})"
            return value._replace(message=message, in_setup=True)
        if request.command is Command.SETUP:
            return value
        observation = value.observation if isinstance(value, HostReady) else value
        if request.command in (Command.STEP, Command.NEXT_TASK, Command.RESET):
            self._owed.pop(sampler_id, None)
        if request.command is Command.STEP:
            info = {"worker_restarted": death.describe(), "truncated": True}
            return StepOutcome(observation, 0.0, True, info, False, True, False)
        if request.command in (Command.NEXT_TASK, Command.RESET):
            return TaskStart(observation, exhausted=False)
        if request.command is Command.OBSERVE:
            return observation
        return death

    # -- the end -----------------------------------------------------------------------------------

    def close(self, grace_s: float) -> list[tuple[int, Failure]]:
        """End every worker: one grace period for all, then SIGTERM, then SIGKILL.

        Returns:
            what closing the tasks and samplers raised, with the sampler's id.
        """
        busy = [i for i in self._worker_of if self._ledger.state_of(i) is SamplerState.BUSY]
        if busy:
            logger.debug("closing while samplers %s are busy", busy)
        failures = []
        try:
            end_workers(self.workers, grace_s)
        finally:  # Ctrl-C too: whoever cannot wait leaves nothing behind either
            for worker in self.workers:
                failures += worker.release()
            # The mapping, which holds a descriptor, goes with the last array on it.
            self._lane, self.workers, self._worker_of = None, (), {}
            if self._memory is not None:
                self._memory.close()
        return failures
