"""Steps of tasks in this process: nothing travels, and nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

from vectasks.batch import PlainStep, StepBatch
from vectasks.spaces import dispatch_rows, own
from vectasks.transport.base import Exchange, StepTransport
from vectasks.transport.step_buffer import Extra, SlabWriter
from vectasks.transport.step_protocol import AS_BATCH, Outcome
from vectasks.transport.step_results import StepForm, StepResults


class Hosts(Protocol):
    """What steps the tasks of this process."""

    def step_rows(
        self,
        ids: Sequence[int],
        actions: Iterable[Any],
        writer: SlabWriter,
        keep: Callable[[Extra], object],
        *,
        timed: bool,
    ) -> None:
        """Step samplers, and write at once what came of it; what has no place there is kept."""

    def step_each(
        self,
        ids: Sequence[int],
        actions: Iterable[Any],
        give: Callable[[int, Outcome], object],
        *,
        timed: bool,
    ) -> None:
        """Step samplers, and give away the outcome of each."""


class InProcessTransport(StepTransport):
    """Steps the tasks when it is told to begin; what they give is copied, so that it is owned.

    Args:
        results: private memory in which batches are made.
        hosts: what steps the tasks.
        exchange: the requests of the vector.
    """

    is_immediate = True

    def __init__(self, results: StepResults, hosts: Hosts, exchange: Exchange) -> None:
        super().__init__(results)
        self._results = results
        self._hosts = hosts
        self._exchange = exchange
        self._working_row = results.desks.at(AS_BATCH)
        self.can_step_now: bool = results.takes_rows_here
        self._order: dict[int, None] = {}  # of the steps that are out, as they were made

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Step now. Ctrl-C passes through; what it cut off has failed."""
        results, rows = self._results, dispatch_rows(actions)
        ticket = results.begin(ids, form)
        self._exchange.open_steps(ids, own(actions))
        self._order.update(dict.fromkeys(ids))
        if form.as_batch:
            writer = results.desks.at(ticket)
            self._hosts.step_rows(ids, rows, writer, results.keep, timed=self.is_timed)
        else:
            self._hosts.step_each(ids, rows, results.give, timed=self.is_timed)

    def step_now(
        self, ids: Sequence[int], actions: Sequence[Any], extras: list[Extra]
    ) -> PlainStep | None:
        """Step into the working row."""
        self._hosts.step_rows(ids, actions, self._working_row, extras.append, timed=self.is_timed)
        if len(ids) < self._results.layout.num_samplers:
            return None
        return self._results.plain_step(extras)

    def bring_in(self, ids: Sequence[int], extras: Iterable[Extra]) -> None:
        """Give the step a ticket after all, and keep what has no place in its row."""
        self._results.begin(ids, StepForm(as_batch=True))
        for extra in extras:
            self._results.keep(extra)

    def wait(self, ids: Sequence[int], count: int, timeout_s: float | None) -> None:
        """Return: what was begun is done."""

    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Go by the order in which they were stepped."""
        return sorted([i for i in self._order if i in ids][:count])

    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Hand out what the tasks gave."""
        self._took(ids)
        return dict(zip(ids, self._results.outcomes(ids), strict=True))

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Give the rows, or copies of them."""
        self._took(ids)
        failed = self._results.failed_outcomes(ids)
        return failed or self._results.batch(ids, out, copy)

    def take_rows(self, ids: Sequence[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
        """Leave everything where the steps wrote it."""
        self._took(ids)
        failed = self._results.failed_outcomes(ids)
        return ({}, failed) if failed else (self._results.take_infos(ids), {})

    def _took(self, ids: Sequence[int]) -> None:
        for i in ids if self._order else ():
            self._order.pop(i, None)

    @property
    def off_buffer(self) -> Sequence[str]:
        """None: nothing travels."""
        return []

    def close(self) -> None:
        """Let go of the hosts, which may hold memory to record in."""
        super().close()
        del self._hosts
