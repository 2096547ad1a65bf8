"""One training run, by the interpreter of SB3's environment.

``python -m benchmarks.train_once JOB``, a JSON object with ``workload``, ``vector``, ``steps`` and
``answers``, a file descriptor that gets the answer as a line of JSON: seconds in all and seconds in
the vector.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from benchmarks.gym_envs import atari_env
from benchmarks.stopwatch import time_calls

NUM_ENVS = 8
_WARM_UP_STEPS = 64  # of each environment
_TURN_STEPS = 1024  # of all environments together: one of PPO's rollouts


def make_env(workload: str) -> gymnasium.Env[Any, Any]:
    """CartPole as it is, Breakout as agents see it: four grey frames of 84x84."""
    return gymnasium.make("CartPole-v1") if workload == "CartPole" else atari_env(workload)


def plain_loop(workload: str, steps: int) -> dict[str, float]:
    """Step one environment after another, with random actions and no policy."""
    envs = [make_env(workload) for _ in range(NUM_ENVS)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    actions = np.random.default_rng(0).integers(envs[0].action_space.n, size=steps).tolist()

    def run(actions: list[int]) -> None:
        for number, action in enumerate(actions):
            env = envs[number % NUM_ENVS]
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    run(actions[: _WARM_UP_STEPS * NUM_ENVS])
    begin = time.perf_counter()
    run(actions)
    seconds = time.perf_counter() - begin
    return {"wall_s": seconds, "vector_s": seconds}


def sb3(workload: str, vector: str, steps: int) -> dict[str, float]:
    """SB3's PPO over a vector of its own or of ours."""
    model = _sb3_model(workload, vector)
    inside = time_calls(model.env, "step")
    begin = time.perf_counter()
    model.learn(steps)
    wall_s = time.perf_counter() - begin
    model.env.close()
    return {"wall_s": wall_s, "vector_s": inside()}


class Learner(NamedTuple):
    """A training: what makes a rollout and learns from it, its network, and its end."""

    learn: Callable[[], Any]
    network: Any
    close: Callable[[], None]


