"""Suggest a number of processes by measuring a throwaway sampler."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from vectasks._util.checks import real_number
from vectasks.host.task_host import HostPlan, TaskHost
from vectasks.protocol import StepOutcome
from vectasks.spaces import task_action
from vectasks.transport.cpu import usable_cores
from vectasks.vector import VectorSampledTasks
from vectasks.vector.arguments import checked_sampler_args

__all__ = ["Suggestion", "suggest_max_processes"]

# What a step costs beside the tasks, in seconds. Measured on two cores by stepping tasks that do
# nothing (python -m benchmarks --workloads W1); trust a factor of two.
_FRONT_S = 15e-6  # checking actions and making results, whatever runs the tasks
_PER_SAMPLER_S = 2e-6  # moving one sampler's result
# Waking the workers: they sleep while a trainer computes its actions. (Between steps that follow
# one another at once they poll, and it is a tenth of this.)
_WAKE_S = 200e-6
_PER_WORKER_S = 5e-6  # each worker more
_SWITCH_S = 60e-6  # each worker beyond the cores: it sleeps, and must be woken

_NEARLY_AS_GOOD = 1.05
_WORTH_SPARES = 0.5  # of a step's time that resets would add, at least
_MOST_PREPARED = 8
_MOST_CHUNKS = 40  # the measurement is the median of so many at most
_MOST_RESETS = 5  # and of so many


class Suggestion(NamedTuple):
    """The suggested number of processes, and the reason.

    Attributes:
        max_processes: for ``VectorSampledTasks``; 0 says to use the in-process vector.
        reason: the same in words.
        predictions: seconds that a step of all samplers would take, by number of processes.
        step_s: seconds that one sampler's step took.
        cpu_share: CPU time as a part of them: near 0 for a task that waits, above 1 for one that
            computes in several threads.
        reset_s: seconds that going on to the next task took.
        prepared_tasks: for ``VectorSampledTasks``: so many next tasks of each sampler to prepare,
            where steps would wait for resets much of the time; otherwise 0.
    """

    max_processes: int
    reason: str
    predictions: dict[int, float]
    step_s: float
    cpu_share: float
    reset_s: float = 0.0
    prepared_tasks: int = 0


class _Measured(NamedTuple):
    """What a throwaway sampler showed.

    Attributes:
        step_s: seconds a step.
        cpu_share: CPU time as a part of them.
        reset_s: seconds from one task to the next.
        episode_steps: steps an episode; infinite where none ended.
    """

    step_s: float
    cpu_share: float
    reset_s: float = 0.0
    episode_steps: float = math.inf


def suggest_max_processes(
    make_sampler_fn: Callable[..., Any],
    sampler_fn_args: Sequence[Mapping[str, Any]],
    *,
    budget_s: float = 1.0,
) -> Suggestion:
    """Measure a throwaway sampler and suggest a number of processes.

    The sampler is made from the first of ``sampler_fn_args`` in a process of its own, stepped with
    random actions for about ``budget_s`` seconds (and at least twice), and closed; the others are
    taken to be like it. Only that process's CPU time is seen: a task whose simulator is another
    program on this machine looks like one that waits, and so does any task while other programs
    keep the cores busy.

    Raises:
        InvalidArgument: an argument cannot be.
        SetupError: the sampler could not be made.
        TaskError: a task failed, or its action space cannot be sampled from.
    """
    arguments = checked_sampler_args(make_sampler_fn, sampler_fn_args)
    budget_s = real_number("budget_s", budget_s, positive=True)

    def make_probe(mp_ctx: Any) -> _Probe:
        return _Probe(HostPlan(make_sampler_fn, arguments[0], mp_ctx))

    with VectorSampledTasks(
        make_probe,
        [{}],
        should_log=False,
        read_timeout=60 + 2 * budget_s,
        observation_transport="pipe",
    ) as tasks:
        (measured,) = tasks.call_sampler("measure", [[budget_s]])
    seen = _Measured(*measured)
    count, cores = len(arguments), usable_cores()
    return recommend(seen.step_s, seen.cpu_share, count, cores, seen.reset_s, seen.episode_steps)


def recommend(
    step_s: float,
    cpu_share: float,
    num_samplers: int,
    num_cores: int,
    reset_s: float = 0.0,
    episode_steps: float = math.inf,
) -> Suggestion:
    """Recommend a number of processes for samplers whose step takes so long; measure nothing."""
    counts = range(num_samplers + 1)
    predictions = {w: _predict(step_s, cpu_share, num_samplers, num_cores, w) for w in counts}
    limit = min(predictions.values()) * _NEARLY_AS_GOOD
    best = next(w for w in counts if predictions[w] <= limit)
    reason = (
        f"A step of one sampler takes {_readable(step_s)}, {cpu_share:.0%} of it CPU time. "
        f"{_count(num_samplers, 'sampler')} on {_count(num_cores, 'core')}: about "
        f"{_readable(predictions[0])} a step of all in this process"
    )
    if best == 0:
        fastest_s = min(predictions[w] for w in counts if w > 0)
        reason += (
            f", {_readable(fastest_s)} at best in worker processes, which have to be woken. Use "
            "the in-process vector, SingleProcessVectorSampledTasks."
        )
    else:
        reason += (
            f", {_readable(predictions[best])} in {_count(best, 'worker process', 'es')}. Use "
            f"VectorSampledTasks with max_processes={best}."
        )
    prepared = _prepared_tasks(predictions[best], num_samplers, reset_s, episode_steps)
    if prepared:
        best = num_samplers  # a worker that makes a task steps nobody meanwhile
        waits_s = num_samplers / episode_steps * reset_s
        reason += (
            f" A reset takes {_readable(reset_s)}, and an episode has about {episode_steps:.0f} "
            f"steps: a step of all would wait about {_readable(waits_s)} for resets. With "
            f"VectorSampledTasks, a process for each sampler and prepared_tasks={prepared} spares "
            f"make the next tasks meanwhile, in {prepared * best} further worker processes, each "
            "with the memory of a sampler."
        )
    return Suggestion(best, reason, predictions, step_s, cpu_share, reset_s, prepared)


def _prepared_tasks(batch_s: float, num_samplers: int, reset_s: float, episode_steps: float) -> int:
    """How many next tasks to prepare where a step of all takes ``batch_s`` without resets."""
    if num_samplers / episode_steps * reset_s < _WORTH_SPARES * batch_s:
        return 0
    # They must be ready within so many episodes; two more, since some are short.
    wanted = math.ceil(reset_s / (episode_steps * batch_s)) + 2
    return min(wanted, _MOST_PREPARED)


def _predict(step_s: float, cpu_share: float, n: int, num_cores: int, workers: int) -> float:
    """Predict a step's seconds for ``n`` samplers in so many processes (0: in-process vector)."""
    common_s = _FRONT_S + n * _PER_SAMPLER_S
    if workers == 0:
        return common_s + n * step_s
    one_after_another_s = math.ceil(n / workers) * step_s
    computing_s = n * step_s * cpu_share / num_cores
    overhead_s = _WAKE_S + workers * _PER_WORKER_S + max(0, workers - num_cores) * _SWITCH_S
    return common_s + max(one_after_another_s, computing_s) + overhead_s


