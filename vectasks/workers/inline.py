"""Hosts in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vectasks.host.step_rows import RowSteps
from vectasks.host.task_host import HostGroup
from vectasks.host.timed import TimedHostGroup
from vectasks.monitoring.live_stats import Recorder, Ring
from vectasks.protocol import Command, Failure, Reply, Request, StepOutcome
from vectasks.spaces import copy_arrays
from vectasks.task import RLStepResult
from vectasks.transport.channel import Unreadable
from vectasks.transport.step_buffer import OutOfBand
from vectasks.transport.step_protocol import Outcome
from vectasks.workers.base import Worker
from vectasks.workers.threads import Preparations

#: What these give may be an object of the task's, which is handed over as it is.
_HANDING_OVER = frozenset(
    {
        Command.CALL,
        Command.ATTR,
        Command.CALL_SAMPLER,
        Command.SAMPLER_ATTR,
        Command.OBSERVATION_SPACE,
        Command.ACTION_SPACE,
        Command.SETUP,
    }
)


class InlineWorker(Worker):
    """Carries requests out as they are sent; tasks can be stepped through in a debugger.

    Args:
        number: its number among the workers of a vector.
        sampler_ids: whose hosts live in it.
        preparations: what prepares next tasks in threads, for samplers that allow it; all workers
            of a vector have the same. None: nothing does.
    """

    def __init__(
        self, number: int, sampler_ids: Sequence[int], preparations: Preparations | None = None
    ) -> None:
        super().__init__(number, sampler_ids)
        self._preparations = preparations
        self.group: HostGroup = HostGroup()
        self._replies: list[Reply | Unreadable] = []
        self._failures: list[tuple[int, Failure]] = []

    def record_spans(self, ring: Ring) -> None:
        """Record how long everything takes."""
        self.group = TimedHostGroup(Recorder(ring))

    def start(self) -> None:
        """Nothing to begin: this process is running."""

    def pack(self, message: list[Request]) -> list[Request]:
        """Nothing to make ready."""
        return message

    def post(self, packed: list[Request]) -> None:
        """Carry requests out, now. Ctrl-C passes through; what it cut off is answered as failed."""
        for position, request in enumerate(packed):
            try:
                if self._is_prepared_in_thread(request):
                    continue
                reply = self.group.execute(request)
                # Owned, as what another process sends is: a task may write into its arrays again.
                # But who asks for an object of the task's gets it.
                with_objects = request.command not in _HANDING_OVER
                self._replies.append(reply._replace(value=copy_arrays(reply.value, with_objects)))
            except BaseException as error:
                failure = Failure.of(error)
                self._replies += [
                    Reply(cut.seq, cut.sampler_id, failure) for cut in packed[position:]
                ]
                raise

    def _is_prepared_in_thread(self, request: Request) -> bool:
        if self._preparations is None or request.command is not Command.PREPARE:
            return False
        host = self.group.hosts.get(request.sampler_id)
        return host is not None and self._preparations.begin(host, request)

    def row_steps(self, keep: Callable[[OutOfBand], object]) -> RowSteps:
        """Make what steps its hosts into rows; what has no place there is copied and kept."""
        return RowSteps(self.group, keep, owned=True)

    def step_each(
        self,
        ids: Sequence[int],
        actions: Iterable[Any],
        give: Callable[[int, Outcome], object],
        *,
        timed: bool,
    ) -> None:
        """Step samplers, and give away the outcome of each; what Ctrl-C cut off has failed."""
        group, num_done = self.group, 0
        step = group.timed_step if timed else group.step
        try:
            for i, action in zip(ids, actions, strict=True):
                give(i, _owned(step(i, action)))
                num_done += 1
        except BaseException as error:
            for cut in ids[num_done:]:
                give(cut, Failure.of(error))
            raise
        finally:
            if timed:
                group.end_steps()

    def receive(self) -> list[Reply | Unreadable]:
        """The replies since the last time."""
        replies, self._replies = self._replies, []
        if self._preparations is not None:
            replies += self._preparations.receive()
        return replies

    def descriptors(self) -> list[tuple[int, int]]:
        """None: replies are always there at once, unless tasks are prepared in threads."""
        return [] if self._preparations is None else self._preparations.descriptors()

    def ask_to_end(self) -> None:
        """Close every task and sampler, now."""
        if self._preparations is not None:
            self._preparations.close()
        self._failures += self.group.close()

    def has_ended(self) -> bool:
        """It ended when it was asked to."""
        return True

    def terminate(self) -> None:
        """Nothing is left to end."""

    def kill(self) -> None:
        """Nothing is left to end."""

    def release(self) -> list[tuple[int, Failure]]:
        """Return what closing raised."""
        failures, self._failures = self._failures, []
        return failures


def _owned(outcome: Outcome) -> Outcome:
    """A copy that shares nothing with the task's that can change."""
    if type(outcome) is RLStepResult:
        observation, reward, done, info = outcome
        return RLStepResult(copy_arrays(observation, True), reward, done, copy_arrays(info, True))
    if type(outcome) is StepOutcome:
        return outcome._replace(
            observation=copy_arrays(outcome.observation, True), info=copy_arrays(outcome.info, True)
        )
    return outcome
