"""What comes next: each sampler's next tasks, asked for one after another and prepared by spares.

::

    sampler 3      host 0 ── episode ──┐  prepares ........................ ┌── episode
                                       │                                    │
                   host 1   prepares ..└── episode ──┐  prepares ...........│
                                                     │                      │
                   host 2   prepares ................└── episode ───────────┘

A sampler has a host that runs its current task and, with ``prepared_tasks=k``, k spares. Its
*turns* are its next tasks, in the order in which they will be played: each names the host that
prepares it. When an episode ends, the host of the next turn becomes the current one, and the old
one gets the last turn. Where the next task is not ready, the step waits for it. Without spares a
sampler's one host has the only turn, which is asked for when it is due.

Which tasks these are:

- A task source was asked for each, in the order of the turns.
- Without one, where episodes are independent of each other, all hosts have the same seed, and each
  leaves out what the others play: the episodes are those of the sampler without spares.
- Otherwise hosts have seeds of their own.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vectasks.errors import TaskSourceError
from vectasks.host.task_host import EPISODE, HostPlan, HostReady
from vectasks.protocol import (
    Command,
    Death,
    Failure,
    Preparation,
    Reply,
    Request,
    StepOutcome,
    TaskStart,
)
from vectasks.replay.episode_log import EpisodeLog
from vectasks.sources.base import TaskSource
from vectasks.vector.drawing import Drawing
from vectasks.vector.states import SamplerStates
from vectasks.vector.turns import Host, Stream, Turn
from vectasks.workers.base import Worker
from vectasks.workers.moves import Moves

_NOTHING = Preparation(keywords=None)
#: Spares are asked these too; what was prepared before them is prepared anew.
_CHANGING = frozenset({Command.SEED, Command.RESET})


class Mail(Protocol):
    """What is needed of the vector's requests."""

    def post(self, worker: Worker, requests: Sequence[Request]) -> None:
        """Send requests whose replies :meth:`NextTasks.came` gets; or find that it is gone."""

    def take_in(self, worker: Worker) -> None:
        """Take in, without waiting, what a worker says."""

    def death_of(self, worker: Worker) -> Death | None:
        """How a worker died that was not started again."""


class Counts(NamedTuple):
    """How often a next task was asked for, how often it was not ready, and the time that took."""

    given: int
    awaited: int
    awaited_s: float


