"""Check a user's samplers without a test module: the contract suite and a few more rules.

:func:`check_sampler` runs them one after another; ``vectasks check`` prints what it yields.
"""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import time
import traceback
import unittest
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vectasks._util import pickling
from vectasks._util.checks import checked_seed, whole_number
from vectasks.host.task_host import takes
from vectasks.testing.contract import TaskSamplerContract, assert_identical, record_trace
from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = ["Finding", "check_sampler"]

_NUM_TRACE_STEPS = 20
_PRELUDE = "The sampler can be made, and has a first task."


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        rule: what ought to hold.
        outcome: "ok", "failed" (the rule is broken), or "skipped" (it does not apply).
        message: why it failed or was skipped; "" otherwise.
        duration_s: how long the check took.
    """

    rule: str
    outcome: Literal["ok", "failed", "skipped"]
    message: str
    duration_s: float


def check_sampler(
    make_sampler_fn: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    num_steps: int = 200,
    seed: int = 42,
    is_seeded: bool = True,
    render_mode: str | None = "rgb",
) -> Iterator[Finding]:
    """Check a sampler and its tasks, rule by rule, in this process and in a worker.

    The rules are those of :class:`TaskSamplerContract`; that everything can be pickled that must
    travel; and that a worker process gives, bit by bit, what this process gives. Where no sampler
    can be made that is the only finding.

    Args:
        make_sampler_fn: as for a vector.
        arguments: its keywords.
        num_steps: how many steps a check takes at most.
        seed: of the samplers and the actions.
        is_seeded: whether ``set_seed`` determines the tasks.
        render_mode: what ``task.render`` is asked for; None where tasks cannot be seen.

    Yields:
        findings, as soon as each is known.
    """
    num_steps, seed = whole_number("num_steps", num_steps, at_least=1), checked_seed(seed)
    make = _Maker(make_sampler_fn, arguments)
    first = _finding(_PRELUDE, lambda: _make_first(make))
    yield first
    if first.outcome == "failed":
        return
    suite = _Suite(make, num_steps, seed, is_seeded, render_mode)
    for name in vars(TaskSamplerContract):
        if name.startswith("test_"):
            test = getattr(suite, name)
            yield _finding(_first_line(test), test)
    yield _finding(
        "make_sampler, its arguments, the spaces and the results can be pickled.",
        lambda: _check_pickling(make, suite),
    )
    yield _finding(
        "A worker process gives what this process gives, and ends when it is closed.",
        lambda: _check_worker(make, suite),
    )


class _Maker:
    """Makes samplers as a worker does."""

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.function = function
        self.arguments = dict(arguments)

    def __call__(self) -> Any:
        arguments = dict(self.arguments)
        if "mp_ctx" not in arguments and takes(self.function, "mp_ctx"):
            arguments["mp_ctx"] = multiprocessing.get_context("spawn")
        return self.function(**arguments)


class _Suite(TaskSamplerContract):
    def __init__(
        self,
        make: _Maker,
        num_steps: int,
        seed: int,
        is_seeded: bool,
        render_mode: str | None,
    ) -> None:
        self.num_steps = num_steps
        self.seed = seed
        self.is_seeded = is_seeded
        self.render_mode = render_mode
        self.make_task_sampler = make  # type: ignore[method-assign]

    def test_render(self) -> None:
        try:
            super().test_render()
        except NotImplementedError as error:
            raise unittest.SkipTest("tasks cannot be seen: render() is not implemented") from error

    test_render.__doc__ = TaskSamplerContract.test_render.__doc__

    def sampled_results(self) -> list[Any]:
        """Return the results of a few steps, as a task gives them."""
        with self._sampler() as sampler:
            steps = self._steps(sampler, self._first_task(sampler))
            return [tuple(result) for _, (_, result) in zip(range(5), steps, strict=False)]

    def spaces(self) -> tuple[Any, Any]:
        """Return the spaces of the first task."""
        with self._sampler() as sampler:
            task = self._first_task(sampler)
            return self._observation_space(sampler, task), getattr(task, "action_space", None)


def _make_first(make: _Maker) -> None:
    sampler = make()
    try:
        task = sampler.next_task()
        assert task is not None, "next_task() of a new sampler gave None: it must have a task"
    finally:
        if hasattr(sampler, "close"):
            sampler.close()


def _check_pickling(make: _Maker, suite: _Suite) -> None:
    values = {
        "make_sampler": make.function,
        "the arguments": make.arguments,
        "the spaces": suite.spaces(),
        "the results of steps": suite.sampled_results(),
    }
    for name, value in values.items():
        try:
            pickle.loads(pickling.dumps(value))
        except Exception as error:  # user code, from __reduce__ to __setstate__
            raise AssertionError(
                f"{name} cannot be pickled, so cannot travel to or from a worker: "
                f"{type(error).__name__}: {error}"
            ) from error


def _check_worker(make: _Maker, suite: _Suite) -> None:
    arguments = [make.arguments]
    seed = suite.seed if suite.is_seeded else None
    if not hasattr(suite.spaces()[1], "sample"):
        raise unittest.SkipTest("the action_space has no sample()")
    traces = []
    for vector_class in (SingleProcessVectorSampledTasks, VectorSampledTasks):
        with vector_class(make.function, arguments, seed=seed, should_log=False) as tasks:
            num_steps = min(suite.num_steps, _NUM_TRACE_STEPS)
            traces.append(_trace_until_empty(tasks, num_steps, suite.seed))
    if suite.is_seeded:
        assert_identical(traces[1], traces[0], "a worker's results")


def _trace_until_empty(tasks: Any, num_steps: int, seed: int) -> list[Any]:
    trace = []
    for _ in range(num_steps):
        if tasks.num_unpaused_tasks == 0:
            break
        seed += 1
        trace.append(record_trace(tasks, 1, seed))
    return trace


def _finding(rule: str, check: Callable[[], object]) -> Finding:
    began_s = time.perf_counter()
    outcome: Literal["ok", "failed", "skipped"] = "ok"
    message = ""
    try:
        check()
    except unittest.SkipTest as reason:
        outcome, message = "skipped", str(reason)
    except AssertionError as error:
        outcome, message = "failed", str(error) or _described(error)
    except Exception as error:  # user code
        outcome, message = "failed", _described(error)
    return Finding(rule, outcome, message, time.perf_counter() - began_s)


def _described(error: BaseException) -> str:
    """Describe an error, and the place in the user's code that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    frame = next((f for f in reversed(frames) if not f.filename.startswith(ours)), frames[-1])
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{text} ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"


def _first_line(test: Callable[..., Any]) -> str:
    return (inspect.getdoc(test) or test.__name__).splitlines()[0].replace("``", "`")
