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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vectasks.errors import WaitTimeout
from vectasks.guard import ctrl_c
from vectasks.host import HostPlan, HostReady
from vectasks.journal import Journal
from vectasks.ledger import Ledger, SamplerState
from vectasks.messages import (
    Command,
    Failure,
    Reply,
    Request,
    SendAlone,
    StepOutcome,
    TaskStart,
)
from vectasks.restarts import Death, RestartLimit
from vectasks.workers import stacks
from vectasks.workers.base import Worker, WorkerEnded, start_failed
from vectasks.workers.channel import Unreadable
from vectasks.workers.ending import end_workers, wait_for_news

logger: logging.Logger = logging.getLogger("vectasks")

_LONGEST_NAP_S = 0.2

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
        restart_dead_workers: whether a dead worker is begun anew by itself.
        max_restarts: how often within five minutes, all workers together.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        plans: Sequence[HostPlan],
        ledger: Ledger,
        *,
        restart_dead_workers: bool,
        max_restarts: float,
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

    # -- requests out, values in ----------------------------------------------------------------

    def start(self, ids: Sequence[int], timeout_s: float | None) -> dict[int, Any]:
        """Start every worker and set every host up, side by side; what each set-up gave."""
        for worker in self.workers:
            try:
                worker.start()
            except (OSError, EOFError) as error:
                if isinstance(error, TimeoutError):  # it is of a handler of a signal
                    raise
                count = len(self.workers)
                raise start_failed(worker.number, count, error, "max_processes") from error
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

    def _reach(self, worker: Worker, tell: Callable[[], None]) -> None:
        try:
            tell()
        except WorkerEnded as ended:
            self._bury(worker, ended.exitcode)

    def _workers_of(self, ids: Sequence[int]) -> Sequence[Worker]:
        if len(ids) == len(self._worker_of):
            return self.workers
        return list({self._worker_of[i]: None for i in ids})

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
            # What it was asked it did, and that is told first: the next call finds it dead.
            if not self._has_done_its_steps(worker):
                self._bury(worker, ended.exitcode)
            return
        for reply in replies:
            if isinstance(reply, Unreadable):
                self._settle_unreadable(worker, reply.error)
            elif isinstance(reply.value, SendAlone):
                self._send_alone(worker, reply)
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

    def _send_alone(self, worker: Worker, reply: Reply) -> None:
        """Send a request again that the worker could not unpickle beside others."""
        request = self._ledger.outstanding(reply.sampler_id)
        if request is not None and request.seq == reply.seq:
            self._reach(worker, lambda: worker.post(worker.pack([request])))

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
            if request.seq == 0:  # a step through the slab
                outcome = self._written_outcome(sampler_id)
                if outcome is not None:  # done before it died
                    self._arrived[sampler_id] = outcome
                    continue
            elif sampler_id not in self._wanted:
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
            commands = {request.sampler_id: request.command for request in out if request}
            self.journal.interrupted(
                {i: (commands.get(i, Command.OBSERVE), death) for i in worker.sampler_ids}
            )
            self._restarting.update(dict.fromkeys(worker.sampler_ids, death))
            self._begin_anew(worker)

    def _has_done_its_steps(self, worker: Worker) -> bool:
        """Whether steps are out in a worker, and all of them are done and written."""
        return False

    def _written_outcome(self, sampler_id: int) -> Any:
        """What the step that is out gave, if all of it was written before the worker died."""
        return None

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
            self.workers, self._worker_of = (), {}
        return failures
