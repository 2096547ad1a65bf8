"""Whole episodes from runners that wait for nobody, and a policy that learns from the first done.

Run it: python examples/async_rollouts.py --steps 100000     # CartPole-v1, a few seconds

Episodes last from 10 to 500 steps. In lockstep the long ones would be waited for; here each update
takes the first episodes that are done, and the others go on. Every tenth update an evaluation is
scheduled under a number, which comes before the name "train": it waits for no training episode.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vectasks.envs import GymnasiumTaskSampler
from vectasks.rollouts.episodes import Episode, EpisodeRunner, EpisodeTask
from vectasks.rollouts.scheduler import Scheduler

EPISODES_AN_UPDATE, EPISODES_IN_FLIGHT, EVALUATION_EPISODES = 16, 24, 10
LEARNING_RATE, GAMMA = 0.2, 0.99


class LinearPolicy:
    """Chooses left or right by a softmax over what it sees; greedy where it is evaluated."""

    def __init__(self) -> None:
        self.weights = np.zeros((4, 2))
        self.greedy = False
        self.rng = np.random.default_rng()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the weights that the task brings along."""
        self.weights, self.greedy = state["weights"], state["greedy"]

    def probabilities(self, observation: np.ndarray) -> np.ndarray:
        """Of the actions: [n, 2]."""
        logits = observation @ self.weights
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def __call__(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Act as the runner asks for it: one observation at a time, [1, 4]."""
        probabilities = self.probabilities(observation)
        if self.greedy:
            return {"action": probabilities.argmax(-1)}
        action = (self.rng.random((len(observation), 1)) > probabilities[:, :1]).sum(-1)
        return {"action": action, "probability": probabilities[np.arange(len(action)), action]}

    def learn(self, episodes: list[Episode]) -> None:
        """One step up the policy gradient; episodes of older policies count as they are likely."""
        returns = [discounted(episode.rewards) for episode in episodes]
        mean, deviation = np.mean(np.concatenate(returns)), np.std(np.concatenate(returns)) + 1e-8
        gradient, num_steps = np.zeros_like(self.weights), 0
        for episode, its_returns in zip(episodes, returns, strict=True):
            seen, actions = episode.observations[:-1], episode.actions
            probabilities = self.probabilities(seen)
            ratio = probabilities[np.arange(len(actions)), actions] / episode.kept["probability"]
            weight = np.clip(ratio, 0.0, 2.0) * (its_returns - mean) / deviation
            gradient += seen.T @ ((np.eye(2)[actions] - probabilities) * weight[:, None])
            num_steps += len(actions)
        self.weights = self.weights + LEARNING_RATE * np.sqrt(len(episodes)) * gradient / num_steps


def discounted(rewards: np.ndarray) -> np.ndarray:
    """Return the discounted rewards from every step on."""
    powers = GAMMA ** np.arange(len(rewards))
    return np.cumsum((rewards * powers)[::-1])[::-1] / powers


def make_runner() -> EpisodeRunner:
    """Runs in the workers."""
    return EpisodeRunner(GymnasiumTaskSampler, {"env": "CartPole-v1"}, policy=LinearPolicy())


async def main(num_steps: int) -> None:
    """Learn for so many steps of the environment."""
    policy, steps, update = LinearPolicy(), 0, 0

    def task(greedy: bool = False, repeat_times: int = 1) -> EpisodeTask:
        weights = {"weights": policy.weights, "greedy": greedy}
        return EpisodeTask(seed=update * 1000, weights=weights, repeat_times=repeat_times)

    async with Scheduler(
        make_runner, num_runners=os.cpu_count() or 1, max_timeout=60, max_repeat_times_per_runner=5
    ) as scheduler:
        scheduler.schedule([task() for _ in range(EPISODES_IN_FLIGHT)], "train")
        while steps < num_steps:
            statuses, episodes = await scheduler.get_results("train", min_num=EPISODES_AN_UPDATE)
            scheduler.schedule([task() for _ in statuses], "train")
            steps += sum(len(episode.rewards) for episode in episodes)
            policy.learn(episodes)
            update += 1
            if update % 10 == 0:
                scheduler.schedule([task(greedy=True, repeat_times=EVALUATION_EPISODES)], update)
                (status,), _ = await scheduler.get_results(update)
                print(f"{steps} steps: evaluated, {status.metrics['reward']:.0f}", flush=True)
        print(f"{steps} steps, {update} updates: {scheduler.stats()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    asyncio.run(main(parser.parse_args().steps))
