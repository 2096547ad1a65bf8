"""The ledger: the state of every sampler, and the requests that are out.

The front asks it before it sends anything, so that a misuse fails at the call and changes nothing.
It also translates: users speak of *indices* (positions among the unpaused samplers), everything
inside of *ids* (numbered from 0, never reused).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

from vectasks.errors import AlreadyPending, SamplerIndexError, SamplerUnavailable, VectorClosed
from vectasks.messages import Command, Failure, Reply, Request, StepOutcome, TaskStart

__all__ = ["SamplerState", "VectorState"]


class SamplerState(IntEnum):
    """What a sampler is doing."""

    READY = 0  # its task waits for a command
    BUSY = 1  # a request is out, perhaps one that its caller gave up waiting for
    PAUSED = 2  # left out of everything until resume_all()
    EXHAUSTED = 3  # its next_task() gave None; reset_all() starts its tasks anew
    FAILED = 4  # its task raised, or its worker died; next_task_at() or restart_at() revives it


class VectorState(IntEnum):
    """What the vector is doing; derived from its samplers' states, never stored."""

    IDLE = 0  # every unpaused sampler can take a command
    STEPPING = 1  # async_step() was called and wait_step() was not
    BROKEN = 2  # an unpaused sampler is FAILED
    CLOSED = 3  # close() was called; nothing brings it back


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


class Ledger:
    """States and outstanding requests of ``num_samplers`` samplers."""

    def __init__(self, num_samplers: int) -> None:
        self.closed = False
        self.step_ids: list[int] | None = None  # the samplers whose step is out, in order
        self.sent: set[int] = (
            set()
        )  # the samplers that send() stepped and recv() has not given back
        self.waiting: set[int] = set()  # done samplers that wait for the others (lockstep)
        self.steps_sent: int = 0  # since the start, of samplers
        self._condition = [SamplerState.READY] * num_samplers  # READY, EXHAUSTED or FAILED
        self._paused: set[int] = set()
        self._out: dict[int, Request] = {}
        self._stepping: set[int] = set()  # BUSY with a step on the step lane
        self.stepping_here: Sequence[int] = ()  # BUSY with a step that is made in this very call
        self._seq = itertools.count(1)
        #: Ids of the unpaused samplers, in order; positions in it are the users' indices.
        self.unpaused: list[int] = list(range(num_samplers))

    # -- states -------------------------------------------------------------------------------

    def state_of(self, sampler_id: int) -> SamplerState:
        """The state of one sampler."""
        if sampler_id in self._paused:
            return SamplerState.PAUSED
        if sampler_id in self._out or self._is_stepping(sampler_id):
            return SamplerState.BUSY
        return self._condition[sampler_id]

    def _is_stepping(self, sampler_id: int) -> bool:
        return sampler_id in self._stepping or sampler_id in self.stepping_here

    @property
    def has_requests_out(self) -> bool:
        """Whether a request (other than a step on the step lane) is out."""
        return bool(self._out)

    def can_be_seen(self, sampler_id: int) -> bool:
        """Whether it has a task that can be rendered, paused or not."""
        return (
            sampler_id not in self._out
            and not self._is_stepping(sampler_id)
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
        if self.step_ids is not None or self.sent:
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
            or self.step_ids is not None
            or self.sent
            or self.waiting
            or self._out
            or self._stepping
            or self.stepping_here
            or self._paused
        )

    def require_idle(self, what: str) -> None:
        """Refuse ``what`` while the vector is closed or a step is out."""
        if self.closed:
            raise VectorClosed(f"{what}: the vector is closed; make a new one.")
        if self.step_ids is not None:
            raise AlreadyPending(f"{what}: a step is out; collect it by wait_step() first.")
        if self.sent:
            raise AlreadyPending(
                f"{what}: steps of samplers {sorted(self.sent)} are out; collect them by recv()."
            )

    def require(self, command: Command, ids: Iterable[int]) -> None:
        """Refuse ``command`` unless every sampler is in a state that allows it."""
        allowed = ALLOWED[command]
        is_busy = self._out or self._stepping or self.stepping_here
        if not is_busy and not self._paused and self._all_ready():
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

    # -- requests -----------------------------------------------------------------------------

    def open(self, sampler_id: int, command: Command, data: Any) -> Request:
        """Write down a new request; its sampler is BUSY until it is settled."""
        request = Request(next(self._seq), sampler_id, command, data)
        self.steps_sent += command is Command.STEP
        self._out[sampler_id] = request
        return request

    def open_step(self, ids: Sequence[int]) -> None:
        """Write down a step on the step lane, which needs no request: the slab matches answers."""
        self.steps_sent += len(ids)
        self._stepping.update(ids)

    def settle_step(self, sampler_id: int, exhausted: bool, failed: bool) -> None:
        """A step on the step lane has come in for one sampler."""
        self._stepping.discard(sampler_id)
        if failed:
            self.fail(sampler_id)
        elif exhausted and self._condition[sampler_id] is not SamplerState.FAILED:
            self._condition[sampler_id] = SamplerState.EXHAUSTED  # and its worker did not die since

    def settle_steps(self, ids: Iterable[int]) -> None:
        """Steps on the step lane have come in, and nothing is special about them."""
        self._stepping.difference_update(ids)

    def begin_step(self, ids: Iterable[int]) -> None:
        """A step of these samplers is out now, beside what is out of others."""
        self.step_ids = list(ids) if self.step_ids is None else sorted([*self.step_ids, *ids])

    def end_step(self, ids: Sequence[int]) -> None:
        """The step of these samplers is not out any more."""
        out = self.step_ids or ()
        self.step_ids = sorted(set(out).difference(ids)) if len(out) > len(ids) else None

    def withdraw(self, request: Request) -> None:
        """The request was never sent."""
        if self._out.get(request.sampler_id) is request:
            del self._out[request.sampler_id]

    def outstanding(self, sampler_id: int) -> Request | None:
        """The request that a sampler has not answered yet."""
        if self._is_stepping(sampler_id):
            return Request(0, sampler_id, Command.STEP)
        return self._out.get(sampler_id)

    def settle(self, reply: Reply) -> Request | None:
        """Take a reply in: the request it answers (None: nobody's), and the sampler's new state."""
        request = self._out.get(reply.sampler_id)
        if request is None or request.seq != reply.seq:
            return None
        del self._out[reply.sampler_id]
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
            self._condition[sampler_id] = SamplerState.READY
            self.waiting.discard(sampler_id)
        return request

    def fail(self, sampler_id: int) -> None:
        """Its worker died, or its task raised."""
        self._out.pop(sampler_id, None)
        self._stepping.discard(sampler_id)
        self.stepping_here = [i for i in self.stepping_here if i != sampler_id]
        self._condition[sampler_id] = SamplerState.FAILED
        self.waiting.discard(sampler_id)

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
