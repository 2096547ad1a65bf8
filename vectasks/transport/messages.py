"""Steps as requests: each action by message, and each outcome by the reply."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from vectasks.batch import StepBatch
from vectasks.protocol import Command
from vectasks.spaces import dispatch_rows
from vectasks.transport.base import Exchange, StepTransport
from vectasks.transport.step_results import StepForm, StepResults


class MessageTransport(StepTransport):
    """Carries steps as requests, for workers that share no memory or samplers that share no arrays.

    Args:
        results: private memory in which batches are made; None where samplers share no arrays.
        exchange: the requests of the vector.
        off_buffer: names of what does not travel as arrays.
    """

    can_be_timed = False

    def __init__(
        self,
        results: StepResults | None,
        exchange: Exchange,
        off_buffer: Sequence[str] = ("observation",),
    ) -> None:
        super().__init__(results)
        self._exchange = exchange
        self._off_buffer = off_buffer

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Send a request to each sampler."""
        if self.results is not None:
            self.results.begin(ids, form)
        rows = dispatch_rows(actions)
        self._exchange.send(
            (i, Command.STEP, row) for i, row in zip(ids, rows, strict=True) if i not in by_request
        )

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait for replies."""
        self._exchange.wait_for(ids, count, timeout_s, late_is_fine=late_is_fine)

    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Go by the order in which replies came."""
        return sorted([i for i in self._exchange.answers if i in ids][:count])

    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Hand out the replies."""
        return self._exchange.take(ids)

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Write the replies into private memory, and give copies of that."""
        assert self.results is not None
        failed = self.results.bring_in(ids, self._exchange)
        return failed or self.results.batch(ids, out, copy)

    def take_rows(self, ids: Sequence[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
        """Write the replies into the rows."""
        assert self.results is not None
        failed = self.results.bring_in(ids, self._exchange)
        return ({}, failed) if failed else (self.results.take_infos(ids), {})

    @property
    def off_buffer(self) -> Sequence[str]:
        """All of the observation, unless tasks and vector are in one process."""
        return self._off_buffer
