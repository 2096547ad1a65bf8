"""The scheduler: every scenario on processes, those that kill nobody in this process too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from told_runners import PATIENCE_S, log_has, num_ok, until_done

from vectasks import (
    UnknownBatch,
)
from vectasks.rollouts.scheduler import (
    Scheduler,
    Status,
    TaskWrapper,
    sort_batch_id,
)

# -- results --------------------------------------------------------------------------------------


@pytest.mark.guarantee("one-status")
def test_eight_tasks_give_eight_statuses_and_a_second_get_gives_none(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(list(range(8)), 0)
        assert scheduler.has_step(0)
        statuses, experiences = await scheduler.get_results(0, min_num=8, timeout=PATIENCE_S)
        assert num_ok(statuses) == len(statuses) == 8
        assert sorted(e["task"] for e in experiences) == list(range(8))
        assert await scheduler.get_results(0, min_num=1) == ([], [])
        assert not scheduler.has_step(0)

    run(main)


@pytest.mark.guarantee("same-order")
def test_statuses_and_experiences_are_in_the_same_order(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "quick"], 0)
        await scheduler.get_results(0, min_num=0)  # gives nothing, and takes nothing away
        await until_done(scheduler, 0, 1)
        (tmp_path / "late").touch()
        statuses, experiences = await scheduler.get_results(0)
        assert [e["task"] for e in experiences] == ["quick", ("gate", "late")]
        assert [s.metrics["run"] for s in statuses] == [e["run_id"] for e in experiences] == [1, 0]

    run(main)


def test_three_batches_interleaved(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        for i in range(4):
            for batch_id in (0, "eval", 2):
                scheduler.schedule([(batch_id, i)], batch_id)
        for batch_id in (2, 0, "eval"):
            statuses, experiences = await scheduler.get_results(batch_id)
            assert num_ok(statuses) == 4
            assert {e["task"][0] for e in experiences} == {batch_id}

    run(main)


def test_three_concurrent_gets(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        for batch_id in range(3):
            scheduler.schedule([batch_id] * 4, batch_id)
        got = await asyncio.gather(*(scheduler.get_results(batch_id) for batch_id in range(3)))
        for batch_id, (statuses, experiences) in enumerate(got):
            assert num_ok(statuses) == 4
            assert {e["task"] for e in experiences} == {batch_id}

    run(main)


def test_concurrent_gets_of_one_batch_share_it(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(list(range(6)), 0)
        got = await asyncio.gather(*(scheduler.get_results(0, min_num=2) for _ in range(3)))
        assert [len(statuses) for statuses, _ in got] == [2, 2, 2]
        assert sorted(e["task"] for _, experiences in got for e in experiences) == list(range(6))

    run(main)


@pytest.mark.guarantee("one-status")
def test_one_batch_id_scheduled_twice_adds_up(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a"] * 3, 0)
        scheduler.schedule(["b"] * 2, 0)
        statuses, experiences = await scheduler.get_results(0)
        assert len(statuses) == 5
        assert {e["run_id"] for e in experiences} == set(range(5))
        scheduler.schedule(["c"], 0)  # and again once it was emptied
        _, experiences = await scheduler.get_results(0)
        assert [e["run_id"] for e in experiences] == [5]

    run(main)


def test_a_partial_batch_leaves_the_rest(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "b", ("gate", "late"), ("gate", "late")], 0)
        statuses, _ = await scheduler.get_results(0, min_num=2)
        assert num_ok(statuses) == 2
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 2

    run(main)


def test_a_get_of_more_than_will_come_ends_when_all_is_done(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "b"], 0)
        statuses, _ = await scheduler.get_results(0, min_num=5)
        assert len(statuses) == 2

    run(main)


def test_an_unknown_batch_is_told_from_an_emptied_one(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        with pytest.raises(UnknownBatch, match="'never'"):
            await scheduler.get_results("never")
        scheduler.schedule([], 0)
        assert await scheduler.get_results(0) == ([], [])

    run(main)


@pytest.mark.guarantee("cancelled-get")
def test_a_get_that_is_cancelled_takes_nothing(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late")], 0)
        get = asyncio.create_task(scheduler.get_results(0))
        (tmp_path / "late").touch()
        while scheduler.has_step(0):  # until the result is about to be handed over
            await asyncio.sleep(0)
        get.cancel()
        with pytest.raises(asyncio.CancelledError):
            await get
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 1

    run(main)


# -- repeats and metrics --------------------------------------------------------------------------


@pytest.mark.guarantee("one-status")
def test_repeats_are_split_and_every_run_has_an_id(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([TaskWrapper(i, 0, repeat_times=8) for i in range(4)], 0)
        statuses, experiences = await scheduler.get_results(0)
        assert num_ok(statuses) == len(statuses) == 4  # one a task, not one a part
        assert {e["run_id"] for e in experiences} == set(range(32))
        for status in statuses:
            runs = [
                e["run_id"] for e in experiences if e["run_id"] // 8 == status.metrics["run"] // 8
            ]
            assert runs == sorted(runs)  # the parts in order
            assert status.metrics["run"] == np.mean(runs)

    run(main, max_repeat_times_per_runner=2)


def test_a_task_may_say_itself_how_often_it_is_run(run: Any) -> None:
    class Task(str):
        repeat_times = 3

    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([Task("a"), TaskWrapper("b", 0, run_id_base=100)], 0)
        _, experiences = await scheduler.get_results(0)
        assert sorted(e["run_id"] for e in experiences) == [0, 1, 2, 103]

    run(main)


class WholeRunner:
    """Has run_task, and tells metrics as means or run by run."""

    def run_task(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        ids = range(run_id_base, run_id_base + repeat_times)
        if task == "mean":
            metrics: Any = {"run": np.float32(np.mean(ids)), "name": "x", "won": True}
        elif task == "nonsense":
            return "nonsense"
        else:
            metrics = [{"run": i, "odd": 1.0} if i % 2 else {"run": i} for i in ids]
        return Status(task != "not ok", metrics, "" if task != "not ok" else "sorry"), list(ids)


class AsyncWholeRunner(WholeRunner):
    async def run_task(self, *args: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().run_task(*args)


@pytest.mark.parametrize("runner", [WholeRunner, AsyncWholeRunner])
def test_runners_that_run_a_task_as_a_whole(run: Any, runner: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        tasks = ["mean", "each", "not ok", "nonsense"]
        scheduler.schedule([TaskWrapper(t, 0, repeat_times=5) for t in tasks], 0)
        statuses, experiences = await scheduler.get_results(0)
        by_run = {status.metrics.get("run"): status for status in statuses}
        assert by_run[2.0].metrics == {"run": 2.0, "won": 1.0}  # weighted by the runs of the parts
        assert by_run[7.0].metrics == {"run": 7.0, "odd": 1.0}  # over the runs that tell it
        assert by_run[None].message.startswith("CallError")
        assert "run_task must return" in by_run[None].message
        assert [s.message for s in statuses if not s.ok and s.metrics] == ["sorry; sorry; sorry"]
        assert sorted(experiences) == list(range(15))

    run(main, 1, make_runner=runner, max_repeat_times_per_runner=2, max_retry_times=0)


class Lists:
    """Gives a list of experiences a run, and takes no run id."""

    def run(self, task: int) -> Any:
        return [type("E", (), {"metrics": {"n": i}})().metrics for i in range(task)] or None


def test_a_run_gives_one_experience_or_a_list_or_none(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([0, 3], 0)
        statuses, experiences = await scheduler.get_results(0)
        assert num_ok(statuses) == 2
        assert experiences == [{"n": 0}, {"n": 1}, {"n": 2}]

    run(main, 1, make_runner=Lists)


# -- order ----------------------------------------------------------------------------------------


def test_sort_batch_id() -> None:
    ids = ["b", 10, "3/eval", 4, "a", 3, "10/x", -1, "3-a", "4"]
    assert sorted(ids, key=sort_batch_id) == [-1, 3, "3-a", "3/eval", 4, "4", 10, "10/x", "a", "b"]


@pytest.mark.guarantee("priorities")
def test_batches_have_priorities_and_tasks_are_first_in_first_out(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late")], 100)
        await log_has(tmp_path, "at gate")  # the only runner is busy with it
        for batch_id in ("last", 2, "1/eval", 1):
            scheduler.schedule([f"{batch_id} {i}" for i in range(2)], batch_id)
        (tmp_path / "late").touch()
        await scheduler.wait_all()

    run_in_processes(main, 1)
    names = [1, "1/eval", 2, "last"]
    expected = ["at gate"] + [f"at {name} {i}" for name in names for i in range(2)]
    assert (tmp_path / "log").read_text().splitlines() == expected


def test_what_is_scheduled_in_one_go_is_sorted_before_anything_starts(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["low"], "low")
        scheduler.schedule(["high"], 0)
        await scheduler.wait_all()

    run_in_processes(main, 1)
    assert (tmp_path / "log").read_text().splitlines() == ["at high", "at low"]


def test_statistics(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "raise"], 0)
        scheduler.schedule(["b"], "3/eval")
        await scheduler.wait_all()
        stats = scheduler.stats()
        assert stats["batches"] == {0: {"out": 0, "done": 2}, "3/eval": {"out": 0, "done": 1}}
        assert (stats["scheduled"], stats["succeeded"], stats["failed"]) == (3, 2, 1)
        assert (stats["queued"], stats["running"], stats["idle_runners"]) == (0, 0, 2)
        assert stats["retries"] == 1

    run(main, max_retry_times=1)
