"""Where the time goes: a dispatcher that records, and what its records and the workers' say.

Recording a batch costs some microseconds, which is much where tasks do nothing. So not every batch
is timed: after each that is, the parent chooses how many come before the next, such that recording
takes a two-hundredth of the time. Long batches are all timed. A bit of their tickets tells the
workers which; the others cost them nothing.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.batch import PlainStep, StepBatch
from vectasks.messages import Command, Failure
from vectasks.step_dispatch import StepDispatcher
from vectasks.workers.blocks import Block
from vectasks.workers.board import (
    KINDS,
    SEND,
    STEPS_KEPT,
    TAKE,
    WAIT,
    Board,
    Recorder,
    spans_a_step,
)
from vectasks.workers.inline import InlineWorker
from vectasks.workers.lane import TIMED

_STRAGGLES = 2.0  # times the median sampler's mean step ...
_STRAGGLES_S = 1e-4  # ... and by so much: less is noise, and slows nothing
_MANY = 100  # values of spans that are not written yet
_PARENT_SPANS = {SEND: "send", WAIT: "wait", TAKE: "take"}

# What it costs to time one batch among others that are not: four times as much as where all are,
# since caches hold nothing of it.
_BATCH_COST_S = 16e-6
_SAMPLER_COST_S = 0.5e-6
_PART_OF_TIME = 0.005  # that this may take

_clock = time.monotonic


def stride(batch_s: float, num_samplers: int, chance: float) -> int:
    """How many batches on the next one is timed; 1: it is the next.

    Args:
        batch_s: how long a batch takes, with all that the caller does in between.
        num_samplers: of a batch.
        chance: from 0 to 1. It keeps the batches that are timed out of step with whatever comes
            every so many batches.
    """
    cost_s = _BATCH_COST_S + num_samplers * _SAMPLER_COST_S
    wanted = cost_s / _PART_OF_TIME / max(batch_s, 1e-6)  # clocks may stand still
    return max(1, int(wanted * (0.5 + chance) + 0.5))


class TimedDispatcher(StepDispatcher):
    """A dispatcher that records some batches: for these it becomes a :class:`_Recording`.

    In between it has nothing to do, and so costs nothing: a few calls more would, in short steps.
    """

    _step_bytes = _note_bytes = _pipe_bytes = 0
    _off_slab: Sequence[str] = ()

    def record_spans(self, board: Board, every_batch: bool) -> None:
        """Write to this board; called before anything else.

        Args:
            board: where to.
            every_batch: time all of them, whatever that costs.
        """
        self._recorder: Recorder = board.parent_recorder()
        self._times_every_batch = every_batch
        self._timed_at_s, self._timed_at_step = 0.0, 0  # when the last timed batch was sent
        self._chances = random.Random()  # of its own: the user's numbers stay as they are
        self._is_timed = False  # the batch that was sent last
        self._time_after = 0
        self._time_next()

    def _time_next(self) -> None:
        self._is_due = True
        self.__class__ = _Recording

    def _rest(self) -> None:
        self._is_timed = False
        self.__class__ = TimedDispatcher

    def traffic(self, num_steps: int) -> dict[str, Any]:
        """What so many steps sent by which lane since the start; leaves off the slab."""
        lane = self._lane
        if self.workers:  # otherwise what was known at the end
            self._pipe_bytes = sum(worker.channel_bytes for worker in self.workers)
            self._off_slab = ["observation"]
        if self.workers and isinstance(self.workers[0], InlineWorker):
            self._off_slab = []  # in this process nothing goes by a lane
        elif lane is not None:
            on_slab = self._slab_is_reached and lane.shared
            leaves, action = lane.layout.leaves, lane.layout.action
            arrays = [leaf[1:] for leaf in leaves] + ([] if action is None else [action[1:]])
            self._step_bytes = on_slab * sum(
                math.prod(shape) * dtype.itemsize for shape, dtype in arrays if dtype is not None
            )
            self._note_bytes = lane.notes.num_bytes
            off = {leaf.name for leaf in leaves if leaf.dtype is None or not on_slab}
            self._off_slab = sorted(off.union(lane.detoured))
        lane_bytes = {
            "slab": num_steps * self._step_bytes,
            "notes": self._note_bytes,
            "pipe": self._pipe_bytes,
        }
        return {"lane_bytes": lane_bytes, "off_slab": list(self._off_slab)}

    def close(self, grace_s: float) -> list[tuple[int, Failure]]:
        """End every worker; what was recorded stays."""
        self.traffic(0)
        try:
            return super().close(grace_s)
        finally:
            self.__dict__.pop("_recorder", None)  # lets go of the memory


class _Recording(TimedDispatcher):
    """Records how one batch is sent, waited for and taken; then the next, where that is due too."""

    def send_step(
        self,
        ids: Sequence[int],
        actions: Any,
        *,
        as_batch: bool,
        one_by_one: bool = False,
        to_hand_out: bool = False,
        into: tuple[Block, int] | None = None,
    ) -> None:
        """Begin one step of some samplers."""
        began = self._begin(len(ids))
        try:
            StepDispatcher.send_step(
                self,
                ids,
                actions,
                as_batch=as_batch,
                one_by_one=one_by_one,
                to_hand_out=to_hand_out,
                into=into,
            )
        finally:
            if began is not None:
                self._end_sending(*began)

    def step_here(
        self,
        ids: Sequence[int],
        actions: Sequence[Any],
        written_down: Any,
        out: StepBatch | None,
        copy: bool,
    ) -> PlainStep | StepBatch | dict[int, Any]:
        """Send, wait and take in one, which is recorded as one."""
        began = self._begin(len(ids))
        try:
            return StepDispatcher.step_here(self, ids, actions, written_down, out, copy)
        finally:
            if began is not None:
                self._end_sending(*began)

    def _begin(self, num_samplers: int) -> tuple[int, float] | None:
        """Begin to time a batch that is due: its span's code and beginning. Otherwise stop."""
        if not self._is_due:
            self._rest()
            return None
        self._is_due, self._is_timed = False, True
        sent, now_s = self._ledger.steps_sent, _clock()
        # Steps that go as requests are recorded by the workers in any case.
        if not self._times_every_batch and self._slab_is_reached:
            batches = max(1.0, (sent - self._timed_at_step) / max(1, num_samplers))
            batch_s = (now_s - self._timed_at_s) / batches
            self._timed_at_s, self._timed_at_step = now_s, sent
            chosen = stride(batch_s, num_samplers, self._chances.random())
            self._time_after = sent + (chosen - 1) * num_samplers
        if self._lane is not None:
            self._lane.timed = TIMED
        return sent * KINDS + SEND, now_s

    def _end_sending(self, code: int, begin_s: float) -> None:
        if self._lane is not None:
            self._lane.timed = 0
        # Now the workers are busy, and what is written here costs no time.
        self._recorder.record(code, begin_s, _clock())

    def wait_step(self, ids: Sequence[int], count: int, timeout_s: float | None) -> None:
        """Wait for steps."""
        begin_s = _clock()
        try:
            super().wait_step(ids, count, timeout_s)
        finally:
            self._note(WAIT, begin_s)

    def take_outcomes(self, ids: Sequence[int]) -> dict[int, Any]:
        """Each sampler's outcome."""
        begin_s = _clock()
        outcomes = super().take_outcomes(ids)
        self._note(TAKE, begin_s)
        return outcomes

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """The steps as arrays."""
        begin_s = _clock()
        batch = super().take_batch(ids, out, copy)
        self._note(TAKE, begin_s)
        return batch

    def _note(self, kind: int, begin_s: float) -> None:
        if not self._is_timed:  # the next batch is
            return
        self._recorder.add(self._ledger.steps_sent * KINDS + kind, begin_s, _clock())
        if len(self._recorder.pending) > _MANY:  # many calls that wait, and none that sends
            self._recorder.write()


