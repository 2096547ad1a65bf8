"""Batches: ``step_batch``, ``send`` and ``recv``, and what a StepBatch is."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import (
    AlreadyPending,
    LayoutError,
    NothingPending,
    SamplerState,
    SamplerUnavailable,
    SingleProcessVectorSampledTasks,
    StepBatch,
    TaskError,
    VectorClosed,
    WaitTimeout,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    GraphTask,
    InfoTask,
    LargeTask,
    MultiAgentTask,
    NestedTask,
    RandomWalk,
    ReusingTask,
    SlowTask,
    TextTask,
    ToySampler,
    ToyTask,
)

ARRAYS = ("samplers", "reward", "terminated", "truncated", "done", "exhausted")


def arrays_of(batch: StepBatch) -> dict[str, Any]:
    """Every array in a batch, by name."""
    found = {name: getattr(batch, name) for name in ARRAYS}

    def add(value: Any, name: str) -> None:
        if isinstance(value, np.ndarray):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                add(item, f"{name}[{key!r}]")
        elif isinstance(value, tuple):
            for key, item in enumerate(value):
                add(item, f"{name}[{key}]")

    add(batch.observation, "observation")
    return found


def batch_by(way: str, tasks: Any, actions: Any) -> Any:
    """What one step of all gives, by the method that is named."""
    if way != "recv":
        return getattr(tasks, way)(actions)
    tasks.send(actions)
    return tasks.recv()


def stacked(space: Any, observations: list[Any]) -> Any:
    """Observations as a batch has them."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(sub, [o[key] for o in observations]) for key, sub in space.items()}
    if isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
        return tuple(stacked(sub, [o[i] for o in observations]) for i, sub in parts)
    return np.stack([np.asarray(o, space.dtype) for o in observations])


# -- what a batch is -------------------------------------------------------------------------------


def test_a_batch_is_the_results_as_arrays(every_kind: Any) -> None:
    with (
        every_kind.toys(max_steps=[2, 3, 9, 9]) as listed,
        every_kind.toys(max_steps=[2, 3, 9, 9]) as batched,
    ):
        for number in range(7):
            results = listed.step([number % 4] * 4)
            batch = batched.step_batch([number % 4] * 4)
            assert isinstance(batch, StepBatch)
            assert_identical(batch.samplers, np.arange(4))
            observations = [r.observation for r in results]
            assert_identical(batch.observation, np.stack(observations))
            assert_identical(batch.reward, np.array([r.reward for r in results], np.float32))
            assert_identical(batch.done, np.array([r.done for r in results]))
            assert_identical(batch.infos, [r.info for r in results])
            assert_identical(batch.truncated, batch.done)
            assert not batch.terminated.any()
            assert not batch.exhausted.any()


def test_dtypes_and_shapes(make: Any) -> None:
    tasks = make(NestedTask, count=3)
    actions = [tasks.action_spaces[0].sample() for _ in range(3)]
    batch = tasks.step_batch(actions)
    found = {name: (a.dtype.name, a.shape) for name, a in arrays_of(batch).items()}
    assert found == {
        "samplers": ("int64", (3,)),
        "reward": ("float32", (3,)),
        **dict.fromkeys(("terminated", "truncated", "done", "exhausted"), ("bool", (3,))),
        "observation['rgb']": ("uint8", (3, 6, 5, 3)),
        "observation['pose'][0]": ("float64", (3, 3)),
        "observation['pose'][1]": ("int64", (3,)),
        "observation['flags']": ("int8", (3, 4)),
        "observation['choice']": ("int64", (3, 2)),
    }
    assert type(batch.observation) is dict
    assert type(batch.observation["pose"]) is tuple
    expected = stacked(tasks.observation_space, tasks.get_observations())
    for key, part in expected.items():
        assert_identical(batch.observation[key], part)


def test_terminated_and_truncated(make: Any) -> None:
    tasks = make(RandomWalk, count=4, max_steps=6, limit=2.0)
    seen = set()
    for _ in range(40):
        batch = tasks.step_batch(np.full((4, 2), 0.2, np.float32))
        assert (batch.done == (batch.terminated | batch.truncated)).all()
        assert not (batch.terminated & batch.truncated).any()
        seen |= set(zip(batch.terminated.tolist(), batch.truncated.tolist(), strict=True))
        for k in np.flatnonzero(batch.done):
            length = batch.infos[k]["__AFTER_TASK_METRICS__"]["ep_length"]
            assert batch.truncated[k] <= (length == 6)
            assert batch.infos[k]["final_observation"].shape == (2,)
    assert seen == {(False, False), (True, False), (False, True)}


