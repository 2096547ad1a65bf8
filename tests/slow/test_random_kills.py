"""A hundred workers are killed at random during a hundred thousand steps, and the counts add up."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import numpy as np
import pytest

from vectasks import SamplerState, VectorSampledTasks
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler
from vectasks.transport import compiled

pytestmark = pytest.mark.slow

KILLS = 100
COUNT, WORKERS = 8, 4
MATES = COUNT // WORKERS


class QuietTask(CountingTask):
    """Has no info, so that steps stay in shared memory."""

    def info(self) -> Any:
        return None


class Run:
    """Steps a vector by each way in turn, and checks that a sampler's steps follow one another."""

    def __init__(self, tasks: Any, max_steps: list[int]) -> None:
        self.tasks = tasks
        self.max_steps = np.array(max_steps)
        self.steps = self.episodes = 0
        self.told = np.zeros(COUNT, int)  # restarts that each sampler's steps told of
        self.seen = np.stack(tasks.get_observations())

    def step(self) -> None:
        tasks, actions = self.tasks, [0] * COUNT
        if self.steps % 5 == 4:
            results = tasks.step(actions)
            observation = np.stack([r.observation for r in results])
            done = np.array([r.done for r in results])
            infos = [r.info or {} for r in results]
        else:
            if self.steps % 5 == 3:
                tasks.send(actions)
                batch = tasks.recv()
            else:
                batch = tasks.step_batch(actions)
            observation, done, infos = batch.observation, batch.done, batch.infos
        restarted = np.array(["worker_restarted" in info for info in infos])
        self.steps += 1
        self.episodes += int(done.sum())
        self.told += restarted
        self.check(observation, done, restarted)
        self.seen = observation

    def check(self, observation: Any, done: Any, restarted: Any) -> None:
        """Observations are (sampler, episode, step)."""
        assert observation[:, 0].tolist() == list(range(COUNT))
        episode, step = self.seen[:, 1], self.seen[:, 2]
        ended = step + 1 == self.max_steps
        assert (done == (ended | restarted)).all()
        expected_step = np.where(done, 0, step + 1)
        expected_episode = np.where(restarted, 0, np.where(ended, episode + 1, episode))
        assert observation[:, 1].tolist() == expected_episode.tolist()
        assert observation[:, 2].tolist() == expected_step.tolist()


@pytest.mark.guarantee("restart-hundreds")
@pytest.mark.parametrize(
    ("start_method", "transport", "steps"),
    [("forkserver", "auto", 100_000), ("fork", "auto", 100_000), ("forkserver", "pipe", 10_000)],
)
def test_a_hundred_kills_in_a_hundred_thousand_steps(
    start_method: str, transport: str, steps: int
) -> None:
    dice = random.Random(7)
    kill_at = sorted(dice.sample(range(1, steps - 1000), KILLS))
    max_steps = [20 + 3 * i for i in range(COUNT)]
    with VectorSampledTasks(
        ToySampler,
        toy_args(QuietTask, COUNT, max_steps=max_steps),
        multiprocessing_start_method=start_method,
        max_processes=WORKERS,
        observation_transport=transport,
        on_worker_death="restart",
        max_restarts=KILLS,
        should_log=False,
    ) as tasks:
        run = Run(tasks, max_steps)
        killed = np.zeros(WORKERS, int)
        while run.steps < steps:
            if kill_at and run.steps >= kill_at[0]:
                kill_at.pop(0)
                victim = dice.randrange(COUNT)
                order = (tasks.call_at(victim, "pid"), signal.SIGKILL)
                killed[victim // MATES] += 1
                if dice.random() < 0.3:
                    os.kill(*order)  # while nothing is asked
                else:  # amid some step
                    threading.Timer(dice.uniform(0, 0.001), os.kill, order).start()
                while run.told.sum() < MATES * killed.sum():
                    run.step()
            else:
                run.step()
        assert killed.sum() == KILLS
        assert run.told.tolist() == np.repeat(killed, MATES).tolist()
        assert tasks.stats() == {
            "steps": run.steps * COUNT,
            "episodes": run.episodes,
            "restarts": KILLS,
            "core": compiled.kind(),
        }
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
