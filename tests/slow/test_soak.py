"""Hours of steps, in minutes: nothing grows, nothing is left, nobody waits in vain."""

from __future__ import annotations

import gc
import multiprocessing.resource_tracker
import os
import random
import signal
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from gymnasium import spaces

from vectasks import (
    SamplerState,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
    WorkerDied,
)
from vectasks.replay.episode_log import MAX_BYTES
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import RandomWalk, ReusingTask, ToySampler, ToyTask
from vectasks.workers.forkserver import server

pytestmark = pytest.mark.slow

MIB = 2**20


class Footprint(NamedTuple):
    """Everything that this process and its workers hold."""

    own_bytes: int
    worker_bytes: int
    descriptors: int
    worker_descriptors: int
    workers: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        own = psutil.Process()
        apart = (server._forkserver_pid, multiprocessing.resource_tracker._resource_tracker._pid)
        children = own.children(recursive=True)
        workers = [child for child in children if child.pid not in apart]
        return cls(
            own.memory_info().rss,
            sum(worker.memory_info().rss for worker in workers),
            own.num_fds(),
            sum(worker.num_fds() for worker in workers),
            len(workers),
        )


class SoakTask(ToyTask):
    """Short episodes over a small nested observation, an info now and then."""

    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (16, 16), np.uint8),
            "state": spaces.Box(-np.inf, np.inf, (4,), np.float32),
        }
    )

    def begin(self) -> None:
        self.image = np.zeros((16, 16), np.uint8)
        self.state = np.array([*self.counts(), 0], np.float32)

    def move(self, action: Any) -> None:
        self.state[:] = (*self.counts(), action)

    def info(self) -> Any:
        return {"step": self.step_number, "data": bytes(1000)} if self.step_number == 5 else None

    def get_observations(self) -> Any:
        return {"image": self.image, "state": self.state}


class Soak:
    """Does at random whatever may be done, and checks what comes of it."""

    def __init__(self, tasks: Any, num_samplers: int) -> None:
        self.tasks = tasks
        self.dice = random.Random(0)
        self.num_samplers = num_samplers
        self.out: Any = None
        self.steps = 0

    def go_on(self) -> None:
        tasks, dice = self.tasks, self.dice
        n = tasks.num_unpaused_tasks
        actions = [dice.randrange(4) for _ in range(n)]
        way = dice.random()
        if way < 0.45:
            self.check(tasks.step_batch(actions, copy=dice.random() < 0.5), actions)
        elif way < 0.6:
            if self.out is None or len(self.out.samplers) != n:
                self.out = tasks.step_batch(actions)
            else:
                self.check(tasks.step_batch(actions, out=self.out), actions)
        elif way < 0.75:
            tasks.send(actions)
            left = n
            while left:
                count = dice.randint(1, left)
                batch = tasks.recv(count)
                assert len(batch.samplers) == count
                left -= count
        elif way < 0.9:
            results = tasks.step(actions)
            assert [r.observation["state"][0] for r in results] == tasks.sampler_ids
        else:
            tasks.async_step(actions)
            assert len(tasks.wait_step()) == n
        self.steps += n
        self.interlude()

    def check(self, batch: Any, actions: list[int]) -> None:
        assert batch.samplers.tolist() == self.tasks.sampler_ids
        state = batch.observation["state"]
        assert state[:, 0].tolist() == self.tasks.sampler_ids
        assert not batch.exhausted.any()
        going = ~batch.done
        assert state[going, 3].tolist() == np.array(actions)[going].tolist()

    def interlude(self) -> None:
        tasks, dice = self.tasks, self.dice
        what = dice.random()
        if what < 0.02 and tasks.num_unpaused_tasks > 2:
            tasks.pause_at(dice.randrange(tasks.num_unpaused_tasks))
        elif what < 0.03:
            tasks.resume_all()
        elif what < 0.035:
            tasks.reset_all()
        elif what < 0.04:
            tasks.next_task()
        elif what < 0.045:
            assert tasks.call("add", [(1, 2)] * tasks.num_unpaused_tasks)[0] == 3
        elif what < 0.05:
            tasks.set_seeds(dice.randrange(100))
        elif what < 0.055:
            assert len(tasks.get_observations()) == tasks.num_unpaused_tasks
        elif what < 0.0555:
            tasks.restart_at(0)


def test_a_million_steps_of_everything() -> None:
    num_samplers = 16
    args = toy_args(SoakTask, num_samplers, max_steps=[7 + i for i in range(num_samplers)])
    with VectorSampledTasks(
        ToySampler, args, max_processes=2, should_log=False, read_timeout=60
    ) as tasks:
        soak = Soak(tasks, num_samplers)
        while soak.steps < 150_000:  # warm: caches are filled, arenas have their size
            soak.go_on()
        tasks.resume_all()
        before = Footprint.now()
        while soak.steps < 1_150_000:
            soak.go_on()
        tasks.resume_all()
        after = Footprint.now()
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
    assert after.workers == before.workers == 2
    assert after.descriptors == before.descriptors
    assert after.worker_descriptors == before.worker_descriptors
    # The journal fills up to its bound, and no further.
    assert after.own_bytes - before.own_bytes < 8 * MIB + MAX_BYTES
    assert after.worker_bytes - before.worker_bytes < 8 * MIB