def test_infos_are_dicts(make: Any) -> None:
    tasks = make(InfoTask, count=4, max_steps=9, step_info=[None, {}, {"a": 1}, None])
    assert tasks.step_batch([0] * 4).infos == [{}, {}, {"a": 1}, {}]
    infos = tasks.step_batch([0] * 4).infos
    infos[0]["mine"] = 1
    assert tasks.step_batch([0] * 4).infos[0] == {}


def test_unshaped_leaves_are_lists(make: Any) -> None:
    batch = make(TextTask, count=3).step_batch([0] * 3)
    assert batch.observation["words"] == ["s0e0tx", "s1e0tx", "s2e0tx"]
    assert_identical(batch.observation["number"], np.ones((3, 1), np.int64))
    graphs = make(GraphTask, count=2).step_batch([0] * 2).observation
    assert [graph.nodes.shape for graph in graphs] == [(3, 2)] * 2


def test_exhausted_rows_are_zero(every_kind: Any) -> None:
    with every_kind.toys(max_steps=[1, 9, 1, 9], num_tasks=[1, 1, 2, 1]) as tasks:
        batch = tasks.step_batch([1] * 4)
        assert batch.exhausted.tolist() == [True, False, False, False]
        assert batch.done.tolist() == [True, False, True, False]
        assert batch.observation.tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 0], [3, 0, 1]]
        assert batch.reward.tolist() == [1.125] * 4
        assert batch.infos[0]["final_observation"].tolist() == [0, 0, 1]
        assert tasks.sampler_states[0] is SamplerState.EXHAUSTED
        with pytest.raises(SamplerUnavailable, match="sampler 0 is EXHAUSTED"):
            tasks.step_batch([1] * 4)
        tasks.pause_at(0)
        batch = tasks.step_batch([1] * 3)
        assert batch.samplers.tolist() == [1, 2, 3]
        assert batch.exhausted.tolist() == [False, True, False]
        assert batch.observation.tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 2]]
        tasks.resume_all()
        tasks.reset_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [0, 1, 0, 1]


def test_exhausted_rows_of_nested_and_unshaped_observations(make: Any) -> None:
    tasks = make(TextTask, count=2, max_steps=[1, 9], num_tasks=1)
    batch = tasks.step_batch([0] * 2)
    assert batch.exhausted.tolist() == [True, False]
    assert batch.observation["number"].tolist() == [[0], [1]]
    assert batch.observation["words"] == [None, "s1e0tx"]


def test_paused_samplers_are_left_out(every_kind: Any) -> None:
    with every_kind.toys(max_steps=9) as tasks:
        tasks.pause_at(1)
        batch = tasks.step_batch([0, 2, 3])
        assert batch.samplers.tolist() == [0, 2, 3]
        assert batch.observation.tolist() == [[0, 0, 1], [2, 0, 1], [3, 0, 1]]
        assert batch.reward.tolist() == [0.125, 2.125, 3.125]
        tasks.resume_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [2, 1, 2, 2]
        for _ in range(4):
            tasks.pause_at(0)
        empty = tasks.step_batch([])
        assert {name: len(array) for name, array in arrays_of(empty).items()} == dict.fromkeys(
            [*ARRAYS, "observation"], 0
        )
        assert empty.observation.shape == (0, 3)
        assert empty.infos == []


