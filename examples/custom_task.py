"""A task of your own, checked, and a policy in nothing but numpy that learns it.

Run it: python examples/custom_task.py

A cart on a line is pushed to a flag. Its observation has two parts; it is written in place,
straight into the memory that worker and trainer share.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from gymnasium import spaces

from vectasks import COMPLETE_TASK_METRICS_KEY, RLStepResult, Task, TaskSampler, VectorSampledTasks
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.testing import TaskSamplerContract

GOAL, MAX_STEPS = 0.95, 400_000  # the goal: how many of the last episodes end at the flag
NUM_SAMPLERS, HORIZON, LEARNING_RATE = 16, 64, 0.1


class PushCart(Task[None]):
    """Push a cart left, not at all or right, until it stands at the flag."""

    space = spaces.Dict(
        {
            "cart": spaces.Box(-9.0, 9.0, (2,), np.float32),  # position, velocity
            "flag": spaces.Box(-2.0, 2.0, (1,), np.float32),  # position
        }
    )

    def __init__(self, cart: float, flag: float) -> None:
        super().__init__(None, {"flag": flag}, max_steps=60, observation_space=self.space)
        self.position, self.velocity, self.flag = cart, 0.0, flag

    @property
    def action_space(self) -> spaces.Discrete:
        """Left, not at all, right."""
        return spaces.Discrete(3)

    def reached_terminal_state(self) -> bool:
        """Tell whether the cart stands at the flag; the time limit is ``max_steps``, above."""
        return abs(self.position - self.flag) < 0.15 and abs(self.velocity) < 0.15

    def _step(self, action: int) -> RLStepResult:
        self.velocity = 0.9 * self.velocity + 0.1 * (action - 1)
        self.position = float(np.clip(self.position + self.velocity, -9.0, 9.0))
        reward = 1.0 if self.reached_terminal_state() else -0.02
        # None: write_observation() is asked instead, and nothing is copied.
        return RLStepResult(None, reward, self.reached_terminal_state(), {})

    def write_observation(self, out: dict[str, np.ndarray]) -> None:
        """Write what is seen into the arrays of ``out``, nested as the space."""
        out["cart"][:] = self.position, self.velocity
        out["flag"][:] = self.flag

    def get_observations(self) -> dict[str, np.ndarray]:
        """The same in new arrays, where there are none to write into."""
        out = {"cart": np.empty(2, np.float32), "flag": np.empty(1, np.float32)}
        self.write_observation(out)
        return out

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> np.ndarray:
        """The line from -4 to 4, uint8 [20, 160, 3]: the flag is red, the cart white."""
        image = np.zeros((20, 160, 3), np.uint8)
        for place, colour in ((self.flag, (255, 0, 0)), (self.position, (255, 255, 255))):
            column = int(np.clip(80 + 20 * place, 2, 157))
            image[8:, column - 2 : column + 3] = colour
        return image

    def metrics(self) -> dict[str, Any]:
        """Return the figures of an episode at its end."""
        return {**super().metrics(), "success": self.reached_terminal_state()}


class PushCartSampler(TaskSampler[PushCart]):
    """A new place for the cart and the flag in every task."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()
        self._last: PushCart | None = None

    @property
    def last_sampled_task(self) -> PushCart | None:
        """The newest task."""
        return self._last

    def next_task(self, **kwargs: Any) -> PushCart:
        """The next task; there is always one."""
        flag, away = float(self.rng.uniform(-2.0, 2.0)), float(self.rng.uniform(0.5, 2.0))
        self._last = PushCart(flag + away * float(self.rng.choice([-1.0, 1.0])), flag)
        return self._last

    def set_seed(self, seed: int) -> None:
        """Seed the tasks that follow."""
        self.rng = np.random.default_rng(seed)


class LinearPolicy:
    """Chooses an action by a softmax, and values what it sees, both over a few features."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.actor, self.critic = np.zeros((4, 3)), np.zeros(4)

    @staticmethod
    def features(observation: dict[str, np.ndarray]) -> np.ndarray:
        """The way to the flag, its length, the velocity and a one: [n, 4]."""
        way = observation["flag"][..., 0] - observation["cart"][..., 0]
        velocity = 5.0 * observation["cart"][..., 1]
        return np.stack([way, np.abs(way), velocity, np.ones_like(way)], axis=-1)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Of the actions: [n, 3]."""
        logits = features @ self.actor
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def __call__(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decide as ``collect`` asks for it."""
        features = self.features(observation)
        thresholds = self.probabilities(features).cumsum(-1)[:, :2]
        action = (self.rng.random((len(features), 1)) > thresholds).sum(-1)
        return {"action": action, "value": features @ self.critic}

    def learn(self, buffer: RolloutBuffer) -> None:
        """One step up the policy gradient, one toward the returns."""
        returns, advantages = buffer.returns_and_advantages(gamma=0.97, lam=0.95)
        features = self.features(buffer.observations)
        chosen = np.eye(3)[buffer.actions] - self.probabilities(features)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        errors = returns - features @ self.critic
        self.actor += (
            LEARNING_RATE
            * np.einsum("tnf,tna,tn->fa", features, chosen, advantages)
            / (advantages.size)
        )
        self.critic += LEARNING_RATE * np.einsum("tnf,tn->f", features, errors) / errors.size


class TestPushCart(TaskSamplerContract):
    """Under pytest, this class checks the sampler against all that samplers must keep."""

    def make_task_sampler(self) -> PushCartSampler:
        """A new one for every check."""
        return PushCartSampler()


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=MAX_STEPS, help="at most")
parser.add_argument("--seed", type=int, default=1)


def main() -> None:
    """Learn."""
    args = parser.parse_args()
    successes: list[bool] = []
    policy = LinearPolicy(np.random.default_rng(args.seed))
    arguments: list[dict[str, Any]] = [{}] * NUM_SAMPLERS
    with VectorSampledTasks(PushCartSampler, arguments, seed=args.seed, max_processes=2) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        steps = 0
        while steps < args.steps and not (len(successes) > 100 and np.mean(successes) >= GOAL):
            ends = collect(tasks, policy, buffer)
            policy.learn(buffer)
            successes += [end.info[COMPLETE_TASK_METRICS_KEY]["success"] for end in ends]
            successes = successes[-200:]
            steps += HORIZON * NUM_SAMPLERS
    print(f"{steps} steps: {np.mean(successes):.0%} of the last episodes end at the flag")


if __name__ == "__main__":
    main()
