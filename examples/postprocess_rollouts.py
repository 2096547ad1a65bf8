"""Record a thousand episodes, then compute on all of them in worker processes.

Two tasks: the return of each episode (collected, and saved to returns.npy as they come), and mean
and spread of the observations (one array, shared with the workers instead of sent to them).

Run it: python examples/postprocess_rollouts.py [DIRECTORY]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vectasks import SingleProcessVectorSampledTasks
from vectasks.compute import (
    NumpySaver,
    OnlineMeanResultsHandler,
    ResultsCollector,
    Task,
    TaskManager,
    shared_array,
)
from vectasks.envs import GymnasiumTaskSampler

NUM_EPISODES = 1000
NUM_SAMPLERS = 16
GAMMA = 0.99


class Episode(NamedTuple):
    """observations: float32 [num_steps, 4]; rewards: float32 [num_steps]."""

    observations: np.ndarray
    rewards: np.ndarray


def record(num_episodes: int) -> list[Episode]:
    """Random CartPole episodes: the first ``num_episodes / NUM_SAMPLERS`` of each sampler."""
    wanted = [len(part) for part in np.array_split(range(num_episodes), NUM_SAMPLERS)]
    episodes: list[list[Episode]] = [[] for _ in wanted]
    rng = np.random.default_rng(0)
    arguments: list[dict[str, Any]] = [{"env": "CartPole-v1"} for _ in wanted]
    with SingleProcessVectorSampledTasks(GymnasiumTaskSampler, arguments, seed=0) as tasks:
        steps: list[list[tuple[np.ndarray, float]]] = [[] for _ in wanted]
        observations = tasks.get_observations()
        while any(len(its) < count for its, count in zip(episodes, wanted, strict=True)):
            results = tasks.step(rng.integers(2, size=NUM_SAMPLERS))
            for i, result in enumerate(results):
                steps[i].append((observations[i], result.reward))
                if result.done:
                    seen, rewards = zip(*steps[i], strict=True)
                    episodes[i].append(Episode(np.stack(seen), np.array(rewards, np.float32)))
                    steps[i] = []
            observations = [result.observation for result in results]
    return [its[k] for its, count in zip(episodes, wanted, strict=True) for k in range(count)]


class Returns(Task[list[Episode], np.ndarray]):
    """Discounted returns."""

    def do(self, batch: list[Episode], gamma: float) -> np.ndarray:
        """One return an episode of the batch."""
        return np.array([float(rewards @ gamma ** np.arange(len(rewards))) for _, rewards in batch])


class Moments(Task[np.ndarray, tuple[np.ndarray, int]]):
    """Means of the observations and of their squares."""

    def do(self, batch: np.ndarray) -> tuple[np.ndarray, int]:
        """Both means, float64 [2, 4], and of how many observations they are."""
        return np.stack([batch.mean(axis=0), np.square(batch).mean(axis=0)]), len(batch)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("directory", nargs="?", type=Path, default=Path())
directory = parser.parse_args().directory
began_s = time.perf_counter()
episodes = record(NUM_EPISODES)
print(f"{len(episodes)} episodes recorded in {time.perf_counter() - began_s:.1f} s")

saver = NumpySaver(directory / "returns.npy", approach="append")
saver.file_path.unlink(missing_ok=True)
collector = TaskManager(Returns, ResultsCollector(saver), backend="process", num_workers=2).submit(
    episodes, batch_size=50, kwargs={"gamma": GAMMA}
)
returns = np.concatenate(collector.values())
print(f"discounted return: mean {returns.mean():.2f}, best {returns.max():.2f}")
print(f"{saver.file_path}: {len(np.load(saver.file_path))} returns")

observations = shared_array((sum(len(episode.rewards) for episode in episodes), 4))
np.concatenate([episode.observations for episode in episodes], out=observations)
(mean, mean_square), count = (
    TaskManager(Moments, OnlineMeanResultsHandler, backend="process", num_workers=2)
    .submit(observations, batch_size=4096)
    .get()
)
spread = np.sqrt(mean_square - mean**2)
for name, its_mean, its_spread in zip(
    ("position", "velocity", "angle", "angular velocity"), mean, spread, strict=True
):
    print(f"{name}: {its_mean:+.3f}, spread {its_spread:.3f} (of {count} observations)")
