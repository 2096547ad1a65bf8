"""Steps by the compiled core, for as long as nothing but such steps happens to a vector.

::

    a step in Python, after which all is quiet   ── arm ──────> the core may step
    step(), step_batch()                         ── step ─────> the core, again and again
    any other call                               ── settle ───> what it did is taken in
    a step that is late, failed or ended         <─ hand_over ─ the core: Python goes on with it

So the core needs to know nothing of states, errors or restarts, and a usual step runs no Python in
this process but the tasks' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vectasks._util.interrupts import ctrl_c
from vectasks.monitoring.live_stats import LiveStats
from vectasks.replay.episode_log import EpisodeLog
from vectasks.transport.base import StepTransport
from vectasks.transport.compiled import core
from vectasks.transport.rollout_rows import RolloutRows
from vectasks.transport.step_buffer import DONE, EXHAUSTED
from vectasks.vector.calls import Calls
from vectasks.vector.exclusive import Guard
from vectasks.vector.results import Counts
from vectasks.vector.stepping import Stepping


def no_usual_step(actions: Any, as_batch: bool, as_views: bool = False) -> Any:
    """Step nobody: the core cannot."""
    return None


class StepHooks(NamedTuple):
    """The parts of a vector that the compiled core is given.

    Attributes:
        entries: of the episode log; it appends one for each step.
        called: float64 [1]: when the last call came.
        lock: lets one thread in.
        hand_over: goes on in Python with a step that is out.
        read_unusual: gives the results where more than arrays belongs to some steps.
        cut_off: called when Ctrl-C passes through a step of tasks in this process.
    """

    entries: list[Any]
    called: Any
    lock: Any
    hand_over: Callable[[int, dict[int, Any]], Any]
    read_unusual: Callable[[Any, int, Any, list[int], dict[int, Any], int], Any]
    cut_off: Callable[[], None]


class UsualSteps:
    """Arms the compiled core, and takes in what it did.

    Args:
        stepping: the way of a step in Python.
        calls: says what is allowed.
        transport: carries the steps.
        log: of the episodes.
        counts: of steps and episodes.
        live_stats: are told of calls.
        guard: of the vector.
        auto_resample: whether samplers go on by themselves when a task is done.
    """

    def __init__(
        self,
        stepping: Stepping,
        calls: Calls,
        transport: StepTransport,
        log: EpisodeLog,
        counts: Counts,
        live_stats: LiveStats,
        guard: Guard,
        *,
        auto_resample: bool,
    ) -> None:
        self._stepping = stepping
        self._calls = calls
        self._states = calls.states
        self._transport = transport
        self._log = log
        self._counts = counts
        self._live_stats = live_stats
        self._guard = guard
        self._ids: list[int] = list(range(log.num_samplers))
        self._is_open = False  # the step that is out was written down as such
        self._rows: RolloutRows | None = None  # of the step that is out, if it is written there
        self._index = 0
        #: Steps all samplers if the core can; gives None where nothing was done.
        self.step: Callable[..., Any] = no_usual_step
        self._steps: Any = None
        if auto_resample:
            self._steps = transport.usual_steps(
                stepping.action_batches,
                StepHooks(
                    log.entries,
                    live_stats.called,
                    guard.lock,
                    self._hand_over,
                    self._read_unusual,
                    self._cut_off,
                ),
            )
        if self._steps is not None:
            self.step = self._steps.step
            log.pack_actions_as(self._steps.actions)
            guard.before_each_call = self.settle

    def step_into(self, actions: Any, rows: RolloutRows, index: int) -> Any:
        """Step all samplers into a rollout row if the core can; the infos, or None."""
        if self._steps is None or rows.step_buffer.compiled is None:
            return None
        self._rows, self._index = rows, index
        try:
            row = rows.place.first_row + index
            return self._steps.step_into(actions, rows.step_buffer.compiled, index, row)
        finally:
            self._rows = None

    def arm(self) -> None:
        """Let the core step from now on, if all is quiet."""
        if self._steps is None or not self._states.is_quiet or self._calls.supervisor.owed:
            return
        steps_left = min(self._log.num_usual_steps, self._transport.begin_untimed())
        if steps_left > 0:
            results = self._transport.results
            assert results is not None
            self._steps.arm(results.step_number, steps_left, self._live_stats.tell_next_s)

    def settle(self) -> None:
        """Take in what the core did, and have it do no more until it is armed again."""
        steps = self._steps
        if steps is None or not steps.is_armed:
            return
        num_steps = steps.disarm() * len(self._ids)
        self._catch_up()
        self._counts.steps += num_steps
        self._states.steps_sent += num_steps
        self._calls.requests.moves += num_steps
        if steps.is_running:  # a task uses the vector in the midst of its step
            self._open()

    @property
    def num_steps(self) -> int:
        """The number of samplers' steps that the core made and that are not taken in yet."""
        return 0 if self._steps is None else self._steps.num_steps * len(self._ids)

    def settle_if_free(self) -> None:
        """Take in what the core did, unless another thread is at a step."""
        if self._guard.lock.acquire(False):
            try:
                self.settle()
            finally:
                self._guard.lock.release()

    def _catch_up(self) -> None:
        results = self._transport.results
        assert results is not None
        results.catch_up(self._steps.step_number, self._steps.ticket, self._rows)

    def close(self) -> None:
        """Let go of the memory."""
        self._guard.before_each_call = None
        self._steps = None
        self.step = no_usual_step

    # -- from the core ----------------------------------------------------------------------------

    def _open(self) -> None:
        """Write down that the step is out."""
        self._is_open = True
        self._calls.requests.open_steps(self._ids, self._steps.actions)

    def _hand_over(self, form: int, infos: dict[int, Any]) -> Any:
        """Go on in Python with a step that is out."""
        with _ControlCHeld():
            return self._finish(form, infos)

    def _finish(self, form: int, infos: dict[int, Any]) -> Any:
        self.settle()
        if not self._is_open:
            self._open()
        self._is_open = False
        self._states.begin_step(self._ids)
        self._transport.keep_infos(infos)
        results: Any
        if form == core.INTO_ROWS:
            assert self._rows is not None
            results = self._stepping.finish_into(self._ids, self._rows, self._index)
        elif form == core.BATCH:
            results = self._stepping.finish_batch(self._ids)
        else:
            results = self._stepping.wait_step(self._calls.read_timeout)
        self.arm()
        return results

    def _read_unusual(
        self,
        rows: Any,
        index: int,
        lent: Any,
        sampler_ids: list[int],
        infos: dict[int, Any],
        form: int,
    ) -> Any:
        """Give the results of a row where more than arrays belongs to the steps of these."""
        with _ControlCHeld():
            self._catch_up()
            extras = self._transport.take_plain_extras(sampler_ids)
            if extras is None:
                return self._finish(form, infos)
            for i, extra in extras.items():
                if extra.info is not None:
                    infos[i] = dict(extra.info)
            results = self._steps.results(rows, index, lent, infos, form)
            self._steps.count(rows, index)
            flags = rows.flags_of(index)
            ended = [i for i in sampler_ids if flags[i] & DONE]
            self._counts.episodes += len(ended)
            self._log.ended(ended)
            for i in ended:
                if flags[i] & EXHAUSTED:
                    self.settle()
                    self._states.exhaust(i)
                    if form == core.RESULTS:
                        results[i] = results[i]._replace(observation=None)
            return results

    def _cut_off(self) -> None:
        """Take in and drop a step of tasks in this process: Ctrl-C passes through it."""
        with _ControlCHeld():
            self.settle()
            if not self._is_open:
                self._open()
            self._is_open = False
            self._stepping.drop(self._ids)


class _ControlCHeld:
    """Used as ``with``: the compiled core goes on in Python with a step that is out.

    Ctrl-C in its first moment waits until the step is taken in: otherwise it would be lost.
    """

    def __init__(self) -> None:
        self._interrupt: KeyboardInterrupt | None = None

    def __enter__(self) -> None:
        while True:
            try:
                ctrl_c.hold()
            except KeyboardInterrupt as interrupt:
                self._interrupt = interrupt
            else:
                return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ctrl_c.let_go()
        if self._interrupt is not None and kind is None:
            raise self._interrupt
