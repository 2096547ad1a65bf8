"""Steps of tasks in this process: nothing travels, and nobody waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

from vectasks.batch import StepBatch
from vectasks.spaces import ActionBatches, copy_arrays, dispatch_rows
from vectasks.transport.base import Exchange, StepTransport
from vectasks.transport.compiled import core
from vectasks.transport.step_buffer import OutOfBand, RowWriter
from vectasks.transport.step_protocol import Outcome
from vectasks.transport.step_results import StepForm, StepResults

_NAP_S = 0.2


class RowSteps(Protocol):
    """What steps the tasks of this process into rows."""

    @property
    def hosts(self) -> dict[int, Any]:
        """The hosts, by sampler id."""

    def run(
        self, writer: RowWriter, ids: Sequence[int], actions: Iterable[Any], *, timed: bool
    ) -> None:
        """Step samplers, and write at once what came of it."""

    def write_unusual(
        self,
        writer: RowWriter,
        sampler_id: int,
        action: Any,
        result: Any,
        error: BaseException | None,
    ) -> None:
        """Write what the compiled core leaves to Python."""


class Hosts(Protocol):
    """What steps the tasks of this process."""

    def row_steps(self, keep: Callable[[OutOfBand], object]) -> RowSteps:
        """Make what steps them into rows; what has no place there is kept."""

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
        self._row_steps = hosts.row_steps(results.keep)
        self._exchange = exchange
        self._order: dict[int, None] = {}  # of the steps that are out, as they were made
        self._held: set[int] = set()  # their outcomes are here, and their next tasks are not
        self._given_back: set[int] = set()

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Step now. Ctrl-C passes through; what it cut off has failed."""
        results, rows = self._results, dispatch_rows(actions)
        ticket = results.begin(ids, form)
        self._exchange.open_steps(ids, copy_arrays(actions))
        self._order.update(dict.fromkeys(ids))
        if form.as_batch:
            self._row_steps.run(results.row_writers.at(ticket), ids, rows, timed=self.is_timed)
        else:
            self._hosts.step_each(ids, rows, results.give, timed=self.is_timed)

    def usual_steps(self, batches: ActionBatches, hooks: Any) -> Any:
        """Make what steps the tasks, compiled."""
        results, row_steps = self._results, self._row_steps
        steps = results.usual_steps(core and core.UsualStepsHere, batches, hooks)
        if steps is not None:
            steps.use(
                row_steps.hosts,
                lambda ticket: results.row_writers.at(ticket).places,
                lambda i, action, result, error: row_steps.write_unusual(
                    results.row_writers.at(steps.ticket), i, action, result, error
                ),
                hooks.cut_off,
            )
        return steps

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait for next tasks that are made in threads: all else that was begun is done."""
        if not self._held:
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while len(ids) - len(missing := [i for i in ids if i in self._held]) < count:
            nap_s = _NAP_S if deadline is None else min(_NAP_S, deadline - time.monotonic())
            if nap_s <= 0 and late_is_fine:
                return
            if nap_s <= 0:
                raise self._exchange.timeout(missing, timeout_s or 0.0)
            workers = self._exchange.homes.of_all(missing)
            for worker in self._exchange.wait_for_news(workers, nap_s):
                self._exchange.take_in(worker)

    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Go by the order in which they were stepped."""
        return sorted([i for i in self._order if i in ids and i not in self._held][:count])

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
        if self._held or self._given_back:
            self._held.difference_update(ids)
            self._given_back.difference_update(ids)

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Look at what the tasks gave."""
        seen = self._held | self._given_back
        return self._results.ended([i for i in ids if i not in seen] if seen else ids)

    def hold(self, sampler_id: int) -> Any:
        """Take what the task gave."""
        self._held.add(sampler_id)
        return self._results.outcome_of(sampler_id)

    def give_back(self, sampler_id: int, outcome: Any) -> None:
        """Put it in the place of what the task gave."""
        if sampler_id in self._held:  # otherwise the step was dropped meanwhile
            self._held.discard(sampler_id)
            self._given_back.add(sampler_id)
            self._results.replace(sampler_id, outcome)

    @property
    def off_buffer(self) -> Sequence[str]:
        """None: nothing travels."""
        return []

    def close(self) -> None:
        """Let go of the hosts, which may hold memory to record in."""
        super().close()
        del self._hosts, self._row_steps
