"""PPO with rollouts from several machines: a Ray actor a node, each with a vector of its own.

Run it: python examples/ray_ppo.py --nodes 2        # two nodes on this machine; CartPole-v1
        python examples/ray_ppo.py --address auto   # a cluster that runs already

An actor steps its vector on the shared memory of its node, and ships whole rollouts with their
advantages: a call of an actor costs about a millisecond, a step of a vector some microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "--address" not in " ".join(sys.argv):
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's way to say: loopback only

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster
from torch import nn

from vectasks import VectorSampledTasks
from vectasks.envs import GymnasiumTaskSampler
from vectasks.rollouts.episodes import Rollout, RolloutRunner
from vectasks.rollouts.scheduler import Scheduler

NUM_SAMPLERS, HORIZON, EPOCHS, BATCH_SIZE = 8, 64, 8, 256
LEARNING_RATE, GAMMA, LAM, CLIP, GOAL = 2e-3, 0.98, 0.9, 0.2, 475.0


class Agent(nn.Module):
    """Chooses actions and values observations."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
        self.critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))

    def distribution(self, observation: torch.Tensor) -> torch.distributions.Categorical:
        """Of the actions."""
        return torch.distributions.Categorical(logits=self.actor(observation), validate_args=False)

    def value(self, observation: torch.Tensor) -> torch.Tensor:
        """Estimate the values of observations: [n]."""
        values: torch.Tensor = self.critic(observation)[..., 0]
        return values

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decide as ``collect`` asks for it, on the nodes."""
        distribution = self.distribution(observation)
        action = distribution.sample()
        log_prob = distribution.log_prob(action)
        return {"action": action, "log_prob": log_prob, "value": self.value(observation)}


def make_runner() -> RolloutRunner:
    """Runs on the nodes: a vector, a copy of the agent, and a buffer that workers write into."""
    torch.set_num_threads(1)

    def make_tasks() -> VectorSampledTasks:
        arguments = [{"env": "CartPole-v1"}] * NUM_SAMPLERS
        return VectorSampledTasks(GymnasiumTaskSampler, arguments, max_processes=1)

    return RolloutRunner(
        make_tasks, policy=Agent(), horizon=HORIZON, gamma=GAMMA, lam=LAM, device="cpu"
    )


def update(agent: Agent, optimizer: Any, rollouts: list[Rollout]) -> None:
    """Some epochs over the rollouts of all nodes."""

    def column(pick: Any) -> torch.Tensor:
        arrays = [np.asarray(pick(rollout)) for rollout in rollouts]
        return torch.from_numpy(np.concatenate([a.reshape(-1, *a.shape[2:]) for a in arrays]))

    observation, action = column(lambda r: r.observations), column(lambda r: r.actions)
    old_log_prob = column(lambda r: r.kept["log_prob"])
    advantage, returns = column(lambda r: r.advantages), column(lambda r: r.returns)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(action)).split(BATCH_SIZE):
            ratio = agent.distribution(observation[index]).log_prob(action[index])
            ratio = (ratio - old_log_prob[index]).exp()
            gain = advantage[index]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            value_loss = (agent.value(observation[index]) - returns[index]).square().mean()
            optimizer.zero_grad()
            (policy_loss + 0.5 * value_loss).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def returns_of(rollouts: list[Rollout]) -> list[float]:
    """Of the episodes that ended."""
    episodes: list[Mapping[str, Any]] = [e for rollout in rollouts for e in rollout.episodes]
    return [episode["reward"] for episode in episodes]


async def train(num_nodes: int, num_steps: int) -> None:
    """Train with a runner a node until CartPole is solved, or for so many steps."""
    torch.manual_seed(1)
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    returns: deque[float] = deque(maxlen=100)
    steps = 0
    async with Scheduler(
        make_runner,
        num_runners=num_nodes,
        backend="ray",
        resources={"num_cpus": 1, "scheduling_strategy": "SPREAD"},
        max_timeout=60,
    ) as scheduler:
        for iteration in range(max(1, num_steps // (HORIZON * NUM_SAMPLERS * num_nodes))):
            scheduler.schedule([agent.state_dict()] * num_nodes, iteration)
            statuses, rollouts = await scheduler.get_results(iteration)
            if not all(status.ok for status in statuses):  # a node was lost, and found no other
                print([status.message for status in statuses])
            update(agent, optimizer, rollouts)
            steps += sum(rollout.actions.size for rollout in rollouts)
            returns.extend(returns_of(rollouts))
            solved = len(returns) == returns.maxlen and np.mean(returns) >= GOAL
            if solved or iteration % 10 == 0:
                print(f"{steps} steps: mean return {np.mean(returns or [0]):.1f}", flush=True)
            if solved:
                print("CartPole-v1 is solved.")
                break


def main() -> None:
    """Start nodes on this machine, or use the cluster that there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--address", help="of a cluster; without it, nodes on this machine")
    args = parser.parse_args()
    cluster = None
    if args.address is None:
        node = {
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 100_000_000,
        }
        cluster = Cluster(initialize_head=True, head_node_args=node)
        for _ in range(args.nodes - 1):
            cluster.add_node(**node)
    ray.init(address=cluster.address if cluster else args.address, log_to_driver=False)
    try:
        asyncio.run(train(args.nodes, args.steps))
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


if __name__ == "__main__":
    main()