@pytest.mark.guarantee("nothing-stays")
def test_started_and_closed_a_hundred_times() -> None:
    args = toy_args(ReusingTask, 4, max_steps=9)
    before = None
    for number in range(120):
        with VectorSampledTasks(ToySampler, args, max_processes=2, should_log=False) as tasks:
            for step in range(250):  # of four samplers
                if step % 10:
                    tasks.step_batch([0] * 4)
                else:
                    tasks.step([0] * 4)
        if number == 19:
            before = Footprint.now()
    after = Footprint.now()
    assert before is not None
    assert after.workers == before.workers == 0
    assert after.descriptors == before.descriptors
    assert after.own_bytes - before.own_bytes < 4 * MIB


def test_many_more_workers_than_cores() -> None:
    args = toy_args(RandomWalk, 64, max_steps=5)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:2])  # before the forkserver's children are made, or this is idle
    try:
        with (
            VectorSampledTasks(ToySampler, args, seed=3, should_log=False) as tasks,
            SingleProcessVectorSampledTasks(
                ToySampler, args, seed=3, should_log=False
            ) as in_process,
        ):
            rng = np.random.default_rng(0)
            for number in range(60):
                actions = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
                if number % 3 == 0:
                    assert_identical(tasks.step(actions), in_process.step(actions))
                elif number % 3 == 1:
                    assert_identical(tasks.step_batch(actions), in_process.step_batch(actions))
                else:
                    tasks.send(actions)
                    rows: dict[int, list[float]] = {}
                    while len(rows) < 64:
                        batch = tasks.recv(min(20, 64 - len(rows)))
                        rows |= dict(
                            zip(batch.samplers.tolist(), batch.observation.tolist(), strict=True)
                        )
                    expected = in_process.step_batch(actions).observation.tolist()
                    assert [rows[i] for i in range(64)] == expected
    finally:
        os.sched_setaffinity(0, cores)


class EndlessTask(ToyTask):
    """Never comes back from a step of sampler 1."""

    def move(self, action: Any) -> None:
        if self.env.sampler == 1:
            time.sleep(300)


@pytest.mark.parametrize("way", ["step", "step_batch", "recv", "recv some"])
@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_a_worker_that_dies_while_it_is_awaited_is_noticed_at_once(
    way: str, start_method: str
) -> None:
    args = toy_args(EndlessTask, 3)
    tasks = VectorSampledTasks(
        ToySampler,
        args,
        multiprocessing_start_method=start_method,
        should_log=False,
        read_timeout=60,
    )
    with tasks:
        pid = tasks.call("pid")[1]
        killed_at: list[float] = []

        def kill() -> None:
            killed_at.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(0.5, kill)
        timer.start()
        if way.startswith("recv"):
            tasks.send([0] * 3)
            if way == "recv some":
                assert tasks.recv(2).samplers.tolist() == [0, 2]
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            tasks.recv() if way.startswith("recv") else getattr(tasks, way)([0] * 3)
        assert time.monotonic() - killed_at[0] < 1.5
        timer.join()
        assert caught.value.sampler_ids == (1,)
        if way != "recv some":
            assert sorted(caught.value.results) == [0, 2]
        tasks.pause_at(1)
        assert len(tasks.step([0] * 2)) == 2


def test_a_worker_that_dies_again_and_again_is_restarted_and_leaves_nothing() -> None:
    args = toy_args(ReusingTask, 6, max_steps=9)
    restarts = 60
    with VectorSampledTasks(
        ToySampler,
        args,
        max_processes=3,
        should_log=False,
        on_worker_death="restart",
        max_restarts=2 * restarts,
    ) as tasks:
        before = None
        for number in range(restarts):
            pid = tasks.call("pid")[number % 6]
            os.kill(pid, signal.SIGKILL)
            told = 0
            for _ in range(400):
                batch = tasks.step_batch([0] * 6)
                told += sum("worker_restarted" in info for info in batch.infos)
                if told:
                    break
            assert told == 2
            for _ in range(5):
                tasks.step([0] * 6)
            if number == 19:
                before = Footprint.now()
        after = Footprint.now()
        assert tasks.stats()["restarts"] == restarts
    assert before is not None
    assert after.workers == before.workers == 3
    assert after.descriptors == before.descriptors
    assert after.worker_descriptors == before.worker_descriptors
    assert after.own_bytes - before.own_bytes < 4 * MIB
