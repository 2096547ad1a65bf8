"""A vector's interface for the rest of the package, beside its public methods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    NothingPending,
    RemoteError,
    SamplerUnavailable,
    WaitTimeout,
    WorkerDied,
)
from vectasks.protocol import Command
from vectasks.replay.recording import Recordings
from vectasks.transport.base import StepTransport
from vectasks.transport.rollout_rows import RolloutRows
from vectasks.transport.step_results import StepForm
from vectasks.vector.calls import Calls
from vectasks.vector.exclusive import Guard, exclusive
from vectasks.vector.stepping import Spaces, Stepping
from vectasks.vector.usual_steps import UsualSteps

logger: logging.Logger = logging.getLogger("vectasks")


def port_of(vector: Any) -> StepPort:
    """Find the port of a vector."""
    port: StepPort = vector._core.port
    return port


class StepPort:
    """Steps for rollouts, into rows of their own.

    Args:
        stepping: the way of a step.
        calls: says what is allowed.
        transport: carries the steps.
        spaces: of the samplers.
        guard: of the vector.
        usual_steps: by the compiled core.
        auto_resample: whether samplers go on by themselves when a task is done.
    """

    def __init__(
        self,
        stepping: Stepping,
        calls: Calls,
        transport: StepTransport,
        spaces: Spaces,
        guard: Guard,
        usual_steps: UsualSteps,
        *,
        auto_resample: bool,
    ) -> None:
        self._stepping = stepping
        self._calls = calls
        self._states = calls.states
        self._transport = transport
        self._guard = guard
        self._usual_steps = usual_steps
        self._auto_resample = auto_resample
        #: The action space of every sampler, paused or not.
        self.action_spaces: Sequence[Any] = spaces.action
        self._moves_at_starts = calls.requests.moves

    @property
    def is_heterogeneous(self) -> bool:
        """True if samplers have spaces of their own, and share no arrays."""
        return self._transport.results is None

    # -- for rollouts -----------------------------------------------------------------------------

    @property
    def moves(self) -> int:
        """Count whatever may have changed a task."""
        self._usual_steps.settle_if_free()
        return self._calls.requests.moves

    @property
    def is_at_starts(self) -> bool:
        """Whether all tasks are at their starts, as far as is known: nothing has changed one."""
        return self.moves == self._moves_at_starts

    def all_are_at_starts(self) -> None:
        """Take note that all tasks are."""
        self._moves_at_starts = self.moves

    @exclusive("add_rows")
    def add_rows(self, num_rows: int) -> RolloutRows:
        """Make further rows beside the step buffer's own; they live while they are held.

        Raises:
            InvalidArgument: this vector's steps cannot be written to rows.
        """
        self._calls.require_idle("RolloutBuffer")
        self._stepping.require_batches("RolloutBuffer")
        if not self._auto_resample:
            raise InvalidArgument(
                "RolloutBuffer: with auto_resample_when_done=False finished samplers wait, which "
                "leaves holes in a rollout; make the vector with auto_resample_when_done=True."
            )
        return self._transport.add_rows(num_rows, self._calls.requests.living)

    def step_into(self, actions: Any, rows: RolloutRows, index: int) -> dict[int, dict[str, Any]]:
        """Step all samplers, and have what comes of it written to one of the rows.

        Returns:
            the infos that are not empty, by sampler id.

        Raises:
            SamplerUnavailable: one is paused.
        """
        infos: dict[int, dict[str, Any]] | None = self._usual_steps.step_into(actions, rows, index)
        return self._step_into_in_python(actions, rows, index) if infos is None else infos

    @exclusive("collect")
    def _step_into_in_python(
        self, actions: Any, rows: RolloutRows, index: int
    ) -> dict[int, dict[str, Any]]:
        self._require_every_sampler()
        ids = self._stepping.begin(actions, StepForm(as_batch=True, rows=(rows, index)))
        infos = self._stepping.finish_into(ids, rows, index)
        self._usual_steps.arm()
        return infos

    @exclusive("send_into")
    def send_into(self, ids: Sequence[int], actions: Any, rows: RolloutRows, index: int) -> None:
        """Begin such a step of some samplers, beside those of others; :meth:`recv_into` ends it.

        Raises:
            SamplerUnavailable: one of them cannot step; while nothing is out, one of all samplers.
        """
        if self._states.uncollected is None:
            self._require_every_sampler()
            self._calls.require(Command.STEP, self._states.unpaused)
        self._stepping.begin(actions, StepForm(as_batch=True, rows=(rows, index)), ids)

    @exclusive("recv_into")
    def recv_into(
        self, ids: Sequence[int], rows: RolloutRows, index: int
    ) -> dict[int, dict[str, Any]]:
        """Wait for what :meth:`send_into` began; the infos that are not empty, by sampler id."""
        if not set(ids).issubset(self._states.uncollected or ()):
            raise NothingPending(
                f"collect: the step of samplers {list(ids)} is not out any more; the policy must "
                "leave it to collect() to wait for steps."
            )
        return self._stepping.finish_into(ids, rows, index)

    @exclusive("send_each_into")
    def send_each_into(
        self, ids: Sequence[int], actions: Any, rows: RolloutRows, index: int, *, is_first: bool
    ) -> None:
        """Begin such a step of some samplers, of which :meth:`ready_first` tells one by one.

        Args:
            ids: whose.
            actions: one for each.
            rows: where to, ...
            index: ... in this row.
            is_first: nothing is out before.

        Raises:
            SamplerUnavailable: one of them cannot step, or one of all is paused.
        """
        if is_first:
            self._require_every_sampler()
        form = StepForm(as_batch=True, one_by_one=True, rows=(rows, index))
        self._stepping.begin(actions, form, ids)

    @exclusive("ready_first")
    def ready_first(self, count: int, max_wait_s: float | None) -> list[int]:
        """Wait until so many of the samplers that are out are ready; all that are, in id order.

        Args:
            count: how many.
            max_wait_s: wait no longer; None: as long as ``read_timeout``, which is an error.
        """
        out = self._states.uncollected or ()
        timeout_s = self._calls.read_timeout
        if max_wait_s is None or (timeout_s is not None and timeout_s < max_wait_s):
            self._transport.wait(out, count, timeout_s)
        else:
            self._transport.wait(out, count, max_wait_s, late_is_fine=True)
        return self._transport.earliest(out, len(out))

    @exclusive("drop_steps")
    def drop_steps(self, error: BaseException) -> None:
        """Take in and drop steps that are still out, after an error amid those of several groups.

        What it was that came too late stays out with all else, as after any step's timeout.

        Raises:
            LayoutError, TaskError, WorkerDied: a step that was out had failed, which is why
                ``error`` says that its sampler cannot step.
        """
        ids = self._states.uncollected
        if ids is None or (
            isinstance(error, WaitTimeout) and not set(ids).isdisjoint(error.sampler_ids)
        ):
            return
        try:
            self._stepping.collect(ids, self._calls.read_timeout)
        except WaitTimeout:
            logger.warning("collect: a step of samplers %s stays out; wait_step() collects it", ids)
        except (LayoutError, RemoteError, WorkerDied) as other:
            if isinstance(error, SamplerUnavailable):
                raise
            if isinstance(error, (LayoutError, RemoteError, WorkerDied)):
                error.recordings = Recordings({**error.recordings, **other.recordings})
        finally:
            self._stepping.let_go_of_rows()

    def _require_every_sampler(self) -> None:
        """Refuse to step while anything is out, or a sampler is paused."""
        self._calls.require_idle("collect")
        paused = set(range(len(self.action_spaces))).difference(self._states.unpaused)
        if paused:
            raise SamplerUnavailable(
                f"collect: samplers {sorted(paused)} are paused, and a rollout buffer has a column "
                "for each; call resume_all() first."
            )
