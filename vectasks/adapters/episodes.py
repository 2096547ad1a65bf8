"""What runs in the workers under an adapter: environments, begun and ended as trainers expect."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vectasks.messages import StepOutcome
from vectasks.spaces import own
from vectasks.task import RLStepResult

# In the info of a step that ends an episode: the environment's own info, and that of the reset.
ENDED, BEGUN = "__ENDED__", "__BEGUN__"

# The environments that are in use in this process, as functions may give the same one twice.
_IN_USE: set[int] = set()

_MAX_SCALARS = 1024


class _Scalars(dict[int, Any]):
    """Integers as numpy's scalars of a dtype, which are looked up sooner than made."""

    def __init__(self, dtype: Any) -> None:
        self._kind = np.dtype(dtype).type

    def __missing__(self, integer: int) -> Any:
        scalar = self._kind(integer)
        if len(self) < _MAX_SCALARS:
            self[integer] = scalar
        return scalar


class Episodes:
    """The episodes of one environment; both the task sampler and, ever again, its task.

    Nothing is reset before it is asked for: a trainer's first reset brings the seed. Until then,
    and from the end of an episode until the next begins, a step begins an episode instead.

    Args:
        env_fn: makes the environment.
        same_step: whether the step that ends an episode begins the next one.
        loosen: leave the bounds out of the observation space that is told to the vector, so that
            environments which differ in them alone go together.

    Raises:
        TypeError: ``env_fn`` does not make a ``gymnasium.Env``.
        ValueError: the environment that it gives is in use already.
    """

    def __init__(
        self, env_fn: Callable[[], Any], same_step: bool = False, loosen: bool = False
    ) -> None:
        self.env: Any = env_fn()
        if not isinstance(self.env, gymnasium.Env):
            raise TypeError(
                f"{env_fn!r} gave a {type(self.env).__name__}; it must make a gymnasium.Env."
            )
        if id(self.env.unwrapped) in _IN_USE:
            raise ValueError(
                f"{env_fn!r} gave an environment that is in use already; it must make a new one at "
                "every call."
            )
        space = self.env.observation_space
        self.observation_space: spaces.Space[Any] = _loosened(space) if loosen else space
        self.action_space: spaces.Space[Any] = self.env.action_space
        self.reset_info: dict[str, Any] = {}
        self._same_step = same_step
        self._is_over = True
        self._is_closed = False
        # A trainer's environments get numpy's integers, and some rely on it.
        discrete = isinstance(self.action_space, spaces.Discrete)
        self._scalars = _Scalars(self.action_space.dtype) if discrete else None
        # Stands for an observation, and is shown to nobody; drawn from a copy, because drawing
        # changes a space.
        self._observation = copy.deepcopy(space).sample()
        _IN_USE.add(id(self.env.unwrapped))

    def next_task(self, start: dict[str, Any] | None = None) -> Episodes:
        """Reset the environment with the keywords ``start``, if given; itself."""
        if start is not None:
            self._begin(start)
        return self

    def step(self, action: Any) -> RLStepResult | tuple[Any, Any, bool, Any] | StepOutcome:
        """Step the environment: observation, reward, whether it ended, info."""
        if self._is_over:
            self._begin({})
            return RLStepResult(self._observation, 0.0, False, self.reset_info)
        if self._scalars is not None:
            action = self._scalars[action]
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observation = observation
        if not (terminated or truncated):
            return observation, reward, False, info  # made sooner than an RLStepResult
        terminated, truncated = bool(terminated), bool(truncated)
        self._is_over = True
        if not self._same_step:
            info = {ENDED: info, "terminated": terminated, "truncated": truncated}
            return RLStepResult(observation, reward, True, info)
        # At once what a host makes of a last step and a next task, which are one here. Copies:
        # the environment may reset the very same objects.
        last = {ENDED: own(info, True), "final_observation": own(observation, True)}
        self._begin({})
        last[BEGUN] = own(self.reset_info, True)
        return StepOutcome(self._observation, reward, True, last, terminated, truncated, False)

    def _begin(self, start: dict[str, Any]) -> None:
        self._observation, self.reset_info = self.env.reset(**start)
        self._is_over = False

    def get_observations(self) -> Any:
        """The environment's last observation."""
        return self._observation

    def render(self, *_: Any, **__: Any) -> Any:
        """What the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        if not self._is_closed:  # asked of the sampler and of its task
            self._is_closed = True
            _IN_USE.discard(id(self.env.unwrapped))
            self.env.close()

    # -- for the adapters -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What a vector of environments tells of itself."""
        return {
            "metadata": dict(self.env.metadata),
            "render_mode": self.env.render_mode,
            "observation_space": self.env.observation_space,
        }

    def get(self, name: str) -> Any:
        """An attribute of the environment or of a wrapper around it."""
        return self.env.get_wrapper_attr(name)

    def has(self, name: str) -> bool:
        """Whether there is such an attribute."""
        return bool(self.env.has_wrapper_attr(name))

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a method of the environment or of a wrapper around it."""
        return self.env.get_wrapper_attr(name)(*args, **kwargs)

    def get_or_call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The same; what cannot be called is the answer itself."""
        found = self.env.get_wrapper_attr(name)
        return found(*args, **kwargs) if callable(found) else found

    def set(self, name: str, value: Any) -> None:
        """Set an attribute where it is: of the environment, or of a wrapper around it."""
        self.env.set_wrapper_attr(name, value)

    def set_outermost(self, name: str, value: Any) -> None:
        """Set an attribute of the outermost wrapper."""
        setattr(self.env, name, value)

    def is_wrapped(self, wrapper_class: type) -> bool:
        """Whether a wrapper of this class is around the environment."""
        env = self.env
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, wrapper_class):
                return True
            env = env.env
        return False


def _loosened(space: Any) -> Any:
    """The space without the bounds of its boxes."""
    if isinstance(space, spaces.Box):
        info = np.iinfo if space.dtype.kind in "iu" else np.finfo
        if space.dtype.kind not in "iuf":
            return space
        return spaces.Box(info(space.dtype).min, info(space.dtype).max, space.shape, space.dtype)
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _loosened(sub) for key, sub in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_loosened(sub) for sub in space.spaces])
    return space