def test_batches_and_lists_in_turn(every_kind: Any) -> None:
    with every_kind.toys(max_steps=5) as tasks:
        for number in range(1, 13):
            if number % 3 == 0:
                got = [r.observation.tolist() for r in tasks.step([0] * 4)]
            elif number % 3 == 1:
                got = tasks.step_batch([0] * 4).observation.tolist()
            else:
                tasks.send([0] * 4)
                got = tasks.recv().observation.tolist()
            assert got == [[i, number // 5, number % 5] for i in range(4)]


@pytest.mark.parametrize("transport", ["auto", "slab", "pipe"])
def test_every_transport_gives_the_same(processes: Any, transport: str) -> None:
    with processes.toys(
        RandomWalk, seed=[1, 2, 3, 4], vector={"observation_transport": transport}
    ) as tasks:
        actions = np.full((4, 2), 0.25, np.float32)
        batches = [tasks.step_batch(actions) for _ in range(9)]
    with processes.toys(RandomWalk, seed=[1, 2, 3, 4]) as others:
        assert_identical(batches, [others.step_batch(actions) for _ in range(9)])


def test_counts(make: Any) -> None:
    tasks = make(max_steps=3)
    for _ in range(4):
        tasks.step_batch([0] * 4)
    tasks.send([0] * 2, samplers=[0, 1])
    tasks.recv()
    assert tasks.stats() == {"steps": 18, "episodes": 4, "restarts": 0}


# -- who owns the arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize("task_class", [CountingTask, ReusingTask])
def test_batches_never_alias(every_kind: Any, task_class: Any) -> None:
    with every_kind.toys(task_class, max_steps=3) as tasks:
        kept, copies = [], []
        for number in range(8):
            if number == 5:
                tasks.pause_at(0)
            batch = tasks.step_batch([0] * tasks.num_unpaused_tasks)
            kept.append(batch)
            copies.append(
                (
                    {k: a.copy() for k, a in arrays_of(batch).items()},
                    [{k: repr(v) for k, v in info.items()} for info in batch.infos],
                )
            )
        tasks.resume_all()
        tasks.send([0] * 4)
        kept.append(tasks.recv(4))
        tasks.step_batch([0] * 4)
        for batch, (arrays, infos) in zip(kept, copies, strict=False):
            assert_identical(arrays_of(batch), arrays)
            assert [{k: repr(v) for k, v in info.items()} for info in batch.infos] == infos
        every = [array for batch in kept for array in arrays_of(batch).values()]
        for position, one in enumerate(every):
            assert one.flags.writeable
            for other in every[position + 1 :]:
                assert not np.shares_memory(one, other)


def test_out_is_written_into(every_kind: Any) -> None:
    with every_kind.toys(max_steps=3) as tasks, every_kind.toys(max_steps=3) as others:
        out = tasks.step_batch([0] * 4)
        others.step_batch([0] * 4)
        arrays = arrays_of(out)
        for number in range(5):
            got = tasks.step_batch([number % 4] * 4, out=out)
            expected = others.step_batch([number % 4] * 4)
            assert_identical(got, expected)
            for name, array in arrays_of(got).items():
                assert array is arrays[name], name


def test_out_for_nested_observations(make: Any) -> None:
    tasks, others = make(NestedTask, count=3), make(NestedTask, count=3)
    actions = [tasks.action_spaces[0].sample() for _ in range(3)]
    out = tasks.step_batch(actions)
    others.step_batch(actions)
    arrays = arrays_of(out)
    got = tasks.step_batch(actions, out=out)
    assert_identical(got, others.step_batch(actions))
    assert all(array is arrays[name] for name, array in arrays_of(got).items())


@pytest.mark.parametrize("paused", [1, 3])
def test_out_of_another_size_is_refused_before_anything_is_sent(make: Any, paused: int) -> None:
    tasks = make(max_steps=9)
    out = tasks.step_batch([0] * 4)
    for _ in range(paused):
        tasks.pause_at(0)
    left = 4 - paused
    with pytest.raises(ValueError, match="out"):
        tasks.step_batch([0] * left, out=out)
    assert tasks.step_batch([0] * left).observation[:, 2].tolist() == [2] * left


def test_views_stay_valid_until_the_second_following_step(every_kind: Any) -> None:
    with every_kind.toys(max_steps=100) as tasks:
        previous: Any = None
        for number in range(1, 12):
            batch = tasks.step_batch([0] * 4, copy=False)
            assert batch.observation[:, 2].tolist() == [number] * 4
            if previous is not None:  # one step has followed
                assert previous.observation[:, 2].tolist() == [number - 1] * 4
                assert previous.reward.tolist() == [(number - 1) / 8] * 4
            previous = batch


@pytest.mark.parametrize("following", ["step", "step_at", "step_batch", "send"])
def test_views_survive_one_following_step_of_any_kind(make: Any, following: str) -> None:
    tasks = make(max_steps=100)
    for _ in range(2):
        batch = tasks.step_batch([0] * 4, copy=False)
        expected = batch.observation.copy()
        if following == "send":
            tasks.send([0] * 4)
            tasks.recv()
        elif following == "step_at":
            tasks.step_at(2, 0)
        else:
            getattr(tasks, following)([0] * 4)
        assert_identical(batch.observation, expected)


def test_views_are_views(make: Any) -> None:
    tasks = make(max_steps=100)
    one = tasks.step_batch([0] * 4, copy=False)
    tasks.step_batch([0] * 4, copy=False)
    three = tasks.step_batch([0] * 4, copy=False)
    assert np.shares_memory(one.observation, three.observation)
    copied = tasks.step_batch([0] * 4)
    assert not np.shares_memory(copied.observation, one.observation)


def test_batches_outlive_the_vector(make: Any) -> None:
    tasks = make(max_steps=100)
    batches = [tasks.step_batch([0] * 4), tasks.step_batch([0] * 4, copy=False)]
    tasks.close()
    assert [b.observation[:, 2].tolist() for b in batches] == [[1] * 4, [2] * 4]


# -- send and recv ---------------------------------------------------------------------------------


def test_recv_gives_all_that_are_out(every_kind: Any) -> None:
    with every_kind.toys(max_steps=2) as tasks:
        for number in range(1, 6):
            tasks.send([number % 4] * 4)
            batch = tasks.recv()
            assert batch.samplers.tolist() == [0, 1, 2, 3]
            assert batch.observation[:, 2].tolist() == [number % 2] * 4
            assert batch.done.tolist() == [number % 2 == 0] * 4


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [2, 0], [3], [1, 3, 2]])
def test_actions_go_to_the_samplers_that_are_named(every_kind: Any, order: list[int]) -> None:
    with every_kind.toys(max_steps=9) as tasks:
        tasks.send(order, samplers=order)
        batch = tasks.recv()
        assert batch.samplers.tolist() == sorted(order)
        assert batch.reward.tolist() == [i + 0.125 for i in sorted(order)]
        assert tasks.call("num_steps_taken") == [int(i in order) for i in range(4)]


