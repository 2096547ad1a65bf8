"""The contract of what carries steps between a vector and its samplers, and what it may ask for.

::

    stepping ── begin(ids, actions) ──> StepTransport ──> workers, or hosts of this process
    stepping <── take(ids) ──────────── StepTransport <── what the steps gave

A step that was begun is waited for and taken: as outcomes, as a batch, or in the rows of a rollout
buffer. No transport knows the states of samplers, the episode log or errors: whoever steps does.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from vectasks.batch import StepBatch
from vectasks.protocol import Command, Failure
from vectasks.spaces import ActionBatches
from vectasks.transport.rollout_rows import RolloutRows
from vectasks.transport.step_buffer import OutOfBand
from vectasks.transport.step_results import Answers, StepForm, StepResults

_MANY = 1 << 62


class Homes(Protocol):
    """Which workers samplers live in."""

    #: By number: how many samplers live in a worker.
    residents: Any

    def show_in(self, numbers: Any) -> None:
        """Keep each sampler's worker, by number, in this array from now on."""

    def of(self, sampler_id: int) -> Any:
        """The worker that a sampler lives in."""

    def of_all(self, ids: Sequence[int]) -> Sequence[Any]:
        """The workers that some samplers live in, each once."""

    def ids_in(self, worker: Any) -> tuple[int, ...]:
        """The samplers that live in a worker."""


