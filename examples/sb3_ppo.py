"""Train Stable-Baselines3's PPO on CartPole, with the environments in worker processes.

Run it: python examples/sb3_ppo.py --steps 100000
"""

from __future__ import annotations

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from vectasks.adapters.sb3 import VecEnv


def main(num_steps: int, num_envs: int = 8, num_processes: int = 2) -> None:
    """Train for so many steps of the environments, and say how good the policy is."""
    torch.set_num_threads(1)  # the network is small, and the workers want the cores
    # Without make_vec_env: VecEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs)
    envs = make_vec_env(
        "CartPole-v1",
        n_envs=num_envs,
        vec_env_cls=VecEnv,  # where SubprocVecEnv was
        vec_env_kwargs={"max_processes": num_processes},
    )
    model = PPO("MlpPolicy", envs, n_steps=128, batch_size=256, seed=1, device="cpu")
    model.learn(num_steps)
    mean, deviation = evaluate_policy(model, envs, n_eval_episodes=10)
    print(f"return of 10 episodes after {model.num_timesteps} steps: {mean:.1f} +- {deviation:.1f}")
    envs.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    main(parser.parse_args().steps)