def test_samplers_are_ids_also_while_some_are_paused(make: Any) -> None:
    tasks = make(max_steps=9)
    tasks.pause_at(0)
    tasks.send([3, 1], samplers=[3, 1])
    assert tasks.recv().reward.tolist() == [1.125, 3.125]
    tasks.send([0, 0, 0])
    assert tasks.recv().samplers.tolist() == [1, 2, 3]


def test_exactly_so_many_rows_as_asked_for(every_kind: Any) -> None:
    with every_kind.toys(max_steps=9) as tasks:
        tasks.send([0] * 4)
        seen: list[int] = []
        for count in (1, 2, 1):
            batch = tasks.recv(count)
            assert len(batch.samplers) == len(batch.infos) == count
            assert batch.samplers.tolist() == sorted(batch.samplers.tolist())
            assert batch.observation[:, 0].tolist() == batch.samplers.tolist()
            seen += batch.samplers.tolist()
        assert sorted(seen) == [0, 1, 2, 3]
        with pytest.raises(NothingPending):
            tasks.recv()


def test_send_without_samplers_means_those_that_are_not_out(make: Any) -> None:
    tasks = make(max_steps=9)
    tasks.send([1], samplers=[2])
    tasks.send([0, 0, 0])
    batch = tasks.recv()
    assert batch.reward.tolist() == [0.125, 0.125, 1.125, 0.125]


class NapTask(ToyTask):
    """Sleeps for its action, in hundredths of a second."""

    actions = spaces.Discrete(1000)

    def move(self, action: Any) -> None:
        time.sleep(action / 100)


def test_the_earliest_come_first(processes: Any) -> None:
    with processes.toys(NapTask, max_steps=99) as tasks:
        tasks.send([60, 1, 40, 20])
        assert [tasks.recv(1).samplers.tolist() for _ in range(4)] == [[1], [3], [2], [0]]
        tasks.send([30, 1, 2, 150])
        time.sleep(0.8)  # all but one are ready: the earliest of them, in id order
        assert tasks.recv(2).samplers.tolist() == [1, 2]
        assert tasks.recv(2).samplers.tolist() == [0, 3]


def test_the_earliest_sent_come_first_on_every_kind(kind: Any) -> None:
    with kind.toys(max_steps=99) as tasks:
        for order in ([3, 0, 2, 1], [1, 2, 3, 0]):
            for i in order:
                tasks.send([0], samplers=[i])
                time.sleep(0.05)
            assert [tasks.recv(1).samplers.tolist() for _ in order] == [[i] for i in order]


def test_mates_in_one_worker_are_given_back_one_by_one(every_kind: Any) -> None:
    if every_kind.is_twin or every_kind.max_processes != 1:
        pytest.skip("needs several samplers in one process")
    with every_kind.toys(NapTask, max_steps=99) as tasks:
        started = time.monotonic()
        tasks.send([0, 0, 0, 200])
        assert tasks.recv(3).samplers.tolist() == [0, 1, 2]
        assert time.monotonic() - started < 1.5
        assert tasks.recv().samplers.tolist() == [3]


def test_a_slow_sampler_is_not_starved(processes: Any) -> None:
    """Fast samplers are sent again at once; the slow one is given back soon after it is ready."""
    with processes.toys(NapTask, max_steps=9999) as tasks:
        tasks.send([0, 0, 0, 20])
        started = time.monotonic()
        while True:
            ready = tasks.recv(1).samplers.tolist()
            if ready == [3]:
                break
            assert time.monotonic() - started < 5
            tasks.send([0] * len(ready), samplers=ready)
        assert time.monotonic() - started < 2
        tasks.recv()


def test_everyone_has_a_turn(processes: Any) -> None:
    with processes.toys(max_steps=9999) as tasks:
        turns = np.zeros(4, int)
        tasks.send([0] * 4)
        for _ in range(400):
            ready = tasks.recv(2).samplers
            turns[ready] += 1
            tasks.send([0] * 2, samplers=ready.tolist())
        tasks.recv()
        assert turns.sum() == 800
        assert turns.min() > 8  # whoever is passed over has none