class Exchange(Answers, Protocol):
    """What a transport may ask of the vector's requests and their answers."""

    #: By sampler id: a message that could not be rebuilt, which may belong to the step that is out.
    unread: dict[int, Failure]

    @property
    def homes(self) -> Homes:
        """Where samplers live."""

    def open_steps(self, ids: Sequence[int], actions: Any) -> None:
        """Write down that these samplers are stepped, just before they are."""

    def send(self, orders: Iterable[tuple[int, Command, Any]]) -> None:
        """Send one command to each of some samplers, as requests."""

    def wait_for(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait until so many of these samplers have answered their requests."""

    def wait_for_news(self, workers: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Block until some of these workers have something to say; those."""

    def take_in(self, worker: Any) -> None:
        """Take in what a worker says."""

    def reach(self, worker: Any, tell: Callable[[], None]) -> None:
        """Tell a worker something; if it is gone, its death is dealt with."""

    def can_reach(self, worker: Any, tell: Callable[[], None]) -> bool:
        """Tell a worker something; False if it is gone, with which nobody has dealt yet."""

    def timeout(self, ids: Sequence[int], timeout_s: float) -> Exception:
        """Make the error that says that the steps of these samplers are late."""


class StepTransport(abc.ABC):
    """Carries steps. One step of a sampler may be out at a time.

    Args:
        results: where batches are made; None where samplers share no arrays.
    """

    #: Whether steps are made within :meth:`begin`, where Ctrl-C may cut them off.
    is_immediate: bool = False
    #: Whether it is told by ``is_timed`` which steps are to be timed; otherwise all are.
    can_be_timed: bool = True

    def __init__(self, results: StepResults | None) -> None:
        self.results: StepResults | None = results
        #: Whether the steps that are begun are to be timed where they are made.
        self.is_timed: bool = False

    @abc.abstractmethod
    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Begin one step of some samplers.

        Args:
            ids: whose; their states were checked before.
            actions: an array [n, ...], as the step buffer holds it, or a list of what each task
                receives.
            form: how it will be taken.
            by_request: those of them that were asked by request instead, and answer like that.

        Raises:
            Exception: an action cannot be pickled; nothing was sent.
        """

    @abc.abstractmethod
    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Wait until ``count`` of these samplers' steps are done.

        Args:
            ids: whose.
            count: how many of them.
            timeout_s: for how long.
            late_is_fine: return when that time is over, however many are done.

        Raises:
            WaitTimeout: fewer are; nothing is lost, and waiting again is allowed.
        """

    @abc.abstractmethod
    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Name the first ``count`` of these samplers to be done with their steps, in id order.

        They are fewer where not so many are done.
        """

    @abc.abstractmethod
    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Hand out each sampler's outcome, or its Failure or Death, once."""

    @abc.abstractmethod
    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Hand the steps out as arrays; as outcomes by id if one of them failed."""

    @abc.abstractmethod
    def take_rows(self, ids: Sequence[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
        """Take steps that were written to rollout rows.

        Returns:
            the infos that are not empty, by id; and all outcomes by id, if one of them failed.
        """

    def add_rows(self, num_rows: int, workers: Iterable[Any]) -> RolloutRows:
        """Make further rows, for steps to be written to.

        Args:
            num_rows: how many.
            workers: those that are alive; all of them are idle.

        Raises:
            OSError: there is not enough memory.
        """
        assert self.results is not None
        return self.results.add_rollout_rows(num_rows, None)

    # -- by the compiled core ----------------------------------------------------------------------

    def usual_steps(self, batches: ActionBatches, hooks: Any) -> Any:
        """Make what steps all samplers as long as that is usual, if the compiled core can.

        Args:
            batches: checks all actions together.
            hooks: of the vector, as ``StepHooks`` has them.
        """
        return None

    def begin_untimed(self) -> int:
        """Begin steps that are not timed; so many of all samplers may be made."""
        return _MANY

    def take_plain_extras(self, ids: Sequence[int]) -> dict[int, OutOfBand] | None:
        """Take what belongs to the steps of these beside arrays, if it is nothing but infos.

        Returns:
            by id; None: some failed, or have more than that. Nothing is taken then.
        """
        assert self.results is not None
        return self.results.take_plain_extras(ids)

    def keep_infos(self, infos: Mapping[int, Any]) -> None:
        """Keep infos, by sampler id, of the step that is out: tasks of this process gave them."""
        assert self.results is not None
        for i, info in infos.items():
            self.results.keep(OutOfBand(i, info))

    # -- where the vector goes on to the next tasks ------------------------------------------------

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Name those of these samplers, in order, whose step that is done ended an episode."""
        return []

    def hold(self, sampler_id: int) -> Any:
        """Take the outcome of such a step, which counts as out until :meth:`give_back`."""
        raise NotImplementedError

    def give_back(self, sampler_id: int, outcome: Any) -> None:
        """Let this be the outcome of the step that was held."""
        raise NotImplementedError

    # -- where workers write what their steps gave, and may die after that -------------------------

    def has_written(self, sampler_id: int) -> bool:
        """Tell whether all that the step that is out gave is here."""
        return False

    def written_outcome(self, sampler_id: int) -> Any:
        """Read what the step that is out gave, if all of it was written before its worker died."""
        return None

    def send_again(self, sampler_id: int) -> None:
        """Ask a sampler alone for the step that is out; what came was lost beside others'."""
        raise NotImplementedError

    def attach(self, workers: Iterable[Any]) -> None:  # noqa: B027 - not all need to
        """Tell workers what they need to know before their first step."""

    @property
    def tickets_at(self) -> tuple[int, int, int] | None:
        """Where others see who has answered: an inode, and two offsets in bytes."""
        return None

    # -- what it says of itself --------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def off_buffer(self) -> Sequence[str]:
        """Names of the observation leaves that do not travel as arrays."""

    def bytes_of(self, num_steps: int) -> Mapping[str, int]:
        """Bytes that so many steps moved through shared memory: as arrays, and out of band."""
        return {"slab": 0, "notes": 0}

    def close(self) -> None:
        """Let go of what it holds."""
        self.results = None


class TransportAround(StepTransport):
    """A transport around another one, which carries the steps.

    Args:
        inner: is asked for all that is not overridden.
    """

    def __init__(self, inner: StepTransport) -> None:
        super().__init__(inner.results)
        self.is_immediate: bool = inner.is_immediate
        self._inner = inner

    def begin(
        self, ids: Sequence[int], actions: Any, form: StepForm, by_request: Collection[int] = ()
    ) -> None:
        """Ask the transport that carries the steps."""
        self._inner.is_timed = self.is_timed
        self._inner.begin(ids, actions, form, by_request)

    def wait(
        self, ids: Sequence[int], count: int, timeout_s: float | None, *, late_is_fine: bool = False
    ) -> None:
        """Ask the transport that carries the steps."""
        self._inner.wait(ids, count, timeout_s, late_is_fine=late_is_fine)

    def earliest(self, ids: Sequence[int], count: int) -> list[int]:
        """Ask the transport that carries the steps."""
        return self._inner.earliest(ids, count)

    def take(self, ids: Sequence[int]) -> dict[int, Any]:
        """Ask the transport that carries the steps."""
        return self._inner.take(ids)

    def take_batch(
        self, ids: Sequence[int], out: StepBatch | None, copy: bool
    ) -> StepBatch | dict[int, Any]:
        """Ask the transport that carries the steps."""
        return self._inner.take_batch(ids, out, copy)

    def take_rows(self, ids: Sequence[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
        """Ask the transport that carries the steps."""
        return self._inner.take_rows(ids)

    def add_rows(self, num_rows: int, workers: Iterable[Any]) -> RolloutRows:
        """Ask the transport that carries the steps."""
        return self._inner.add_rows(num_rows, workers)

    def usual_steps(self, batches: ActionBatches, hooks: Any) -> Any:
        """Ask the transport that carries the steps."""
        return self._inner.usual_steps(batches, hooks)

    def take_plain_extras(self, ids: Sequence[int]) -> dict[int, OutOfBand] | None:
        """Ask the transport that carries the steps."""
        return self._inner.take_plain_extras(ids)

    @property
    def off_buffer(self) -> Sequence[str]:
        """Ask the transport that carries the steps."""
        return self._inner.off_buffer

    def bytes_of(self, num_steps: int) -> Mapping[str, int]:
        """Ask the transport that carries the steps."""
        return self._inner.bytes_of(num_steps)

    def close(self) -> None:
        """Let go of what both hold."""
        super().close()
        self._inner.close()
