"""How many processes? Measures a throwaway sampler and says."""

from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vectasks.arguments import checked_sampler_args
from vectasks.errors import InvalidArgument
from vectasks.task import TaskSampler
from vectasks.vector import VectorSampledTasks

# What a step costs beside the tasks, in seconds. Measured on two cores by stepping tasks that do
# nothing (python -m benchmarks --workloads W1); trust a factor of two.
_FRONT_S = 15e-6  # checking actions and making results, whatever runs the tasks
_PER_SAMPLER_S = 2e-6  # moving one sampler's result
_WAKE_S = 20e-6  # telling polling workers and seeing their answers
_PER_WORKER_S = 5e-6  # each worker more
_SWITCH_S = 60e-6  # each worker beyond the cores: it sleeps, and must be woken

_NEARLY_AS_GOOD = 1.05


class Suggestion(NamedTuple):
    """How many processes to use, and why.

    Attributes:
        max_processes: for ``VectorSampledTasks``; 0 says to use the in-process twin.
        reason: the same in words.
        predictions: seconds that a step of all samplers would take, by number of processes.
        step_s: seconds that one sampler's step took.
        cpu_share: the part of them in which it computed, the rest being spent waiting.
    """

    max_processes: int
    reason: str
    predictions: dict[int, float]
    step_s: float
    cpu_share: float


def suggest_max_processes(
    make_sampler_fn: Callable[..., Any],
    sampler_fn_args: Sequence[Mapping[str, Any]],
    *,
    budget_s: float = 1.0,
) -> Suggestion:
    """Measure a throwaway sampler and say how many processes to use.

    The sampler is made from the first of ``sampler_fn_args`` in a process of its own, stepped with
    random actions for about ``budget_s`` seconds, and closed.

    Raises:
        InvalidArgument: an argument cannot be, or the task's action space cannot be sampled from.
        SetupError, TaskError: the sampler could not be made, or a task failed.
    """
    arguments = checked_sampler_args(make_sampler_fn, sampler_fn_args)
    if not budget_s > 0:
        raise InvalidArgument(f"budget_s must be positive, got {budget_s!r}.")

    @functools.wraps(make_sampler_fn)  # so that it is given mp_ctx if the user's function takes it
    def make_probe(**kwargs: Any) -> _Probe:
        return _Probe(make_sampler_fn(**kwargs))

    with VectorSampledTasks(make_probe, arguments[:1], observation_transport="pipe") as tasks:
        if not hasattr(tasks.action_spaces[0], "sample"):
            raise InvalidArgument(
                f"the action space {tasks.action_spaces[0]!r} has no sample(), so the task cannot "
                "be tried out with random actions."
            )
        (measured,) = tasks.call_sampler("measure", [[budget_s]])
    step_s, cpu_share = measured
    return recommend(step_s, cpu_share, len(arguments), _num_cores())


def recommend(step_s: float, cpu_share: float, num_samplers: int, num_cores: int) -> Suggestion:
    """The recommendation for samplers whose step takes so long; nothing is measured."""
    counts = [0, *(w for w in range(1, num_samplers + 1))]
    predictions = {w: _predict(step_s, cpu_share, num_samplers, num_cores, w) for w in counts}
    limit = min(predictions.values()) * _NEARLY_AS_GOOD
    best = next(w for w in counts if predictions[w] <= limit)
    what = "the in-process twin" if best == 0 else f"{best} process{'es' if best > 1 else ''}"
    reason = (
        f"A step of one sampler takes {step_s * 1e6:.0f} us, {cpu_share:.0%} of it computing. "
        f"{num_samplers} samplers on {num_cores} cores: about {predictions[0] * 1e6:.0f} us a step "
        f"in one process (the twin), {predictions[best] * 1e6:.0f} us with {what}."
    )
    return Suggestion(best, reason, predictions, step_s, cpu_share)


def _predict(step_s: float, cpu_share: float, n: int, num_cores: int, workers: int) -> float:
    """Seconds for a step of all ``n`` samplers with so many worker processes (0: the twin)."""
    common_s = _FRONT_S + n * _PER_SAMPLER_S
    if workers == 0:
        return common_s + n * step_s
    one_after_another_s = math.ceil(n / workers) * step_s
    computing_s = n * step_s * cpu_share / min(workers, num_cores)
    overhead_s = _WAKE_S + workers * _PER_WORKER_S + max(0, workers - num_cores) * _SWITCH_S
    return common_s + max(one_after_another_s, computing_s) + overhead_s


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


class _Probe(TaskSampler[Any]):
    """A sampler that can measure the user's sampler, where it lives."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._task: Any = None

    def next_task(self, **kwargs: Any) -> Any:
        self._task = self._sampler.next_task(**kwargs)
        return self._task

    def measure(self, budget_s: float) -> tuple[float, float]:
        """(seconds a step, share of them computing), medians over chunks of steps."""
        action_space = getattr(self._task, "action_space", None)
        if action_space is None:
            action_space = self._sampler.action_space
        chunks: list[tuple[float, float]] = []
        end = time.monotonic() + budget_s
        num_steps = 1
        while self._task is not None and (time.monotonic() < end or len(chunks) < 2):
            actions = [action_space.sample() for _ in range(num_steps)]
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            for action in actions:
                if self._task is None:
                    break
                _, _, done, _ = self._task.step(action)
                if done:
                    self.next_task()
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            chunks.append((wall_s / num_steps, min(1.0, cpu_s / wall_s)))
            if wall_s < 0.01:
                num_steps *= 2
        longest = chunks[-max(1, len(chunks) // 2) :]  # the first ones warm up
        return (
            statistics.median(step_s for step_s, _ in longest),
            statistics.median(share for _, share in longest),
        )

    def close(self) -> None:
        if hasattr(self._sampler, "close"):
            self._sampler.close()
