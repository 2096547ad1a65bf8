"""Exactly so many episodes, exactly these tasks: each counts once, short or long."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.errors import InvalidArgument, WrongCount
from vectasks.evaluation import BatchManifest, EvaluationReport, RunStatus, evaluate
from vectasks.evaluation.json_form import from_json
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    MultiAgentTask,
    ToyError,
    ToySampler,
    ToyTask,
    toy_args,
)


def push(observations: list[Any]) -> list[int]:
    return [1] * len(observations)


def played(report: EvaluationReport) -> list[tuple[int, int]]:
    """Which of the toys' tasks were played: (sampler, episode), in order of the results."""
    infos = [result.metrics["task_info"] for result in report.episodes]
    return [(info["sampler"], info["episode"]) for info in infos]


@pytest.fixture(params=[0, 2], ids=["inline", "process"])
def max_processes(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


class NumberSampler(ToySampler):
    """Makes the task of a number, ``max_steps`` of which is the number."""

    def next_task(self, task: int = 1, **kwargs: Any) -> ToyTask | None:
        self.max_steps = task
        return None if task == 0 else super().next_task(**kwargs)


class DrawingSampler(ToySampler):
    """Draws the length of each task from its random state."""

    def next_task(self, **kwargs: Any) -> ToyTask | None:
        self.max_steps = int(self.world.rng.integers(3, 12))
        return super().next_task(**kwargs)


# -- exactly so many --------------------------------------------------------------------------


@pytest.mark.guarantee("exact-episodes")
def test_short_episodes_are_not_preferred(max_processes: int) -> None:
    """Two samplers, episodes of 1 and of 30 steps: half of the episodes are long."""
    report = evaluate(
        push,
        ToySampler,
        toy_args(CountingTask, 2, max_steps=[1, 30]),
        episodes=8,
        max_processes=max_processes,
    )
    assert Counter(result.metrics["length"] for result in report.episodes) == {1: 4, 30: 4}
    assert report.aggregates["length"].mean == 15.5
    assert played(report) == [(i % 2, i // 2) for i in range(8)]
    assert [result.episode for result in report.episodes] == list(range(8))
    assert report.num_failed == 0


@pytest.mark.guarantee("exact-episodes")
def test_the_same_for_any_number_of_processes() -> None:
    arguments = toy_args(CountingTask, 3, max_steps=[3, 1, 5])
    reports = [
        evaluate(push, ToySampler, arguments, episodes=7, max_processes=number)
        for number in (0, 1, 3)
    ]
    assert reports[0] == reports[1] == reports[2]
    returns = [result.metrics["return"] for result in reports[0].episodes]
    assert returns == [3 + 6 / 8, 1 + 1 / 8, 5 + 15 / 8, 3 + 6 / 8, 1 + 1 / 8, 5 + 15 / 8, 3.75]


def test_finished_samplers_are_paused() -> None:
    seen = []

    def look(observations: list[Any], action_spaces: list[Any]) -> list[int]:
        assert len(observations) == len(action_spaces)
        seen.append([int(observation[0]) for observation in observations])
        return [0] * len(observations)

    arguments = toy_args(CountingTask, 3, max_steps=[1, 2, 4])
    evaluate(look, ToySampler, arguments, episodes=3, max_processes=0)
    assert seen == [[0, 1, 2], [1, 2], [2], [2]]


def test_fewer_episodes_than_samplers() -> None:
    report = evaluate(push, ToySampler, toy_args(CountingTask, 5), episodes=2, max_processes=0)
    assert played(report) == [(0, 0), (1, 0)]


def test_a_sampler_with_fewer_tasks_is_passed_over() -> None:
    arguments = toy_args(CountingTask, 3, num_tasks=[1, 3, 2])
    report = evaluate(push, ToySampler, arguments, episodes=5, max_processes=0)
    assert played(report) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1)]


@pytest.mark.guarantee("exact-tasks")
def test_every_task_once(max_processes: int) -> None:
    arguments = toy_args(CountingTask, 2, num_tasks=[2, 3], max_steps=[5, 2])
    report = evaluate(push, ToySampler, arguments, max_processes=max_processes)
    assert sorted(played(report)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_samplers_that_do_not_tell_how_many_tasks_they_have() -> None:
    class Taciturn:
        def __init__(self, **options: Any) -> None:
            self._sampler = ToySampler(**options)

        def next_task(self) -> Any:
            return self._sampler.next_task()

        def close(self) -> None: ...

    arguments = toy_args(CountingTask, 2)
    report = evaluate(push, Taciturn, arguments, episodes=4, seed=None, max_processes=0)
    assert played(report) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    arguments = toy_args(CountingTask, 2, num_tasks=1)
    report = evaluate(push, Taciturn, arguments, episodes=4, seed=None, max_processes=0)
    errors = [result.error for result in report.episodes]
    told = "NoSuchTask: its sampler gave None for it (next_task)"
    assert errors == [None, None, told, told]


def test_seeds_reach_the_samplers() -> None:
    class Seeded(ToySampler):
        def set_seed(self, seed: int) -> None:
            self.max_steps = seed

    arguments = toy_args(CountingTask, 2)
    report = evaluate(push, Seeded, arguments, episodes=4, seed=3, max_processes=0)
    assert [result.metrics["length"] for result in report.episodes] == [3, 4, 3, 4]


# -- exactly these ----------------------------------------------------------------------------


@pytest.mark.guarantee("exact-tasks")
def test_these_tasks_each_once(max_processes: int) -> None:
    tasks = [5, 1, 2, 9, 1, 3, 2]
    report = evaluate(
        push, NumberSampler, toy_args(CountingTask, 3), tasks=tasks, max_processes=max_processes
    )
    assert [result.task for result in report.episodes] == tasks
    assert [result.metrics["length"] for result in report.episodes] == tasks


def test_tasks_may_be_keywords_and_are_seeded_by_their_number() -> None:
    class Told(ToySampler):
        def set_seed(self, seed: int) -> None:
            self.options["seeded"] = seed

        def next_task(self, scene: str = "", **kwargs: Any) -> Any:
            task = super().next_task(**kwargs)
            assert task is not None
            task.task_info = {"scene": scene, "seed": self.options["seeded"]}
            return task

    tasks = [{"scene": name} for name in "abcde"]
    arguments = toy_args(CountingTask, 2, max_steps=[1, 3])
    report = evaluate(push, Told, arguments, tasks=tasks, seed=10, max_processes=0)
    told = [result.metrics["task_info"] for result in report.episodes]
    assert told == [{"scene": name, "seed": 10 + i} for i, name in enumerate("abcde")]


def test_a_task_that_does_not_exist(max_processes: int) -> None:
    report = evaluate(
        push,
        NumberSampler,
        toy_args(CountingTask, 2),
        tasks=[2, 0, 3],
        max_processes=max_processes,
    )
    assert [result.error is None for result in report.episodes] == [True, False, True]
    assert "NoSuchTask" in (report.episodes[1].error or "")


# -- failures ---------------------------------------------------------------------------------


@pytest.mark.guarantee("failed-record")
@pytest.mark.parametrize("how", ["raise", "raise_stubborn", "kill"])
def test_a_failed_episode_ends_no_evaluation(how: str, tmp_path: Path) -> None:
    """Sampler 0 fails in its episode 1; all other episodes are as they would have been."""
    arguments = toy_args(FailingTask, 2, how=how, fail_episode=1)
    whole = evaluate(push, DrawingSampler, toy_args(CountingTask, 2), episodes=8, max_processes=0)
    report = evaluate(
        push,
        DrawingSampler,
        arguments,
        episodes=8,
        max_processes=2,
        manifest_path=tmp_path / "run.json",
    )
    kinds = {"raise": "ToyError", "raise_stubborn": "TaskError", "kill": "WorkerDied"}
    assert report.num_failed == 1
    failed = report.episodes[2]
    assert (failed.sampler, failed.metrics) == (0, {})
    assert (failed.error or "").startswith(kinds[how])
    for got, expected in zip(report.episodes, whole.episodes, strict=True):
        if got.episode != 2:
            assert got == expected
    assert report.aggregates["length"].n == 7
    record = BatchManifest.load(tmp_path / "run.json").records[2]
    assert (record.status, record.error_type) == (RunStatus.failed, kinds[how])


def test_a_list_of_tasks_survives_failures() -> None:
    class Fragile(NumberSampler):
        def next_task(self, task: int = 1, **kwargs: Any) -> Any:
            if task == 13:
                raise ToyError("unlucky")
            return super().next_task(task, **kwargs)

    arguments = toy_args(FailingTask, 2, fail_sampler=0, fail_episode=1, fail_step=1)
    report = evaluate(push, Fragile, arguments, tasks=[2, 13, 3, 2, 4, 2], max_processes=0)
    assert [result.task for result in report.episodes] == [2, 13, 3, 2, 4, 2]
    errors = [(result.error or "").split(":")[0] for result in report.episodes]
    assert errors[1] == "ToyError"
    lengths = [r.metrics["length"] for r in report.episodes if r.error is None]
    assert lengths == [r.task for r in report.episodes if r.error is None]
    assert 1 <= report.num_failed < 6


def test_what_the_policy_raises_is_raised(tmp_path: Path) -> None:
    def fail(observations: list[Any]) -> list[int]:
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        evaluate(fail, ToySampler, toy_args(CountingTask, 2), episodes=2, max_processes=0)
    with pytest.raises(WrongCount, match="1 actions for 2 observations"):
        evaluate(
            lambda observations: [0],
            ToySampler,
            toy_args(CountingTask, 2),
            episodes=2,
            max_processes=0,
        )


def test_several_agents() -> None:
    report = evaluate(
        lambda observations: [(1, 2)] * len(observations),
        ToySampler,
        toy_args(MultiAgentTask, 1, max_steps=2),
        episodes=1,
        max_processes=0,
    )
    assert report.episodes[0].metrics["return"] == [3.0, 5.0]
    assert "return" not in report.aggregates


# -- files, and going on ----------------------------------------------------------------------


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_record_and_one_line_an_episode(tmp_path: Path) -> None:
    told = []
    report = evaluate(
        push,
        ToySampler,
        toy_args(CountingTask, 2, max_steps=[1, 3]),
        episodes=5,
        max_processes=0,
        manifest_path=tmp_path / "run.json",
        on_episode=lambda result, total: told.append((result.episode, total)),
    )
    assert sorted(told) == [(i, 5) for i in range(5)]
    manifest = BatchManifest.load(tmp_path / "run.json")
    assert report.manifest == manifest
    assert [record.job_id for record in manifest.records] == [f"episode-{i:06d}" for i in range(5)]
    assert manifest.success_count == 5
    assert report.metrics_path == tmp_path / "run.episodes.jsonl"
    lines = lines_of(tmp_path / "run.episodes.jsonl")
    assert [line["episode"] for line in lines] == list(range(5))
    assert [line["metrics"]["length"] for line in lines] == [1, 3, 1, 3, 1]
    assert lines[1]["metrics"]["task_info"] == {"sampler": 1, "episode": 0}


@pytest.mark.guarantee("resumed-evaluation")
def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    """Episodes that were played are not played again, and the rest is what it would have been."""
    arguments = toy_args(CountingTask, 2, max_steps=[2, 3], marks=str(tmp_path))
    options: dict[str, Any] = {"episodes": 9, "max_processes": 0}
    whole = evaluate(push, ToySampler, arguments, **options)
    steps = 0

    def get_tired(observations: list[Any]) -> list[int]:
        nonlocal steps
        steps += len(observations)
        if steps > 12:
            raise KeyboardInterrupt
        return push(observations)

    path = tmp_path / "run.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(get_tired, ToySampler, arguments, manifest_path=path, **options)
    before = BatchManifest.load(path)
    assert 0 < before.success_count < 9
    assert len(lines_of(tmp_path / "run.episodes.jsonl")) == before.success_count
    with (tmp_path / "run.episodes.jsonl").open("a") as file:
        file.write('{"half')

    first_steps = []

    def watch(observations: list[Any]) -> list[int]:
        first_steps.extend(tuple(map(int, o[:2])) for o in observations if o[2] == 0)
        return push(observations)

    report = evaluate(watch, ToySampler, arguments, manifest_path=path, **options)
    assert report.episodes == whole.episodes
    done = {
        (record.provenance["sampler"], record.provenance["episode"] // 2)
        for record in before.records
    }
    assert done.isdisjoint(first_steps)
    assert len(first_steps) == 9 - len(done)
    manifest = BatchManifest.load(path)
    assert (manifest.skipped_count, manifest.success_count) == (len(done), 9 - len(done))
    assert [line["episode"] for line in lines_of(tmp_path / "run.episodes.jsonl")] == list(range(9))

    again = evaluate(watch, ToySampler, arguments, manifest_path=path, **options)
    assert again.manifest is not None
    assert again.manifest.skipped_count == 9
    assert again.episodes == whole.episodes


def test_failed_episodes_are_played_again(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options: dict[str, Any] = {"episodes": 6, "max_processes": 0, "manifest_path": path}
    failing = toy_args(FailingTask, 2, fail_episode=1)
    assert evaluate(push, ToySampler, failing, **options).num_failed == 1
    report = evaluate(push, ToySampler, toy_args(CountingTask, 2), **options)
    assert report.manifest is not None
    assert [r.status.value for r in report.manifest.records].count("skipped") == 5
    assert played(report) == [(i % 2, i // 2) for i in range(6)]


def test_more_episodes_of_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options: dict[str, Any] = {"max_processes": 0, "manifest_path": path}
    arguments = toy_args(CountingTask, 4)
    evaluate(push, ToySampler, arguments, episodes=2, **options)
    report = evaluate(push, ToySampler, arguments, episodes=6, **options)
    assert report.manifest is not None
    assert report.manifest.skipped_count == 2
    assert played(report) == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1)]


@pytest.mark.guarantee("resumed-evaluation")
def test_another_evaluation_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options: dict[str, Any] = {"max_processes": 0, "manifest_path": path}
    arguments = toy_args(CountingTask, 2)
    evaluate(push, ToySampler, arguments, episodes=2, seed=1, **options)
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="holds another evaluation"):
        evaluate(push, ToySampler, arguments, episodes=2, seed=2, **options)
    with pytest.raises(InvalidArgument, match="holds another evaluation"):
        evaluate(push, ToySampler, arguments[:1], episodes=2, seed=1, **options)
    with pytest.raises(InvalidArgument, match="holds another evaluation"):
        evaluate(push, NumberSampler, arguments, tasks=[1, 2], seed=1, **options)
    assert path.read_bytes() == before
    report = evaluate(push, ToySampler, arguments, episodes=2, seed=2, force=True, **options)
    assert report.manifest is not None
    assert report.manifest.success_count == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"episodes": 3, "tasks": [1]}, "not both"),
        ({"episodes": 0}, "episodes must be an integer of at least 1, got 0"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [object()]}, "cannot be written down"),
        ({"tasks": [{3: 4}]}, "must be strings"),
        ({}, "say how many episodes"),
        ({"episodes": 3, "videos": 2}, "give a manifest_path"),
        ({"episodes": 3, "videos": -1}, "videos must be an integer of at least 0, got -1"),
        ({"episodes": 3, "policy": 3}, "policy must be callable, got 3"),
        ({"episodes": 3, "sampler_fn_args": {}}, "one dict of keywords per sampler, got dict"),
        ({"episodes": 3, "policy": lambda _: np.array(1)}, "actions"),
        ({"episodes": 2.0}, "episodes must be an integer"),
        ({"episodes": 3, "videos": [0.5]}, "an episode of videos must be an integer"),
        ({"episodes": 3, "videos": "12"}, "videos must be an integer"),
        ({"episodes": 3, "seed": "a"}, "a seed must be an integer"),
        ({"episodes": 3, "fps": 0}, "fps must be a number above 0"),
        ({"episodes": 3, "confidence": 95}, "confidence must lie between 0 and 1"),
        ({"episodes": 3, "videos": [7], "manifest_path": "run.json"}, "numbered from 0 to 2"),
    ],
)
def test_wrong_arguments(
    arguments: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=expected):
        evaluate(
            **{
                "policy": push,
                "make_sampler_fn": ToySampler,
                "sampler_fn_args": toy_args(CountingTask, 2),
                "max_processes": 0,
                **arguments,
            }
        )
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    report = evaluate(
        push,
        ToySampler,
        toy_args(CountingTask, 2, max_steps=2),
        episodes=np.int64(3),
        seed=np.int32(5),
        max_processes=0,
        manifest_path=tmp_path / "run.json",
        videos=np.uint8(0),
        fps=np.float32(10),
        confidence=np.float64(0.9),
    )
    assert len(report.episodes) == 3
    again = evaluate(
        push,
        ToySampler,
        toy_args(CountingTask, 2, max_steps=2),
        episodes=3,
        seed=5,
        max_processes=0,
        manifest_path=tmp_path / "run.json",
        videos=np.array([], int),
    )
    assert again.manifest is not None
    assert again.manifest.skipped_count == 3


