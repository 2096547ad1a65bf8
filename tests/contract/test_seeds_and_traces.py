"""Same seeds, same actions: identical results for every kind of worker and number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vectasks import SingleProcessVectorSampledTasks
from vectasks.testing import assert_identical, record_trace, toy_args
from vectasks.testing.toys import (
    CountingTask,
    GraphTask,
    LargeTask,
    MultiAgentTask,
    NestedTask,
    RandomWalk,
    ReusingTask,
    TextTask,
    TorchTask,
    ToySampler,
)

TASKS: list[Any] = [
    CountingTask,
    RandomWalk,
    NestedTask,
    ReusingTask,
    TextTask,
    GraphTask,
    MultiAgentTask,
]


def reference(task_class: Any, num_steps: int, **options: Any) -> list[Any]:
    vector = options.pop("vector", {})
    with SingleProcessVectorSampledTasks(
        ToySampler, toy_args(task_class, 4, **options), should_log=False, **vector
    ) as tasks:
        return record_trace(tasks, num_steps)


@pytest.mark.guarantee("same-traces")
@pytest.mark.parametrize("resample", [True, False], ids=["autoreset", "lockstep"])
def test_traces_of_all_toys_are_identical(every_kind: Any, resample: bool) -> None:
    arguments = toy_args(CountingTask, len(TASKS), max_steps=[3, 4, 7, 5, 2, 6, 3])
    for task_class, item in zip(TASKS, arguments, strict=True):
        item["task_class"] = task_class
    options = {"seed": 7, "heterogeneous": True, "auto_resample_when_done": resample}
    with every_kind.make(ToySampler, arguments, **options) as tasks:
        trace = record_trace(tasks, 20)
    with SingleProcessVectorSampledTasks(ToySampler, arguments, **options) as in_process:
        assert_identical(trace, record_trace(in_process, 20))


@pytest.mark.guarantee("same-traces")
@pytest.mark.parametrize("transport", ["auto", "slab", "pipe"])
def test_traces_are_identical_by_every_transport(every_kind: Any, transport: str) -> None:
    vector = {"seed": 3, "observation_transport": transport}
    with every_kind.toys(NestedTask, max_steps=[2, 3, 4, 5], vector=vector) as tasks:
        trace = record_trace(tasks, 12)
    assert_identical(trace, reference(NestedTask, 12, max_steps=[2, 3, 4, 5], vector={"seed": 3}))


@pytest.mark.guarantee("same-traces")
def test_traces_with_samplers_that_end(every_kind: Any) -> None:
    options: dict[str, Any] = {"max_steps": 3, "num_tasks": [1, 2, 4, 3], "vector": {"seed": 1}}
    with every_kind.toys(RandomWalk, **_copy(options)) as tasks:
        trace = record_trace(tasks, 12)
        assert tasks.num_unpaused_tasks == 0
        assert tasks.step([]) == []
    assert_identical(trace, reference(RandomWalk, 12, **_copy(options)))


# -- seeds ----------------------------------------------------------------------------------------


@pytest.mark.guarantee("first-seed")
def test_construction_seed_reaches_the_first_task(every_kind: Any) -> None:
    firsts = []
    for seed in (11, 11, [11, 12, 13, 14], [11, 5, 11, 5], None):
        with every_kind.toys(RandomWalk, vector={"seed": seed}) as tasks:
            firsts.append(tasks.get_observations())
    one, again, listed, pairs, unseeded = firsts
    expected = [
        np.random.default_rng(11 + i).uniform(-1, 1, 2).astype(np.float32) for i in range(4)
    ]
    assert_identical(one, expected)
    assert_identical(again, expected)
    assert_identical(listed, expected)
    assert_identical(pairs[0], pairs[2])
    assert_identical(pairs[1], pairs[3])
    assert not np.array_equal(unseeded[0], one[0])


@pytest.mark.guarantee("set-seeds")
def test_set_seeds_reaches_the_next_tasks(every_kind: Any) -> None:
    with every_kind.toys(RandomWalk) as tasks:
        before = tasks.get_observations()
        assert tasks.set_seeds(21) is None
        assert_identical(tasks.get_observations(), before)
        by_int = tasks.next_task()
        tasks.set_seeds([21, 22, 23, 24])
        assert_identical(tasks.next_task(), by_int)
        tasks.set_seeds(np.array([21, 22, 23, 24]))
        assert_identical(tasks.next_task(), by_int)
        tasks.command("seed", [21, 22, 23, 24])
        tasks.reset_all()
        assert_identical(tasks.get_observations(), by_int)
        tasks.reset_all()  # resets all but the random state
        assert not np.array_equal(tasks.get_observations()[0], by_int[0])


@pytest.mark.guarantee("integer-seed")
def test_an_integer_seed_adds_the_id_not_the_index(every_kind: Any) -> None:
    with every_kind.toys(RandomWalk) as tasks:
        tasks.set_seeds(50)
        every = tasks.next_task()
        tasks.pause_at(1)
        tasks.set_seeds(50)
        assert_identical(tasks.next_task(), [every[0], every[2], every[3]])
        tasks.set_seeds([50, 52, 53])
        assert_identical(tasks.next_task(), [every[0], every[2], every[3]])


# -- leaves ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("leaves")
def test_leaves_come_back_as_the_task_gave_them(every_kind: Any) -> None:
    with every_kind.toys(NestedTask) as tasks:
        (observation, *_), *_ = tasks.step(_nested_actions())
    assert type(observation) is dict
    assert type(observation["pose"]) is tuple
    assert observation["rgb"].dtype == np.uint8
    assert observation["pose"][0].dtype == np.float64
    assert type(observation["pose"][1]) is np.int64
    assert observation["flags"].dtype == np.int8


def test_nested_actions_may_be_nested_outside(every_kind: Any) -> None:
    rows = _nested_actions()
    columns = {
        "move": np.array([row["move"] for row in rows]),
        "aim": (
            np.stack([row["aim"][0] for row in rows]),
            [row["aim"][1] for row in rows],
        ),
    }
    rewards = []
    for actions in (rows, columns):
        with every_kind.toys(NestedTask) as tasks:
            rewards.append([result.reward for result in tasks.step(actions)])
    assert rewards[0] == rewards[1]


def test_box_actions_arrive_as_arrays_of_the_dtype(every_kind: Any) -> None:
    with every_kind.toys(RandomWalk, max_steps=99, limit=99) as tasks:
        for actions in (
            np.zeros((4, 2)),
            [[0.5, 0.5]] * 4,
            [(1, -1)] * 4,
            np.ones((4, 2), np.float16),
        ):
            tasks.step(actions)
            assert tasks.call("received") == [("ndarray", "float32")] * 4


@pytest.mark.guarantee("leaves")
def test_tensors_stay_tensors(make: Any) -> None:
    torch = pytest.importorskip("torch")
    tasks = make(TorchTask, count=2, max_steps=2)
    tasks.step([0] * 2)
    results = tasks.step([0] * 2)
    assert isinstance(results[1].observation, torch.Tensor)
    assert results[1].observation.tolist() == [1, 1, 0]
    assert results[1].info["final_observation"].tolist() == [1, 0, 2]


def test_several_agents_get_a_reward_each(every_kind: Any) -> None:
    with every_kind.toys(MultiAgentTask, max_steps=2) as tasks:
        first = tasks.step([(0, 1), (1, 1), (2, 2), (0, 0)])
        last = tasks.step([(1, 1)] * 4)
    assert [r.reward for r in first] == [[0.5, 1.5], [1.5, 1.5], [2.5, 2.5], [0.5, 0.5]]
    assert last[0].info["__AFTER_TASK_METRICS__"]["reward"] == [2.0, 3.0]


@pytest.mark.guarantee("reused-task-arrays")
def test_reused_arrays_do_not_change_earlier_results(every_kind: Any) -> None:
    with every_kind.toys(ReusingTask, max_steps=2) as tasks:
        start = tasks.get_observations()
        first = tasks.step([0] * 4)
        second = tasks.step([0] * 4)
        third = tasks.step([0] * 4)
        tasks.next_task()
    assert [o.tolist() for o in start] == [[i, 0, 0] for i in range(4)]
    for i in range(4):
        assert first[i].observation.tolist() == [i, 0, 1]
        assert first[i].info["array"].tolist() == [i, 0, 1]
        assert second[i].observation.tolist() == [i, 1, 0]
        assert second[i].info["final_observation"].tolist() == [i, 0, 2]
        assert second[i].info["__AFTER_TASK_METRICS__"]["array"].tolist() == [i, 0, 2]
        assert third[i].observation.tolist() == [i, 1, 1]


@pytest.mark.guarantee("results-are-yours")
def test_results_are_the_callers_own(every_kind: Any) -> None:
    with every_kind.toys(ReusingTask) as tasks:
        for value in (tasks.get_observations(), [r.observation for r in tasks.step([0] * 4)]):
            value[0][:] = 77
        assert tasks.get_observations()[0].tolist() == [0, 0, 1]
        assert tasks.step([0] * 4)[0].observation.tolist() == [0, 0, 2]


@pytest.mark.parametrize("resample", [True, False], ids=["autoreset", "lockstep"])
def test_large_observations_that_are_held_never_change(every_lane: Any, resample: bool) -> None:
    vector = {"auto_resample_when_done": resample}
    with every_lane.toys(LargeTask, max_steps=[3, 3, 2, 3], vector=vector) as tasks:
        held, copies = [], []
        for number in range(12):
            if number == 4:
                tasks.pause_at(0)
                tasks.resume_all()
            if number == 7:
                tasks.step_batch([0] * 4)
            # All of some steps are held, one sampler's of others, and nothing of the rest.
            results = tasks.step([0] * 4)[: (0, 1, 4)[number % 3]]
            seen = [result.observation for result in results]
            seen += [r.info["final_observation"] for r in results if "final_observation" in r.info]
            held += seen
            copies += [{name: array.copy() for name, array in one.items()} for one in seen]
        for position, (observation, copied) in enumerate(zip(held, copies, strict=True)):
            assert_identical(observation, copied)
            image = observation["image"]
            assert (image == np.resize(copied["counts"].astype(np.uint8), image.shape)).all()
            for other in held[position + 1 :]:
                assert not np.shares_memory(image, other["image"])


def _nested_actions() -> list[Any]:
    return [
        {"move": i % 3, "aim": (np.array([0.25 * i, -0.5], np.float32), i % 2)} for i in range(4)
    ]


def _copy(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "vector": dict(options["vector"])}