def test_a_batch_right_after_single_steps_is_whole(every_kind: Any) -> None:
    """The worker still looks for single steps when all are asked, the last sampler among them."""
    with every_kind.toys(count=8, max_steps=9999) as tasks:
        taken = np.zeros(8, int)
        for _ in range(300):
            tasks.pause_at(7)
            tasks.send([0] * 7)
            tasks.recv()
            tasks.resume_all()
            batch = tasks.step_batch([0] * 8)
            taken += [2] * 7 + [1]
            assert batch.observation[:, 2].tolist() == taken.tolist()


def test_a_timeout_loses_nothing(processes: Any) -> None:
    with processes.toys(NapTask, max_steps=99) as tasks:
        tasks.send([0, 60, 0, 60])
        with pytest.raises(WaitTimeout) as caught:
            tasks.recv(3, timeout=0.2)
        assert caught.value.sampler_ids == (1, 3)
        assert tasks.recv(2, timeout=0.2).samplers.tolist() == [0, 2]
        tasks.send([0, 0], samplers=[0, 2])
        assert tasks.recv().observation.tolist() == [[0, 0, 2], [1, 0, 1], [2, 0, 2], [3, 0, 1]]


def test_no_time_at_all(processes: Any) -> None:
    with processes.toys(NapTask, max_steps=99) as tasks:
        tasks.send([0, 50, 0, 0])
        time.sleep(0.25)
        assert tasks.recv(3, timeout=0).samplers.tolist() == [0, 2, 3]
        with pytest.raises(WaitTimeout):
            tasks.recv(1, timeout=0)
        assert tasks.recv().samplers.tolist() == [1]


def test_a_late_batch_is_collected_by_wait_step(processes: Any) -> None:
    with processes.toys(SlowTask, max_steps=9, delay_s=0.6, vector={"read_timeout": 0.2}) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.step_batch([2] * 4)
        results = tasks.wait_step(timeout=10)
        assert [r.observation.tolist() for r in results] == [[i, 0, 1] for i in range(4)]
        assert [r.reward for r in results] == [2.125] * 4
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [2] * 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([0] * 3,), ValueError),
        (([0] * 5,), ValueError),
        (([0, 0, 0, 9],), ValueError),
        (([0, 0], [0]), ValueError),
        (([0], [4]), IndexError),
        (([0], [-1]), IndexError),
        (([0, 0], [1, 1]), IndexError),
        (([0], ["one"]), TypeError),
    ],
    ids=str,
)
def test_a_wrong_send_sends_nothing(make: Any, arguments: Any, error: type) -> None:
    tasks = make(max_steps=9)
    with pytest.raises(error):
        tasks.send(*arguments)
    with pytest.raises(NothingPending):
        tasks.recv()
    assert tasks.call("num_steps_taken") == [0] * 4


@pytest.mark.parametrize("count", [0, -1, 5])
def test_a_wrong_number_of_rows(make: Any, count: int) -> None:
    tasks = make(max_steps=9)
    tasks.send([0] * 4)
    with pytest.raises(ValueError, match="min_samplers"):
        tasks.recv(count)
    assert len(tasks.recv().samplers) == 4


def test_misuse_while_steps_are_out(make: Any) -> None:
    tasks = make(max_steps=9)
    with pytest.raises(NothingPending):
        tasks.recv()
    tasks.send([0, 0], samplers=[0, 1])
    with pytest.raises(SamplerUnavailable, match="sampler 1 is BUSY"):
        tasks.send([0], samplers=[1])
    for misuse in (
        lambda: tasks.step([0] * 4),
        lambda: tasks.step_batch([0] * 4),
        lambda: tasks.async_step([0] * 4),
        lambda: tasks.step_at(2, 0),
        lambda: tasks.call("counts"),
        lambda: tasks.next_task(),
        lambda: tasks.reset_all(),
        lambda: tasks.pause_at(3),
        lambda: tasks.get_observations(),
    ):
        with pytest.raises(AlreadyPending, match="recv"):
            misuse()
    with pytest.raises(NothingPending):
        tasks.wait_step()
    assert tasks.recv().samplers.tolist() == [0, 1]
    tasks.async_step([0] * 4)
    for misuse in (
        lambda: tasks.send([0] * 4),
        lambda: tasks.step_batch([0] * 4),
    ):
        with pytest.raises(AlreadyPending, match="wait_step"):
            misuse()
    with pytest.raises(NothingPending):
        tasks.recv()
    tasks.wait_step()
    assert tasks.call("num_steps_taken") == [2, 2, 1, 1]


