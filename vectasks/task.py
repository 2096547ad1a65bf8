"""Tasks and task samplers: what users implement.

A *task* is one goal-directed episode on an environment; a *task sampler* makes tasks, one after
another. Inheriting is a convenience, not a duty: the :class:`TaskLike` and :class:`TaskSamplerLike`
protocols say what vectasks uses, and classes of AllenAct's shape satisfy them as they are.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vectasks._util.step_values import as_flag, as_reward, no_step_result

__all__ = ["RLStepResult", "Task", "TaskLike", "TaskSampler", "TaskSamplerLike"]

EnvT = TypeVar("EnvT")

_NUMBERS = (int, float, np.integer, np.floating)


class RLStepResult(NamedTuple):
    """The result of one step of a task; it unpacks to exactly these four."""

    observation: Any
    reward: Any
    done: bool | None
    info: Any

    def clone(self, new_info: Mapping[str, Any]) -> RLStepResult:
        """Copy the result with the fields of ``new_info`` replaced.

        >>> RLStepResult(0, 1.0, False, {}).clone({"done": True})
        RLStepResult(observation=0, reward=1.0, done=True, info={})

        Raises:
            ValueError: a step's result has no such field.
        """
        unknown = sorted(set(new_info) - set(self._fields))
        if unknown:
            raise ValueError(
                f"clone() got the fields {unknown}; it takes any of {list(self._fields)}."
            )
        return self._replace(**new_info)

    def merge(self, other: RLStepResult) -> RLStepResult:
        """Copy the result with every field that is not None in ``other`` replaced by that.

        Two infos that are both mappings are united, the other's values winning.
        """
        info = other.info if other.info is not None else self.info
        if isinstance(self.info, Mapping) and isinstance(other.info, Mapping):
            info = {**self.info, **other.info}
        return RLStepResult(
            self.observation if other.observation is None else other.observation,
            self.reward if other.reward is None else other.reward,
            self.done if other.done is None else other.done,
            info,
        )


class TaskLike(Protocol):
    """The interface of a task (``reached_*`` and ``metrics`` are used where they exist)."""

    @property
    def action_space(self) -> Any:
        """The space of its actions."""

    def step(self, action: Any) -> Any:
        """Take one step; return ``observation``, ``reward``, ``done`` and ``info``."""

    def get_observations(self) -> Any:
        """Return the observation of the current state."""

    def is_done(self) -> bool:
        """Tell whether the episode is over."""

    def render(self, mode: str = "rgb") -> Any:
        """Return the current state as an image: uint8 [height_px, width_px, 3]."""

    def close(self) -> None:
        """Release what this task alone holds."""


class TaskSamplerLike(Protocol):
    """The interface of a task sampler."""

    def next_task(self) -> Any:
        """Return the next task, or None when there is none left."""

    def close(self) -> None:
        """Release what the sampler holds."""


class Task(abc.ABC, Generic[EnvT]):
    """One episode on an environment.

    Args:
        env: whatever the task acts on; vectasks never looks into it.
        task_info: a description of this task; kept as an attribute.
        max_steps: the task is done after so many steps (``inf``: no limit).
        observation_space: the space that ``get_observations`` keeps to; where it is None, the
            sampler's ``observation_space`` or the environment's is used.

    Users write :meth:`_step`, :meth:`get_observations`, :attr:`action_space`,
    :meth:`reached_terminal_state` and, to be seen, :meth:`render`.

    Raises:
        ValueError: ``max_steps`` is not positive.
    """

    def __init__(
        self,
        env: EnvT,
        task_info: dict[str, Any] | None = None,
        max_steps: float = math.inf,
        observation_space: Any = None,
    ) -> None:
        if not isinstance(max_steps, _NUMBERS) or not max_steps > 0:
            raise ValueError(
                f"max_steps must be a positive number (or inf), got {max_steps!r} "
                f"({type(max_steps).__name__})."
            )
        self.env = env
        self.task_info: dict[str, Any] = {} if task_info is None else task_info
        self.max_steps = max_steps
        self._observation_space = observation_space
        self._num_steps_taken = 0
        self._total_reward: Any = 0.0
        self._is_over = False

    @property
    def observation_space(self) -> Any:
        """The space of this task's observations."""
        if self._observation_space is not None:
            return self._observation_space
        return getattr(self.env, "observation_space", None)

    @property
    @abc.abstractmethod
    def action_space(self) -> Any:
        """The space of this task's actions."""

    @abc.abstractmethod
    def _step(self, action: Any) -> RLStepResult:
        """Act on the environment; users write this, and callers call :meth:`step`."""

    @abc.abstractmethod
    def get_observations(self) -> Any:
        """Return the observation of the current state, nested as :attr:`observation_space`."""

    def reached_terminal_state(self) -> bool:
        """Tell whether the goal (or a failure) ended the episode, as opposed to the step limit."""
        return False

    def step(self, action: Any) -> RLStepResult:
        """Take one step: count it, add up the reward, and be done at ``max_steps``.

        Raises:
            RuntimeError: the task is done already.
            TypeError: ``_step`` gave no four values, or a reward or a done that is none.
        """
        if self.is_done():
            raise RuntimeError(
                f"step() on a task that is done (after {self._num_steps_taken} steps): "
                "ask the sampler for the next task."
            )
        return self._counted(self._step(action))

    def _counted(self, given: Any) -> RLStepResult:
        """Count a step that gave ``given``; the compiled core does the same for usual ones."""
        try:
            result = given if type(given) is RLStepResult else RLStepResult(*given)
        except TypeError:
            raise no_step_result(f"{type(self).__name__}._step", given) from None
        self._num_steps_taken += 1
        reward = result.reward
        if type(reward) is float:
            self._total_reward += reward
        else:
            self._total_reward = _add_rewards(self._total_reward, reward)
        done = result.done
        if type(done) is not bool:
            done = as_flag("done", done)
        done = done or self.is_done()
        self._is_over = done
        return result if result.done is done else result._replace(done=done)

    def num_steps_taken(self) -> int:
        """Return the number of steps taken so far."""
        return self._num_steps_taken

    def reached_max_steps(self) -> bool:
        """Tell whether ``max_steps`` steps were taken."""
        return self._num_steps_taken >= self.max_steps

    def is_done(self) -> bool:
        """Tell whether the episode is over, for whatever reason."""
        return self._is_over or self.reached_max_steps() or self.reached_terminal_state()

    @property
    def cumulative_reward(self) -> Any:
        """The rewards so far, added up: a float, or a list of floats for several agents."""
        return self._total_reward

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of an episode; called when it is done."""
        return {
            "ep_length": self._num_steps_taken,
            "reward": self._total_reward,
            "task_info": self.task_info,
        }

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        """Return the current state as an image: uint8 [height_px, width_px, 3].

        Raises:
            NotImplementedError: a class that does not write this one cannot be seen.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement render().")

    def close(self) -> None:
        """Release what this task alone holds (the environment is the sampler's)."""


