"""A task of your own, first in this process, then in two: the results are the same.

Run it: python examples/quickstart.py
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vectasks import (
    COMPLETE_TASK_METRICS_KEY,
    RLStepResult,
    SingleProcessVectorSampledTasks,
    Task,
    TaskSampler,
    VectorSampledTasks,
)

SIZE = 5


class FindGoal(Task[None]):
    """Walk over a grid of SIZE x SIZE fields to the goal."""

    moves = ((0, 1), (1, 0), (0, -1), (-1, 0))

    def __init__(self, start: np.ndarray, goal: np.ndarray) -> None:
        space = gymnasium.spaces.Box(0, SIZE - 1, shape=(2, 2), dtype=np.int64)
        super().__init__(None, {"goal": goal.tolist()}, max_steps=100, observation_space=space)
        self.position, self.goal = start, goal

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """One of four directions."""
        return gymnasium.spaces.Discrete(len(self.moves))

    def get_observations(self) -> np.ndarray:
        """Where one is and where the goal is: int64 [2, 2]."""
        return np.stack([self.position, self.goal])

    def reached_terminal_state(self) -> bool:
        """Tell whether one stands on the goal."""
        return bool((self.position == self.goal).all())

    def _step(self, action: int) -> RLStepResult:
        self.position = np.clip(self.position + self.moves[action], 0, SIZE - 1)
        done = self.reached_terminal_state()
        return RLStepResult(self.get_observations(), 1.0 if done else -0.1, done, {})


class FindGoalSampler(TaskSampler[FindGoal]):
    """A new start and a new goal for every task."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def next_task(self, **kwargs: Any) -> FindGoal:
        """The next task; there is always one."""
        start, goal = np.argwhere(np.ones((SIZE, SIZE)))[self.rng.choice(SIZE**2, 2, replace=False)]
        return FindGoal(start, goal)

    def set_seed(self, seed: int) -> None:
        """Seed the tasks that follow."""
        self.rng = np.random.default_rng(seed)


def returns(
    tasks: VectorSampledTasks | SingleProcessVectorSampledTasks, num_steps: int
) -> list[float]:
    """The returns of all episodes that end within so many steps of random walking."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num_steps):
        for result in tasks.step(rng.integers(4, size=tasks.num_unpaused_tasks)):
            if result.done:
                found.append(result.info[COMPLETE_TASK_METRICS_KEY]["reward"])
    return found


arguments: list[dict[str, Any]] = [{} for _ in range(4)]

with SingleProcessVectorSampledTasks(FindGoalSampler, arguments, seed=7) as tasks:
    here = returns(tasks, num_steps=300)

with VectorSampledTasks(FindGoalSampler, arguments, seed=7, max_processes=2) as tasks:
    there = returns(tasks, num_steps=300)

print(f"in this process: {len(here)} episodes, mean return {np.mean(here):.3f}")
print(f"in two others:   {len(there)} episodes, mean return {np.mean(there):.3f}")
if here != there:
    raise SystemExit("The returns differ, and they should not.")