class Spans(NamedTuple):
    """What was recorded since ``begin_s``: the parent's spans, and each worker's."""

    begin_s: float
    end_s: float
    parent: NDArray[Any]
    workers: list[NDArray[Any]]

    @classmethod
    def of(cls, board: Board, steps: int = STEPS_KEPT) -> Spans:
        """The spans of the last ``steps`` timed steps, as far as all of them are still there."""
        parent = board.spans(-1)
        workers = [board.spans(number) for number in range(board.num_workers)]
        begin_s = 0.0
        for ring, spans in zip(board.rings, [*workers, parent], strict=True):
            kept = ring.capacity - spans_a_step(ring.capacity)
            if len(spans) >= kept:  # older ones were written over
                begin_s = max(begin_s, float(spans["begin_s"][0]))
        is_send = parent["code"] % KINDS == SEND
        sends = parent["begin_s"][is_send & (parent["begin_s"] >= begin_s)]
        if len(sends):  # whole steps only
            begin_s = float(sends[max(0, len(sends) - steps)])
        elif begin_s == 0.0:
            begin_s = min((float(s["begin_s"].min()) for s in workers if len(s)), default=0.0)
        parent, *workers = [spans[spans["begin_s"] >= begin_s] for spans in (parent, *workers)]
        ends = [float(s["copied_s"].max()) for s in (parent, *workers) if len(s)]
        return cls(begin_s, max(ends, default=begin_s), parent, workers)


