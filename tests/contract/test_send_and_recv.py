"""``send`` and ``recv``: whichever samplers are ready first, the others go on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import AlreadyPending, NothingPending, SamplerUnavailable, VectorClosed, WaitTimeout
from vectasks.testing.toys import SlowTask, ToyTask

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


@pytest.mark.guarantee("pausing-shifts-indices")
def test_samplers_are_ids_also_while_some_are_paused(make: Any) -> None:
    tasks = make(max_steps=9)
    tasks.pause_at(0)
    tasks.send([3, 1], samplers=[3, 1])
    assert tasks.recv().reward.tolist() == [1.125, 3.125]
    tasks.send([0, 0, 0])
    assert tasks.recv().samplers.tolist() == [1, 2, 3]


@pytest.mark.guarantee("recv-earliest-ready")
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


@pytest.mark.guarantee("recv-earliest-ready")
def test_the_earliest_come_first(processes: Any) -> None:
    with processes.toys(NapTask, max_steps=99) as tasks:
        tasks.send([60, 1, 40, 20])
        assert [tasks.recv(1).samplers.tolist() for _ in range(4)] == [[1], [3], [2], [0]]
        tasks.send([30, 1, 2, 150])
        time.sleep(0.8)  # all but one are ready: the earliest of them, in id order
        assert tasks.recv(2).samplers.tolist() == [1, 2]
        assert tasks.recv(2).samplers.tolist() == [0, 3]


@pytest.mark.guarantee("recv-earliest-ready")
def test_the_earliest_sent_come_first_on_every_kind(kind: Any) -> None:
    with kind.toys(max_steps=99) as tasks:
        for order in ([3, 0, 2, 1], [1, 2, 3, 0]):
            for i in order:
                tasks.send([0], samplers=[i])
                time.sleep(0.05)
            assert [tasks.recv(1).samplers.tolist() for _ in order] == [[i] for i in order]


def test_mates_in_one_worker_are_given_back_one_by_one(every_kind: Any) -> None:
    if every_kind.is_in_process or every_kind.max_processes != 1:
        pytest.skip("needs several samplers in one process")
    with every_kind.toys(NapTask, max_steps=99) as tasks:
        started = time.monotonic()
        tasks.send([0, 0, 0, 200])
        assert tasks.recv(3).samplers.tolist() == [0, 1, 2]
        assert time.monotonic() - started < 1.5
        assert tasks.recv().samplers.tolist() == [3]


@pytest.mark.guarantee("nobody-starves")
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


@pytest.mark.guarantee("nobody-starves")
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


@pytest.mark.guarantee("late-answers")
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


@pytest.mark.guarantee("late-answers")
def test_a_late_batch_is_collected_by_wait_step(processes: Any) -> None:
    with processes.toys(SlowTask, max_steps=9, delay_s=0.6, vector={"read_timeout": 0.2}) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.step_batch([2] * 4)
        results = tasks.wait_step(timeout=10)
        assert [r.observation.tolist() for r in results] == [[i, 0, 1] for i in range(4)]
        assert [r.reward for r in results] == [2.125] * 4
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [2] * 4


@pytest.mark.guarantee("all-or-nothing-sent")
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
        (([0], ["one"]), IndexError),
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


@pytest.mark.guarantee("one-step-out")
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


# -- lockstep --------------------------------------------------------------------------------------


def test_send_and_recv_refuse_lockstep(make: Any) -> None:
    tasks = make(max_steps=9, vector={"auto_resample_when_done": False})
    with pytest.raises(ValueError, match="lockstep"):
        tasks.send([0] * 4)
    with pytest.raises(NothingPending):
        tasks.recv()
    assert len(tasks.step_batch([0] * 4).samplers) == 4
