"""The public methods of a vector, the same wherever its samplers live."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import checked_ids, seconds_or_none, whole_number
from vectasks._util.closing import Closable
from vectasks.batch import StepBatch
from vectasks.errors import InvalidArgument
from vectasks.monitoring.stats import write_trace
from vectasks.protocol import Command, Failure, SamplerState, VectorState
from vectasks.replay.episode_log import EpisodeRecorder
from vectasks.replay.recording import Recording, Recordings
from vectasks.task import RLStepResult
from vectasks.vector.arguments import checked_name, command_named
from vectasks.vector.exclusive import Guard, also_named, exclusive
from vectasks.vector.options import VectorOptions
from vectasks.vector.places import Place
from vectasks.vector.results import remote_error
from vectasks.vector.setup import Core, logger
from vectasks.vector.stepping import OUTCOMES, OUTCOMES_TO_HAND_OUT

__all__ = ["BaseVectorSampledTasks"]

_takes_index_process = also_named(index_process="sampler_index")


class BaseVectorSampledTasks(Closable):
    """Everything that :class:`VectorSampledTasks` and its in-process equal can do.

    Positions named ``sampler_index`` count the *unpaused* samplers from 0; they shift down when a
    sampler before them is paused. ``sampler_ids`` tells which sampler is where. Every method raises
    ``VectorClosed`` after :meth:`close`, ``AlreadyPending`` while a step is out or another thread
    is inside, ``SamplerUnavailable`` where a sampler's state does not allow it, ``TaskError`` where
    the user's code raised, ``WorkerDied`` where a worker ended, and ``WaitTimeout`` when the answer
    takes longer than ``read_timeout`` seconds.
    """

    _holds = "sampler"

    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None,
        options: VectorOptions,
        place: Place,
        multiprocessing_start_method: str | None,
    ) -> None:
        core = self._core = Core(make_sampler_fn, sampler_fn_args, options, place)
        self._guard: Guard = core.guard
        self.make_sampler_fn = make_sampler_fn
        self.sampler_fn_args: list[dict[str, Any]] = core.sampler_fn_args
        self.auto_resample_when_done: bool = options.auto_resample_when_done
        self.multiprocessing_start_method = multiprocessing_start_method
        self.mp_ctx: BaseContext | None = place.mp_ctx
        self._must_be_closed()
        try:
            core.start()
        except BaseException:
            self._end()
            raise
        if options.should_log:
            logger.info("%d samplers in %d workers", core.num_samplers, len(core.requests.workers))

    # -- what it is ---------------------------------------------------------------------------

    @property
    def prepared_tasks(self) -> int:
        """How many next tasks of each sampler are prepared by spares."""
        return self._core.options.prepared_tasks

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._core.states.closed

    @property
    def read_timeout(self) -> float | None:
        """Seconds that every call waits for its answers (None: without end)."""
        return self._core.calls.read_timeout

    @read_timeout.setter
    def read_timeout(self, timeout_s: float | None) -> None:
        self._core.calls.read_timeout = timeout_s

    @property
    def num_unpaused_tasks(self) -> int:
        """The number of unpaused samplers, and of actions that a step takes."""
        return len(self._core.states.unpaused)

    @property
    def sampler_ids(self) -> list[int]:
        """Ids of the unpaused samplers, in order: ``sampler_ids[sampler_index]`` is one's id."""
        return list(self._core.states.unpaused)

    @property
    def sampler_states(self) -> dict[int, SamplerState]:
        """The state of every sampler, by id."""
        self._take_in_news()
        return self._core.states.states

    @property
    def vector_state(self) -> VectorState:
        """The state of the whole, which follows from its samplers'."""
        self._take_in_news()
        return self._core.states.vector_state

    def _take_in_news(self) -> None:
        if not self.is_closed and self._guard.is_owner:
            self._core.usual_steps.settle_if_free()
            self._core.requests.take_in_news()

    @property
    def observation_space(self) -> Any:
        """The observation space that all samplers share.

        Where samplers' spaces differ in their bounds, it is the smallest one that contains them.

        Raises:
            InvalidArgument: the vector is heterogeneous; see ``observation_spaces``.
        """
        if self._core.options.heterogeneous:
            raise InvalidArgument(
                "observation_space: the vector was made with heterogeneous=True; "
                "observation_spaces has one per sampler."
            )
        return self._core.spaces.shared_observation

    @property
    def observation_spaces(self) -> list[Any]:
        """The observation space of each unpaused sampler."""
        return [self._core.spaces.observation[i] for i in self._core.states.unpaused]

    @property
    def action_spaces(self) -> list[Any]:
        """The action space of each unpaused sampler."""
        return [self._core.spaces.action[i] for i in self._core.states.unpaused]

    def stats(self) -> dict[str, Any]:
        """Counts since the start and, with ``timing=True``, where the time goes.

        Returns:
            ``steps`` of samplers, ``episodes`` ended, worker ``restarts``, and whether the ``core``
            is ``"compiled"`` or ``"python"``. With a task source or prepared tasks, ``next_tasks``:
            how many were ``given``, how many were ``awaited`` because they were not ready, and for
            how long, ``awaited_s``, all together. With timing also, of the
            time since the first of the last 1024 steps that were timed: ``steps_per_s``, of all
            steps; ``latency_s``, for each sampler id the ``p50``, ``p95`` and ``p99`` of a timed
            step in its worker; ``time_s``, the seconds of that ``window`` in which this process was
            ``waiting``, and those that all workers together were ``in_tasks`` and that results were
            ``copying``, estimated by the timed steps; ``stragglers``, ids of samplers whose mean
            timed step takes over twice the median's, slowest first. And since the start:
            ``lane_bytes``, by ``slab``, by ``notes`` (infos and what else is pickled into shared
            memory) and by ``pipe``; ``off_slab``, names of observation leaves that have no array.
        """
        return self._core.stats()

    @exclusive("trace")
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
        if not self._core.options.timing:
            raise InvalidArgument("trace: nothing was recorded; make the vector with timing=True.")
        write_trace(self._core.live_stats, path, whole_number("steps", steps, at_least=1))

    # -- stepping -----------------------------------------------------------------------------

    @exclusive("async_step")
    def async_step(self, actions: Any) -> None:
        """Send one action to each unpaused sampler and return at once; :meth:`wait_step` collects.

        Args:
            actions: one action per sampler: a list, an array or tensor whose first axis is the
                samplers, or, for nested spaces, a dict or tuple of these.

        Raises:
            WrongCount: not one action per sampler; nothing was sent.
            InvalidAction: an action is outside its space; nothing was sent.
        """
        self._core.calls.require_idle("async_step")
        self._core.stepping.begin(actions, OUTCOMES_TO_HAND_OUT)

    @exclusive("wait_step")
    def wait_step(self, timeout: float | None = None) -> list[RLStepResult]:
        """Collect what :meth:`async_step` began: one result an unpaused sampler.

        Args:
            timeout: seconds to wait for all of them together (None: ``read_timeout``).

        Raises:
            NothingPending: no step is out.
            WaitTimeout: some samplers are late; calling again is allowed and loses nothing.
        """
        return self._core.stepping.wait_step(self._timeout(timeout))

    def step(self, actions: Any) -> list[RLStepResult]:
        """Step every unpaused sampler: :meth:`async_step` and :meth:`wait_step` in one."""
        results = self._core.usual_steps.step(actions, False)
        return self._step_in_python(actions) if results is None else results

    @exclusive("step")
    def _step_in_python(self, actions: Any) -> list[RLStepResult]:
        self.async_step(actions)
        results = self.wait_step()
        self._core.usual_steps.arm()
        return results

    @_takes_index_process
    @exclusive("step_at")
    def step_at(self, sampler_index: int, action: Any) -> list[RLStepResult]:
        """Step one sampler; a list of its one result."""
        calls = self._core.calls
        ids = [calls.open_at("step_at", sampler_index, Command.STEP)]
        self._core.stepping.begin([action], OUTCOMES, ids)
        return self.wait_step()

    def step_async(self, actions: Any) -> None:
        """Another name of :meth:`async_step`."""
        self.async_step(actions)

    def step_wait(self, timeout: float | None = None) -> list[RLStepResult]:
        """Another name of :meth:`wait_step`."""
        return self.wait_step(timeout)

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
        batch = self._core.usual_steps.step(actions, True, not copy) if out is None else None
        return self._step_batch_in_python(actions, out, copy) if batch is None else batch

    @exclusive("step_batch")
    def _step_batch_in_python(self, actions: Any, out: StepBatch | None, copy: bool) -> StepBatch:
        batch = self._core.stepping.step_batch(actions, out, copy)
        self._core.usual_steps.arm()
        return batch

    @exclusive("send")
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
        self._core.stepping.send(actions, samplers)

    @exclusive("recv")
    def recv(
        self,
        min_samplers: int | None = None,
        timeout: float | None = None,
        *,
        max_samplers: int | None = None,
        max_wait_s: float | None = None,
    ) -> StepBatch:
        """The steps of the samplers that were ready first, in id order.

        Whoever is ready first is received first, so slow samplers are not kept waiting by fast
        ones; what is ready beyond the rows that are given is first in the next call.

        Args:
            min_samplers: wait for so many (None: all that are out; with ``max_samplers``: one). So
                many rows are given exactly, unless ``max_samplers`` or ``max_wait_s`` is.
            timeout: seconds to wait for them (None: ``read_timeout``).
            max_samplers: give up to so many rows, if they are ready.
            max_wait_s: give what is ready after so many seconds, even if it is less than
                ``min_samplers``, or nothing: a batch of no rows. 0: whatever is ready now.

        Raises:
            NothingPending: nothing is out.
            InvalidArgument: ``min_samplers`` is less than 1 or more than are out, ``max_samplers``
                is less than that, or ``max_wait_s`` is negative.
            WaitTimeout: fewer are ready; calling again is allowed and loses nothing.
        """
        timeout_s = self._timeout(timeout)
        return self._core.stepping.recv(min_samplers, timeout_s, max_samplers, max_wait_s)

    def _timeout(self, timeout_s: float | None) -> float | None:
        return self.read_timeout if timeout_s is None else seconds_or_none("timeout", timeout_s)

    # -- tasks --------------------------------------------------------------------------------

    @exclusive("next_task")
    def next_task(self, **kwargs: Any) -> list[Any]:
        """Go on to every unpaused sampler's next task; their first observations.

        Keywords go to each sampler's ``next_task``. The observation of a sampler that has no next
        task is None, and the sampler is EXHAUSTED.
        """
        data = [kwargs] * self.num_unpaused_tasks
        starts = self._core.calls.ask_all("next_task", Command.NEXT_TASK, data)
        return [start.observation for start in starts]

    @_takes_index_process
    @exclusive("next_task_at")
    def next_task_at(self, sampler_index: int, **kwargs: Any) -> list[Any]:
        """Go on to one sampler's next task, also if it failed; a list of its first observation."""
        calls = self._core.calls
        return [calls.ask_at("next_task_at", sampler_index, Command.NEXT_TASK, kwargs).observation]

    @exclusive("get_observations")
    def get_observations(self) -> list[Any]:
        """The current observation of every unpaused sampler; None where it is exhausted."""
        return self._core.calls.ask_all("get_observations", Command.OBSERVE)

    @exclusive("reset_all")
    def reset_all(self) -> None:
        """Reset every unpaused sampler, except its random state, and sample its first task."""
        self._core.calls.ask_all("reset_all", Command.RESET)

    @exclusive("set_seeds")
    def set_seeds(self, seeds: int | Sequence[int]) -> None:
        """Seed the tasks that are sampled from now on.

        Args:
            seeds: one seed an unpaused sampler, or one int: each sampler gets it plus its id.
        """
        self._core.calls.seed_all("set_seeds", seeds)

    @_takes_index_process
    @exclusive("restart_at")
    def restart_at(self, sampler_index: int) -> None:
        """Make one sampler again, whatever its state; it starts a first task, seeded onward.

        Where its worker is dead, or busy with something that nobody waits for, the whole worker is
        restarted, with all its samplers.
        """
        self._core.calls.restart_at("restart_at", sampler_index)

    # -- pausing ------------------------------------------------------------------------------

    @_takes_index_process
    @exclusive("pause_at")
    def pause_at(self, sampler_index: int) -> None:
        """Leave a sampler out until :meth:`resume_all`; later indices shift down by one."""
        core = self._core
        core.states.pause(core.calls.open_any_at("pause_at", sampler_index))
        core.live_view.tell()

    @exclusive("resume_all")
    def resume_all(self) -> None:
        """Bring every paused sampler back, in the original order."""
        self._core.calls.require_idle("resume_all")
        self._core.states.resume_all()
        self._core.live_view.tell()

    # -- reaching into tasks and samplers -------------------------------------------------------

    @exclusive("command")
    def command(
        self,
        commands: str | Command | Sequence[str | Command],
        data_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Send a command to every unpaused sampler; their answers.

        Args:
            commands: one command for all, or one per sampler. Strings as in AllenAct ("step",
                "next_task", "render", "observation_space", "action_space", "call", "call_sampler",
                "attr", "sampler_attr", "reset", "seed") or a ``Command``.
            data_list: one datum per sampler (None: none): an action for "step", keywords for
                "next_task", ``(args, kwargs)`` for "render", ``(name, args)`` for the calls, a name
                for the attributes, a seed for "seed".
        """
        ids, kinds, data = self._core.calls.open_each("command", commands, data_list)
        return self._core.stepping.command(ids, kinds, data)

    @_takes_index_process
    @exclusive("command_at")
    def command_at(self, sampler_index: int, command: str | Command, data: Any = None) -> Any:
        """Send a command to one sampler; its answer. Commands and data as for :meth:`command`."""
        kind = command_named(command)
        sampler_id = self._core.calls.open_at("command_at", sampler_index, kind)
        return self._core.stepping.command([sampler_id], [kind], [data])[0]

    @exclusive("call")
    def call(
        self,
        function_names: str | Sequence[str],
        function_args_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Call a method of every unpaused sampler's task; what each returned.

        Args:
            function_names: one name for all, or one per sampler.
            function_args_list: the arguments for each sampler: positional from a list or tuple, by
                name from a dict, anything else as the one argument (None: no arguments).
        """
        return self._core.calls.call_all("call", Command.CALL, function_names, function_args_list)

    @_takes_index_process
    @exclusive("call_at")
    def call_at(self, sampler_index: int, function_name: str, function_args: Any = None) -> Any:
        """Call a method of one sampler's task; what it returned. Arguments as for :meth:`call`."""
        data = (checked_name(function_name), function_args)
        return self._core.calls.ask_at("call_at", sampler_index, Command.CALL, data)

    @exclusive("call_sampler")
    def call_sampler(
        self,
        function_names: str | Sequence[str],
        function_args_list: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Call a method of every unpaused sampler itself. Arguments as for :meth:`call`."""
        return self._core.calls.call_all(
            "call_sampler", Command.CALL_SAMPLER, function_names, function_args_list
        )

    @_takes_index_process
    @exclusive("call_sampler_at")
    def call_sampler_at(
        self, sampler_index: int, function_name: str, function_args: Any = None
    ) -> Any:
        """Call a method of one sampler itself; what it returned. Arguments as for :meth:`call`."""
        data = (checked_name(function_name), function_args)
        return self._core.calls.ask_at("call_sampler_at", sampler_index, Command.CALL_SAMPLER, data)

    @exclusive("attr")
    def attr(self, attr_names: str | Sequence[str]) -> list[Any]:
        """An attribute of every unpaused sampler's task.

        Raises:
            TaskError: (also an AttributeError) there is none of this name.
        """
        return self._core.calls.attr_all("attr", attr_names)

    @_takes_index_process
    @exclusive("attr_at")
    def attr_at(self, sampler_index: int, attr_name: str) -> Any:
        """An attribute of one sampler's task."""
        name = checked_name(attr_name)
        return self._core.calls.ask_at("attr_at", sampler_index, Command.ATTR, name)

    @exclusive("set_attr")
    def set_attr(self, attr_names: str | Sequence[str], values: Any) -> None:
        """Set an attribute of every unpaused sampler's task.

        Args:
            attr_names: one name for all, or one per sampler.
            values: a list has one value for each sampler; anything else is the value of all.

        Raises:
            WrongCount: a list has more or fewer values than there are samplers; for the same list
                everywhere, give ``[values] * num_unpaused_tasks``.
        """
        self._core.calls.set_attr_all("set_attr", attr_names, values)

    # -- replaying episodes ---------------------------------------------------------------------

    @_takes_index_process
    @exclusive("recording_at")
    def recording_at(self, sampler_index: int) -> Recording:
        """Record one sampler's episode so far; once saved, ``vectasks replay`` replays it.

        Allowed while a step is out: of a task that hangs, say.
        """
        return self._core.log.recording(self._core.states.id_at(sampler_index))

    @property
    def restart_recordings(self) -> Recordings:
        """The episodes that deaths cut off whose workers were restarted; a sampler's last one.

        By sampler id, of all samplers of such a worker: ``save(path)``, and ``vectasks replay``
        replays them. Empty without ``on_worker_death="restart"``.
        """
        return Recordings(self._core.log.interruptions)

    @exclusive("record_episodes")
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
        everyone = range(self._core.num_samplers)
        ids = list(everyone)
        if samplers is not None:
            ids = checked_ids("record_episodes", samplers, everyone, "samplers")
        if max_episodes is not None:
            max_episodes = whole_number("max_episodes", max_episodes)
        self._core.usual_steps.settle_if_free()
        return EpisodeRecorder(self._core.log, ids, observations, max_episodes)

    # -- seeing -------------------------------------------------------------------------------

    @exclusive("render")
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
        return self._core.pictures.render(mode, args, kwargs)

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End every worker; every task and sampler (paused ones too) gets its ``close()``.

        Works from any state, and twice. Workers share one grace period of ``close_grace_s``
        seconds; then they are sent SIGTERM, then SIGKILL.

        Raises:
            TaskError: a task's or a sampler's ``close()`` raised; all is closed all the same.
        """
        if not self._guard.is_owner:
            return  # a fork's copy: the workers are not its own
        self._guard.enter("close")
        try:
            failures = self._end()
        finally:
            self._guard.leave()
        if failures:
            sampler_id, failure = failures[0]
            raise remote_error(sampler_id, "close", failure, [i for i, _ in failures[1:]])

    def _end_all(self) -> list[tuple[int, Failure]]:
        return self._core.close()
