"""Rollout buffers hold what the same steps give one by one, whatever the workers are."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from tests.contract.collect_helpers import SPLITS, Dice, InPlace, NestedObservations
from tests.contract.kinds_of_worker import IN_PROCESS
from vectasks import (
    COMPLETE_TASK_METRICS_KEY,
    InvalidArgument,
    LayoutError,
    SamplerUnavailable,
    TaskError,
    WaitTimeout,
    WorkerDied,
)
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.testing import assert_identical
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    NestedTask,
    RandomWalk,
    ReusingTask,
    SlowTask,
    TextTask,
    TorchTask,
    ToySampler,
    toy_args,
)

HORIZON, COUNT = 5, 4
OPTIONS = {"max_steps": 4, "limit": 1.5}


@pytest.fixture
def fresh(every_kind: Any) -> Iterator[Any]:
    made: list[Any] = []

    def toys(*args: Any, **options: Any) -> Any:
        made.append(every_kind.toys(*args, **options))
        return made[-1]

    yield toys
    for tasks in made:
        tasks.close()


def test_a_rollout_holds_what_single_steps_give(fresh):
    tasks = fresh(CountingTask, vector={"seed": 1}, **OPTIONS)
    check_against_single_steps(tasks, CountingTask)


@pytest.mark.parametrize("transport", ["auto", "pipe"])
@pytest.mark.parametrize(
    "task_class",
    [NestedObservations, RandomWalk, ReusingTask, InPlace, TorchTask],
    ids=lambda task_class: task_class.__name__,
)
def test_whatever_tasks_observe_and_however_it_travels(make, task_class, transport):
    if task_class is TorchTask:
        pytest.importorskip("torch")
    vector = {"seed": 1, "observation_transport": transport}
    check_against_single_steps(make(task_class, vector=vector, **OPTIONS), task_class)


def check_against_single_steps(tasks: Any, task_class: Any) -> None:
    buffer = RolloutBuffer(tasks, HORIZON)
    with IN_PROCESS.toys(task_class, vector={"seed": 1}, **OPTIONS) as in_process:
        seen = _stacked(in_process.get_observations())
        starts = np.ones(COUNT, bool)
        for _ in range(3):  # each goes on where the one before ended
            ends = collect(tasks, Dice(tasks.action_spaces[0]), buffer)
            dice = Dice(in_process.action_spaces[0])
            expected_ends = []
            for t in range(HORIZON):
                batch = in_process.step_batch(dice(seen)["action"])
                assert_identical(_row(buffer.observations, t), seen)
                np.testing.assert_array_equal(buffer.rewards[t].astype(np.float32), batch.reward)
                for name in ("terminated", "truncated"):
                    np.testing.assert_array_equal(getattr(buffer, name)[t], getattr(batch, name))
                np.testing.assert_array_equal(buffer.dones[t], batch.done)
                np.testing.assert_array_equal(buffer.episode_starts[t], starts)
                seen, starts = batch.observation, batch.done
                expected_ends += [
                    (t, i, batch.infos[i]) for i in np.flatnonzero(batch.done).tolist()
                ]
            assert_identical(buffer.last_observation, seen)
            assert len(ends) == len(expected_ends)
            for end, expected in zip(ends, expected_ends, strict=True):
                assert_identical(tuple(end), expected)
        assert tasks.stats() == in_process.stats()
        assert tasks.stats()["episodes"] > 0
        # The vector is as it was: other steps go on from here.
        action = [tasks.action_spaces[0].sample()] * COUNT
        assert_identical(tasks.step(action), in_process.step(action))


def _stacked(observations: list[Any]) -> Any:
    first = observations[0]
    if isinstance(first, dict):
        return {key: _stacked([o[key] for o in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stacked(list(parts)) for parts in zip(*observations, strict=True))
    return np.stack([np.asarray(o) for o in observations])


def _row(nest: Any, t: int) -> Any:
    if isinstance(nest, dict):
        return {key: _row(value, t) for key, value in nest.items()}
    if isinstance(nest, tuple):
        return tuple(_row(value, t) for value in nest)
    return nest[t]


@pytest.mark.guarantee("rollout-memory")
@pytest.mark.parametrize("splits", SPLITS)
def test_workers_write_where_the_user_reads(processes, splits):
    """No copy: what a worker writes is in the buffer's own array, which stays where it is."""
    with processes.toys(max_steps=4) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        address = buffer.observations.ctypes.data
        collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=splits)
        assert buffer.observations.ctypes.data == address
        assert buffer.observations[:, 2].tolist() == [[2, 0, t] for t in range(4)] + [[2, 1, 0]]


