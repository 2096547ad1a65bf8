"""Storage for rollouts, [horizon, num_samplers], that the workers themselves write into.

Row t of the block below belongs to the observation that step t - 1 gave, and so do the reward and
the flags that came with it: seen from step t, its observation is in row t, its reward and its flags
in row t + 1. Row 0 holds the last row of the rollout before. ::

    row            0       1       2      ...   horizon
    observation   o(0)    o(1)    o(2)    ...   o(horizon)     the next rollout's o(0)
    reward                r(0)    r(1)    ...   r(horizon - 1)
    flags                 f(0)    f(1)    ...   f(horizon - 1)
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import is_whole_number, real_number, whole_number
from vectasks.errors import InvalidArgument, LayoutError
from vectasks.rollouts.devices import Device, as_numpy, empty_like, take
from vectasks.rollouts.gae import estimate_advantages
from vectasks.rollouts.policy import asking, checked_decision
from vectasks.spaces import are_alike, map_leaves
from vectasks.task import RLStepResult
from vectasks.transport.layout import leaves, pick
from vectasks.transport.step_buffer import DONE, TERMINATED, TRUNCATED
from vectasks.vector.port import port_of

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

ALL = slice(None)  # columns: every sampler's
#: A row, or one for each of the columns that a list names.
Rows: TypeAlias = Any
Columns: TypeAlias = slice | list[int]


class Minibatch(NamedTuple):
    """Some steps of a rollout; n of them, or [horizon, n] in whole sequences.

    Attributes:
        observation: nested as the observation space, each leaf [n, *shape].
        action: [n, ...].
        advantage: float32 [n].
        returns: float32 [n], advantage plus value: what the value should have been.
        kept: what else the policy gave at these steps, by name: ``kept["log_prob"]``, ...
        episode_start: bool [n], whether the observation is the first of its episode.
        memory: [n, *memory_shape] before the step, in sequences before their first one; None
            without a ``memory_shape``.
    """

    observation: Any
    action: Any
    advantage: Any
    returns: Any
    kept: dict[str, Any]
    episode_start: Any
    memory: Any


class RolloutBuffer:
    """The results of ``horizon`` steps of all samplers of a vector; :func:`collect` fills it.

    Arrays are numpy's without a ``device``. With one they are tensors: on the CPU over the memory
    that workers write to, without a copy; on a GPU a mirror of it, to which each row goes once.
    They are written over by the next rollout, and valid as long as they are held.

    Args:
        tasks: the vector that fills it. Its observations and actions have fixed shapes.
        horizon: steps a rollout, for each sampler.
        memory_shape: of what a recurrent policy remembers of a sampler; None: it is not recurrent.
        device: where tensors are: "cpu", "cuda", a ``torch.device``; None: numpy arrays.

    Raises:
        InvalidArgument: the vector is heterogeneous or waits for finished samplers, or a space has
            no fixed shape.
    """

    def __init__(
        self,
        tasks: VectorSampledTasks | SingleProcessVectorSampledTasks,
        horizon: int,
        *,
        memory_shape: tuple[int, ...] | None = None,
        device: Any = None,
    ) -> None:
        horizon = whole_number("horizon", horizon, at_least=1)
        if memory_shape is not None:
            memory_shape = _checked_memory_shape(memory_shape)
        action_shape, action_dtype = _check_spaces(tasks)
        self.horizon = horizon
        n = len(tasks.sampler_fn_args)
        self.num_samplers: int = n
        self._place = Device(device, "RolloutBuffer")
        self.device: Any = self._place.device
        self._tasks: weakref.ref[Any] = weakref.ref(tasks)
        self._rows = port_of(tasks).add_rows(horizon + 1)
        self._place.pin(self, self._rows.step_buffer.memory)
        step_buffer = self._rows.step_buffer
        self._nest = step_buffer.nest
        self._flags, self._rewards = step_buffer["flags"], step_buffer["reward"]
        self._leaves: list[NDArray[Any]] = [
            leaf for leaf in step_buffer.leaf_arrays if leaf is not None
        ]
        self._actions = np.zeros((horizon, n, *action_shape), action_dtype)
        self._ends = np.zeros((3, horizon, n), np.bool_)
        self._masked = np.zeros((horizon, n), np.uint8)
        self._starts = np.ones((horizon + 1, n), np.bool_)
        self._last_values = np.zeros(n, np.float32)
        self._final_values = np.zeros((horizon, n), np.float32)
        self._advantages = np.zeros((horizon, n), np.float32)
        self._returns = np.zeros((horizon, n), np.float32)
        # What users and policies see: these arrays, tensors over them, or their mirrors.
        see = self._place.see
        self._seen_leaves = [see(array) for array in self._leaves]
        self._seen_actions, self._seen_starts = see(self._actions), see(self._starts)
        self._seen_advantages, self._seen_returns = see(self._advantages), see(self._returns)
        self._memory = None
        if memory_shape is not None:
            self._memory = see(np.zeros((horizon + 1, n, *memory_shape), np.float32))
        self._kept: dict[str, Any] = {}
        self._cut_off: list[tuple[int, int, Any, Any]] = []
        self._moves: int | None = None  # of the vector, when this rollout ended
        self._is_whole = False
        self._scratch: dict[Any, Any] = {}

    # -- what is in it --------------------------------------------------------------------------

    @property
    def observations(self) -> Any:
        """The observations before each action, nested: each leaf [horizon, n, *shape]."""
        return self._nest([leaf[: self.horizon] for leaf in self._seen_leaves])

    @property
    def last_observation(self) -> Any:
        """The observation of the last step, nested as the space: each leaf [n, *shape]."""
        return self._nest([leaf[self.horizon] for leaf in self._seen_leaves])

    @property
    def actions(self) -> Any:
        """The actions that the tasks received: [horizon, n, ...]."""
        return self._seen_actions

    @property
    def rewards(self) -> Any:
        """float64 [horizon, n]."""
        return self._place.on_cpu(self._rewards[1:])

    @property
    def dones(self) -> Any:
        """True where a step ended an episode: bool [horizon, n]."""
        return self._place.on_cpu(self._ends[0])

    @property
    def terminated(self) -> Any:
        """True where a step terminated an episode: bool [horizon, n]."""
        return self._place.on_cpu(self._ends[1])

    @property
    def truncated(self) -> Any:
        """True where a step truncated an episode: bool [horizon, n]."""
        return self._place.on_cpu(self._ends[2])

    @property
    def episode_starts(self) -> Any:
        """True where an observation is the first of its episode: bool [horizon, n]."""
        return self._seen_starts[: self.horizon]

    @property
    def memory(self) -> Any:
        """The policy's memory before each step: [horizon, n, *memory_shape], or None."""
        return None if self._memory is None else self._memory[: self.horizon]

    def __getitem__(self, name: str) -> Any:
        """Return what the policy stored under this name: [horizon, n, ...]."""
        try:
            return self._kept[name]
        except KeyError:
            raise InvalidArgument(
                f"RolloutBuffer: the policy gave nothing named {name!r}; it gave "
                f"{sorted(self._kept) or 'nothing yet: call collect() first'}."
            ) from None

    # -- what trainers make of it ---------------------------------------------------------------

    def returns_and_advantages(self, gamma: float = 0.99, lam: float = 0.95) -> tuple[Any, Any]:
        """Estimate both by GAE: float32 [horizon, n] each; minibatches hold them too.

        What a truncated episode would have gone on to bring is estimated by the value of its final
        observation. (A sampler whose worker was restarted left none; the observation before it is
        taken.)

        Raises:
            InvalidArgument: there is no rollout yet, the policy gave no ``"value"``, or one of the
                arguments is no number.
        """
        gamma, lam = real_number("gamma", gamma), real_number("lam", lam)
        self._require_rollout("returns_and_advantages")
        values = as_numpy(self["value"])
        dones, terminated, _ = self._ends
        estimate_advantages(
            self._rewards[1:],
            values,
            self._last_values,
            self._final_values,
            dones,
            terminated,
            gamma,
            lam,
            self._advantages,
        )
        np.add(self._advantages, values, out=self._returns)
        self._place.mirror(self._seen_advantages, self._advantages)
        self._place.mirror(self._seen_returns, self._returns)
        return self._seen_returns, self._seen_advantages

    def minibatches(
        self,
        batch_size: int,
        *,
        epochs: int = 1,
        rng: np.random.Generator | int | None = None,
        copy: bool = True,
    ) -> Iterator[Minibatch]:
        """Yield the rollout's steps, shuffled, in batches of ``batch_size`` (and the rest).

        Args:
            batch_size: steps per batch, from all samplers.
            epochs: how often the rollout is gone through.
            rng: shuffles; or its seed.
            copy: False: every batch is in the same arrays, and valid until the next one.
        """
        count = self.horizon * self.num_samplers
        shuffled = _shuffled("batch_size", batch_size, count, epochs, rng)
        return self._batches(shuffled, copy, in_sequences=False)

    def sequences(
        self,
        num_samplers: int,
        *,
        epochs: int = 1,
        rng: np.random.Generator | int | None = None,
        copy: bool = True,
    ) -> Iterator[Minibatch]:
        """Yield the rollout in batches of whole columns, for recurrent policies: [horizon, n, ...].

        ``episode_start`` says where the memory is to be set to zero before a step is taken.

        Args:
            num_samplers: columns a batch, in a random order (and one of the rest).
            epochs: how often the rollout is gone through.
            rng: shuffles; or its seed.
            copy: False: every batch is in the same arrays, and valid until the next one.
        """
        shuffled = _shuffled("num_samplers", num_samplers, self.num_samplers, epochs, rng)
        return self._batches(shuffled, copy, in_sequences=True)

    def _batches(
        self, shuffled: Iterator[NDArray[Any]], copy: bool, *, in_sequences: bool
    ) -> Iterator[Minibatch]:
        self._require_rollout("sequences" if in_sequences else "minibatches")
        columns = [
            *(leaf[: self.horizon] for leaf in self._seen_leaves),
            self._seen_actions,
            self._seen_advantages,
            self._seen_returns,
            self._seen_starts[: self.horizon],
            *self._kept.values(),
        ]
        memory = self.memory
        if not in_sequences:
            columns = [_flat(column) for column in columns]
            memory = None if memory is None else _flat(memory)
        elif memory is not None:
            memory = memory[0]
        axis = 1 if in_sequences else 0
        count = len(self._seen_leaves)
        for chosen in shuffled:
            index = self._place.send(chosen)
            taken = [self._take(c, axis, index, (axis, k), copy) for k, c in enumerate(columns)]
            action, advantage, returns, starts, *kept = taken[count:]
            yield Minibatch(
                self._nest(taken[:count]),
                action,
                advantage,
                returns,
                dict(zip(self._kept, kept, strict=True)),
                starts,
                None if memory is None else self._take(memory, 0, index, (axis, "memory"), copy),
            )

    # -- filling it, which collect() does -------------------------------------------------------

    def _begin(self, tasks: Any) -> None:
        """Write the tasks' current observations into row 0."""
        is_mine = self._tasks() is tasks
        if not is_mine:
            raise InvalidArgument(
                "collect: this RolloutBuffer was made for another vector; make one for this."
            )
        goes_on, self._moves = self._moves == port_of(tasks).moves, None
        self._is_whole = False
        self._cut_off.clear()
        self._final_values[...] = 0.0
        if goes_on:
            for array in (*self._leaves, self._starts):
                array[0] = array[-1]
            if self._memory is not None:
                self._memory[0] = self._memory[-1]
        else:
            writer = self._rows.writer_at(0)
            observations = tasks.get_observations()
            for i, observation in zip(tasks.sampler_ids, observations, strict=True):
                if observation is not None:  # and an exhausted sampler refuses its step
                    writer.write(i, RLStepResult(observation, 0.0, False, {}))
            self._starts[0] = True
            if self._memory is not None:
                self._memory[0] = 0.0
        self._mirror_row(0)

    def _inputs(self, t: Rows, columns: Columns = ALL) -> tuple[Any, ...]:
        """Return the policy's inputs for step t, of all samplers or of some; each at its own t."""
        observation = self._nest([_part(leaf, t, columns) for leaf in self._seen_leaves])
        if self._memory is None:
            return (observation,)
        return observation, _part(self._memory, t, columns)

    def _keep(self, t: Rows, given: Any, columns: Columns = ALL) -> NDArray[Any]:
        """Store the policy's outputs of step t; return the actions for the tasks."""
        decision = checked_decision(given)
        if ("memory" in decision) != (self._memory is not None):
            raise InvalidArgument(
                'collect: a recurrent policy gives "memory", and its RolloutBuffer is made with '
                "memory_shape=(...); here only one of the two is so."
            )
        for name, value in decision.items():
            if name == "action":
                _set(self._actions, t, columns, as_numpy(value), name)
                if self._place.is_apart:
                    _set(self._seen_actions, t, columns, value, name)
            elif name == "memory":
                after = [row + 1 for row in t] if isinstance(t, list) else t + 1
                _set(self._memory, after, columns, value, name)
            else:
                if name not in self._kept:
                    self._kept[name] = self._make_column(value, name, columns)
                _set(self._kept[name], t, columns, value, name)
        actions: NDArray[Any] = _part(self._actions, t, columns)
        return actions

    def _finish_step(
        self, t: int, infos: Mapping[int, Mapping[str, Any]], columns: Columns = ALL
    ) -> list[int]:
        """Handle the episodes that step t of these columns ended; return their samplers' ids."""
        self._mirror_row(t + 1, columns)
        flags = self._flags[t + 1]
        ended = [i for i in sorted(infos) if flags[i] & DONE]
        for i in ended:
            if flags[i] & TRUNCATED and not flags[i] & TERMINATED:
                info, row = infos[i], t + 1
                observation = info.get("final_observation")
                if observation is None:  # the worker died, and the observation with it
                    observation, row = self._nest([a[t, i] for a in self._leaves]), t
                    observation = map_leaves(np.copy, observation)
                memory = None if self._memory is None else as_numpy(self._memory[row, i])
                self._cut_off.append((t, i, observation, None if memory is None else memory.copy()))
            if self._memory is not None:
                self._memory[t + 1, i] = 0.0
        return ended

    def _end(self, tasks: Any, policy: Any) -> None:
        """Finish the rollout, and have the policy value the observations after it."""
        for ends, bit in zip(self._ends, (DONE, TERMINATED, TRUNCATED), strict=True):
            np.bitwise_and(self._flags[1:], bit, out=self._masked)
            np.not_equal(self._masked, 0, out=ends)
        self._starts[1:] = self._ends[0]
        self._place.mirror(self._seen_starts, self._starts)
        if "value" in self._kept:
            every_id = range(self.num_samplers)
            inputs = self._inputs(self.horizon)
            self._last_values[...] = self._value(policy, every_id, *inputs)
            if self._cut_off:
                self._cut_off.sort(key=operator.itemgetter(0, 1))  # groups take turns
                steps, ids, observations, memories = zip(*self._cut_off, strict=True)
                stacked = [self._stack(observations)]
                if self._memory is not None:
                    stacked.append(self._place.send(np.stack(memories)))
                self._final_values[steps, ids] = self._value(policy, ids, *stacked)
        self._moves = port_of(tasks).moves
        self._is_whole = True

    def _value(self, policy: Any, ids: Sequence[int], *inputs: Any) -> NDArray[Any]:
        value = (
            policy.value(*inputs)
            if hasattr(policy, "value")
            else asking(policy)(inputs, ids)["value"]
        )
        return as_numpy(value).reshape(-1)

    def _stack(self, observations: tuple[Any, ...]) -> Any:
        arrays = []
        for leaf in self._rows.step_buffer.layout.leaves:
            parts = [as_numpy(pick(observation, leaf.path)) for observation in observations]
            arrays.append(self._place.send(np.stack(parts).astype(leaf.dtype, copy=False)))
        return self._nest(arrays)

    def _require_rollout(self, what: str) -> None:
        if not self._is_whole:
            raise InvalidArgument(f"{what}: there is no whole rollout yet; call collect() first.")

    # -- rows and columns -----------------------------------------------------------------------

    def _mirror_row(self, row: int, columns: Columns = ALL) -> None:
        if self._place.is_apart:
            for mirror, array in zip(self._seen_leaves, self._leaves, strict=True):
                if isinstance(columns, list):  # what they select is no view
                    mirror[row, columns] = self._place.send(array[row, columns])
                else:
                    self._place.mirror(_part(mirror, row, columns), _part(array, row, columns))

    def _make_column(self, value: Any, name: str, columns: Columns) -> Any:
        array = as_numpy(value)
        count = len(columns if isinstance(columns, list) else range(self.num_samplers)[columns])
        if array.shape[:1] != (count,):
            raise _wrong_shape(name, array.shape, (count, ...))
        dtype = np.float32 if array.dtype == np.float64 else array.dtype
        shape = (self.horizon, self.num_samplers, *array.shape[1:])
        return self._place.see(np.zeros(shape, dtype))

    def _take(self, column: Any, axis: int, index: Any, key: Any, copy: bool) -> Any:
        """Select some rows of a column, into a new array or the one that ``key`` names."""
        count = len(index)
        out = None
        if not copy:
            shape = (*column.shape[:axis], count, *column.shape[axis + 1 :])
            out = self._scratch.get((key, count))
            if out is None:
                out = self._scratch[key, count] = empty_like(column, shape)
        return take(column, axis, index, out)


