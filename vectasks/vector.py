"""The front: what users hold. Both classes are this one front over two kinds of worker."""

from __future__ import annotations

import atexit
import functools
import logging
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from gymnasium import spaces as gym_spaces
from numpy.typing import NDArray

from vectasks.batch import StepBatch
from vectasks.dispatch import Death, Dispatcher, dispatch_rows
from vectasks.errors import (
    AlreadyPending,
    InvalidArgument,
    LayoutError,
    NothingPending,
    RemoteError,
    RemoteTraceback,
    SamplerIndexError,
    SetupError,
    TaskAttributeError,
    TaskError,
    UsageError,
    VectasksError,
    WorkerDied,
    WrongCount,
)
from vectasks.host import HostPlan, HostReady
from vectasks.ledger import Ledger, SamplerState
from vectasks.messages import Command, Failure, StepOutcome, TaskStart
from vectasks.spaces import action_batch, prepare_action, spaces_equal, split_actions
from vectasks.task import RLStepResult
from vectasks.workers.base import Worker
from vectasks.workers.inline import InlineWorker
from vectasks.workers.process import DEFAULT_START_METHOD, ProcessWorker, start_context
from vectasks.workers.slab import Layout, SharedMemory

logger = logging.getLogger("vectasks")

P = ParamSpec("P")
R = TypeVar("R")

_COMMANDS = {command.label: command for command in Command if command is not Command.SETUP}
_REACHING = frozenset(
    {Command.CALL, Command.ATTR, Command.SET_ATTR, Command.CALL_SAMPLER, Command.SAMPLER_ATTR}
)
_RENDER_MODES = ("human", "rgb_array", "raw_rgb_list")


