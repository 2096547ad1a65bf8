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

import logging
import select
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vectasks.errors import WaitTimeout
from vectasks.host import HostPlan, HostReady
from vectasks.ledger import Ledger, SamplerState
from vectasks.messages import Command, Failure, Reply, Request, StepOutcome, TaskStart
from vectasks.workers.base import Worker, WorkerEnded

logger = logging.getLogger("vectasks")

_TERMINATE_GRACE_S = 1.0

# Asked of a sampler whose worker is dead, these begin the worker anew.
_REVIVING = frozenset({Command.NEXT_TASK, Command.RESET, Command.SETUP})


class Death(NamedTuple):
    """What came instead of a reply: the worker that should have given it died."""

    worker: int
    sampler_ids: tuple[int, ...]
    exitcode: int | None

    def describe(self) -> str:
        """One line: who died, how, and which samplers lived there."""
        if self.exitcode is None:
            how = "ended without an exit code"
        elif self.exitcode < 0:
            try:
                name = signal.Signals(-self.exitcode).name
            except ValueError:
                name = f"signal {-self.exitcode}"
            how = f"was killed by {name}"
        else:
            how = f"exited with code {self.exitcode}"
        mates = ", ".join(map(str, self.sampler_ids))
        return f"worker {self.worker} (samplers {mates}) {how}"


