"""A transport that records how long steps take; the others know nothing of that.

Recording a batch costs some microseconds, which is much where tasks do nothing. So not every batch
is timed: after each that is, the parent chooses how many come before the next, such that recording
takes a two-hundredth of the time. Long batches are all timed. A bit of their tickets tells the
workers which; the others cost them nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from vectasks.batch import StepBatch
from vectasks.monitoring.live_stats import KINDS, SEND, TAKE, WAIT, Recorder
from vectasks.transport.base import StepTransport, TransportAround
from vectasks.transport.step_results import StepForm

_MANY = 100  # values of spans that are not written yet

# What it costs to time one batch among others that are not: four times as much as where all are,
# since caches hold nothing of it.
_BATCH_COST_S = 16e-6
_SAMPLER_COST_S = 0.5e-6
_PART_OF_TIME = 0.005  # that this may take

_clock = time.monotonic


def stride(batch_s: float, num_samplers: int, chance: float) -> int:
    """Choose how many batches on the next one is timed; 1: it is the next.

    Args:
        batch_s: how long a batch takes, with all that the caller does in between.
        num_samplers: of a batch.
        chance: from 0 to 1. It keeps the batches that are timed out of step with whatever comes
            every so many batches.
    """
    cost_s = _BATCH_COST_S + num_samplers * _SAMPLER_COST_S
    wanted = cost_s / _PART_OF_TIME / max(batch_s, 1e-6)  # clocks may stand still
    return max(1, int(wanted * (0.5 + chance) + 0.5))


class TimedTransport(TransportAround):
    """Records how some batches are begun, waited for and taken.

    Args:
        inner: carries the steps.
        recorder: writes the parent's spans.
        steps_sent: how many steps of samplers were sent since the start.
        every_batch: time all of them, whatever that costs.
    """

    def __init__(
        self,
        inner: StepTransport,
        recorder: Recorder,
        *,
        steps_sent: Callable[[], int],
        every_batch: bool,
    ) -> None:
        super().__init__(inner)
        self._recorder: Recorder | None = recorder
        self._steps_sent = steps_sent
        # Steps that go as requests are recorded by the workers in any case.
        self._times_every_batch = every_batch or not inner.can_be_timed
        self._timed_at_s, self._timed_at_step = 0.0, 0  # when the last timed batch was sent
        self._time_after = 0  # once so many steps were sent, the next batch is to be timed
        self._is_timed = False  # the batch that was sent last
        self._chances = random.Random()  # of its own: the user's numbers stay as they are

    # -- begin ------------------------------------------------------------------------------------

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Begin a step, which may be a timed one."""
        began = self._began(len(ids), self._steps_sent())
        try:
            self._inner.begin(ids, actions, form, by_request)
        finally:
            self._end(SEND, began)

    def _began(self, num_samplers: int, sent: int) -> tuple[int, float]:
        """Have a batch timed if it is due; ``sent`` steps came before it, and when it began."""
        self._is_timed = self._times_every_batch or sent >= self._time_after
        if not self._is_timed:
            return sent, 0.0
        now_s = _clock()
        if not self._times_every_batch:
            batches = max(1.0, (sent - self._timed_at_step) / max(1, num_samplers))
            batch_s = (now_s - self._timed_at_s) / batches
            self._timed_at_s, self._timed_at_step = now_s, sent
            chosen = stride(batch_s, num_samplers, self._chances.random())
            self._time_after = sent + chosen * num_samplers
        self._inner.is_timed = True
        return sent, now_s

    def _end(self, kind: int, began: tuple[int, float]) -> None:
        if self._is_timed and self._recorder is not None:
            self._inner.is_timed = False
            sent, begin_s = began
            # Now the workers are busy, and what is written here costs no time.
            self._recorder.record(sent * KINDS + kind, begin_s, _clock())

    # -- wait and take ----------------------------------------------------------------------------

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait for steps."""
        begin_s = _clock() if self._is_timed else 0.0
        try:
            self._inner.wait(ids, count, timeout_s, late_is_fine=late_is_fine)
        finally:
            self._note(WAIT, begin_s)

    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Hand out outcomes."""
        begin_s = _clock() if self._is_timed else 0.0
        outcomes = self._inner.take(ids)
        self._note(TAKE, begin_s)
        return outcomes

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Hand out arrays."""
        begin_s = _clock() if self._is_timed else 0.0
        batch = self._inner.take_batch(ids, out, copy)
        self._note(TAKE, begin_s)
        return batch

    def _note(self, kind: int, begin_s: float) -> None:
        recorder = self._recorder
        if not self._is_timed or recorder is None:
            return
        recorder.add(self._steps_sent() * KINDS + kind, begin_s, _clock())
        if len(recorder.pending) > _MANY:  # many calls that wait, and none that sends
            recorder.write()

    # -- what is not timed ------------------------------------------------------------------------

    def begin_untimed(self) -> int:
        """Give those before the next batch that is to be timed."""
        if self._times_every_batch or self.results is None:
            return 0
        num_samplers = self.results.layout.num_samplers
        num_steps = max(0, self._time_after - self._steps_sent()) // num_samplers
        self._is_timed = self._is_timed and num_steps == 0
        return num_steps

    def close(self) -> None:
        """Let go of the memory of both."""
        super().close()
        self._recorder = None