def _also_named(**aliases: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept keywords under other names, as AllenAct has them: ``_also_named(old="new")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accept(*args: P.args, **kwargs: P.kwargs) -> R:
            if not aliases.keys().isdisjoint(kwargs):
                for alias, name in aliases.items():
                    if alias in kwargs:
                        if name in kwargs:
                            raise TypeError(f"{name} was given twice, as {name} and as {alias}.")
                        kwargs[name] = kwargs.pop(alias)
            return function(*args, **kwargs)

        return accept

    return decorate


_takes_index_process = _also_named(index_process="sampler_index")


def _exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """Let one thread at a time in, and only in the process that made the vector."""

    @functools.wraps(function)
    def enter(*args: P.args, **kwargs: P.kwargs) -> R:
        vector: Any = args[0]
        with vector._guard(function.__name__):
            return function(*args, **kwargs)

    return enter


class _Guard:
    """Refuses other threads and other processes; re-entrant within its thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._name = ""

    def __call__(self, name: str) -> _Guard:
        if os.getpid() != self._pid:
            raise UsageError(
                f"{name}: this vector belongs to process {self._pid}, and this is a fork of it "
                f"({os.getpid()}): make a new vector here."
            )
        if not self._lock.acquire(blocking=False):
            raise AlreadyPending(
                f"{name}: another thread is using this vector; one thread at a time may."
            )
        return self

    @property
    def is_owner(self) -> bool:
        return os.getpid() == self._pid

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class BaseVectorSampledTasks:
    """Everything that :class:`VectorSampledTasks` and its in-process twin can do.

    Positions named ``sampler_index`` count the *unpaused* samplers from 0; they shift down when a
    sampler before them is paused. ``sampler_ids`` tells which sampler is where. Every method raises
    ``VectorClosed`` after :meth:`close`, ``AlreadyPending`` while a step is out or another thread is
    inside, ``SamplerUnavailable`` where a sampler's state does not allow it, ``TaskError`` where the
    user's code raised, ``WorkerDied`` where a worker ended, and ``WaitTimeout`` when the answer takes
    longer than ``read_timeout`` seconds.
    """

    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None,
        callback_sensors: Any,
        auto_resample_when_done: bool,
        should_log: bool,
        read_timeout: float | None,
        seed: int | Sequence[int] | None,
        heterogeneous: bool,
        check_actions: bool,
        observation_transport: str,
        on_worker_death: str,
        max_restarts: int,
        start_timeout_s: float | None,
        close_grace_s: float,
        mp_ctx: BaseContext | None,
        multiprocessing_start_method: str | None,
        make_workers: Callable[[int, SharedMemory | None], Sequence[Worker]],
        shares_memory: bool,
    ) -> None:
        arguments = _checked_sampler_args(make_sampler_fn, sampler_fn_args)
        if observation_transport not in ("auto", "slab", "pipe"):
            raise InvalidArgument(
                f"observation_transport={observation_transport!r} is unknown; "
                "use 'auto', 'slab' or 'pipe'."
            )
        if on_worker_death not in ("raise", "restart"):
            raise InvalidArgument(
                f"on_worker_death={on_worker_death!r} is unknown; use 'raise' or 'restart'."
            )
        count = len(arguments)
        seeds = _seeds(seed, count)
        self.make_sampler_fn = make_sampler_fn
        self.sampler_fn_args = [dict(a) for a in arguments]
        self.auto_resample_when_done = auto_resample_when_done
        self.multiprocessing_start_method = multiprocessing_start_method
        self.read_timeout = read_timeout
        self._mp_ctx = mp_ctx
        self._check_actions = check_actions
        self._heterogeneous = heterogeneous
        self._start_timeout_s = start_timeout_s
        self._close_grace_s = close_grace_s
        self._should_log = should_log
        self._guard = _Guard()
        self._shared_action_space: Any = None  # the one of all samplers, if they share one
        self._num_steps = 0
        self._num_episodes = 0
        self._ledger = Ledger(count)
        self._transport = observation_transport
        memory = (
            SharedMemory()
            if shares_memory and observation_transport != "pipe" and not heterogeneous
            else None
        )
        self._dispatcher = Dispatcher(
            make_workers(count, memory),
            [
                HostPlan(
                    make_sampler_fn,
                    sampler_args,
                    mp_ctx,
                    callback_sensors,
                    auto_resample_when_done,
                    seeds[sampler_id],
                )
                for sampler_id, sampler_args in enumerate(arguments)
            ],
            self._ledger,
            memory=memory,
            restart_dead_workers=on_worker_death == "restart",
            max_restarts=max_restarts,
        )
        _LIVE.add(self)
        try:
            self._set_up(count)
        except BaseException:
            self._end(None)
            raise
        if should_log:
            logger.info("%d samplers in %d workers", count, len(self._dispatcher.workers))

    def _set_up(self, count: int) -> None:
        ids = list(range(count))
        started = self._dispatcher.start(ids, self._start_timeout_s)
        ready: dict[int, HostReady] = self._unwrap(ids, Command.SETUP, started)
        self._observation_spaces = [ready[i].observation_space for i in ids]
        self._action_spaces = [ready[i].action_space for i in ids]
        if not self._heterogeneous:
            first = self._observation_spaces[0]
            for sampler_id, space in enumerate(self._observation_spaces):
                if not spaces_equal(space, first):
                    raise InvalidArgument(
                        f"Sampler {sampler_id} has the observation space {space}, sampler 0 has "
                        f"{first}. Make them equal, or make the vector with heterogeneous=True."
                    )
            actions = self._action_spaces
            if all(spaces_equal(space, actions[0]) for space in actions):
                self._shared_action_space = actions[0]
            layout = Layout.of(
                first,
                self._shared_action_space,
                ready[0].observation,
                count,
                len(self._dispatcher.workers),
            )
            self._dispatcher.open_lane(
                layout, use=self._transport != "pipe", strict=self._transport == "slab"
            )

    # -- what it is ---------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._ledger.closed

    @property
    def num_unpaused_tasks(self) -> int:
        """How many samplers are unpaused; as many actions does a step take."""
        return len(self._ledger.unpaused)

    @property
    def mp_ctx(self) -> BaseContext | None:
        """The multiprocessing context that started the workers; None on the in-process twin."""
        return self._mp_ctx

    @property
    def sampler_ids(self) -> list[int]:
        """Ids of the unpaused samplers, in order: ``sampler_ids[sampler_index]`` is the id there."""
        return list(self._ledger.unpaused)

    @property
    def sampler_states(self) -> dict[int, SamplerState]:
        """The state of every sampler, by id."""
        if not self._ledger.closed and self._guard.is_owner:
            self._dispatcher.take_in_late()
        return self._ledger.states

    @property
    def observation_space(self) -> Any:
        """The observation space that all samplers share.

        Raises:
            InvalidArgument: the vector is heterogeneous; ``observation_spaces`` has one a sampler.
        """
        if self._heterogeneous:
            raise InvalidArgument(
                "observation_space: the vector was made with heterogeneous=True; "
                "observation_spaces has one a sampler."
            )
        return self._observation_spaces[0]

    @property
    def observation_spaces(self) -> list[Any]:
        """The observation space of each unpaused sampler."""
        return [self._observation_spaces[i] for i in self._ledger.unpaused]

    @property
    def action_spaces(self) -> list[Any]:
        """The action space of each unpaused sampler."""
        return [self._action_spaces[i] for i in self._ledger.unpaused]

    def stats(self) -> dict[str, Any]:
        """Counts since the start: ``steps`` (of samplers), ``episodes`` ended, worker ``restarts``."""
        return {
            "steps": self._num_steps,
            "episodes": self._num_episodes,
            "restarts": self._dispatcher.restarts,
        }

    # -- stepping -----------------------------------------------------------------------------

    @_exclusive
    def async_step(self, actions: Any) -> None:
        """Send one action to each unpaused sampler and return at once; :meth:`wait_step` collects.

        Args:
            actions: one action a sampler: a list, an array or tensor whose first axis is the
                samplers, or, for nested spaces, a dict or tuple of these.

        Raises:
            WrongCount: not one action a sampler. InvalidAction: an action outside its space.
            In both cases nothing was sent.
        """
        self._require_idle("async_step")
        self._begin_step(actions, as_batch=False)

    @_exclusive
    def wait_step(self, timeout: float | None = None) -> list[RLStepResult]:
        """Collect what :meth:`async_step` began: one result an unpaused sampler.

        Args:
            timeout: seconds to wait for all of them together (None: ``read_timeout``).

        Raises:
            NothingPending: no step is out.
            WaitTimeout: some samplers are late; calling again is allowed and loses nothing.
        """
        ids = self._ledger.step_ids
        if ids is None:
            if self._ledger.closed:
                self._ledger.require_idle("wait_step")
            raise NothingPending("wait_step: no step is out; call async_step(actions) first.")
        self._dispatcher.wait_step(ids, len(ids), self._timeout(timeout))
        self._ledger.step_ids = None
        outcomes = self._unwrap(ids, Command.STEP, self._dispatcher.take_outcomes(ids))
        return [_as_given(outcome) for outcome in self._resampled(outcomes).values()]

    @_exclusive
    def step(self, actions: Any) -> list[RLStepResult]:
        """Step every unpaused sampler: :meth:`async_step` and :meth:`wait_step` in one."""
        self.async_step(actions)
        return self.wait_step()

    @_takes_index_process
    @_exclusive
    def step_at(self, sampler_index: int, action: Any) -> list[RLStepResult]:
        """Step one sampler; a list of its one result."""
        self._require_idle("step_at")
        ids = [self._ledger.id_at(sampler_index)]
        self._ledger.require(Command.STEP, ids)
        self._dispatcher.send_step(ids, self._prepared(ids, [action]), as_batch=False)
        self._ledger.step_ids = ids
        return self.wait_step()

    def step_async(self, actions: Any) -> None:
        """Another name of :meth:`async_step`."""
        self.async_step(actions)

    def step_wait(self, timeout: float | None = None) -> list[RLStepResult]:
        """Another name of :meth:`wait_step`."""
        return self.wait_step(timeout)

    @_exclusive
    def step_batch(
        self, actions: Any, out: StepBatch | None = None, copy: bool = True
    ) -> StepBatch:
        """Step every unpaused sampler; the results as arrays, which nobody has to stack.

        Args:
            actions: as for :meth:`async_step`.
            out: write into the arrays of this batch (from an earlier call) instead of new ones.
            copy: False gives views that stay valid until the second following step.

        Raises:
            LayoutError: an observation does not fit its space, or a reward is a list; its sampler
                is FAILED, the others went on.
        """
        self._require_idle("step_batch")
        self._require_batches("step_batch")
        ids = self._begin_step(actions, as_batch=True)
        self._dispatcher.wait_step(ids, len(ids), self.read_timeout)
        self._ledger.step_ids = None
        if self.auto_resample_when_done:
            return self._batch(ids, self._dispatcher.take_batch(ids, out, copy))
        outcomes = self._unwrap(ids, Command.STEP, self._dispatcher.take_outcomes(ids))
        return self._batch_or_raise(
            ids, self._dispatcher.batch_of(self._resampled(outcomes), out, copy)
        )

    @_exclusive
    def send(self, actions: Any, samplers: Sequence[int] | None = None) -> None:
        """Begin a step of some samplers; :meth:`recv` gives back whichever are ready first.

        Args:
            actions: one action for each of ``samplers``.
            samplers: their ids (None: every unpaused sampler that is not out).
        """
        if self._ledger.step_ids is not None or self._ledger.closed:
            self._ledger.require_idle("send")
        self._require_batches("send")
        if not self.auto_resample_when_done:
            raise InvalidArgument(
                "send: auto_resample_when_done=False needs all samplers in lockstep; use step() or "
                "step_batch(), or make the vector with auto_resample_when_done=True."
            )
        unpaused = self._ledger.unpaused
        if samplers is None:
            ids = [i for i in unpaused if i not in self._ledger.sent]
        else:
            ids = [operator.index(i) for i in samplers]
            unknown = [i for i in ids if i not in unpaused]
            if unknown or len(set(ids)) != len(ids):
                raise SamplerIndexError(
                    f"send: samplers={ids} must be ids of unpaused samplers, each once; unpaused "
                    f"are {unpaused}."
                )
        self._ledger.require(Command.STEP, ids)
        prepared = self._prepared(ids, actions)
        self._dispatcher.send_step(ids, prepared, as_batch=True, one_by_one=True)
        self._ledger.sent.update(ids)

    @_exclusive
    def recv(self, min_samplers: int | None = None, timeout: float | None = None) -> StepBatch:
        """The steps of the ``min_samplers`` samplers that were ready first, in id order.

        Args:
            min_samplers: so many rows exactly (None: all that are out).
            timeout: seconds to wait for them (None: ``read_timeout``).

        Raises:
            NothingPending: nothing is out.
            WaitTimeout: fewer are ready; calling again is allowed and loses nothing.
        """
        sent = sorted(self._ledger.sent)
        if self._ledger.closed:
            self._ledger.require_idle("recv")
        if not sent:
            raise NothingPending("recv: no step is out; call send(actions) first.")
        count = len(sent) if min_samplers is None else operator.index(min_samplers)
        if not 1 <= count <= len(sent):
            raise InvalidArgument(
                f"recv: min_samplers={min_samplers} must be from 1 to {len(sent)}, the number of "
                "samplers that are out."
            )
        self._dispatcher.wait_step(sent, count, self._timeout(timeout))
        ids = self._dispatcher.earliest(sent, count)
        self._ledger.sent.difference_update(ids)
        return self._batch(ids, self._dispatcher.take_batch(ids, None, True))

    def _begin_step(self, actions: Any, *, as_batch: bool) -> list[int]:
        """Send one action to each unpaused sampler; their ids."""
        ids = self._ledger.unpaused
        prepared = self._prepared(ids, actions)
        self._ledger.require(Command.STEP, ids)
        self._dispatcher.send_step(ids, prepared, as_batch=as_batch)
        self._ledger.step_ids = ids = list(ids)
        return ids

    def _prepared(self, ids: Sequence[int], actions: Any) -> Any:
        """The actions as tasks receive them: an array where all can be checked together, or a list.

        Raises:
            WrongCount: not one action a sampler. InvalidAction: an action outside its space.
        """
        space, check = self._shared_action_space, self._check_actions
        waiting = self._ledger.waiting
        if not waiting:
            batch = action_batch(space, actions, len(ids), check)
            if batch is not None:
                return batch
        rows = split_actions(actions, space, len(ids))
        return [
            None  # the action of a waiting sampler is ignored
            if i in waiting
            else prepare_action(self._action_spaces[i], action, i, check)
            for i, action in zip(ids, rows, strict=True)
        ]

    def _require_batches(self, what: str) -> None:
        if self._heterogeneous:
            raise InvalidArgument(
                f"{what}: samplers of a heterogeneous vector share no arrays; use step()."
            )

    def _batch(self, ids: Sequence[int], batch: StepBatch | dict[int, Any]) -> StepBatch:
        batch = self._batch_or_raise(ids, batch)
        self._num_steps += len(ids)
        self._num_episodes += int(batch.done.sum())
        return batch

    def _batch_or_raise(self, ids: Sequence[int], batch: StepBatch | dict[int, Any]) -> StepBatch:
        if isinstance(batch, dict):
            self._unwrap(ids, Command.STEP, batch)
            raise AssertionError("a batch is given as outcomes only if one of them failed")
        return batch

    def _count(self, sampler_id: int, outcome: StepOutcome) -> None:
        """Write down what one step means for the counts and for the waiting samplers."""
        if not outcome.done:
            self._num_steps += 1
            return
        info = outcome.info
        waited = sampler_id in self._ledger.waiting
        self._num_steps += not waited
        self._num_episodes += not waited
        if (
            not self.auto_resample_when_done
            and not (isinstance(info, dict) and "worker_restarted" in info)
        ):
            self._ledger.waiting.add(sampler_id)

    def _resampled(self, outcomes: dict[int, StepOutcome]) -> dict[int, StepOutcome]:
        """In lockstep: when the last running sampler is done, all go on to their next tasks."""
        if self.auto_resample_when_done:
            return outcomes
        running = [
            i for i in self._ledger.unpaused if self._ledger.state_of(i) is SamplerState.READY
        ]
        if not running or not self._ledger.waiting.issuperset(running):
            return outcomes
        starts = self._ask(Command.NEXT_TASK, running, [{}] * len(running))
        resampled = dict(outcomes)
        for i in outcomes.keys() & starts.keys():
            outcome, start = outcomes[i], starts[i]
            info = {**(outcome.info or {}), "final_observation": outcome.observation}
            info["resampled"] = True
            resampled[i] = outcome._replace(
                observation=start.observation, done=True, info=info, exhausted=start.exhausted
            )
        return resampled

    # -- tasks --------------------------------------------------------------------------------

    @_exclusive
    def next_task(self, **kwargs: Any) -> list[Any]:
        """Go on to every unpaused sampler's next task; their first observations.

        Keywords go to each sampler's ``next_task``. The observation of a sampler that has no next
        task is None, and the sampler is EXHAUSTED.
        """
        ids = self._open_all("next_task", Command.NEXT_TASK)
        starts = self._ask(Command.NEXT_TASK, ids, [kwargs] * len(ids))
        return [starts[i].observation for i in ids]

    @_takes_index_process
    @_exclusive
    def next_task_at(self, sampler_index: int, **kwargs: Any) -> list[Any]:
        """Go on to one sampler's next task; a list of its first observation. Revives a failed one."""
        sampler_id = self._open_at("next_task_at", sampler_index, Command.NEXT_TASK)
        return [self._ask(Command.NEXT_TASK, [sampler_id], [kwargs])[sampler_id].observation]

    @_exclusive
    def get_observations(self) -> list[Any]:
        """The current observation of every unpaused sampler; None where it is exhausted."""
        ids = self._open_all("get_observations", Command.OBSERVE)
        return self._ask_list(Command.OBSERVE, ids)

    @_exclusive
    def reset_all(self) -> None:
        """Reset every unpaused sampler, except its random state, and sample its first task."""
        ids = self._open_all("reset_all", Command.RESET)
        self._ask(Command.RESET, ids, [None] * len(ids))

    @_exclusive
    def set_seeds(self, seeds: int | Sequence[int]) -> None:
        """Seed the tasks that are sampled from now on.

        Args:
            seeds: one seed an unpaused sampler, or one int: each sampler gets it plus its id.
        """
        ids = self._open_all("set_seeds", Command.SEED)
        if isinstance(seeds, (int, np.integer)):
            values = [int(seeds) + i for i in ids]
        else:
            values = [int(seed) for seed in self._one_each("seeds", seeds, ids)]
        self._ask(Command.SEED, ids, values)

    @_takes_index_process
    @_exclusive
    def restart_at(self, sampler_index: int) -> None:
        """Make one sampler anew, whatever its state; it starts a first task, seeded onward.

        Where its worker is dead, or busy with something that nobody waits for, the whole worker is
        begun anew, with all its samplers.
        """
        self._require_idle("restart_at")
        sampler_id = self._ledger.id_at(sampler_index)
        if self._ledger.state_of(sampler_id) is SamplerState.BUSY:
            self._dispatcher.replace_worker(sampler_id)
        self._ledger.require(Command.SETUP, [sampler_id])
        plan = self._dispatcher.next_plan(sampler_id)
        self._ask(Command.SETUP, [sampler_id], [plan], self._start_timeout_s)

    # -- pausing ------------------------------------------------------------------------------

    @_takes_index_process
    @_exclusive
    def pause_at(self, sampler_index: int) -> None:
        """Leave a sampler out until :meth:`resume_all`; later indices shift down by one."""
        self._require_idle("pause_at")
        self._ledger.pause(self._ledger.id_at(sampler_index))

    @_exclusive
    def resume_all(self) -> None:
        """Bring every paused sampler back, in the original order."""
        self._require_idle("resume_all")
        self._ledger.resume_all()

    # -- reaching into tasks and samplers -------------------------------------------------------

    @_exclusive
    def command(
        self, commands: str | Command | Sequence[str | Command], data_list: Sequence[Any] | None = None
    ) -> list[Any]:
        """Send a command to every unpaused sampler; their answers.

        Args:
            commands: one command for all, or one a sampler. Strings as in AllenAct ("step",
                "next_task", "render", "observation_space", "action_space", "call", "call_sampler",
                "attr", "sampler_attr", "reset", "seed") or a ``Command``.
            data_list: one datum a sampler (None: none): an action for "step", keywords for
                "next_task", ``(args, kwargs)`` for "render", ``(name, args)`` for the calls, a name
                for the attributes, a seed for "seed".
        """
        self._require_idle("command")
        ids = list(self._ledger.unpaused)
        if isinstance(commands, (str, Command)):
            commands = [commands] * len(ids)
        kinds = [_command(item) for item in self._one_each("commands", commands, ids)]
        data = [None] * len(ids) if data_list is None else self._one_each("data_list", data_list, ids)
        for sampler_id, kind in zip(ids, kinds, strict=True):
            self._ledger.require(kind, [sampler_id])
        return self._command(ids, kinds, data)

    @_takes_index_process
    @_exclusive
    def command_at(self, sampler_index: int, command: str | Command, data: Any = None) -> Any:
        """Send a command to one sampler; its answer. Commands and data as for :meth:`command`."""
        kind = _command(command)
        sampler_id = self._open_at("command_at", sampler_index, kind)
        return self._command([sampler_id], [kind], [data])[0]

    @_exclusive
    def call(
        self,
        function_names: str | Sequence[str],
        function_args_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Call a method of every unpaused sampler's task; what each returned.

        Args:
            function_names: one name for all, or one a sampler.
            function_args_list: the arguments for each sampler: positional from a list or tuple, by
                name from a dict, anything else as the one argument (None: no arguments).
        """
        return self._call_all("call", Command.CALL, function_names, function_args_list)

    @_takes_index_process
    @_exclusive
    def call_at(self, sampler_index: int, function_name: str, function_args: Any = None) -> Any:
        """Call a method of one sampler's task; what it returned. Arguments as for :meth:`call`."""
        sampler_id = self._open_at("call_at", sampler_index, Command.CALL)
        data = [(_name(function_name), function_args)]
        return self._ask(Command.CALL, [sampler_id], data)[sampler_id]

    @_exclusive
    def call_sampler(
        self,
        function_names: str | Sequence[str],
        function_args_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Call a method of every unpaused sampler itself. Arguments as for :meth:`call`."""
        return self._call_all("call_sampler", Command.CALL_SAMPLER, function_names, function_args_list)

    @_exclusive
    def attr(self, attr_names: str | Sequence[str]) -> list[Any]:
        """An attribute of every unpaused sampler's task.

        Raises:
            TaskError: (also an AttributeError) there is none of this name.
        """
        ids = self._open_all("attr", Command.ATTR)
        return self._ask_list(Command.ATTR, ids, self._names("attr_names", attr_names, ids))

    @_takes_index_process
    @_exclusive
    def attr_at(self, sampler_index: int, attr_name: str) -> Any:
        """An attribute of one sampler's task."""
        sampler_id = self._open_at("attr_at", sampler_index, Command.ATTR)
        return self._ask(Command.ATTR, [sampler_id], [_name(attr_name)])[sampler_id]

    @_exclusive
    def set_attr(self, attr_names: str | Sequence[str], values: Sequence[Any]) -> None:
        """Set an attribute of every unpaused sampler's task; one value a sampler."""
        ids = self._open_all("set_attr", Command.SET_ATTR)
        names = self._names("attr_names", attr_names, ids)
        pairs = list(zip(names, self._one_each("values", values, ids), strict=True))
        self._ask(Command.SET_ATTR, ids, pairs)

    # -- seeing -------------------------------------------------------------------------------

    @_exclusive
    def render(
        self,
        mode: Literal["human", "rgb_array", "raw_rgb_list"] = "human",
        *args: Any,
        **kwargs: Any,
    ) -> NDArray[np.uint8] | list[Any] | None:
        """Render the tasks of the unpaused samplers.

        Args:
            mode: "human" shows them tiled in a window and returns None; "rgb_array" returns the
                tile, uint8 [height_px, width_px, 3], in which paused samplers keep their place,
                dimmed; "raw_rgb_list" returns the images of the unpaused samplers.
            args, kwargs: go to each task's ``render`` after its own mode, "rgb".

        Raises:
            InvalidArgument: the mode is none of these.
            DisplayUnavailable: "human" where there is no screen.
        """
        if mode not in _RENDER_MODES:
            raise InvalidArgument(
                f"render: mode={mode!r} is unknown; use one of {', '.join(_RENDER_MODES)}."
            )
        ids = list(self._open_all("render", Command.RENDER))
        if mode == "raw_rgb_list":
            seen = ids
        else:
            # A paused sampler's task can be seen too, unless it failed or had no next one.
            seen = [i for i in range(len(self.sampler_fn_args)) if self._ledger.can_be_seen(i)]
        data = (("rgb", *args), kwargs)
        images = self._ask(Command.RENDER, seen, [data] * len(seen))
        if mode == "raw_rgb_list":
            return [images[i] for i in ids]
        from vectasks.rendering.tiles import tile_images

        tile = tile_images(
            [images.get(i) for i in range(len(self.sampler_fn_args))],
            dimmed=[i for i in range(len(self.sampler_fn_args)) if i not in ids],
        )
        if mode == "rgb_array":
            return tile
        from vectasks.rendering.window import show

        show(tile)
        return None

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End every worker; every task and sampler (paused ones too) gets its ``close()``.

        Works from any state, and twice. Workers share one grace period of ``close_grace_s`` seconds;
        then they are sent SIGTERM, then SIGKILL.

        Raises:
            TaskError: a task's or a sampler's ``close()`` raised; everything is closed all the same.
        """
        if not self._guard.is_owner:
            return  # a fork's copy: the workers are not its own
        with self._guard("close"):
            failures = self._end(self._close_grace_s)
        if failures:
            sampler_id, failure = failures[0]
            raise _task_error(sampler_id, "close", failure, [i for i, _ in failures[1:]])

    def _end(self, grace_s: float | None) -> list[tuple[int, Failure]]:
        if self._ledger.closed:
            return []
        failures = self._dispatcher.close(self._close_grace_s if grace_s is None else grace_s)
        self._ledger.step_ids = None
        self._ledger.closed = True
        _LIVE.discard(self)
        return failures

    def _end_quietly(self) -> None:
        """Close where nobody can be told of errors: at exit and in ``__del__``."""
        if self._guard.is_owner:
            for sampler_id, failure in self._end(None):
                logger.warning("closing sampler %d: %s", sampler_id, failure.traceback_text)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # what the body raised is worth more than what closing raises
            self._end_quietly()

    def __del__(self) -> None:
        if "_dispatcher" in self.__dict__:  # otherwise __init__ refused before anything was made
            self._end_quietly()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__} holds processes and cannot be pickled; pickle what it was made "
            "from (make_sampler_fn, sampler_fn_args) and make another one."
        )

    # -- asking -------------------------------------------------------------------------------

    def _require_idle(self, what: str) -> None:
        self._ledger.require_idle(what)
        self._dispatcher.take_in_late()

    def _open_all(self, what: str, command: Command) -> list[int]:
        """The ids of the unpaused samplers, all of which can take the command."""
        self._require_idle(what)
        self._ledger.require(command, self._ledger.unpaused)
        return self._ledger.unpaused

    def _open_at(self, what: str, sampler_index: int, command: Command) -> int:
        """The id of one unpaused sampler, which can take the command."""
        self._require_idle(what)
        sampler_id = self._ledger.id_at(sampler_index)
        self._ledger.require(command, [sampler_id])
        return sampler_id

    def _ask(
        self,
        command: Command,
        ids: Sequence[int],
        data: Sequence[Any],
        timeout_s: float | None = None,
    ) -> dict[int, Any]:
        orders = [(i, command, datum) for i, datum in zip(ids, data, strict=True)]
        return self._ask_prepared(orders, command, timeout_s)

    def _ask_prepared(
        self,
        orders: Sequence[tuple[int, Command, Any]],
        command: Command | None = None,
        timeout_s: float | None = None,
    ) -> dict[int, Any]:
        """Send, wait and unwrap; what is late after the timeout is dropped when it comes."""
        ids = [sampler_id for sampler_id, _, _ in orders]
        self._dispatcher.send(orders)
        try:
            self._dispatcher.wait(ids, self._timeout(timeout_s))
        except BaseException:
            self._dispatcher.abandon(ids)
            raise
        kinds = {sampler_id: kind for sampler_id, kind, _ in orders}
        values = self._unwrap(ids, command or kinds, self._dispatcher.take(ids))
        for sampler_id, kind, datum in orders:
            if kind is Command.SEED:
                self._dispatcher.amend_plan(sampler_id, seed=datum)
            elif kind is Command.KEEP_FINAL_FRAME:
                self._dispatcher.amend_plan(sampler_id, keep_final_frame=bool(datum))
        return values

    def _ask_list(
        self, command: Command, ids: Sequence[int], data: Sequence[Any] | None = None
    ) -> list[Any]:
        ids = list(ids)
        values = self._ask(command, ids, [None] * len(ids) if data is None else data)
        return [values[i] for i in ids]

    def _call_all(
        self, what: str, command: Command, names: str | Sequence[str], args_list: Any
    ) -> list[Any]:
        ids = self._open_all(what, command)
        names = self._names("function_names", names, ids)
        if args_list is None:
            args_list = [None] * len(ids)
        args_list = self._one_each("function_args_list", args_list, ids)
        return self._ask_list(command, ids, list(zip(names, args_list, strict=True)))

    def _command(
        self, ids: Sequence[int], kinds: Sequence[Command], data: Sequence[Any]
    ) -> list[Any]:
        """Any commands, and their answers as the named methods give them."""
        orders = []
        for sampler_id, kind, datum in zip(ids, kinds, data, strict=True):
            if kind is Command.STEP:
                (action,) = dispatch_rows(self._prepared([sampler_id], [datum]))
                orders.append((sampler_id, kind, action))
            elif kind in _REACHING and kind not in (Command.ATTR, Command.SAMPLER_ATTR):
                orders.append((sampler_id, kind, _name_and_data(kind, datum)))
            elif kind in _REACHING:
                orders.append((sampler_id, kind, _name(datum)))
            else:
                orders.append((sampler_id, kind, datum))
        values = self._ask_prepared(orders)
        stepped = [i for i in ids if isinstance(values[i], StepOutcome)]
        if stepped:
            values.update(self._resampled({i: values[i] for i in stepped}))
        return [_as_given(values[i]) for i in ids]

    def _unwrap(
        self, ids: Sequence[int], commands: Command | Mapping[int, Command], values: dict[int, Any]
    ) -> dict[int, Any]:
        """The values by id, or the error that the first failed sampler's value stands for."""
        failed = []
        for i in ids:
            value = values[i]
            if type(value) is StepOutcome:
                self._count(i, value)
            elif isinstance(value, (Failure, Death)):
                failed.append(i)
        if not failed:
            return values
        first = failed[0]
        value = values[first]
        error: RemoteError | WorkerDied
        if isinstance(value, Death):
            error = WorkerDied(
                f"{value.describe()}. Its samplers are FAILED; restart_at() begins it anew, and "
                "on_worker_death='restart' would do so by itself.",
                worker=value.worker,
                sampler_ids=value.sampler_ids,
                exitcode=value.exitcode,
            )
        elif value.type_name == "LayoutError":
            layout_error = LayoutError(f"sampler {first}: {value.message}")
            raise layout_error from RemoteTraceback(value.traceback_text)
        else:
            command = commands if isinstance(commands, Command) else commands[first]
            error = _task_error(first, command, value, failed[1:])
        error.results = {i: _as_given(values[i]) for i in ids if i not in failed}
        raise error

    def _timeout(self, timeout_s: float | None) -> float | None:
        return self.read_timeout if timeout_s is None else timeout_s

    def _names(self, what: str, names: str | Sequence[str], ids: Sequence[int]) -> list[str]:
        if isinstance(names, str):
            return [names] * len(ids)
        return [_name(name) for name in self._one_each(what, names, ids)]

    def _one_each(self, what: str, values: Iterable[Any], ids: Sequence[int]) -> list[Any]:
        """``values`` as a list with one an unpaused sampler."""
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise InvalidArgument(
                f"{what} must be a list with one item a sampler, got {type(values).__name__}."
            )
        items = list(values)
        if len(items) != len(ids):
            raise WrongCount(
                f"{what} has {len(items)} items for {len(ids)} unpaused samplers: give one for each."
            )
        return items


class VectorSampledTasks(BaseVectorSampledTasks):
    """Samples tasks in parallel: worker processes own the task samplers, this object steps them.

    Args:
        make_sampler_fn: makes a task sampler; any callable that cloudpickle can carry. It is called
            in the worker, with one of ``sampler_fn_args`` as keywords, and with ``mp_ctx`` if it has
            a parameter of that name.
        sampler_fn_args: one dict of keywords a sampler; they are never changed.
        callback_sensors: a suite with ``get_observations(env, task)``, or a sequence of sensors with
            ``uuid`` and ``get_observation(env, task)``, asked when an episode ends; the answer is in
            ``info["__AFTER_TASK_CALLBACK__"]``.
        auto_resample_when_done: go on to the next task in the step that ends one; otherwise a done
            sampler waits until all are done (or ``next_task`` is called).
        multiprocessing_start_method: "forkserver", "spawn" or "fork".
        mp_ctx: a context of ``multiprocessing`` or ``torch.multiprocessing``, instead of that.
        should_log: log what is started.
        max_processes: so many workers at most, the samplers spread evenly (None: one each).
        read_timeout: seconds that every call waits for its answers (None: without end).
        seed: seeds the very first tasks: one a sampler, or one int: each gets it plus its id.
        heterogeneous: allow samplers with different observation spaces.
        check_actions: refuse actions outside the action space.
        observation_transport: "auto", "slab" (shared memory) or "pipe".
        on_worker_death: "raise" WorkerDied, or "restart" the worker.
        max_restarts: how many restarts, all workers together, before a death is raised after all.
        preload: modules that the forkserver imports before it forks the first worker.
        rerun_main: let workers import the script that is ``__main__`` again, as CPython does.
        start_timeout_s: seconds for the start of all workers together.
        close_grace_s: seconds that the workers have to close their tasks.
        daemon: make workers daemonic; they may then start no processes of their own.

    Raises:
        InvalidArgument: an argument has a value that it cannot take.
        SetupError: a sampler could not be made or has no first task; nothing is left running.
    """

    @_also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None = None,
        callback_sensors: Any = None,
        auto_resample_when_done: bool = True,
        multiprocessing_start_method: str | None = DEFAULT_START_METHOD,
        mp_ctx: BaseContext | None = None,
        should_log: bool = True,
        max_processes: int | None = None,
        read_timeout: float | None = 60,
        *,
        seed: int | Sequence[int] | None = None,
        heterogeneous: bool = False,
        check_actions: bool = True,
        observation_transport: Literal["auto", "slab", "pipe"] = "auto",
        on_worker_death: Literal["raise", "restart"] = "raise",
        max_restarts: int = 10,
        preload: Sequence[str] = (),
        rerun_main: bool = False,
        start_timeout_s: float | None = 300,
        close_grace_s: float = 5.0,
        daemon: bool = False,
    ) -> None:
        if max_processes is not None and max_processes < 1:
            raise InvalidArgument(f"max_processes must be at least 1, got {max_processes!r}.")
        context = start_context(multiprocessing_start_method, mp_ctx, preload)

        def make_workers(count: int, memory: SharedMemory | None) -> Sequence[Worker]:
            num_workers = count if max_processes is None else min(max_processes, count)
            return [
                ProcessWorker(
                    number,
                    ids.tolist(),
                    context,
                    memory=memory,
                    daemon=daemon,
                    rerun_main=rerun_main,
                )
                for number, ids in enumerate(np.array_split(np.arange(count), num_workers))
            ]

        super().__init__(
            make_sampler_fn,
            sampler_fn_args,
            callback_sensors,
            auto_resample_when_done,
            should_log,
            read_timeout,
            seed,
            heterogeneous,
            check_actions,
            observation_transport,
            on_worker_death,
            max_restarts,
            start_timeout_s,
            close_grace_s,
            context,
            context.get_start_method(),
            make_workers,
            shares_memory=True,
        )


class SingleProcessVectorSampledTasks(BaseVectorSampledTasks):
    """The twin of :class:`VectorSampledTasks` in this process: same interface, no processes.

    For debugging, and for tasks that cost less than waking a process. Arguments are those of
    :class:`VectorSampledTasks`; the ones that only processes need are accepted and ignored.
    """

    @_also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None = None,
        callback_sensors: Any = None,
        auto_resample_when_done: bool = True,
        should_log: bool = True,
        *,
        multiprocessing_start_method: str | None = None,
        mp_ctx: BaseContext | None = None,
        max_processes: int | None = None,
        read_timeout: float | None = 60,
        seed: int | Sequence[int] | None = None,
        heterogeneous: bool = False,
        check_actions: bool = True,
        observation_transport: Literal["auto", "slab", "pipe"] = "auto",
        on_worker_death: Literal["raise", "restart"] = "raise",
        max_restarts: int = 10,
        preload: Sequence[str] = (),
        rerun_main: bool = False,
        start_timeout_s: float | None = 300,
        close_grace_s: float = 5.0,
        daemon: bool = False,
    ) -> None:
        super().__init__(
            make_sampler_fn,
            sampler_fn_args,
            callback_sensors,
            auto_resample_when_done,
            should_log,
            read_timeout,
            seed,
            heterogeneous,
            check_actions,
            observation_transport,
            on_worker_death,
            max_restarts,
            start_timeout_s,
            close_grace_s,
            None,
            None,
            lambda count, _: [InlineWorker(0, range(count))],
            shares_memory=False,
        )


def _checked_sampler_args(
    make_sampler_fn: Any, sampler_fn_args: Any
) -> Sequence[Mapping[str, Any]]:
    if not callable(make_sampler_fn):
        raise InvalidArgument(
            f"make_sampler_fn must be callable, got {type(make_sampler_fn).__name__}."
        )
    if isinstance(sampler_fn_args, Mapping) or not isinstance(sampler_fn_args, Iterable):
        raise InvalidArgument(
            "sampler_fn_args must be a list with one dict of keywords a sampler, got "
            f"{type(sampler_fn_args).__name__}; for four equal samplers: [{{}}] * 4."
        )
    arguments = list(sampler_fn_args)
    if not arguments:
        raise InvalidArgument(
            "sampler_fn_args is empty: give one dict of keywords a sampler, at least one."
        )
    for position, item in enumerate(arguments):
        if not isinstance(item, Mapping):
            raise InvalidArgument(
                f"sampler_fn_args[{position}] must be a dict of keywords for make_sampler_fn, got "
                f"{type(item).__name__}."
            )
    return arguments


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + i for i in range(count)]
    seeds: list[int | None] = [int(item) for item in seed]
    if len(seeds) != count:
        raise WrongCount(f"seed has {len(seeds)} items for {count} samplers: give one for each.")
    return seeds


