"""A curriculum over mazes whose generation is slow: levels are chosen by learning progress.

Run it: python examples/curriculum.py                             # half a minute
        python examples/curriculum.py --picture curriculum.png    # which levels were played when
        python examples/curriculum.py --trace trace.json          # for ui.perfetto.dev

Making a level takes about as long as 30 steps of all samplers: of many random mazes the one whose
solution has the wanted length is kept. Spares make each sampler's next level while it plays
(``prepared_tasks``). One source of levels is shared by all samplers and hears of every episode.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces

from vectasks import RLStepResult, Task, TaskSampler, VectorSampledTasks
from vectasks.sources import LearningProgressTasks

SIZE = 11  # cells a side, walls included
NUM_LEVELS = 16  # the solution of level k has about 4 + 2 k steps
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def random_maze(rng: np.random.Generator) -> np.ndarray:
    """Carve a maze: True where one can walk."""
    is_free = np.zeros((SIZE, SIZE), bool)
    stack = [(1, 1)]
    is_free[1, 1] = True
    while stack:
        y, x = stack[-1]
        steps = [(2 * dy, 2 * dx) for dy, dx in MOVES]
        ahead = [
            (y + dy, x + dx)
            for dy, dx in steps
            if 0 < y + dy < SIZE - 1 and 0 < x + dx < SIZE - 1 and not is_free[y + dy, x + dx]
        ]
        if not ahead:
            stack.pop()
            continue
        there = ahead[rng.integers(len(ahead))]
        is_free[(y + there[0]) // 2, (x + there[1]) // 2] = is_free[there] = True
        stack.append(there)
    return is_free


def distances(is_free: np.ndarray) -> dict[tuple[int, int], int]:
    """How far each cell is from the start."""
    found = {(1, 1): 0}
    queue = deque(found)
    while queue:
        y, x = queue.popleft()
        for dy, dx in MOVES:
            cell = (y + dy, x + dx)
            if is_free[cell] and cell not in found:
                found[cell] = found[y, x] + 1
                queue.append(cell)
    return found


class Maze(Task[Any]):
    """Find the goal. Observes (level, cell)."""

    observation_space = spaces.MultiDiscrete([NUM_LEVELS, SIZE * SIZE])
    action_space = spaces.Discrete(4)

    def __init__(self, level: int, is_free: np.ndarray, goal: tuple[int, int], seed: int) -> None:
        super().__init__(env=None, task_info={"level": level}, max_steps=120)
        self.level, self.is_free, self.goal, self.cell = level, is_free, goal, (1, 1)

    def get_observations(self) -> np.ndarray:
        """The level, and where one is."""
        return np.array([self.level, self.cell[0] * SIZE + self.cell[1]])

    def reached_terminal_state(self) -> bool:
        """At the goal."""
        return self.cell == self.goal

    def _step(self, action: int) -> RLStepResult:
        there = (self.cell[0] + MOVES[action][0], self.cell[1] + MOVES[action][1])
        if self.is_free[there]:
            self.cell = there
        reward = 1.0 if self.cell == self.goal else -0.01
        return RLStepResult(self.get_observations(), reward, None, {})

    def metrics(self) -> dict[str, Any]:
        """Whether the goal was reached."""
        return {**super().metrics(), "success": float(self.cell == self.goal)}


class Mazes(TaskSampler[Maze]):
    """Makes the maze of a level: always the same, and slowly."""

    observation_space, action_space = Maze.observation_space, Maze.action_space
    episodes_are_independent = True

    def next_task(self, level: int = 0) -> Maze:
        """Search for a maze of which one cell is as far as the level says."""
        rng = np.random.default_rng(level)
        length = 4 + 2 * level
        best: tuple[int, np.ndarray, tuple[int, int]] | None = None
        for _ in range(20):
            is_free = random_maze(rng)
            for cell, steps in distances(is_free).items():
                if best is None or abs(steps - length) < best[0]:
                    best = (abs(steps - length), is_free, cell)
        assert best is not None
        return Maze(level, best[1], best[2], level)


def draw(path: str, played: list[tuple[int, int, float]], num_steps: int) -> None:
    """Draw which levels were played, and how well."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, levels, success = (np.array(column) for column in zip(*played, strict=True))
    bins = 40
    counts, *_ = np.histogram2d(
        levels, steps, [np.arange(NUM_LEVELS + 1) - 0.5, np.linspace(0, num_steps, bins + 1)]
    )
    solved, *_ = np.histogram2d(
        levels,
        steps,
        [np.arange(NUM_LEVELS + 1) - 0.5, np.linspace(0, num_steps, bins + 1)],
        weights=success,
    )
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    extent = (0, num_steps / 1000, -0.5, NUM_LEVELS - 0.5)
    share = counts / np.maximum(1, counts.sum(axis=0))
    shown = top.imshow(share, origin="lower", aspect="auto", extent=extent, cmap="viridis")
    figure.colorbar(shown, ax=top, label="share of episodes")
    top.set(ylabel="level", title="Which levels are played")
    with np.errstate(invalid="ignore"):
        shown = bottom.imshow(
            np.where(counts > 0, solved / np.maximum(1, counts), np.nan),
            origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=0, vmax=1,
        )  # fmt: skip
    figure.colorbar(shown, ax=bottom, label="solved")
    bottom.set(ylabel="level", xlabel="thousand steps", title="How many are solved")
    figure.savefig(path, dpi=90)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=100_000, help="of all samplers together")
