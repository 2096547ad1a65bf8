"""What a worker's death means, and from what its samplers are made anew.

The death of a worker is an event like a reply: it answers for every request that was out in that
worker, either as :class:`Death` or, where workers are restarted, as what the restarted sampler
gives. :meth:`Supervisor.handle_exit` alone decides which. Nothing is sent from here.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from vectasks.host.task_host import HostPlan, HostReady
from vectasks.protocol import Command, Death, Failure, Request, StepOutcome, TaskStart
from vectasks.replay.episode_log import EpisodeLog
from vectasks.vector.states import SamplerStates
from vectasks.workers.base import Worker

logger: logging.Logger = logging.getLogger("vectasks")

#: In how many seconds ``max_restarts`` may happen.
RESTART_WINDOW_S = 300.0


class RestartLimit:
    """Limit how often dead workers are restarted: a rate, so that a long run may see many deaths.

    Args:
        max_restarts: so many at most, all workers together, ...
        window_s: ... within any stretch of so many seconds.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        max_restarts: float,
        window_s: float = RESTART_WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._clock = clock
        self._times: deque[float] = deque()

    def refusal(self) -> str:
        """Take one restart, or say why there is none to take."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._window_s:
            self._times.popleft()
        if len(self._times) >= self._max_restarts:
            return (
                f"there were {len(self._times)} restarts within {self._window_s:g} s, and "
                f"max_restarts={self._max_restarts}"
            )
        self._times.append(now)
        return ""


class Aftermath(NamedTuple):
    """What follows from a worker's death.

    Attributes:
        answers: what came of the requests that were out, by sampler id, as far as that is settled.
        restarts: whether the worker is to be restarted.
        death: tells all this.
    """

    answers: dict[int, Any]
    restarts: bool
    death: Death


class Supervisor:
    """Knows which workers are dead, and which samplers are made anew because of that.

    Args:
        plans: what each sampler's host is made from, by id.
        states: is told of every death.
        log: keeps what a worker's samplers were doing when it died and is restarted.
        restart_dead_workers: whether a dead worker is restarted by itself.
        max_restarts: how often within five minutes, all workers together.
    """

    def __init__(
        self,
        plans: Sequence[HostPlan],
        states: SamplerStates,
        log: EpisodeLog,
        *,
        restart_dead_workers: bool,
        max_restarts: float,
    ) -> None:
        self.num_restarts: int = 0
        #: The samplers that are being made anew, not because the user asked.
        self.restarting: dict[int, Death] = {}
        #: Those that were made anew, and the user was not told by a step.
        self.owed: dict[int, Death] = {}
        self._plans = list(plans)
        self._generation = [0] * len(self._plans)
        self._states = states
        self._log = log
        self._restart_dead_workers = restart_dead_workers
        self._limit = RestartLimit(max_restarts)
        self._dead: dict[int, Death] = {}  # by worker number
        self._interrupted: dict[int, tuple[Request, Death]] = {}  # made anew in the midst of these

    # -- deaths -----------------------------------------------------------------------------------

    def is_dead(self, worker: Worker) -> bool:
        """Tell whether a worker died and was not started again."""
        return worker.number in self._dead

    def death_of(self, worker: Worker) -> Death | None:
        """Tell how a worker died that was not started again."""
        return self._dead.get(worker.number)

    def handle_exit(
        self,
        worker: Worker,
        residents: Sequence[int],
        exitcode: int | None,
        written: Callable[[int], Any],
        due: Collection[int] = (),
    ) -> Aftermath:
        """Answer for what was out in a worker that died; decide whether it is restarted.

        Args:
            worker: is dead.
            residents: the samplers that lived in it.
            exitcode: its exit code, if it is known.
            written: reads the outcome of a step that was done before; None: it was not.
            due: whose step was done before, and waits for its sampler's next task.
        """
        states = self._states
        out = [states.outstanding(i) for i in residents]
        for sampler_id in residents:
            states.fail(sampler_id)
        # A worker that dies while it is set up would die again and again.
        starting = any(request is not None and request.command is Command.SETUP for request in out)
        refusal = ""
        if self._restart_dead_workers:
            refusal = "it died while it was set up" if starting else self._limit.refusal()
        restarts = self._restart_dead_workers and not refusal
        death = Death(worker.number, tuple(residents), exitcode, restarts, refusal)
        self._dead[worker.number] = death
        logger.warning("%s", death.describe())
        answers: dict[int, Any] = {}
        for request in out:
            if request is None:
                continue
            sampler_id = request.sampler_id
            if restarts and sampler_id in due:
                continue
            if request.seq == 0:  # a step that is no request
                outcome = written(sampler_id)
                if outcome is not None:  # done before it died
                    answers[sampler_id] = outcome
                    continue
            elif sampler_id not in states.awaited:
                continue
            states.awaited.add(sampler_id)
            if restarts:
                self._interrupted[sampler_id] = (request, death)
            else:
                self._interrupted.pop(sampler_id, None)
                answers[sampler_id] = death
        for sampler_id in residents:
            self.restarting.pop(sampler_id, None)
            self.owed.pop(sampler_id, None)
        if restarts:
            commands = {request.sampler_id: request.command for request in out if request}
            self._log.interrupted({i: (commands.get(i, Command.OBSERVE), death) for i in residents})
            self.restarting.update(dict.fromkeys(residents, death))
        return Aftermath(answers, restarts, death)

    def give_up(self, worker: Worker, residents: Sequence[int]) -> Death:
        """Write down that a worker was killed because its user wants it to be restarted."""
        death = self._dead[worker.number] = Death(worker.number, tuple(residents), None, False)
        for sampler_id in residents:
            self._states.fail(sampler_id)
        return death

    # -- restarts ---------------------------------------------------------------------------------

    def interrupt(self, worker: Worker, requests: Sequence[Request]) -> None:
        """Let requests to a dead worker be answered by its restart."""
        death = self._dead[worker.number]
        for request in requests:
            self._interrupted[request.sampler_id] = (request, death)

    def forget_interruption(self, sampler_id: int) -> None:
        """Let the answer of a sampler that is made anew be nobody's."""
        self._interrupted.pop(sampler_id, None)

    def requests_of_restart(
        self, residents: Sequence[int], plan_of: Callable[[int], HostPlan]
    ) -> list[Request]:
        """Make the requests that set the samplers of a worker up."""
        self.num_restarts += 1
        requests = [self._states.open(i, Command.SETUP, plan_of(i)) for i in residents]
        for request in requests:
            self._log.made(request.sampler_id, request.data)
        return requests

    def has_started(self, worker: Worker) -> None:
        """Write down that a dead worker was started again."""
        self._dead.pop(worker.number, None)

    def tell_instead_of_step(self, sampler_id: int) -> None:
        """Have a sampler's next answer tell that it was made anew since its last step."""
        step = Request(0, sampler_id, Command.STEP)
        self._interrupted[sampler_id] = (step, self.owed.pop(sampler_id))

    def owe_again(self, sampler_id: int) -> None:
        """Tell it later: the step that was to tell it was never sent."""
        if sampler_id in self._interrupted:
            self.owed[sampler_id] = self._interrupted[sampler_id][1]

    def note_settled(self, request: Request, value: Any) -> None:
        """Take note of an answer: what a new sampler or a new task owes, or owes no more."""
        sampler_id = request.sampler_id
        if isinstance(value, (HostReady, TaskStart)):
            self.owed.pop(sampler_id, None)
        if request.command is Command.SETUP:
            death = self.restarting.pop(sampler_id, None)
            if death is not None and isinstance(value, HostReady):
                self.owed[sampler_id] = death

    def answer_after_restart(self, sampler_id: int, value: Any) -> Any:
        """Make an answer to the interrupted command of ``value``, what the new sampler gave."""
        if sampler_id not in self._interrupted:
            return value
        request, death = self._interrupted.pop(sampler_id)
        if isinstance(value, Failure) and request.command is not Command.SETUP:
            message = f"{value.message} (it was made anew because {death.describe()})"
            return value._replace(message=message, in_setup=True)
        if request.command is Command.SETUP:
            return value
        observation = value.observation if isinstance(value, HostReady) else value
        if request.command in (Command.STEP, Command.NEXT_TASK, Command.RESET):
            self.owed.pop(sampler_id, None)
        if request.command is Command.STEP:
            info = {"worker_restarted": death.describe(), "truncated": True}
            return StepOutcome(observation, 0.0, True, info, False, True, False)
        if request.command in (Command.NEXT_TASK, Command.RESET):
            return TaskStart(observation, exhausted=False)
        if request.command is Command.OBSERVE:
            return observation
        return death

    # -- plans ------------------------------------------------------------------------------------

    def plan_of(self, sampler_id: int) -> HostPlan:
        """What a sampler is made from."""
        return self._plans[sampler_id]

    def next_plan(self, sampler_id: int) -> HostPlan:
        """Plan to make a sampler anew: from the same arguments, seeded onward."""
        self._generation[sampler_id] += 1
        plan = self._plans[sampler_id]
        if plan.seed is None:
            return plan
        onward = np.random.SeedSequence([plan.seed, self._generation[sampler_id]])
        return plan._replace(seed=int(onward.generate_state(1)[0]))

    def amend_plan(self, sampler_id: int, **changes: Any) -> None:
        """Change what a restart makes this sampler from."""
        self._plans[sampler_id] = self._plans[sampler_id]._replace(**changes)
