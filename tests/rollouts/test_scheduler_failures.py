"""The scheduler and what is late, raises, hangs, dies or cannot be made."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from told_runners import HUNG_S, PATIENCE_S, Runner, log_has, num_ok, until_done

from vectasks import (
    InvalidArgument,
    SetupError,
    WaitTimeout,
)
from vectasks.pool.futures import CallFuture
from vectasks.rollouts.scheduler import (
    RunnerWrapper,
    Scheduler,
    TaskWrapper,
)

# -- time -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("run-hangs")
def test_two_good_and_two_hung_give_two_and_the_next_four_succeed(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "hang", "hang", "b"], 0)
        await until_done(scheduler, 0, 2)
        statuses, _ = await scheduler.get_results(0, timeout=0.05)
        assert len(statuses) == num_ok(statuses) == 2
        scheduler.schedule(["c"] * 4, 1)
        statuses, _ = await scheduler.get_results(1)
        assert num_ok(statuses) == 4

    run(main, 4)


@pytest.mark.guarantee("late-results")
@pytest.mark.parametrize(("clear", "left"), [(False, 1), (True, 0)])
def test_what_is_late_is_cleared_or_kept(run: Any, tmp_path: Path, clear: bool, left: int) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "b", "c", ("gate", "late")], 0)
        await until_done(scheduler, 0, 3)
        statuses, _ = await scheduler.get_results(0, timeout=0.05, clear_timeout_tasks=clear)
        assert len(statuses) == 3
        while clear and scheduler.stats()["restarts"] < 1:  # killed at once, used again or not
            await asyncio.sleep(0.002)
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0)
        assert len(statuses) == left
        scheduler.schedule(["next"] * 4, 1)
        assert num_ok((await scheduler.get_results(1))[0]) == 4
        assert scheduler.stats()["restarts"] == (1 if clear else 0)

    run(main)


def test_no_time_returns_at_once_and_clears_nothing(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late")] * 3, 0)
        assert await scheduler.get_results(0, timeout=0) == ([], [])
        (tmp_path / "late").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == 3
        assert await scheduler.get_results(0, timeout=0) == ([], [])

    run(main)


@pytest.mark.guarantee("nothing-dropped")
@pytest.mark.parametrize("waits_for_all", [True, False])
def test_without_a_timeout_everything_is_waited_for(
    run_in_processes: Any, waits_for_all: bool
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("once", "hang"), "a", "b"], 0)  # longer than one attempt may take
        if waits_for_all:
            await scheduler.wait_all()
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 3
        assert scheduler.stats()["cleared"] == 0

    run_in_processes(main, 1, max_timeout=HUNG_S)


@pytest.mark.guarantee("attempt-time-limit")
def test_a_task_that_is_rebuilt_slowly_is_not_late(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([RebuiltSlowly(tmp_path), "a"], 0)
        await log_has(tmp_path, "rebuilding")
        await asyncio.sleep(2 * HUNG_S)
        (tmp_path / "rebuilt").touch()
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 2
        stats = scheduler.stats()
        assert (stats["retries"], stats["restarts"]) == (0, 0)
        scheduler.schedule([RebuiltSlowly(tmp_path, "hang")], 1)  # which counts from when it runs
        (status,), _ = await scheduler.get_results(1)
        assert f"no answer within {HUNG_S:g} s" in status.message

    run_in_processes(main, 1, max_timeout=HUNG_S, max_retry_times=0)


class RebuiltSlowly:
    """A task that is rebuilt when a file is there, as one that imports a heavy module."""

    def __init__(self, folder: Path, task: str = "a") -> None:
        self.folder = folder
        self.task = task

    def __reduce__(self) -> Any:
        return rebuild, (self.folder, self.task)


def rebuild(folder: Path, task: str) -> str:
    runner = Runner(folder)
    runner.tell("rebuilding")
    runner.wait_for("rebuilt")
    return task


class Pool:
    """Stands in for a pool whose worker answers at once, but never begins a task."""

    def submit_at(self, worker: int, method: str, *args: Any) -> CallFuture:
        future = CallFuture()
        if method == "ready":
            future.set_result(None)
        return future

    def is_alive(self, worker: int) -> bool:
        return True

    def describe(self, worker: int) -> str:
        return "it imports"


@pytest.mark.guarantee("slow-rebuild")
def test_what_is_never_rebuilt_is_late_after_start_timeout_s() -> None:
    async def main() -> None:
        pool: Any = Pool()
        wrapper = RunnerWrapper(0, list, max_timeout=0.01, start_timeout_s=0.1, pool=pool)
        status, _ = await wrapper.run_once(TaskWrapper("a", 0))
        assert "had not been rebuilt" in status.message
        assert "0.1 s (start_timeout_s)" in status.message
        assert "it imports" in status.message
        assert not wrapper.is_alive

    asyncio.run(main())


def test_wait_all_pops_nothing(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        await scheduler.wait_all()
        for batch_id in range(3):
            scheduler.schedule(["a"] * 3, batch_id)
        await scheduler.wait_all(timeout=PATIENCE_S)
        for batch_id in range(3):
            assert num_ok((await scheduler.get_results(batch_id, timeout=0))[0]) == 3

    run(main)


@pytest.mark.guarantee("late-results")
@pytest.mark.parametrize("clear", [True, False])
def test_wait_all_raises_when_nothing_is_completed(run: Any, tmp_path: Path, clear: bool) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", ("gate", "late")], 0)
        await until_done(scheduler, 0, 1)
        with pytest.raises(TimeoutError, match=r"1 tasks of batches 0") as caught:
            await scheduler.wait_all(timeout=0.05, clear_timeout_tasks=clear)
        assert isinstance(caught.value, WaitTimeout)
        (tmp_path / "late").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == (1 if clear else 2)

    run(main)


@pytest.mark.guarantee("late-results")
def test_wait_all_counts_from_the_last_completion(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", f"gate {i}") for i in range(8)], 0)

        async def open_the_gates() -> None:
            for i in range(8):  # together they take longer than the limit
                await asyncio.sleep(0.1)
                (tmp_path / f"gate {i}").touch()

        _, _ = await asyncio.gather(scheduler.wait_all(timeout=0.6), open_the_gates())
        assert num_ok((await scheduler.get_results(0))[0]) == 8

    run(main)


# -- failures, retries, restarts ------------------------------------------------------------------


@pytest.mark.guarantee("run-raises")
def test_one_good_and_three_raising_give_four_statuses(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "raise", "raise", "raise"], 0)
        statuses, experiences = await scheduler.get_results(0)
        assert (len(statuses), num_ok(statuses), len(experiences)) == (4, 1, 1)
        assert all("ValueError: bad task" in s.message for s in statuses if not s.ok)
        assert scheduler.stats()["restarts"] == 0  # a runner that raises is alive

    run(main, max_retry_times=1)
    assert (tmp_path / "log").read_text().count("at raise") == 6


@pytest.mark.guarantee("hung-runner", "runner-dies")
@pytest.mark.parametrize("how", ["raise", "hang", "die"])
def test_a_retry_is_on_a_live_runner(run_in_processes: Any, tmp_path: Path, how: str) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("once", how), *["a"] * 4], 0)
        statuses, _ = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert num_ok(statuses) == 5
        stats = scheduler.stats()
        assert (stats["retries"], stats["restarts"]) == (1, 0 if how == "raise" else 1)

    run_in_processes(main, max_timeout=HUNG_S if how == "hang" else PATIENCE_S)


@pytest.mark.guarantee("run-hangs")
@pytest.mark.parametrize(
    ("how", "told"),
    [("hang", "no answer within 0.5 s"), ("die", "WorkerDied: worker 0 was killed")],
)
def test_attempts_are_counted(run_in_processes: Any, tmp_path: Path, how: str, told: str) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([how], 0)
        (status,), experiences = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert not status.ok
        assert told in status.message
        assert experiences == []
        scheduler.schedule(["a"], 0)  # the runner is live again
        assert num_ok((await scheduler.get_results(0, timeout=PATIENCE_S))[0]) == 1
        assert scheduler.stats()["failed"] == 1

    run_in_processes(main, 1, max_timeout=HUNG_S, max_retry_times=1)
    assert (tmp_path / "log").read_text().count(f"at {how}") == 2


@pytest.mark.guarantee("run-hangs")
def test_a_hung_runner_shows_where_it_hung(run_in_processes: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["hang"], 0)
        (status,), _ = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert "in wait_for" in status.message

    run_in_processes(main, 1, max_timeout=HUNG_S, max_retry_times=0)


@pytest.mark.guarantee("runner-dies-idle")
def test_a_runner_that_is_killed_is_replaced(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a"], 0)  # idle afterwards, when it is killed
        _, (experience,) = await scheduler.get_results(0)
        os.kill(experience["pid"], signal.SIGKILL)
        scheduler.schedule(["b"], 1)
        (status,), (after,) = await scheduler.get_results(1)
        assert status.ok
        assert after["pid"] != experience["pid"]

    run_in_processes(main, 1)


@pytest.mark.guarantee("runner-dies")
def test_a_death_fails_no_other_task(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "die", "a"], 0)
        await log_has(tmp_path, "at die", 2)
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0)
        assert sorted(s.ok for s in statuses) == [False, True, True]

    run_in_processes(main, 2, max_retry_times=1)


# -- what cannot be ------------------------------------------------------------------------------


def test_a_runner_that_cannot_be_pickled(tmp_path: Path) -> None:
    policy = threading.Lock()
    with pytest.raises(InvalidArgument, match=r"cannot be sent to a worker .*pickle"):
        asyncio.run(Scheduler(lambda: policy, 1).start())


@pytest.mark.guarantee("unpicklable-run")
def test_a_task_that_cannot_be_pickled(run_in_processes: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([threading.Lock(), "a"], 0)
        statuses, _ = await scheduler.get_results(0)
        assert sorted(s.ok for s in statuses) == [False, True]
        assert any("cannot be sent" in s.message for s in statuses)

    run_in_processes(main)


@pytest.mark.guarantee("make-runner-fails")
@pytest.mark.parametrize("make_runner", [lambda: 1 / 0, lambda: "no runner"])
def test_a_runner_that_cannot_be_made(make_runner: Any) -> None:
    scheduler = Scheduler(make_runner, 2, max_retry_times=1)
    with pytest.raises(SetupError, match=r"division by zero|str, which can run nothing"):
        asyncio.run(scheduler.start())
    assert scheduler.stats()["restarts"] == 2  # one more attempt each


@pytest.mark.guarantee("make-runner-fails")
def test_a_runner_that_can_no_longer_be_made_loses_nothing(tmp_path: Path) -> None:
    def make_runner() -> Runner:
        if (tmp_path / "broken").exists():
            raise ValueError("broken")
        return Runner(tmp_path)

    async def main() -> None:
        async with Scheduler(make_runner, 1, max_retry_times=1) as scheduler:
            (tmp_path / "broken").touch()
            scheduler.schedule(["die", "a"], 0)
            statuses, _ = await scheduler.get_results(0)
            assert (len(statuses), num_ok(statuses)) == (2, 0)
            assert all("ValueError: broken" in status.message for status in statuses)
            (tmp_path / "broken").unlink()
            scheduler.schedule(["b"], 0)
            assert num_ok((await scheduler.get_results(0))[0]) == 1

    asyncio.run(main())


def test_a_wrapper_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        wrapper = RunnerWrapper(7, lambda: Runner(tmp_path), max_timeout=HUNG_S, max_retry_times=0)
        for task, ok in (("a", True), ("hang", False), ("b", True)):
            status, _, runner_id = await wrapper.run_with_retry(TaskWrapper(task, 0))
            assert (status.ok, runner_id) == (ok, 7)
            assert wrapper.num_restarts == (task != "a")  # killed at once, used again or not
        await wrapper.restart_runner()
        assert wrapper.num_restarts == 2
        status, experiences, _ = await wrapper.run_with_retry(TaskWrapper("c", 0, 5, 2))
        assert [e["run_id"] for e in experiences] == [5, 6]
        await wrapper.close()

    asyncio.run(main())
