"""PPO in one file: nothing but numpy, torch and vectasks.

Run it: python examples/ppo.py                                    # CartPole-v1, about a minute
        python examples/ppo.py --env MiniGrid-Empty-8x8-v0        # images, a few minutes
        python examples/ppo.py --reset-s 0.05 --ready-first --prepared-tasks 2   # slow resets
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from vectasks import COMPLETE_TASK_METRICS_KEY, VectorSampledTasks
from vectasks.envs import GymnasiumTaskSampler
from vectasks.rollouts import RolloutBuffer, collect


@dataclass
class Settings:
    """The settings of PPO; the defaults are CartPole's."""

    goal: float = 475.0  # mean return of the last 100 episodes that counts as solved
    max_steps: int = 500_000
    num_samplers: int = 8
    horizon: int = 64
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    gamma: float = 0.98
    lam: float = 0.9
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 0.5


SETTINGS = {
    "CartPole-v1": Settings(),
    "MiniGrid-Empty-8x8-v0": Settings(
        goal=0.93, num_samplers=16, horizon=64, batch_size=256, epochs=4, learning_rate=1e-3,
        gamma=0.99, lam=0.95, entropy=0.01,
    ),
}  # fmt: skip


class SlowReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Loads something before each episode, as simulators do."""

    def __init__(self, env: gymnasium.Env[Any, Any], reset_s: float) -> None:
        super().__init__(env)
        self.reset_s = reset_s

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        time.sleep(self.reset_s)
        return self.env.reset(**kwargs)


def make_sampler(env_id: str, reset_s: float) -> GymnasiumTaskSampler:
    """Runs in the workers. MiniGrid's observation is a dict; its image is enough."""

    def make_env() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(env_id)
        if env_id.startswith("MiniGrid"):
            from minigrid.wrappers import ImgObsWrapper

            env = ImgObsWrapper(env)
        return SlowReset(env, reset_s) if reset_s else env

    return GymnasiumTaskSampler(make_env)


class Agent(nn.Module):
    """Chooses actions and values observations."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        size = int(np.prod(observation_space.shape))
        # Bytes (of images, or of MiniGrid's small codes) become numbers of about one.
        self.scale = 0.1 if observation_space.dtype == np.uint8 else 1.0
        self.actor = self.network(size, int(action_space.n), gain=0.01)
        self.critic = self.network(size, 1, gain=1.0)

    @staticmethod
    def network(num_inputs: int, num_outputs: int, gain: float) -> nn.Sequential:
        """Two hidden layers, initialised as PPO likes it."""
        layers = [nn.Linear(num_inputs, 64), nn.Linear(64, 64), nn.Linear(64, num_outputs)]
        for layer, its_gain in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
            nn.init.orthogonal_(layer.weight, its_gain)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

    def numbers(self, observation: torch.Tensor) -> torch.Tensor:
        """The observations as rows of floats."""
        return observation.flatten(1).float() * self.scale

    def distribution(self, observation: torch.Tensor) -> torch.distributions.Categorical:
        """Of the actions."""
        logits = self.actor(self.numbers(observation))
        return torch.distributions.Categorical(logits=logits, validate_args=False)

    def value(self, observation: torch.Tensor) -> torch.Tensor:
        """Estimate the values of observations: [n]."""
        values: torch.Tensor = self.critic(self.numbers(observation))[:, 0]
        return values

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decide as ``collect`` asks for it."""
        distribution = self.distribution(observation)
        action = distribution.sample()
        log_prob = distribution.log_prob(action)
        return {"action": action, "log_prob": log_prob, "value": self.value(observation)}


def update(agent: Agent, optimizer: Any, buffer: RolloutBuffer, s: Settings) -> None:
    """Some epochs over one rollout."""
    buffer.returns_and_advantages(s.gamma, s.lam)
    for batch in buffer.minibatches(s.batch_size, epochs=s.epochs, rng=shuffler, copy=False):
        distribution = agent.distribution(batch.observation)
        ratio = (distribution.log_prob(batch.action) - batch.kept["log_prob"]).exp()
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - s.clip, 1 + s.clip)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = (agent.value(batch.observation) - batch.returns).square().mean()
        loss = policy_loss + s.value * value_loss - s.entropy * distribution.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="CartPole-v1", choices=SETTINGS)
parser.add_argument("--steps", type=int, help="at most (default: until it is solved)")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
parser.add_argument("--reset-s", type=float, default=0.0, help="how long a reset takes besides")
parser.add_argument("--ready-first", action="store_true", help="do not wait for the slowest")
parser.add_argument("--prepared-tasks", type=int, default=0, help="by spares of each sampler")
args = parser.parse_args()

s = SETTINGS[args.env]
num_steps = args.steps or s.max_steps
torch.manual_seed(args.seed)
torch.set_num_threads(1)  # networks this small are slower on more
shuffler = np.random.default_rng(args.seed)

with VectorSampledTasks(
    make_sampler,
    [{"env_id": args.env, "reset_s": args.reset_s}] * s.num_samplers,
    seed=args.seed,
    # Where tasks wait, there is no use in sharing processes.
    max_processes=None if args.reset_s else min(os.cpu_count() or 1, s.num_samplers),
    prepared_tasks=args.prepared_tasks,
) as tasks:
    agent = Agent(tasks.observation_space, tasks.action_spaces[0]).to(args.device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=s.learning_rate, eps=1e-5)
    buffer = RolloutBuffer(tasks, s.horizon, device=args.device)
    returns: deque[float] = deque(maxlen=100)
    started_s = time.perf_counter()

    steps_a_rollout = s.horizon * s.num_samplers
    for rollout in range(1, max(1, num_steps // steps_a_rollout) + 1):
        left = 1 - (rollout - 1) * steps_a_rollout / s.max_steps
        optimizer.param_groups[0]["lr"] = left * s.learning_rate

        ends = collect(tasks, agent, buffer, ready_first=args.ready_first)
        update(agent, optimizer, buffer, s)

        returns.extend(end.info[COMPLETE_TASK_METRICS_KEY]["reward"] for end in ends)
        mean_return = np.mean(returns) if returns else float("nan")
        solved = len(returns) == returns.maxlen and mean_return >= s.goal
        if solved or rollout % 20 == 1:
            steps, elapsed_s = rollout * steps_a_rollout, time.perf_counter() - started_s
            print(f"{steps} steps, {elapsed_s:.1f} s: mean return {mean_return:.2f}", flush=True)
        if solved:
            print(f"{args.env} is solved.")
            break