def _part(array: Any, row: Rows, columns: Columns) -> Any:
    """Return a row's columns: a view of all, or of some; a copy of those that a list names."""
    return array[row] if columns is ALL else array[row, columns]


def _set(array: Any, row: Rows, columns: Columns, value: Any, name: str) -> None:
    part = _part(array, row, columns)
    if tuple(np.shape(value)) != tuple(part.shape):
        raise _wrong_shape(name, tuple(np.shape(value)), tuple(part.shape))
    if isinstance(array, np.ndarray):
        array[row, columns] = as_numpy(value)
        return
    import torch

    if isinstance(columns, list):
        array[row, columns] = torch.as_tensor(value).to(array)
    else:
        part.copy_(torch.as_tensor(value))


def _flat(column: Any) -> Any:
    return column.reshape(-1, *column.shape[2:])


def _check_spaces(tasks: Any) -> tuple[tuple[int, ...], Any]:
    """Check that arrays can hold what the spaces contain; return an action's shape and dtype."""
    if port_of(tasks).is_heterogeneous:
        raise InvalidArgument(
            "RolloutBuffer: samplers of a heterogeneous vector share no arrays; make a vector "
            "for each kind of observation."
        )
    for leaf in leaves(tasks.observation_space):
        if leaf.dtype is None:
            raise InvalidArgument(
                f"RolloutBuffer: {leaf.name} has no fixed shape in {tasks.observation_space}; "
                "encode it as a Box in the task."
            )
    spaces = port_of(tasks).action_spaces
    space = spaces[0]
    if not all(are_alike(space, other) for other in spaces):
        raise InvalidArgument(
            "RolloutBuffer: the samplers' action spaces differ in more than their bounds."
        )
    its_leaves = leaves(space)
    if len(its_leaves) != 1 or its_leaves[0].path or its_leaves[0].dtype is None:
        raise InvalidArgument(
            f"RolloutBuffer: actions of {space} are no arrays of one shape; the action space "
            "must be a Discrete, Box, MultiDiscrete or MultiBinary."
        )
    return its_leaves[0].shape, its_leaves[0].dtype


def _shuffled(name: str, size: Any, count: int, epochs: Any, rng: Any) -> Iterator[NDArray[Any]]:
    """Give the numbers below ``count``, shuffled in every epoch, in pieces of ``size``.

    Raises:
        InvalidArgument: ``size``, which is the argument of this name, is not from 1 to ``count``,
            or one of the others cannot be.
    """
    if not is_whole_number(size) or not 1 <= size <= count:
        raise InvalidArgument(
            f"{name} must be an integer from 1 to {count}, got {size!r} ({type(size).__name__})."
        )
    epochs = whole_number("epochs", epochs)
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"rng must be a numpy.random.Generator or a seed, got {rng!r} ({error})."
        ) from None
    orders = (generator.permutation(count) for _ in range(epochs))
    return (order[i : i + int(size)] for order in orders for i in range(0, count, int(size)))


def _checked_memory_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple; one number stands for the only axis, as in numpy."""
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(whole_number("memory_shape", size) for size in sizes)


def _wrong_shape(name: str, given: tuple[Any, ...], expected: tuple[Any, ...]) -> LayoutError:
    return LayoutError(
        f"collect: the policy's {name!r} has the shape {list(given)}, expected {list(expected)}: "
        "one for each sampler, and the same in every step."
    )
