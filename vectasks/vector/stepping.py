"""The way of a step: from actions to results, and what may come in between.

::

    step_batch(actions)
      begin      one action per sampler, inside its space?   may they all step?   else an error,
                                                             and nothing was sent
                 the transport begins the step               samplers are BUSY, the step uncollected
      wait       the transport waits for it                  WaitTimeout: it stays uncollected
      take       the transport hands out what it gave        samplers are READY, EXHAUSTED or FAILED
      results    counted and written down                    or the error of the first that failed

In lockstep (``auto_resample_when_done=False``) the step in which the last sampler finishes is
followed by a joint resample, and its results wait for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vectasks._util.checks import (
    checked_ids,
    checked_seed,
    is_whole_number,
    real_number,
    whole_number,
)
from vectasks.batch import StepBatch
from vectasks.errors import (
    InvalidArgument,
    NothingPending,
    RemoteError,
    WorkerDied,
)
from vectasks.protocol import Command, Failure, SamplerState, StepOutcome, TaskStart
from vectasks.replay.episode_log import EpisodeLog
from vectasks.spaces import ActionBatches, dispatch_rows, prepare_action, split_actions
from vectasks.task import RLStepResult
from vectasks.transport.base import StepTransport
from vectasks.transport.given_batch import check_given
from vectasks.transport.rollout_rows import RolloutRows
from vectasks.transport.step_buffer import DONE, EXHAUSTED
from vectasks.transport.step_results import StepForm, StepResults
from vectasks.vector.arguments import checked_keywords, checked_name, name_and_data
from vectasks.vector.calls import Calls
from vectasks.vector.exclusive import Guard
from vectasks.vector.results import REACHING, Counts, as_given

logger: logging.Logger = logging.getLogger("vectasks")

OUTCOMES = StepForm(as_batch=False)
OUTCOMES_TO_HAND_OUT = StepForm(as_batch=False, to_hand_out=True)
BATCH = StepForm(as_batch=True)
BATCH_TO_HAND_OUT = StepForm(as_batch=True, to_hand_out=True)
ONE_BY_ONE = StepForm(as_batch=True, one_by_one=True)


class _JointResample(NamedTuple):
    """A step whose results wait for the next tasks of all samplers."""

    outcomes: dict[int, StepOutcome]
    running: list[int]


class Spaces(NamedTuple):
    """The samplers' spaces by id, what they share, and what checks actions together.

    Attributes:
        observation, action: one per sampler.
        shared_observation: the smallest space that contains all; None: there is none.
        action_batches: checks all actions together where it can.
    """

    observation: list[Any]
    action: list[Any]
    shared_observation: Any
    action_batches: ActionBatches


def _resampled(outcome: StepOutcome, start: TaskStart) -> StepOutcome:
    """Make the outcome of the step in which a sampler and its mates went on to their next tasks."""
    info = {**(outcome.info or {}), "final_observation": outcome.observation, "resampled": True}
    return outcome._replace(
        observation=start.observation, done=True, info=info, exhausted=start.exhausted
    )


class Stepping:
    """Steps samplers: together, or each when it is ready; results as outcomes or as batches.

    Args:
        calls: says what is allowed, and sends commands other than steps.
        transport: carries the steps.
        log: what is stepped in this very process is written down there.
        counts: of steps and episodes.
        spaces: of the samplers.
        guard: counts the vector's calls.
        check_actions: whether actions outside their space are refused.
        auto_resample: whether samplers go on by themselves when a task is done.
    """

    def __init__(
        self,
        calls: Calls,
        transport: StepTransport,
        log: EpisodeLog,
        counts: Counts,
        spaces: Spaces,
        guard: Guard,
        *,
        check_actions: bool,
        auto_resample: bool,
    ) -> None:
        self._calls = calls
        self._states = calls.states
        self._results = calls.results
        self._transport = transport
        self._log = log
        self._counts = counts
        self._spaces = spaces
        self._guard = guard
        self._check_actions = check_actions
        self._auto_resample = auto_resample
        self._joint: _JointResample | None = None

    # -- begin ------------------------------------------------------------------------------------

    def begin(self, actions: Any, form: StepForm, ids: Sequence[int] | None = None) -> list[int]:
        """Send one action to each unpaused sampler, or to each of ``ids``; their ids."""
        ids, prepared = self._ready(actions, ids)
        self._send(ids, prepared, form)
        is_received = form.one_by_one and form.rows is None
        self._states.begin_step(ids, "recv" if is_received else "wait_step")
        return list(ids)

    def _ready(self, actions: Any, ids: Sequence[int] | None) -> tuple[Sequence[int], Any]:
        """Check that samplers can step; their ids, and their actions as tasks receive them."""
        ids = self._states.unpaused if ids is None else ids
        prepared = self.prepared(ids, actions)
        if not self._states.is_quiet:
            self._calls.require(Command.STEP, ids)
        return ids, prepared

    def prepared(self, ids: Sequence[int], actions: Any) -> Any:
        """Make actions what tasks receive: an array where all are checked together, or a list.

        Raises:
            WrongCount: not one action per sampler.
            InvalidAction: an action is outside its space.
        """
        check, waiting = self._check_actions, self._states.waiting
        batches = self._spaces.action_batches
        if not waiting:
            batch = batches.array(actions, len(ids))
            if batch is not None:
                return batch
        rows = split_actions(actions, batches.space, len(ids))
        return [
            None  # the action of a waiting sampler is ignored
            if i in waiting
            else prepare_action(self._spaces.action[i], action, i, check)
            for i, action in zip(ids, rows, strict=True)
        ]

    def _send(self, ids: Sequence[int], prepared: Any, form: StepForm) -> None:
        owed = self._calls.supervisor.owed
        by_request: list[int] = []
        if owed:  # they were restarted since their last step: this one tells so
            by_request = [i for i in ids if i in owed]
            self._calls.requests.send([(i, Command.STEP, None) for i in by_request])
        try:
            self._transport.begin(ids, prepared, form, by_request)
        except KeyboardInterrupt:
            if self._transport.is_immediate:  # no step stays out
                self._take(ids)
            raise

    # -- wait and take ----------------------------------------------------------------------------

    def _take(self, ids: Sequence[int]) -> dict[int, Any]:
        outcomes = self._transport.take(ids)
        self._states.settle_outcomes(outcomes)
        if self._transport.results is not None:
            self._transport.results.warn_of_detours()
        return outcomes

    def collect(self, ids: Sequence[int], timeout_s: float | None) -> dict[int, StepOutcome]:
        """Wait for a step, in lockstep also for the joint resample where that is due.

        Raises:
            WaitTimeout: something is late; the step stays out, and another call collects it.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        requests, states = self._calls.requests, self._states
        if self._joint is None:
            self._transport.wait(ids, len(ids), timeout_s)
            states.uncollected = None
            outcomes = self._results.unwrap(ids, Command.STEP, self._take(ids))
            running = self._due_for_joint_resample()
            if not running:
                return outcomes
            requests.send([(i, Command.NEXT_TASK, None) for i in running])
            states.begin_step(ids)
            self._joint = _JointResample(outcomes, running)
        outcomes, running = self._joint
        requests.wait(running, timeout_s, deadline=deadline)
        states.uncollected = self._joint = None
        starts = requests.take(running)
        resampled = {
            i: _resampled(outcome, starts[i]) if isinstance(starts.get(i), TaskStart) else outcome
            for i, outcome in outcomes.items()
        }
        try:
            self._results.raise_failures(running, Command.NEXT_TASK, starts)
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
        """Name those that go on together, in lockstep, once the last running sampler is done."""
        if self._auto_resample:
            return []
        states = self._states
        running = [i for i in states.unpaused if states.state_of(i) is SamplerState.READY]
        return running if states.waiting.issuperset(running) else []

    def _take_batch(self, ids: Sequence[int], out: StepBatch | None, copy: bool) -> StepBatch:
        batch = self._transport.take_batch(ids, out, copy)
        self._settle_batch(ids, batch)
        return self._counted(ids, batch)

    def _settle_batch(self, ids: Sequence[int], batch: StepBatch | dict[int, Any]) -> None:
        """Write down that a step came in; what failed is a sampler's step, or fits no batch."""
        if not isinstance(batch, dict):
            self._settle_rows(ids, batch.exhausted)
            return
        self._states.settle_outcomes(batch)
        for i, outcome in batch.items():
            if type(outcome) is Failure:
                self._states.fail(i)

    def _counted(self, ids: Sequence[int], batch: StepBatch | dict[int, Any]) -> StepBatch:
        """Count the steps of a batch; raise the error of the step that failed instead."""
        if isinstance(batch, dict):
            self._results.unwrap(ids, Command.STEP, batch)
            raise AssertionError("a batch is given as outcomes only if one of them failed")
        self._results.count_rows(
            ids, batch.reward, batch.done, batch.infos, lambda: batch.observation
        )
        return batch

    def finish_into(
        self, ids: Sequence[int], rows: RolloutRows, index: int
    ) -> dict[int, dict[str, Any]]:
        """Wait for steps that are written to a rollout row; the infos that are not empty, by id."""
        self._transport.wait(ids, len(ids), self._calls.read_timeout)
        self._states.end_step(ids)
        infos, failed = self._transport.take_rows(ids)
        self.let_go_of_rows()
        step_buffer = rows.step_buffer
        whole = len(ids) == len(self._spaces.action)
        columns: Any = slice(None) if whole else ids
        flags = step_buffer["flags"][index, columns]
        if failed:
            self._settle_batch(ids, failed)
            self._counted(ids, failed)
        self._settle_rows(ids, flags & EXHAUSTED)
        self._results.count_rows(
            ids,
            step_buffer["reward"][index, columns].astype(np.float32),
            (flags & DONE) != 0,
            [infos.get(i, {}) for i in ids],
            lambda: step_buffer.nest(
                [None if a is None else a[index, columns] for a in step_buffer.leaf_arrays]
            ),
        )
        return infos

    def let_go_of_rows(self) -> None:
        """Hold the rows no longer that steps were written to, once none of them is out."""
        if self._transport.results is not None and self._states.uncollected is None:
            self._transport.results.row_sets.in_use = None

    def _settle_rows(self, ids: Sequence[int], exhausted: Any) -> None:
        """Write down that steps came in as rows, and whose was the last."""
        self._states.settle_steps(ids)
        if exhausted.tobytes().strip(b"\0"):
            for i, is_exhausted in zip(ids, exhausted.tolist(), strict=True):
                if is_exhausted:
                    self._states.exhaust(i)

    # -- all together -----------------------------------------------------------------------------

    def wait_step(self, timeout_s: float | None) -> list[RLStepResult]:
        """Collect the step that is out."""
        ids = self._states.uncollected
        if ids is None or self._states.collector != "wait_step":
            if self._states.closed:
                self._states.require_idle("wait_step")
            raise NothingPending("wait_step: no step is out; call async_step(actions) first.")
        outcomes = self.collect(ids, timeout_s)
        return [as_given(outcomes[i]) for i in ids]

    def step_batch(self, actions: Any, out: StepBatch | None, copy: bool) -> StepBatch:
        """Step every unpaused sampler; the results as arrays, or what these are made of."""
        if self._states.is_quiet:  # any command may be given
            self._calls.live_view.call_came()
        else:
            self._calls.require_idle("step_batch")
        rows = self.require_batches("step_batch")
        if out is not None:
            check_given(out, rows.layout, len(self._states.unpaused))
        if self._auto_resample:
            try:
                ids = self.begin(actions, BATCH_TO_HAND_OUT if out is None else BATCH)
                return self.finish_batch(ids, out, copy)
            except KeyboardInterrupt:
                if self._transport.is_immediate:  # no step stays out
                    self.drop(self._states.stepping)
                raise
        ids = self.begin(actions, OUTCOMES)
        outcomes = self.collect(ids, self._calls.read_timeout)  # which counts them
        failures = {i: rows.put(i, outcomes[i]) for i in ids}
        misfits = {i: failure for i, failure in failures.items() if failure is not None}
        if misfits:
            rows.forget(ids)
            for i in misfits:
                self._states.fail(i)
            self._results.raise_failures(ids, Command.STEP, {**outcomes, **misfits})
        return rows.batch(ids, out, copy)

    def finish_batch(
        self, ids: Sequence[int], out: StepBatch | None = None, copy: bool = True
    ) -> StepBatch:
        """Wait for the step that is out, and give it as arrays."""
        self._transport.wait(ids, len(ids), self._calls.read_timeout)
        self._states.uncollected = None
        return self._take_batch(ids, out, copy)

    def drop(self, ids: Sequence[int]) -> None:
        """Take in the step that is out, and drop what it gave."""
        self._states.uncollected = None
        self._take(ids)

    @property
    def action_batches(self) -> ActionBatches:
        """The converter that checks all actions together."""
        return self._spaces.action_batches

    def require_batches(self, what: str) -> StepResults:
        """Refuse ``what`` where samplers share no arrays; where batches are made."""
        if self._transport.results is None:
            raise InvalidArgument(
                f"{what}: samplers of a heterogeneous vector share no arrays; use step()."
            )
        return self._transport.results

    # -- each when it is ready --------------------------------------------------------------------

    def send(self, actions: Any, samplers: Sequence[int] | None) -> None:
        """Begin a step of some samplers, beside those that are out."""
        states = self._states
        if states.closed or states.collector == "wait_step":
            states.require_idle("send")
        self._calls.live_view.call_came()
        self.require_batches("send")
        if not self._auto_resample:
            raise InvalidArgument(
                "send: auto_resample_when_done=False needs all samplers in lockstep; use step() or "
                "step_batch(), or make the vector with auto_resample_when_done=True."
            )
        unpaused = states.unpaused
        if samplers is None:
            out = states.uncollected or ()
            ids = [i for i in unpaused if i not in out]
        else:
            ids = checked_ids("send", samplers, unpaused, "unpaused samplers")
        self.begin(actions, ONE_BY_ONE, ids)

    def recv(
        self,
        min_samplers: int | None,
        timeout_s: float | None,
        max_samplers: int | None = None,
        max_wait_s: float | None = None,
    ) -> StepBatch:
        """Take the steps of the samplers that were ready first."""
        states = self._states
        if states.closed:
            states.require_idle("recv")
        out = states.uncollected if states.collector == "recv" else None
        if not out:
            raise NothingPending("recv: no step is out; call send(actions) first.")
        least = min_samplers
        if least is None:
            least = len(out) if max_samplers is None else 1
        if not is_whole_number(least) or not 1 <= least <= len(out):
            raise InvalidArgument(
                f"recv: min_samplers must be an integer from 1 to {len(out)}, the number of "
                f"samplers that are out, got {min_samplers!r} ({type(min_samplers).__name__})."
            )
        least = most = int(least)
        if max_samplers is not None:
            most = whole_number("recv: max_samplers", max_samplers, at_least=least)
        if max_wait_s is None:
            self._transport.wait(out, least, timeout_s)
        else:
            wait_s = real_number("recv: max_wait_s", max_wait_s)
            if timeout_s is not None and timeout_s < wait_s:
                self._transport.wait(out, least, timeout_s)
            else:
                self._transport.wait(out, least, wait_s, late_is_fine=True)
        ids = self._transport.earliest(out, most)
        states.end_step(ids)
        return self._take_batch(ids, None, True)

    # -- beside other commands --------------------------------------------------------------------

    def command(
        self, ids: Sequence[int], kinds: Sequence[Command], data: Sequence[Any]
    ) -> list[Any]:
        """Give samplers any commands, steps among them; answers as the named methods give them."""
        orders: list[tuple[int, Command, Any]] = []
        for sampler_id, kind, datum in zip(ids, kinds, data, strict=True):
            if kind is Command.STEP:
                (action,) = dispatch_rows(self.prepared([sampler_id], [datum]))
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
        values = self._calls.ask_each(orders)
        running = self._due_for_joint_resample() if Command.STEP in kinds else []
        if running:
            starts = self._calls.ask(Command.NEXT_TASK, running, [None] * len(running))
            for i in set(running).intersection(ids):
                if isinstance(values[i], StepOutcome):
                    values[i] = _resampled(values[i], starts[i])
        return [as_given(values[i]) for i in ids]
