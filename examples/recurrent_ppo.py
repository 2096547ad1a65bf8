"""Recurrent PPO: a sign at the start of a corridor tells which way to turn at its end.

Run it: python examples/recurrent_ppo.py

``ppo.py`` is the same without a memory. Without one, half of the turns here would be wrong.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from vectasks import COMPLETE_TASK_METRICS_KEY, RLStepResult, Task, TaskSampler, VectorSampledTasks
from vectasks.rollouts import Minibatch, RolloutBuffer, collect

GOAL, MAX_STEPS = 0.95, 300_000  # the goal: how many of the last 200 turns are right
NUM_SAMPLERS, HORIZON, NUM_UNITS = 16, 64, 32
EPOCHS, SAMPLERS_A_BATCH = 4, 4
LEARNING_RATE, GAMMA, LAM, CLIP, ENTROPY = 3e-3, 0.99, 0.95, 0.2, 0.01


class Corridor(Task[None]):
    """Observes (sign, at the end): the sign, -1 or 1, in the first step alone, else 0."""

    def __init__(self, rng: np.random.Generator) -> None:
        space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        super().__init__(None, observation_space=space)
        self.sign, self.length = int(rng.choice([-1, 1])), int(rng.integers(5, 11))
        self.position, self.turned_right = 0, False

    @property
    def action_space(self) -> spaces.Discrete:
        """Left or right; it matters at the end alone."""
        return spaces.Discrete(2)

    def get_observations(self) -> np.ndarray:
        """Return what is seen from here."""
        sign = self.sign if self.position == 0 else 0
        return np.array([sign, self.position >= self.length], np.float32)

    def _step(self, action: int) -> RLStepResult:
        is_turn = self.position == self.length
        is_right = is_turn and (action == 1) == (self.sign == 1)
        self.position += 1
        return RLStepResult(self.get_observations(), float(is_right), is_turn, {})


class CorridorSampler(TaskSampler[Corridor]):
    """Corridors of five to ten steps."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def next_task(self, **kwargs: Any) -> Corridor:
        """The next one; there is always one."""
        return Corridor(self.rng)

    def set_seed(self, seed: int) -> None:
        """Seed the corridors that follow."""
        self.rng = np.random.default_rng(seed)


class Agent(nn.Module):
    """A GRU under an actor and a critic; its state is the memory that the buffer keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, NUM_UNITS), nn.Tanh())
        self.gru = nn.GRUCell(NUM_UNITS, NUM_UNITS)
        self.actor, self.critic = nn.Linear(NUM_UNITS, 2), nn.Linear(NUM_UNITS, 1)
        for layer, gain in ((self.encoder[0], 2**0.5), (self.actor, 0.01), (self.critic, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def remember(self, observation: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """The next memory."""
        state: torch.Tensor = self.gru(self.encoder(observation), memory)
        return state

    def forward(self, observation: torch.Tensor, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step, as ``collect`` asks for it; the memory is zero where an episode starts."""
        memory = self.remember(observation, memory)
        distribution = self.distribution(memory)
        action = distribution.sample()
        return {
            "action": action,
            "log_prob": distribution.log_prob(action),
            "value": self.critic(memory)[..., 0],
            "memory": memory,
        }

    def value(self, observation: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Estimate the values of observations."""
        values: torch.Tensor = self.critic(self.remember(observation, memory))[..., 0]
        return values

    def distribution(self, memory: torch.Tensor) -> torch.distributions.Categorical:
        """Of the actions."""
        return torch.distributions.Categorical(logits=self.actor(memory), validate_args=False)

    def remember_all(self, batch: Minibatch) -> torch.Tensor:
        """Go through whole sequences again: memories [horizon, n, units]."""
        memory, memories = batch.memory, []
        goes_on = (~batch.episode_start).float()[..., None]
        for t in range(len(batch.observation)):
            memory = self.remember(batch.observation[t], memory * goes_on[t])
            memories.append(memory)
        return torch.stack(memories)


def update(agent: Agent, optimizer: Any, buffer: RolloutBuffer) -> None:
    """Some epochs over one rollout, in batches of whole columns."""
    buffer.returns_and_advantages(GAMMA, LAM)
    for batch in buffer.sequences(SAMPLERS_A_BATCH, epochs=EPOCHS, rng=shuffler, copy=False):
        memories = agent.remember_all(batch)
        distribution = agent.distribution(memories)
        ratio = (distribution.log_prob(batch.action) - batch.kept["log_prob"]).exp()
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = (agent.critic(memories)[..., 0] - batch.returns).square().mean()
        optimizer.zero_grad()
        (policy_loss + 0.5 * value_loss - ENTROPY * distribution.entropy().mean()).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=MAX_STEPS, help="at most")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)  # networks this small are slower on more
shuffler = np.random.default_rng(args.seed)

with VectorSampledTasks(
    CorridorSampler,
    [{}] * NUM_SAMPLERS,
    seed=args.seed,
    max_processes=min(os.cpu_count() or 1, NUM_SAMPLERS),
) as tasks:
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    buffer = RolloutBuffer(tasks, HORIZON, memory_shape=(NUM_UNITS,), device="cpu")
    turns: deque[float] = deque(maxlen=200)
    started_s = time.perf_counter()

    steps_a_rollout = HORIZON * NUM_SAMPLERS
    for rollout in range(1, max(1, args.steps // steps_a_rollout) + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (
            1 - (rollout - 1) * steps_a_rollout / MAX_STEPS
        )
        ends = collect(tasks, agent, buffer)
        update(agent, optimizer, buffer)

        turns.extend(end.info[COMPLETE_TASK_METRICS_KEY]["reward"] for end in ends)
        share = np.mean(turns)
        solved = len(turns) == turns.maxlen and share >= GOAL
        if solved or rollout % 10 == 1:
            steps, elapsed_s = rollout * steps_a_rollout, time.perf_counter() - started_s
            print(f"{steps} steps, {elapsed_s:.1f} s: {share:.0%} of turns are right", flush=True)
        if solved:
            print("It remembers.")
            break
