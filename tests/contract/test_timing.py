"""Where the time goes, on every kind of worker: stats(), trace()."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks import (
    InvalidArgument,
    SingleProcessVectorSampledTasks,
    VectorClosed,
    VectorSampledTasks,
    WorkerDied,
)
from vectasks.monitoring.live_stats import STEPS_KEPT
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import GraphTask, InfoTask, NestedTask, SlowTask, ToyTask

TIMED = {"timing": "all"}  # for what holds of every step; True, which times some of them, is below


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
        if not every_kind.is_in_process:
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
    assert set(tasks.stats()) == {"steps", "episodes", "restarts", "core"}
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
        assert pids == {os.getpid(), *tasks.call("pid")}
    sends, steps = spans(path, "send"), spans(path, "step")
    assert len(sends) == 4
    assert len(steps) == 16
    assert not spans(path, "reset")  # before the last four steps
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in sends + steps)
    slow = max(steps, key=lambda event: event["dur"])
    assert slow["dur"] > 90_000
    assert slow["tid"] == 2  # of sampler 1
    # The step lies within the parent's sending and taking of it: one clock.
    takes = spans(path, "take")
    round_ = next(
        (send, take)
        for send, take in zip(sends, takes, strict=True)
        if send["ts"] <= slow["ts"] <= take["ts"] + take["dur"]
    )
    assert slow["ts"] + slow["dur"] <= round_[1]["ts"] + 1
    if not every_kind.is_in_process:
        longest = max(spans(path, "wait"), key=lambda event: event["dur"])
        assert longest["dur"] > 80_000
        assert round_[0]["ts"] <= longest["ts"] <= round_[1]["ts"]


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


def test_a_worker_that_was_restarted_records_on(processes: Any, tmp_path: Path) -> None:
    with processes.toys(vector={**TIMED, "on_worker_death": "restart"}) as tasks:
        stepped(tasks, 2)
        os.kill(tasks.call_at(1, "pid"), 9)
        stepped(tasks, 3)
        tasks.trace(tmp_path / "trace.json")
        assert tasks.stats()["restarts"] == 1
        of_sampler = [e for e in spans(tmp_path / "trace.json", "step") if e["tid"] == 2]
        assert len(of_sampler) >= 4  # the one that told of the restart did not step
        assert spans(tmp_path / "trace.json", "setup")


def test_a_dead_worker_takes_nothing_with_it(processes: Any) -> None:
    with processes.toys(vector=TIMED) as tasks:
        stepped(tasks, 2)
        os.kill(tasks.call_at(1, "pid"), 9)
        with pytest.raises(WorkerDied):
            stepped(tasks, 2)
        assert set(tasks.stats()["latency_s"]) == {0, 1, 2, 3}


# -- timing=True: where batches are short, some of them -------------------------------------------


@pytest.fixture
def every_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is timed, and then every fifth, whatever they take."""
    monkeypatch.setattr("vectasks.monitoring.timed_steps.stride", lambda *_: 5)


class LongTask(ToyTask):
    """Works for 10 ms a step."""

    def move(self, action: Any) -> None:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["step", "step_batch"])
def test_of_short_batches_some_are_timed_and_all_are_counted(
    every_kind: Any, how: str, every_fifth: None, tmp_path: Path
) -> None:
    with every_kind.toys(vector={"timing": True}) as tasks:
        begin_s = time.monotonic()
        stepped(tasks, 23, how)
        took_s = time.monotonic() - begin_s
        stats = tasks.stats()
        tasks.trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "send")) == 5  # of the batches 0, 5, 10, 15, 20
    assert len(spans(tmp_path / "trace.json", "step")) == 5 * 4
    assert len(spans(tmp_path / "trace.json", "wait")) == 5
    assert len(spans(tmp_path / "trace.json", "take")) == 5
    assert stats["steps"] == 23 * 4
    window_s = stats["time_s"]["window"]
    assert 0 < window_s < took_s
    assert stats["steps_per_s"] * window_s == pytest.approx(21 * 4)  # those from 0 to 20


def test_steps_per_s_is_what_was_done(every_kind: Any) -> None:
    with every_kind.toys(vector={"timing": True}) as tasks:
        stepped(tasks, 20)
        begin_s = time.monotonic()
        stepped(tasks, 500)
        rate = 500 * 4 / (time.monotonic() - begin_s)
        assert rate / 4 < tasks.stats()["steps_per_s"] < 4 * rate


def test_shares_of_time_are_those_of_all_steps(
    every_kind: Any, every_fifth: None, tmp_path: Path
) -> None:
    with every_kind.toys(vector={"timing": True}) as tasks:
        stepped(tasks, 11)
        tasks.next_task()
        stepped(tasks, 10)
        time_s = tasks.stats()["time_s"]
        tasks.trace(tmp_path / "trace.json")
    last_us = spans(tmp_path / "trace.json", "send")[-1]["ts"]
    sums_s = dict.fromkeys(("step", "copy", "wait", "take", "next_task"), 0.0)
    for name in sums_s:
        for event in spans(tmp_path / "trace.json", name):
            # A timed batch stands for those until the next; other commands are timed always.
            weight = 5 if event["ts"] < last_us and name != "next_task" else 1
            sums_s[name] += weight * event["dur"] / 1e6
    assert min(sums_s[name] for name in ("step", "wait", "take", "next_task")) > 0
    assert time_s["in_tasks"] == pytest.approx(sums_s["step"] + sums_s["next_task"])
    assert time_s["waiting"] == pytest.approx(sums_s["wait"])
    assert time_s["copying"] == pytest.approx(sums_s["copy"] + sums_s["take"])