def _readable(time_s: float) -> str:
    """Format a time in the unit that suits it: ``2.1 ms``."""
    if time_s < 1e-3:
        return f"{time_s * 1e6:.3g} us"
    return f"{time_s * 1e3:.3g} ms" if time_s < 1 else f"{time_s:.3g} s"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


class _Probe:
    """A sampler that holds the user's, and steps its tasks on request as a worker does.

    Args:
        plan: what the user's sampler is made from.
    """

    def __init__(self, plan: HostPlan) -> None:
        self._plan = plan
        self._host = TaskHost(plan)
        self._num_steps = self._num_ends = 0

    def next_task(self) -> Any:
        """Return a task that does nothing: a sampler must have one."""
        return SimpleNamespace(get_observations=lambda: 0)

    def measure(self, budget_s: float) -> _Measured:
        """Measure steps, medians over chunks of them, and resets."""
        end_s = time.perf_counter() + budget_s
        self._run(1)  # what a first step alone costs is not what later ones do
        num_steps = 1
        chunks: list[tuple[float, float]] = []
        while not chunks or time.perf_counter() < end_s:
            wall_s, cpu_s = self._run(num_steps)
            if wall_s < budget_s / _MOST_CHUNKS:  # short times are mostly noise
                num_steps *= 2
            else:
                chunks.append((wall_s / num_steps, cpu_s / wall_s))
        return _Measured(
            statistics.median(step_s for step_s, _ in chunks),
            statistics.median(share for _, share in chunks),
            self._time_resets(budget_s),
            self._num_steps / self._num_ends if self._num_ends else math.inf,
        )

    def _time_resets(self, budget_s: float) -> float:
        end_s = time.perf_counter() + budget_s
        times_s: list[float] = []
        while len(times_s) < _MOST_RESETS and (not times_s or time.perf_counter() < end_s):
            began_s = time.perf_counter()
            if self._host.next_task().exhausted:
                break
            times_s.append(time.perf_counter() - began_s)
        return statistics.median(times_s) if times_s else 0.0

    def _run(self, num_steps: int) -> tuple[float, float]:
        """Measure the seconds and CPU seconds of so many steps."""
        space = self._host.action_space()
        if not hasattr(space, "sample"):
            raise TypeError(
                f"the action_space {space!r} has no sample(), so the task cannot be tried out with "
                "random actions."
            )
        actions = [task_action(space, space.sample()) for _ in range(num_steps)]
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        for action in actions:
            outcome = self._host.step(action)
            self._num_steps += 1
            self._num_ends += isinstance(outcome, StepOutcome)
            ended = isinstance(outcome, StepOutcome) and outcome.exhausted
            if ended and self._host.reset().exhausted:
                self.close()  # a stream that cannot be restarted
                self._host = TaskHost(self._plan)
        return time.perf_counter() - began_s, time.process_time() - cpu_began_s

    def close(self) -> None:
        """Close the user's sampler."""
        self._host.close()
