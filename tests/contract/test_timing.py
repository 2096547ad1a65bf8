"""Where the time goes, on every kind of worker: stats(), trace()."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks import InvalidArgument, VectorClosed, VectorSampledTasks, WorkerDied
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import GraphTask, InfoTask, SlowTask
from vectasks.workers.board import STEPS_KEPT

TIMED = {"timing": True}


def stepped(tasks: Any, steps: int, how: str = "step") -> Any:
    for _ in range(steps):
        getattr(tasks, how)([0] * 4)
    return tasks


def spans(path: Path, name: str) -> list[dict[str, Any]]:
    events = json.loads(path.read_text())["traceEvents"]
    return [event for event in events if event["ph"] == "X" and event["name"] == name]


@pytest.mark.parametrize("how", ["step", "step_batch"])
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_figures_add_up(every_kind: Any, how: str, transport: str) -> None:
    vector = {**TIMED, "observation_transport": transport}
    with every_kind.toys(max_steps=7, vector=vector) as tasks:
        begin_s = time.monotonic()
        stepped(tasks, 20, how)
        took_s = time.monotonic() - begin_s
        stats = tasks.stats()
        assert (stats["steps"], stats["episodes"], stats["restarts"]) == (80, 8, 0)
        assert set(stats["latency_s"]) == {0, 1, 2, 3}
        for latency in stats["latency_s"].values():
            assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < took_s
        window_s = stats["time_s"]["window"]
        assert 0 < window_s <= took_s
        assert stats["steps_per_s"] == pytest.approx(80 / window_s)
        assert 0 <= stats["time_s"]["waiting"] < window_s
        assert 0 < stats["time_s"]["in_tasks"] < 4 * window_s
        assert stats["time_s"]["copying"] > 0


def test_the_straggler_is_named_and_its_sleep_is_in_the_task(every_kind: Any) -> None:
    options = {"delay_s": 0.2, "slow_sampler": 2, "slow_step": 1}
    with every_kind.toys(SlowTask, vector=TIMED, **options) as tasks:
        stats = stepped(tasks, 3).stats()
        assert stats["stragglers"] == [2]
        assert stats["latency_s"][2]["p99"] > 0.15 > stats["latency_s"][1]["p99"]
        assert stats["time_s"]["in_tasks"] >= 0.2
        if not every_kind.is_twin:
            assert 0.1 < stats["time_s"]["waiting"] <= stats["time_s"]["window"]


@pytest.mark.parametrize("size_bytes", [900_000, 2_000_000], ids=["notes", "pipe"])
def test_what_large_infos_cost_is_not_the_last_samplers_alone(size_bytes: int) -> None:
    info = {"image": np.zeros(size_bytes, np.uint8)}
    args = toy_args(InfoTask, 4, step_info=info)
    with VectorSampledTasks(ToySampler, args, max_processes=1, timing=True) as tasks:
        latency_s = stepped(tasks, 40).stats()["latency_s"]
    *others, last = (latency_s[i]["p50"] for i in range(4))
    assert last < 5 * max(others), latency_s


def test_bytes_by_lane_and_leaves_off_the_slab(processes: Any) -> None:
    with processes.toys(vector=TIMED) as tasks:
        before = tasks.stats()["lane_bytes"]
        after = stepped(tasks, 10).stats()
        step_bytes = 3 * 4 + 8  # the observation, and the action
        assert after["lane_bytes"]["slab"] - before["slab"] == 40 * step_bytes
        assert after["off_slab"] == []
    with processes.toys(InfoTask, vector=TIMED, step_info={"told": "x" * 100}) as tasks:
        before = tasks.stats()["lane_bytes"]
        after = stepped(tasks, 10).stats()["lane_bytes"]
        assert 40 * 100 < after["notes"] - before["notes"] < 40 * 200
        assert after["pipe"] - before["pipe"] < 40 * 50  # some rings
    with processes.toys(vector={**TIMED, "observation_transport": "pipe"}) as tasks:
        before = tasks.stats()["lane_bytes"]
        after = stepped(tasks, 10).stats()
        assert after["lane_bytes"]["slab"] == after["lane_bytes"]["notes"] == 0
        assert after["lane_bytes"]["pipe"] - before["pipe"] > 40 * step_bytes
        assert after["off_slab"] == ["observation"]
    with processes.toys(GraphTask, vector=TIMED) as tasks:
        assert tasks.stats()["off_slab"] == ["observation"]


def test_without_timing_there_are_counts_only(make: Any, tmp_path: Path) -> None:
    tasks = make()
    assert set(tasks.stats()) == {"steps", "episodes", "restarts"}
    with pytest.raises(InvalidArgument, match="timing=True"):
        tasks.trace(tmp_path / "trace.json")
    assert not (tmp_path / "trace.json").exists()


def test_trace_is_a_timeline_on_one_clock(every_kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    options = {"delay_s": 0.1, "slow_sampler": 1, "slow_step": 2}
    with every_kind.toys(SlowTask, vector=TIMED, **options) as tasks:
        tasks.next_task()
        tasks.reset_all()
        stepped(tasks, 5).trace(path, steps=4)
        pids = {event["pid"] for event in json.loads(path.read_text())["traceEvents"]}
        assert os.getpid() in pids
        assert len(pids) == 1 + (0 if every_kind.is_twin else len(tasks._dispatcher.workers))
    sends, steps = spans(path, "send"), spans(path, "step")
    assert len(sends) == 4
    assert len(steps) == 16
    assert not spans(path, "reset")  # before the last four steps
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in sends + steps)
    (slow,) = [event for event in steps if event["dur"] > 90_000]
    assert slow["tid"] == 2  # of sampler 1
    # The step lies within the parent's sending and taking of it: one clock.
    takes = spans(path, "take")
    round_ = next(
        (send, take)
        for send, take in zip(sends, takes, strict=True)
        if send["ts"] <= slow["ts"] <= take["ts"] + take["dur"]
    )
    assert slow["ts"] + slow["dur"] <= round_[1]["ts"] + 1
    if not every_kind.is_twin:
        waits = [w for w in spans(path, "wait") if w["dur"] > 80_000]
        assert len(waits) == 1


def test_other_commands_are_in_the_trace(make: Any, tmp_path: Path) -> None:
    tasks = make(vector=TIMED)
    stepped(tasks, 1)
    tasks.next_task()
    tasks.trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "next_task")) == 4


def test_trace_refuses_no_steps(make: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        make(vector=TIMED).trace(tmp_path / "trace.json", steps=0)


def test_only_the_last_steps_are_kept(make: Any, tmp_path: Path) -> None:
    tasks = make(max_steps=3, vector=TIMED)
    stepped(tasks, STEPS_KEPT + 200)
    tasks.trace(tmp_path / "trace.json", steps=10 * STEPS_KEPT)
    kept = len(spans(tmp_path / "trace.json", "send"))
    assert STEPS_KEPT - 10 <= kept <= STEPS_KEPT
    assert len(spans(tmp_path / "trace.json", "step")) == 4 * kept
    assert tasks.stats()["steps"] == 4 * (STEPS_KEPT + 200)


def test_both_can_be_had_after_the_end(make: Any, tmp_path: Path) -> None:
    tasks = make(vector=TIMED)
    before = stepped(tasks, 5).stats()
    tasks.close()
    after = tasks.stats()
    assert after["latency_s"] == before["latency_s"]
    assert after["off_slab"] == before["off_slab"]
    tasks.trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "send")) == 5
    with pytest.raises(VectorClosed):
        tasks.step([0] * 4)


def test_a_worker_that_was_begun_anew_records_on(processes: Any, tmp_path: Path) -> None:
    with processes.toys(vector={**TIMED, "on_worker_death": "restart"}) as tasks:
        stepped(tasks, 2)
        os.kill(tasks._dispatcher.workers[1].pid, 9)
        stepped(tasks, 3)
        tasks.trace(tmp_path / "trace.json")
        assert tasks.stats()["restarts"] == 1
        of_sampler = [e for e in spans(tmp_path / "trace.json", "step") if e["tid"] == 2]
        assert len(of_sampler) >= 4  # the one that told of the restart did not step
        assert spans(tmp_path / "trace.json", "setup")


def test_a_dead_worker_takes_nothing_with_it(processes: Any) -> None:
    with processes.toys(vector=TIMED) as tasks:
        stepped(tasks, 2)
        os.kill(tasks._dispatcher.workers[1].pid, 9)
        with pytest.raises(WorkerDied):
            stepped(tasks, 2)
        assert set(tasks.stats()["latency_s"]) == {0, 1, 2, 3}
