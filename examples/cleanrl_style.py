"""PPO in one file, in CleanRL's way, on the adapter that is a gymnasium.vector.VectorEnv.

Run it: python examples/cleanrl_style.py --steps 100000
"""

from __future__ import annotations

import argparse
import time

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from vectasks.adapters.gymnasium import VectorEnv

NUM_ENVS, HORIZON = 8, 128
GAMMA, LAMBDA = 0.99, 0.95
NUM_EPOCHS, NUM_MINIBATCHES = 4, 4
LEARNING_RATE, CLIP, ENTROPY_WEIGHT, VALUE_WEIGHT, MAX_GRADIENT = 1e-3, 0.2, 0.01, 0.5, 0.5


def layer(num_in: int, num_out: int, gain: float = 2**0.5) -> nn.Linear:
    """A linear layer with orthogonal weights."""
    linear = nn.Linear(num_in, num_out)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """A policy and a value, in networks of their own."""

    def __init__(self, observation_size: int, num_actions: int) -> None:
        super().__init__()

        def network(num_out: int, gain: float) -> nn.Sequential:
            hidden = [layer(observation_size, 64), nn.Tanh(), layer(64, 64), nn.Tanh()]
            return nn.Sequential(*hidden, layer(64, num_out, gain))

        self.actor, self.critic = network(num_actions, 0.01), network(1, 1.0)

    def policy(self, observation: torch.Tensor) -> Categorical:
        """The distribution of actions."""
        return Categorical(logits=self.actor(observation))

    def value(self, observation: torch.Tensor) -> torch.Tensor:
        """The expected return: float32 [...]."""
        return self.critic(observation).squeeze(-1)


def main(num_steps: int) -> None:
    """Train for so many steps of the environments."""
    torch.set_num_threads(1)  # the network is small, and the workers want the cores
    torch.manual_seed(1)
    # In the mode "SameStep" every step is one of an episode: what the next episode shows first
    # comes with the step that ends one, whose own last observation is in the infos.
    envs = VectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * NUM_ENVS,
        autoreset_mode="SameStep",
        max_processes=2,
    )
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space.n)
    optimizer = torch.optim.Adam(agent.parameters(), LEARNING_RATE, eps=1e-5)

    observations = torch.zeros(HORIZON, NUM_ENVS, *envs.single_observation_space.shape)
    actions = torch.zeros(HORIZON, NUM_ENVS, dtype=torch.int64)
    log_probs, rewards, values, dones = torch.zeros(4, HORIZON, NUM_ENVS)

    observation = torch.from_numpy(envs.reset(seed=1)[0])
    returns, return_so_far = [0.0], np.zeros(NUM_ENVS)
    num_updates = max(1, num_steps // (HORIZON * NUM_ENVS))
    start_s = time.perf_counter()
    for update in range(1, num_updates + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - (update - 1) / num_updates)

        for t in range(HORIZON):
            with torch.no_grad():
                policy = agent.policy(observation)
                action = policy.sample()
                values[t] = agent.value(observation)
            observations[t], actions[t], log_probs[t] = observation, action, policy.log_prob(action)

            following, reward, terminated, truncated, infos = envs.step(action.numpy())
            done = terminated | truncated
            return_so_far += reward
            returns += return_so_far[done].tolist()
            return_so_far[done] = 0
            if truncated.any():  # the episode would have gone on: add what it was still worth
                last = torch.from_numpy(np.stack(infos["final_obs"][truncated]))
                with torch.no_grad():
                    reward[truncated] += GAMMA * agent.value(last).numpy()
            rewards[t], dones[t] = torch.from_numpy(reward), torch.from_numpy(done)
            observation = torch.from_numpy(following)

        with torch.no_grad():
            advantages = torch.zeros(HORIZON, NUM_ENVS)
            next_value, advantage = agent.value(observation), torch.zeros(NUM_ENVS)
            for t in reversed(range(HORIZON)):
                goes_on = 1 - dones[t]
                delta = rewards[t] + GAMMA * goes_on * next_value - values[t]
                advantage = delta + GAMMA * LAMBDA * goes_on * advantage
                advantages[t], next_value = advantage, values[t]
            targets = advantages + values

        batch = [part.flatten(0, 1) for part in (observations, actions, log_probs, advantages)]
        for _ in range(NUM_EPOCHS):
            for rows in torch.randperm(HORIZON * NUM_ENVS).chunk(NUM_MINIBATCHES):
                seen, chosen, old_log_prob, gain = (part[rows] for part in batch)
                policy = agent.policy(seen)
                ratio = (policy.log_prob(chosen) - old_log_prob).exp()
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                policy_loss = -torch.min(gain * ratio, gain * ratio.clamp(1 - CLIP, 1 + CLIP))
                value_loss = (agent.value(seen) - targets.flatten()[rows]).square() / 2
                loss = (policy_loss + VALUE_WEIGHT * value_loss).mean()
                loss = loss - ENTROPY_WEIGHT * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRADIENT)
                optimizer.step()

        if update % 10 == 0 or update == num_updates:
            steps = update * HORIZON * NUM_ENVS
            speed = steps / (time.perf_counter() - start_s)
            print(f"{steps} steps, {speed:.0f} a second: return {np.mean(returns[-20:]):.1f}")
    envs.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    main(parser.parse_args().steps)
