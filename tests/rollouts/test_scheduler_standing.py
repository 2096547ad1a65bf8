"""Broken runners: retries go elsewhere first, and who fails while others do better is set aside."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from told_runners import Runner, log_has, num_ok, runner_of

from vectasks.rollouts.scheduler import Scheduler
from vectasks.rollouts.scheduler.queue import Part
from vectasks.rollouts.scheduler.runner import RunnerWrapper, TaskWrapper
from vectasks.rollouts.scheduler.scheduled_batches import Batch, Scheduled
from vectasks.rollouts.scheduler.standing import Standing


class BreakingRunner(Runner):
    """Of those that are made, the first one raises at everything, until it is mended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            (folder / "first").mkdir()
            self.is_broken = True
        except FileExistsError:
            self.is_broken = False

    def run(self, task: Any, run_id: int) -> Any:
        if self.is_broken and not (self.folder / "mended").exists():
            self.tell("broken")
            raise RuntimeError("broken")
        return super().run(task, run_id)


@pytest.fixture
def run_with_a_broken_one(tmp_path: Path) -> Callable[..., Any]:
    return runner_of(tmp_path, "process", BreakingRunner)


def times_broken(folder: Path) -> int:
    return (folder / "log").read_text().splitlines().count("broken")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.mark.guarantee("retries-elsewhere", "runner-keeps-failing")
@pytest.mark.parametrize("num_retries", [1, 2])
def test_a_broken_runner_of_three_loses_nothing_and_costs_a_few_attempts(
    run_with_a_broken_one: Any, tmp_path: Path, num_retries: int
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "open"), ("gate", "open"), *["a"] * 58], 0)
        await log_has(
            tmp_path, "at gate", 2
        )  # the good ones are busy: the broken one gets the rest
        await until(lambda: len(scheduler.stats()["set_aside"]) == 1)
        (tmp_path / "open").touch()
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 60
        stats = scheduler.stats()
        assert len(stats["set_aside"]) == 1
        assert stats["retries"] == times_broken(tmp_path) <= 6

    run_with_a_broken_one(main, 3, max_retry_times=num_retries)


def test_a_broken_runner_costs_a_few_tasks_where_none_is_retried(
    run_with_a_broken_one: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a"] * 60, 0)
        statuses, _ = await scheduler.get_results(0)
        assert num_ok(statuses) == 60 - times_broken(tmp_path) >= 54

    run_with_a_broken_one(main, 3, max_retry_times=0)


@pytest.mark.guarantee("retries-elsewhere")
def test_a_retry_waits_for_another_runner(run_with_a_broken_one: Any, tmp_path: Path) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "open"), ("gate", "open")], 0)
        await log_has(tmp_path, "at gate")  # the other one is busy with one of them
        await until(lambda: scheduler.stats()["retries"] == 1)
        (tmp_path / "open").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == 2

    run_with_a_broken_one(main, 2, max_retry_times=1)
    assert times_broken(tmp_path) == 1


@pytest.mark.guarantee("runner-keeps-failing")
def test_a_runner_that_was_set_aside_is_probed_and_comes_back(
    run_with_a_broken_one: Any, tmp_path: Path
) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule([("gate", "open")], 0)
        await log_has(tmp_path, "at gate")  # the good one is busy: the broken one gets the rest
        scheduler.schedule(["a", "a"], 0)
        await until(lambda: len(scheduler.stats()["set_aside"]) == 1)
        (tmp_path / "mended").touch()
        # The good one is at the gate: the mended one runs these.
        scheduler.schedule(["b", "b"], 1)
        assert num_ok((await scheduler.get_results(1))[0]) == 2
        assert scheduler.stats()["set_aside"] == []
        (tmp_path / "open").touch()
        assert num_ok((await scheduler.get_results(0))[0]) == 3

    run_with_a_broken_one(main, 2, max_retry_times=3)


@pytest.mark.guarantee("runner-keeps-failing")
def test_a_runner_that_dies_at_everything_is_set_aside(tmp_path: Path) -> None:
    class DyingRunner(Runner):
        def run(self, task: Any, run_id: int) -> Any:
            is_first = multiprocessing.current_process().name.endswith("-0")
            return super().run("die" if is_first else task, run_id)

    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["a"] * 40, 0)
        assert num_ok((await scheduler.get_results(0))[0]) == 40
        stats = scheduler.stats()
        assert stats["set_aside"] in ([], [0])  # the others may have run all before its second try
        assert stats["retries"] <= 4

    runner_of(tmp_path, "process", DyingRunner)(main, 3)


@pytest.mark.guarantee("all-runners-fail")
@pytest.mark.parametrize("num_runners", [1, 3])
def test_where_all_fail_nothing_stalls(run: Any, tmp_path: Path, num_runners: int) -> None:
    async def main(scheduler: Scheduler) -> None:
        scheduler.schedule(["raise"] * 20, 0)
        statuses, _ = await scheduler.get_results(0)
        assert (len(statuses), num_ok(statuses)) == (20, 0)
        assert scheduler.stats()["set_aside"] == []
        scheduler.schedule(["a"] * 4, 1)
        assert num_ok((await scheduler.get_results(1))[0]) == 4

    run(main, num_runners, max_retry_times=1)
    assert (tmp_path / "log").read_text().count("at raise") == 40


# -- the records ----------------------------------------------------------------------------------


def part() -> Part:
    return Part(Scheduled(Batch(0, 0), [1]), 0, TaskWrapper("a", 0))


def fail(standing: Standing, runner: RunnerWrapper, part: Part) -> float | None:
    pause_s = standing.failed(runner, part)
    part.note_failure(runner)
    return pause_s


@pytest.fixture
def runners() -> list[RunnerWrapper]:
    return [RunnerWrapper(number, list) for number in range(3)]


def test_pauses_grow_until_a_success(runners: list[RunnerWrapper]) -> None:
    standing = Standing(runners)
    pauses = [fail(standing, runners[0], part()) for _ in range(9)]
    assert pauses == [None, 1, 2, 4, 8, 16, 32, 60, 60]
    assert standing.trusted == runners[1:]
    assert not standing.may_begin(runners[0])
    standing.succeeded(runners[0])
    assert standing.trusted == runners
    assert [fail(standing, runners[0], part()) for _ in range(2)] == [None, 1]


def test_a_failure_is_the_tasks_where_a_good_runner_fails_at_it_too(
    runners: list[RunnerWrapper],
) -> None:
    standing = Standing(runners)
    bad = [part(), part()]
    for each in bad:
        fail(standing, runners[0], each)
    assert standing.is_set_aside(runners[0])
    standing.succeeded(runners[1])
    assert fail(standing, runners[1], bad[0]) is None
    assert standing.trusted == runners
    assert fail(standing, runners[1], bad[1]) is None  # and nothing is laid to the good one


def test_a_broken_runner_excuses_no_other(runners: list[RunnerWrapper]) -> None:
    standing = Standing(runners)
    for _ in range(2):
        each = part()
        fail(standing, runners[0], each)
        fail(standing, runners[1], each)
    assert standing.trusted == [runners[2]]


def test_where_nobody_does_well_nobody_is_set_aside(runners: list[RunnerWrapper]) -> None:
    standing = Standing(runners)
    for runner in runners:
        assert standing.may_begin(runner)
        for _ in range(2):
            fail(standing, runner, part())
    assert standing.trusted == runners
    assert all(standing.may_begin(runner) for runner in runners)
