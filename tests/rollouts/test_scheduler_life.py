"""The scheduler: its start, its end, and when it may be used."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from told_runners import AsyncRunner, Runner, log_has, num_ok, until_done

from vectasks import (
    InvalidArgument,
    SchedulerUnavailable,
)
from vectasks.rollouts.scheduler import (
    RunnerWrapper,
    Scheduler,
    TaskWrapper,
)


@pytest.mark.guarantee("scheduler-stop")
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


@pytest.mark.guarantee("scheduler-stop")
def test_stop_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.2)
        await scheduler.start()
        scheduler.schedule(["a", "hang", "hang", "queued"], 0)
        waiting = asyncio.create_task(scheduler.get_results(0))
        idle = asyncio.create_task(scheduler.wait_all())
        await log_has(tmp_path, "at hang", 2)
        await until_done(scheduler, 0, 1)  # a runner begins its next task before that is known
        await scheduler.stop()
        assert len((await waiting)[0]) == 1
        with pytest.raises(SchedulerUnavailable, match="stopped, and 3 tasks were dropped"):
            await idle
        assert asyncio.all_tasks() == {asyncio.current_task()}
        stats = scheduler.stats()
        assert (stats["queued"], stats["running"], stats["cleared"]) == (0, 0, 3)
        assert not scheduler.has_step(0)

    asyncio.run(main())  # conftest looks for what is left of the workers


@pytest.mark.guarantee("loop-ends")
def test_a_loop_that_ends_without_stop_leaves_no_worker(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.2)
        await scheduler.start()
        scheduler.schedule(["hang", "a"], 0)
        await scheduler.get_results(0, min_num=1)

    asyncio.run(main())


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.guarantee("loop-ends")
@pytest.mark.parametrize(
    ("backend", "runner"), [("process", Runner), ("inline", AsyncRunner)], ids=str
)
@pytest.mark.parametrize("is_busy", [True, False])
def test_the_end_of_the_loop_ends_a_scheduler_quietly(
    tmp_path: Path, caplog: Any, backend: Any, runner: Any, is_busy: bool
) -> None:
    async def warm_up() -> None:
        async with Scheduler(lambda: runner(tmp_path), 1, backend=backend):
            pass

    async def main() -> None:
        await scheduler.start()
        if is_busy:
            scheduler.schedule([("gate", "never")] * 2 + ["a"] * 4, 0)
            if backend == "process":
                await log_has(tmp_path, "at gate", 2)
            else:
                for _ in range(10):  # turns of the loop, in which the runners begin
                    await asyncio.sleep(0)

    asyncio.run(warm_up())  # there is a forkserver from here on
    before = children()
    scheduler = Scheduler(lambda: runner(tmp_path), 2, backend=backend, close_grace_s=0.2)
    asyncio.run(main())
    assert children() == before
    gc.collect()  # asyncio logs what was destroyed while it was pending
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    stats = scheduler.stats()
    assert (stats["queued"], stats["running"], stats["failed"]) == (0, 0, 0)
    assert stats["cleared"] == (6 if is_busy else 0)
    log = tmp_path / "log"
    assert not log.exists() or "at a" not in log.read_text()


def test_a_scheduler_whose_tasks_were_all_cancelled_can_be_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = Scheduler(lambda: Runner(tmp_path), 2, close_grace_s=0.2)
        await scheduler.start()
        scheduler.schedule(["hang", "hang", "a"], 0)
        await log_has(tmp_path, "at hang", 2)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(SchedulerUnavailable, match="stopped, and 3 tasks were dropped"):
            await scheduler.wait_all()
        with pytest.raises(SchedulerUnavailable, match="is not running"):
            scheduler.schedule(["a"], 0)
        await scheduler.start()
        scheduler.schedule(["a"], 1)
        assert num_ok((await scheduler.get_results(1))[0]) == 1
        await scheduler.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

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
        for wrong in ({"min_num": -1}, {"min_num": 1.5}, {"timeout": -1}, {"timeout": "5"}):
            with pytest.raises(InvalidArgument, match=next(iter(wrong))):
                await scheduler.get_results(0, **wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="timeout"):
            await scheduler.wait_all(timeout=float("nan"))

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
        {"num_runners": 1.5},
        {"num_runners": True},
        {"max_timeout": 0},
        {"max_timeout": "900"},
        {"start_timeout_s": -1},
        {"close_grace_s": None},
        {"make_runner": None},
        {"backend": "nope"},
        {"resources": {"num_cpus": 1}},
    ],
    ids=str,
)
def test_bad_arguments(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidArgument, match=name):
        Scheduler(**{"make_runner": Runner, "num_runners": 1, **options})


@pytest.mark.parametrize(
    "options", [{"max_timeout": 0}, {"max_retry_times": -1}, {"backend": "nope"}], ids=str
)
def test_bad_arguments_of_a_wrapper(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidArgument, match=name):
        RunnerWrapper(0, Runner, **options)  # type: ignore[arg-type]


def test_numbers_of_numpy(tmp_path: Path) -> None:
    async def main() -> None:
        async with Scheduler(
            lambda: Runner(tmp_path),
            np.int64(2),  # type: ignore[arg-type]
            backend="inline",
            max_timeout=np.float32(30),  # type: ignore[arg-type]
            max_retry_times=np.int32(1),  # type: ignore[arg-type]
            max_repeat_times_per_runner=np.uint8(2),  # type: ignore[arg-type]
            start_timeout_s=np.int64(30),  # type: ignore[arg-type]
            close_grace_s=np.float64(0.5),
        ) as scheduler:
            task = TaskWrapper("a", 0, np.int64(5), np.int64(3))  # type: ignore[arg-type]
            scheduler.schedule([task, "raise"], np.int64(4))  # type: ignore[arg-type]
            statuses, experiences = await scheduler.get_results(
                np.int64(4),  # type: ignore[arg-type]
                min_num=np.int64(2),  # type: ignore[arg-type]
                timeout=np.float32(30),  # type: ignore[arg-type]
            )
            assert [status.ok for status in statuses] == [True, False]
            assert [e["run_id"] for e in experiences] == [5, 6, 7]
            assert {type(e["run_id"]) for e in experiences} == {int}
            await scheduler.wait_all(timeout=np.int64(1))  # type: ignore[arg-type]

    asyncio.run(main())
