"""Measure what filming costs a rollout: ``python -m benchmarks.video``.

Nine samplers with images of 210x160 in worker processes are stepped with and without a
``VideoRecorder``, in turns, and the ratio of the steps' times is printed. Two kinds of task: one
whose simulator runs elsewhere (each step waits, as for a game engine or a GPU), and one that
computes all the time on every core there is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from vectasks import RLStepResult, Task, TaskSampler, VectorSampledTasks
from vectasks.rendering.video import VideoRecorder
from vectasks.transport.cpu import usable_cores

NUM_SAMPLERS = 9
HEIGHT_PX, WIDTH_PX = 210, 160
_EPISODE_STEPS = 100
_NUM_STEPS = 100  # of one measurement


class MovingSquares(Task[None]):
    """Squares on a patterned ground; a step takes ``step_s``, waiting or computing."""

    action_space = spaces.Discrete(2)

    def __init__(self, step_s: float, computes: bool) -> None:
        super().__init__(
            env=None,
            max_steps=_EPISODE_STEPS,
            observation_space=spaces.Box(0, np.inf, (1,), np.float32),
        )
        self._step_s = step_s
        self._computes = computes
        rng = np.random.default_rng(0)
        ground = rng.integers(0, 256, (HEIGHT_PX // 10, WIDTH_PX // 10, 3), np.uint8)
        self._ground = ground.repeat(10, axis=0).repeat(10, axis=1)

    def get_observations(self) -> Any:
        """The number of steps."""
        return np.array([self.num_steps_taken()], np.float32)

    def _step(self, action: Any) -> RLStepResult:
        if self._computes:
            end_s = time.thread_time() + self._step_s
            while time.thread_time() < end_s:
                pass
        else:
            time.sleep(self._step_s)
        return RLStepResult(self.get_observations(), 1.0, False, {})

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> Any:
        """uint8 [210, 160, 3]."""
        image = self._ground.copy()
        for square in range(5):
            x = (self.num_steps_taken() * (square + 1)) % (WIDTH_PX - 12)
            image[20 + 38 * square :][:12, x : x + 12] = 255
        return image


class MovingSquaresSampler(TaskSampler):
    """The same task again and again."""

    def __init__(self, step_s: float, computes: bool) -> None:
        self._arguments = step_s, computes

    def next_task(self, **kwargs: Any) -> MovingSquares:
        """A new one."""
        return MovingSquares(*self._arguments)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("--step-ms", type=float, default=30, help="of one task (default: 30)")
    args = parser.parse_args()
    cores = usable_cores()
    print(f"{NUM_SAMPLERS} tiles of {HEIGHT_PX}x{WIDTH_PX}, {cores} cores, {args.rounds} rounds")
    waiting = "tasks that wait for a simulator", args.step_ms / 1e3, False, NUM_SAMPLERS
    busy = "tasks that keep every core busy", args.step_ms / 6e3, True, min(cores, NUM_SAMPLERS)
    cases: list[tuple[Any, dict[str, bool]]] = [
        (waiting, {}),
        (waiting, {"captions": True}),
        (waiting, {"captions": True, "per_sampler": True}),
        (busy, {}),
    ]
    for (name, step_s, computes, workers), options in cases:
        bare_s, filmed_s = measure(step_s, computes, workers, args.rounds, options)
        print(
            f"{name}, {workers} workers, {' + '.join(options) or 'tiles alone'}: "
            f"{bare_s * 1e3:.1f} ms a step, filmed {filmed_s * 1e3:.1f} ms: "
            f"ratio {filmed_s / bare_s:.3f}",
            flush=True,
        )


def measure(
    step_s: float, computes: bool, workers: int, rounds: int, options: dict[str, bool]
) -> tuple[float, float]:
    """Median seconds of a step of all samplers, without and with a recorder."""
    arguments = [{"step_s": step_s, "computes": computes}] * NUM_SAMPLERS
    actions = [0] * NUM_SAMPLERS
    bare, filmed = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        VectorSampledTasks(MovingSquaresSampler, arguments, max_processes=workers) as tasks,
    ):
        for _ in range(rounds):  # in turns, so that a busy moment of the machine hits both
            bare.append(_seconds_a_step(tasks.step, actions))
            with VideoRecorder(tasks, Path(folder) / "x.mp4", **options) as recorder:
                filmed.append(_seconds_a_step(recorder.step, actions))
    return statistics.median(bare), statistics.median(filmed)


def _seconds_a_step(step: Callable[[Any], Any], actions: list[int]) -> float:
    began_s = time.perf_counter()
    for _ in range(_NUM_STEPS):
        step(actions)
    return (time.perf_counter() - began_s) / _NUM_STEPS


if __name__ == "__main__":
    main()