def test_paused_and_exhausted_samplers_cannot_be_sent(make: Any) -> None:
    tasks = make(max_steps=1, num_tasks=[1, 9, 9, 9])
    tasks.pause_at(3)
    with pytest.raises(IndexError, match="unpaused"):
        tasks.send([0], samplers=[3])
    tasks.send([0], samplers=[0])
    assert tasks.recv().exhausted.tolist() == [True]
    with pytest.raises(SamplerUnavailable, match="EXHAUSTED"):
        tasks.send([0], samplers=[0])
    tasks.send([0], samplers=[1])
    assert tasks.recv().samplers.tolist() == [1]


def test_closing_while_steps_are_out(kind: Any) -> None:
    tasks = kind.toys(max_steps=9)
    tasks.send([0] * 4)
    tasks.close()
    for misuse in (lambda: tasks.send([0]), lambda: tasks.recv(), lambda: tasks.step_batch([0])):
        with pytest.raises(VectorClosed):
            misuse()


def test_heterogeneous_vectors_have_no_batches(make: Any) -> None:
    tasks = make(max_steps=9, vector={"heterogeneous": True})
    for misuse in (lambda: tasks.step_batch([0] * 4), lambda: tasks.send([0] * 4)):
        with pytest.raises(ValueError, match="heterogeneous"):
            misuse()
    assert len(tasks.step([0] * 4)) == 4


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_a_failing_task_costs_the_others_nothing(make: Any, way: str) -> None:
    tasks = make(FailingTask, max_steps=9, fail_sampler=1)
    tasks.step_batch([0] * 4)
    with pytest.raises(TaskError, match="sampler 1") as caught:
        batch_by(way, tasks, [0] * 4)
    assert sorted(caught.value.results) == [0, 2, 3]
    assert caught.value.results[3].observation.tolist() == [3, 0, 2]
    states = [SamplerState.READY] * 4
    states[1] = SamplerState.FAILED
    assert list(tasks.sampler_states.values()) == states
    tasks.pause_at(1)
    assert tasks.step_batch([0] * 3).observation[:, 2].tolist() == [3] * 3
    tasks.resume_all()
    tasks.next_task_at(1)
    assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [4, 1, 4, 4]


class OddTask(CountingTask):
    """From step 2 on, sampler 1 gives what ``odd`` makes of its observation."""

    def get_observations(self) -> Any:
        observation = np.array(self.counts(), np.int32)
        if self.step_number >= 2 and self.env.sampler == 1:
            return self.options.odd(observation)
        return observation


class OddSecondEpisode(CountingTask):
    """Sampler 1's second episode begins with an observation that does not fit."""

    def get_observations(self) -> Any:
        sampler, episode, step = self.counts()
        return np.zeros(2 if (sampler, episode, step) == (1, 1, 0) else 3, np.int32)


def test_a_misfit_in_lockstep_leaves_nobody_waiting(make: Any) -> None:
    tasks = make(OddSecondEpisode, max_steps=2, vector={"auto_resample_when_done": False})
    tasks.step_batch([0] * 4)
    with pytest.raises(LayoutError, match="sampler 1"):  # in the step that ends all episodes
        tasks.step_batch([0] * 4)
    assert tasks.stats()["steps"] == 8
    assert tasks.stats()["episodes"] == 4
    tasks.next_task_at(1)
    assert [r.done for r in tasks.step([0] * 4)] == [False] * 4
    assert [r.done for r in tasks.step([0] * 4)] == [True] * 4


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda o: o.astype(np.float64), r"observation.*int32 \[3\].*float64 \[3\]"),
        (lambda o: o[:2], r"observation.*int32 \[3\].*int32 \[2\]"),
        (lambda o: {"a": o}, r"observation.*int32 \[3\].*dict"),
        (lambda o: "text", r"observation.*int32 \[3\].*str"),
    ],
)
@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_a_misfit_fails_its_sampler_alone(make: Any, odd: Any, message: str, way: str) -> None:
    tasks = make(OddTask, max_steps=9, odd=odd)
    tasks.step_batch([0] * 4)
    with pytest.raises(LayoutError, match=f"sampler 1: {message}"):
        batch_by(way, tasks, [0] * 4)
    assert tasks.sampler_states[1] is SamplerState.FAILED
    with pytest.raises(SamplerUnavailable, match="sampler 1 is FAILED"):
        tasks.step_batch([0] * 4)
    tasks.pause_at(1)
    assert tasks.step_batch([0] * 3).observation[:, 2].tolist() == [3] * 3
    tasks.resume_all()
    tasks.next_task_at(1)
    batch = tasks.step_batch([0] * 4)
    assert batch.observation[:, 1:].tolist() == [[0, 4], [1, 1], [0, 4], [0, 4]]


