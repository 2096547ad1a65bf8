"""A vector as a TorchRL environment of batch size ``[num_envs]``.

::

    env = Env([lambda: gymnasium.make("CartPole-v1")] * 8)
    collector = Collector(env, policy, frames_per_batch=256, total_frames=100_000)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vectasks.adapters.envs import GivenTasks, MadeEnvs
from vectasks.extras import missing
from vectasks.vector import BaseVectorSampledTasks

try:
    import torch
    from tensordict import TensorDict, TensorDictBase
    from torchrl import data as specs
    from torchrl.envs import EnvBase
except ImportError as _error:
    raise missing("torchrl", "torchrl", "vectasks.adapters.torchrl", _error) from _error

__all__ = ["Env"]

# What TorchRL itself puts beside the observations.
_RESERVED = {"action", "reward", "done", "terminated", "truncated", "next", "_reset"}


class Env(EnvBase):  # type: ignore[misc]  # torchrl has no types
    """Environments in worker processes, or a vector of tasks, as TorchRL steps them.

    A Dict observation has one entry a key, anything else is ``"observation"``. ``"reward"`` is
    float32 [num_envs, 1]; ``"done"``, ``"terminated"`` and ``"truncated"`` are bool [num_envs, 1].
    The step that ends an episode gives its last observation, and the reset after it costs nothing:
    the workers have begun the next episode already.

    Args:
        env_fns: each makes a ``gymnasium.Env``; or a vector of tasks, which is closed with this.
        categorical_action_encoding: whether values of Discrete and MultiDiscrete spaces are
            integers; one-hot otherwise, as in TorchRL's ``GymEnv``.
        device: where the tensors are.
        start_method: "forkserver", "spawn" or "fork" (None: "forkserver").
        max_processes: so many processes, at most (None: one each; 0: none, all in this process).

    Raises:
        NotImplementedError: TorchRL has no spec for a space.
        ValueError: an argument has a value that it cannot take, or the spaces differ.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | BaseVectorSampledTasks,
        *,
        categorical_action_encoding: bool = False,
        device: torch.device | str = "cpu",
        start_method: str | None = None,
        max_processes: int | None = None,
    ) -> None:
        envs: GivenTasks
        if isinstance(env_fns, BaseVectorSampledTasks):
            envs = GivenTasks(env_fns)
        else:
            envs = MadeEnvs(
                env_fns, same_step=True, start_method=start_method, max_processes=max_processes
            )
        try:
            super().__init__(device=device, batch_size=[envs.num_envs])
            self._envs = envs
            self._set_specs(categorical_action_encoding)
        except BaseException:
            envs.vector.close()
            raise
        self.is_closed = False
        self._seed: int | None = None
        self._is_ready = False

    def _set_specs(self, categorical: bool) -> None:
        space, count = self._envs.observation_space, self._envs.num_envs
        by_key = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
        reserved = sorted(_RESERVED.intersection(by_key))
        if reserved:
            raise NotImplementedError(
                f"The observation has the keys {reserved}, which TorchRL uses itself: rename them."
            )
        self._is_dict = isinstance(space, spaces.Dict)
        self._one_hot = not categorical
        self.observation_spec: Any = _composite(by_key, count, categorical, self.device)
        if isinstance(self._envs.action_space, (spaces.Dict, spaces.Tuple)):
            raise NotImplementedError(
                f"The action space is {self._envs.action_space}; TorchRL is given one action, not "
                "a nest of them."
            )
        self.action_spec: Any = spec_of(self._envs.action_space, count, categorical, self.device)
        self._action_leaf = self.action_spec  # looked up in a tree of specs at every access
        start = getattr(self._envs.action_space, "start", 0)
        self._action_start = start if np.any(start) else None
        self.reward_spec: Any = specs.Unbounded(shape=(count, 1), device=self.device)
        self.done_spec: Any = specs.Composite(
            {
                name: specs.Categorical(2, (count, 1), self.device, torch.bool)
                for name in ("done", "terminated", "truncated")
            },
            shape=(count,),
        )

    # -- the episode ------------------------------------------------------------------------------

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if not self._is_ready:
            raise RuntimeError("The environments cannot be stepped yet: call reset() first.")
        if np.count_nonzero(self._envs.over):
            over = np.flatnonzero(self._envs.over).tolist()
            raise RuntimeError(
                f"The episodes of environments {over} are over: "
                "reset them, by step_and_maybe_reset() or by reset() with a '_reset' entry."
            )
        actions = self._action_leaf.to_numpy(tensordict["action"], safe=False)
        if self._action_start is not None:
            actions = actions + self._action_start
        batch = self._envs.vector.step_batch(actions)
        entries = self._entries(self._envs.hold(batch))
        entries["reward"] = torch.from_numpy(batch.reward).unsqueeze(-1)
        for name in ("done", "terminated", "truncated"):
            entries[name] = torch.from_numpy(getattr(batch, name)).unsqueeze(-1)
        return TensorDict(entries, self.batch_size, device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        wanted = None if tensordict is None else tensordict.get("_reset", None)
        mask = None if wanted is None else wanted.reshape(self._envs.num_envs).cpu().numpy()
        seed, self._seed = self._seed, None
        starts = [
            {**({} if seed is None else {"seed": seed + i}), **kwargs}
            for i in range(self._envs.num_envs)
        ]
        observation, _ = self._envs.reset_held(starts, mask)
        self._is_ready = self._is_ready or mask is None or bool(mask.all())
        return TensorDict(self._entries(observation), self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Seed the next reset; each environment gets the seed plus its index."""
        self._seed = seed

    def _entries(self, observation: Any) -> dict[str, Any]:
        space = self._envs.observation_space
        if not self._is_dict:
            return {"observation": _tensors(space, observation, self._one_hot)}
        tensors: dict[str, Any] = _tensors(space, observation, self._one_hot)
        return tensors

    # -- the end ----------------------------------------------------------------------------------

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments and end their processes; closing twice is fine."""
        super().close(raise_if_closed=raise_if_closed)
        self._envs.vector.close()


@singledispatch
def spec_of(space: Any, count: int, categorical: bool, device: Any) -> Any:
    """The spec of a space for ``count`` environments.

    Raises:
        NotImplementedError: TorchRL has none.
    """
    raise NotImplementedError(
        f"TorchRL has no spec for {space}; it takes Box, Discrete, MultiDiscrete, MultiBinary and "
        "Dict."
    )


@spec_of.register
def _(space: spaces.Box, count: int, categorical: bool, device: Any) -> Any:
    shape = (count, *space.shape)
    dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
    if space.dtype.kind == "f" and np.isinf(space.low).all() and np.isinf(space.high).all():
        return specs.Unbounded(shape, device, dtype)
    low, high = (torch.from_numpy(bound).expand(shape) for bound in (space.low, space.high))
    return specs.Bounded(low, high, shape, device, dtype)


@spec_of.register
def _(space: spaces.Discrete, count: int, categorical: bool, device: Any) -> Any:
    if categorical:
        return specs.Categorical(int(space.n), (count,), device, torch.int64)
    return specs.OneHot(int(space.n), (count, int(space.n)), device, torch.int64)


@spec_of.register
def _(space: spaces.MultiDiscrete, count: int, categorical: bool, device: Any) -> Any:
    if space.nvec.ndim != 1:
        return spec_of.dispatch(object)(space, count, categorical, device)
    sizes = space.nvec.tolist()
    if categorical:
        return specs.MultiCategorical(sizes, (count, len(sizes)), device, torch.int64)
    return specs.MultiOneHot(sizes, (count, sum(sizes)), device, torch.int64)


@spec_of.register
def _(space: spaces.MultiBinary, count: int, categorical: bool, device: Any) -> Any:
    return specs.Binary(None, (count, *space.shape), device, torch.int8)


@spec_of.register
def _(space: spaces.Dict, count: int, categorical: bool, device: Any) -> Any:
    return _composite(space.spaces, count, categorical, device)


def _composite(by_key: Mapping[str, Any], count: int, categorical: bool, device: Any) -> Any:
    parts = {key: spec_of(space, count, categorical, device) for key, space in by_key.items()}
    return specs.Composite(parts, shape=(count,), device=device)


def _tensors(space: Any, value: Any, one_hot: bool) -> Any:
    """An observation batch as tensors that share its memory, or one-hot."""
    if isinstance(space, spaces.Dict):
        return {key: _tensors(sub, value[key], one_hot) for key, sub in space.spaces.items()}
    tensor = torch.from_numpy(value)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        tensor = tensor.to(torch.int64) - torch.as_tensor(space.start)
    if one_hot and isinstance(space, spaces.Discrete):
        return torch.nn.functional.one_hot(tensor, int(space.n))
    if one_hot and isinstance(space, spaces.MultiDiscrete):
        columns = zip(tensor.unbind(-1), space.nvec.tolist(), strict=True)
        return torch.cat([torch.nn.functional.one_hot(part, n) for part, n in columns], -1)
    return tensor
