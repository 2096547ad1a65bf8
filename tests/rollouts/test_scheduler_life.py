"""The scheduler: its start, its end, and when it may be used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from told_runners import Runner, log_has, num_ok, until_done

from vectasks import (
    InvalidArgument,
    SchedulerUnavailable,
)
from vectasks.rollouts.scheduler import (
    Scheduler,
    TaskWrapper,
)


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
        Scheduler(**{"make_runner": Runner, "num_runners": 1, **options})