@pytest.mark.parametrize("way", ["step_batch", "recv"])
def test_rewards_of_several_agents_have_no_batch(make: Any, way: str) -> None:
    tasks = make(MultiAgentTask, count=2, max_steps=9)
    with pytest.raises(LayoutError, match="rewards"):
        batch_by(way, tasks, [(0, 0)] * 2)
    assert set(tasks.sampler_states.values()) == {SamplerState.FAILED}
    tasks.next_task()
    assert tasks.step([(0, 1)] * 2)[0].reward == [0.5, 1.5]


def test_casts_within_a_kind_are_made(make: Any) -> None:
    tasks = make(OddTask, max_steps=9, odd=lambda o: o.astype(np.int64))
    tasks.step_batch([0] * 4)
    batch = tasks.step_batch([0] * 4)
    assert_identical(batch.observation, np.array([[i, 0, 2] for i in range(4)], np.int32))
    assert tasks.step([0] * 4)[1].observation.dtype == np.int64


class InterruptedTask(CountingTask):
    """Ctrl-C comes while sampler 1 takes its second step."""

    def move(self, action: Any) -> None:
        if self.env.sampler == 1 and self.step_number == 2 and self.episode == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["step", "step_batch", "send"])
def test_ctrl_c_passes_through_the_twin(way: str) -> None:
    arguments = toy_args(InterruptedTask, 4, max_steps=9)
    with SingleProcessVectorSampledTasks(ToySampler, arguments, should_log=False) as tasks:
        tasks.step_batch([0] * 4)
        with pytest.raises(KeyboardInterrupt):
            getattr(tasks, way)([0] * 4)
        states = tasks.sampler_states
        assert states[0] is SamplerState.READY
        assert states[1] is SamplerState.FAILED
        tasks.reset_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [1] * 4


# -- leaves that leave the slab --------------------------------------------------------------------


