"""The scheduler: every scenario on processes, those that kill nobody in this process too."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks import (
    InvalidArgument,
    SchedulerUnavailable,
    SetupError,
    UnknownBatch,
    WaitTimeout,
)
from vectasks.rollouts.scheduler import (
    RunnerWrapper,
    Scheduler,
    Status,
    TaskWrapper,
    sort_batch_id,
)

PATIENCE_S = 30.0
HUNG_S = 0.5  # what a task may take where some hang


class Runner:
    """Does what its task says; waits are for files that the test makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, task: Any, run_id: int) -> dict[str, Any]:
        name, *rest = task if isinstance(task, tuple) else (task,)
        self.tell(f"at {name}")
        if name == "raise":
            raise ValueError("bad task")
        if name == "hang":
            self.wait_for("never")
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "once":  # fails in its first attempt
            first = not (self.folder / "tried").exists()
            (self.folder / "tried").touch()
            if first:
                self.run(rest[0], run_id)
        if name == "gate":
            self.wait_for(rest[0])
        return {"task": task, "run_id": run_id, "pid": os.getpid(), "metrics": {"run": run_id}}

    def tell(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{line}\n")

    def wait_for(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.002)


def is_gate(task: Any) -> bool:
    return isinstance(task, tuple) and task[0] == "gate"


class AsyncRunner(Runner):
    """The same, awaiting."""

    async def run(self, task: Any, run_id: int) -> Any:  # type: ignore[override]
        while task == "hang" or (is_gate(task) and not (self.folder / task[1]).exists()):
            await asyncio.sleep(0.002)
        return super().run(task, run_id)


Main = Callable[[Scheduler], Awaitable[Any]]


@pytest.fixture(params=["process", "inline, async"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Runs a coroutine function with a started scheduler."""
    backend, _, is_async = request.param.partition(", ")
    return _runner_of(tmp_path, backend, AsyncRunner if is_async else Runner)


@pytest.fixture
def run_in_processes(tmp_path: Path) -> Callable[..., Any]:
    return _runner_of(tmp_path, "process", Runner)


def _runner_of(folder: Path, backend: Any, runner: Any) -> Callable[..., Any]:
    def run(main: Main, num_runners: int = 2, **options: Any) -> Any:
        async def start() -> Any:
            options.setdefault("close_grace_s", 0.5)
            options.setdefault("make_runner", lambda: runner(folder))
            async with Scheduler(num_runners=num_runners, backend=backend, **options) as scheduler:
                return await asyncio.wait_for(main(scheduler), PATIENCE_S)

        return asyncio.run(start())

    return run


def num_ok(statuses: list[Status]) -> int:
    return sum(status.ok for status in statuses)


async def log_has(folder: Path, line: str, count: int = 1) -> None:
    log = folder / "log"
    while not log.exists() or log.read_text().splitlines().count(line) < count:
        await asyncio.sleep(0.002)


async def until_done(scheduler: Scheduler, batch_id: Any, count: int) -> None:
    while scheduler.stats()["batches"][batch_id]["done"] < count:
        await asyncio.sleep(0.002)


# -- results --------------------------------------------------------------------------------------


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


# -- time -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("clear", "left"), [(False, 1), (True, 0)])
def test_what_is_late_is_cleared_or_kept(run: Any, tmp_path: Path, clear: bool, left: int) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "b", "c", ("gate", "late")], 0)
        await until_done(scheduler, 0, 3)
        statuses, _ = await scheduler.get_results(0, timeout=0.05, clear_timeout_tasks=clear)
        assert len(statuses) == 3
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


def test_wait_all_pops_nothing(run: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        await scheduler.wait_all()
        for batch_id in range(3):
            scheduler.schedule(["a"] * 3, batch_id)
        await scheduler.wait_all(timeout=PATIENCE_S)
        for batch_id in range(3):
            assert num_ok((await scheduler.get_results(batch_id, timeout=0))[0]) == 3

    run(main)


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


def test_one_good_and_three_raising_give_four_statuses(run: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a", "raise", "raise", "raise"], 0)
        statuses, experiences = await scheduler.get_results(0)
        assert (len(statuses), num_ok(statuses), len(experiences)) == (4, 1, 1)
        assert all("ValueError: bad task" in s.message for s in statuses if not s.ok)
        assert scheduler.stats()["restarts"] == 0  # a runner that raises is alive

    run(main, max_retry_times=1)
    assert (tmp_path / "log").read_text().count("at raise") == 6


@pytest.mark.parametrize("how", ["raise", "hang", "die"])
def test_a_retry_is_on_a_live_runner(run_in_processes: Any, tmp_path: Path, how: str) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("once", how), *["a"] * 4], 0)
        statuses, _ = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert num_ok(statuses) == 5
        stats = scheduler.stats()
        assert (stats["retries"], stats["restarts"]) == (1, 0 if how == "raise" else 1)

    run_in_processes(main, max_timeout=HUNG_S if how == "hang" else PATIENCE_S)


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


def test_a_hung_runner_shows_where_it_hung(run_in_processes: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["hang"], 0)
        (status,), _ = await scheduler.get_results(0, timeout=PATIENCE_S)
        assert "in wait_for" in status.message

    run_in_processes(main, 1, max_timeout=HUNG_S, max_retry_times=0)


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


def test_a_death_fails_no_other_task(run_in_processes: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "late"), "die", "a"], 0)
        await log_has(tmp_path, "at die", 2)
        (tmp_path / "late").touch()
        statuses, _ = await scheduler.get_results(0)
        assert sorted(s.ok for s in statuses) == [False, True, True]

    run_in_processes(main, 2, max_retry_times=1)


# -- repeats and metrics --------------------------------------------------------------------------


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
    ids = ["b", 10, "3/eval", 4, "a", 3, "10/x", -1, "3/a"]
    assert sorted(ids, key=sort_batch_id) == [-1, 3, "3/a", "3/eval", 4, 10, "10/x", "a", "b"]


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


# -- start and stop -------------------------------------------------------------------------------


def test_stop_and_start_again(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.5)
        for round_ in range(2):
            await scheduler.start()
            scheduler.schedule(["a"] * 4, round_)
            assert num_ok((await scheduler.get_results(round_))[0]) == 4
            scheduler.schedule(["b"], "kept")
            await scheduler.wait_all()
            await scheduler.stop()
            await scheduler.stop()
        assert num_ok((await scheduler.get_results("kept"))[0]) == 2  # what was done can be taken

    asyncio.run(main())


def test_stop_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.2)
        await scheduler.start()
        scheduler.schedule(["a", "hang", "hang", "queued"], 0)
        waiting = asyncio.create_task(scheduler.get_results(0))
        idle = asyncio.create_task(scheduler.wait_all())
        await log_has(tmp_path, "at hang", 2)
        await scheduler.stop()
        assert len((await waiting)[0]) == 1
        with pytest.raises(SchedulerUnavailable, match="stopped, and 3 tasks were dropped"):
            await idle
        assert asyncio.all_tasks() == {asyncio.current_task()}
        stats = scheduler.stats()
        assert (stats["queued"], stats["running"], stats["cleared"]) == (0, 0, 3)
        assert not scheduler.has_step(0)

    asyncio.run(main())  # conftest looks for what is left of the workers


def test_a_loop_that_ends_without_stop_leaves_no_worker(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.2)
        await scheduler.start()
        scheduler.schedule(["hang", "a"], 0)
        await scheduler.get_results(0, min_num=1)

    asyncio.run(main())


def test_misuse(tmp_path: Path) -> None:
    scheduler = Scheduler(lambda: Runner(tmp_path), 1)
    with pytest.raises(SchedulerUnavailable, match="is not running"):
        scheduler.schedule(["a"], 0)

    async def start_twice() -> None:
        await scheduler.start()
        with pytest.raises(SchedulerUnavailable, match="is running"):
            await scheduler.start()
        for tasks, batch_id in (("abc", 0), ({"a": 1}, 0), (3, 0), (["a"], 1.5)):
            with pytest.raises(InvalidArgument):
                scheduler.schedule(tasks, batch_id)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="repeat_times"):
            scheduler.schedule(["a", TaskWrapper("b", 0, repeat_times=0)], 0)
        assert not scheduler.has_step(0)  # not even the good one
        scheduler.schedule(["a"], 0)
        with pytest.raises(InvalidArgument, match="min_num"):
            await scheduler.get_results(0, min_num=-1)

        def elsewhere() -> None:
            with pytest.raises(SchedulerUnavailable, match="event loop"):
                scheduler.schedule(["a"], 0)

        await asyncio.to_thread(elsewhere)
        await scheduler.stop()

    asyncio.run(start_twice())
    with pytest.raises(SchedulerUnavailable, match="is not running"):
        scheduler.schedule(["a"], 0)


def test_no_running_event_loop(tmp_path: Path) -> None:
    scheduler = Scheduler(lambda: Runner(tmp_path), 1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(scheduler.start())
    with pytest.raises(SchedulerUnavailable, match="event loop that start"):
        scheduler.schedule(["a"], 0)
    loop.run_until_complete(scheduler.stop())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize(
    "options",
    [
        {"num_runners": 0},
        {"max_retry_times": -1},
        {"max_repeat_times_per_runner": 0},
        {"max_timeout": 0},
        {"make_runner": None},
    ],
    ids=str,
)
def test_bad_arguments(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidArgument, match=name):
        Scheduler(**{"make_runner": Lists, "num_runners": 1, **options})


def test_a_runner_that_cannot_be_pickled(tmp_path: Path) -> None:
    policy = threading.Lock()
    with pytest.raises(InvalidArgument, match=r"cannot be sent to a worker .*pickle"):
        asyncio.run(Scheduler(lambda: policy, 1).start())


def test_a_task_that_cannot_be_pickled(run_in_processes: Any) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([threading.Lock(), "a"], 0)
        statuses, _ = await scheduler.get_results(0)
        assert sorted(s.ok for s in statuses) == [False, True]
        assert any("cannot be sent" in s.message for s in statuses)

    run_in_processes(main)


@pytest.mark.parametrize("make_runner", [lambda: 1 / 0, lambda: "no runner"])
def test_a_runner_that_cannot_be_made(make_runner: Any) -> None:
    scheduler = Scheduler(make_runner, 2, max_retry_times=1)
    with pytest.raises(SetupError, match=r"division by zero|str, which can run nothing"):
        asyncio.run(scheduler.start())
    assert scheduler.stats()["restarts"] == 2  # one more attempt each


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
        before = wrapper.num_restarts
        await wrapper.restart_runner()
        assert (before, wrapper.num_restarts) == (1, 2)
        status, experiences, _ = await wrapper.run_with_retry(TaskWrapper("c", 0, 5, 2))
        assert [e["run_id"] for e in experiences] == [5, 6]
        await wrapper.close()

    asyncio.run(main())


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
