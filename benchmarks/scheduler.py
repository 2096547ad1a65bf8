"""Whole episodes of very different lengths: the scheduler, an executor, and a vector in lockstep.

``python -m benchmarks.scheduler``, in an environment that has vectasks installed; ``--ray`` also
measures what a call of a Ray actor costs.

Lengths are distributed exponentially. A step waits, as for a simulator on another machine or on a
GPU, or computes. Everybody plays the same episodes with the same code and gives back the same
``Episode``; the vector only counts steps. Everybody has played some before the time counts.

They are measured in turn, and compared with the scheduler's figure of the same turn: what else the
machine does meanwhile is then much the same for all.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from benchmarks.adapters import vectasks as adapter
from vectasks import RLStepResult, Task, TaskSampler, VectorSampledTasks
from vectasks.rollouts.episodes import Episode, EpisodeRunner, EpisodeTask
from vectasks.rollouts.scheduler import Scheduler
from vectasks.workers.pool import WorkerPool

MEAN_STEPS = 20


class Setting(NamedTuple):
    """The game that is played, and by how many."""

    name: str
    step_s: float
    computes: bool
    num_runners: int


SETTINGS = [
    Setting("steps that wait 1 ms, 8 runners", 1e-3, False, 8),
    Setting("steps that compute 0.5 ms, 2 runners", 5e-4, True, 2),
]


class Stretch(Task[None]):
    """An episode of so many steps, each of which takes its time."""

    space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, num_steps: int, step_s: float, computes: bool) -> None:
        super().__init__(None, max_steps=num_steps, observation_space=self.space)
        self.step_s, self.computes = step_s, computes

    @property
    def action_space(self) -> spaces.Discrete:
        """Two."""
        return spaces.Discrete(2)

    def get_observations(self) -> np.ndarray:
        """Nothing to see."""
        return np.zeros(4, np.float32)

    def _step(self, action: int) -> RLStepResult:
        if self.computes:
            end = time.perf_counter() + self.step_s
            while time.perf_counter() < end:
                pass
        else:
            time.sleep(self.step_s)
        return RLStepResult(self.get_observations(), 1.0, False, {})


class StretchSampler(TaskSampler[Stretch]):
    """Episodes of exponential length."""

    def __init__(self, step_s: float, computes: bool) -> None:
        self.step_s, self.computes = step_s, computes
        self.rng = np.random.default_rng(0)

    def next_task(self, **kwargs: Any) -> Stretch:
        """The next episode."""
        num_steps = 1 + int(self.rng.exponential(MEAN_STEPS - 1))
        return Stretch(num_steps, self.step_s, self.computes)

    def set_seed(self, seed: int) -> None:
        """Seed the lengths."""
        self.rng = np.random.default_rng(seed)


def act(observation: Any) -> dict[str, Any]:
    """A policy that costs nothing."""
    return {"action": np.zeros(1, np.int64)}


def make_runner(setting: Setting) -> EpisodeRunner:
    """Plays its episodes."""
    arguments = {"step_s": setting.step_s, "computes": setting.computes}
    return EpisodeRunner(StretchSampler, arguments, policy=act)


# -- contenders -----------------------------------------------------------------------------------


class Pace(NamedTuple):
    """The pace that a contender reached."""

    episodes_per_s: float
    own_us: float  # CPU time of this process, not of the players, for each episode


class Stopwatch:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began_s, self._cpu_began_s = time.perf_counter(), time.process_time()

    def pace(self, num_episodes: int) -> Pace:
        """Of so many episodes since."""
        elapsed_s = time.perf_counter() - self._began_s
        own_s = time.process_time() - self._cpu_began_s
        return Pace(num_episodes / elapsed_s, own_s / num_episodes * 1e6)


def by_the_scheduler(setting: Setting, num_episodes: int) -> Pace:
    """Schedule all, take all."""

    async def main() -> Pace:
        async with Scheduler(lambda: make_runner(setting), setting.num_runners) as scheduler:
            scheduler.schedule([EpisodeTask(seed=0)] * num_warm(setting), "warm")
            await scheduler.get_results("warm")
            watch = Stopwatch()
            scheduler.schedule([EpisodeTask(seed=0)] * num_episodes, 0)
            statuses, episodes = await scheduler.get_results(0)
            pace = watch.pace(num_episodes)
        assert all(status.ok for status in statuses)
        assert len(episodes) == num_episodes
        return pace

    return asyncio.run(main())


def num_warm(setting: Setting) -> int:
    """Episodes that are played before the time counts."""
    return 4 * setting.num_runners


_runner: EpisodeRunner | None = None


def _begin(setting: Setting) -> None:
    global _runner
    _runner = make_runner(setting)


def _play(run_id: int) -> Episode:
    assert _runner is not None
    return _runner.run(EpisodeTask(seed=0), run_id)


def by_an_executor(setting: Setting, num_episodes: int) -> Pace:
    """Submit all, take all."""
    with concurrent.futures.ProcessPoolExecutor(
        setting.num_runners, multiprocessing.get_context("fork"), _begin, (setting,)
    ) as executor:
        warm = [executor.submit(_play, run_id) for run_id in range(num_warm(setting))]
        concurrent.futures.wait(warm)
        watch = Stopwatch()
        done = [executor.submit(_play, run_id) for run_id in range(num_episodes)]
        for future in done:
            future.result()
        return watch.pace(num_episodes)


def in_lockstep(setting: Setting, num_episodes: int) -> Pace:
    """A vector whose finished samplers wait for the others, one process each."""
    arguments = [{"step_s": setting.step_s, "computes": setting.computes}] * setting.num_runners
    with VectorSampledTasks(
        StretchSampler, arguments, auto_resample_when_done=False, seed=0, should_log=False
    ) as tasks:
        actions = np.zeros(setting.num_runners, np.int64)
        tasks.step_batch(actions)
        watch, ended = Stopwatch(), 0
        while ended < num_episodes:
            waiting = np.zeros(setting.num_runners, bool)
            while not waiting.all():
                waiting = tasks.step_batch(actions).done
            ended += setting.num_runners
        return watch.pace(ended)


# -- overheads -----------------------------------------------------------------------------------


class Idle:
    """A runner and an object that does nothing."""

    def run(self, task: Any) -> None:
        """Nothing."""


def _nothing(_: int) -> None:
    """Nothing."""


def scheduler_overhead_us(num_runners: int, num_tasks: int = 3000) -> float:
    """Of a task that does nothing."""

    async def main() -> float:
        async with Scheduler(Idle, num_runners) as scheduler:
            began = time.perf_counter()
            scheduler.schedule([None] * num_tasks, 0)
            await scheduler.get_results(0)
            return (time.perf_counter() - began) / num_tasks * 1e6

    return asyncio.run(main())


def executor_overhead_us(num_runners: int, num_tasks: int = 3000) -> float:
    """Of a call that does nothing."""
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(num_runners, context) as executor:
        concurrent.futures.wait([executor.submit(_nothing, 0) for _ in range(100)])
        began = time.perf_counter()
        concurrent.futures.wait([executor.submit(_nothing, 0) for _ in range(num_tasks)])
        return (time.perf_counter() - began) / num_tasks * 1e6


def call_us(kind: Any, num_calls: int, payload_bytes: int = 0) -> float:
    """One call of one worker at a time, there and back, its answer of so many bytes."""
    with WorkerPool(Payload, 1, kind=kind) as pool:
        for _ in range(20):
            pool.submit_at(0, "give", payload_bytes).result()
        times = []
        for _ in range(num_calls):
            began = time.perf_counter()
            pool.submit_at(0, "give", payload_bytes).result()
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


class Payload:
    """Gives bytes, as a rollout has them."""

    def give(self, num_bytes: int) -> Any:
        """An array, or None."""
        return np.zeros(num_bytes, np.uint8) if num_bytes else None


def step_us(num_samplers: int, num_steps: int = 3000) -> float:
    """A step of one sampler of a vector on shared memory, in two processes, for comparison."""
    arguments = [{"workload": "W1", "seed": i, "in_place": False} for i in range(num_samplers)]
    with VectorSampledTasks(
        adapter.make_sampler, arguments, should_log=False, max_processes=2
    ) as tasks:
        actions = np.zeros(num_samplers, np.int64)
        tasks.step_batch(actions)
        began = time.perf_counter()
        for _ in range(num_steps):
            tasks.step_batch(actions)
        return (time.perf_counter() - began) / num_steps / num_samplers * 1e6


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="also what a Ray actor's call costs")
    args = parser.parse_args()
    contenders: dict[str, Callable[[Setting, int], Pace]] = {
        "scheduler": by_the_scheduler,
        "ProcessPoolExecutor": by_an_executor,
        "vector in lockstep": in_lockstep,
    }
    for setting in SETTINGS:
        turns = [
            {name: measure(setting, args.episodes) for name, measure in contenders.items()}
            for _ in range(args.repeats)
        ]
        print(f"episodes/s, mean length {MEAN_STEPS} steps, {setting.name}:")
        for name in contenders:
            rates = [turn[name].episodes_per_s for turn in turns]
            ratios = [
                turn["scheduler"].episodes_per_s / turn[name].episodes_per_s for turn in turns
            ]
            own_us = statistics.median(turn[name].own_us for turn in turns)
            print(
                f"  {name:<24}{_middle(rates, '.1f')}; scheduler / this: {_middle(ratios, '.2f')}; "
                f"{own_us:.0f} us of this process an episode"
            )
    print("a task that does nothing, us:")
    for num_runners in (1, 2):
        print(f"  scheduler, {num_runners} runners: {scheduler_overhead_us(num_runners):.0f}")
        print(f"  executor, {num_runners} workers: {executor_overhead_us(num_runners):.0f}")
    print("one call there and back, us:")
    for kind, num_calls in [("inline", 2000), ("process", 2000), *([("ray", 500)] * args.ray)]:
        for payload_bytes in (0, 100_000, 1_000_000):
            cost_us = call_us(kind, num_calls, payload_bytes)
            print(f"  {kind}, answer of {payload_bytes} bytes: {cost_us:.0f}")
    print(f"  a step of one of 32 samplers on shared memory: {step_us(32):.1f}")


def _middle(values: list[float], form: str) -> str:
    """The median, and from where to where they go."""
    middle, least, most = (f(values) for f in (statistics.median, min, max))
    return f"{middle:{form}} ({least:{form}} to {most:{form}})"


if __name__ == "__main__":
    main()