@contextmanager
def warned() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings about the slab that were given."""
    ours: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield ours
    ours += [w for w in caught if "shared-memory lane" in str(w.message)]


OFF_SPACE = [
    lambda o: o.astype(np.int64),
    lambda o: o.astype(np.float64),
    lambda o: o[:2],
    lambda o: o.tolist(),
    lambda o: {"nested": "otherwise"},
]


@pytest.mark.parametrize("odd", OFF_SPACE)
def test_auto_warns_once(processes: Any, odd: Any) -> None:
    with warned() as ours, processes.toys(OddTask, max_steps=9, odd=odd) as tasks:
        for number in range(1, 7):
            observation = tasks.step([0] * 4)[1].observation
            expected = np.array([1, 0, number], np.int32)
            assert_identical(observation, odd(expected) if number >= 2 else expected)
    assert [w.category for w in ours] == [RuntimeWarning]
    assert "observation" in str(ours[0].message)


class WholeTask(ToyTask):
    """Nested otherwise than its space."""

    space = spaces.Dict({"a": spaces.Discrete(9), "b": spaces.Discrete(9)})

    def get_observations(self) -> Any:
        if self.step_number >= 2:
            return {"a": self.step_number}
        return {"a": self.step_number, "b": 0}


def test_auto_warns_of_another_nesting(processes: Any) -> None:
    with warned() as ours, processes.toys(WholeTask, max_steps=9) as tasks:
        for _ in range(3):
            results = tasks.step([0] * 4)
        assert [r.observation for r in results] == [{"a": 3}] * 4
    assert len(ours) == 1


@pytest.mark.parametrize("odd", OFF_SPACE)
def test_pipe_says_nothing(processes: Any, odd: Any) -> None:
    with (
        warned() as ours,
        processes.toys(
            OddTask, max_steps=9, odd=odd, vector={"observation_transport": "pipe"}
        ) as tasks,
    ):
        for _ in range(4):
            tasks.step([0] * 4)
    assert ours == []


@pytest.mark.parametrize("odd", OFF_SPACE[1:3])
def test_slab_refuses_what_does_not_fit(processes: Any, odd: Any) -> None:
    with (
        warned() as ours,
        processes.toys(
            OddTask, max_steps=9, odd=odd, vector={"observation_transport": "slab"}
        ) as tasks,
    ):
        tasks.step([0] * 4)
        with pytest.raises(LayoutError, match=r"sampler 1: observation: expected int32 \[3\]"):
            tasks.step([0] * 4)
        assert tasks.sampler_states[1] is SamplerState.FAILED
        tasks.next_task_at(1)
        assert [r.observation[2] for r in tasks.step([0] * 4)] == [3, 1, 3, 3]
    assert ours == []


@pytest.mark.parametrize("transport", ["auto", "slab", "pipe"])
@pytest.mark.parametrize("task_class", [CountingTask, NestedTask, TextTask, InfoTask])
def test_usual_tasks_cause_no_warning(processes: Any, task_class: Any, transport: str) -> None:
    vector = {"observation_transport": transport}
    with (
        warned() as ours,
        processes.toys(
            task_class, count=2, max_steps=2, step_info={"a": 1}, vector=vector
        ) as tasks,
    ):
        for number in range(4):
            actions = [space.sample() for space in tasks.action_spaces]
            tasks.step(actions) if number % 2 else tasks.step_batch(actions)
    assert ours == []


# -- in place --------------------------------------------------------------------------------------


class InPlaceTask(RandomWalk):
    """Writes its observation where it is told to."""

    def _step(self, action: Any) -> Any:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: Any) -> None:
        out[...] = self.position


class InPlaceNestedTask(NestedTask):
    """The same with a nested observation."""

    def _step(self, action: Any) -> Any:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: Any) -> None:
        seen = self.get_observations()
        for key in ("rgb", "flags", "choice"):
            out[key][...] = seen[key]
        for target, value in zip(out["pose"], seen["pose"], strict=True):
            target[...] = value


@pytest.mark.parametrize(
    ("usual", "in_place"), [(RandomWalk, InPlaceTask), (NestedTask, InPlaceNestedTask)]
)
@pytest.mark.parametrize("way", ["step", "step_batch", "recv"])
def test_tasks_that_write_in_place_give_the_same(
    every_kind: Any, usual: Any, in_place: Any, way: str
) -> None:
    space = usual.actions
    space.seed(0)
    with (
        every_kind.toys(usual, count=3, max_steps=3) as one,
        every_kind.toys(in_place, count=3, max_steps=3) as two,
    ):
        assert_identical(two.get_observations(), one.get_observations())
        for _ in range(8):
            actions = [space.sample() for _ in range(3)]
            results = []
            for tasks in (one, two):
                results.append(batch_by(way, tasks, actions))
            assert_identical(*results)


# -- lockstep --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_class", [CountingTask, LargeTask])
def test_batches_in_lockstep(every_kind: Any, task_class: Any) -> None:
    vector = {"auto_resample_when_done": False}
    with every_kind.toys(task_class, max_steps=[1, 2, 3, 3], vector=vector) as tasks:
        batches = [tasks.step_batch([2] * 4) for _ in range(4)]
        with every_kind.toys(task_class, max_steps=[1, 2, 3, 3], vector=vector) as others:
            for batch in batches:
                results = others.step([2] * 4)
                assert_identical(
                    batch.observation,
                    stacked(task_class.space, [r.observation for r in results]),
                )
                rewards = np.array([r.reward for r in results], np.float32)
                assert_identical(batch.reward, rewards)
                assert_identical(batch.done, np.array([r.done for r in results]))
                assert_identical(batch.infos, [r.info for r in results])
        assert [b.done.tolist() for b in batches] == [
            [True, False, False, False],
            [True, True, False, False],
            [True] * 4,
            [True, False, False, False],
        ]
        assert [b.truncated.tolist() for b in batches] == [b.done.tolist() for b in batches]
        assert [info.get("waiting") for info in batches[1].infos] == [True, None, None, None]
        assert all(info["resampled"] for info in batches[2].infos)
        assert tasks.stats()["steps"] == 1 + 2 + 3 + 3 + 4


def test_lockstep_batches_until_exhausted(make: Any) -> None:
    tasks = make(
        count=3, max_steps=[1, 2, 2], num_tasks=[1, 2, 2], vector={"auto_resample_when_done": False}
    )
    tasks.step_batch([0] * 3)
    batch = tasks.step_batch([0] * 3)
    assert batch.exhausted.tolist() == [True, False, False]
    assert batch.observation.tolist() == [[0, 0, 0], [1, 1, 0], [2, 1, 0]]
    assert batch.infos[0]["final_observation"].tolist() == [0, 0, 1]
    with pytest.raises(SamplerUnavailable, match="EXHAUSTED"):
        tasks.step_batch([0] * 3)


@pytest.mark.parametrize("option", [{"out": True}, {"copy": False}])
def test_lockstep_batches_with_out_and_views(make: Any, option: dict[str, Any]) -> None:
    tasks = make(max_steps=[2, 3, 3, 3], vector={"auto_resample_when_done": False})
    others = make(max_steps=[2, 3, 3, 3], vector={"auto_resample_when_done": False})
    batch = tasks.step_batch([1] * 4)
    assert_identical(batch, others.step_batch([1] * 4))
    for _ in range(6):
        batch = tasks.step_batch([1] * 4, **({"out": batch} if "out" in option else option))
        assert_identical(batch, others.step_batch([1] * 4))


def test_send_and_recv_refuse_lockstep(make: Any) -> None:
    tasks = make(max_steps=9, vector={"auto_resample_when_done": False})
    with pytest.raises(ValueError, match="lockstep"):
        tasks.send([0] * 4)
    with pytest.raises(NothingPending):
        tasks.recv()
    assert len(tasks.step_batch([0] * 4).samplers) == 4