class NextTasks:
    """Goes on to samplers' next tasks, and has some prepared.

    Args:
        source: says what samplers' next tasks are; None: they decide by themselves.
        num_prepared: so many tasks of each sampler are prepared.
        moves: how samplers get from host to host.
        mail: sends requests.
        states: of the samplers.
        log: of the episodes.
        plan_of: what a sampler is made from.
        auto_resample: whether samplers go on by themselves when a task is done.
    """

    def __init__(
        self,
        source: TaskSource | None,
        num_prepared: int,
        moves: Moves,
        mail: Mail,
        states: SamplerStates,
        log: EpisodeLog,
        plan_of: Callable[[int], HostPlan],
        *,
        auto_resample: bool,
    ) -> None:
        self._drawing = Drawing(source)
        self._num_prepared = num_prepared
        self._moves = moves
        self._mail = mail
        self._states = states
        self._log = log
        self._plan_of = plan_of
        self._auto_resample = auto_resample
        self._streams: dict[int, Stream] = {}  # of those whose hosts have the same
        self._current: dict[int, Turn] = {}
        self._turns: dict[int, deque[Turn]] = {}
        self._due: dict[int, tuple[Callable[[Any], None], float]] = {}
        self._by_seq: dict[int, tuple[int, Turn]] = {}
        self._is_open = True
        self.counts: Counts = Counts(0, 0, 0.0)

    # -- the beginning ----------------------------------------------------------------------------

    def first_plan(self, sampler_id: int, plan: HostPlan, home: Worker) -> HostPlan:
        """Say how a sampler's first task is asked for, at the very start.

        Raises:
            TaskSourceError: it raised, or has none.
        """
        host = Host(0, home)
        turn = self._current[sampler_id] = Turn(host, None)
        turn.keywords = self._drawing.draw(sampler_id)
        if turn.keywords is None:
            raise TaskSourceError(
                f"the task source has no first task for sampler {sampler_id} (its "
                f"next({sampler_id}) gave None): make no more samplers than it has tasks."
            )
        return self._asked_first(sampler_id, plan)

    def begin(self, ready: Mapping[int, HostReady]) -> None:
        """Have the first tasks prepared: all samplers are made."""
        for i, its in ready.items():
            plan = self._plan_of(i)
            seed = its.initial_seed if plan.seed is None else plan.seed
            if not self._drawing.has_source and its.episodes_are_independent and seed is not None:
                self._streams[i] = Stream(seed)
            else:
                self._log.takes_turns(i)
            self._turns[i] = deque()
            self._was_made(i)
        for number in range(self._num_prepared):
            for i in ready:
                host = Host(number + 1, self._moves.spares_of(i)[number])
                self._add_turn(i, host)
        for number in range(self._num_prepared):
            for i in ready:
                self._prepare(i, self._turns[i][number])

    def _was_made(self, sampler_id: int) -> None:
        """Take note that a sampler's current host is new, and what it plays."""
        host = self._current[sampler_id].host
        host.is_made, host.first, host.plan = True, [], None
        stream = self._streams.get(sampler_id)
        if stream is not None:
            host.position = stream.add(Command.NEXT_TASK) + 1

    # -- going on ---------------------------------------------------------------------------------

    def ended(self, sampler_id: int, outcome: Any, give: Callable[[Any], None]) -> None:
        """Go on after the step that ended an episode.

        Args:
            sampler_id: whose.
            outcome: of that step.
            give: is given the outcome, with the next task's first observation, once it is there.
        """
        if type(outcome) is not StepOutcome or EPISODE not in outcome.info:
            give(outcome)  # failed, or waiting for its mates
            return
        return_and_length = outcome.info.pop(EPISODE)
        if return_and_length is None:
            return_and_length = self._log.return_and_length(sampler_id, outcome.reward)
        turn = self._current[sampler_id]
        keywords, turn.keywords = turn.keywords, None
        failure = self._drawing.tell_end(sampler_id, keywords, outcome, return_and_length)
        if failure is not None:
            give(failure)
        elif not self._auto_resample:
            give(outcome)
        else:
            self.go_on(
                sampler_id, functools.partial(self._give_with_start, outcome, give, sampler_id)
            )

    def _give_with_start(
        self, outcome: StepOutcome, give: Callable[[Any], None], sampler_id: int, answer: Any
    ) -> None:
        if type(answer) is TaskStart:
            answer = outcome._replace(observation=answer.observation, exhausted=answer.exhausted)
        else:
            self._log.begins_next(sampler_id)  # the command that failed is in it
        give(answer)

    def go_on(self, sampler_id: int, give: Callable[[Any], None]) -> None:
        """Go on to a sampler's next task.

        Args:
            sampler_id: whose.
            give: is given its TaskStart, or the Failure or Death that came instead, perhaps before
                this returns.
        """
        failure = self._tell_abandoned(sampler_id)
        if failure is not None:
            give(failure)
            return
        host = self._current[sampler_id].host
        host.worker = self._moves.leave(sampler_id)
        last = self._add_turn(sampler_id, host)
        turn = self._current[sampler_id] = self._turns[sampler_id].popleft()
        if turn.seq and turn.answer is None:
            self._mail.take_in(turn.host.worker)
        self._moves.arrive(sampler_id, turn.host.worker)
        self._due[sampler_id] = give, time.monotonic()
        is_ready = turn.answer is not None
        self.counts = self.counts._replace(
            given=self.counts.given + 1, awaited=self.counts.awaited + (not is_ready)
        )
        if is_ready:
            self._give(sampler_id)
        self._prepare(sampler_id, last)

    def _tell_abandoned(self, sampler_id: int) -> Failure | None:
        """Tell the source of an episode of its that its user leaves; the failure if that raised."""
        turn = self._current[sampler_id]
        keywords, turn.keywords = turn.keywords, None
        if not self._drawing.has_source or keywords is None:
            return None
        left = StepOutcome(None, 0.0, True, {"abandoned": True}, False, True, False)
        return_and_length = self._log.return_and_length(sampler_id)
        return self._drawing.tell_end(sampler_id, keywords, left, return_and_length)

    def is_due(self, sampler_id: int) -> bool:
        """Tell whether a sampler waits for its next task."""
        return sampler_id in self._due

    def _give(self, sampler_id: int) -> None:
        give, asked_s = self._due.pop(sampler_id)
        self.counts = self.counts._replace(
            awaited_s=self.counts.awaited_s + time.monotonic() - asked_s
        )
        turn = self._current[sampler_id]
        if not isinstance(turn.answer, Death):
            self._tell_log(sampler_id, turn)
        if type(turn.answer) is Failure:
            turn.keywords = None  # whoever revives its sampler goes on to another task
        elif isinstance(turn.answer, Death):
            self._states.fail(sampler_id)
        give(turn.answer)

    def _tell_log(self, sampler_id: int, turn: Turn) -> None:
        if sampler_id in self._streams or not turn.calls:
            return
        plan, turn.host.plan = turn.host.plan, None
        has_others = self._num_prepared > 0
        self._log.next_begins(sampler_id, turn.host.number, plan, turn.calls, has_others)

    # -- turns ------------------------------------------------------------------------------------

    def _add_turn(self, sampler_id: int, host: Host) -> Turn:
        """Give a host the last turn."""
        turn = Turn(host, None)
        self._turns[sampler_id].append(turn)
        try:
            turn.keywords = self._drawing.draw(sampler_id)
        except Exception as error:  # user code; it is told when this turn comes
            turn.answer = Failure.of(error)
        stream = self._streams.get(sampler_id)
        if stream is not None:
            stream.add(Command.NEXT_TASK)
        return turn

    def _prepare(self, sampler_id: int, turn: Turn) -> None:
        """Have a turn's task made, unless there is none."""
        if turn.answer is not None:
            return
        death = self._mail.death_of(turn.host.worker)
        if death is not None:
            turn.answer = death
            self._arrived(sampler_id, turn)
            return
        requests = self._requests(sampler_id, turn)
        try:
            self._mail.post(turn.host.worker, requests)
        except Exception as error:  # user code: keywords that cannot be pickled
            for request in requests:
                self._by_seq.pop(request.seq, None)
            turn.host.is_made = turn.host.is_made and len(requests) == 1
            turn.seq, turn.answer = 0, Failure.of(error)
            self._arrived(sampler_id, turn)

    def _requests(self, sampler_id: int, turn: Turn) -> list[Request]:
        """Ask for a turn's task, and for its host before that, if there is none."""
        host = turn.host
        turn.answer = None
        stream = self._streams.get(sampler_id)
        if stream is not None:
            if not host.is_made:
                host.position = 0
            turns = self._turns[sampler_id]
            position = stream.position_of_task(len(turns) - turns.index(turn))
            first = stream.between(host.position, position, host if host.is_made else None)
            host.position = position + 1
        else:
            first = host.first if host.is_made else []
        host.first = []
        preparation = Preparation(first, turn.keywords)
        turn.calls = [(Command.PREPARE, preparation)]
        if not first and turn.keywords is not None:
            turn.calls = [(Command.NEXT_TASK, turn.keywords)]  # which a replay can leave out
        requests = []
        if not host.is_made:
            host.is_made, host.failure = True, None
            host.plan = self._plan_of_spare(sampler_id, host)._replace(first=_NOTHING)
            seq = self._states.next_seq()
            self._by_seq[seq] = sampler_id, turn
            requests.append(Request(seq, sampler_id, Command.SETUP, host.plan))
        turn.seq = self._states.next_seq()
        self._by_seq[turn.seq] = sampler_id, turn
        requests.append(Request(turn.seq, sampler_id, Command.PREPARE, preparation))
        return requests

    def _plan_of_spare(self, sampler_id: int, host: Host) -> HostPlan:
        plan, stream = self._plan_of(sampler_id), self._streams.get(sampler_id)
        if stream is not None:
            return plan._replace(seed=stream.seed)
        if plan.seed is None:
            return plan
        own = np.random.SeedSequence([plan.seed, sampler_id, host.number])
        return plan._replace(seed=int(own.generate_state(1)[0]))

    # -- answers ----------------------------------------------------------------------------------

    def came(self, reply: Reply) -> None:
        """Take in the reply to a preparation; any other is nobody's."""
        if reply.seq not in self._by_seq:
            return
        sampler_id, turn = self._by_seq.pop(reply.seq)
        host, value = turn.host, reply.value
        if turn.seq != reply.seq:  # asked for anew since, or what made its host
            if isinstance(value, HostReady) and host.plan is not None and host.plan.seed is None:
                host.plan = host.plan._replace(seed=value.initial_seed)
            elif isinstance(value, Failure) and host.plan is not None:
                host.failure = self._of_spare(sampler_id, host, value)
            return
        turn.seq = 0
        if isinstance(value, Failure) and host.failure is not None:
            value, host.is_made = host.failure, False
        turn.answer = value
        self._arrived(sampler_id, turn)

    def _of_spare(self, sampler_id: int, host: Host, failure: Failure) -> Failure:
        return failure._replace(
            message=f"{failure.message} (raised by spare {host.number} of sampler {sampler_id}, "
            f"which prepared_tasks={self._num_prepared} asks for: a sampler that cannot be made "
            "twice, as one that holds a port or a licence, needs prepared_tasks=0)",
            in_setup=True,
        )

    def _arrived(self, sampler_id: int, turn: Turn) -> None:
        if self._current[sampler_id] is turn and sampler_id in self._due:
            self._give(sampler_id)

    # -- commands beside ---------------------------------------------------------------------------

    def takes_over(self, sampler_id: int, command: Command, data: Any) -> bool:
        """Tell whether a command asks for just what comes next."""
        return (
            command is Command.NEXT_TASK
            and not data
            and sampler_id in self._turns
            and self._mail.death_of(self._current[sampler_id].host.worker) is None
        )

    def with_keywords(
        self, orders: Sequence[tuple[int, Command, Any]]
    ) -> list[tuple[int, Command, Any]]:
        """Have the source say what the tasks are that commands begin.

        Raises:
            TaskSourceError: it raised; nothing has changed.
        """
        if not self._drawing.has_source:
            return list(orders)
        drawn: dict[int, Mapping[str, Any] | None] = {}
        try:
            for i, command, _ in orders:
                if command in (Command.RESET, Command.SETUP) and i in self._turns:
                    drawn[i] = self._drawing.draw(i)
        except BaseException:
            for i, keywords in drawn.items():
                self._drawing.give_back(i, keywords)
            raise
        changed: list[tuple[int, Command, Any]] = []
        for i, command, data in orders:
            if i in drawn:
                self._give_back(i, self._current[i])
                self._current[i].keywords = drawn[i]
            elif command is Command.NEXT_TASK and data:
                self._tell_abandoned(i)
            if i in drawn:
                asked = Preparation(keywords=drawn[i])
                data = asked if command is Command.RESET else data._replace(first=asked)
            changed.append((i, command, data))
        return changed

    def were_sent(self, orders: Iterable[tuple[int, Command, Any]]) -> None:
        """Let spares follow what samplers were asked."""
        for i, command, data in orders:
            if i not in self._turns:
                continue
            host, turns = self._current[i].host, self._turns[i]
            stream = self._streams.get(i)
            if command is Command.KEEP_FRAMES:
                for turn in turns:
                    if turn.host.is_made:
                        request = Request(self._states.next_seq(), i, command, data)
                        self._mail.post(turn.host.worker, [request])
            elif command is Command.CALL_SAMPLER and stream is not None:
                stream.add(command, data, host)
                stream.fold([host, *(turn.host for turn in turns)])
            elif command is Command.CALL_SAMPLER:
                for turn in turns:
                    turn.host.first.append((command, data, 1))
            elif command is Command.NEXT_TASK and stream is not None and turns:
                self._branch(i, stream, [(command, dict(data or {}))], host)
            elif command in _CHANGING:
                if stream is not None:
                    items = [(command, data)]
                    if command is Command.RESET:
                        items = [(command, None), (Command.NEXT_TASK, None)]
                    self._branch(i, stream, items, host)
                else:
                    for turn in turns:
                        its = data
                        if command is Command.SEED:
                            own = np.random.SeedSequence([data, i, turn.host.number])
                            its = int(own.generate_state(1)[0])
                        turn.host.first.append((command, its, 1))
                    self._prepare_again(i)

    def _branch(
        self,
        sampler_id: int,
        stream: Stream,
        items: Iterable[tuple[Command, Any]],
        host: Host,
    ) -> None:
        """Let the stream go on with these after the current task, and spares go through it anew."""
        turns = self._turns[sampler_id]
        stream.cut(len(turns))
        for command, data in items:
            stream.add(command, data)
        host.position = stream.length
        for turn in turns:
            stream.add(Command.NEXT_TASK)
            turn.host.is_made = False
        self._prepare_again(sampler_id)

    def _prepare_again(self, sampler_id: int) -> None:
        for turn in self._turns[sampler_id]:
            if type(turn.answer) is Failure and turn.keywords is None:
                continue  # of the source
            turn.answer = None
            self._prepare(sampler_id, turn)

    # -- restarts ----------------------------------------------------------------------------------

    def _asked_first(self, sampler_id: int, plan: HostPlan) -> HostPlan:
        return plan._replace(first=Preparation(keywords=self._current[sampler_id].keywords))

    def plan_of_restart(self, sampler_id: int, plan: HostPlan) -> HostPlan:
        """Say how the first task is asked for of a sampler that is made anew: what it was at."""
        if not self._drawing.has_source or sampler_id not in self._current:
            return plan
        return self._asked_first(sampler_id, plan)

    def was_made_anew(self, sampler_id: int, plan: HostPlan, ready: HostReady) -> bool:
        """Take note that a sampler's current host was made by this plan; whether that was due."""
        if sampler_id not in self._turns:
            return False
        stream = self._streams.get(sampler_id)
        if stream is not None:
            stream = self._streams[sampler_id] = Stream(plan.seed)
        self._was_made(sampler_id)
        if stream is not None:
            for turn in self._turns[sampler_id]:
                stream.add(Command.NEXT_TASK)
                turn.host.is_made = False
            self._prepare_again(sampler_id)
        if sampler_id not in self._due:
            return False
        current = self._current[sampler_id]
        current.calls, current.answer = [], ready.start
        self._log.next_begins(sampler_id, current.host.number, plan, (), has_others=False)
        self._give(sampler_id)
        return True

    def lost(self, worker: Worker, death: Death, still_due: Collection[int] = ()) -> None:
        """Take note that all hosts in a worker are gone; that is told when their turns come.

        Args:
            worker: where they were.
            death: of that.
            still_due: samplers whose next task is that with which they are made anew.
        """
        self._by_seq = {
            seq: asked for seq, asked in self._by_seq.items() if asked[1].host.worker is not worker
        }
        for i, turns in self._turns.items():
            current = self._current[i]
            if current.host.worker is worker:
                current.host.is_made = False
                current.seq = 0
                if i not in still_due:
                    self._due.pop(i, None)  # who answers for its step is the supervisor
            for turn in turns:
                if turn.host.worker is worker:
                    turn.host.is_made = False
                    turn.seq, turn.answer = 0, death

    def requests_of_restart(self, worker: Worker) -> list[Request]:
        """Have prepared anew what was prepared in a worker that is started again."""
        return [
            request
            for i, turns in self._turns.items()
            for turn in turns
            if turn.host.worker is worker and not turn.host.is_made
            for request in self._requests(i, turn)
        ]

    def _give_back(self, sampler_id: int, turn: Turn) -> None:
        keywords, turn.keywords = turn.keywords, None
        self._drawing.give_back(sampler_id, keywords)

    def close(self) -> None:
        """Give back to the source what was not played to its end, and let go of all workers."""
        if not self._is_open:
            return
        self._is_open = False
        depth = max((len(turns) for turns in self._turns.values()), default=0)
        for i in sorted(self._current):
            self._give_back(i, self._current[i])
        for number in range(depth):
            for i in sorted(self._turns):
                if number < len(self._turns[i]):
                    self._give_back(i, self._turns[i][number])
        self._current.clear()
        self._turns.clear()
        self._due.clear()
        self._by_seq.clear()
        del self._moves
