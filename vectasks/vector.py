"""The front: what users hold. Both classes are this one front over two kinds of worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vectasks.answers import as_given
from vectasks.arguments import (
    checked_ids,
    checked_name,
    checked_seed,
    command_named,
    is_whole_number,
    one_each,
    whole_number,
)
from vectasks.batch import PlainStep, StepBatch
from vectasks.errors import InvalidArgument, NothingPending
from vectasks.guard import also_named, exclusive
from vectasks.journal import EpisodeRecorder
from vectasks.ledger import SamplerState, VectorState
from vectasks.messages import Command
from vectasks.recording import Recording, Recordings
from vectasks.step_front import StepFront
from vectasks.task import RLStepResult
from vectasks.timing import TimedDispatcher, figures, write_trace
from vectasks.workers.base import Worker
from vectasks.workers.inline import InlineWorker
from vectasks.workers.memory import SharedMemory
from vectasks.workers.process import (
    DEFAULT_START_METHOD,
    ProcessWorker,
    require_descriptors,
    start_context,
)

__all__ = ["BaseVectorSampledTasks", "SingleProcessVectorSampledTasks", "VectorSampledTasks"]

_RENDER_MODES = ("human", "rgb_array", "raw_rgb_list")
_takes_index_process = also_named(index_process="sampler_index")


class BaseVectorSampledTasks(StepFront):
    """Everything that :class:`VectorSampledTasks` and its in-process twin can do.

    Positions named ``sampler_index`` count the *unpaused* samplers from 0; they shift down when a
    sampler before them is paused. ``sampler_ids`` tells which sampler is where. Every method raises
    ``VectorClosed`` after :meth:`close`, ``AlreadyPending`` while a step is out or another thread
    is inside, ``SamplerUnavailable`` where a sampler's state does not allow it, ``TaskError`` where
    the user's code raised, ``WorkerDied`` where a worker ended, and ``WaitTimeout`` when the answer
    takes longer than ``read_timeout`` seconds.
    """

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
        """Ids of the unpaused samplers, in order: ``sampler_ids[sampler_index]`` is one's id."""
        return list(self._ledger.unpaused)

    @property
    def sampler_states(self) -> dict[int, SamplerState]:
        """The state of every sampler, by id."""
        self._take_in_news()
        return self._ledger.states

    @property
    def vector_state(self) -> VectorState:
        """The state of the whole, which follows from its samplers'."""
        self._take_in_news()
        return self._ledger.vector_state

    def _take_in_news(self) -> None:
        if not self._ledger.closed and self._guard.is_owner:
            self._dispatcher.take_in_news()

    @property
    def observation_space(self) -> Any:
        """The observation space that all samplers share.

        Where samplers' spaces differ in their bounds, it is the smallest one that contains them.

        Raises:
            InvalidArgument: the vector is heterogeneous; ``observation_spaces`` has one a sampler.
        """
        if self._heterogeneous:
            raise InvalidArgument(
                "observation_space: the vector was made with heterogeneous=True; "
                "observation_spaces has one a sampler."
            )
        return self._observation_space

    @property
    def observation_spaces(self) -> list[Any]:
        """The observation space of each unpaused sampler."""
        return [self._observation_spaces[i] for i in self._ledger.unpaused]

    @property
    def action_spaces(self) -> list[Any]:
        """The action space of each unpaused sampler."""
        return [self._action_spaces[i] for i in self._ledger.unpaused]

    def stats(self) -> dict[str, Any]:
        """Counts since the start and, with ``timing=True``, where the time goes.

        Returns:
            ``steps`` of samplers, ``episodes`` ended, worker ``restarts``. With timing also, of the
            time since the first of the last 1024 steps that were timed: ``steps_per_s``, of all
            steps; ``latency_s``, for each sampler id the ``p50``, ``p95`` and ``p99`` of a timed
            step in its worker; ``time_s``, the seconds of that ``window`` in which this process was
            ``waiting``, and those that all workers together were ``in_tasks`` and that results were
            ``copying``, estimated by the timed steps; ``stragglers``, ids of samplers whose mean
            timed step takes over twice the median's, slowest first. And since the start:
            ``lane_bytes``, by ``slab``, by ``notes`` (infos and what else is pickled into shared
            memory) and by ``pipe``; ``off_slab``, names of observation leaves that have no array.
        """
        counts = {
            "steps": self._num_steps,
            "episodes": self._num_episodes,
            "restarts": self._dispatcher.restarts,
        }
        if not isinstance(self._dispatcher, TimedDispatcher):
            return counts
        return {
            **counts,
            **figures(self._board, len(self.sampler_fn_args)),
            **self._dispatcher.traffic(self._num_steps),
        }

    @exclusive
    def trace(self, path: str | os.PathLike[str], steps: int = 100) -> None:
        """Write a timeline of the last steps, for ui.perfetto.dev or chrome://tracing.

        With ``timing=True`` it has holes where steps are short: not all of them are timed there.
        With ``timing="all"`` they are.

        Args:
            path: of the JSON file, which is overwritten.
            steps: how many timed ones; 1024 are kept at most.

        Raises:
            InvalidArgument: the vector was not made with ``timing=True``.
        """
        if not self._board.is_timed:
            raise InvalidArgument("trace: nothing was recorded; make the vector with timing=True.")
        write_trace(self._board, path, whole_number("steps", steps, at_least=1))

    # -- stepping -----------------------------------------------------------------------------

    @exclusive
    def async_step(self, actions: Any) -> None:
        """Send one action to each unpaused sampler and return at once; :meth:`wait_step` collects.

        Args:
            actions: one action a sampler: a list, an array or tensor whose first axis is the
                samplers, or, for nested spaces, a dict or tuple of these.

        Raises:
            WrongCount: not one action a sampler; nothing was sent.
            InvalidAction: an action is outside its space; nothing was sent.
        """
        self._require_idle("async_step")
        self._begin_step(actions, as_batch=False, to_hand_out=True)

    @exclusive
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
        outcomes = self._collect_step(ids, self._timeout(timeout))
        return [as_given(outcomes[i]) for i in ids]

    @exclusive
    def step(self, actions: Any) -> list[RLStepResult]:
        """Step every unpaused sampler: :meth:`async_step` and :meth:`wait_step` in one."""
        self.async_step(actions)
        return self.wait_step()

    @_takes_index_process
    @exclusive
    def step_at(self, sampler_index: int, action: Any) -> list[RLStepResult]:
        """Step one sampler; a list of its one result."""
        self._require_idle("step_at")
        ids = [self._ledger.id_at(sampler_index)]
        self._require(Command.STEP, ids)
        self._dispatcher.send_step(ids, self._prepared(ids, [action]), as_batch=False)
        self._ledger.step_ids = ids
        return self.wait_step()

    def step_async(self, actions: Any) -> None:
        """Another name of :meth:`async_step`."""
        self.async_step(actions)

    def step_wait(self, timeout: float | None = None) -> list[RLStepResult]:
        """Another name of :meth:`wait_step`."""
        return self.wait_step(timeout)

    @exclusive
    def step_batch(
        self, actions: Any, out: StepBatch | None = None, copy: bool = True
    ) -> StepBatch:
        """Step every unpaused sampler; the results as arrays, which nobody has to stack.

        Args:
            actions: as for :meth:`async_step`.
            out: write into the arrays of this batch (from an earlier call) instead of new ones.
            copy: True: the arrays are the caller's and never change. False: they are valid until
                the second following step, so that holding more of them costs no more memory.

        Raises:
            LayoutError: an observation does not fit its space, or a reward is a list; its sampler
                is FAILED, the others went on.
        """
        batch = self._step_batch(actions, out, copy)
        return batch.as_batch() if isinstance(batch, PlainStep) else batch

    def _step_for_trainer(self, actions: Any) -> PlainStep | StepBatch:
        """The same for adapters, which make what their trainer wants of a plain step."""
        guard = self._guard
        guard.enter("step")  # in fewer steps than exclusive() takes
        try:
            return self._step_batch(actions, None, True)
        finally:
            guard.leave()

    def _step_batch(self, actions: Any, out: StepBatch | None, copy: bool) -> PlainStep | StepBatch:
        if self._steps_here:
            return self._step_here(actions, out, copy)
        self._require_idle("step_batch")
        self._require_batches("step_batch")
        if out is not None:
            self._dispatcher.check_out(out, len(self._ledger.unpaused))
        ids = self._begin_step(
            actions,
            as_batch=self.auto_resample_when_done,
            to_hand_out=self.auto_resample_when_done and out is None,
        )
        if self.auto_resample_when_done:
            self._dispatcher.wait_step(ids, len(ids), self.read_timeout)
            self._ledger.step_ids = None
            return self._counted(ids, self._dispatcher.take_batch(ids, out, copy))
        outcomes = self._collect_step(ids, self.read_timeout)
        batch = self._dispatcher.batch_of(outcomes, out, copy)  # the outcomes were counted already
        if isinstance(batch, dict):
            self._raise_failures(ids, Command.STEP, batch)
            raise AssertionError("a batch is given as outcomes only if one of them failed")
        return batch

    @exclusive
    def send(self, actions: Any, samplers: Sequence[int] | None = None) -> None:
        """Begin a step of some samplers; :meth:`recv` gives back whichever are ready first.

        Args:
            actions: one action for each of ``samplers``.
            samplers: their ids (None: every unpaused sampler that is not out).

        Raises:
            SamplerIndexError: ``samplers`` are not ids of unpaused samplers, each once.
            WrongCount: there are more or fewer actions than samplers.
            InvalidArgument: samplers wait for each other, or the vector is heterogeneous.
        """
        if self._ledger.step_ids is not None or self._ledger.closed:
            self._ledger.require_idle("send")
        if self._board.call_came():
            self._tell()
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
            ids = checked_ids("send", samplers, unpaused, "unpaused samplers")
        self._require(Command.STEP, ids)
        prepared = self._prepared(ids, actions)
        self._dispatcher.send_step(ids, prepared, as_batch=True, one_by_one=True)
        self._ledger.sent.update(ids)

    @exclusive
    def recv(self, min_samplers: int | None = None, timeout: float | None = None) -> StepBatch:
        """The steps of the ``min_samplers`` samplers that were ready first, in id order.

        Args:
            min_samplers: so many rows exactly (None: all that are out).
            timeout: seconds to wait for them (None: ``read_timeout``).

        Raises:
            NothingPending: nothing is out.
            InvalidArgument: ``min_samplers`` is less than 1, or more than are out.
            WaitTimeout: fewer are ready; calling again is allowed and loses nothing.
        """
        sent = sorted(self._ledger.sent)
        if self._ledger.closed:
            self._ledger.require_idle("recv")
        if not sent:
            raise NothingPending("recv: no step is out; call send(actions) first.")
        count = len(sent) if min_samplers is None else min_samplers
        if not is_whole_number(count) or not 1 <= count <= len(sent):
            raise InvalidArgument(
                f"recv: min_samplers must be an integer from 1 to {len(sent)}, the number of "
                f"samplers that are out, got {min_samplers!r} ({type(min_samplers).__name__})."
            )
        count = int(count)
        self._dispatcher.wait_step(sent, count, self._timeout(timeout))
        ids = self._dispatcher.earliest(sent, count)
        self._ledger.sent.difference_update(ids)
        return self._counted(ids, self._dispatcher.take_batch(ids, None, True))

    # -- tasks --------------------------------------------------------------------------------

    @exclusive
    def next_task(self, **kwargs: Any) -> list[Any]:
        """Go on to every unpaused sampler's next task; their first observations.

        Keywords go to each sampler's ``next_task``. The observation of a sampler that has no next
        task is None, and the sampler is EXHAUSTED.
        """
        ids = self._open_all("next_task", Command.NEXT_TASK)
        starts = self._ask(Command.NEXT_TASK, ids, [kwargs] * len(ids))
        return [starts[i].observation for i in ids]

    @_takes_index_process
    @exclusive
    def next_task_at(self, sampler_index: int, **kwargs: Any) -> list[Any]:
        """Go on to one sampler's next task, also if it failed; a list of its first observation."""
        sampler_id = self._open_at("next_task_at", sampler_index, Command.NEXT_TASK)
        return [self._ask(Command.NEXT_TASK, [sampler_id], [kwargs])[sampler_id].observation]

    @exclusive
    def get_observations(self) -> list[Any]:
        """The current observation of every unpaused sampler; None where it is exhausted."""
        ids = self._open_all("get_observations", Command.OBSERVE)
        return self._ask_list(Command.OBSERVE, ids)

    @exclusive
    def reset_all(self) -> None:
        """Reset every unpaused sampler, except its random state, and sample its first task."""
        ids = self._open_all("reset_all", Command.RESET)
        self._ask(Command.RESET, ids, [None] * len(ids))

    @exclusive
    def set_seeds(self, seeds: int | Sequence[int]) -> None:
        """Seed the tasks that are sampled from now on.

        Args:
            seeds: one seed an unpaused sampler, or one int: each sampler gets it plus its id.
        """
        ids = self._open_all("set_seeds", Command.SEED)
        if isinstance(seeds, (int, np.integer)):
            values = [int(seeds) + i for i in ids]
        else:
            values = [checked_seed(seed) for seed in one_each("seeds", seeds, ids)]
        self._ask(Command.SEED, ids, values)

    @_takes_index_process
    @exclusive
    def restart_at(self, sampler_index: int) -> None:
        """Make one sampler anew, whatever its state; it starts a first task, seeded onward.

        Where its worker is dead, or busy with something that nobody waits for, the whole worker is
        begun anew, with all its samplers.
        """
        self._require_idle("restart_at")
        sampler_id = self._ledger.id_at(sampler_index)
        self._dispatcher.await_restarts([sampler_id], self._start_timeout_s)
        if self._ledger.state_of(sampler_id) is SamplerState.BUSY:
            self._dispatcher.replace_worker(sampler_id)
        self._require(Command.SETUP, [sampler_id])
        plan = self._dispatcher.next_plan(sampler_id)
        self._ask(Command.SETUP, [sampler_id], [plan])

    # -- pausing ------------------------------------------------------------------------------

    @_takes_index_process
    @exclusive
    def pause_at(self, sampler_index: int) -> None:
        """Leave a sampler out until :meth:`resume_all`; later indices shift down by one."""
        self._require_idle("pause_at")
        sampler_id = self._ledger.id_at(sampler_index)
        self._dispatcher.await_restarts([sampler_id], self._start_timeout_s)
        self._ledger.pause(sampler_id)
        self._tell()

    @exclusive
    def resume_all(self) -> None:
        """Bring every paused sampler back, in the original order."""
        self._require_idle("resume_all")
        self._ledger.resume_all()
        self._tell()

    # -- reaching into tasks and samplers -------------------------------------------------------

    @exclusive
    def command(
        self,
        commands: str | Command | Sequence[str | Command],
        data_list: Sequence[Any] | None = None,
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
        kinds = [command_named(item) for item in one_each("commands", commands, ids)]
        data = [None] * len(ids) if data_list is None else one_each("data_list", data_list, ids)
        for sampler_id, kind in zip(ids, kinds, strict=True):
            self._require(kind, [sampler_id])
        return self._command(ids, kinds, data)

    @_takes_index_process
    @exclusive
    def command_at(self, sampler_index: int, command: str | Command, data: Any = None) -> Any:
        """Send a command to one sampler; its answer. Commands and data as for :meth:`command`."""
        kind = command_named(command)
        sampler_id = self._open_at("command_at", sampler_index, kind)
        return self._command([sampler_id], [kind], [data])[0]

    @exclusive
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
    @exclusive
    def call_at(self, sampler_index: int, function_name: str, function_args: Any = None) -> Any:
        """Call a method of one sampler's task; what it returned. Arguments as for :meth:`call`."""
        return self._call_at("call_at", sampler_index, Command.CALL, function_name, function_args)

    @exclusive
    def call_sampler(
        self,
        function_names: str | Sequence[str],
        function_args_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Call a method of every unpaused sampler itself. Arguments as for :meth:`call`."""
        return self._call_all(
            "call_sampler", Command.CALL_SAMPLER, function_names, function_args_list
        )

    @_takes_index_process
    @exclusive
    def call_sampler_at(
        self, sampler_index: int, function_name: str, function_args: Any = None
    ) -> Any:
        """Call a method of one sampler itself; what it returned. Arguments as for :meth:`call`."""
        return self._call_at(
            "call_sampler_at", sampler_index, Command.CALL_SAMPLER, function_name, function_args
        )

    @exclusive
    def attr(self, attr_names: str | Sequence[str]) -> list[Any]:
        """An attribute of every unpaused sampler's task.

        Raises:
            TaskError: (also an AttributeError) there is none of this name.
        """
        ids = self._open_all("attr", Command.ATTR)
        return self._ask_list(Command.ATTR, ids, self._names("attr_names", attr_names, ids))

    @_takes_index_process
    @exclusive
    def attr_at(self, sampler_index: int, attr_name: str) -> Any:
        """An attribute of one sampler's task."""
        sampler_id = self._open_at("attr_at", sampler_index, Command.ATTR)
        return self._ask(Command.ATTR, [sampler_id], [checked_name(attr_name)])[sampler_id]

    @exclusive
    def set_attr(self, attr_names: str | Sequence[str], values: Any) -> None:
        """Set an attribute of every unpaused sampler's task.

        Args:
            attr_names: one name for all, or one a sampler.
            values: a list has one value for each sampler; anything else is the value of all.

        Raises:
            WrongCount: a list has more or fewer values than there are samplers; for the same list
                everywhere, give ``[values] * num_unpaused_tasks``.
        """
        ids = self._open_all("set_attr", Command.SET_ATTR)
        names = self._names("attr_names", attr_names, ids)
        if not isinstance(values, list):
            values = [values] * len(ids)
        pairs = list(zip(names, one_each("values", values, ids), strict=True))
        self._ask(Command.SET_ATTR, ids, pairs)

    # -- having an episode again ----------------------------------------------------------------

    @_takes_index_process
    @exclusive
    def recording_at(self, sampler_index: int) -> Recording:
        """What one sampler's episode was so far; saved, ``vectasks replay`` has it again.

        Allowed while a step is out: of a task that hangs, say.
        """
        return self._journal.recording(self._ledger.id_at(sampler_index))

    @property
    def restart_recordings(self) -> Recordings:
        """The episodes that deaths cut off whose workers were begun anew; a sampler's last one.

        By sampler id, of all samplers of such a worker: ``save(path)``, and ``vectasks replay``
        has them again. Empty without ``on_worker_death="restart"``.
        """
        return Recordings(self._journal.interruptions)

    @exclusive
    def record_episodes(
        self,
        samplers: Sequence[int] | None = None,
        *,
        observations: bool = False,
        max_episodes: int | None = 100,
    ) -> EpisodeRecorder:
        """Keep every episode that ends, for replay: ``with tasks.record_episodes() as recorder:``.

        Args:
            samplers: ids of the samplers to record (None: all of them).
            observations: keep copies of the observations, so that a replay compares them too;
                rewards and ends of episodes are always compared.
            max_episodes: how many are kept, the latest ones (None: all).

        Returns:
            A recorder: ``recorder.recordings`` holds the ended episodes, whole ones also where they
            began before; leaving the ``with`` block, or ``recorder.close()``, ends it.

        Raises:
            SamplerIndexError: there is no sampler of such an id.
        """
        everyone = range(len(self.sampler_fn_args))
        ids = list(everyone)
        if samplers is not None:
            ids = checked_ids("record_episodes", samplers, everyone, "samplers")
        if max_episodes is not None:
            max_episodes = whole_number("max_episodes", max_episodes)
        return EpisodeRecorder(self._journal, ids, observations, max_episodes)

    # -- seeing -------------------------------------------------------------------------------

    @exclusive
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
            *args: go to each task's ``render`` after its own mode, "rgb".
            **kwargs: go there too.

        Raises:
            InvalidArgument: the mode is none of these, or a task's image cannot be shown.
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
        from vectasks.rendering.tiles import as_rgb, tile_images

        images = {i: as_rgb(image, f"the image of sampler {i}") for i, image in images.items()}
        tile = tile_images(
            [images.get(i) for i in range(len(self.sampler_fn_args))],
            dimmed=[i for i in range(len(self.sampler_fn_args)) if i not in ids],
        )
        if mode == "rgb_array":
            return tile
        from vectasks.rendering.window import show

        show(tile)
        return None


class VectorSampledTasks(BaseVectorSampledTasks):
    """Samples tasks in parallel: worker processes own the task samplers, this object steps them.

    Args:
        make_sampler_fn: makes a task sampler; any callable that cloudpickle can carry. It is
            called in the worker, with one of ``sampler_fn_args`` as keywords, and with ``mp_ctx``
            if it has a parameter of that name.
        sampler_fn_args: one dict of keywords a sampler; they are never changed.
        callback_sensors: a suite with ``get_observations(env, task)``, or a sequence of sensors
            with ``uuid`` and ``get_observation(env, task)``, asked when an episode ends; the
            answer is in ``info["__AFTER_TASK_CALLBACK__"]``.
        auto_resample_when_done: go on to the next task in the step that ends one; otherwise a done
            sampler waits until all are done (or ``next_task`` is called).
        multiprocessing_start_method: "forkserver", "spawn" or "fork".
        mp_ctx: a context of ``multiprocessing`` or ``torch.multiprocessing``, instead of that.
        should_log: log what is started.
        max_processes: so many workers at most, the samplers spread evenly (None: one each).
        read_timeout: seconds that every call waits for its answers (None: without end).
        seed: seeds the very first tasks: one a sampler, or one int: each gets it plus its id.
        heterogeneous: allow samplers whose observation spaces differ in more than their bounds;
            their results are no arrays then.
        check_actions: refuse actions outside the action space.
        observation_transport: "auto", "slab" (shared memory) or "pipe".
        on_worker_death: "raise" WorkerDied, or "restart" the worker.
        max_restarts: how many restarts within any five minutes, all workers together; a death
            beyond them, or of a worker that is being set up, is raised after all.
        preload: modules that the forkserver imports before it forks the first worker.
        rerun_main: let workers import the script that is ``__main__`` again, as CPython does.
        start_timeout_s: seconds for the start of all workers together.
        close_grace_s: seconds that the workers have to close their tasks.
        daemon: make workers daemonic; they may then start no processes of their own.
        timing: record how long everything takes, for :meth:`stats` and :meth:`trace`. Where steps
            are short, True records some of them, which slows none; "all" records every one.
        name: what ``vectasks top --name`` finds it by.

    Raises:
        InvalidArgument: an argument has a value that it cannot take.
        SetupError: a sampler could not be made or has no first task; nothing is left running.
        ResourceLimit: there are too few descriptors for so many workers; nothing was started.
    """

    @also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
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
        timing: bool | Literal["all"] = False,
        name: str | None = None,
    ) -> None:
        if max_processes is not None:
            max_processes = whole_number("max_processes", max_processes, at_least=1)
        context = start_context(multiprocessing_start_method, mp_ctx, preload)

        def make_workers(
            seeds: Sequence[int | None], memory: SharedMemory | None
        ) -> Sequence[Worker]:
            count = len(seeds)
            num_workers = count if max_processes is None else min(max_processes, count)
            require_descriptors(num_workers)
            return [
                ProcessWorker(
                    number,
                    ids.tolist(),
                    context,
                    memory=memory,
                    seeds=[seeds[i] for i in ids],
                    daemon=daemon,
                    rerun_main=rerun_main,
                )
                for number, ids in enumerate(np.array_split(np.arange(count), num_workers))
            ]

        super().__init__(
            make_sampler_fn=make_sampler_fn,
            sampler_fn_args=sampler_fn_args,
            callback_sensors=callback_sensors,
            auto_resample_when_done=auto_resample_when_done,
            should_log=should_log,
            read_timeout=read_timeout,
            seed=seed,
            heterogeneous=heterogeneous,
            check_actions=check_actions,
            observation_transport=observation_transport,
            on_worker_death=on_worker_death,
            max_restarts=max_restarts,
            start_timeout_s=start_timeout_s,
            close_grace_s=close_grace_s,
            timing=timing,
            name=name,
            mp_ctx=context,
            multiprocessing_start_method=context.get_start_method(),
            make_workers=make_workers,
            shares_memory=True,
        )


class SingleProcessVectorSampledTasks(BaseVectorSampledTasks):
    """The twin of :class:`VectorSampledTasks` in this process: same interface, no processes.

    For debugging, and for tasks that cost less than waking a process. Arguments are those of
    :class:`VectorSampledTasks`; the ones that only processes need are accepted and ignored.
    """

    @also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
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
        timing: bool | Literal["all"] = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            make_sampler_fn=make_sampler_fn,
            sampler_fn_args=sampler_fn_args,
            callback_sensors=callback_sensors,
            auto_resample_when_done=auto_resample_when_done,
            should_log=should_log,
            read_timeout=read_timeout,
            seed=seed,
            heterogeneous=heterogeneous,
            check_actions=check_actions,
            observation_transport=observation_transport,
            on_worker_death=on_worker_death,
            max_restarts=max_restarts,
            start_timeout_s=start_timeout_s,
            close_grace_s=close_grace_s,
            timing=timing,
            name=name,
            mp_ctx=None,
            multiprocessing_start_method=None,
            make_workers=lambda seeds, _: [InlineWorker(0, range(len(seeds)))],
            shares_memory=False,
        )
