"""What is under the public methods: construction, asking, and the end. Steps: ``step_front``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal

from vectasks.answers import raise_failures, remote_error
from vectasks.arguments import (
    checked_name,
    checked_sampler_args,
    one_each,
    one_seed_each,
    real_number,
    seconds_or_none,
    whole_number_or_inf,
)
from vectasks.closing import Closable
from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    RemoteError,
    SpaceMismatch,
    WorkerDied,
)
from vectasks.guard import Guard
from vectasks.host import HostPlan, HostReady
from vectasks.journal import KEPT
from vectasks.ledger import Ledger
from vectasks.messages import Command, Failure, StepOutcome
from vectasks.restarts import Death
from vectasks.spaces import (
    ActionBatches,
    action_batches,
    are_alike,
    shared_space,
)
from vectasks.step_dispatch import StepDispatcher
from vectasks.task import RLStepResult
from vectasks.timing import TimedDispatcher
from vectasks.workers.base import Worker
from vectasks.workers.board import Board
from vectasks.workers.layout import Layout
from vectasks.workers.memory import SharedMemory

logger: logging.Logger = logging.getLogger("vectasks")


class Front(Closable):
    """Checks what it is given, sends requests to the workers and gathers the replies."""

    _holds = "sampler"

    def __init__(
        self,
        *,
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
        max_restarts: float,
        start_timeout_s: float | None,
        close_grace_s: float,
        mp_ctx: BaseContext | None,
        multiprocessing_start_method: str | None,
        timing: bool | Literal["all"],
        name: str | None,
        make_workers: Callable[[Sequence[int | None], SharedMemory | None], Sequence[Worker]],
        shares_memory: bool,
    ) -> None:
        arguments = checked_sampler_args(make_sampler_fn, sampler_fn_args)
        if observation_transport not in ("auto", "slab", "pipe"):
            raise InvalidArgument(
                f"observation_transport={observation_transport!r} is unknown; "
                "use 'auto', 'slab' or 'pipe'."
            )
        if on_worker_death not in ("raise", "restart"):
            raise InvalidArgument(
                f"on_worker_death={on_worker_death!r} is unknown; use 'raise' or 'restart'."
            )
        if not isinstance(timing, bool) and timing != "all":
            raise InvalidArgument(f"timing={timing!r} is unknown; use False, True or 'all'.")
        read_timeout = seconds_or_none("read_timeout", read_timeout)
        start_timeout_s = seconds_or_none("start_timeout_s", start_timeout_s)
        close_grace_s = real_number("close_grace_s", close_grace_s)
        max_restarts = whole_number_or_inf("max_restarts", max_restarts)
        count = len(arguments)
        seeds = one_seed_each(seed, count)
        self.make_sampler_fn = make_sampler_fn
        self.sampler_fn_args: list[dict[str, Any]] = [dict(a) for a in arguments]
        self.auto_resample_when_done = auto_resample_when_done
        self.multiprocessing_start_method = multiprocessing_start_method
        self.read_timeout = read_timeout
        self._mp_ctx = mp_ctx
        self._check_actions = check_actions
        self._heterogeneous = heterogeneous
        self._start_timeout_s = start_timeout_s
        self._close_grace_s = close_grace_s
        self._guard = Guard(holds_ctrl_c=mp_ctx is not None)
        self._action_batches = ActionBatches(None, check_actions)  # none, until a space is shared
        self._steps_here = False  # whether batches are stepped at once, in this process
        self._num_steps = 0
        self._num_episodes = 0
        self._ledger = Ledger(count)
        self._transport = observation_transport
        uses_slab = shares_memory and observation_transport != "pipe" and not heterogeneous
        memory = SharedMemory() if uses_slab else None
        try:
            workers = make_workers(seeds, memory)
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        self._dispatcher = (TimedDispatcher if timing else StepDispatcher)(
            workers,
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
        self._journal = self._dispatcher.journal
        self._must_be_closed()
        try:
            self._open_board(timing, name)
            self._set_up(count)
            self._tell()
        except BaseException:
            self._end()
            raise
        if should_log:
            logger.info("%d samplers in %d workers", count, len(self._dispatcher.workers))

    def _open_board(self, timing: bool | Literal["all"], name: str | None) -> None:
        workers = self._dispatcher.workers
        self._board = Board(
            [worker.sampler_ids for worker in workers],
            timed=bool(timing),
            name=name or "vectasks",
        )
        if isinstance(self._dispatcher, TimedDispatcher):
            self._dispatcher.record_spans(self._board, every_batch=timing == "all")
            for worker, ring in zip(workers, self._board.rings, strict=False):
                worker.record_spans(ring)

    def _tell(self, error: BaseException | None = None) -> None:
        """Bring the board up to date, for whoever looks."""
        if self._ledger.closed:
            return
        states = self._ledger.states.values()
        pids = [worker.pid or os.getpid() for worker in self._dispatcher.workers]
        self._board.tell(
            self._num_steps, self._num_episodes, self._dispatcher.restarts, list(states), pids
        )
        if error is not None:
            self._board.tell_error(error)

    def _set_up(self, count: int) -> None:
        ids = list(range(count))
        started = self._dispatcher.start(ids, self._start_timeout_s)
        ready: dict[int, HostReady] = self._unwrap(ids, Command.SETUP, started)
        self._observation_spaces = [ready[i].observation_space for i in ids]
        self._action_spaces = [ready[i].action_space for i in ids]
        if not self._heterogeneous:
            self._observation_space = _shared_by_all(self._observation_spaces)
            actions = shared_space(self._action_spaces)
            are_equal = actions is self._action_spaces[0]
            # Of actions that are held against different bounds, each is looked at by itself.
            batches = action_batches if are_equal else ActionBatches
            self._action_batches = batches(actions, self._check_actions)
            layout = Layout.of(
                self._observation_space,
                actions if are_equal else None,
                ready[0].observation,
                count,
                len(self._dispatcher.workers),
            )
            self._dispatcher.open_lane(
                layout, use=self._transport != "pipe", strict=self._transport == "slab"
            )
            self._board.show_tickets(self._dispatcher.tickets_at())
            self._steps_here = self._dispatcher.steps_here and self.auto_resample_when_done

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
        try:
            return self._dispatcher.close(self._close_grace_s)
        finally:
            if "_board" in self.__dict__:  # otherwise there was no memory for it
                self._board.close()
            self._ledger.step_ids = None
            self._ledger.closed = True

    # -- asking -------------------------------------------------------------------------------

    def _require_idle(self, what: str) -> None:
        self._ledger.require_idle(what)
        self._dispatcher.take_in_late()
        if self._board.call_came():
            self._tell()

    def _require(self, command: Command, ids: Sequence[int]) -> None:
        """Refuse ``command`` unless every sampler can take it, once their restarts are over."""
        self._dispatcher.await_restarts(ids, self._start_timeout_s)
        self._ledger.require(command, ids)

    def _open_all(self, what: str, command: Command) -> list[int]:
        """The ids of the unpaused samplers, all of which can take the command."""
        self._require_idle(what)
        self._require(command, self._ledger.unpaused)
        return self._ledger.unpaused

    def _open_at(self, what: str, sampler_index: int, command: Command) -> int:
        """The id of one unpaused sampler, which can take the command."""
        self._require_idle(what)
        sampler_id = self._ledger.id_at(sampler_index)
        self._require(command, [sampler_id])
        return sampler_id

    def _ask(
        self,
        command: Command,
        ids: Sequence[int],
        data: Sequence[Any],
    ) -> dict[int, Any]:
        orders = [(i, command, datum) for i, datum in zip(ids, data, strict=True)]
        return self._ask_prepared(orders, command)

    def _ask_prepared(
        self,
        orders: Sequence[tuple[int, Command, Any]],
        command: Command | None = None,
    ) -> dict[int, Any]:
        """Send, wait and unwrap; what is late after the timeout is dropped when it comes."""
        ids = [sampler_id for sampler_id, _, _ in orders]
        self._dispatcher.send(orders)
        try:
            if command is Command.SETUP:
                self._dispatcher.wait(ids, self._start_timeout_s, "start_timeout_s")
            else:
                self._dispatcher.wait(ids, self.read_timeout)
        except BaseException:
            self._dispatcher.abandon(ids)
            raise
        kinds = {sampler_id: kind for sampler_id, kind, _ in orders}
        values = self._unwrap(ids, command or kinds, self._dispatcher.take(ids))
        for sampler_id, kind, datum in orders:
            if kind is Command.SEED:
                self._dispatcher.amend_plan(sampler_id, seed=datum)
            elif kind is Command.KEEP_FRAMES:
                self._dispatcher.amend_plan(sampler_id, keep_frames=datum)
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
        args_list = one_each("function_args_list", args_list, ids)
        return self._ask_list(command, ids, list(zip(names, args_list, strict=True)))

    def _call_at(
        self, what: str, sampler_index: int, command: Command, name: str, args: Any
    ) -> Any:
        sampler_id = self._open_at(what, sampler_index, command)
        return self._ask(command, [sampler_id], [(checked_name(name), args)])[sampler_id]

    def _count(self, sampler_id: int, outcome: StepOutcome) -> None:
        """Write down what the end of an episode means for the counts and the waiting samplers."""
        info = outcome.info
        waited = sampler_id in self._ledger.waiting
        self._num_steps += not waited
        self._num_episodes += not waited
        if not self.auto_resample_when_done and not (
            isinstance(info, dict) and "worker_restarted" in info
        ):
            self._ledger.waiting.add(sampler_id)

    def _unwrap(
        self, ids: Sequence[int], commands: Command | Mapping[int, Command], values: dict[int, Any]
    ) -> dict[int, Any]:
        """The values by id, counted; or the error that one of them stands for."""
        failed = []
        for i in ids:
            value = values[i]
            if type(value) is RLStepResult:
                self._num_steps += 1
            elif type(value) is StepOutcome:
                self._count(i, value)
            elif isinstance(value, (Failure, Death)):
                failed.append(i)
        if commands is Command.STEP or type(commands) is dict:
            self._journal.answers_came(ids, values)
        if failed:
            self._raise_failures(ids, commands, values)
        return values

    def _raise_failures(
        self, ids: Sequence[int], commands: Command | Mapping[int, Command], values: dict[int, Any]
    ) -> None:
        """Raise the error that the first failure stands for, with what can be replayed of each."""
        failures = {
            i: (commands if isinstance(commands, Command) else commands[i], values[i])
            for i in ids
            if isinstance(values[i], (Failure, Death))
        }
        self._journal.failed(i for i, (command, _) in failures.items() if command in KEPT)
        try:
            raise_failures(ids, commands, values)
        except (LayoutError, RemoteError, WorkerDied) as error:
            error.recordings = self._journal.recordings_of(failures)
            self._tell(error)
            raise

    def _timeout(self, timeout_s: float | None) -> float | None:
        if timeout_s is None:
            return self.read_timeout
        return seconds_or_none("timeout", timeout_s)

    def _names(self, what: str, names: str | Sequence[str], ids: Sequence[int]) -> list[str]:
        if isinstance(names, str):
            return [names] * len(ids)
        return [checked_name(name) for name in one_each(what, names, ids)]


def _shared_by_all(each: Sequence[Any]) -> Any:
    for sampler_id, space in enumerate(each):
        if not are_alike(each[0], space):
            raise SpaceMismatch(
                f"Sampler {sampler_id} has the observation space {space}, sampler 0 has {each[0]}, "
                "and they differ in more than their bounds. Make them equal, or make the vector "
                "with heterogeneous=True."
            )
    return shared_space(each)
