"""The state of every sampler, and what is out: the one owner of both.

It is asked before anything is sent, so that a misuse fails at the call and changes nothing.
It also translates: users speak of *indices* (positions among the unpaused samplers), everything
inside of *ids* (numbered from 0, never reused).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from vectasks.errors import AlreadyPending, SamplerIndexError, SamplerUnavailable, VectorClosed
from vectasks.protocol import (
    Command,
    Failure,
    Reply,
    Request,
    SamplerState,
    StepOutcome,
    TaskStart,
    VectorState,
)

_RUNNING = frozenset({SamplerState.READY})
_LIVING = frozenset({SamplerState.READY, SamplerState.EXHAUSTED})
_ANY = frozenset({SamplerState.READY, SamplerState.EXHAUSTED, SamplerState.FAILED})

#: Which command is allowed in which state. PAUSED and BUSY samplers take none.
ALLOWED: dict[Command, frozenset[SamplerState]] = {
    Command.STEP: _RUNNING,
    Command.RENDER: _RUNNING,
    Command.CALL: _RUNNING,
    Command.ATTR: _RUNNING,
    Command.SET_ATTR: _RUNNING,
    Command.OBSERVE: _LIVING,
    Command.CALL_SAMPLER: _LIVING,
    Command.SAMPLER_ATTR: _LIVING,
    Command.OBSERVATION_SPACE: _LIVING,
    Command.ACTION_SPACE: _LIVING,
    Command.KEEP_FRAMES: _LIVING,
    Command.SEED: _LIVING,
    Command.NEXT_TASK: _ANY,
    Command.RESET: _ANY,
    Command.SETUP: _ANY,
}

# A failure of these leaves the episode in a state that nobody knows.
_FAILING = frozenset({Command.STEP, Command.NEXT_TASK, Command.RESET, Command.SEED, Command.SETUP})

_REMEDY = {
    SamplerState.BUSY: "an earlier command of its is still running; wait, or restart_at() it",
    SamplerState.PAUSED: "resume_all() brings it back",
    SamplerState.EXHAUSTED: "its task sampler has no next task; pause_at() it or reset_all()",
    SamplerState.FAILED: "revive it by next_task_at(), reset_all() or restart_at(), or pause it",
}


class SamplerStates:
    """States and outstanding commands of ``num_samplers`` samplers.

    A command that is *out* was sent to a sampler and not answered: the sampler is BUSY. A step is
    *uncollected* from the call that begins it to the call that gives its results, which may come
    long after the answer.
    """

    def __init__(self, num_samplers: int) -> None:
        self.closed = False
        #: Whose step is uncollected, in order; None: no step is.
        self.uncollected: list[int] | None = None
        #: What collects it.
        self.collector: Literal["wait_step", "recv"] = "wait_step"
        self.waiting: set[int] = set()  # done samplers that wait for the others (lockstep)
        self.steps_sent: int = 0  # since the start, of samplers
        self._condition = [SamplerState.READY] * num_samplers  # READY, EXHAUSTED or FAILED
        self._paused: set[int] = set()
        self._requests: dict[int, Request] = {}  # that are out
        self._stepping: set[int] = set()  # a step is out that is no request
        self.awaited: set[int] = set()  # samplers whose answer a caller will take
        self._seq = itertools.count(1)
        #: Ids of the unpaused samplers, in order; positions in it are the users' indices.
        self.unpaused: list[int] = list(range(num_samplers))

    # -- states -------------------------------------------------------------------------------

    def state_of(self, sampler_id: int) -> SamplerState:
        """The state of one sampler."""
        if sampler_id in self._paused:
            return SamplerState.PAUSED
        if sampler_id in self._requests or sampler_id in self._stepping:
            return SamplerState.BUSY
        return self._condition[sampler_id]

    @property
    def has_requests_out(self) -> bool:
        """Whether a request is out."""
        return bool(self._requests)

    @property
    def stepping(self) -> list[int]:
        """Whose step is out that is no request."""
        return sorted(self._stepping)

    def can_be_seen(self, sampler_id: int) -> bool:
        """Whether it has a task that can be rendered, paused or not."""
        return (
            sampler_id not in self._requests
            and sampler_id not in self._stepping
            and self._condition[sampler_id] is SamplerState.READY
        )

    @property
    def states(self) -> dict[int, SamplerState]:
        """The state of every sampler, by id."""
        return {sampler_id: self.state_of(sampler_id) for sampler_id in range(len(self._condition))}

    @property
    def vector_state(self) -> VectorState:
        """The state of the whole."""
        if self.closed:
            return VectorState.CLOSED
        if self.uncollected is not None:
            return VectorState.STEPPING
        if any(self._condition[i] is SamplerState.FAILED for i in self.unpaused):
            return VectorState.BROKEN
        return VectorState.IDLE

    def id_at(self, sampler_index: Any) -> int:
        """The id of the sampler at an index.

        Raises:
            SamplerIndexError: no unpaused sampler has this index (negative ones are refused too).
        """
        try:
            index = operator.index(sampler_index)
        except TypeError:
            raise SamplerIndexError(
                f"sampler_index must be an integer, got {sampler_index!r}."
            ) from None
        if not 0 <= index < len(self.unpaused):
            raise SamplerIndexError(
                f"sampler_index {index} is out of range: {len(self.unpaused)} samplers are "
                f"unpaused, so it must be from 0 to {len(self.unpaused) - 1}."
                if self.unpaused
                else f"sampler_index {index} is out of range: every sampler is paused."
            )
        return self.unpaused[index]

    # -- what may be done ---------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Whether any command may be given: every sampler is READY, and nothing is out."""
        condition = self._condition
        return condition.count(SamplerState.READY) == len(condition) and not (
            self.closed
            or self.uncollected is not None
            or self.waiting
            or self._requests
            or self._stepping
            or self._paused
        )

    def require_idle(self, what: str) -> None:
        """Refuse ``what`` while the vector is closed or a step is out."""
        if self.closed:
            raise VectorClosed(f"{what}: the vector is closed; make a new one.")
        if self.uncollected is None:
            return
        if self.collector == "recv":
            raise AlreadyPending(
                f"{what}: steps of samplers {self.uncollected} are out; collect them by recv()."
            )
        raise AlreadyPending(f"{what}: a step is out; collect it by wait_step() first.")

    def require(self, command: Command, ids: Iterable[int]) -> None:
        """Refuse ``command`` unless every sampler is in a state that allows it."""
        allowed = ALLOWED[command]
        if not (self._requests or self._stepping or self._paused) and self._all_ready():
            return
        for sampler_id in ids:
            state = self.state_of(sampler_id)
            if state not in allowed:
                raise SamplerUnavailable(
                    f"{command.label}: sampler {sampler_id} is {state.name} and cannot take it: "
                    f"{_REMEDY[state]}. Nothing was sent."
                )

    def _all_ready(self) -> bool:
        return self._condition.count(SamplerState.READY) == len(self._condition)

    # -- what is out --------------------------------------------------------------------------

    def open(self, sampler_id: int, command: Command, data: Any) -> Request:
        """Write down a new request, whose answer its caller awaits; its sampler is BUSY."""
        request = Request(next(self._seq), sampler_id, command, data)
        self.steps_sent += command is Command.STEP
        self._requests[sampler_id] = request
        return request

    def next_seq(self) -> int:
        """Number a request that is nobody's but the vector's own."""
        return next(self._seq)

    def hold(self, sampler_id: int) -> None:
        """Let a step that has come in be out until :meth:`settle_outcomes`."""
        self._stepping.add(sampler_id)

    def withdraw(self, request: Request) -> None:
        """Forget a request that was never sent."""
        if self._requests.get(request.sampler_id) is request:
            del self._requests[request.sampler_id]

    def open_steps(self, ids: Sequence[int]) -> None:
        """Write down steps that need no request: the transport matches what they give."""
        self.steps_sent += len(ids)
        self._stepping.update(ids)

    def settle_steps(self, ids: Iterable[int]) -> None:
        """Write down that steps have come in; nothing is special about them so far."""
        self._stepping.difference_update(ids)

    def settle_outcomes(self, outcomes: Mapping[int, Any]) -> None:
        """Write down what steps that needed no request gave, by sampler id."""
        for i in self._stepping.intersection(outcomes):
            outcome = outcomes[i]
            if type(outcome) is Failure:
                self.fail(i)
            elif type(outcome) is StepOutcome and outcome.exhausted:
                self.exhaust(i)
        self._stepping.difference_update(outcomes)

    def outstanding(self, sampler_id: int) -> Request | None:
        """The request that a sampler has not answered yet; one without a number is a step."""
        if sampler_id in self._stepping:
            return Request(0, sampler_id, Command.STEP)
        return self._requests.get(sampler_id)

    def settle(self, reply: Reply) -> Request | None:
        """Take a reply in: the request it answers (None: nobody's), and the sampler's new state."""
        request = self._requests.get(reply.sampler_id)
        if request is None or request.seq != reply.seq:
            return None
        del self._requests[reply.sampler_id]
        value, sampler_id = reply.value, reply.sampler_id
        if isinstance(value, Failure):
            if request.command in _FAILING:
                self.fail(sampler_id)
        elif isinstance(value, (StepOutcome, TaskStart)):
            self._condition[sampler_id] = (
                SamplerState.EXHAUSTED if value.exhausted else SamplerState.READY
            )
            if isinstance(value, TaskStart):
                self.waiting.discard(sampler_id)
        elif request.command is Command.SETUP:
            has_task = value.observation is not None
            self._condition[sampler_id] = SamplerState.READY if has_task else SamplerState.EXHAUSTED
            self.waiting.discard(sampler_id)
        return request

    def exhaust(self, sampler_id: int) -> None:
        """Write down that a sampler's step was its last, unless its worker died since."""
        if self._condition[sampler_id] is not SamplerState.FAILED:
            self._condition[sampler_id] = SamplerState.EXHAUSTED

    def fail(self, sampler_id: int) -> None:
        """Write down that its worker died, or its task raised."""
        self._requests.pop(sampler_id, None)
        self._stepping.discard(sampler_id)
        self._condition[sampler_id] = SamplerState.FAILED
        self.waiting.discard(sampler_id)

    # -- what is to be collected ------------------------------------------------------------------

    def begin_step(
        self, ids: Sequence[int], collector: Literal["wait_step", "recv"] = "wait_step"
    ) -> None:
        """Have a step of these samplers collected, beside what is uncollected of others."""
        if self.uncollected is None and collector == "wait_step":
            self.uncollected = list(ids)
        elif ids:
            self.uncollected = sorted([*(self.uncollected or ()), *ids])
        self.collector = collector

    def end_step(self, ids: Sequence[int]) -> None:
        """Write down that the step of these samplers is collected."""
        out = self.uncollected or ()
        self.uncollected = sorted(set(out).difference(ids)) if len(out) > len(ids) else None

    # -- pausing ------------------------------------------------------------------------------

    def pause(self, sampler_id: int) -> None:
        """Leave a sampler out until :meth:`resume_all`.

        Raises:
            SamplerUnavailable: a command of its is still running.
        """
        if self.state_of(sampler_id) is SamplerState.BUSY:
            raise SamplerUnavailable(
                f"pause_at: sampler {sampler_id} is BUSY: {_REMEDY[SamplerState.BUSY]}."
            )
        self._paused.add(sampler_id)
        self.unpaused = [i for i in self.unpaused if i != sampler_id]

    def resume_all(self) -> None:
        """Bring every paused sampler back, in the original order."""
        self._paused.clear()
        self.unpaused = list(range(len(self._condition)))
