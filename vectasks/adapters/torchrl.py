"""A vector as a TorchRL environment of batch size ``[num_envs]``.

::

    env = Env([lambda: gymnasium.make("CartPole-v1")] * 8)
    collector = Collector(env, policy, frames_per_batch=256, total_frames=100_000)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks._util.checks import checked_seed
from vectasks._util.extras import missing
from vectasks.adapters.envs import GivenTasks, envs_of
from vectasks.vector import BaseVectorSampledTasks

try:
    import torch
    from tensordict import TensorDict, TensorDictBase
    from torchrl import data as specs
    from torchrl.envs import EnvBase, default_info_dict_reader
except ImportError as _error:
    raise missing("torchrl", "torchrl", "vectasks.adapters.torchrl", _error) from _error

__all__ = ["Env"]

_RESULTS = ("reward", "done", "terminated", "truncated")
_OBJECT = np.dtype(object)
# What TorchRL itself puts beside the observations.
_RESERVED = {"action", *_RESULTS, "next", "_reset"}


class Env(EnvBase):  # type: ignore[misc]  # torchrl has no types
    """Environments in worker processes, or a vector of tasks, as TorchRL steps them.

    A Dict observation has one entry a key, anything else is ``"observation"``. ``"reward"`` is
    float32 [num_envs, 1]; ``"done"``, ``"terminated"`` and ``"truncated"`` are bool [num_envs, 1].
    The step that ends an episode gives its last observation, and the reset after it costs nothing:
    the workers have begun the next episode already. A step with a ``"_step"`` mask steps some.

    As with ``ParallelEnv``, methods and attributes of the environments are reached by their names
    (``env.custom_method()``, ``list(env.some_attribute)``), which give one answer per environment;
    and a reset after :meth:`close` opens the environments again.

    Args:
        env_fns: each makes a ``gymnasium.Env``; or a vector of tasks, which is closed with this.
        categorical_action_encoding: whether values of Discrete and MultiDiscrete spaces are
            integers; one-hot otherwise, as in TorchRL's ``GymEnv``.
        device: where the tensors are.
        start_method: "forkserver", "spawn" or "fork" (None: "forkserver").
        max_processes: so many processes, at most (None: one each; 0: none, all in this process).
        **vector_options: go to :class:`vectasks.VectorSampledTasks`: ``daemon``, ``preload``,
            ``rerun_main``, ``read_timeout``, ``start_timeout_s``, ``close_grace_s``,
            ``on_worker_death``, ``max_restarts``, ``observation_transport``, ``mp_ctx``,
            ``timing``, ``name``, ...

    Raises:
        NotImplementedError: TorchRL has no spec for a space.
        ValueError: an argument has a value that it cannot take, or the spaces differ.
        TypeError: the vector has no such option.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | BaseVectorSampledTasks,
        *,
        categorical_action_encoding: bool = False,
        device: torch.device | str = "cpu",
        start_method: str | None = None,
        max_processes: int | None = None,
        **vector_options: Any,
    ) -> None:
        options = {"start_method": start_method, "max_processes": max_processes, **vector_options}
        envs = envs_of(env_fns, options)
        try:
            super().__init__(device=device, batch_size=[envs.num_envs])
            self._envs = envs
            self._set_specs(categorical_action_encoding)
        except BaseException:
            envs.vector.close()
            raise
        self.is_closed: bool = False
        self._env_fns, self._options = env_fns, options
        self._seeds: list[int] | None = None  # for the next reset
        self._seed_is_static = False
        self._is_ready = False
        self._info_readers: list[Any] = []
        self._infos_read: Any = TensorDict({}, self.batch_size)  # last, of each environment

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
        wanted = tensordict.get("_step", None)
        rows = None if wanted is None else np.flatnonzero(self._mask(wanted))
        over = np.flatnonzero(self._envs.over)
        over = over if rows is None else np.intersect1d(over, rows)
        if len(over) > 0:
            raise RuntimeError(
                f"The episodes of environments {over.tolist()} are over: "
                "reset them, by step_and_maybe_reset() or by reset() with a '_reset' entry."
            )
        actions = self._action_leaf.to_numpy(tensordict["action"], safe=False)
        if self._action_start is not None:
            actions = actions + self._action_start
        vector = self._envs.vector
        if rows is None:
            batch = vector.step_batch(actions)
            entries = self._entries(self._envs.hold(batch))
        else:
            ids = vector.sampler_ids
            vector.send(actions[rows], [ids[row] for row in rows.tolist()])
            batch = vector.recv()
            entries = self._entries(self._envs.hold_some(batch, rows))
        if self._info_readers:
            infos = [
                self._envs.ended(info, batch.observation, i)[1] if batch.done[i] else info
                for i, info in enumerate(batch.infos)
            ]
            entries.update(self._read(infos, rows))
        for name in _RESULTS:
            value = torch.from_numpy(getattr(batch, name)).unsqueeze(-1)
            entries[name] = value if rows is None else self._among(tensordict, name, rows, value)
        return TensorDict(entries, self.batch_size, device=self.device)

    def _among(
        self, tensordict: TensorDictBase, name: str, rows: NDArray[np.int64], value: Any
    ) -> Any:
        """Merge results: new ones for ``rows``; the others keep what they had, or zero."""
        whole = torch.zeros(self._envs.num_envs, 1, dtype=value.dtype)
        before = tensordict.get(name, None)
        if before is not None:
            whole.copy_(before.reshape(whole.shape))
        whole[rows] = value
        return whole

    def _mask(self, wanted: Any) -> NDArray[np.bool_]:
        """Return the mask of the environments that a "_step" or "_reset" entry selects."""
        mask: NDArray[np.bool_] = wanted.reshape(self._envs.num_envs).cpu().numpy()
        return mask

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        if self.is_closed:
            self._open_again()
        wanted = None if tensordict is None else tensordict.get("_reset", None)
        mask = None if wanted is None else self._mask(wanted)
        seeds, self._seeds = self._seeds, None
        starts = [
            {**({} if seeds is None else {"seed": seeds[i]}), **kwargs}
            for i in range(self._envs.num_envs)
        ]
        observation, infos = self._envs.reset(starts, mask)
        self._is_ready = self._is_ready or mask is None or bool(mask.all())
        entries = self._entries(observation)
        if self._info_readers:
            rows = None if mask is None else np.flatnonzero(mask)
            infos = infos if rows is None else [infos[row] for row in rows.tolist()]
            entries.update(self._read(infos, rows))
        return TensorDict(entries, self.batch_size, device=self.device)

    def _open_again(self) -> None:
        if isinstance(self._env_fns, BaseVectorSampledTasks):
            raise RuntimeError(
                "This Env was closed, and the vector of tasks with it: make new ones."
            )
        self._envs = envs_of(self._env_fns, self._options)
        self._is_ready = False
        self.is_closed = False

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the next reset; each environment gets the seed plus its index.

        Args:
            seed: of the first environment.
            static_seed: give each environment this very seed.

        Returns:
            a seed for the next one of such environments: ``seed`` itself if it is static.
        """
        self._seed_is_static = static_seed
        next_seed: int | None = super().set_seed(
            None if seed is None else checked_seed(seed), static_seed=static_seed
        )
        return next_seed

    def _set_seed(self, seed: int | None) -> None:
        step = 0 if self._seed_is_static else 1
        count = self._envs.num_envs
        self._seeds = None if seed is None else [seed + step * i for i in range(count)]

    def _entries(self, observation: Any) -> dict[str, Any]:
        tensors = _tensors(self._envs.observation_space, observation, self._one_hot)
        return tensors if self._is_dict else {"observation": tensors}

    # -- infos ------------------------------------------------------------------------------------

    @property
    def info_dict_reader(self) -> list[Any]:
        """The readers that :meth:`set_info_dict_reader` was given."""
        return self._info_readers

    def set_info_dict_reader(
        self, info_dict_reader: Any = None, ignore_private: bool = True
    ) -> Env:
        """Read entries of the infos into the data, as TorchRL's ``GymEnv`` does.

        Args:
            info_dict_reader: called with one environment's info, of a step or a reset, and a
                TensorDict of no dimensions to write to; for instance TorchRL's
                ``default_info_dict_reader(["lives"])``. What an info lacks is zero. None reads
                every number and array that the first environment's infos hold; a reset and a step
                find out which those are.
            ignore_private: leave out what begins with an underscore, where no reader is given.

        Returns:
            this environment.

        Raises:
            ValueError: it is not known what the reader reads: it has no ``info_spec``.
        """
        reader = info_dict_reader
        if reader is None:
            reader = default_info_dict_reader(ignore_private=ignore_private)
        if getattr(reader, "info_spec", None) is None:
            self._find_spec(reader)
        if getattr(reader, "info_spec", None) is None:
            raise ValueError(
                f"{reader!r} has no info_spec, a Composite of what it reads of one environment."
            )
        its_spec = reader.info_spec.expand(self._envs.num_envs)
        self._info_readers.append(reader)
        self._infos_read.update(its_spec.to("cpu").zero())
        spec = self.observation_spec.clone()
        spec.update(its_spec.to(self.device))
        self.observation_spec = spec
        return self

    def auto_register_info_dict(
        self, ignore_private: bool = True, *, info_dict_reader: Any = None
    ) -> Env:
        """Do what :meth:`set_info_dict_reader` does, under the name that TorchRL calls."""
        return self.set_info_dict_reader(info_dict_reader, ignore_private)

    def _find_spec(self, reader: Any) -> None:
        """Show a reader the infos of a reset and a step, from which it makes its spec."""
        _, infos = self._envs.reset(self._envs.num_envs * [{}])
        actions = self._envs.num_envs * [self._envs.action_space.sample()]
        batch = self._envs.vector.step_batch(actions)
        info = batch.infos[0]
        if batch.done[0]:
            info = self._envs.ended(info, batch.observation, 0)[1]
        arrays = _with_arrays({**infos[0], **info}).items()
        numbers = {k: v for k, v in arrays if getattr(v, "dtype", _OBJECT).kind in "biuf"}
        reader(numbers, TensorDict({}, []))
        self._is_ready = False

    def _read(self, infos: Sequence[Any], rows: NDArray[np.int64] | None) -> dict[Any, Any]:
        """Read the infos of all, or of ``rows``; the entries of the others stay."""
        read = self._infos_read.clone()  # what it was is somebody's data
        its_rows = range(len(read)) if rows is None else rows.tolist()
        for row, info in zip(its_rows, infos, strict=True):
            data = TensorDict({}, [])
            for reader in self._info_readers:
                given = reader(_with_arrays(info), data)
                data = data if given is None else given
            for key, entry in read.items(include_nested=True, leaves_only=True):
                entry[row] = data.get(key, 0)
        self._infos_read = read
        return dict(read.items())

    # -- reaching in ------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            envs = self.__dict__.get("_envs")
            if name.startswith("_") or envs is None or self.is_closed or not envs.has(name):
                raise
        return _OfEach(envs, name)

    # -- the end ----------------------------------------------------------------------------------

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments and end their processes; closing twice is fine.

        A reset opens them again, as the functions make them; a vector of tasks stays closed.
        """
        self._is_ready = False
        super().close(raise_if_closed=raise_if_closed)
        self._envs.vector.close()


class _OfEach:
    """A method or an attribute of each environment."""

    def __init__(self, envs: GivenTasks, name: str) -> None:
        self._envs, self._name = envs, name

    def __call__(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Call it if it can be called; return the result of each environment."""
        return self._envs.get_or_call(self._name, args, kwargs)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values of the environments."""
        return iter(self())

    def __getattr__(self, name: str) -> _OfEach:
        if name.startswith("_"):  # asked by whoever shows or copies things
            raise AttributeError(name)
        return _OfEach(self._envs, f"{self._name}.{name}")


def _with_arrays(info: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the numbers of an info into arrays, as TorchRL's readers expect them."""
    return {
        key: np.asarray(value) if isinstance(value, (int, float, np.generic)) else value
        for key, value in info.items()
    }


@singledispatch
def spec_of(space: Any, count: int, categorical: bool, device: Any) -> Any:
    """Make the spec of a space for ``count`` environments.

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
    """Convert an observation batch to tensors that share its memory, or to one-hot ones."""
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
