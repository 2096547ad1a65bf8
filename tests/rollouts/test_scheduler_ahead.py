"""The scheduler sends busy runners their next task ahead: nobody but the clock can tell."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from told_runners import HUNG_S, PATIENCE_S, Runner, log_has, num_ok

from vectasks.rollouts.scheduler import Scheduler, Status
from vectasks.rollouts.scheduler.runner import RunnerHost


async def until_sent_ahead(scheduler: Scheduler, count: int = 1) -> None:
    while len(scheduler._queue.ahead) < count:
        await asyncio.sleep(0.002)


def names(folder: Path) -> list[str]:
    log = folder / "log"  # which begins with the first task that does
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.removeprefix("at ") for line in lines]


@pytest.mark.guarantee("runner-sent-ahead")
@pytest.mark.parametrize("how", ["raise", "hang", "die"])
def test_what_was_sent_ahead_survives_a_failure_and_keeps_its_retries(
    run_in_processes: Any, tmp_path: Path, how: str
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late", how), "a"], 0)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        statuses, (experience,) = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert [status.ok for status in statuses] == [False, True]
        assert experience["task"] == "a"
        assert scheduler.stats()["retries"] == 0
        assert scheduler.stats()["restarts"] == (0 if how == "raise" else 1)

    max_timeout = HUNG_S if how == "hang" else PATIENCE_S
    run_in_processes(main, 1, max_timeout=max_timeout, max_retry_times=0)
    assert names(tmp_path).count("a") == 1


def test_a_retry_comes_before_what_was_sent_ahead(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late", ("once", "raise")), "a"], 0)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == 2

    run_in_processes(main, 1)
    assert names(tmp_path) == ["gate", "once", "raise", "gate", "once", "a"]


def test_a_runner_goes_on_only_if_all_went_well(tmp_path: Path) -> None:
    host = RunnerHost(lambda: Runner(tmp_path))
    assert host.run_next("a", 1, 0) is None
    host.run_task("b", 1, 0)
    host.run_next("c", 1, 1)
    with pytest.raises(ValueError, match="bad task"):
        host.run_next("raise", 1, 2)
    assert host.run_next("d", 1, 3) is None
    assert names(tmp_path) == ["b", "c", "raise"]


class StatusRunner(Runner):
    """Tells of failures by its status."""

    def run_task(self, task: Any, repeat_times: int, run_id_base: int) -> Any:
        self.run(task, run_id_base)
        return Status(task == "a"), []


def test_a_status_that_is_not_ok_is_a_failure_too(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "a"], 0)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0)
        assert [status.ok for status in statuses] == [False, True]

    run_in_processes(main, 1, make_runner=lambda: StatusRunner(tmp_path), max_retry_times=1)
    assert names(tmp_path) == ["gate", "gate", "a"]


class Unbuildable:
    """Can be pickled, and not be built again."""

    def __reduce__(self) -> Any:
        return int, ("not here",)


class UnbuildableRunner(Runner):
    def run(self, task: Any, run_id: int) -> Any:
        experience = super().run(task, run_id)
        return experience if task == "a" else Unbuildable()


@pytest.mark.guarantee("unpicklable-run")
def test_a_result_that_cannot_be_built_here_runs_nothing_twice(
    run_in_processes: Any, tmp_path: Path
) -> None:
    # The runner thinks that all went well, and goes on with what was sent ahead.
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "a"], 0)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        statuses, (experience,) = await scheduler.get_results(0)
        assert sorted(status.ok for status in statuses) == [False, True]
        assert experience["task"] == "a"

    run_in_processes(main, 1, make_runner=lambda: UnbuildableRunner(tmp_path), max_retry_times=0)
    assert names(tmp_path) == ["gate", "a"]


@pytest.mark.guarantee("hung-runner", "runner-sent-ahead")
def test_an_idle_runner_takes_what_waits_behind_a_busy_one(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["hang", *[f"a{i}" for i in range(8)]], 0)
        statuses, _ = await scheduler.get_results(0, min_num=8)
        assert num_ok(statuses) == 8
        assert scheduler.stats()["batches"] == {0: {"out": 1, "done": 0}}
        assert scheduler.stats()["restarts"] == 0

    run_in_processes(main, 2)
    assert sorted(names(tmp_path)) == sorted({f"a{i}" for i in range(8)} | {"hang"})


@pytest.mark.guarantee("attempt-time-limit", "run-hangs")
def test_the_time_of_a_task_counts_from_its_own_begin(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "one"), ("gate", "other")], 0)
        await until_sent_ahead(scheduler)
        for count, name in enumerate(("one", "other"), start=1):
            await log_has(tmp_path, "at gate", count)
            await asyncio.sleep(1.2)  # twice that is too long
            (tmp_path / name).touch()
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 2
        assert scheduler.stats()["retries"] == 0

    run_in_processes(main, 1, max_timeout=2.0)


@pytest.mark.guarantee("attempt-time-limit")
def test_a_task_that_was_sent_ahead_and_hangs_is_timed_out(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "hang", "a"], 0)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert [status.ok for status in statuses] == [True, False, True]
        assert f"no answer within {HUNG_S:g} s" in statuses[1].message
        assert "in wait_for" in statuses[1].message

    run_in_processes(main, 1, max_timeout=HUNG_S, max_retry_times=0)
    assert names(tmp_path) == ["gate", "hang", "a"]


@pytest.mark.guarantee("priorities")
def test_a_better_batch_overtakes_what_was_sent_ahead(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "low", "low"], "low")
        await until_sent_ahead(scheduler)
        scheduler.schedule(["high", "high"], 0)
        await asyncio.sleep(0)  # it is dispatched in the next turn
        (tmp_path / "late").touch()
        await scheduler.wait_all()

    run_in_processes(main, 1)
    assert names(tmp_path) == ["gate", "high", "high", "low", "low"]


@pytest.mark.guarantee("priorities")
def test_no_worse_batch_begins_while_a_better_one_waits_behind_a_busy_runner(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "one"), ("gate", "other")], 0)
        await log_has(tmp_path, "at gate", 2)
        scheduler.schedule(["better"], 1)
        scheduler.schedule(["worse"], 2)
        await until_sent_ahead(scheduler)
        (sent_to,) = scheduler._queue.ahead
        is_behind = {run.runner: run.part.wrapper.task[1] for run in scheduler._running.values()}
        (other,) = {"one", "other"} - {is_behind[sent_to]}
        (tmp_path / other).touch()
        await scheduler.get_results(2)
        (tmp_path / is_behind[sent_to]).touch()
        await scheduler.wait_all()

    run_in_processes(main, 2)
    assert names(tmp_path) == ["gate", "gate", "better", "worse"]


@pytest.mark.guarantee("cleared-tasks")
def test_what_is_cleared_before_it_began_never_begins(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late")], 0)
        scheduler.schedule(["a"], 1)
        await until_sent_ahead(scheduler)
        assert await scheduler.get_results(1, timeout=0.01) == ([], [])
        (tmp_path / "late").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == 1
        scheduler.schedule(["b"], 2)
        assert num_ok((await scheduler.get_results(2))[0]) == 1
        assert scheduler.stats()["restarts"] == 0

    run_in_processes(main, 1)
    assert names(tmp_path) == ["gate", "b"]


def test_what_waits_behind_a_cleared_task_runs_all_the_same(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["hang"], 0)
        scheduler.schedule(["a"], 1)
        await until_sent_ahead(scheduler)
        assert scheduler.stats()["queued"] == 1  # it does not run yet
        assert await scheduler.get_results(0, timeout=0.01) == ([], [])
        assert num_ok((await scheduler.get_results(1))[0]) == 1
        stats = scheduler.stats()
        assert (stats["retries"], stats["restarts"], stats["queued"]) == (0, 1, 0)

    run_in_processes(main, 1, max_retry_times=0)
    assert names(tmp_path) == ["hang", "a"]


@pytest.mark.guarantee("cleared-tasks")
def test_a_cleared_task_that_begins_in_that_moment_holds_nothing_up(
    run_in_processes: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late")], 0)
        scheduler.schedule(["hang"], 1)
        await until_sent_ahead(scheduler)
        (tmp_path / "late").touch()
        while "hang" not in names(tmp_path):
            time.sleep(0.002)
        scheduler._clear(scheduler._batches[1])
        assert num_ok((await scheduler.get_results(0))[0]) == 1
        scheduler.schedule(["b"], 2)
        assert num_ok((await scheduler.get_results(2))[0]) == 1
        assert scheduler.stats()["restarts"] == 1

    run_in_processes(main, 1)


@pytest.mark.guarantee("nothing-lost")
def test_everything_is_run_once_whatever_happens_to_runners(
    run_in_processes: Any, tmp_path: Path
) -> None:
    # Runners are killed between tasks and while they run; batches come in between.
    async def main(scheduler: Scheduler) -> None:
        for batch_id in reversed(range(5)):
            scheduler.schedule([f"{batch_id} {i}" for i in range(30)], batch_id)
            await asyncio.sleep(0.01)
            victim = scheduler._pool.pids[batch_id % 3] if scheduler._pool else None
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        for batch_id in range(5):
            statuses, experiences = await scheduler.get_results(batch_id)
            assert num_ok(statuses) == 30
            assert {e["task"] for e in experiences} == {f"{batch_id} {i}" for i in range(30)}
        assert scheduler.stats()["retries"] <= 5

    run_in_processes(main, 3)
    # A killed runner may have told of a task that it did not get to answer.
    assert len(names(tmp_path)) <= 5 * 30 + 5