# -- metrics that are no plain numbers --------------------------------------------------------

ODD_RETURNS = [1.0, math.nan, math.inf, 2.0, -math.inf]


class OddTask(CountingTask):
    """Its metrics hold what standard JSON does not."""

    def metrics(self) -> Any:
        value = ODD_RETURNS[self.task_info["episode"]]
        return {
            "score": np.float32(value),
            "nested": {"array": np.array([value, 1.0])},
            "never": math.nan,
            "huge": 10**400,
            "beyond": 10**9000,
            "text": "NaN",
            "thing": Stubborn(),
            "endless": Endless(),
            7: None,
        }


class Endless:
    """A list of it never ends."""

    def __repr__(self) -> str:
        return "endless"

    def tolist(self) -> Any:
        return self


class Stubborn:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.guarantee("non-finite")
def test_what_is_no_finite_number_is_kept_and_counted(max_processes: int, tmp_path: Path) -> None:
    """In results, files and statistics, of the first run and of one that goes on alike."""
    path = tmp_path / "run.json"

    def play(episodes: int) -> EvaluationReport:
        return evaluate(
            push,
            ToySampler,
            toy_args(OddTask, 1, max_steps=2),
            episodes=episodes,
            max_processes=max_processes,
            manifest_path=path,
        )

    first, report = play(3), play(5)
    assert report.manifest is not None
    assert report.manifest.skipped_count == 3
    assert BatchManifest.load(path) == report.manifest
    text = (tmp_path / "run.episodes.jsonl").read_text()
    for told in [
        [result.metrics for result in report.episodes],
        [result.metrics for result in play(5).episodes],
        [record.provenance["metrics"] for record in BatchManifest.load(path).records],
        [from_json(line.encode())["metrics"] for line in text.splitlines()],
    ]:
        assert [metrics["score"] for metrics in told] == pytest.approx(ODD_RETURNS, nan_ok=True)
        assert [metrics["nested"]["array"] for metrics in told] == [
            pytest.approx([value, 1.0], nan_ok=True) for value in ODD_RETURNS
        ]
        assert (told[0]["huge"], told[0]["text"], told[0]["7"]) == (10**400, "NaN", None)
        assert (told[0]["beyond"], told[0]["thing"]) == ("<int>", "<Stubborn>")
        assert told[0]["endless"] == "endless"
    assert (first.aggregates["score"].n, first.aggregates["score"].left_out) == (1, 2)
    score, never = report.aggregates["score"], report.aggregates["never"]
    assert (score.n, score.left_out, score.mean, score.minimum) == (2, 3, 1.5, 1.0)
    assert (never.n, never.left_out, never.mean_interval) == (0, 5, (None, None))
    assert math.isnan(never.mean)
    assert report.aggregates["huge"].left_out == 5
    assert report.aggregates["return"].left_out == 0
    assert not {"text", "thing", "7"} & set(report.aggregates)


