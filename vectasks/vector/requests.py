"""Commands out as requests, and what comes back matched to them.

::

    calls ── orders ──> Requests ── Request, by sampler id ──> Worker ── TaskHost
    calls <── answers ─ Requests <── Reply (id, seq) ───────── Worker

One command of a sampler may be out at a time. What arrives is kept by sampler id until it is taken;
a reply whose caller gave up is dropped when it comes. That a worker is gone is found here, when it
is told something or asked what it says; what follows from its death the supervisor decides.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vectasks._util.interrupts import ctrl_c
from vectasks.errors import WaitTimeout
from vectasks.host.task_host import EPISODE, HostPlan, HostReady
from vectasks.protocol import (
    Command,
    Death,
    Failure,
    Reply,
    Request,
    SamplerState,
    SendAlone,
    StepOutcome,
)
from vectasks.replay.episode_log import EpisodeLog
from vectasks.transport.base import StepTransport
from vectasks.transport.channel import Unreadable
from vectasks.vector.next_tasks import NextTasks
from vectasks.vector.states import SamplerStates
from vectasks.vector.supervision import Supervisor
from vectasks.workers import stacks
from vectasks.workers.base import Worker, WorkerEnded, start_failed
from vectasks.workers.homes import Homes
from vectasks.workers.shutdown import end_workers, wait_for_news

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


class Requests:
    """The workers of one vector, and the commands that they are at.

    Args:
        workers: every sampler id is in exactly one of them.
        states: are told of every request and every reply.
        supervisor: is told of every death.
        log: what every sampler was asked is written down there.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        states: SamplerStates,
        supervisor: Supervisor,
        log: EpisodeLog,
    ) -> None:
        self.workers: Sequence[Worker] = workers
        #: Counts whatever may have changed a task: as long as it stays, so do the observations.
        self.moves: int = 0
        #: By sampler id: what came and was not taken yet.
        self.answers: dict[int, Any] = {}
        #: By sampler id: a message that could not be rebuilt, while a step is out.
        self.unread: dict[int, Failure] = {}
        self._states = states
        self._supervisor = supervisor
        self._log = log
        #: Says what comes next, where hosts do not go on by themselves.
        self.next_tasks: NextTasks | None = None
        #: Where each sampler lives.
        self.homes: Homes = Homes(workers)
        self._transport: StepTransport | None = None

    def carry_steps_by(self, transport: StepTransport) -> None:
        """Ask this transport what a dead worker had done; tell the workers how steps travel."""
        self._transport = transport
        transport.attach(self.living)

    @property
    def living(self) -> list[Worker]:
        """The workers that are not dead."""
        return [worker for worker in self.workers if not self._supervisor.is_dead(worker)]

    # -- commands out -----------------------------------------------------------------------------

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
        self.send([(i, Command.SETUP, self._supervisor.plan_of(i)) for i in ids])
        self.wait(ids, timeout_s, "start_timeout_s")
        return self.take(ids)

    def send(self, orders: Iterable[tuple[int, Command, Any]]) -> None:
        """Send one command to each of some samplers; their states were checked before.

        Raises:
            Exception: some data cannot be pickled; the samplers of that worker got nothing.
        """
        by_worker: dict[Worker, list[Request]] = {}
        next_tasks, taken_over = self.next_tasks, []
        if next_tasks is not None:
            orders = next_tasks.with_keywords(list(orders))
        for sampler_id, command, data in orders:
            self.moves += command not in _LOOKING
            if command is Command.STEP and sampler_id in self._supervisor.owed:
                self._supervisor.tell_instead_of_step(sampler_id)
                command, data = Command.OBSERVE, None
            request = self._states.open(sampler_id, command, data)
            self._states.awaited.add(sampler_id)
            if next_tasks is not None and next_tasks.takes_over(sampler_id, command, data):
                taken_over.append(request)
            else:
                by_worker.setdefault(self.homes.of(sampler_id), []).append(request)
        sent = set()
        try:
            packed_messages = {
                worker: worker.pack(requests) for worker, requests in by_worker.items()
            }
            for worker, requests in by_worker.items():
                for request in requests:
                    self._log.asked(*request[1:])
                self._send_to(worker, requests, packed_messages[worker])
                sent.add(worker)
        except BaseException:
            for worker, requests in by_worker.items():
                for request in requests:
                    self._supervisor.owe_again(request.sampler_id)
                    if worker not in sent:
                        self._states.withdraw(request)
                self.abandon(request.sampler_id for request in requests)
            for request in taken_over:
                self._states.withdraw(request)
            self.abandon(request.sampler_id for request in taken_over)
            raise
        if next_tasks is not None:
            next_tasks.were_sent(
                request[1:] for requests in by_worker.values() for request in requests
            )
        for request in sorted(taken_over, key=lambda request: request.sampler_id):
            self._go_on(request)

    def _go_on(self, request: Request) -> None:
        """Go on to a sampler's next task, which is the answer to this request."""
        assert self.next_tasks is not None
        self.next_tasks.go_on(request.sampler_id, functools.partial(self._gone_on, request))

    def _gone_on(self, request: Request, value: Any) -> None:
        _, i, command, data = request
        if isinstance(value, Death):
            if i in self._states.awaited:
                self.answers[i] = value
            return
        if not self._log.begins_next(i):
            self._log.asked(i, command, data)
        self._settle(Reply(request.seq, i, value))

    def _send_to(self, worker: Worker, requests: list[Request], packed: Any) -> None:
        if self._supervisor.is_dead(worker):
            # Only commands that revive are allowed on the samplers of a dead worker.
            self._supervisor.interrupt(worker, requests)
            asked = {r.sampler_id: r.data for r in requests if r.command is Command.SETUP}
            self._restart(worker, asked)
            return
        self.reach(worker, functools.partial(worker.post, packed))

    def open_steps(self, ids: Sequence[int], actions: Any) -> None:
        """Write down that these samplers are stepped, without requests; nobody may change these."""
        self.moves += 1
        self._log.steps(ids, actions)
        self._states.open_steps(ids)

    def reach(self, worker: Worker, tell: Callable[[], None]) -> None:
        """Tell a worker something; deal with its death if it is gone."""
        try:
            tell()
        except WorkerEnded as ended:
            self._handle_exit(worker, ended.exitcode)

    def can_reach(self, worker: Worker, tell: Callable[[], None]) -> bool:
        """Tell a worker something; False if it is gone, with which nobody has dealt yet."""
        try:
            tell()
        except WorkerEnded:
            return False
        return True

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
        if deadline is None and timeout_s is not None:
            deadline = time.monotonic() + timeout_s
        while True:
            self._take_in_until_none(
                lambda: [i for i in ids if i not in self.answers], deadline, timeout_s, limit
            )
            if not self._go_on_where_ended(ids):
                return

    def wait_for(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait until ``count`` of these samplers have answered; as :meth:`wait`.

        With ``late_is_fine``, return when the time is over.
        """

        def missing() -> list[int]:
            away = [i for i in ids if i not in self.answers]
            return away if len(away) > len(ids) - count else []

        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._take_in_until_none(missing, deadline, timeout_s, "read_timeout", late_is_fine)
            if not self._go_on_where_ended(ids):
                return

    def _go_on_where_ended(self, ids: Sequence[int]) -> bool:
        """Go on to the next tasks of those whose steps, which were requests, ended an episode."""
        if self.next_tasks is None:
            return False
        ended = sorted(i for i in ids if _has_ended(self.answers.get(i)))
        for i in ended:
            self._states.hold(i)
            give = functools.partial(self._answer_ended, i)
            self.next_tasks.ended(i, self.answers.pop(i), give)
        return bool(ended)

    def _answer_ended(self, sampler_id: int, outcome: Any) -> None:
        if not isinstance(outcome, Death):
            self._states.settle_outcomes({sampler_id: outcome})
        if sampler_id in self._states.awaited:
            self.answers[sampler_id] = outcome

    def await_restarts(self, ids: Iterable[int], timeout_s: float | None) -> None:
        """Wait until those of these samplers are there again that are being made anew unasked.

        Raises:
            WaitTimeout: some are not; they go on, and nothing was sent.
        """
        restarting = self._supervisor.restarting
        if not restarting:
            return
        ids = list(ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._take_in_until_none(
            lambda: [i for i in ids if i in restarting],
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
        late_is_fine: bool = False,
    ) -> None:
        """Take in what comes, at least once, until no sampler is ``missing()`` any more.

        Raises:
            WaitTimeout: some are, when the time is over.
        """
        is_over = False
        while late := missing():
            if is_over and late_is_fine:
                return
            if is_over:
                raise self.timeout(late, timeout_s or 0.0, limit)
            # Looked at again now and then: where a child of a task's holds all that its dead worker
            # held, nothing tells of the death but the exit code.
            nap_s = _LONGEST_NAP_S
            if deadline is not None:
                nap_s = min(nap_s, max(0.0, deadline - time.monotonic()))
            for worker in self.wait_for_news(self.homes.of_all(late), nap_s):
                self.take_in(worker)
            is_over = deadline is not None and time.monotonic() >= deadline

    def wait_for_news(self, workers: Sequence[Worker], timeout_s: float) -> Sequence[Worker]:
        """Block until some of these workers have something to say; those."""
        with ctrl_c:
            return wait_for_news(workers, timeout_s)

    def timeout(
        self, missing: Sequence[int], timeout_s: float, limit: str = "read_timeout"
    ) -> WaitTimeout:
        """Make the error that says who is late, and what each late worker is doing."""
        late = []
        is_step = True
        for sampler_id in missing:
            request = self._states.outstanding(sampler_id)
            name = request.command.label if request is not None else "its reply"
            is_step &= request is not None and request.command is Command.STEP
            late.append(f"sampler {sampler_id} ({name}, worker {self.homes.of(sampler_id).number})")
        collected = " A late step can still be collected by wait_step() or recv()."
        workers = self.homes.of_all(missing)
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
        values = {i: self.answers.pop(i) for i in ids}
        self._states.awaited.difference_update(values)
        return values

    def abandon(self, ids: Iterable[int]) -> None:
        """Their callers gave up: what has come and what will come for them is dropped."""
        for sampler_id in ids:
            self._states.awaited.discard(sampler_id)
            self.answers.pop(sampler_id, None)
            self._supervisor.forget_interruption(sampler_id)

    # -- of next tasks ----------------------------------------------------------------------------

    def post(self, worker: Worker, requests: Sequence[Request]) -> None:
        """Send requests whose replies are no caller's; find out if the worker is gone."""
        packed = worker.pack(list(requests))
        self.reach(worker, lambda: worker.post(packed))

    def death_of(self, worker: Worker) -> Death | None:
        """Tell how a worker died that was not started again."""
        return self._supervisor.death_of(worker)

    def take_in_news(self) -> None:
        """Take in, without waiting, whatever came, deaths of idle workers too."""
        for worker in self.workers:
            self.take_in(worker)

    def take_in_late(self) -> None:
        """Take in, without waiting, what came after its caller gave up."""
        if not self._states.has_requests_out:
            return
        for worker in self.workers:
            if any(self._states.outstanding(i) is not None for i in self.homes.ids_in(worker)):
                self.take_in(worker)

    def take_in(self, worker: Worker) -> None:
        """Take in, without waiting, what a worker says; or that it is gone."""
        if self._supervisor.is_dead(worker):
            return
        try:
            replies = worker.receive()
        except WorkerEnded as ended:
            # What it was asked it did, and that is told first: the next call finds it dead.
            if not self._has_done_its_steps(worker):
                self._handle_exit(worker, ended.exitcode)
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
        for i in self.homes.ids_in(worker):
            request = self._states.outstanding(i)
            if request is None:
                continue
            if request.seq != 0:
                self._settle(Reply(request.seq, i, failure))
            else:  # whose step it came with shows once that step is announced
                self.unread[i] = failure

    def _send_alone(self, worker: Worker, reply: Reply) -> None:
        """Send again what the worker could not unpickle beside others."""
        request = self._states.outstanding(reply.sampler_id)
        if request is None or request.seq != reply.seq:
            return
        if request.seq != 0:
            self.reach(worker, lambda: worker.post(worker.pack([request])))
        elif self._transport is not None:
            self._transport.send_again(reply.sampler_id)

    def _settle(self, reply: Reply) -> None:
        request = self._states.settle(reply)
        if request is None:
            if self.next_tasks is not None:
                self.next_tasks.came(reply)
            return
        if isinstance(reply.value, HostReady):
            self._log.ready(reply.sampler_id, reply.value)
        self._supervisor.note_settled(request, reply.value)
        if (
            isinstance(reply.value, HostReady)
            and self.next_tasks is not None
            and self.next_tasks.was_made_anew(reply.sampler_id, request.data, reply.value)
        ):
            # The step that is out ended its episode before the worker died: nothing was lost.
            self._supervisor.owed.pop(reply.sampler_id, None)
            return
        if reply.sampler_id in self._states.awaited:
            self.answers[reply.sampler_id] = self._supervisor.answer_after_restart(
                reply.sampler_id, reply.value
            )

    # -- death and restart ------------------------------------------------------------------------

    def _handle_exit(self, worker: Worker, exitcode: int | None) -> None:
        """Take in the death of a worker; restart it if the supervisor says so."""
        residents = self.homes.ids_in(worker)
        due = [i for i in residents if self._has_step_with_next_due(i)]
        aftermath = self._supervisor.handle_exit(
            worker, residents, exitcode, self._written_outcome, due
        )
        self.answers.update(aftermath.answers)
        if self.next_tasks is not None:
            self.next_tasks.lost(worker, aftermath.death, due if aftermath.restarts else ())
        for i in residents:
            self.unread.pop(i, None)
        if aftermath.restarts:
            self._restart(worker)

    def _has_step_with_next_due(self, sampler_id: int) -> bool:
        """Tell whether a step has ended an episode, and waits for the next task."""
        request = self._states.outstanding(sampler_id)
        return (
            self.next_tasks is not None
            and self.next_tasks.is_due(sampler_id)
            and request is not None
            and request.seq == 0
        )

    def _has_done_its_steps(self, worker: Worker) -> bool:
        """Whether steps are out in a worker, and all of them are done and written."""
        residents = self.homes.ids_in(worker)
        out = [r for i in residents if (r := self._states.outstanding(i)) is not None]
        return (
            bool(out)
            and self._transport is not None
            and all(r.seq == 0 and self._transport.has_written(r.sampler_id) for r in out)
        )

    def _written_outcome(self, sampler_id: int) -> Any:
        return None if self._transport is None else self._transport.written_outcome(sampler_id)

    def _restart(self, worker: Worker, plans: Mapping[int, HostPlan] | None = None) -> None:
        """Start a dead worker and set its samplers up, by these plans or else their next ones."""
        self.moves += 1
        plans = plans or {}

        def plan_of(sampler_id: int) -> HostPlan:
            if sampler_id in plans:
                return plans[sampler_id]
            plan = self._supervisor.next_plan(sampler_id)
            next_tasks = self.next_tasks
            return plan if next_tasks is None else next_tasks.plan_of_restart(sampler_id, plan)

        requests = self._supervisor.requests_of_restart(self.homes.ids_in(worker), plan_of)
        if self.next_tasks is not None:
            requests += self.next_tasks.requests_of_restart(worker)
        try:
            worker.start()
            self._supervisor.has_started(worker)
            worker.post(worker.pack(requests))
        except WorkerEnded as ended:
            self._handle_exit(worker, ended.exitcode)
        except OSError as error:
            logger.warning("worker %d could not be restarted: %s", worker.number, error)
            self._handle_exit(worker, None)

    def kill_worker_of(self, sampler_id: int) -> None:
        """Kill the worker of this sampler, so that a SETUP restarts it with all its samplers."""
        worker = self.homes.of(sampler_id)
        if not self._supervisor.is_dead(worker):
            worker.kill()
            worker.release()
            death = self._supervisor.give_up(worker, self.homes.ids_in(worker))
            if self.next_tasks is not None:
                self.next_tasks.lost(worker, death)

    # -- the end -----------------------------------------------------------------------------------

    def close(self, grace_s: float) -> list[tuple[int, Failure]]:
        """End every worker: one grace period for all, then SIGTERM, then SIGKILL.

        Returns:
            what closing the tasks and samplers raised, with the sampler's id.
        """
        busy = [i for i, state in self._states.states.items() if state is SamplerState.BUSY]
        if busy:
            logger.debug("closing while samplers %s are busy", busy)
        failures = []
        try:
            end_workers(self.workers, grace_s)
        finally:  # Ctrl-C too: whoever cannot wait leaves nothing behind either
            for worker in self.workers:
                failures += worker.release()
            self.workers, self.homes = (), Homes(())
        return failures


def _has_ended(answer: Any) -> bool:
    """Tell whether this is the outcome of a step after which the vector goes on."""
    return type(answer) is StepOutcome and EPISODE in answer.info
