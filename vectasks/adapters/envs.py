"""Show a vector as trainers see it: the half of every adapter that runs in the parent.

::

    trainer ── its own interface ──> adapter ── seeds, options, names ──> GivenTasks ──> vector
                                                                          MadeEnvs

:class:`GivenTasks` is a vector of any tasks, which somebody else made; :class:`MadeEnvs` makes its
own from functions that make environments. Adapters step the ``vector`` itself, by ``step_batch``.
"""

from __future__ import annotations

import difflib
import inspect
import multiprocessing
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from vectasks._util.checks import is_whole_number, whole_number
from vectasks.adapters.environment_episodes import BEGUN, ENDED, Episodes, OpenBox
from vectasks.batch import StepBatch
from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    RemoteTraceback,
    SamplerIndexError,
    SamplerUnavailable,
    SpaceMismatch,
    TaskAttributeError,
)
from vectasks.protocol import Command
from vectasks.spaces import copy_arrays, map_leaves, spaces_equal
from vectasks.transport.layout import leaves, pick
from vectasks.vector import (
    BaseVectorSampledTasks,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
)
from vectasks.workers.starting import DEFAULT_START_METHOD

#: Which environments: one index or several, from the end where they are negative; None: all.
Indices: TypeAlias = int | Iterable[int] | None
#: The same, checked; all of them are asked at once.
Chosen: TypeAlias = Sequence[int] | None
#: What the info of an episode's last step holds: the last observation, the environment's own info,
#: and that of the reset that followed.
Ended: TypeAlias = tuple[Any, dict[str, Any], dict[str, Any]]