def _command(command: Any) -> Command:
    if isinstance(command, Command) and command is not Command.SETUP:
        return command
    known = _COMMANDS.get(command) if isinstance(command, str) else None
    if known is None:
        raise InvalidArgument(
            f"the command {command!r} is unknown; it can be {', '.join(sorted(_COMMANDS))}. "
            "To pause, resume and close there are the methods pause_at, resume_all and close."
        )
    return known


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"a name must be a string, got {name!r} ({type(name).__name__}).")
    return name


def _name_and_data(command: Command, datum: Any) -> Any:
    if isinstance(datum, str) and command is not Command.SET_ATTR:
        return datum
    if isinstance(datum, (tuple, list)) and len(datum) == 2:
        return (_name(datum[0]), datum[1])
    raise InvalidArgument(
        f"the data of {command.label} must be (name, {'value' if command is Command.SET_ATTR else 'args'}), "
        f"got {datum!r}."
    )


def _as_given(value: Any) -> Any:
    """A value as the methods hand it out."""
    if isinstance(value, StepOutcome):
        return RLStepResult(*value[:4])
    return value.observation if isinstance(value, TaskStart) else value


def _task_error(
    sampler_id: int, command: Command | str, failure: Failure, also_failed: Sequence[int]
) -> RemoteError:
    label = command.label if isinstance(command, Command) else command
    kind: type[RemoteError] = TaskError
    if command is Command.SETUP:
        kind = SetupError
    elif command in _REACHING and failure.is_attribute_error:
        kind = TaskAttributeError
    what = "could not be made" if kind is SetupError else f"failed in {label}"
    others = f" (so did sampler {', '.join(map(str, also_failed))})" if also_failed else ""
    error = kind(
        f"sampler {sampler_id} {what}{others}: {failure.type_name}: {failure.message}",
        sampler_id=sampler_id,
        command=label,
        remote_traceback=failure.traceback_text,
    )
    remote = RemoteTraceback(failure.traceback_text)
    original = failure.exception()
    if original is None:
        error.__cause__ = remote
    else:
        original.__cause__ = remote
        error.__cause__ = original
    return error


#: Vectors that are open. They must be closed before multiprocessing joins its children at exit,
#: which would wait for them forever; handlers run in reverse order, and multiprocessing's is older.
_LIVE: weakref.WeakSet[BaseVectorSampledTasks] = weakref.WeakSet()


@atexit.register
def _close_live_vectors() -> None:
    for vector in list(_LIVE):
        try:
            vector._end_quietly()
        except VectasksError:
            logger.exception("closing a vector at exit failed")