def test_two_buffers_at_once(fresh):
    tasks = fresh(max_steps=9)
    one, other = RolloutBuffer(tasks, 3), RolloutBuffer(tasks, 2000)
    dice = Dice(tasks.action_spaces[0])
    collect(tasks, dice, one)
    collect(tasks, dice, other)
    np.testing.assert_array_equal(one.observations[:, 1], [[1, 0, t] for t in range(3)])
    steps = [(3 + t) for t in range(2000)]
    np.testing.assert_array_equal(
        other.observations[:, 1], [[1, step // 9, step % 9] for step in steps]
    )
    third = RolloutBuffer(tasks, 3)
    del other
    collect(tasks, dice, third)
    collect(tasks, dice, one)
    assert third.observations[0, 0].tolist() == [0, 2003 // 9, 2003 % 9]
    assert one.observations[0, 0].tolist() == [0, 2006 // 9, 2006 % 9]


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux tells so")
def test_a_buffer_that_is_let_go_leaves_nothing(processes, splits):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def memories() -> set[int]:
        files = {int(path.name): path.resolve() for path in Path("/proc/self/fd").iterdir()}
        return {fd for fd, file in files.items() if file.name.startswith("memfd:vectasks ")}

    others = memories()
    with processes.toys(max_steps=9) as tasks:
        memory, *_ = memories() - others  # one file: whoever maps it has a descriptor of their own
        collect(tasks, Dice(tasks.action_spaces[0]), RolloutBuffer(tasks, 2), num_splits=splits)
        before, row_sets = descriptors(), os.fstat(memory).st_blocks
        for _ in range(3):
            buffer = RolloutBuffer(tasks, 2000)
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=splits)
            assert os.fstat(memory).st_blocks > row_sets + 100
            kept = buffer.observations[7]
            rows = buffer._rows.place
            del buffer
            gc.collect()
            assert kept[2].tolist()[0] == 2  # what is held stays
            assert os.fstat(memory).st_blocks > row_sets + 100
            del kept
            assert descriptors() == before
            assert os.fstat(memory).st_blocks <= row_sets + 8
        assert RolloutBuffer(tasks, 1)._rows.place.first_row <= rows.first_row


@pytest.mark.guarantee("arrays-outlive")
def test_arrays_outlive_buffer_and_vector(make):
    tasks = make(max_steps=4)
    buffer = RolloutBuffer(tasks, HORIZON)
    collect(tasks, Dice(tasks.action_spaces[0]), buffer)
    kept, copy = buffer.observations, buffer.observations.copy()
    rewards = buffer.rewards
    tasks.close()
    del buffer
    gc.collect()
    np.testing.assert_array_equal(kept, copy)
    assert rewards.any()


@pytest.mark.parametrize("splits", SPLITS)
def test_a_step_of_ones_own_in_between_starts_afresh(make, splits):
    tasks = make(max_steps=9)
    buffer = RolloutBuffer(tasks, 2)
    dice = Dice(tasks.action_spaces[0])
    collect(tasks, dice, buffer, num_splits=splits)
    tasks.attr("episode")
    tasks.get_observations()
    collect(tasks, dice, buffer, num_splits=splits)
    assert not buffer.episode_starts[0].any()  # looking changed nothing
    tasks.step([0] * COUNT)
    collect(tasks, dice, buffer, num_splits=splits)
    assert buffer.episode_starts[0].all()
    assert buffer.observations[0, :, 2].tolist() == [5] * COUNT
    tasks.next_task()
    collect(tasks, dice, buffer, num_splits=splits)
    assert buffer.observations[0].tolist() == [[i, 1, 0] for i in range(COUNT)]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", SPLITS)
def test_a_task_that_fails_fails_the_rollout_and_no_other(make, splits):
    tasks = make(FailingTask, fail_step=3, max_steps=9)
    buffer = RolloutBuffer(tasks, HORIZON)
    dice = Dice(tasks.action_spaces[0])
    with pytest.raises(TaskError, match="on purpose"):
        collect(tasks, dice, buffer, num_splits=splits)
    with pytest.raises(InvalidArgument, match="no whole rollout"):
        buffer.returns_and_advantages()
    with pytest.raises(SamplerUnavailable, match="FAILED"):
        collect(tasks, dice, buffer, num_splits=splits)
    tasks.next_task_at(0)
    collect(tasks, dice, buffer, num_splits=splits)
    assert buffer.observations[0].tolist() == [[0, 1, 0], [1, 0, 3], [2, 0, 3], [3, 0, 3]]


@pytest.mark.parametrize("splits", SPLITS)
def test_a_worker_that_dies_is_told(processes, splits):
    with processes.toys(FailingTask, how="kill", fail_step=2, max_steps=9) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=splits)
        tasks.restart_at(0)
        fresh = RolloutBuffer(tasks, 1)
        collect(tasks, Dice(tasks.action_spaces[0]), fresh, num_splits=splits)
        assert fresh.observations[0].tolist() == [[0, 0, 0], [1, 0, 2], [2, 0, 2], [3, 0, 2]]


@pytest.mark.parametrize("splits", SPLITS)
def test_a_worker_that_is_restarted_finds_the_buffer(processes, splits):
    def value(observation: Any) -> NDArray[Any]:
        return observation[:, 2] + 10.0

    def policy(observation: Any) -> dict[str, Any]:
        return {"action": np.zeros(len(observation), int), "value": value(observation)}

    vector = {"on_worker_death": "restart"}
    with processes.toys(CountingTask, max_steps=99, vector=vector) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        collect(tasks, policy, buffer, num_splits=splits)
        os.kill(tasks.call("pid")[1], signal.SIGKILL)
        (end,) = collect(tasks, policy, buffer, num_splits=splits)
        assert (end.sampler, buffer.truncated.sum()) == (1, 1)
        assert "SIGKILL" in end.info["worker_restarted"]
        after = buffer.observations[end.step + 1 :, 1, 2]
        np.testing.assert_array_equal(after, np.arange(len(after)))  # the new worker's writing
        assert len(after) >= 1
        np.testing.assert_array_equal(buffer.observations[:, 0, 2], 5 + np.arange(HORIZON))
        # Its final observation is lost: the one before it is valued.
        last_known = buffer.observations[end.step, 1, 2]
        assert buffer._final_values[end.step, 1] == last_known + 10.0


@pytest.mark.parametrize("splits", SPLITS)
def test_a_rollout_that_times_out_can_go_on(processes, splits):
    with processes.toys(SlowTask, delay_s=1.5, max_steps=9, vector={"read_timeout": 0.3}) as tasks:
        buffer = RolloutBuffer(tasks, 3)
        dice = Dice(tasks.action_spaces[0])
        with pytest.raises(WaitTimeout):
            collect(tasks, dice, buffer, num_splits=splits)
        late = tasks.wait_step(30)
        assert [result.observation.tolist() for result in late] == [[i, 0, 1] for i in range(COUNT)]
        tasks.read_timeout = 30
        collect(tasks, dice, buffer, num_splits=splits)
        assert buffer.observations[:, 0, 2].tolist() == [1, 2, 3]


@pytest.mark.parametrize("splits", SPLITS)
def test_samplers_that_cannot_step_are_named(make, splits):
    tasks = make(num_tasks=1, max_steps=3)
    buffer = RolloutBuffer(tasks, 3)
    dice = Dice(tasks.action_spaces[0])
    tasks.pause_at(1)
    with pytest.raises(SamplerUnavailable, match=r"samplers \[1\] are paused.*resume_all"):
        collect(tasks, dice, buffer, num_splits=splits)
    tasks.resume_all()
    ends = collect(tasks, dice, buffer, num_splits=splits)
    assert [end.info[COMPLETE_TASK_METRICS_KEY]["ep_length"] for end in ends] == [3] * COUNT
    with pytest.raises(SamplerUnavailable, match="EXHAUSTED"):
        collect(tasks, dice, buffer, num_splits=splits)
    tasks.reset_all()
    collect(tasks, dice, buffer, num_splits=splits)
    assert buffer.observations[0, :, 2].tolist() == [0] * COUNT


def test_vectors_that_have_no_rollouts_are_refused(make, kind):
    with pytest.raises(InvalidArgument, match=r"observation\['words'\] has no fixed shape"):
        RolloutBuffer(make(TextTask), 3)
    with pytest.raises(InvalidArgument, match="auto_resample_when_done=True"):
        RolloutBuffer(make(vector={"auto_resample_when_done": False}), 3)
    with pytest.raises(InvalidArgument, match="heterogeneous"):
        RolloutBuffer(make(vector={"heterogeneous": True}), 3)
    with pytest.raises(InvalidArgument, match="no arrays of one shape"):
        RolloutBuffer(make(NestedTask), 3)
    with pytest.raises(InvalidArgument, match="horizon must be an integer of at least 1"):
        RolloutBuffer(make(), 0)
    mixed = toy_args(CountingTask, 1) + toy_args(OtherActions, 1)
    with kind.make(ToySampler, mixed) as tasks, pytest.raises(InvalidArgument, match="more than"):
        RolloutBuffer(tasks, 3)


class OtherActions(CountingTask):
    """Actions of another kind."""

    actions = spaces.MultiBinary(2)


def test_a_buffer_belongs_to_one_vector(make):
    one, other = make(), make()
    with pytest.raises(InvalidArgument, match="another vector"):
        collect(other, Dice(other.action_spaces[0]), RolloutBuffer(one, 3))


def test_a_buffer_is_made_of_an_idle_vector(make):
    tasks = make()
    tasks.async_step([0] * COUNT)
    with pytest.raises(RuntimeError, match="a step is out"):
        RolloutBuffer(tasks, 3)
    tasks.wait_step()


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (np.zeros(COUNT), "must return a dict"),
        ({"value": np.zeros(COUNT)}, r"\['value'\]"),
        ({"action": np.zeros((COUNT, 1))}, r"'action' has the shape \[4, 1\], expected \[4\]"),
        ({"action": np.zeros(COUNT, int), "value": 1.0}, "'value' has the shape"),
        ({"action": np.zeros(COUNT, int), "memory": np.zeros(COUNT)}, "memory_shape"),
    ],
)
def test_what_a_policy_must_not_give(decision, message):
    with IN_PROCESS.toys() as tasks:
        buffer = RolloutBuffer(tasks, 2)
        with pytest.raises((InvalidArgument, LayoutError), match=message):
            collect(tasks, lambda observation: decision, buffer)
        collect(tasks, Dice(tasks.action_spaces[0]), buffer)
