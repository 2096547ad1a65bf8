"""Hosts in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vectasks.host import HostGroup
from vectasks.messages import Failure, Reply, Request, StepOutcome
from vectasks.spaces import own
from vectasks.workers.base import Unreadable, Worker
from vectasks.workers.lane import ParentLane, Steps, is_batch, run_step


class InlineWorker(Worker):
    """Carries requests out as they are sent; tasks can be stepped through in a debugger."""

    def __init__(self, number: int, sampler_ids: Sequence[int]) -> None:
        super().__init__(number, sampler_ids)
        self._group = HostGroup()
        self._replies: list[Reply | Unreadable] = []
        self._failures: list[tuple[int, Failure]] = []
        self._lane: ParentLane | None = None

    def start(self) -> None:
        """Nothing to begin: this process is running."""

    def pack(self, message: list[Request] | Steps) -> list[Request] | Steps:
        """Nothing to make ready."""
        return message

    def post(self, parcel: list[Request] | Steps) -> None:
        """Carry the requests or steps out, now."""
        if isinstance(parcel, Steps):
            self._step(parcel.actions, parcel.ticket)
        else:
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
        as_batch = is_batch(ticket)
        left = dict(actions)
        for i, action in actions.items():
            try:
                if as_batch:
                    lane.keep(own(run_step(self._group, lane.writer, i, ticket, action)))
                else:
                    outcome = self._group.step(i, action)
                    if type(outcome) is StepOutcome:
                        observation, reward, done, info, *flags = outcome
                        outcome = StepOutcome(own(observation), reward, done, own(info), *flags)
                    lane.give(i, outcome)
            except BaseException as error:
                for cut in left:
                    lane.give(cut, Failure.of(error))
                    lane.answer(cut, ticket)
                raise
            lane.answer(i, ticket)
            del left[i]

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