def _add_rewards(total: Any, reward: Any) -> Any:
    """Add rewards; of each agent where there are several."""
    reward = as_reward(reward)
    if isinstance(reward, float):
        return total + reward
    if isinstance(total, float):
        total = [total] * len(reward)
    return [before + more for before, more in zip(total, reward, strict=True)]


TaskT = TypeVar("TaskT")


class TaskSampler(abc.ABC, Generic[TaskT]):
    """Makes tasks, one after another. Users write :meth:`next_task`; the rest has defaults."""

    @abc.abstractmethod
    def next_task(self, **kwargs: Any) -> TaskT | None:
        """Return the next task, or None when there is none left."""

    @property
    def length(self) -> float:
        """Tasks left; ``inf`` where there is no end."""
        return math.inf

    @property
    def total_unique(self) -> int | None:
        """Number of distinct tasks, or None where it is not known."""
        return None

    @property
    def last_sampled_task(self) -> TaskT | None:
        """The task that :meth:`next_task` returned last."""
        return cast("TaskT | None", getattr(self, "_last_sampled_task", None))

    @property
    def all_observation_spaces_equal(self) -> bool:
        """True if every task of this sampler has the same observation space."""
        return True

    #: Whether an episode depends on the sampler's arguments, seed and earlier ``next_task`` calls
    #: alone, not on what was done in earlier episodes. Then a recording of it needs its own actions
    #: only. (A sampler that can skip a task at less cost may have ``skip_task(**kwargs)``.)
    episodes_are_independent: bool = False

    #: A seed that a sampler which was given none drew for itself: ``set_seed(initial_seed)`` on a
    #: new one gives the same tasks. None: a recording of it can be replayed only if it is seeded.
    initial_seed: int | None = None

    #: In one process, whether :meth:`next_task` may run in a thread while another task of an equal
    #: sampler is stepped: then ``prepared_tasks`` helps there too, where resets wait or compute
    #: outside of Python.
    prepares_in_thread: bool = False

    def reset(self) -> None:
        """Restart the stream of tasks; the random state stays as it is."""

    def set_seed(self, seed: int) -> None:
        """Seed the tasks that are sampled from now on."""

    def close(self) -> None:
        """Release what the sampler holds."""