class Dispatcher:
    """The workers of one vector, and the requests that they are at.

    Args:
        workers: every sampler id is in exactly one of them.
        plans: what each sampler's host is made from, by id.
        ledger: is told of every request and every reply.
        restart_dead_workers: whether a dead worker is begun anew by itself.
        max_restarts: how often, all workers together.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        plans: Sequence[HostPlan],
        ledger: Ledger,
        *,
        restart_dead_workers: bool,
        max_restarts: int,
    ) -> None:
        self.restarts = 0
        self.workers = workers
        self._plans = list(plans)
        self._ledger = ledger
        self._restart_dead_workers = restart_dead_workers
        self._max_restarts = max_restarts
        self._worker_of = {i: worker for worker in workers for i in worker.sampler_ids}
        self._dead: dict[int, Death] = {}  # by worker number
        self._wanted: set[int] = set()  # samplers whose reply somebody will take
        self._arrived: dict[int, Any] = {}
        self._interrupted: dict[int, tuple[Request, Death]] = {}  # restarted in the midst of these
        self._generation = [0] * len(self._plans)

    # -- requests out, values in ----------------------------------------------------------------

    def start(self, ids: Sequence[int], timeout_s: float | None) -> dict[int, Any]:
        """Start every worker and set every host up, side by side; what each set-up gave."""
        for worker in self.workers:
            worker.start()
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
            request = self._ledger.open(sampler_id, command, data)
            self._wanted.add(sampler_id)
            by_worker.setdefault(self._worker_of[sampler_id], []).append(request)
        sent = set()
        try:
            for worker, requests in by_worker.items():
                self._send_to(worker, requests)
                sent.add(worker)
        except BaseException:
            for worker, requests in by_worker.items():
                self.abandon(request.sampler_id for request in requests)
                if worker not in sent:
                    for request in requests:
                        self._ledger.withdraw(request)
            raise

    def _send_to(self, worker: Worker, requests: list[Request]) -> None:
        death = self._dead.get(worker.number)
        if death is not None:
            # Only commands that revive are allowed on the samplers of a dead worker.
            for request in requests:
                self._interrupted[request.sampler_id] = (request, death)
            self._begin_anew(worker)
            return
        try:
            worker.send(requests)
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)

    def wait(
        self, ids: Sequence[int], timeout_s: float | None, limit: str = "read_timeout"
    ) -> None:
        """Wait until each of these samplers has answered: one deadline for all of them.

        Raises:
            WaitTimeout: some have not; nothing is lost, and waiting again is allowed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            missing = [i for i in ids if i not in self._arrived]
            if not missing:
                return
            workers = {self._worker_of[i]: None for i in missing}
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._wait_for_news(workers, remaining)
            for worker in workers:
                self._take_in(worker)
            if deadline is not None and time.monotonic() >= deadline:
                missing = [i for i in ids if i not in self._arrived]
                if missing:
                    raise self._timeout(missing, timeout_s or 0.0, limit)

    def _wait_for_news(self, workers: Iterable[Worker], timeout_s: float | None) -> None:
        poll = select.poll()
        for worker in workers:
            descriptors = worker.descriptors()
            if not descriptors:
                return
            for descriptor, events in descriptors:
                poll.register(descriptor, events)
        poll.poll(None if timeout_s is None else timeout_s * 1000)

    def _timeout(self, missing: list[int], timeout_s: float, limit: str) -> WaitTimeout:
        late = []
        for sampler_id in missing:
            request = self._ledger.outstanding(sampler_id)
            name = request.command.label if request is not None else "its reply"
            late.append(f"sampler {sampler_id} ({name}, worker {self._worker_of[sampler_id].number})")
        return WaitTimeout(
            f"No answer within {timeout_s:g} s from {', '.join(late)}. A late step can still be "
            f"collected by wait_step(); {limit} sets how long is waited.",
            sampler_ids=missing,
            timeout_s=timeout_s,
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

    def take_in_late(self) -> None:
        """Take in, without waiting, what came after its caller gave up."""
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
            self._settle(reply)

    def _settle(self, reply: Reply) -> None:
        request = self._ledger.settle(reply)
        if request is None or reply.sampler_id not in self._wanted:
            return
        value = reply.value
        if reply.sampler_id in self._interrupted:
            value = self._after_restart(reply.sampler_id, value)
        self._arrived[reply.sampler_id] = value

    # -- death and restart ------------------------------------------------------------------------

    def _bury(self, worker: Worker, exitcode: int | None) -> None:
        """Answer for what was out in a worker that died; begin it anew if that is wanted."""
        death = Death(worker.number, worker.sampler_ids, exitcode)
        self._dead[worker.number] = death
        logger.warning("%s", death.describe())
        out = [self._ledger.outstanding(i) for i in worker.sampler_ids]
        for sampler_id in worker.sampler_ids:
            self._ledger.fail(sampler_id)
        # A worker that dies while it is set up would die again and again.
        starting = any(request is not None and request.command is Command.SETUP for request in out)
        restart = (
            self._restart_dead_workers and not starting and self.restarts < self._max_restarts
        )
        for request in out:
            if request is None or request.sampler_id not in self._wanted:
                continue
            if restart:
                self._interrupted[request.sampler_id] = (request, death)
            else:
                self._interrupted.pop(request.sampler_id, None)
                self._arrived[request.sampler_id] = death
        if restart:
            self._begin_anew(worker)

    def _begin_anew(self, worker: Worker) -> None:
        self.restarts += 1
        worker.start()
        self._dead.pop(worker.number, None)
        requests = [
            self._ledger.open(i, Command.SETUP, self.next_plan(i)) for i in worker.sampler_ids
        ]
        try:
            worker.send(requests)
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)

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
            self._dead[worker.number] = Death(worker.number, worker.sampler_ids, None)
            for mate in worker.sampler_ids:
                self._ledger.fail(mate)

    def _after_restart(self, sampler_id: int, value: Any) -> Any:
        """What the interrupted command gives, now that its sampler was made anew."""
        request, death = self._interrupted.pop(sampler_id)
        if isinstance(value, Failure) or request.command is Command.SETUP:
            return value
        assert isinstance(value, HostReady)
        if request.command is Command.STEP:
            info = {"worker_restarted": death.describe(), "truncated": True}
            return StepOutcome(value.observation, 0.0, True, info, False, True, False)
        if request.command in (Command.NEXT_TASK, Command.RESET):
            return TaskStart(value.observation, exhausted=False)
        if request.command is Command.OBSERVE:
            return value.observation
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
        for worker in self.workers:
            worker.ask_to_end()
        remaining = _join(self.workers, grace_s)
        for worker in remaining:
            logger.warning("worker %d did not end within %g s", worker.number, grace_s)
            worker.terminate()
        remaining = _join(remaining, _TERMINATE_GRACE_S)
        for worker in remaining:
            worker.kill()
        _join(remaining, _TERMINATE_GRACE_S)
        return [failure for worker in self.workers for failure in worker.release()]


def _join(workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
    """Wait for the end of these workers, with one deadline; those that have not ended."""
    deadline = time.monotonic() + timeout_s
    return [
        worker for worker in workers if not worker.join(max(0.0, deadline - time.monotonic()))
    ]
