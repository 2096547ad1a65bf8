"""vectasks: ordinary tasks and samplers, in worker processes or in-process."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import numpy as np

from benchmarks.gym_envs import make_env
from benchmarks.workloads import (
    LEAVES,
    SLOW_RESETS,
    Simulator,
    Vector,
    num_actions,
    observation_space,
    stack,
)
from vectasks import RLStepResult, SingleProcessVectorSampledTasks, Task, TaskSampler
from vectasks import VectorSampledTasks as WorkerVector
from vectasks.envs import AtariTaskSampler, GymnasiumTaskSampler


class SimulatorTask(Task[Simulator]):
    """One episode of a simulator."""

    def __init__(self, simulator: Simulator, space: Any, action_space: Any) -> None:
        super().__init__(simulator, observation_space=space)
        self._action_space = action_space
        simulator.reset()

    @property
    def action_space(self) -> Any:
        """A Discrete space."""
        return self._action_space

    def get_observations(self) -> Any:
        """What the simulator shows."""
        return self.env.observe()

    def _step(self, action: Any) -> RLStepResult:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return RLStepResult(observation, reward, terminated or truncated, info)


class InPlaceTask(SimulatorTask):
    """The same; it writes its observation where it is told to."""

    def _step(self, action: Any) -> RLStepResult:
        _, reward, terminated, truncated, info = self.env.step(action)
        return RLStepResult(None, reward, terminated or truncated, info)

    def write_observation(self, out: Any) -> None:
        """Write what the simulator shows."""
        np.copyto(out, self.env.observe())


class SimulatorTaskSampler(TaskSampler[SimulatorTask]):
    """Episodes of one simulator."""

    def __init__(self, workload: str, seed: int, in_place: bool) -> None:
        self._simulator = Simulator(workload, seed)
        self._space = observation_space(workload, gymnasium.spaces)
        self._action_space = gymnasium.spaces.Discrete(num_actions(workload))
        self._task_type = InPlaceTask if in_place else SimulatorTask
        #: With spares the episodes are those without: each leaves out what the others play.
        self.episodes_are_independent: bool = workload in SLOW_RESETS

    def next_task(self, **kwargs: Any) -> SimulatorTask:
        """One more episode; they never end."""
        return self._task_type(self._simulator, self._space, self._action_space)

    def skip_task(self, **kwargs: Any) -> None:
        """Leave an episode out."""
        self._simulator.skip_episode()


def make_sampler(
    workload: str, seed: int, in_place: bool = False, own_atari: bool = False
) -> TaskSampler[Any]:
    """The sampler of one environment."""
    if workload in LEAVES:
        return SimulatorTaskSampler(workload, seed, in_place)
    # Seeded once, as every other vector here.
    if own_atari:
        return AtariTaskSampler(
            "Breakout",
            obs_type="stacked",
            repeat_action_probability=0.0,
            seed=seed,
            seed_each_episode=False,
        )
    return GymnasiumTaskSampler(
        lambda: make_env(workload, seed), seed=seed, seed_each_episode=False
    )


def make(
    workload: str,
    num_envs: int,
    *,
    api: str = "step_batch",
    processes: int | None = None,
    prepared_tasks: int = 0,
    **sampler: bool,
) -> Vector:
    """Make a vector stepped by ``api``; ``processes``: 0 in process, None one for each sampler.

    Raises:
        NotImplementedError: this vectasks cannot prepare tasks.
    """
    arguments = [{"workload": workload, "seed": seed, **sampler} for seed in range(num_envs)]
    options: dict[str, Any] = {"should_log": False}
    if prepared_tasks:
        if "prepared_tasks" not in inspect.signature(WorkerVector).parameters:
            raise NotImplementedError("not there: VectorSampledTasks takes no prepared_tasks")
        options["prepared_tasks"] = prepared_tasks
    tasks = (
        SingleProcessVectorSampledTasks(make_sampler, arguments, **options)
        if processes == 0
        else WorkerVector(make_sampler, arguments, max_processes=processes, **options)
    )
    out = None
    ready: list[Any] = []

    def step_batch(actions: Any) -> tuple[Any, int]:
        return tasks.step_batch(actions).observation, num_envs

    def step_batch_views(actions: Any) -> tuple[Any, int]:
        return tasks.step_batch(actions, copy=False).observation, num_envs

    def step_batch_out(actions: Any) -> tuple[Any, int]:
        nonlocal out
        out = tasks.step_batch(actions, out=out)
        return out.observation, num_envs

    def step_list(actions: Any) -> tuple[Any, int]:
        observations, rewards, dones, _ = zip(*tasks.step(actions), strict=True)
        np.array(rewards)
        np.array(dones)
        return stack(observations), num_envs

    def first_half(actions: Any) -> tuple[Any, int]:
        if ready:
            samplers = ready.pop()
            tasks.send(actions[samplers], samplers)
        else:
            tasks.send(actions)
        batch = tasks.recv(min_samplers=num_envs // 2)
        ready.append(batch.samplers)
        return batch.observation, len(batch.samplers)

    apis = {
        "step_batch": step_batch,
        "step_batch copy=False": step_batch_views,
        "step_batch out=": step_batch_out,
        "step": step_list,
        "first half": first_half,
    }
    return Vector(apis[api], tasks.close)
