"""Any Gymnasium environment as a stream of tasks: one episode is one task.

>>> sampler = GymnasiumTaskSampler("CartPole-v1", seed=7, max_steps=2)
>>> task = sampler.next_task()
>>> task.step(0).info, task.step(1).info
({}, {'terminated': False, 'truncated': True})
>>> task.metrics()
{'reward': 2.0, 'ep_length': 2}
>>> sampler.close()
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import (
    EnvSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)
from numpy.typing import NDArray

from vectasks._util.checks import checked_seed, real_number, whole_number
from vectasks._util.extras import require
from vectasks._util.step_values import as_flag
from vectasks.envs.episode_end import EpisodeEnd
from vectasks.envs.interface import (
    OLD_GYM_ADVICE,
    as_info,
    explain_step_error,
    reset_env,
)
from vectasks.rendering.tiles import as_pixels
from vectasks.task import RLStepResult, Task, TaskSampler

__all__ = [
    "GymnasiumTask",
    "GymnasiumTaskSampler",
    "can_give_images",
    "find_spec",
]

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]

# Environments hand their seed to generators of all kinds; each of them takes 31 bits.
_SEED_LIMIT = 2**31
_IMAGE_MODES = ("rgb", "rgb_array")
_SUCCESS_KEYS = ("success", "is_success")


class GymnasiumTask(EpisodeEnd, Task[AnyEnv]):
    """One episode of a Gymnasium environment that was just reset.

    The step that ends the episode has ``info["terminated"]`` and ``info["truncated"]`` (bools);
    apart from these an info is the environment's own.

    Args:
        env: the environment, wrappers and all; the sampler keeps it and closes it.
        observation: what ``env.reset`` returned.
        reset_info: the info that ``env.reset`` returned; kept as an attribute.
        task_info: see :class:`vectasks.Task`.
        max_steps: one more time limit, told as truncation like Gymnasium's ``TimeLimit``.
    """

    def __init__(
        self,
        env: AnyEnv,
        observation: Any,
        reset_info: dict[str, Any] | None = None,
        task_info: dict[str, Any] | None = None,
        max_steps: float = math.inf,
    ) -> None:
        super().__init__(env, task_info=task_info, max_steps=max_steps)
        self.reset_info: dict[str, Any] = {} if reset_info is None else reset_info
        self._observation = observation
        self._success: Any = None

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The environment's action space."""
        return self.env.action_space

    def _step(self, action: Any) -> RLStepResult:
        try:
            self._observation, reward, terminated, truncated, info = self.env.step(action)
        except (TypeError, ValueError) as error:
            explain_step_error(self.env, error)
            raise
        if type(info) is not dict:
            info = as_info(self.env, info)
        if not (terminated or truncated or self._num_steps_taken + 1 >= self.max_steps):
            return RLStepResult(self._observation, reward, False, info)
        self._terminated = as_flag("terminated", terminated)
        self._truncated = (
            as_flag("truncated", truncated) or self._num_steps_taken + 1 >= self.max_steps
        )
        self._success = next((info[key] for key in _SUCCESS_KEYS if key in info), None)
        # A copy: the environment may go on using its own dict.
        info = {**info, **self._end_flags()}
        return RLStepResult(self._observation, reward, True, info)

    def get_observations(self) -> Any:
        """The environment's last observation."""
        return self._observation

    def metrics(self) -> dict[str, Any]:
        """``reward`` (the episode's return) and ``ep_length`` (its steps).

        ``success`` is added where the last info carried ``success`` or ``is_success``.
        """
        metrics = {"reward": self._total_reward, "ep_length": self._num_steps_taken}
        if self._success is not None:
            metrics["success"] = self._success
        return metrics

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        """Render the environment's own image: uint8 [height_px, width_px, 3].

        Raises:
            ValueError: ``mode`` is neither ``"rgb"`` nor ``"rgb_array"``.
            RuntimeError: the environment was made without images.
            InvalidArgument: what it gives cannot be shown as an image.
            MissingExtra: it draws with pygame, which is not installed.
        """
        if mode not in _IMAGE_MODES:
            raise ValueError(f"render() got the mode {mode!r}; it takes one of {_IMAGE_MODES}.")
        # Asked first, because rendering without a mode makes Gymnasium warn at every frame.
        frame: Any = None if self.env.render_mode is None else self._draw()
        gives_images = str(self.env.render_mode).startswith("rgb_array")
        if not gives_images and np.ndim(frame) not in (2, 3):
            raise RuntimeError(
                f"{self.env} gives no image (its render_mode is {self.env.render_mode!r}): "
                'make it with render_mode="rgb_array".'
            )
        return as_pixels(frame, f"what render() of {self.env} gave")

    def _draw(self) -> Any:
        try:
            return self.env.render()
        except gymnasium.error.DependencyNotInstalled:
            require("pygame", "video", f"pictures of {type(self.env.unwrapped).__name__}")
            raise  # it wants something else


