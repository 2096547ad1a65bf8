"""Run environments in an adapter's workers: reset and end them as trainers expect."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vectasks._util.step_values import as_flag
from vectasks.envs.interface import OLD_GYM_ADVICE, as_info, explain_step_error, reset_env
from vectasks.protocol import StepOutcome
from vectasks.spaces import ActionBatches, action_batches, copy_arrays, task_action
from vectasks.task import RLStepResult

# In the info of a step that ends an episode: the environment's own info, and that of the reset.
ENDED, BEGUN = "__ENDED__", "__BEGUN__"

# The environments that are in use in this process, as functions may give the same one twice.
_IN_USE: set[int] = set()

_MAX_SCALARS = 1024


class _Scalars(dict[int, Any]):
    """A table of a dtype's numpy scalars: looking one up is faster than making it."""

    def __init__(self, dtype: Any) -> None:
        self._kind = np.dtype(dtype).type

    def __missing__(self, integer: int) -> Any:
        scalar = self._kind(integer)
        if len(self) < _MAX_SCALARS:
            self[integer] = scalar
        return scalar


class OpenBox(spaces.Box):
    """A Box as a vector knows it whose actions are for the environment to judge.

    Trainers' own vectors hand on what they were given. Here, arrays of the space's shape travel as
    its dtype; of anything else, and of scalars, an environment gets the very values.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space.low, space.high, space.shape, space.dtype)
        self.space = space

    def takes(self, action: Any) -> bool:
        """Tell whether an action is sent as an array of this space."""
        return self.shape != () and np.shape(action) == self.shape


@task_action.register
def _(space: OpenBox, action: Any) -> Any:
    return task_action.dispatch(spaces.Box)(space, action) if space.takes(action) else action


@action_batches.register
def _(space: OpenBox, check: bool) -> ActionBatches:
    kind = ActionBatches if space.shape == () else action_batches.dispatch(spaces.Box)
    return kind(space, check)


class Episodes:
    """The episodes of one environment: both the task sampler and each of its tasks.

    Nothing is reset before it is asked for: a trainer's first reset brings the seed; a step before
    it is the environment's to judge. From the end of an episode until the next begins, a step
    begins an episode instead.

    Args:
        env_fn: makes the environment.
        same_step: whether the step that ends an episode begins the next one.

    Raises:
        TypeError: ``env_fn`` does not make a ``gymnasium.Env``.
        ValueError: the environment that it gives is in use already.
    """

    def __init__(self, env_fn: Callable[[], Any], same_step: bool = False) -> None:
        self.env: Any = env_fn()
        if not isinstance(self.env, gymnasium.Env):
            raise TypeError(
                f"{env_fn!r} gave a {type(self.env).__name__}; it must make a gymnasium.Env. "
                f"{OLD_GYM_ADVICE if hasattr(self.env, 'step') else ''}".rstrip()
            )
        if id(self.env.unwrapped) in _IN_USE:
            raise ValueError(
                f"{env_fn!r} gave an environment that is in use already; it must make a new one at "
                "every call."
            )
        self.observation_space: spaces.Space[Any] = self.env.observation_space
        self.action_space: spaces.Space[Any] = self.env.action_space
        self.reset_info: dict[str, Any] = {}
        self._same_step = same_step
        self._is_over = False
        self._is_closed = False
        # A trainer's environments get numpy's integers, and some rely on it.
        discrete = isinstance(self.action_space, spaces.Discrete)
        self._scalars = _Scalars(self.action_space.dtype) if discrete else None
        if isinstance(self.action_space, spaces.Box):
            self.action_space = OpenBox(self.action_space)
        self._is_nested = isinstance(self.action_space, (spaces.Dict, spaces.Tuple))
        # Stands for an observation, and is shown to nobody; drawn from a copy, because drawing
        # changes a space.
        self._observation = copy.deepcopy(self.observation_space).sample()
        _IN_USE.add(id(self.env.unwrapped))

    def next_task(self, start: dict[str, Any] | None = None) -> Episodes:
        """Reset the environment with the keywords ``start``, if given, and return this object."""
        if start is not None:
            self._begin(start)
        return self

    def step(self, action: Any) -> RLStepResult | tuple[Any, Any, bool, Any] | StepOutcome:
        """Step the environment; return observation, reward, whether the episode ended, and info."""
        if self._is_over:
            self._begin({})
            return RLStepResult(self._observation, 0.0, False, self.reset_info)
        if self._scalars is not None:
            action = self._scalars[action]
        elif self._is_nested:
            action = _with_scalars(self.action_space, action)
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except (TypeError, ValueError) as error:
            explain_step_error(self.env, error)
            raise
        if type(info) is not dict:
            info = as_info(self.env, info)
        self._observation = observation
        if not (terminated or truncated):
            return observation, reward, False, info  # made sooner than an RLStepResult
        terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
        self._is_over = True
        if not self._same_step:
            info = {ENDED: info, "terminated": terminated, "truncated": truncated}
            return RLStepResult(observation, reward, True, info)
        # At once what a host makes of a last step and a next task, which are one here. Copies:
        # the environment may reset the very same objects.
        last = {ENDED: copy_arrays(info, True), "final_observation": copy_arrays(observation, True)}
        self._begin({})
        last[BEGUN] = copy_arrays(self.reset_info, True)
        return StepOutcome(self._observation, reward, True, last, terminated, truncated, False)

    def _begin(self, start: dict[str, Any]) -> None:
        self._observation, self.reset_info = reset_env(self.env, **start)
        self._is_over = False

    def get_observations(self) -> Any:
        """Return the environment's last observation."""
        return self._observation

    def render(self, *_: Any, **__: Any) -> Any:
        """Return what the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        if not self._is_closed:  # asked of the sampler and of its task
            self._is_closed = True
            _IN_USE.discard(id(self.env.unwrapped))
            self.env.close()

    # -- for the adapters -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return what a vector of environments shows as its own: metadata, render mode, space."""
        return {
            "metadata": dict(self.env.metadata),
            "render_mode": self.env.render_mode,
            "observation_space": self.env.observation_space,
        }

    def get(self, name: str) -> Any:
        """Return an attribute of the environment or of a wrapper around it; "a.b" is nested."""
        first, _, rest = name.partition(".")
        found = self.env.get_wrapper_attr(first)
        return operator.attrgetter(rest)(found) if rest else found

    def has(self, name: str) -> bool:
        """Tell whether the attribute exists."""
        return bool(self.env.has_wrapper_attr(name))

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a method of the environment or of a wrapper around it."""
        return self.get(name)(*args, **kwargs)

    def get_or_call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call it if it can be called, else return its value."""
        found = self.get(name)
        return found(*args, **kwargs) if callable(found) else found

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of the environment, or of the wrapper that has it."""
        self.env.set_wrapper_attr(name, value)

    def set_outermost(self, name: str, value: Any) -> None:
        """Set an attribute of the outermost wrapper."""
        setattr(self.env, name, value)

    def is_wrapped(self, wrapper_class: type) -> bool:
        """Tell whether a wrapper of this class is around the environment."""
        env = self.env
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, wrapper_class):
                return True
            env = env.env
        return False


def _with_scalars(space: Any, action: Any) -> Any:
    """Convert a nested action to numpy's scalars, as Gymnasium's own vectors do."""
    if isinstance(space, spaces.Dict):
        return {key: _with_scalars(sub, action[key]) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, action, strict=True)
        return tuple(_with_scalars(sub, part) for sub, part in parts)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(action)
    return action[()] if isinstance(space, spaces.Box) and space.shape == () else action
