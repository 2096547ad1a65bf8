"""A vector as a Stable-Baselines3 ``VecEnv``, to replace its ``SubprocVecEnv``.

::

    model = PPO("MlpPolicy", VecEnv([make_env] * 8))
    env = make_vec_env("CartPole-v1", n_envs=8, vec_env_cls=VecEnv)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import checked_seed
from vectasks._util.extras import missing
from vectasks.adapters.envs import Indices, checked_indices, envs_of
from vectasks.batch import StepBatch
from vectasks.vector import BaseVectorSampledTasks

try:
    from stable_baselines3.common.preprocessing import check_for_nested_spaces
    from stable_baselines3.common.vec_env import VecEnv as BaseVecEnv
except ImportError as _error:
    raise missing("stable_baselines3", "sb3", "vectasks.adapters.sb3", _error) from _error

__all__ = ["VecEnv"]

StepReturn = tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class VecEnv(BaseVecEnv):
    """Environments in worker processes, or a vector of tasks, as Stable-Baselines3 steps them.

    Results are those of its ``DummyVecEnv``: rewards float32 [num_envs], dones bool [num_envs], and
    in the infos ``TimeLimit.truncated`` and, at an episode's end, ``terminal_observation``.

    Args:
        env_fns: each makes a ``gymnasium.Env``; or a vector of tasks, which is closed with this.
        start_method: "forkserver", "spawn" or "fork" (None: "forkserver").
        max_processes: so many processes, at most (None: one each; 0: none, all in this process).
        **vector_options: go to :class:`vectasks.VectorSampledTasks`: ``daemon``, ``preload``,
            ``rerun_main``, ``read_timeout``, ``start_timeout_s``, ``close_grace_s``,
            ``on_worker_death``, ``max_restarts``, ``observation_transport``, ``mp_ctx``,
            ``timing``, ``name``, ...

    Raises:
        NotImplementedError: Stable-Baselines3 cannot take the observation space.
        ValueError: an argument has a value that it cannot take, or the spaces differ.
        TypeError: the vector has no such option.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | BaseVectorSampledTasks,
        start_method: str | None = None,
        *,
        max_processes: int | None = None,
        **vector_options: Any,
    ) -> None:
        options = {"start_method": start_method, "max_processes": max_processes, **vector_options}
        self._envs = envs_of(env_fns, options)
        self._is_ready = False
        try:
            check_for_nested_spaces(self._envs.observation_space)
            if not self._envs.is_fixed:
                raise NotImplementedError(
                    f"The observation space {self._envs.observation_space} has parts of no fixed "
                    "shape, of which Stable-Baselines3 makes no arrays."
                )
            told = self._envs.describe()
            self._render_modes = [one["render_mode"] for one in told]
            super().__init__(
                self._envs.num_envs, self._envs.observation_space, self._envs.action_space
            )
        except BaseException:
            self._envs.vector.close()
            raise
        # What records videos reads the frame rate from it.
        self.metadata: dict[str, Any] = {**told[0]["metadata"], **self.metadata}

    # -- the episode ------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Begin new episodes with the seeds and options that were set; return observations."""
        starts: list[dict[str, Any]] = [
            {
                "seed": None if seed is None else checked_seed(seed),
                **({"options": options} if options else {}),
            }
            for seed, options in zip(self._seeds, self._options, strict=True)
        ]
        observation, infos = self._envs.reset(starts)
        self.reset_infos: list[dict[str, Any]] = infos
        self._reset_seeds()
        self._reset_options()
        self._is_ready = True
        return observation

    def step(self, actions: Any) -> StepReturn:
        """Step every environment.

        Returns:
            observation, reward: float32 [num_envs], done: bool [num_envs], and a list of infos.

        Raises:
            RuntimeError: ``reset`` was not called.
            ValueError: there is not one action an environment; nothing was sent.
        """
        if not self._is_ready:
            self._require_ready()
        return self._result(self._envs.vector.step_batch(actions))

    def step_async(self, actions: Any) -> None:
        """Begin a step, which :meth:`step_wait` ends."""
        self._require_ready()
        self._envs.vector.send(actions, self._envs.vector.sampler_ids)

    def step_wait(self) -> StepReturn:
        """Return the results of the step that :meth:`step_async` began."""
        return self._result(self._envs.vector.recv())

    def _require_ready(self) -> None:
        if not self._is_ready:
            raise RuntimeError("The environments cannot be stepped yet: call reset() first.")

    def _result(self, batch: StepBatch) -> StepReturn:
        infos = batch.infos
        for info in infos:
            info["TimeLimit.truncated"] = False
        # A list's items are looked at in a fraction of the time of so short an array's.
        for i, is_done in enumerate(batch.done.tolist()):
            if is_done:
                is_cut = bool(batch.truncated[i] and not batch.terminated[i])
                infos[i] = self._last_info(infos[i], batch.observation, i, is_cut)
        return batch.observation, batch.reward, batch.done, infos

    def _last_info(
        self, info: dict[str, Any], observation: Any, index: int, is_cut: bool
    ) -> dict[str, Any]:
        """Build the info of an environment whose episode ended, as trainers expect it."""
        last, info, self.reset_infos[index] = self._envs.ended(info, observation, index)
        return {**info, "terminal_observation": last, "TimeLimit.truncated": is_cut}

    # -- reaching in ------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of each environment or of a wrapper around it."""
        chosen = checked_indices(indices, self.num_envs)
        if attr_name == "render_mode":  # tasks render without telling how
            every = range(self.num_envs) if chosen is None else chosen
            return [self._render_modes[i] for i in every]
        return self._envs.get(attr_name, chosen)

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether every environment has the attribute."""
        return attr_name == "render_mode" or self._envs.has(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of each outermost wrapper; one value for all."""
        chosen = checked_indices(indices, self.num_envs)
        count = self.num_envs if chosen is None else len(chosen)
        self._envs.set(attr_name, [value] * count, chosen, outermost=True)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment or of a wrapper around it."""
        chosen = checked_indices(indices, self.num_envs)
        return self._envs.call(method_name, method_args, method_kwargs, chosen)

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Tell for each environment whether a wrapper of this class is around it."""
        return self._envs.is_wrapped(wrapper_class, checked_indices(indices, self.num_envs))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return an image of each environment: uint8 [height_px, width_px, 3]."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The environments' render_mode is {self.render_mode!r}: make them with "
                "render_mode='rgb_array' to get images.",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return self._envs.images()

    def close(self) -> None:
        """Close the environments and end their processes."""
        self._envs.vector.close()