class GymnasiumTaskSampler(TaskSampler[GymnasiumTask]):
    """A Gymnasium environment as a stream of tasks: each task is one episode.

    An environment that reached the end of an episode is not reset before the next task is sampled.
    A task's ``task_info`` holds ``env_id``, ``seed`` (what the environment was reset with, None
    for a bare reset) and ``episode`` (counted from 0).

    Args:
        env: an id (``"CartPole-v1"``, ``"module:Id-v0"``; those of MiniGrid and the Arcade Learning
            Environment need no import), an ``EnvSpec``, a factory, or an
            environment, whose wrappers are kept. Made from an id or a spec, an environment that
            can give images is made with ``render_mode="rgb_array"``, so that it can be looked at.
        seed: seeds the episodes; None draws the seed from the operating system.
        seed_each_episode: True resets the environment for every episode with a fresh seed, drawn
            from a generator that ``seed`` seeds: each episode can be replayed by itself. False
            seeds one reset and leaves the following ones bare, as Gymnasium's own vectors do.
        max_tasks: the stream ends after so many tasks; None: it never ends.
        max_steps: a time limit in steps beside the environment's own; None: no further limit.
        reset_options: passed to every ``env.reset(options=...)``.
        make_kwargs: arguments for ``gymnasium.make`` or for the factory. A mapping, so that they
            never get in the way of the names above.

    Raises:
        gymnasium.error.Error: the id is unknown, or what the environment needs is missing.
        MissingExtra: the id is of a package that an extra of vectasks installs.
        TypeError: ``env`` is none of these.
        ValueError: a limit that cannot be; ``make_kwargs`` beside an environment.
    """

    def __init__(
        self,
        env: str | EnvSpec | AnyEnv | Callable[..., AnyEnv],
        *,
        seed: int | None = None,
        seed_each_episode: bool = True,
        max_tasks: int | None = None,
        max_steps: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        make_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.max_tasks: int | None = (
            None if max_tasks is None else whole_number("max_tasks", max_tasks)
        )
        if max_steps is None:
            max_steps = math.inf
        self.max_steps: float = real_number("max_steps", max_steps, at_least=1, finite=False)
        if seed is not None:
            seed = checked_seed(seed)  # Gymnasium takes no integers of numpy
        self.seed_each_episode = seed_each_episode
        self.reset_options = reset_options
        self._num_sampled = 0
        self._last_sampled_task: GymnasiumTask | None = None
        self._pending_seed = seed
        if seed is None and seed_each_episode:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        #: What ``set_seed`` must be given to replay this sampler's episodes; None: nothing can.
        self.initial_seed = seed
        self._rng = np.random.default_rng(seed)
        self.env: AnyEnv = _make_env(env, make_kwargs or {})
        spec = self.env.spec
        self._env_id = type(self.env.unwrapped).__name__ if spec is None else spec.id

    def next_task(
        self,
        options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> GymnasiumTask | None:
        """Reset the environment for the next episode; None after ``max_tasks`` of them.

        Args:
            options: for this reset, in place of ``reset_options``.
            seed: for this reset, in place of the sampler's own, which is left out.
            **kwargs: what other samplers understand (``force_advance_scene``); ignored.
        """
        if self.max_tasks is not None and self._num_sampled >= self.max_tasks:
            return None
        options = self.reset_options if options is None else options
        own_seed = self._next_seed()
        seed = own_seed if seed is None else checked_seed(seed)
        options = None if options is None else dict(options)
        observation, info = reset_env(self.env, seed=seed, options=options)
        self._last_sampled_task = GymnasiumTask(
            self.env,
            observation,
            info,
            {"env_id": self._env_id, "seed": seed, "episode": self._num_sampled},
            self.max_steps,
        )
        self._num_sampled += 1
        return self._last_sampled_task

    @property
    def episodes_are_independent(self) -> bool:  # type: ignore[override]
        """True if each episode can be replayed by itself: if each has a seed of its own."""
        return self.seed_each_episode

    def skip_task(self, **kwargs: Any) -> None:
        """Count one task and draw its seed; without one, its reset is made all the same."""
        if not self.seed_each_episode:
            self.next_task(**kwargs)
        elif self.length > 0:
            self._next_seed()
            self._num_sampled += 1

    @property
    def length(self) -> float:
        """Tasks left: ``inf`` without ``max_tasks``."""
        return math.inf if self.max_tasks is None else self.max_tasks - self._num_sampled

    @property
    def total_unique(self) -> int | None:
        """``max_tasks``: every episode counts as a task of its own."""
        return self.max_tasks

    def reset(self) -> None:
        """Count the tasks from 0 again; the random state stays as it is."""
        self._num_sampled = 0

    def set_seed(self, seed: int) -> None:
        """Seed the episodes that are sampled from now on."""
        seed = checked_seed(seed)
        self._rng = np.random.default_rng(seed)
        self._pending_seed = seed

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _next_seed(self) -> int | None:
        if self.seed_each_episode:
            return int(self._rng.integers(_SEED_LIMIT))
        seed, self._pending_seed = self._pending_seed, None
        return seed


def find_spec(env_id: str) -> EnvSpec:
    """The specification that ``gymnasium.make(env_id)`` would use; nothing is made.

    Raises:
        gymnasium.error.Error: there is no such id; the message suggests one that is close.
        ModuleNotFoundError: the module of a ``"module:Id-v0"`` cannot be imported.
        MissingExtra: the id is of a package that an extra of vectasks installs.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    _import_known_package(name)
    namespace, base_name, version = parse_env_id(name)
    if version is None:
        version = find_highest_version(namespace, base_name)
    return gymnasium.spec(get_env_id(namespace, base_name, version))


def _import_known_package(env_id: str) -> None:
    """Import the package that registers ``env_id``, where vectasks has an extra for it."""
    spec = gymnasium.registry.get(env_id)
    if spec is not None and not str(spec.entry_point).startswith(("minigrid", "ale_py")):
        return  # the user's own, of a name like theirs
    if env_id.startswith(("MiniGrid-", "BabyAI-")):
        require("minigrid", "minigrid", env_id)
    elif env_id.startswith("ALE/") or "NoFrameskip" in env_id:
        ale_py = require("ale_py", "atari", env_id)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # keeps its banner off stderr


def can_give_images(spec: EnvSpec) -> bool:
    """Tell whether the environment can be made with ``render_mode="rgb_array"``.

    Raises:
        gymnasium.error.DependencyNotInstalled: a library that the environment needs is missing.
    """
    creator: Any = spec.entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    metadata = getattr(creator, "metadata", None)  # a function has none, a wrapper a property
    if isinstance(metadata, Mapping) and "rgb_array" not in metadata.get("render_modes", ()):
        return False
    parameters = inspect.signature(creator).parameters
    return "render_mode" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _make_env(
    source: str | EnvSpec | AnyEnv | Callable[..., AnyEnv], make_kwargs: Mapping[str, Any]
) -> AnyEnv:
    if isinstance(source, (str, EnvSpec)):
        spec = find_spec(source) if isinstance(source, str) else source
        kwargs = {**spec.kwargs, **make_kwargs}
        if "render_mode" not in kwargs and can_give_images(spec):
            make_kwargs = {**make_kwargs, "render_mode": "rgb_array"}
        return gymnasium.make(source, **make_kwargs)
    if isinstance(source, gymnasium.Env):
        if make_kwargs:
            raise ValueError(
                f"make_kwargs {sorted(make_kwargs)} were given for {source}, which is made "
                "already: give an id or a factory instead."
            )
        return source
    if callable(source):
        env = source(**make_kwargs)
        if hasattr(env, "reset") and hasattr(env, "step"):
            return env
        raise TypeError(f"{source!r} must make an environment, got {env!r} from it.")
    raise TypeError(
        "env must be a Gymnasium id, an EnvSpec, an environment or a callable that makes one, "
        f"got {source!r}. {OLD_GYM_ADVICE if hasattr(source, 'step') else ''}".rstrip()
    )