class GivenTasks:
    """A vector of any tasks; attributes and methods are looked up on the tasks.

    Args:
        vector: its samplers go on to the next task in the step that ends one.

    Raises:
        InvalidArgument: the vector cannot be stepped as one batch of equal environments.
    """

    def __init__(self, vector: BaseVectorSampledTasks) -> None:
        if not vector.auto_resample_when_done:
            raise InvalidArgument(
                "The vector was made with auto_resample_when_done=False, so that its samplers wait "
                "for each other, which no autoreset mode allows; make it with "
                "auto_resample_when_done=True."
            )
        actions = vector.action_spaces
        if not actions:
            raise InvalidArgument("Every sampler of the vector is paused; call resume_all() first.")
        self.vector = vector
        self.num_envs: int = len(actions)
        self.observation_space: Any = vector.observation_space
        self.action_space: Any = actions[0]
        for space in (self.observation_space, *actions):
            if not isinstance(space, gymnasium.Space):
                raise InvalidArgument(
                    f"Trainers want Gymnasium's spaces, got {space!r}, a {type(space).__module__}."
                    f"{type(space).__name__}."
                )
        for index, space in enumerate(actions):
            if not spaces_equal(space, self.action_space):
                raise SpaceMismatch(
                    f"Sampler {index} has the action space {space}, sampler 0 has "
                    f"{self.action_space}; trainers want one for all, whose every action each "
                    "sampler takes."
                )
        #: Whether every observation is made of arrays of a fixed shape.
        self.is_fixed: bool = all(leaf.dtype is not None for leaf in leaves(self.observation_space))
        self._has_begun = vector.stats()["steps"] > 0
        #: Whose episodes ended without the trainer having seen how their next ones begin.
        self.over: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._held: Any = None  # the first observations of the next ones, a row per sampler of
        self._held_rows: NDArray[np.int64] = np.flatnonzero(self.over)
        self._held_infos: dict[int, dict[str, Any]] = {}  # of the resets that began them
        self._shown: Any = None  # the observation that the trainer saw last

    # -- the episode ------------------------------------------------------------------------------

    def reset(
        self, starts: Sequence[Mapping[str, Any]], mask: NDArray[np.bool_] | None = None
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Begin new episodes; return all observations as a batch and the infos of the new episodes.

        What has begun already and nobody has seen counts as new, unless there are seeds or options:
        next episodes that were held back, and the first tasks of a vector that was not stepped yet.

        Args:
            starts: what to begin with, a sampler: ``seed`` and ``options``, each where given.
            mask: whose episodes to begin (None: all); the others' observations stay.

        Raises:
            SamplerUnavailable: a sampler has no next task.
        """
        chosen = np.ones_like(self.over) if mask is None else mask
        is_told = any(start.get("seed") is not None or start.get("options") for start in starts)
        kept, begun = self.over & ~chosen, self.over & chosen & (not is_told)
        to_begin = np.flatnonzero(chosen & ~begun).tolist()
        observation = self._shown
        infos: list[dict[str, Any]] = [{} for _ in starts]
        if to_begin:
            observations = self._begin(starts, to_begin)
            reset_infos = self._reset_infos(observations)
            for row in to_begin:
                infos[row] = reset_infos[row]
            observation = self.batch(observations)
            rows = np.flatnonzero(kept)
            if len(rows) > 0:
                observation = replaced(observation, rows, _rows(self._shown, rows))
        rows = np.flatnonzero(begun)
        if len(rows) > 0:
            observation = replaced(observation, rows, self._first_of(rows))
            for row in rows.tolist():
                infos[row] = self._held_infos.pop(row, {})
        self.over, self._shown = kept, observation
        return observation, infos

    def _begin(self, starts: Sequence[Mapping[str, Any]], chosen: Sequence[int]) -> list[Any]:
        seeds = {i: starts[i]["seed"] for i in chosen if starts[i].get("seed") is not None}
        options = {i: starts[i]["options"] for i in chosen if starts[i].get("options")}
        is_first, self._has_begun = not self._has_begun, True
        if is_first and not seeds and not options:
            return self.vector.get_observations()
        if seeds:
            self._command(Command.SEED, seeds)
        keywords = {i: {"options": options[i]} if i in options else {} for i in chosen}
        return self._command(Command.NEXT_TASK, keywords)

    def _command(self, command: Command, data: Mapping[int, Any]) -> list[Any]:
        """Send a command to some environments; the others answer with their observation."""
        indices = range(self.num_envs)
        return self.vector.command(
            [command if i in data else Command.OBSERVE for i in indices],
            [data.get(i) for i in indices],
        )

    def _reset_infos(self, observations: Sequence[Any]) -> list[dict[str, Any]]:
        exhausted = [i for i, observation in enumerate(observations) if observation is None]
        if exhausted:
            raise SamplerUnavailable(
                f"reset: samplers {exhausted} have no next task; a trainer wants samplers that "
                "never end."
            )
        try:
            return [dict(info) for info in self.vector.attr("reset_info")]
        except TaskAttributeError:  # only tasks that are environments have infos of their resets
            return [{} for _ in observations]

    def batch(self, observations: Sequence[Any]) -> Any:
        """Batch observations, nested as the space.

        Raises:
            LayoutError: one of them does not fit the space.
        """
        space = self.observation_space
        try:
            empty: Any = create_empty_array(space, len(observations))
            return concatenate(space, observations, empty)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise LayoutError(
                f"The observations do not fit {space}: {_misfit(space, observations)}"
            ) from error

    def ended(self, info: dict[str, Any], observation: Any, row: int) -> Ended:
        """Split the info of a step that ended an episode; ``observation`` is the batch's."""
        info = dict(info)
        if "final_observation" not in info:
            # Its worker was restarted, so the last observation is lost; the next episode's first
            # observation stands in for it.
            return copy_arrays(_rows(observation, row)), info, {}
        return info.pop("final_observation"), info, {}

    # -- for trainers that want to see the last observation first ---------------------------------

    def hold(self, batch: StepBatch) -> Any:
        """Return a step's observation with the last one of each episode that ended.

        What their next ones show first is held until :meth:`completed` or :meth:`reset`.
        """
        self._shown = batch.observation
        if np.count_nonzero(batch.done):
            self._shown = self._with_last(batch, range(self.num_envs))
            self._hold_first(batch.observation, batch.done)
        return self._shown

    def hold_some(self, batch: StepBatch, rows: NDArray[np.int64]) -> Any:
        """Do the same for a step of some environments; return the latest observation of all."""
        first, over = self._shown, self.over.copy()
        if np.count_nonzero(over):
            first = replaced(first, self._held_rows, self._held)
        over[rows] = batch.done
        self._shown = replaced(self._shown, rows, self._with_last(batch, rows.tolist()))
        self._hold_first(replaced(first, rows, batch.observation), over)
        return self._shown

    def _with_last(self, batch: StepBatch, rows: Sequence[int]) -> Any:
        """Return the observation of a step of ``rows`` with the last one of each ended episode."""
        ends = np.flatnonzero(batch.done)
        if len(ends) == 0:
            return batch.observation
        ended = [self.ended(batch.infos[i], batch.observation, i) for i in ends.tolist()]
        for i, (_, _, reset_info) in zip(ends.tolist(), ended, strict=True):
            self._held_infos[rows[i]] = reset_info
        return replaced(batch.observation, ends, self.batch([last for last, _, _ in ended]))

    def _hold_first(self, first: Any, over: NDArray[np.bool_]) -> None:
        self.over, self._held_rows = over, np.flatnonzero(over)
        self._held = _rows(first, self._held_rows)

    def completed(self, batch: StepBatch | None, others: Sequence[int]) -> StepBatch:
        """Complete a step of all: environments whose episodes are over begin their next ones.

        Args:
            batch: the step of the others; None where there are none.
            others: their rows.
        """
        count, rows = self.num_envs, np.flatnonzero(self.over)
        observation = replaced(self._shown, rows, self._first_of(rows))
        reward = np.zeros(count, np.float32)
        ends = [np.zeros(count, np.bool_) for _ in range(4)]
        infos: list[dict[str, Any]] = [{} for _ in range(count)]
        if batch is not None:
            observation = replaced(observation, np.asarray(others), batch.observation)
            reward[others] = batch.reward
            flags = (batch.terminated, batch.truncated, batch.done, batch.exhausted)
            for end, flag in zip(ends, flags, strict=True):
                end[others] = flag
            for row, info in zip(others, batch.infos, strict=True):
                infos[row] = info
        self.over = np.zeros(count, np.bool_)
        terminated, truncated, done, exhausted = ends
        samplers = np.array(self.vector.sampler_ids)
        return StepBatch(
            samplers, observation, reward, terminated, truncated, done, exhausted, infos
        )

    def _first_of(self, rows: NDArray[np.int64]) -> Any:
        """Return the first observations of the next episodes where episodes are over."""
        return _rows(self._held, np.searchsorted(self._held_rows, rows))

    # -- reaching in ------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Return metadata, render mode and observation space of each environment."""
        space = self.observation_space
        return [
            {"metadata": {}, "render_mode": "rgb_array", "observation_space": space}
        ] * self.num_envs

    def get(self, name: str, indices: Chosen = None) -> list[Any]:
        """Return an attribute of each task."""
        return self._ask_alike(Command.ATTR, name, indices)

    def has(self, name: str) -> bool:
        """Tell whether every task has the attribute."""
        try:
            self.vector.attr(name)
        except TaskAttributeError:
            return False
        return True

    def call(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        indices: Chosen = None,
    ) -> list[Any]:
        """Call a method of each task.

        Raises:
            InvalidArgument: there are positional arguments and keywords; tasks take either.
        """
        if args and kwargs:
            raise InvalidArgument(
                f"{name}: tasks are called with positional arguments or with keywords, not both."
            )
        datum = (name, dict(kwargs) if kwargs else list(args))
        return self._ask_alike(Command.CALL, datum, indices)

    def get_or_call(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], indices: Chosen = None
    ) -> list[Any]:
        """Call it if it can be called, else return its value."""
        if name == "render":
            return self.images(indices)
        if not args and not kwargs:
            found = self.get(name, indices)
            if not all(map(callable, found)):
                return found
        return self.call(name, args, kwargs, indices)

    def set(
        self, name: str, values: Sequence[Any], indices: Chosen = None, *, outermost: bool = False
    ) -> None:
        """Set an attribute of each task, which has no wrappers; one value for each."""
        self._ask(Command.SET_ATTR, [(name, value) for value in values], indices)

    def is_wrapped(self, wrapper_class: type, indices: Chosen = None) -> list[bool]:
        """Return False for each task, which has no wrappers."""
        return [False] * (self.num_envs if indices is None else len(indices))

    def images(self, indices: Chosen = None) -> list[Any]:
        """Return an image of each: uint8 [height_px, width_px, 3]."""
        return self._ask_alike(Command.RENDER, (("rgb",), {}), indices)

    def _ask_alike(self, command: Command, datum: Any, indices: Chosen) -> list[Any]:
        """Send one and the same to some; None: to all."""
        count = self.num_envs if indices is None else len(indices)
        return self._ask(command, [datum] * count, indices)

    def _ask(self, command: Command, data: Sequence[Any], indices: Chosen) -> list[Any]:
        """Send a command to some, with a datum for each; None: to all, which answer at once."""
        if indices is None:
            return self.vector.command(command, data)
        asked = zip(indices, data, strict=True)
        return [self.vector.command_at(i, command, datum) for i, datum in asked]