def test_a_list_of_tasks_may_hold_nan(tmp_path: Path) -> None:
    """NaN equals nothing, and yet it is the same task when the evaluation goes on."""

    class Fussy(ToySampler):
        def next_task(self, goal: float = 0.0, **kwargs: Any) -> ToyTask | None:
            return super().next_task(**kwargs)

    for status in ("success", "skipped"):
        report = evaluate(
            push,
            Fussy,
            toy_args(CountingTask, 1),
            tasks=[{"goal": float("nan")}, {"goal": math.inf}],
            max_processes=0,
            manifest_path=tmp_path / "run.json",
        )
        assert report.manifest is not None
        assert [record.status for record in report.manifest.records] == [status] * 2


def test_metrics_that_are_no_dict_are_kept() -> None:
    class Terse(CountingTask):
        def metrics(self) -> Any:
            return [0.5]

    report = evaluate(push, ToySampler, toy_args(Terse, 1), episodes=1, max_processes=0)
    assert report.episodes[0].metrics["metrics"] == [0.5]


def test_more_episodes_than_there_are_tasks() -> None:
    arguments = toy_args(CountingTask, 2, num_tasks=2)
    with pytest.raises(ValueError, match="have 4 tasks together"):
        evaluate(push, ToySampler, arguments, episodes=5, max_processes=0)


