"""CleanRL's PPO loop over a Gymnasium vector, set as ``train_once`` sets SB3's.

It follows CleanRL's ``ppo.py``: rollouts in tensors, actions to numpy and back every step, one
policy for all environments; the network is ``own_loop``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.own_loop import Agent

_NUM_STEPS, _MINIBATCH = 128, 256
_GAMMA, _LAMBDA, _CLIP = 0.99, 0.95, 0.2


def learner(envs: Any, features: nn.Module | None) -> tuple[Callable[[], None], nn.Module]:
    """Begin a training.

    Args:
        envs: a ``gymnasium.vector.VectorEnv``; it is reset here.
        features: of images, to 64 numbers; None for small vectors.

    Returns:
        what makes a rollout and learns from it, and the network.
    """
    torch.manual_seed(0)
    shape, num_envs = envs.single_observation_space.shape, envs.num_envs
    agent = Agent(int(np.prod(shape)), int(envs.single_action_space.n), features)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    obs = torch.zeros((_NUM_STEPS, num_envs, *shape), dtype=_dtype(envs))
    actions = torch.zeros((_NUM_STEPS, num_envs), dtype=torch.int64)
    logprobs, rewards, dones, values = torch.zeros((4, _NUM_STEPS, num_envs))
    next_obs = torch.as_tensor(envs.reset(seed=0)[0])
    next_done = torch.zeros(num_envs)

    def learn() -> None:
        nonlocal next_obs, next_done
        for step in range(_NUM_STEPS):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                told = agent(next_obs)
            actions[step], logprobs[step] = told["action"], told["log_prob"]
            values[step] = told["value"]
            seen, reward, terminations, truncations, _ = envs.step(told["action"].numpy())
            rewards[step] = torch.as_tensor(reward)
            next_done = torch.as_tensor(np.logical_or(terminations, truncations)).float()
            next_obs = torch.as_tensor(seen)
        with torch.no_grad():
            next_value = agent(next_obs)["value"]
        advantages = torch.zeros_like(rewards)
        last = torch.zeros(num_envs)
        for t in reversed(range(_NUM_STEPS)):
            is_last = t == _NUM_STEPS - 1
            goes_on = 1 - (next_done if is_last else dones[t + 1])
            following = next_value if is_last else values[t + 1]
            delta = rewards[t] + _GAMMA * following * goes_on - values[t]
            advantages[t] = last = delta + _GAMMA * _LAMBDA * goes_on * last
        flat = (obs, actions, logprobs, advantages, advantages + values)
        _update(agent, optimizer, *(tensor.flatten(0, 1) for tensor in flat))

    return learn, agent


def _update(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    obs: torch.Tensor,
    actions: torch.Tensor,
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
) -> None:
    for rows in torch.randperm(len(actions)).split(_MINIBATCH):
        distribution, value = agent.look(obs[rows])
        ratio = (distribution.log_prob(actions[rows]) - logprobs[rows]).exp()
        advantage = (advantages[rows] - advantages[rows].mean()) / (advantages[rows].std() + 1e-8)
        clipped = ratio.clamp(1 - _CLIP, 1 + _CLIP)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        loss = policy_loss + 0.5 * (value - returns[rows]).square().mean()
        loss = loss - 0.01 * distribution.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()


def _dtype(envs: Any) -> torch.dtype:
    return torch.uint8 if envs.single_observation_space.dtype == np.uint8 else torch.float32
