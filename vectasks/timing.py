"""Where the time goes: a dispatcher that records, and what its records and the workers' say."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.messages import Command, Failure
from vectasks.step_dispatch import StepDispatcher
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

_STRAGGLES = 2.0  # times the median sampler's mean step ...
_STRAGGLES_S = 1e-4  # ... and by so much: less is noise, and slows nothing
_MANY = 100  # values of spans that are not written yet
_PARENT_SPANS = {SEND: "send", WAIT: "wait", TAKE: "take"}


class TimedDispatcher(StepDispatcher):
    """A dispatcher that writes down how long it sends, waits and takes."""

    _step_bytes = _note_bytes = _pipe_bytes = 0
    _off_slab: Sequence[str] = ()

    def record_spans(self, board: Board) -> None:
        """Write to this board; called before anything else."""
        self._recorder: Recorder = board.parent_recorder()

    @property
    def steps_here(self) -> bool:
        """Never: what is recorded goes by tickets."""
        return False

    def send_step(self, *args: Any, **kwargs: Any) -> None:
        """Begin one step of some samplers."""
        begin_s = time.monotonic()
        super().send_step(*args, **kwargs)
        # Now the workers are busy, and what is written here costs no time.
        self._recorder.record(SEND, begin_s, time.monotonic())

    def wait_step(self, *args: Any, **kwargs: Any) -> None:
        """Wait for steps."""
        begin_s = time.monotonic()
        try:
            super().wait_step(*args, **kwargs)
        finally:
            self._note(WAIT, begin_s)

    def take_outcomes(self, *args: Any, **kwargs: Any) -> dict[int, Any]:
        """Each sampler's outcome."""
        begin_s = time.monotonic()
        outcomes = super().take_outcomes(*args, **kwargs)
        self._note(TAKE, begin_s)
        return outcomes

    def take_batch(self, *args: Any, **kwargs: Any) -> Any:
        """The steps as arrays."""
        begin_s = time.monotonic()
        batch = super().take_batch(*args, **kwargs)
        self._note(TAKE, begin_s)
        return batch

    def _note(self, code: int, begin_s: float) -> None:
        self._recorder.add(code, begin_s, time.monotonic())
        if len(self._recorder.pending) > _MANY:  # many calls that wait, and none that sends
            self._recorder.write()

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


class Spans(NamedTuple):
    """What was recorded since ``begin_s``: the parent's spans, and each worker's."""

    begin_s: float
    end_s: float
    parent: NDArray[Any]
    workers: list[NDArray[Any]]

    @classmethod
    def of(cls, board: Board, steps: int = STEPS_KEPT) -> Spans:
        """The spans of the last ``steps`` steps, as far as all of them are still there."""
        parent = board.spans(-1)
        workers = [board.spans(number) for number in range(board.num_workers)]
        begin_s = 0.0
        for ring, spans in zip(board.rings, [*workers, parent], strict=True):
            kept = ring.capacity - spans_a_step(ring.capacity)
            if len(spans) >= kept:  # older ones were written over
                begin_s = max(begin_s, float(spans["begin_s"][0]))
        sends = parent["begin_s"][(parent["code"] == SEND) & (parent["begin_s"] >= begin_s)]
        if len(sends):  # whole steps only
            begin_s = float(sends[max(0, len(sends) - steps)])
        parent, *workers = [spans[spans["begin_s"] >= begin_s] for spans in (parent, *workers)]
        ends = [float(s["copied_s"].max()) for s in (parent, *workers) if len(s)]
        return cls(begin_s, max(ends, default=begin_s), parent, workers)


def figures(board: Board, num_samplers: int) -> dict[str, Any]:
    """Rates, latencies, shares of time and stragglers, of the steps that are kept."""
    spans = Spans.of(board)
    window_s = spans.end_s - spans.begin_s
    records = np.concatenate(spans.workers)
    samplers, kinds = np.divmod(records["code"].astype(np.int64), KINDS)
    took_s = records["copied_s"] - records["begin_s"]
    is_step = kinds == Command.STEP
    latency_s: dict[int, dict[str, float]] = {}
    mean_s: dict[int, float] = {}
    for i in range(num_samplers):
        its = took_s[is_step & (samplers == i)]
        if len(its):
            p50, p95, p99 = np.percentile(its, (50, 95, 99)).tolist()
            latency_s[i] = {"p50": p50, "p95": p95, "p99": p99}
            mean_s[i] = float(its.mean())
    usual_s = statistics.median(mean_s.values()) if mean_s else 0.0
    in_tasks_s = float((records["end_s"] - records["begin_s"]).sum())
    parent_s = {
        kind: float((s["end_s"] - s["begin_s"]).sum())
        for kind in _PARENT_SPANS
        for s in [spans.parent[spans.parent["code"] == kind]]
    }
    return {
        "steps_per_s": float(is_step.sum()) / window_s if window_s else 0.0,
        "latency_s": latency_s,
        "time_s": {
            "window": window_s,
            "waiting": parent_s[WAIT],
            "in_tasks": in_tasks_s,
            "copying": float((records["copied_s"] - records["end_s"]).sum()) + parent_s[TAKE],
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


def write_trace(board: Board, path: str | os.PathLike[str], steps: int) -> None:
    """Write the last steps as trace-event JSON: times in us since the first of them."""
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
        span(own_pid, 0, _PARENT_SPANS[int(code)], begin_s, end_s)
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