class TwoSpeedsTask(ToyTask):
    """Does nothing, or waits for 2 ms where it is told to."""

    def move(self, action: Any) -> None:
        time.sleep(0.002 * action)


def test_what_is_timed_more_often_counts_no_more(every_kind: Any) -> None:
    with every_kind.toys(TwoSpeedsTask, vector={"timing": True}) as tasks:
        slow_s = 0.0
        for action in (0, 1, 0):
            begin_s = time.monotonic()
            while time.monotonic() - begin_s < 0.2:
                tasks.step_batch([action] * 4)
            slow_s += action * (time.monotonic() - begin_s)
        time_s = tasks.stats()["time_s"]
        workers = len(set(tasks.call("pid")))
    assert time_s["waiting"] < 1.3 * time_s["window"]
    assert slow_s / 2 < time_s["in_tasks"] < 1.3 * workers * time_s["window"]


def test_before_the_first_step_there_is_little_to_tell(every_kind: Any) -> None:
    begin_s = time.monotonic()
    with every_kind.toys(vector={"timing": True}) as tasks:
        stats = tasks.stats()
        assert 0 <= stats["time_s"]["window"] < time.monotonic() - begin_s
        assert stats["steps_per_s"] == 0


def test_long_batches_are_all_timed(every_kind: Any, tmp_path: Path) -> None:
    with every_kind.toys(LongTask, vector={"timing": True}) as tasks:
        stepped(tasks, 12).trace(tmp_path / "trace.json")
        assert tasks.stats()["time_s"]["in_tasks"] > 12 * 4 * 0.01
    assert len(spans(tmp_path / "trace.json", "send")) == 12
    assert len(spans(tmp_path / "trace.json", "step")) == 12 * 4


@pytest.mark.parametrize("how", ["step", "step_batch"])
def test_all_is_every_batch(every_kind: Any, how: str, every_fifth: None, tmp_path: Path) -> None:
    with every_kind.toys(vector={"timing": "all"}) as tasks:
        stepped(tasks, 23, how).trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "send")) == 23
    assert len(spans(tmp_path / "trace.json", "step")) == 23 * 4


def test_requests_are_all_timed(kind: Any, every_fifth: None, tmp_path: Path) -> None:
    vector = {"timing": True, "observation_transport": "pipe"}
    with kind.toys(vector=vector) as tasks:
        stepped(tasks, 13).trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "send")) == 13
    assert len(spans(tmp_path / "trace.json", "step")) == 13 * 4


def test_steps_of_every_way_are_counted(make: Any, every_fifth: None) -> None:
    tasks = make(vector={"timing": True})
    stepped(tasks, 2)
    tasks.command("step", [0] * 4)
    stepped(tasks, 2, "step_batch")
    tasks.step_at(1, 0)  # it is due: 17 steps were sent after the first batch began
    stats = tasks.stats()
    num_steps = stats["steps_per_s"] * stats["time_s"]["window"]
    assert num_steps == pytest.approx(stats["steps"]) == 21


def test_steps_by_message_are_told_too(make: Any, every_fifth: None, tmp_path: Path) -> None:
    tasks = make(NestedTask, vector={"timing": True})
    for _ in range(11):
        tasks.step([space.sample() for space in tasks.action_spaces])
    tasks.trace(tmp_path / "trace.json")
    assert len(spans(tmp_path / "trace.json", "step")) == 3 * 4


def test_send_and_recv_are_timed_now_and_then(make: Any, every_fifth: None, tmp_path: Path) -> None:
    tasks = make(vector={"timing": True})
    tasks.send([0] * 4)
    for _ in range(20):  # 4 + 40 steps
        batch = tasks.recv(2)
        tasks.send([0, 0], batch.samplers)
    tasks.recv()
    tasks.trace(tmp_path / "trace.json")
    stats = tasks.stats()
    timed = len(spans(tmp_path / "trace.json", "send"))
    assert 4 <= timed <= 6
    assert len(spans(tmp_path / "trace.json", "step")) <= 4 + 2 * (timed - 1)
    assert 36 <= stats["steps_per_s"] * stats["time_s"]["window"] <= 44


def test_chance_is_the_users(make: Any) -> None:
    tasks = make(vector={"timing": True})
    for generator, draw in ((random, random.random), (np.random, np.random.random)):
        generator.seed(1)
        expected = draw()
        generator.seed(1)
        stepped(tasks, 20)
        assert draw() == expected


@pytest.mark.parametrize("timing", ["some", "", 1, 0, None, 0.5])
@pytest.mark.parametrize("cls", [VectorSampledTasks, SingleProcessVectorSampledTasks])
def test_other_values_are_refused(cls: Any, timing: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"timing={timing!r} .* False, True or 'all'"):
        cls(ToySampler, toy_args(ToyTask, 2), timing=timing)


def test_a_step_of_nobody(make: Any) -> None:
    tasks = make(count=2, vector={"timing": True})
    tasks.step([0] * 2)
    for _ in range(2):
        tasks.pause_at(0)
    for _ in range(3):
        assert tasks.step([]) == []
    tasks.resume_all()
    assert len(tasks.step([0] * 2)) == 2
    assert tasks.stats()["steps_per_s"] > 0
