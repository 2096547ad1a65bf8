"""PPO over ``collect`` and a ``RolloutBuffer``, set as ``train_once`` sets SB3's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.stopwatch import time_calls
from vectasks.rollouts import RolloutBuffer, collect


class Agent(nn.Module):
    """Two linear heads on features, or on two networks of their own where there are none."""

    def __init__(self, num_inputs: int, num_actions: int, features: nn.Module | None) -> None:
        super().__init__()
        self.features = features or nn.Identity()

        def head(num_outputs: int) -> nn.Module:
            if features is not None:
                return nn.Linear(64, num_outputs)
            layers = nn.Linear(num_inputs, 64), nn.Linear(64, 64), nn.Linear(64, num_outputs)
            return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

        self.actor, self.critic = head(num_actions), head(1)

    def look(self, observation: torch.Tensor) -> tuple[torch.distributions.Categorical, Any]:
        """The distribution of actions, and the values [n]."""
        if observation.dtype == torch.uint8:
            observation = observation.float() / 255
        features = self.features(observation)
        logits = self.actor(features)
        distribution = torch.distributions.Categorical(logits=logits, validate_args=False)
        return distribution, self.critic(features)[:, 0]

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decide as ``collect`` asks for it."""
        distribution, value = self.look(observation)
        action = distribution.sample()
        return {"action": action, "log_prob": distribution.log_prob(action), "value": value}


def train(
    tasks: Any, features: nn.Module | None, steps: int, warm_up_steps: int, num_splits: int
) -> dict[str, float]:
    """Seconds in all, and in the calls that begin and end the vector's steps; after a warm-up."""
    torch.manual_seed(0)
    space = tasks.observation_space
    agent = Agent(int(np.prod(space.shape)), int(tasks.action_spaces[0].n), features)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    buffer = RolloutBuffer(tasks, 128, device="cpu")

    def run(steps: int) -> None:
        for _ in range(max(1, steps // (buffer.horizon * len(tasks.sampler_ids)))):
            collect(tasks, agent, buffer, num_splits=num_splits)
            _update(agent, optimizer, buffer)

    run(warm_up_steps)
    calls = ["_step_into"] if num_splits == 1 else ["_send_into", "_recv_into"]
    inside = [time_calls(tasks, call) for call in calls]
    begin = time.perf_counter()
    run(steps)
    wall_s = time.perf_counter() - begin
    return {"wall_s": wall_s, "vector_s": sum(seconds() for seconds in inside)}


def _update(agent: Agent, optimizer: torch.optim.Optimizer, buffer: RolloutBuffer) -> None:
    buffer.returns_and_advantages(0.99, 0.95)
    for batch in buffer.minibatches(256, epochs=1, copy=False):
        distribution, value = agent.look(batch.observation)
        ratio = (distribution.log_prob(batch.action) - batch.kept["log_prob"]).exp()
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        policy_loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = policy_loss + 0.5 * (value - batch.returns).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
