"""Task sources and prepared tasks: what comes next, and what happens when it does not come."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from kinds_of_worker import Kind

from vectasks import (
    InvalidArgument,
    SamplerState,
    SetupError,
    TaskError,
    TaskSourceError,
    WaitTimeout,
    WorkerDied,
)
from vectasks.replay.replay import Replay
from vectasks.sources import TaskList, TasksFrom
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import CountingTask, ToySampler

FAILED, EXHAUSTED = SamplerState.FAILED, SamplerState.EXHAUSTED


class NamedSampler(ToySampler):
    """Its tasks are named by keywords; what is to happen in the making of one is told by others.

    ``waits_for``: a file; ``raises``: a message; ``kills``: a file, once it is there; ``length``.
    """

    episodes_are_independent = True

    def next_task(
        self,
        name: int = -1,
        waits_for: str | None = None,
        raises: str | None = None,
        kills: str | None = None,
        length: int | None = None,
    ) -> Any:
        if raises is not None:
            raise ValueError(raises)
        if kills is not None and Path(kills).exists():
            Path(kills).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if waits_for is not None:
            Path(f"{waits_for}.begun").touch()
            while not Path(waits_for).exists():
                time.sleep(0.001)
        task = super().next_task()
        if task is not None and name >= 0:
            task.episode = name
            task.task_info = {"name": name}
            task.max_steps = length or self.max_steps
        return task


class Alone(ToySampler):
    """There can be only one of its kind: it holds a file."""

    def __init__(self, holds: str, **options: Any) -> None:
        super().__init__(**options)
        with Path(holds).open("x"):
            pass


class Listed:
    """Each sampler has a list of its own; writes down what it is told."""

    def __init__(self, *lists: list[Any]) -> None:
        self.lists = [list(one) for one in lists]
        self.told: list[tuple[int, Any, float, int]] = []
        self.returned: list[tuple[int, Any]] = []

    def next(self, sampler_id: int) -> Any:
        its = self.lists[sampler_id]
        item = its.pop(0) if its else None
        if isinstance(item, Exception):
            raise item
        return {"name": item} if isinstance(item, int) else item

    def ended(self, sampler_id: int, keywords: Mapping[str, Any], outcome: Any) -> None:
        name = keywords["name"]
        self.told.append((sampler_id, name, outcome.episode_return, outcome.length))

    def give_back(self, sampler_id: int, keywords: Mapping[str, Any]) -> None:
        self.returned.append((sampler_id, keywords["name"]))


def named(kind: Kind, count: int = 2, max_steps: int = 3, **vector: Any) -> Any:
    return kind.make(NamedSampler, toy_args(CountingTask, count, max_steps=max_steps), **vector)


def names(tasks: Any) -> list[int]:
    return [info["name"] for info in tasks.attr("task_info")]


prepared = pytest.mark.parametrize("prepared_tasks", [0, 1, 3])
PROCESS = Kind("forkserver", 1)


# -- what comes next ------------------------------------------------------------------------------


@prepared
def test_every_task_of_a_list_is_played_once(quick_lane: Kind, prepared_tasks: int) -> None:
    source = TaskList([{"name": n, "length": 1 + n % 4} for n in range(17)])
    seen: Counter[int] = Counter()
    with named(quick_lane, 3, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        while len(running := [s for s in tasks.sampler_states.values() if s.name == "READY"]) > 0:
            while tasks.num_unpaused_tasks > len(running):
                states = tasks.sampler_states
                gone = [k for k, i in enumerate(tasks.sampler_ids) if states[i] is EXHAUSTED]
                tasks.pause_at(gone[0])
            batch = tasks.step_batch([0] * tasks.num_unpaused_tasks)
            for info in batch.infos:
                if "final_observation" in info:
                    seen[info["__AFTER_TASK_METRICS__"]["task_info"]["name"]] += 1
        assert tasks.stats()["episodes"] == 17
    assert seen == Counter(range(17))


@prepared
def test_the_source_hears_of_each_end(quick_lane: Kind, prepared_tasks: int) -> None:
    source = Listed([1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16, 17, 18])
    with named(quick_lane, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        assert names(tasks) == [1, 11]
        for _ in range(2):
            tasks.step_batch([1, 2])
        assert source.told == []
        batch = tasks.step_batch([1, 2])
        assert batch.done.all()
        assert names(tasks) == [2, 12]
        np.testing.assert_array_equal(batch.observation[:, 1:], [[2, 0], [12, 0]])
        finals = [info["final_observation"].tolist() for info in batch.infos]
        assert finals == [[0, 1, 3], [1, 11, 3]]
        # Each step's reward is its action plus an eighth of its number.
        assert source.told == [(0, 1, 3.75, 3), (1, 11, 6.75, 3)]
        tasks.step([0, 0])
    given = 2 + prepared_tasks
    expected = [(i, 10 * i + n) for n in range(2, given + 1) for i in range(2)]
    assert source.returned == expected  # nobody played these to their end


def test_a_shared_list_goes_to_samplers_in_order(quick_lane: Kind) -> None:
    source = TaskList([{"name": n} for n in range(40)])
    with named(quick_lane, 3, task_source=source, prepared_tasks=1) as tasks:
        assert names(tasks) == [0, 1, 2]
        for _ in range(3):
            tasks.step([0] * 3)
        assert names(tasks) == [3, 4, 5]
        tasks.step_at(1, 0), tasks.step_at(1, 0), tasks.step_at(1, 0)
        assert names(tasks) == [3, 7, 5]


@pytest.mark.parametrize("prepared_tasks", [0, 2])
def test_in_lockstep_too(quick_lane: Kind, prepared_tasks: int) -> None:
    source = Listed([1, 2, 3, 4, 5], [11, 12, 13, 14, 15])
    options = {"task_source": source, "prepared_tasks": prepared_tasks}
    with named(quick_lane, max_steps=2, auto_resample_when_done=False, **options) as tasks:
        tasks.step([0, 0])
        results = tasks.step([0, 0])
        assert [result.done for result in results] == [True, True]
        assert [name for _, name, _, _ in source.told] == [1, 11]
        assert names(tasks) == [2, 12]
        assert all("__EPISODE__" not in (result.info or {}) for result in results)


@pytest.mark.parametrize("prepared_tasks", [1, 3])
def test_independent_episodes_are_the_same(quick_lane: Kind, prepared_tasks: int) -> None:
    def trace(tasks: Any) -> list[Any]:
        with tasks:
            return [tasks.step_batch([1, 2]) for _ in range(20)]

    expected = trace(named(Kind(), seed=3))
    got = trace(named(quick_lane, seed=3, prepared_tasks=prepared_tasks))
    assert_identical(expected, got)


def test_others_take_turns(quick_lane: Kind) -> None:
    with quick_lane.toys(count=2, max_steps=2, vector={"prepared_tasks": 2}) as tasks:
        episodes = [np.array(tasks.get_observations())[:, 1].tolist()]
        for _ in range(8):
            tasks.step([0, 0])
            done = tasks.step([0, 0])
            episodes.append([result.observation[1] for result in done])
    # Each host counts its own.
    assert episodes == [[n // 3] * 2 for n in range(9)]


@prepared
def test_next_task_goes_on(quick_lane: Kind, prepared_tasks: int) -> None:
    source = Listed([1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16, 17, 18])
    with named(quick_lane, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        tasks.next_task()
        assert names(tasks) == [2, 12]
        tasks.next_task_at(1, name=99)
        assert names(tasks) == [2, 99]
        # What its user leaves is told as cut off.
        assert source.told == [(0, 1, 0.0, 0), (1, 11, 0.0, 0), (1, 12, 0.0, 0)]
        assert source.returned == []
        for _ in range(3):
            tasks.step([0, 0])
        assert names(tasks) == [3, 13]
        assert [name for _, name, _, _ in source.told[3:]] == [2]  # 99 is not the source's


@prepared
def test_reset_all_asks_for_another(quick_lane: Kind, prepared_tasks: int) -> None:
    source = Listed(list(range(1, 10)), list(range(11, 20)))
    with named(quick_lane, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        tasks.reset_all()
        following = 2 + prepared_tasks
        assert names(tasks) == [following, following + 10]
        tasks.next_task()
        expected = 2 if prepared_tasks else 3
        assert names(tasks) == [expected, expected + 10]


def test_send_and_recv(quick_lane: Kind) -> None:
    source = Listed(list(range(1, 10)), list(range(11, 20)))
    with named(quick_lane, task_source=source, prepared_tasks=1) as tasks:
        for step in range(1, 8):
            tasks.send([0, 0])
            rows = {}
            for _ in range(2):
                batch = tasks.recv(1)
                rows[int(batch.samplers[0])] = batch
            for i, batch in rows.items():
                assert batch.done[0] == (step % 3 == 0)
                assert batch.observation[0, 1] == 10 * i + 1 + step // 3


# -- beside the current task ----------------------------------------------------------------------


def test_steps_go_on_while_the_next_task_is_made(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = Listed([1, {"name": 2, "waits_for": str(gate)}, 3, 4])
    with named(PROCESS, 1, task_source=source, prepared_tasks=1, read_timeout=60) as tasks:
        tasks.step([0])
        tasks.step([0])
        while not Path(f"{gate}.begun").exists():
            time.sleep(0.001)
        tasks.async_step([0])
        with pytest.raises(WaitTimeout, match=r"sampler 0 \(step, worker 1\)") as caught:
            tasks.wait_step(0.2)
        assert "next_task" in caught.value.stacks[1]
        assert tasks.stats()["next_tasks"]["awaited"] == 1
        gate.touch()
        (result,) = tasks.wait_step()
        assert result.done
        assert result.observation[1] == 2
        assert names(tasks) == [2]
        assert tasks.stats()["next_tasks"]["awaited_s"] > 0.1


def test_looking_means_the_current_task(quick_lane: Kind) -> None:
    source = TaskList([{"name": n} for n in range(40)])
    with named(quick_lane, task_source=source, prepared_tasks=2) as tasks:
        for _ in range(5):
            tasks.set_attr("note", "marked")
            assert tasks.attr("note") == ["marked"] * 2
            assert tasks.call("num_steps_taken") == [0, 0]
            tasks.pause_at(0)
            assert tasks.step([0])[0].observation[2] == 1
            tasks.resume_all()
            tasks.next_task()
            assert tasks.attr("note") == ["unset"] * 2


def test_call_sampler_reaches_spares_with_their_next_preparation(quick_lane: Kind) -> None:
    with quick_lane.toys(count=1, max_steps=1, vector={"prepared_tasks": 1}) as tasks:
        tasks.call_sampler("__setattr__", [["max_steps", 7]])
        lengths = []
        for _ in range(5):
            lengths += tasks.attr("max_steps")
            tasks.next_task()
        assert lengths == [1, 1, 7, 7, 7]


def test_set_seeds_reaches_what_was_prepared(kind: Kind) -> None:
    def walk(**vector: Any) -> list[Any]:
        with kind.make(DrawingSampler, [{}], seed=1, **vector) as tasks:
            tasks.set_seeds([5])
            drawn = []
            for _ in range(4):
                tasks.next_task()
                drawn += tasks.attr("task_info")
            return drawn

    assert walk() == walk(prepared_tasks=1) == walk(prepared_tasks=2)


class DrawingSampler(ToySampler):
    """What a task is follows from the seed and how many were drawn since."""

    episodes_are_independent = True

    def __init__(self) -> None:
        super().__init__(CountingTask)

    def next_task(self, **kwargs: Any) -> Any:
        task = super().next_task(**kwargs)
        assert task is not None
        task.task_info = {"drawn": float(self.world.rng.random())}
        return task


# -- what fails -----------------------------------------------------------------------------------


@prepared
def test_a_task_that_cannot_be_made_is_told_when_it_is_due(
    quick_lane: Kind, prepared_tasks: int
) -> None:
    source = Listed([1, {"name": 2, "raises": "no scene"}, 3, 4, 5], [11, 12, 13, 14, 15])
    with named(quick_lane, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        tasks.step([0, 0])
        tasks.step([0, 0])
        with pytest.raises(TaskError, match="sampler 0 failed in step: ValueError: no scene") as e:
            tasks.step_batch([0, 0])
        assert tasks.sampler_states[0] is FAILED
        assert names_of(e.value.results) == {1: 12}
        tasks.next_task_at(0)
        assert names(tasks) == [3, 12]
        tasks.step([0, 0])
        recording = e.value.recordings[0]
        assert [name for _, name, _, _ in source.told] == [1, 11]
    with Replay(recording) as replay:
        outcome = replay.run()
    assert str(outcome.error) == "no scene"


def names_of(results: Mapping[int, Any]) -> dict[int, int]:
    return {i: result.observation[1] for i, result in results.items()}


@prepared
def test_a_source_that_fails_in_the_midst(quick_lane: Kind, prepared_tasks: int) -> None:
    source = Listed([1, KeyError("lost"), 3, "three", 5, 6], [11, 12, 13, 14, 15, 16])
    with named(quick_lane, task_source=source, prepared_tasks=prepared_tasks) as tasks:
        tasks.step([0, 0])
        tasks.step([0, 0])
        with pytest.raises(TaskError, match=r"next\(0\) of the task source.*KeyError: .lost") as e:
            tasks.step([0, 0])
        assert isinstance(e.value.__cause__, TaskSourceError)
        tasks.next_task_at(0)
        assert names(tasks) == [3, 12]
        tasks.step([0, 0])
        tasks.step([0, 0])
        with pytest.raises(TaskError, match=r"next\(0\) gave 'three' \(str\).*mapping"):
            tasks.step([0, 0])
        tasks.next_task_at(0)
        assert names(tasks) == [5, 13]


def test_a_source_that_cannot_listen(quick_lane: Kind) -> None:
    class Deaf(Listed):
        def ended(self, *_: Any) -> None:
            raise OSError("no ears")

    source = Deaf([1, 2, 3, 4], [11, 12, 13, 14])
    with named(quick_lane, max_steps=1, task_source=source) as tasks:
        with pytest.raises(TaskError, match=r"ended\(0, ...\) of the task source.*no ears"):
            tasks.step([0, 0])
        assert list(tasks.sampler_states.values()) == [FAILED, FAILED]
        tasks.next_task()
        assert names(tasks) == [2, 12]


@pytest.mark.parametrize("prepared_tasks", [0, 1])
@pytest.mark.parametrize(
    ("first", "told"),
    [(None, "no first task for sampler 1"), (ValueError("x"), "raised ValueError: x")],
)
def test_a_source_that_cannot_begin(kind: Kind, first: Any, told: str, prepared_tasks: int) -> None:
    source = Listed([1, 2], [first] if first is not None else [])
    with pytest.raises(TaskSourceError, match=told):
        named(kind, task_source=source, prepared_tasks=prepared_tasks)
    assert source.returned == [(0, 1)]


def test_reset_all_of_a_source_that_fails_changes_nothing(kind: Kind) -> None:
    source = Listed([1, 2, 3], [11, ValueError("x"), 13])
    with named(kind, task_source=source) as tasks:
        with pytest.raises(TaskSourceError, match="raised ValueError: x"):
            tasks.reset_all()
        assert names(tasks) == [1, 11]
        assert source.returned == [(0, 2)]


def test_a_sampler_that_takes_no_keywords_says_so_at_once(kind: Kind) -> None:
    with pytest.raises(SetupError, match=r"no_keywords.*next_task\(\).*'name'.*Write a next_task"):
        kind.make(_no_keywords, [{}], task_source=Listed([1]))


class NoKeywords(ToySampler):
    def next_task(self) -> Any:  # type: ignore[override]
        return super().next_task()


NoKeywords.__name__ = NoKeywords.__qualname__ = "no_keywords"


def _no_keywords() -> NoKeywords:
    return NoKeywords(CountingTask)


def test_a_sampler_that_cannot_be_made_twice(kind: Kind, tmp_path: Path) -> None:
    arguments = [{"holds": str(tmp_path / "held"), "task_class": CountingTask, "max_steps": 2}]
    with kind.make(Alone, arguments, prepared_tasks=1) as tasks:
        tasks.step([0])
        told = r"FileExistsError.*spare 1 of sampler 0, which prepared_tasks=1 asks for"
        with pytest.raises(SetupError, match=told):
            tasks.step([0])
        assert tasks.sampler_states[0] is FAILED


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "1", None, 65, 10**9])
def test_wrong_numbers_of_prepared_tasks(kind: Kind, wrong: Any) -> None:
    with pytest.raises((InvalidArgument, TypeError), match="prepared_tasks"):
        named(kind, prepared_tasks=wrong)


@pytest.mark.parametrize("wrong", [[{"name": 1}], TaskList, 3, iter([])])
def test_what_is_no_source(kind: Kind, wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="task_source"):
        named(kind, task_source=wrong)


# -- deaths ----------------------------------------------------------------------------------------


def _spare_pids(tasks: Any) -> list[int]:
    current = set(tasks.call("pid"))
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    return [pid for pid in children if pid not in current and _is_worker(pid)]


def _is_worker(pid: int) -> bool:
    return bool(psutil.Process(pid).memory_info().rss) and psutil.Process(pid).children() == []


@pytest.mark.parametrize("transport", ["auto", "pipe"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_spare_that_dies_is_noticed_when_it_is_due(
    transport: Any, restarts: bool, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    order.touch()
    source = Listed([1, {"name": 2, "kills": str(order)}, 3, 4, 5, 6, 7, 8])
    policy = "restart" if restarts else "raise"
    with named(
        Kind("forkserver", 1, transport),
        1,
        task_source=source,
        prepared_tasks=1,
        on_worker_death=policy,
    ) as tasks:
        for _ in range(2):
            assert not tasks.step([0])[0].done
        if restarts:
            (result,) = tasks.step([0])
            assert result.done
            assert "worker_restarted" not in result.info
        else:
            with pytest.raises(WorkerDied, match="SIGKILL"):
                tasks.step([0])
            assert tasks.sampler_states[0] is FAILED
            tasks.restart_at(0)
        played = 2 if restarts else names(tasks)[0]
        assert names(tasks) == [played]
        for _ in range(3):
            tasks.step([0])
        assert names(tasks) == [3]
        assert [name for _, name, _, _ in source.told][:2] == [1, played]


@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_a_task_whose_worker_dies_is_played_again(transport: Any) -> None:
    source = Listed([1, 2, 3, 4, 5, 6], [11, 12, 13, 14, 15, 16])
    options = {"task_source": source, "prepared_tasks": 1, "on_worker_death": "restart"}
    with named(Kind("forkserver", 2, transport), **options) as tasks:
        tasks.step([0, 0])
        os.kill(tasks.call_at(0, "pid"), signal.SIGKILL)
        results = tasks.step([0, 0])
        assert "SIGKILL" in results[0].info["worker_restarted"]
        assert names(tasks) == [1, 11]
        for _ in range(3):
            tasks.step([0, 0])
        assert names(tasks) == [2, 12]
        assert sorted(name for _, name, _, _ in source.told) == [1, 11]


def test_restart_at_while_the_next_task_is_late(tmp_path: Path) -> None:
    source = Listed([1, {"name": 2, "waits_for": str(tmp_path / "never")}, 3, 4, 5, 6])
    with named(PROCESS, 1, max_steps=1, task_source=source, prepared_tasks=1) as tasks:
        tasks.async_step([0])
        with pytest.raises(WaitTimeout):
            tasks.wait_step(0.1)
        tasks.close()


# -- recordings -----------------------------------------------------------------------------------


@prepared
@pytest.mark.parametrize("with_source", [False, True])
def test_recorded_episodes_can_be_replayed(
    quick_lane: Kind, prepared_tasks: int, with_source: bool
) -> None:
    source = TaskList([{"name": n, "length": 1 + n % 3} for n in range(60)])
    options = {"task_source": source} if with_source else {}
    with named(quick_lane, seed=1, prepared_tasks=prepared_tasks, **options) as tasks:
        with tasks.record_episodes(observations=True) as recorder:
            for step in range(14):
                tasks.step_batch([step % 4, 1])
        current = tasks.recording_at(0)
        expected = names(tasks) if with_source else None
    assert len(recorder.recordings) >= 6
    for recording in recorder.recordings:
        with Replay(recording) as replay:
            outcome = replay.run()
        assert outcome.error is None
        assert outcome.divergence is None, outcome.divergence.describe()
    with Replay(current) as replay:
        replay.run()
        if expected is not None:
            assert replay.task.task_info["name"] == expected[0]


def test_a_generator_of_ones_own(kind: Kind) -> None:
    source = TasksFrom({"name": n} for n in itertools.count())
    with named(kind, task_source=source, prepared_tasks=1) as tasks:
        assert names(tasks) == [0, 1]
        tasks.next_task()
        assert names(tasks) == [2, 3]


def test_it_can_be_closed_at_once(kind: Kind) -> None:
    source = Listed(list(range(9)), list(range(9)))
    tasks = named(kind, task_source=source, prepared_tasks=3)
    tasks.close()
    assert len(source.returned) == 8


# -- threads, in this process ---------------------------------------------------------------------


class ThreadedSampler(NamedSampler):
    """Its next tasks may be prepared in threads."""

    prepares_in_thread = True


@pytest.mark.parametrize("prepared_tasks", [1, 3])
def test_threads_change_nothing(prepared_tasks: int) -> None:
    def trace(make: Any, **vector: Any) -> list[Any]:
        with Kind().make(make, toy_args(CountingTask, 2, max_steps=3), seed=3, **vector) as tasks:
            return [tasks.step_batch([1, 2]) for _ in range(20)]

    expected = trace(NamedSampler)
    assert_identical(expected, trace(ThreadedSampler, prepared_tasks=prepared_tasks))


def test_steps_go_on_while_a_thread_makes_the_next_task(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = Listed([1, {"name": 2, "waits_for": str(gate)}, 3, 4])
    arguments = toy_args(CountingTask, 1, max_steps=3)
    options = {"task_source": source, "prepared_tasks": 1}
    with Kind().make(ThreadedSampler, arguments, **options) as tasks:
        tasks.step([0])
        tasks.step([0])
        tasks.async_step([0])
        with pytest.raises(WaitTimeout, match="sampler 0"):
            tasks.wait_step(0.1)
        gate.touch()
        (result,) = tasks.wait_step()
        assert (result.done, result.observation[1]) == (True, 2)
        tasks.send([0])
        assert tasks.recv().observation[0].tolist() == [0, 2, 1]


def test_what_a_thread_raises_is_told_when_it_is_due() -> None:
    source = Listed([1, {"name": 2, "raises": "no scene"}, 3, 4])
    arguments = toy_args(CountingTask, 1, max_steps=1)
    with Kind().make(ThreadedSampler, arguments, task_source=source, prepared_tasks=1) as tasks:
        with pytest.raises(TaskError, match="no scene"):
            tasks.step_batch([0])
        tasks.next_task_at(0)
        assert names(tasks) == [3]
        tasks.reset_all()
        tasks.set_seeds(5)
        tasks.next_task()


def test_an_episode_that_its_user_leaves_is_told_as_truncated(quick_lane: Kind) -> None:
    outcomes = []

    class Listening(Listed):
        def ended(self, sampler_id: int, keywords: Any, outcome: Any) -> None:
            outcomes.append((keywords["name"], outcome))

    source = Listening([1, 2, 3, 4], [11, 12, 13, 14])
    with named(quick_lane, max_steps=9, task_source=source) as tasks:
        tasks.step([1, 1])
        tasks.step_batch([2, 2])
        tasks.next_task_at(0)
        ((name, outcome),) = outcomes
        assert (name, outcome.length, outcome.episode_return) == (1, 2, 3.375)
        assert (outcome.terminated, outcome.truncated) == (False, True)
        assert outcome.info == {"abandoned": True}


def test_a_list_is_not_played_again_where_its_user_goes_on(kind: Kind) -> None:
    source = TaskList([{"name": n} for n in range(9)])
    with named(kind, 1, task_source=source) as tasks:
        seen = []
        for _ in range(4):
            seen += names(tasks)
            tasks.next_task()
        assert seen == [0, 1, 2, 3]