class MadeEnvs(GivenTasks):
    """Environments made from functions; attributes and methods are looked up on them.

    With ``same_step``, the step that ends an episode begins the next one. Otherwise the next step
    begins it, and returns its first observation. All else is as adapters tell their users.

    Raises:
        InvalidArgument: no function is given, an argument has a value that it cannot take, or the
            environments' spaces differ.
        TypeError: the vector has no such option, or an adapter needs it itself.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], Any]],
        *,
        same_step: bool,
        start_method: str | None = None,
        max_processes: int | None = None,
        **vector_options: Any,
    ) -> None:
        _check_options(vector_options)
        known = multiprocessing.get_all_start_methods()
        if start_method is not None and start_method not in known:
            raise InvalidArgument(
                f"cannot find context for {start_method!r}: the start methods of this system are "
                f"{', '.join(known)}."
            )
        if max_processes is not None:
            max_processes = whole_number("max_processes", max_processes)
        env_fns = list(env_fns)
        arguments = [{"env_fn": fn, "same_step": same_step} for fn in env_fns]
        # What these trainers' own vectors do: wait as long as it takes, and let environments judge
        # their actions.
        common: dict[str, Any] = {
            "should_log": False,
            "read_timeout": None,
            "start_timeout_s": None,
            "check_actions": False,
            **vector_options,
        }
        vector: BaseVectorSampledTasks
        if max_processes == 0:
            vector = SingleProcessVectorSampledTasks(Episodes, arguments, **common)
        else:
            vector = VectorSampledTasks(
                Episodes,
                arguments,
                multiprocessing_start_method=start_method or DEFAULT_START_METHOD,
                max_processes=max_processes,
                **common,
            )
        try:
            super().__init__(vector)
        except BaseException:
            vector.close()
            raise
        if isinstance(self.action_space, OpenBox):
            self.action_space: Any = self.action_space.space

    def _begin(self, starts: Sequence[Mapping[str, Any]], chosen: Sequence[int]) -> list[Any]:
        return self._command(Command.NEXT_TASK, {i: {"start": dict(starts[i])} for i in chosen})

    def ended(self, info: dict[str, Any], observation: Any, row: int) -> Ended:
        """Split the info of a step that ended an episode."""
        return info["final_observation"], info[ENDED], info.get(BEGUN, {})

    def describe(self) -> list[dict[str, Any]]:
        """Return metadata, render mode and observation space of each environment."""
        return self._call("describe", (), None)

    def get(self, name: str, indices: Chosen = None) -> list[Any]:
        """Return an attribute of each environment or of a wrapper around it."""
        return self._call("get", (name,), indices)

    def has(self, name: str) -> bool:
        """Tell whether every environment has the attribute."""
        return all(self._call("has", (name,), None))

    def call(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        indices: Chosen = None,
    ) -> list[Any]:
        """Call a method of each environment or of a wrapper around it."""
        return self._call("call", (name, list(args), dict(kwargs or {})), indices)

    def get_or_call(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], indices: Chosen = None
    ) -> list[Any]:
        """Call it if it can be called, else return its value."""
        return self._call("get_or_call", (name, list(args), dict(kwargs)), indices)

    def set(
        self, name: str, values: Sequence[Any], indices: Chosen = None, *, outermost: bool = False
    ) -> None:
        """Set an attribute of each environment: of the outermost wrapper, or of whichever has it.

        One value for each.
        """
        method = "set_outermost" if outermost else "set"
        self._ask(Command.CALL, [(method, (name, value)) for value in values], indices)

    def is_wrapped(self, wrapper_class: type, indices: Chosen = None) -> list[bool]:
        """Tell for each environment whether a wrapper of this class is around it."""
        return self._call("is_wrapped", (wrapper_class,), indices)

    def images(self, indices: Chosen = None) -> list[Any]:
        """Return what each environment renders."""
        return self.call("render", indices=indices)

    def _call(self, method: str, args: tuple[Any, ...], indices: Chosen) -> list[Any]:
        """Call a method of the :class:`Episodes` themselves."""
        return self._ask_alike(Command.CALL, (method, args), indices)


def envs_of(
    env_fns: Sequence[Callable[[], Any]] | BaseVectorSampledTasks, options: Mapping[str, Any]
) -> GivenTasks:
    """Return environments that begin the next episode by themselves, made unless given.

    Raises:
        InvalidArgument: there are options for a vector that is given.
    """
    if isinstance(env_fns, BaseVectorSampledTasks):
        refuse_options(options)
        return GivenTasks(env_fns)
    return MadeEnvs(env_fns, same_step=True, **options)


# What the adapters decide themselves, or have another name for.
_OF_TASKS = {"task_source", "prepared_tasks"}
_NO_OPTIONS = {
    "self",
    "make_sampler_fn",
    "sampler_fn_args",
    "callback_sensors",
    "auto_resample_when_done",
    "multiprocessing_start_method",
    "heterogeneous",
    "seed",
}


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of a vector that an adapter makes, as Python would a keyword."""
    of_tasks = sorted(options.keys() & _OF_TASKS)
    if of_tasks:
        raise InvalidArgument(
            f"{' and '.join(of_tasks)} cannot be given with functions that make environments, "
            "which begin their own episodes. Make a vector with it, of "
            "vectasks.envs.GymnasiumTaskSampler for instance, and give the vector."
        )
    taken = _NO_OPTIONS | _OF_TASKS
    known = inspect.signature(VectorSampledTasks.__init__).parameters.keys() - taken
    unknown = sorted(options.keys() - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise TypeError(
            f"The vector that an adapter makes has no option {unknown[0]!r}{hint} It takes "
            f"{', '.join(sorted(known))}."
        )


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options of the workers (None: not given) where these are there already.

    Raises:
        InvalidArgument: there are some.
    """
    given = sorted(name for name, value in options.items() if value is not None)
    if given:
        raise InvalidArgument(
            f"{', '.join(given)} cannot be given with a vector, which has its workers already: "
            "give it where the vector is made."
        )


def checked_indices(indices: Indices, count: int) -> Chosen:
    """Check and return the indices of some of ``count`` environments; None stands for all.

    Raises:
        SamplerIndexError: there is no environment at such an index.
        InvalidArgument: an index is no integer.
    """
    if indices is None:
        return None
    chosen = []
    for index in indices if isinstance(indices, Iterable) else [indices]:
        if not is_whole_number(index):
            raise InvalidArgument(
                f"indices: an index must be an integer, got {index!r} ({type(index).__name__})."
            )
        if not -count <= index < count:
            raise SamplerIndexError(
                f"indices: there is no environment {index}; the {count} environments count from 0."
            )
        chosen.append(int(index) % count)
    return chosen


def original_of(error: BaseException) -> BaseException:
    """Return the error that the environment itself raised if it could be sent, else ``error``.

    Trainers' own vectors raise that, and programs catch it.
    """
    cause = error.__cause__
    return error if cause is None or isinstance(cause, RemoteTraceback) else cause


def _rows(observation: Any, rows: Any) -> Any:
    """Select some rows of a batch, or one."""
    return map_leaves(operator.itemgetter(rows), observation)


def replaced(batch: Any, rows: NDArray[np.int64], values: Any) -> Any:
    """Copy a batch with other values in some rows."""
    if isinstance(batch, Mapping):
        return {key: replaced(part, rows, values[key]) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(replaced(part, rows, value) for part, value in zip(batch, values, strict=True))
    copy = batch.copy()
    copy[rows] = values
    return copy


def _misfit(space: Any, observations: Sequence[Any]) -> str:
    for index, observation in enumerate(observations):
        for leaf in leaves(space):
            try:
                value = np.asarray(pick(observation, leaf.path))
            except (KeyError, IndexError, TypeError):
                return f"environment {index} gave no {leaf.name}."
            if leaf.dtype is not None and (
                value.shape != leaf.shape or not np.can_cast(value.dtype, leaf.dtype, "same_kind")
            ):
                return (
                    f"environment {index} gave {leaf.name} as {value.dtype} {list(value.shape)}, "
                    f"expected {leaf.dtype} {list(leaf.shape)}."
                )
    return "one of them is nested in another way."
