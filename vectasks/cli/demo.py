"""The run of ``vectasks demo``: a CartPole learns by PPO, is evaluated, and is filmed.

``examples/ppo.py`` is the same PPO as one script, with all settings in sight.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from vectasks.envs import GymnasiumTaskSampler
from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.vector import VectorSampledTasks

ENV_ID = "CartPole-v1"
GOAL = 475.0
_NUM_SAMPLERS, _HORIZON, _EPOCHS, _BATCH_SIZE = 8, 64, 8, 128
_LEARNING_RATE, _GAMMA, _LAM, _CLIP = 2e-3, 0.98, 0.9, 0.2
_WINDOW_EPISODES = 100


class Agent:
    """Two small networks: one chooses actions, one values observations."""

    def __init__(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        torch.set_num_threads(1)  # networks this small are slower on more
        self.actor: Any = _network(4, 2, gain=0.01)
        self.critic: Any = _network(4, 1, gain=1.0)

    def distribution(self, observation: Any) -> Any:
        """Of the actions."""
        from torch.distributions import Categorical

        return Categorical(logits=self.actor(observation), validate_args=False)

    def value(self, observation: Any) -> Any:
        """Estimate the values of observations: [n]."""
        return self.critic(observation)[:, 0]

    def __call__(self, observation: Any) -> dict[str, Any]:
        """Decide as ``collect`` asks for it."""
        distribution = self.distribution(observation)
        action = distribution.sample()
        log_prob = distribution.log_prob(action)
        return {"action": action, "log_prob": log_prob, "value": self.value(observation)}

    def best_actions(self, observations: list[Any]) -> list[int]:
        """The likeliest action for each observation."""
        import torch

        with torch.no_grad():
            logits = self.actor(torch.from_numpy(np.stack(observations)))
            actions: list[int] = logits.argmax(1).tolist()
        return actions


def _network(num_inputs: int, num_outputs: int, gain: float) -> Any:
    from torch import nn

    layers = [nn.Linear(num_inputs, 64), nn.Linear(64, 64), nn.Linear(64, num_outputs)]
    for layer, its_gain in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, its_gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Progress(NamedTuple):
    """The progress of training.

    Attributes:
        steps: of all samplers together.
        elapsed_s: since the first of them.
        mean_return: of the last hundred episodes; None before one ended.
        is_solved: whether that reached :data:`GOAL`.
    """

    steps: int
    elapsed_s: float
    mean_return: float | None
    is_solved: bool


def train(
    agent: Agent, max_steps: int, seed: int, learning_rate: float = _LEARNING_RATE
) -> Iterator[Progress]:
    """Train until the goal is reached, or for so many steps; tells after every rollout."""
    import torch

    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, eps=1e-5)
    shuffler = np.random.default_rng(seed)
    returns: deque[float] = deque(maxlen=_WINDOW_EPISODES)
    with VectorSampledTasks(
        GymnasiumTaskSampler,
        [{"env": ENV_ID}] * _NUM_SAMPLERS,
        seed=seed,
        max_processes=min(os.cpu_count() or 1, _NUM_SAMPLERS),
    ) as tasks:
        buffer = RolloutBuffer(tasks, _HORIZON, device="cpu")
        started_s, steps, is_solved = time.perf_counter(), 0, False
        while steps < max_steps and not is_solved:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - steps / max_steps)
            ends = collect(tasks, agent, buffer)
            buffer.returns_and_advantages(_GAMMA, _LAM)
            for batch in buffer.minibatches(_BATCH_SIZE, epochs=_EPOCHS, rng=shuffler, copy=False):
                loss = _loss(agent, batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
            returns.extend(end.info[COMPLETE_TASK_METRICS_KEY]["reward"] for end in ends)
            mean_return = float(np.mean(returns)) if returns else None
            is_solved = len(returns) == _WINDOW_EPISODES and (mean_return or 0.0) >= GOAL
            steps += _HORIZON * _NUM_SAMPLERS
            yield Progress(steps, time.perf_counter() - started_s, mean_return, is_solved)


def _loss(agent: Agent, batch: Any) -> Any:
    import torch

    log_prob = agent.distribution(batch.observation).log_prob(batch.action)
    ratio = (log_prob - batch.kept["log_prob"]).exp()
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    gain = torch.min(ratio * advantage, ratio.clamp(1 - _CLIP, 1 + _CLIP) * advantage)
    value_error = (agent.value(batch.observation) - batch.returns).square()
    return 0.5 * value_error.mean() - gain.mean()


class _HalfSize(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sixteen tiles of the usual size would make a video larger than most screens."""

    def render(self) -> Any:
        import cv2

        image = np.asarray(self.env.render())
        return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _make_filmed_sampler() -> GymnasiumTaskSampler:
    return GymnasiumTaskSampler(_HalfSize(gymnasium.make(ENV_ID, render_mode="rgb_array")))


def evaluate(
    agent: Agent, num_episodes: int, video: Path, seed: int, on_end: Callable[[], object]
) -> list[float]:
    """The returns of exactly so many episodes, all filmed: who is done first is paused.

    Args:
        agent: acts without exploring.
        num_episodes: one per sampler.
        video: the file to write, a tile an episode.
        seed: of the episodes.
        on_end: is called whenever one ends.
    """
    from vectasks.rendering.video import VideoRecorder

    returns = [0.0] * num_episodes
    with (
        VectorSampledTasks(
            _make_filmed_sampler,
            [{}] * num_episodes,
            seed=seed,
            max_processes=min(os.cpu_count() or 1, num_episodes),
        ) as tasks,
        VideoRecorder(tasks, video, fps=50, captions=True) as recorder,
    ):
        observations = tasks.get_observations()
        while tasks.num_unpaused_tasks:
            results = recorder.step(agent.best_actions(observations))
            for index in reversed(range(len(results))):
                if results[index].done:
                    metrics = results[index].info[COMPLETE_TASK_METRICS_KEY]
                    returns[tasks.sampler_ids[index]] = metrics["reward"]
                    tasks.pause_at(index)
                    on_end()
            observations = [result.observation for result in results if not result.done]
    return returns