def figures(board: Board, num_samplers: int) -> dict[str, Any]:
    """Rates, latencies, shares of time and stragglers, by the timed steps that are kept."""
    spans = Spans.of(board)
    window_s = spans.end_s - spans.begin_s
    records = np.concatenate(spans.workers)
    samplers, kinds = np.divmod(records["code"].astype(np.int64), KINDS)
    took_s = records["copied_s"] - records["begin_s"]
    is_step = kinds == Command.STEP
    sent, parent_kinds = np.divmod(spans.parent["code"].astype(np.int64), KINDS)
    num_timed = int(is_step.sum())
    weights, parent_weights = np.ones(len(records)), np.ones(len(sent))
    sends = spans.parent[parent_kinds == SEND]
    num_steps = num_timed
    if len(sends):
        # What was sent last is counted where its steps were recorded: no span may follow it.
        last_begin_s = float(sends["begin_s"][-1])
        num_last = int((is_step & (records["begin_s"] >= last_begin_s)).sum())
        num_before = int(sent[parent_kinds == SEND][-1] - sent[0])
        num_steps = max(num_timed, num_before + num_last)
    if num_steps > num_timed > 0 and len(sends):
        step_weights, parent_weights = _stand_for(
            sends, num_steps, records["begin_s"][is_step], spans.parent["begin_s"]
        )
        weights[is_step] = step_weights  # of the other commands, all are there
    latency_s: dict[int, dict[str, float]] = {}
    mean_s: dict[int, float] = {}
    for i in range(num_samplers):
        its = is_step & (samplers == i)
        if its.any():
            p50, p95, p99 = _percentiles(took_s[its], weights[its], (0.50, 0.95, 0.99))
            latency_s[i] = {"p50": p50, "p95": p95, "p99": p99}
            mean_s[i] = float(np.average(took_s[its], weights=weights[its]))
    usual_s = statistics.median(mean_s.values()) if mean_s else 0.0
    parent_took_s = parent_weights * (spans.parent["end_s"] - spans.parent["begin_s"])
    parent_s = {kind: float(parent_took_s[parent_kinds == kind].sum()) for kind in _PARENT_SPANS}
    copying_s = float((weights * (records["copied_s"] - records["end_s"])).sum())
    return {
        "steps_per_s": num_steps / window_s if window_s else 0.0,
        "latency_s": latency_s,
        "time_s": {
            "window": window_s,
            "waiting": parent_s[WAIT],
            "in_tasks": float((weights * (records["end_s"] - records["begin_s"])).sum()),
            "copying": copying_s + parent_s[TAKE],
        },
        "stragglers": sorted(
            (
                i
                for i, its_s in mean_s.items()
                if its_s > max(_STRAGGLES * usual_s, usual_s + _STRAGGLES_S)
            ),
            key=lambda i: -mean_s[i],
        ),
    }


def _stand_for(
    sends: NDArray[Any], num_steps: int, steps_s: NDArray[Any], parent_s: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """For how many steps each timed one stands, and each of the parent's spans for how many spans.

    A timed batch stands for those that were sent until the next one was timed: short batches are
    timed more rarely than long ones.

    Args:
        sends: the parent's spans of sending, in order.
        num_steps: that all timed ones together stand for.
        steps_s: when each timed step began.
        parent_s: when each of the parent's spans began.
    """
    sent = sends["code"].astype(np.int64) // KINDS

    def batch_of(begin_s: NDArray[Any]) -> NDArray[Any]:
        return np.maximum(np.searchsorted(sends["begin_s"], begin_s, side="right") - 1, 0)

    its_batch = batch_of(steps_s)
    num_timed = np.maximum(np.bincount(its_batch, minlength=len(sends)), 1)
    weights = np.append(np.diff(sent), num_timed[-1]) / num_timed
    weights *= num_steps / max(1.0, float(weights[its_batch].sum()))
    return weights[its_batch], weights[batch_of(parent_s)]


def _percentiles(
    values: NDArray[Any], weights: NDArray[Any], shares: Sequence[float]
) -> list[float]:
    """The least values that make up at least these shares of all, by weight."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    places = np.searchsorted(reached, np.multiply(shares, reached[-1]))
    found: list[float] = values[order][np.minimum(places, len(values) - 1)].tolist()
    return found


def write_trace(board: Board, path: str | os.PathLike[str], steps: int) -> None:
    """Write the last timed steps as trace-event JSON: times in us since the first of them."""
    spans = Spans.of(board, steps)
    own_pid = os.getpid()
    events: list[dict[str, Any]] = []

    def name(pid: int, tid: int | None, text: str) -> None:
        what = "process_name" if tid is None else "thread_name"
        event = {"ph": "M", "name": what, "pid": pid, "tid": tid or 0, "args": {"name": text}}
        events.append(event)

    def span(pid: int, tid: int, text: str, begin_s: float, end_s: float) -> None:
        ts, dur = (begin_s - spans.begin_s) * 1e6, (end_s - begin_s) * 1e6
        events.append({"ph": "X", "name": text, "pid": pid, "tid": tid, "ts": ts, "dur": dur})

    name(own_pid, None, "parent")
    name(own_pid, 0, "calls")
    for code, begin_s, end_s, _ in spans.parent.tolist():
        span(own_pid, 0, _PARENT_SPANS[int(code) % KINDS], begin_s, end_s)
    for number, (pid, its) in enumerate(zip(board.pids(), spans.workers, strict=True)):
        if pid != own_pid:
            name(pid, None, f"worker {number}")
        for i in sorted({int(code) // KINDS for code in its["code"]}):
            name(pid, i + 1, f"sampler {i}")
        for code, begin_s, end_s, copied_s in its.tolist():
            sampler_id, kind = divmod(int(code), KINDS)
            span(pid, sampler_id + 1, Command(kind).label, begin_s, end_s)
            if copied_s > end_s:
                span(pid, sampler_id + 1, "copy", end_s, copied_s)
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    Path(path).write_text(text, encoding="utf-8")
