"""Hosts in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from vectasks.host import HostGroup
from vectasks.messages import Failure, Reply, Request, StepOutcome
from vectasks.spaces import own
from vectasks.task import RLStepResult
from vectasks.workers.base import Unreadable, Worker
from vectasks.workers.blocks import BlocksMoved
from vectasks.workers.board import Recorder, Ring, TimedHostGroup
from vectasks.workers.lane import TIMED, Outcome, Steps, is_batch
from vectasks.workers.parent_lane import ParentLane
from vectasks.workers.slab import Extra, SlabWriter
from vectasks.workers.worker_lane import run_step

Parcel: TypeAlias = list[Request] | Steps | BlocksMoved


class InlineWorker(Worker):
    """Carries requests out as they are sent; tasks can be stepped through in a debugger."""

    def __init__(self, number: int, sampler_ids: Sequence[int]) -> None:
        super().__init__(number, sampler_ids)
        self._group: HostGroup = HostGroup()
        self._replies: list[Reply | Unreadable] = []
        self._failures: list[tuple[int, Failure]] = []
        self._lane: ParentLane | None = None

    def record_spans(self, ring: Ring) -> None:
        """Record how long everything takes."""
        self._group = TimedHostGroup(Recorder(ring))

    def start(self) -> None:
        """Nothing to begin: this process is running."""

    def pack(self, message: Parcel) -> Parcel:
        """Nothing to make ready."""
        return message

    def post(self, parcel: Parcel) -> None:
        """Carry the requests or steps out, now."""
        if isinstance(parcel, Steps):
            self._step(parcel.actions, parcel.ticket)
        elif isinstance(parcel, list):  # and the blocks are the parent's, which are here
            self._execute(parcel)

    def _execute(self, requests: Sequence[Request]) -> None:
        """Carry requests out. Ctrl-C passes through; what it cut off is answered as failed."""
        for position, request in enumerate(requests):
            try:
                reply = self._group.execute(request)
                # Owned, as what another process sends is: a task may write into its arrays again.
                self._replies.append(reply._replace(value=own(reply.value)))
            except BaseException as error:
                failure = Failure.of(error)
                self._replies += [
                    Reply(cut.seq, cut.sampler_id, failure) for cut in requests[position:]
                ]
                raise

    def attach(self, lane: ParentLane) -> None:
        """Write batches into the slab."""
        self._lane = lane

    def _step(self, actions: Mapping[int, Any], ticket: int) -> None:
        """Step now. Ctrl-C passes through; what it cut off is answered as failed."""
        lane = self._lane
        assert lane is not None
        group, writer, as_batch = self._group, lane.desks.at(ticket), is_batch(ticket)
        step = group.timed_step if ticket & TIMED else group.step
        done = 0
        try:
            for i, action in actions.items():
                if as_batch:
                    extra = run_step(step, writer, i, action)
                    if extra is not None:
                        lane.keep(own(extra))
                else:
                    lane.give(i, _owned(step(i, action)))
                done += 1
        except BaseException as error:
            for cut in list(actions)[done:]:
                lane.give(cut, Failure.of(error))
            raise
        finally:
            lane.answer(actions, ticket)
            if ticket & TIMED:
                group.end_steps()

    def step_rows(
        self, ids: Sequence[int], actions: Sequence[Any], writer: SlabWriter
    ) -> list[Extra]:
        """Step samplers and write what came of it to a row; what has no place there.

        Ctrl-C passes through; the lane is given what came before it, and what it cut off as failed.
        """
        group, lane = self._group, self._lane
        assert lane is not None
        step = group.timed_step if lane.timed else group.step
        extras: list[Extra] = []
        done = 0
        try:
            for i, action in zip(ids, actions, strict=True):
                extra = run_step(step, writer, i, action)
                if extra is not None:
                    extras.append(own(extra))
                done += 1
        except BaseException as error:
            for extra in extras:
                lane.keep(extra)
            for cut in ids[done:]:
                lane.give(cut, Failure.of(error))
            raise
        finally:
            if lane.timed:
                group.end_steps()
        return extras

    def receive(self) -> list[Reply | Unreadable]:
        """The replies since the last time."""
        replies, self._replies = self._replies, []
        return replies

    def descriptors(self) -> list[tuple[int, int]]:
        """None: replies are always there at once."""
        return []

    def ask_to_end(self) -> None:
        """Close every task and sampler, now."""
        self._failures += self._group.close()

    def has_ended(self) -> bool:
        """It ended when it was asked to."""
        return True

    def terminate(self) -> None:
        """Nothing is left to end."""

    def kill(self) -> None:
        """Nothing is left to end."""

    def release(self) -> list[tuple[int, Failure]]:
        """What closing raised."""
        failures, self._failures = self._failures, []
        return failures


def _owned(outcome: Outcome) -> Outcome:
    """A copy that shares no array with the task's."""
    if type(outcome) is RLStepResult:
        observation, reward, done, info = outcome
        return RLStepResult(own(observation), reward, done, own(info))
    if type(outcome) is StepOutcome:
        return outcome._replace(observation=own(outcome.observation), info=own(outcome.info))
    return outcome