# -- prepared tasks -------------------------------------------------------------------------------


class NumberedLengths(ToySampler):
    """The length of each task follows from its number."""

    episodes_are_independent = True

    def next_task(self, **kwargs: Any) -> ToyTask | None:
        self.max_steps = 1 + (self.world.episode + 1) * 7 % 5
        return super().next_task(**kwargs)

    def skip_task(self, **kwargs: Any) -> None:
        self.world.episode += 1


@pytest.mark.parametrize("prepared_tasks", [1, 3])
def test_prepared_tasks_change_nothing(
    max_processes: int, prepared_tasks: int, tmp_path: Path
) -> None:
    def evaluated(episodes: int, **options: Any) -> EvaluationReport:
        arguments = toy_args(CountingTask, 2, num_tasks=20)
        options = {"max_processes": max_processes, **options}
        return evaluate(push, NumberedLengths, arguments, episodes=episodes, **options)

    expected = evaluated(11)
    options = {"prepared_tasks": prepared_tasks, "manifest_path": tmp_path / "run.json"}
    evaluated(5, **options)  # and go on from there
    report = evaluated(11, **options)
    assert played(report) == played(expected)
    assert [one.metrics for one in report.episodes] == [one.metrics for one in expected.episodes]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"episodes": 1, "task_source": object()}, "task_source cannot be given.*tasks="),
        ({"tasks": [1], "prepared_tasks": 1}, "prepared_tasks cannot be given.*max_processes"),
    ],
)
def test_what_says_otherwise_what_is_played(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        evaluate(push, ToySampler, toy_args(CountingTask, 2), **options)
