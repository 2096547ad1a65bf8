"""A vector as a ``gymnasium.vector.VectorEnv``, to replace its ``AsyncVectorEnv``.

>>> import gymnasium
>>> envs = VectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, max_processes=0)
>>> observation, info = envs.reset(seed=1)
>>> observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
>>> observation.shape, reward
((2, 4), array([1., 1.]))
>>> envs.close()
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium import logger, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    create_shared_memory,
    iterate,
)
from numpy.typing import NDArray

from vectasks._util.checks import checked_seed, whole_number
from vectasks.adapters.envs import (
    GivenTasks,
    Indices,
    MadeEnvs,
    checked_indices,
    original_of,
    refuse_options,
)
from vectasks.batch import StepBatch
from vectasks.envs.gymnasium import find_spec
from vectasks.errors import RemoteError, SpaceMismatch, VectasksError
from vectasks.spaces import spaces_equal
from vectasks.vector import BaseVectorSampledTasks

__all__ = ["VectorEnv", "make_vec"]

StepResult = tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _raising_originals(method: _Method) -> _Method:
    """Raise an environment's original error, as Gymnasium's own vectors do.

    Where several raised in one call, all of them are logged, and the last of them is raised.
    """

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except RemoteError as error:
            errors = [(error.sampler_id, error), *error.also_failed.items()]
            _log(errors)
            last = original_of(errors[-1][1])
            raise last from last.__cause__

    return cast("_Method", wrapped)


def _log(errors: Sequence[tuple[int | None, VectasksError]]) -> None:
    """Log what environments raised, in Gymnasium's words."""
    # Its logger warns; where warnings are errors, the environment's own is the one to raise.
    with suppress(UserWarning):
        for index, error in errors:
            text = error.remote_traceback if isinstance(error, RemoteError) else error
            logger.error(f"Received the following error from Worker-{index} - Shutting it down")
            logger.error("%s", text)
        logger.error("Raising the last exception back to the main process.")


class VectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Environments in worker processes, or a vector of tasks, stepped as one.

    Everything that ``gymnasium.vector.VectorEnv`` and ``AsyncVectorEnv`` promise, with their
    arguments, results and errors; what an environment raises is raised as it is. Rewards are
    float64 [num_envs] of float32 precision.

    Args:
        env_fns: each makes a ``gymnasium.Env``; or a vector of tasks, which is closed with this.
        shared_memory: whether observations travel by shared memory.
        copy: False gives observations that stay valid until the second following step.
        context: start method of the processes (None: "forkserver").
        daemon: whether the processes are daemonic.
        worker: must be None; the workers are this library's.
        observation_mode: "same", "different" (spaces that differ in their bounds), or the tuple
            (batched space, single space).
        autoreset_mode: when the episode after an ended one begins. None is the next step, or, for
            a vector, the same step. A vector goes on in the same step, whatever the mode; in the
            others, what it shows first is held back until its time.
        max_concurrency: so many environments step at once, at most.
        max_processes: so many processes, at most (None: one each; 0: none, all in this process).
        **vector_options: go to :class:`vectasks.VectorSampledTasks`: ``preload``, ``rerun_main``,
            ``read_timeout``, ``start_timeout_s``, ``close_grace_s``, ``on_worker_death``,
            ``max_restarts``, ``observation_transport``, ``mp_ctx``, ``timing``, ``name``, ...

    Raises:
        ValueError: an argument has a value that it cannot take, or the mode cannot be served.
        TypeError: the vector has no such option.
        RuntimeError: the environments' spaces differ.
    """

    @_raising_originals
    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | BaseVectorSampledTasks,
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: None = None,
        observation_mode: str | tuple[spaces.Space[Any], spaces.Space[Any]] = "same",
        autoreset_mode: str | AutoresetMode | None = None,
        max_concurrency: int | None = None,
        *,
        max_processes: int | None = None,
        **vector_options: Any,
    ) -> None:
        if worker is not None:
            raise ValueError(
                "worker= cannot be given: the workers are vectasks' own. What they should do "
                "otherwise belongs into a wrapper of the environments, or into tasks."
            )
        if max_concurrency is not None:
            max_concurrency = whole_number("max_concurrency", max_concurrency, at_least=1)
        _check_observation_mode(observation_mode)
        is_given = isinstance(env_fns, BaseVectorSampledTasks)
        if autoreset_mode is None:
            autoreset_mode = AutoresetMode.SAME_STEP if is_given else AutoresetMode.NEXT_STEP
        self.autoreset_mode: AutoresetMode = AutoresetMode(autoreset_mode)
        self.copy = copy
        self.observations: Any = None
        self._pending: _Pending | None = None
        self._envs: GivenTasks
        options = {"start_method": context, "max_processes": max_processes, **vector_options}
        if isinstance(env_fns, BaseVectorSampledTasks):
            refuse_options({**options, "max_concurrency": max_concurrency})
            self._envs = GivenTasks(env_fns)
            if observation_mode != "same":
                raise ValueError(
                    f"observation_mode={observation_mode!r} was asked of a vector, whose samplers "
                    "share one space: give 'same', or functions that make environments."
                )
            if self.autoreset_mode is not AutoresetMode.SAME_STEP and not self._envs.is_fixed:
                raise ValueError(
                    f"autoreset_mode={self.autoreset_mode.value!r} was asked of a vector whose "
                    f"observations {self._envs.observation_space} are not all arrays: give "
                    "'SameStep', or functions that make environments."
                )
        else:
            if max_concurrency is not None and max_processes != 0:
                limits = (max_concurrency, max_processes or max_concurrency)
                options["max_processes"] = min(limits)
            options.setdefault("observation_transport", "auto" if shared_memory else "pipe")
            try:
                self._envs = MadeEnvs(
                    env_fns,
                    same_step=self.autoreset_mode is AutoresetMode.SAME_STEP,
                    daemon=daemon,
                    **options,
                )
            except SpaceMismatch as error:
                raise RuntimeError(_no_common_space(observation_mode, str(error))) from None
        try:
            self._set_spaces(observation_mode)
            if shared_memory and not is_given and _is_custom(self.single_observation_space):
                raise ValueError(
                    f"shared_memory=True was asked of {self.single_observation_space}, whose "
                    "observations are not arrays: give shared_memory=False."
                )
        except BaseException:
            self._envs.vector.close()
            raise
        # Which environments cannot be stepped before they are reset. Those that were made here
        # judge for themselves whether they can do without a first one.
        self._unready = np.full(self.num_envs, is_given)
        self._is_ready = not is_given
        # Actions of these are sent as they are; Gymnasium itself takes others apart.
        self._is_plain = isinstance(self.single_action_space, (spaces.Box, spaces.Discrete))
        self._is_disabled = self.autoreset_mode is AutoresetMode.DISABLED
        # Environments that were made here keep to the mode themselves; what others show is held.
        self._holds = is_given and self.autoreset_mode is not AutoresetMode.SAME_STEP

    def _set_spaces(
        self, observation_mode: str | tuple[spaces.Space[Any], spaces.Space[Any]]
    ) -> None:
        told = self._envs.describe()
        self.num_envs: int = self._envs.num_envs
        self.metadata: dict[str, Any] = {
            **told[0]["metadata"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.render_mode: str | None = told[0]["render_mode"]
        self.single_action_space: spaces.Space[Any] = self._envs.action_space
        self.action_space: spaces.Space[Any] = batch_space(self.single_action_space, self.num_envs)
        of_each = [one["observation_space"] for one in told]
        if isinstance(observation_mode, tuple):
            self.observation_space, self.single_observation_space = observation_mode
        else:
            self.single_observation_space: spaces.Space[Any] = of_each[0]
            self.observation_space: spaces.Space[Any] = (
                batch_space(of_each[0], self.num_envs)
                if observation_mode == "same"
                else batch_differing_spaces(of_each)
            )
        fits = spaces_equal if observation_mode == "same" else _is_alike
        for index, space in enumerate(of_each):
            if not fits(space, self.single_observation_space):
                what = f"environment {index} has {space}, expected {self.single_observation_space}."
                raise RuntimeError(_no_common_space(observation_mode, what))

    # -- the episode ------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes; return their first observations and infos.

        Args:
            seed: one an environment, or one int: each gets it plus its index.
            options: for every environment, but for ``reset_mask``, bool [num_envs]: which to reset
                (all, where it is missing).

        Raises:
            TypeError, ValueError: the mask is none, or there is not one seed an environment.
        """
        self.reset_async(seed, options)
        return self.reset_wait()

    def reset_async(
        self,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Store the arguments of :meth:`reset`, which :meth:`reset_wait` carries out."""
        self._require_idle("reset_async")
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if one is None else checked_seed(one) for one in seed]
        _require_one_each("seed", seeds, self.num_envs)
        mask = None
        if options is not None and "reset_mask" in options:
            mask = _checked_mask(options["reset_mask"], self.num_envs)
            options = {key: value for key, value in options.items() if key != "reset_mask"}
        starts = [{"seed": one, "options": options} for one in seeds]
        self._pending = _Pending("reset", (starts, mask))

    @_raising_originals
    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with the arguments given to :meth:`reset_async`.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
        """
        starts, mask = self._end_of("reset").arguments
        with self._time_limit(timeout):
            observation, reset_infos = self._envs.reset(starts, mask)
        if mask is None:
            self._unready[:] = False
        else:
            self._unready[mask] = False
        self._is_ready = not self._unready.any()
        infos: dict[str, Any] = {}
        for index, info in enumerate(reset_infos):
            infos = self._add_info(infos, info, index)
        self.observations = self._batched(observation)
        return self.observations, infos

    @_raising_originals
    def step(self, actions: Any) -> StepResult:
        """Step every environment.

        Args:
            actions: one an environment, batched as ``action_space``.

        Returns:
            observation, reward: float64 [num_envs], terminated: bool [num_envs], truncated: bool
            [num_envs], and the infos, a dict of arrays [num_envs].

        Raises:
            ResetNeeded: an episode is over that only a reset follows; nothing was sent.
            TypeError, ValueError: there is not one action an environment; nothing was sent.
        """
        self._require_idle("step")
        if self._holds and np.count_nonzero(self._envs.over):
            self.step_async(actions)
            return self.step_wait()
        sendable = self._sendable(actions)
        return self._result(self._envs.vector.step_batch(sendable, copy=self.copy))

    def step_async(self, actions: Any) -> None:
        """Begin a step, which :meth:`step_wait` ends."""
        self._require_idle("step_async")
        actions, ids = self._sendable(actions), self._envs.vector.sampler_ids
        others = np.flatnonzero(~self._envs.over).tolist()
        if len(others) < self.num_envs:  # the others have begun their next episode already
            rows = list(actions)
            _require_one_each("actions", rows, self.num_envs)
            actions, ids = [rows[i] for i in others], [ids[i] for i in others]
        if ids:
            self._envs.vector.send(actions, ids)
        self._pending = _Pending("step", (others,))

    @_raising_originals
    def step_wait(self, timeout: float | None = None) -> StepResult:
        """Return the results of the step that :meth:`step_async` began.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds; waiting again is allowed.
        """
        pending = self._end_of("step")
        (others,) = pending.arguments
        try:
            limit_s = None if timeout is None else float(timeout)
            batch = self._envs.vector.recv(timeout=limit_s) if others else None
        except TimeoutError:
            self._pending = pending
            raise
        if batch is None or len(others) < self.num_envs:
            batch = self._envs.completed(batch, others)
        return self._result(batch)

    def _sendable(self, actions: Any) -> Any:
        if not self._is_ready:
            raise ResetNeeded(
                f"Environments {np.flatnonzero(self._unready).tolist()} cannot be stepped before "
                "they are reset: call reset(), which takes options={'reset_mask': ...} to reset "
                "some only."
            )
        try:
            len(actions)
        except TypeError:
            raise TypeError(
                f"actions is {actions!r} ({type(actions).__name__}); give one for each of the "
                f"{self.num_envs} environments."
            ) from None
        return actions if self._is_plain else list(iterate(self.action_space, actions))

    def _result(self, batch: StepBatch) -> StepResult:
        infos: dict[str, Any] = {}
        if any(batch.infos):
            done = batch.done.tolist()
            for index, info in enumerate(batch.infos):
                if done[index]:
                    last, info, reset_info = self._envs.ended(info, batch.observation, index)
                    if self.autoreset_mode is AutoresetMode.SAME_STEP:
                        final = {"final_obs": last, "final_info": info}
                        infos = self._add_info(infos, final, index)
                        info = reset_info
                if info:
                    infos = self._add_info(infos, info, index)
            if self._is_disabled:
                self._unready = batch.done
                self._is_ready = not any(done)
        observation = self._envs.hold(batch) if self._holds else batch.observation
        self.observations = self._batched(observation)
        reward = batch.reward.astype(np.float64)
        return self.observations, reward, batch.terminated, batch.truncated, infos

    def _batched(self, observation: Any) -> Any:
        """Batch the observation as Gymnasium does: tuples of what cannot be stacked."""
        if self._envs.is_fixed:
            return observation
        return _with_tuples(self.single_observation_space, observation)

    # -- reaching in ------------------------------------------------------------------------------

    def call(
        self, name: str, /, *args: Any, indices: Indices = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute that cannot be called.

        Args:
            name: of a method or an attribute of the environment, or of a wrapper around it.
            *args: go to the method.
            indices: of the environments to ask (None: all); one index, or several.
            **kwargs: go to the method.

        Raises:
            IndexError: there is no environment at such an index.
        """
        self.call_async(name, *args, indices=indices, **kwargs)
        return self.call_wait()

    def call_async(self, name: str, /, *args: Any, indices: Indices = None, **kwargs: Any) -> None:
        """Store the arguments of :meth:`call`, which :meth:`call_wait` carries out."""
        self._require_idle("call_async")
        chosen = checked_indices(indices, self.num_envs)
        self._pending = _Pending("call", (name, args, kwargs, chosen))

    @_raising_originals
    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Call with the arguments given to :meth:`call_async`.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
        """
        name, args, kwargs, chosen = self._end_of("call").arguments
        if name in ("reset", "step", "close"):
            raise ValueError(f"call({name!r}): use {name}(), which keeps count of the episodes.")
        with self._time_limit(timeout):
            return tuple(self._envs.get_or_call(name, args, kwargs, chosen))

    def get_attr(self, name: str, indices: Indices = None) -> tuple[Any, ...]:
        """Return an attribute of every environment, or of those at ``indices``."""
        return self.call(name, indices=indices)

    @_raising_originals
    def set_attr(self, name: str, values: Any, indices: Indices = None) -> None:
        """Set an attribute of every environment, or of some.

        Args:
            name: of an attribute of the environment, or of a wrapper around it.
            values: a list or tuple has one an environment; anything else is for all.
            indices: of the environments to set it in (None: all); one index, or several.

        Raises:
            IndexError: there is no environment at such an index.
            ValueError: there is not one value an environment.
        """
        self._require_idle("set_attr")
        chosen = checked_indices(indices, self.num_envs)
        count = self.num_envs if chosen is None else len(chosen)
        if not isinstance(values, (list, tuple)):
            values = [values] * count
        _require_one_each("values", values, count)
        self._envs.set(name, values, chosen)

    def render(self) -> tuple[Any, ...] | None:
        """Return what every environment renders."""
        return self.call("render")

    @property  # type: ignore[misc]  # read only, as in Gymnasium's own vectors
    def np_random(self) -> Any:
        """The random number generators of the environments, as copies."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The seeds that the environments were reset with."""
        return self.get_attr("np_random_seed")

    # -- the end ----------------------------------------------------------------------------------

    @_raising_originals
    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments and end their processes, if need be by force.

        Args:
            timeout: accepted; the processes have the vector's ``close_grace_s`` seconds.
            terminate: accepted, for the same reason.
        """
        if self._pending is not None:
            call = self._pending.call
            logger.warn(
                f"Calling `close` while waiting for a pending call to `{call}` to complete."
            )
        self.observations = None  # it may be a view of memory that the vector holds
        self._envs.vector.close()

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                f"Trying to operate on `{type(self).__name__}`, after a call to `close()`."
            )

    def _require_idle(self, what: str) -> None:
        self._require_open()
        if self._pending is not None:
            call = self._pending.call
            raise AlreadyPendingCallError(
                f"Calling `{what}` while waiting for a pending call to `{call}` to complete; "
                f"call `{call}_wait` first.",
                call,
            )

    def _end_of(self, call: str) -> _Pending:
        """End the pending call and return its arguments."""
        self._require_open()
        pending = self._pending
        if pending is None or pending.call != call:
            raise NoAsyncCallError(
                f"Calling `{call}_wait` without any prior call to `{call}_async`.", call
            )
        self._pending = None
        return pending

    @contextmanager
    def _time_limit(self, timeout_s: float | None) -> Iterator[None]:
        vector = self._envs.vector
        usual = vector.read_timeout
        vector.read_timeout = usual if timeout_s is None else float(timeout_s)
        try:
            yield
        finally:
            vector.read_timeout = usual


class _Pending(NamedTuple):
    """A call that was begun, and its arguments where they are needed later."""

    call: str
    arguments: tuple[Any, ...]


def _no_common_space(mode: Any, what: str) -> str:
    if mode == "same":
        return (
            "observation_mode='same' however some of the sub-environments observation spaces are "
            f"not equivalent. ({what}) If this is intentional, use `observation_mode='different'` "
            "instead."
        )
    return (
        "observation_mode='different' or custom space however the sub-environment's observation "
        f"spaces do not share a common shape and dtype. ({what})"
    )


def _is_alike(one: Any, other: Any) -> bool:
    """Tell whether two spaces have one shape and dtype; spaces that have neither must be equal."""
    try:
        return bool(is_space_dtype_shape_equiv(one, other))
    except NotImplementedError:
        return spaces_equal(one, other)


def _is_custom(space: Any) -> bool:
    """Tell whether a space, or one within it, is of a class that Gymnasium does not know."""
    if isinstance(space, spaces.Dict):
        return any(map(_is_custom, space.spaces.values()))
    if isinstance(space, spaces.Tuple):
        return any(map(_is_custom, space.spaces))
    dispatch = create_shared_memory.dispatch
    return dispatch(type(space)) is dispatch(spaces.Space)


def _require_one_each(what: str, items: Sequence[Any], count: int) -> None:
    if len(items) != count:
        raise ValueError(
            f"{what} has {len(items)} items for {count} environments: give one for each."
        )


def _check_observation_mode(mode: Any) -> None:
    if isinstance(mode, tuple):
        if len(mode) != 2 or not all(isinstance(space, spaces.Space) for space in mode):
            raise TypeError(
                "observation_mode: the tuple must hold two spaces, the batched and the single "
                f"one, got {mode!r}."
            )
    elif mode not in ("same", "different"):
        raise ValueError(
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and "
            f"batch observation space, actual got {mode}"
        )


def _checked_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Check and copy the reset mask, which its owner may change later.

    Raises:
        TypeError, ValueError: it is no mask of the environments, or masks all of them out.
    """
    what = "`options['reset_mask']` must"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{what} be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"{what} have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{what} have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(
            f"{what} contain a boolean array with at least one True value, got reset_mask={mask}"
        )
    return mask.copy()


def _with_tuples(space: Any, value: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _with_tuples(sub, value[key]) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_with_tuples(sub, part) for sub, part in zip(space, value, strict=True))
    return tuple(value) if isinstance(value, list) else value


def make_vec(
    env_id: str | EnvSpec,
    num_envs: int = 1,
    *,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vector_kwargs: Mapping[str, Any] | None = None,
    **make_kwargs: Any,
) -> VectorEnv:
    """Make many environments of one id, like ``gymnasium.make_vec``.

    Args:
        env_id: what ``gymnasium.make`` takes.
        num_envs: how many.
        wrappers: go around each environment, in this order.
        vector_kwargs: arguments of :class:`VectorEnv`.
        **make_kwargs: go to ``gymnasium.make``.

    Raises:
        gymnasium.error.Error: the id is unknown.
        MissingExtra: the id is of a package that an extra of vectasks installs.
    """
    spec = find_spec(env_id) if isinstance(env_id, str) else env_id

    def make_env() -> Any:
        env = gymnasium.make(env_id, **make_kwargs)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    count = whole_number("num_envs", num_envs, at_least=1)
    envs = VectorEnv([make_env] * count, **(vector_kwargs or {}))
    envs.spec = spec
    return envs