def in_turns(
    trainer: str, workload: str, ours: str, against: str, steps: int
) -> dict[str, list[float]]:
    """Train over two vectors in turns, so that both see the same machine.

    Returns:
        of each turn of ``_TURN_STEPS``, how many times as long as ``against`` ``ours`` took.

    On CartPole both have the same random numbers and must learn the same, so that the same
    episodes end.
    """
    import torch

    torch.set_num_threads(1)
    make = {"SB3": _sb3_learner, "CleanRL": _cleanrl_learner}[trainer]
    learners, numbers = {}, {}
    for vector in (against, ours):
        learners[vector] = make(workload, vector)
        numbers[vector] = torch.get_rng_state(), np.random.get_state()
    ratios = []
    for turn in range(steps // _TURN_STEPS):
        wall_s = {}
        for vector in learners if turn % 2 else reversed(learners):
            torch.set_rng_state(numbers[vector][0])
            np.random.set_state(numbers[vector][1])
            begin = time.perf_counter()
            learners[vector].learn()
            wall_s[vector] = time.perf_counter() - begin
            numbers[vector] = torch.get_rng_state(), np.random.get_state()
        ratios.append(wall_s[ours] / wall_s[against])
    learned = [list(learner.network.parameters()) for learner in learners.values()]
    if workload == "CartPole" and not all(map(torch.equal, *learned)):
        raise RuntimeError("the two did not learn the same")
    for learner in learners.values():
        learner.close()
    return {"ratios": ratios}


def _sb3_learner(workload: str, vector: str) -> Learner:
    model = _sb3_model(workload, vector)

    def learn() -> None:
        model.learn(_TURN_STEPS, reset_num_timesteps=False)

    return Learner(learn, model.policy, model.env.close)


def _cleanrl_learner(workload: str, vector: str) -> Learner:
    from benchmarks.cleanrl_loop import learner

    def make_recorded() -> Any:  # as CleanRL does
        return gymnasium.wrappers.RecordEpisodeStatistics(make_env(workload))

    env_fns: list[Callable[[], Any]] = [make_recorded] * NUM_ENVS
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    if vector == "SyncVectorEnv":
        envs: Any = gymnasium.vector.SyncVectorEnv(env_fns, autoreset_mode=mode)
    elif vector == "AsyncVectorEnv":
        envs = gymnasium.vector.AsyncVectorEnv(env_fns, autoreset_mode=mode)
    else:
        from vectasks.adapters.gymnasium import VectorEnv

        count = _suggested_processes(workload, vector)
        envs = VectorEnv(env_fns, autoreset_mode=mode, max_processes=count)
    shape = envs.single_observation_space.shape
    learn, network = learner(envs, None if workload == "CartPole" else _convolutions(shape))
    learn()
    return Learner(learn, network, envs.close)


def _sb3_model(workload: str, vector: str) -> Any:
    """SB3's PPO, warmed up."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    torch.set_num_threads(1)
    env_fns: list[Callable[[], Any]] = [lambda: make_env(workload)] * NUM_ENVS
    if vector == "DummyVecEnv":
        envs: Any = DummyVecEnv(env_fns)
    elif vector == "SubprocVecEnv":
        envs = SubprocVecEnv(env_fns)
    else:
        from vectasks.adapters.sb3 import VecEnv

        if vector.endswith("AtariTaskSampler"):
            envs = VecEnv(_vectasks(workload, vector))
        else:
            envs = VecEnv(env_fns, max_processes=_suggested_processes(workload, vector))
    model = PPO(
        "MlpPolicy" if workload == "CartPole" else "CnnPolicy",
        envs,
        n_steps=128,
        n_epochs=1,
        batch_size=256,
        policy_kwargs=None if workload == "CartPole" else _tiny_cnn(),
        seed=0,
        device="cpu",
    )
    # One of its own would make a folder at every learn(), and leave it.
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(_WARM_UP_STEPS * NUM_ENVS)
    return model


def own_loop(workload: str, vector: str, steps: int) -> dict[str, float]:
    """PPO over ``collect`` and a ``RolloutBuffer``."""
    import torch

    from benchmarks.own_loop import train

    torch.set_num_threads(1)
    with _vectasks(workload, vector) as tasks:
        shape = tasks.observation_space.shape
        features = None if workload == "CartPole" else _convolutions(shape)
        num_splits = 2 if vector.endswith("2 splits") else 1
        return train(tasks, features, steps, _WARM_UP_STEPS * NUM_ENVS, num_splits)


def _vectasks(workload: str, vector: str) -> Any:
    """The in-process vector, or as many processes as are suggested."""
    from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks

    make_sampler, arguments = _samplers(workload, vector)
    processes = _suggested_processes(workload, vector)
    if processes == 0:
        return SingleProcessVectorSampledTasks(make_sampler, arguments, should_log=False)
    return VectorSampledTasks(make_sampler, arguments, max_processes=processes, should_log=False)


def _suggested_processes(workload: str, vector: str) -> int:
    from vectasks import suggest_max_processes

    return suggest_max_processes(*_samplers(workload, vector)).max_processes


def _samplers(workload: str, vector: str) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
    from vectasks.envs import AtariTaskSampler, GymnasiumTaskSampler

    def make_sampler(env_fn: Callable[[], Any]) -> Any:
        return GymnasiumTaskSampler(env_fn, seed_each_episode=False)

    if vector.endswith("AtariTaskSampler"):  # what make_env gives, without Gymnasium
        stacked: dict[str, Any] = {
            "game": workload,
            "obs_type": "stacked",
            "seed_each_episode": False,
        }
        stacked["repeat_action_probability"] = 0.0
        return AtariTaskSampler, [stacked] * NUM_ENVS
    return make_sampler, [{"env_fn": lambda: make_env(workload)}] * NUM_ENVS


def _tiny_cnn() -> dict[str, Any]:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class TinyCNN(BaseFeaturesExtractor):
        """Two convolutions: what is measured is not the policy."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, features_dim=64)
            self.layers = _convolutions(space.shape)

        def forward(self, observations: Any) -> Any:
            return self.layers(observations)

    return {"features_extractor_class": TinyCNN}


def _convolutions(shape: tuple[int, ...]) -> Any:
    """Images [n, *shape] to features [n, 64]."""
    from torch import nn, zeros

    layers = nn.Sequential(
        nn.Conv2d(shape[0], 8, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(8, 8, 4, stride=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(64),
    )
    layers(zeros(1, *shape))
    return layers


def main() -> None:
    """Train and write the answer."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    if job["vector"] == "plain loop":
        answer: dict[str, Any] = plain_loop(job["workload"], job["steps"])
    elif job["vector"].startswith("vectasks collect"):
        answer = own_loop(job["workload"], job["vector"], job["steps"])
    elif "against" in job:
        keys = ("trainer", "workload", "vector", "against", "steps")
        answer = in_turns(*(job[key] for key in keys))
    else:
        answer = sb3(job["workload"], job["vector"], job["steps"])
    with os.fdopen(job["answers"], "w") as answers:
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
