"""Train TorchRL's PPO on CartPole, with the environments in worker processes.

Run it: python examples/torchrl_ppo.py --steps 100000
"""

from __future__ import annotations

import argparse

import gymnasium
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import Compose, RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from vectasks.adapters.torchrl import Env

NUM_ENVS, HORIZON = 8, 128
NUM_EPOCHS, BATCH_SIZE = 4, 256


def network(num_in: int, num_out: int) -> nn.Sequential:
    """A small network."""
    hidden = [nn.Linear(num_in, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(64, num_out))


def main(num_steps: int) -> None:
    """Train for so many steps of the environments."""
    torch.set_num_threads(1)  # the network is small, and the workers want the cores
    torch.manual_seed(1)
    envs = Env(
        [lambda: gymnasium.make("CartPole-v1")] * NUM_ENVS,
        categorical_action_encoding=True,
        max_processes=2,
    )
    envs.set_seed(1)
    num_in, num_actions = envs.observation_spec["observation"].shape[-1], envs.action_spec.space.n
    actor = ProbabilisticActor(
        TensorDictModule(network(num_in, num_actions), ["observation"], ["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(num_in, 1), in_keys=["observation"])
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss_of.parameters(), 2.5e-3)

    frames = NUM_ENVS * HORIZON
    num_updates = max(1, num_steps // frames)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames),
        sampler=SamplerWithoutReplacement(),
        batch_size=BATCH_SIZE,
    )
    collector = Collector(
        TransformedEnv(envs, Compose(RewardSum())),
        actor,
        frames_per_batch=frames,
        total_frames=num_updates * frames,
        auto_register_policy_transforms=True,
    )
    for update, data in enumerate(collector, 1):
        advantage(data)
        buffer.extend(data.reshape(-1))
        for _ in range(NUM_EPOCHS):
            for batch in buffer:
                losses = loss_of(batch)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
                optimizer.step()
        returns = data["next", "episode_reward"][data["next", "done"]]
        if len(returns) > 0 and (update % 10 == 0 or update == num_updates):
            print(f"{update * frames} steps: return {returns.mean():.1f}")
    collector.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    main(parser.parse_args().steps)