parser.add_argument("--samplers", type=int, default=4)
parser.add_argument("--prepared-tasks", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--picture", help="a PNG of which levels were played when")
parser.add_argument("--trace", help="a timeline of the last steps, as JSON")
args = parser.parse_args()

n = args.samplers
rng = np.random.default_rng(args.seed)
values = np.zeros((NUM_LEVELS, SIZE * SIZE, 4))  # Q-learning, a table for each level
source = LearningProgressTasks(
    [{"level": level} for level in range(NUM_LEVELS)], explore=0.1, seed=args.seed
)
played: list[tuple[int, int, float]] = []

with VectorSampledTasks(
    Mazes,
    [{}] * n,
    task_source=source,
    prepared_tasks=args.prepared_tasks,
    timing="all" if args.trace else False,
) as tasks:
    seen = np.stack(tasks.get_observations())
    began_s = time.perf_counter()
    for step in range(max(1, args.steps // n)):
        greedy = values[seen[:, 0], seen[:, 1]] + 1e-6 * rng.random((n, 4))
        actions = np.where(rng.random(n) < 0.1, rng.integers(4, size=n), greedy.argmax(axis=1))
        batch = tasks.step_batch(actions)
        after = batch.observation.copy()
        for i in np.flatnonzero(batch.done):
            after[i] = batch.infos[i]["final_observation"]
            success = float(batch.terminated[i])
            played.append((step * n, int(seen[i, 0]), success))
        ahead = values[after[:, 0], after[:, 1]].max(axis=1) * ~batch.terminated
        index = (seen[:, 0], seen[:, 1], actions)
        values[index] += 0.5 * (batch.reward + 0.99 * ahead - values[index])
        seen = batch.observation
    took_s = time.perf_counter() - began_s
    told = tasks.stats()["next_tasks"]
    if args.trace:
        tasks.trace(args.trace)

num_steps = max(1, args.steps // n) * n
print(f"{num_steps} steps in {took_s:.1f} s ({num_steps / took_s:.0f} a second)")
print(f"next tasks: {told}")
for first in range(0, NUM_LEVELS, 4):
    recent = [s for at, level, s in played[-400:] if first <= level < first + 4]
    solved = f"{np.mean(recent):.0%} solved" if recent else "not played"
    print(f"levels {first} to {first + 3}: {len(recent)} of the last episodes, {solved}")
if args.picture:
    draw(args.picture, played, num_steps)
