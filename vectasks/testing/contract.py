"""A conformance suite for task samplers, and bit-by-bit comparison of what vectors give.

Subclass :class:`TaskSamplerContract` in a test module, say how to make the sampler, and pytest runs
every rule of the contract on it::

    class TestMySampler(TaskSamplerContract):
        def make_task_sampler(self):
            return MySampler(scene="kitchen")

        def make_action(self, task, rng):      # only where sampling the action space will not do
            return int(rng.integers(4))
"""

from __future__ import annotations

import copy
import math
import unittest
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vectasks._util.checks import checked_seed, whole_number
from vectasks._util.step_values import as_reward
from vectasks.spaces import copy_arrays, nested_as
from vectasks.task import RLStepResult, TaskSampler

__all__ = ["TaskSamplerContract", "assert_identical", "record_trace"]

_LARGEST_SEED = 2**31


class TaskSamplerContract:
    """Rules that a task sampler and its tasks keep; each test method is one of them.

    Attributes:
        num_steps: how many steps a test takes at most.
        seed: of the samplers and of the actions.
        is_seeded: whether ``set_seed`` determines the tasks; otherwise that rule is skipped.
        render_mode: what ``task.render`` is asked for; None where tasks cannot be seen.
    """

    num_steps: int = 200
    seed: int = 42
    is_seeded: bool = True
    render_mode: str | None = "rgb"

    def make_task_sampler(self) -> Any:
        """Make a new sampler with at least one task; its first task must not be sampled yet."""
        raise NotImplementedError(
            f"{type(self).__name__} must define make_task_sampler(), which returns a new sampler."
        )

    def make_action(self, task: Any, rng: np.random.Generator) -> Any:
        """Make one action for ``task``; by default a sample of its action space."""
        space = task.action_space
        space.seed(int(rng.integers(_LARGEST_SEED)))
        return space.sample()

    # -- the rules --------------------------------------------------------------------------------

    def test_observations_fit_their_space(self) -> None:
        """Every observation, from ``get_observations`` or ``step``, lies in the declared space."""
        with self._sampler() as sampler:
            task = self._first_task(sampler)
            space = self._observation_space(sampler, task)
            assert space is not None, "neither the task nor the sampler has an observation_space"
            self._check_observation(space, task.get_observations(), "get_observations()")
            for number, (_, result) in enumerate(self._steps(sampler, task), start=1):
                if result.observation is not None:
                    self._check_observation(space, result.observation, f"step {number}")

    def test_observation_space_stays(self) -> None:
        """The tasks of one sampler share one observation space, if the sampler says so."""
        with self._sampler() as sampler:
            if not getattr(sampler, "all_observation_spaces_equal", True):
                raise unittest.SkipTest("all_observation_spaces_equal is False")
            task = self._first_task(sampler)
            first = self._observation_space(sampler, task)
            following = sampler.next_task()
            if following is not None:
                space = self._observation_space(sampler, following)
                assert space == first, (
                    f"the second task's observation space is {space}, the first one's {first}, "
                    "though all_observation_spaces_equal is True"
                )

    def test_step_results(self) -> None:
        """A step gives observation, reward, done and info, of the right types and finite."""
        with self._sampler() as sampler:
            for task, result in self._steps(sampler, self._first_task(sampler)):
                try:
                    rewards = as_reward(result.reward)
                except TypeError as error:
                    raise AssertionError(str(error)) from None
                assert np.isfinite(rewards).all(), f"reward {result.reward!r} is not finite"
                assert isinstance(result.done, (bool, np.bool_, type(None))), (
                    f"done must be a bool (or None: ask is_done()), got {result.done!r}"
                )
                assert result.info is None or isinstance(result.info, Mapping), (
                    f"info must be a mapping or None, got {type(result.info).__name__}"
                )
                if result.done is not None:
                    assert bool(result.done) == bool(task.is_done()), (
                        f"step() says done={result.done}, is_done() says {task.is_done()}"
                    )

    def test_steps_are_counted(self) -> None:
        """``num_steps_taken`` counts the steps, and ``max_steps`` ends the episode."""
        with self._sampler() as sampler:
            previous, count = None, 0
            for task, _ in self._steps(sampler, self._first_task(sampler)):
                if not hasattr(task, "num_steps_taken"):
                    raise unittest.SkipTest("the task does not count its steps")
                previous, count = task, count + 1 if task is previous else 1
                taken = task.num_steps_taken()
                assert taken == count, f"num_steps_taken() is {taken} after {count} steps"
                limit = getattr(task, "max_steps", math.inf)
                assert count <= limit, f"{count} steps were taken, max_steps is {limit}"

    def test_rewards_are_added_up(self) -> None:
        """``cumulative_reward`` is the sum of the rewards."""
        with self._sampler() as sampler:
            task = self._first_task(sampler)
            if not hasattr(task, "cumulative_reward"):
                raise unittest.SkipTest("the task does not add up its rewards")
            rewards = []
            for stepped, result in self._steps(sampler, task):
                if stepped is task:
                    rewards.append(as_reward(result.reward))
            np.testing.assert_allclose(
                task.cumulative_reward,
                np.sum(rewards, axis=0),
                rtol=1e-6,
                atol=1e-9,
                err_msg="cumulative_reward is not the sum of the rewards",
            )

    def test_observing_changes_nothing(self) -> None:
        """``get_observations`` may be called twice."""
        with self._sampler() as sampler:
            task = self._first_task(sampler)
            once = _copied(task.get_observations())
            assert_identical(once, task.get_observations(), "get_observations() called twice")

    def test_done_task_refuses_to_step(self) -> None:
        """A task that is done raises when it is stepped."""
        with self._sampler() as sampler:
            task = self._finished_task(sampler)
            action = self.make_action(task, np.random.default_rng(self.seed))
            try:
                task.step(action)
            except Exception:  # whichever the task chooses
                return
            raise AssertionError("step() on a task that is done must raise")

    def test_metrics(self) -> None:
        """A task that is done has metrics: a mapping with names."""
        with self._sampler() as sampler:
            task = self._finished_task(sampler)
            if not hasattr(task, "metrics"):
                raise unittest.SkipTest("the task has no metrics")
            metrics = task.metrics()
            assert isinstance(metrics, Mapping), (
                f"metrics() must be a mapping, got {type(metrics).__name__}"
            )
            strange = [key for key in metrics if not isinstance(key, str)]
            assert not strange, f"the names of metrics must be strings, got {strange}"

    def test_seeds_reproduce(self) -> None:
        """The same seed and the same actions give the same results, to the last bit."""
        if not self.is_seeded:
            raise unittest.SkipTest("is_seeded is False")
        traces = []
        for _ in range(2):
            with self._sampler() as sampler:
                sampler.set_seed(self.seed)
                task = self._first_task(sampler)
                trace: list[Any] = [_copied(task.get_observations())]
                trace += [_copied(tuple(result)) for _, result in self._steps(sampler, task)]
                traces.append(trace)
        assert_identical(traces[0], traces[1], "two runs with one seed")

    def test_render(self) -> None:
        """An image is uint8 [height_px, width_px, 3], grey [height_px, width_px] or RGBA."""
        if self.render_mode is None:
            raise unittest.SkipTest("render_mode is None")
        with self._sampler() as sampler:
            image = np.asarray(self._first_task(sampler).render(self.render_mode))
            assert image.dtype == np.uint8, f"render() must give uint8, got {image.dtype}"
            assert image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4)), (
                f"render() must give [height, width(, 1, 3 or 4)], got {image.shape}"
            )
            assert image.size > 0, f"render() gave an empty image {image.shape}"

    def test_last_sampled_task(self) -> None:
        """``last_sampled_task`` is the one that ``next_task`` gave."""
        with self._sampler() as sampler:
            if not hasattr(sampler, "last_sampled_task"):
                raise unittest.SkipTest("the sampler has no last_sampled_task")
            task = self._first_task(sampler)
            last = sampler.last_sampled_task
            its_class_has = getattr(type(sampler), "last_sampled_task", None)
            if last is None and its_class_has is TaskSampler.last_sampled_task:
                raise unittest.SkipTest("the sampler does not keep its last task")
            assert last is task, f"last_sampled_task is {last!r}, next_task() gave {task!r}"

    def test_length(self) -> None:
        """``length`` counts down to 0, and then ``next_task`` gives None."""
        with self._sampler() as sampler:
            if not hasattr(sampler, "length"):
                raise unittest.SkipTest("the sampler has no length")
            length = sampler.length
            assert length > 0, f"length is {length} though no task was sampled"
            if not length <= self.num_steps:
                return
            for left in range(int(length) - 1, -1, -1):
                assert sampler.next_task() is not None, (
                    f"next_task() gave None, {left + 1} were left"
                )
                assert sampler.length == left, f"length is {sampler.length}, {left} tasks are left"
            assert sampler.next_task() is None, "next_task() gave a task though length was 0"

    def test_reset(self) -> None:
        """After ``reset`` the sampler has its first task again."""
        with self._sampler() as sampler:
            length = getattr(sampler, "length", None)
            self._first_task(sampler)
            sampler.reset()
            assert getattr(sampler, "length", None) == length, (
                f"length is {sampler.length} after reset(), it was {length} at the start"
            )
            assert sampler.next_task() is not None, "next_task() gave None after reset()"

    def test_close_twice(self) -> None:
        """Tasks and samplers may be closed twice."""
        sampler = self.make_task_sampler()
        task = self._first_task(sampler)
        for closable in (task, task, sampler, sampler):
            closable.close()

    # -- what they are made of --------------------------------------------------------------------

    @contextmanager
    def _sampler(self) -> Iterator[Any]:
        sampler = self.make_task_sampler()
        try:
            yield sampler
        finally:
            sampler.close()

    def _first_task(self, sampler: Any) -> Any:
        task = sampler.next_task()
        assert task is not None, "a new sampler must have at least one task"
        return task

    def _observation_space(self, sampler: Any, task: Any) -> Any:
        space = getattr(task, "observation_space", None)
        return getattr(sampler, "observation_space", None) if space is None else space

    def _check_observation(self, space: Any, observation: Any, where: str) -> None:
        assert observation is not None, f"the observation of {where} is None"
        try:
            is_inside = space.contains(nested_as(space, observation))
        except TypeError:
            is_inside = False
        assert is_inside, f"the observation of {where} is not in {space}: {observation!r}"

    def _steps(self, sampler: Any, task: Any) -> Iterator[tuple[Any, RLStepResult]]:
        """Yield at most ``num_steps`` (task, result), over as many tasks as that takes."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.num_steps):
            yield task, RLStepResult(*task.step(self.make_action(task, rng)))
            if task.is_done():
                task = sampler.next_task()
                if task is None:
                    return

    def _finished_task(self, sampler: Any) -> Any:
        task = self._first_task(sampler)
        for stepped, _ in self._steps(sampler, task):
            if stepped is task and task.is_done():
                return task
        raise unittest.SkipTest(f"no episode ended within {self.num_steps} steps")


def assert_identical(one: Any, other: Any, where: str = "values") -> None:
    """Compare two nested values to the last bit: types, dtypes, shapes, and NaNs as equal.

    Raises:
        AssertionError: they differ; the message names the place in the nesting.

    >>> assert_identical({"a": [1.0]}, {"a": [2.0]})
    Traceback (most recent call last):
    AssertionError: values['a'][0]: 1.0 is not 2.0
    """
    assert type(one) is type(other), (
        f"{where}: {type(one).__name__} {one!r} is not {type(other).__name__} {other!r}"
    )
    if isinstance(one, Mapping):
        assert list(one) == list(other), f"{where}: keys {list(one)} are not {list(other)}"
        for key in one:
            assert_identical(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, Sequence) and not isinstance(one, (str, bytes)):
        assert len(one) == len(other), f"{where}: length {len(one)} is not {len(other)}"
        for position, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_identical(left, right, f"{where}[{position}]")
    elif isinstance(one, (np.ndarray, np.generic, float)):
        left, right = np.asarray(one), np.asarray(other)
        assert left.dtype == right.dtype, f"{where}: dtype {left.dtype} is not {right.dtype}"
        assert left.shape == right.shape, f"{where}: shape {left.shape} is not {right.shape}"
        assert left.tobytes() == right.tobytes(), f"{where}: {one!r} is not {other!r}"
    elif hasattr(one, "detach"):
        assert_identical(one.detach().cpu().numpy(), other.detach().cpu().numpy(), where)
    else:
        assert one == other, f"{where}: {one!r} is not {other!r}"


def record_trace(tasks: Any, num_steps: int, seed: int = 0) -> list[Any]:
    """Step a vector with actions drawn from its action spaces, and record all results.

    Args:
        tasks: a vector; exhausted samplers are paused when they appear.
        num_steps: how many steps to take.
        seed: of the actions.

    Returns:
        the first observations, then each step's list of (observation, reward, done, info).
    """
    num_steps, seed = whole_number("num_steps", num_steps), checked_seed(seed)
    trace: list[Any] = [_copied(tasks.get_observations())]
    spaces = [copy.deepcopy(space) for space in tasks.action_spaces]
    for i, space in enumerate(spaces):
        space.seed(seed + i)
    by_id = dict(zip(tasks.sampler_ids, spaces, strict=True))
    for _ in range(num_steps):
        results = tasks.step([by_id[i].sample() for i in tasks.sampler_ids])
        trace.append(_copied([tuple(result) for result in results]))
        for index in reversed(range(len(results))):
            if results[index].observation is None:
                tasks.pause_at(index)
    return trace


def _copied(value: Any) -> Any:
    """Copy a value, so that a later change of a reused array does not change the copy."""
    try:
        return copy.deepcopy(value)
    except TypeError:  # read-only views of dicts are refused
        return copy_arrays(value)
