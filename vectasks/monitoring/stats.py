"""Where the time goes: what the records of timed steps say."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.monitoring.live_stats import (
    KINDS,
    SEND,
    STEPS_KEPT,
    TAKE,
    WAIT,
    LiveStats,
    spans_a_step,
)
from vectasks.protocol import Command

_STRAGGLES = 2.0  # times the median sampler's mean step ...
_STRAGGLES_S = 1e-4  # ... and by so much: less is noise, and slows nothing
_PARENT_SPANS = {SEND: "send", WAIT: "wait", TAKE: "take"}


class Spans(NamedTuple):
    """The spans recorded since ``begin_s``: the parent's, and each worker's."""

    begin_s: float
    end_s: float
    parent: NDArray[Any]
    workers: list[NDArray[Any]]

    @classmethod
    def of(cls, live_stats: LiveStats, steps: int = STEPS_KEPT) -> Spans:
        """The spans of the last ``steps`` timed steps, as far as all of them are still there."""
        parent = live_stats.spans(-1)
        workers = [live_stats.spans(number) for number in range(live_stats.num_workers)]
        begin_s = 0.0
        for ring, spans in zip(live_stats.rings, [*workers, parent], strict=True):
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


def figures(live_stats: LiveStats, num_samplers: int) -> dict[str, Any]:
    """Rates, latencies, shares of time and stragglers, by the timed steps that are kept."""
    spans = Spans.of(live_stats)
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


def write_trace(live_stats: LiveStats, path: str | os.PathLike[str], steps: int) -> None:
    """Write the last timed steps as trace-event JSON: times in us since the first of them."""
    spans = Spans.of(live_stats, steps)
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
    for number, (pid, its) in enumerate(zip(live_stats.pids(), spans.workers, strict=True)):
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
