"""The front without its public methods: construction, asking, the way of a step, and the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.answers import REACHING, as_given, raise_failures, remote_error
from vectasks.arguments import (
    checked_keywords,
    checked_name,
    checked_sampler_args,
    checked_seed,
    name_and_data,
    one_each,
    one_seed_each,
)
from vectasks.batch import StepBatch
from vectasks.closing import Closable
from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    RemoteError,
    SamplerUnavailable,
    WorkerDied,
)
from vectasks.guard import Guard, exclusive
from vectasks.host import HostPlan, HostReady
from vectasks.journal import KEPT
from vectasks.ledger import Ledger, SamplerState
from vectasks.messages import Command, Failure, StepOutcome, TaskStart
from vectasks.restarts import Death
from vectasks.spaces import (
    action_batch,
    dispatch_rows,
    prepare_action,
    spaces_equal,
    split_actions,
)
from vectasks.step_dispatch import StepDispatcher
from vectasks.task import RLStepResult
from vectasks.timing import TimedDispatcher
from vectasks.workers.base import Worker
from vectasks.workers.blocks import Block
from vectasks.workers.board import Board
from vectasks.workers.layout import Layout
from vectasks.workers.memory import SharedMemory
from vectasks.workers.slab import DONE

logger: logging.Logger = logging.getLogger("vectasks")


class _JointResample(NamedTuple):
    """A step whose results wait for the next tasks of all samplers."""

    outcomes: dict[int, StepOutcome]
    running: list[int]


def _resampled(outcome: StepOutcome, start: TaskStart) -> StepOutcome:
    """The outcome of the step in which a sampler and its mates went on to their next tasks."""
    info = {**(outcome.info or {}), "final_observation": outcome.observation, "resampled": True}
    return outcome._replace(
        observation=start.observation, done=True, info=info, exhausted=start.exhausted
    )


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
        max_restarts: int,
        start_timeout_s: float | None,
        close_grace_s: float,
        mp_ctx: BaseContext | None,
        multiprocessing_start_method: str | None,
        timing: bool,
        name: str | None,
        make_workers: Callable[[int, SharedMemory | None], Sequence[Worker]],
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
        self._shared_action_space: Any = None  # the one of all samplers, if they share one
        self._joint: _JointResample | None = None
        self._num_steps = 0
        self._num_episodes = 0
        self._ledger = Ledger(count)
        self._transport = observation_transport
        uses_slab = shares_memory and observation_transport != "pipe" and not heterogeneous
        memory = SharedMemory() if uses_slab else None
        try:
            workers = make_workers(count, memory)
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

    def _open_board(self, timing: bool, name: str | None) -> None:
        workers = self._dispatcher.workers
        self._board = Board(
            [worker.sampler_ids for worker in workers], timed=timing, name=name or "vectasks"
        )
        if isinstance(self._dispatcher, TimedDispatcher):
            self._dispatcher.record_spans(self._board)
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
            self._board.show_tickets(self._dispatcher.tickets_at())

    # -- the way of a step ------------------------------------------------------------------

    def _begin_step(
        self,
        actions: Any,
        *,
        as_batch: bool,
        to_hand_out: bool = False,
        into: tuple[Block, int] | None = None,
    ) -> list[int]:
        """Send one action to each unpaused sampler; their ids."""
        ids = self._ledger.unpaused
        prepared = self._prepared(ids, actions)
        self._require(Command.STEP, ids)
        self._dispatcher.send_step(
            ids, prepared, as_batch=as_batch, to_hand_out=to_hand_out, into=into
        )
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

    def _counted(self, ids: Sequence[int], batch: StepBatch | dict[int, Any]) -> StepBatch:
        """The batch, whose steps are counted; or the error of a step that failed."""
        if isinstance(batch, dict):
            self._unwrap(ids, Command.STEP, batch)
            raise AssertionError("a batch is given as outcomes only if one of them failed")
        self._count_rows(ids, batch.reward, batch.done, batch.infos, lambda: batch.observation)
        return batch

    def _count_rows(
        self,
        ids: Sequence[int],
        reward: NDArray[np.float32],
        done: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
        observe: Callable[[], Any],
    ) -> None:
        self._num_steps += len(ids)
        self._num_episodes += int(np.count_nonzero(done))
        self._journal.batch_came(ids, reward, done, infos, observe)

    @exclusive
    def _add_block(self, num_rows: int) -> Block:
        """Further rows beside the slab's, for :meth:`_step_into`; they live while they are held.

        Raises:
            InvalidArgument: this vector's steps cannot be written to rows.
        """
        self._require_idle("RolloutBuffer")
        self._require_batches("RolloutBuffer")
        if not self.auto_resample_when_done:
            raise InvalidArgument(
                "RolloutBuffer: with auto_resample_when_done=False finished samplers wait, which "
                "leaves holes in a rollout; make the vector with auto_resample_when_done=True."
            )
        return self._dispatcher.add_block(num_rows)

    @exclusive
    def _step_into(self, actions: Any, block: Block, index: int) -> dict[int, dict[str, Any]]:
        """Step all samplers, and have what comes of it written to a row of a block.

        Returns:
            the infos that are not empty, by sampler id.

        Raises:
            SamplerUnavailable: one is paused.
        """
        self._require_idle("collect")
        paused = set(range(len(self.sampler_fn_args))).difference(self._ledger.unpaused)
        if paused:
            raise SamplerUnavailable(
                f"collect: samplers {sorted(paused)} are paused, and a rollout buffer has a column "
                "for each; call resume_all() first."
            )
        ids = self._begin_step(actions, as_batch=True, into=(block, index))
        self._dispatcher.wait_step(ids, len(ids), self.read_timeout)
        self._ledger.step_ids = None
        infos, failed = self._dispatcher.take_infos(ids, block, index)
        if failed is not None:
            self._counted(ids, failed)
        slab = block.slab
        self._count_rows(
            ids,
            slab["reward"][index].astype(np.float32),
            (slab["flags"][index] & DONE) != 0,
            [infos.get(i, {}) for i in ids],
            lambda: slab.nest(slab.row(index)),
        )
        return infos

    @property
    def _moves(self) -> int:
        """Counts whatever may have changed a task."""
        return self._dispatcher.moves

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

    def _collect_step(self, ids: Sequence[int], timeout_s: float | None) -> dict[int, StepOutcome]:
        """What the step that is out gave; in lockstep, with the joint resample where it is due.

        Raises:
            WaitTimeout: something is late; the step stays out, and another call collects it.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self._joint is None:
            self._dispatcher.wait_step(ids, len(ids), timeout_s)
            self._ledger.step_ids = None
            outcomes = self._unwrap(ids, Command.STEP, self._dispatcher.take_outcomes(ids))
            running = self._due_for_joint_resample()
            if not running:
                return outcomes
            self._dispatcher.send([(i, Command.NEXT_TASK, None) for i in running])
            self._ledger.step_ids = list(ids)
            self._joint = _JointResample(outcomes, running)
        outcomes, running = self._joint
        self._dispatcher.wait(running, timeout_s, deadline=deadline)
        self._ledger.step_ids = self._joint = None
        starts = self._dispatcher.take(running)
        resampled = {
            i: _resampled(outcome, starts[i]) if isinstance(starts.get(i), TaskStart) else outcome
            for i, outcome in outcomes.items()
        }
        try:
            self._raise_failures(running, Command.NEXT_TASK, starts)
        except (RemoteError, WorkerDied) as error:
            # The step itself is done: what it gave goes with the error.
            error.results = {
                i: as_given(outcome)
                for i, outcome in resampled.items()
                if i not in starts or isinstance(starts[i], TaskStart)
            }
            raise
        return resampled

    def _due_for_joint_resample(self) -> list[int]:
        """In lockstep, once the last running sampler is done: those that go on together."""
        if self.auto_resample_when_done:
            return []
        running = [
            i for i in self._ledger.unpaused if self._ledger.state_of(i) is SamplerState.READY
        ]
        return running if self._ledger.waiting.issuperset(running) else []

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
        with self._guard("close"):
            failures = self._end()
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

    def _command(
        self, ids: Sequence[int], kinds: Sequence[Command], data: Sequence[Any]
    ) -> list[Any]:
        """Any commands, and their answers as the named methods give them."""
        orders: list[tuple[int, Command, Any]] = []
        for sampler_id, kind, datum in zip(ids, kinds, data, strict=True):
            if kind is Command.STEP:
                (action,) = dispatch_rows(self._prepared([sampler_id], [datum]))
                orders.append((sampler_id, kind, action))
            elif kind in REACHING and kind not in (Command.ATTR, Command.SAMPLER_ATTR):
                orders.append((sampler_id, kind, name_and_data(kind, datum)))
            elif kind is Command.NEXT_TASK:
                orders.append((sampler_id, kind, checked_keywords(datum)))
            elif kind is Command.SEED:
                orders.append((sampler_id, kind, checked_seed(datum)))
            elif kind in REACHING:
                orders.append((sampler_id, kind, checked_name(datum)))
            else:
                orders.append((sampler_id, kind, datum))
        values = self._ask_prepared(orders)
        running = self._due_for_joint_resample() if Command.STEP in kinds else []
        if running:
            starts = self._ask(Command.NEXT_TASK, running, [None] * len(running))
            for i in set(running).intersection(ids):
                if isinstance(values[i], StepOutcome):
                    values[i] = _resampled(values[i], starts[i])
        return [as_given(values[i]) for i in ids]

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
        return self.read_timeout if timeout_s is None else timeout_s

    def _names(self, what: str, names: str | Sequence[str], ids: Sequence[int]) -> list[str]:
        if isinstance(names, str):
            return [names] * len(ids)
        return [checked_name(name) for name in one_each(what, names, ids)]
