"""The way of a step under the public methods, and of commands, which may be steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.answers import REACHING, as_given
from vectasks.arguments import checked_keywords, checked_name, checked_seed, name_and_data
from vectasks.batch import PlainStep, StepBatch
from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    NothingPending,
    RemoteError,
    SamplerUnavailable,
    WaitTimeout,
    WorkerDied,
)
from vectasks.front import Front, logger
from vectasks.guard import exclusive
from vectasks.ledger import SamplerState
from vectasks.messages import Command, StepOutcome, TaskStart
from vectasks.recording import Recordings
from vectasks.spaces import dispatch_rows, own, prepare_action, split_actions
from vectasks.workers.blocks import Block
from vectasks.workers.slab import DONE


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


class StepFront(Front):
    """Sends actions, and gathers what steps gave: as outcomes, as batches, or in a block's rows.

    In lockstep (``auto_resample_when_done=False``) the step in which the last sampler finishes is
    followed by a joint resample, and its results wait for that.
    """

    _joint: _JointResample | None = None
    #: The number of the next call: nothing has changed before it since a usual step.
    _call_after_usual_step = 0

    def _begin_step(
        self,
        actions: Any,
        *,
        as_batch: bool,
        to_hand_out: bool = False,
        into: tuple[Block, int] | None = None,
        ids: Sequence[int] | None = None,
    ) -> list[int]:
        """Send one action to each unpaused sampler, or to each of ``ids``; their ids."""
        ids, prepared = self._ready_step(actions, ids)
        self._dispatcher.send_step(
            ids, prepared, as_batch=as_batch, to_hand_out=to_hand_out, into=into
        )
        self._ledger.begin_step(ids)
        return list(ids)

    def _ready_step(
        self, actions: Any, ids: Sequence[int] | None = None
    ) -> tuple[Sequence[int], Any]:
        """The unpaused samplers, or those given, all of which can step; and their actions."""
        ids = self._ledger.unpaused if ids is None else ids
        prepared = self._prepared(ids, actions)
        self._require(Command.STEP, ids)
        return ids, prepared

    def _prepared(self, ids: Sequence[int], actions: Any) -> Any:
        """The actions as tasks receive them: an array where all can be checked together, or a list.

        Raises:
            WrongCount: not one action a sampler. InvalidAction: an action outside its space.
        """
        check, waiting = self._check_actions, self._ledger.waiting
        if not waiting:
            batch = self._action_batches.array(actions, len(ids))
            if batch is not None:
                return batch
        rows = split_actions(actions, self._action_batches.space, len(ids))
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

    def _step_here(self, actions: Any, out: StepBatch | None, copy: bool) -> PlainStep | StepBatch:
        """Step the tasks of this process, at once.

        What is looked at before a usual step is kept to few objects: a trainer takes all of them
        out of the caches in between, and tasks may take no more time than that costs.
        """
        ledger, call = self._ledger, self._guard.num_calls
        ids: Sequence[int] = ledger.unpaused
        integers: Sequence[int] | None = None
        if out is None and (call == self._call_after_usual_step or ledger.is_quiet):
            if self._board.call_came():
                self._tell()
            integers = self._action_batches.integers(actions, len(ids))
        if integers is not None:
            given = self._dispatcher.step_here(ids, integers, tuple(integers), None, True)
        else:
            self._require_idle("step_batch")
            if out is not None:
                self._dispatcher.check_out(out, len(ids))
            ids, prepared = self._ready_step(actions)
            rows = dispatch_rows(prepared)  # tasks may write into them, so the journal gets a copy
            given = self._dispatcher.step_here(ids, rows, own(prepared), out, copy)
        if isinstance(given, PlainStep):
            self._num_steps += len(ids)
            self._num_episodes += len(given.ends)
            if not given.ends:  # in which a sampler may be exhausted
                self._call_after_usual_step = call + 1
            return given
        return self._counted(ids, given)

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
        flags = done.tobytes()
        self._num_steps += len(ids)
        self._num_episodes += flags.count(1)
        self._journal.batch_came(ids, reward, flags, infos, observe)

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

    # -- for rollouts: steps into the rows of a block ---------------------------------------------

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
        self._require_every_sampler()
        ids = self._begin_step(actions, as_batch=True, into=(block, index))
        return self._finish_into(ids, block, index)

    @exclusive
    def _send_into(self, ids: Sequence[int], actions: Any, block: Block, index: int) -> None:
        """Begin such a step of some samplers, beside those of others; :meth:`_recv_into` ends it.

        Raises:
            SamplerUnavailable: one of them cannot step; while nothing is out, one of all samplers.
        """
        if self._ledger.step_ids is None:
            self._require_every_sampler()
            self._require(Command.STEP, self._ledger.unpaused)
        self._begin_step(actions, as_batch=True, into=(block, index), ids=ids)

    @exclusive
    def _recv_into(self, ids: Sequence[int], block: Block, index: int) -> dict[int, dict[str, Any]]:
        """Wait for what :meth:`_send_into` began; the infos that are not empty, by sampler id."""
        if not set(ids).issubset(self._ledger.step_ids or ()):
            raise NothingPending(
                f"collect: the step of samplers {list(ids)} is not out any more; the policy must "
                "leave it to collect() to wait for steps."
            )
        return self._finish_into(ids, block, index)

    @exclusive
    def _drop_steps(self, error: BaseException) -> None:
        """After an error amid steps of several groups, take in and drop those that are still out.

        What it was that came too late stays out with all else, as after any step's timeout.

        Raises:
            LayoutError, TaskError, WorkerDied: a step that was out had failed, which is why
                ``error`` says that its sampler cannot step.
        """
        ids = self._ledger.step_ids
        if ids is None or (
            isinstance(error, WaitTimeout) and not set(ids).isdisjoint(error.sampler_ids)
        ):
            return
        try:
            self._collect_step(ids, self.read_timeout)
        except WaitTimeout:
            logger.warning("collect: a step of samplers %s stays out; wait_step() collects it", ids)
        except (LayoutError, RemoteError, WorkerDied) as other:
            if isinstance(error, SamplerUnavailable):
                raise
            if isinstance(error, (LayoutError, RemoteError, WorkerDied)):
                error.recordings = Recordings({**error.recordings, **other.recordings})
        finally:
            self._dispatcher.let_go_of_block()

    def _require_every_sampler(self) -> None:
        """Refuse to step while anything is out, or a sampler is paused."""
        self._require_idle("collect")
        paused = set(range(len(self.sampler_fn_args))).difference(self._ledger.unpaused)
        if paused:
            raise SamplerUnavailable(
                f"collect: samplers {sorted(paused)} are paused, and a rollout buffer has a column "
                "for each; call resume_all() first."
            )

    def _finish_into(
        self, ids: Sequence[int], block: Block, index: int
    ) -> dict[int, dict[str, Any]]:
        self._dispatcher.wait_step(ids, len(ids), self.read_timeout)
        self._ledger.end_step(ids)
        infos, failed = self._dispatcher.take_infos(ids, block, index)
        if failed is not None:
            self._counted(ids, failed)
        slab = block.slab
        columns: Any = slice(None) if len(ids) == len(self.sampler_fn_args) else ids
        self._count_rows(
            ids,
            slab["reward"][index, columns].astype(np.float32),
            (slab["flags"][index, columns] & DONE) != 0,
            [infos.get(i, {}) for i in ids],
            lambda: slab.nest([None if a is None else a[index, columns] for a in slab.leaf_arrays]),
        )
        return infos

    @property
    def _moves(self) -> int:
        """Counts whatever may have changed a task."""
        return self._dispatcher.moves
