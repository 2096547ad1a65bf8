"""Where samplers live, and how steps travel there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, Protocol

import numpy as np

from vectasks.errors import ResourceLimit
from vectasks.transport.base import Exchange, StepTransport
from vectasks.transport.in_process import InProcessTransport
from vectasks.transport.layout import OUT_OF_BAND_BYTES, Layout
from vectasks.transport.memory import SharedMemory
from vectasks.transport.messages import MessageTransport
from vectasks.transport.shared_memory import SharedMemoryTransport
from vectasks.transport.step_results import StepResults
from vectasks.vector.options import VectorOptions
from vectasks.workers.base import Worker
from vectasks.workers.homes import Homes
from vectasks.workers.inline import InlineWorker
from vectasks.workers.moves import BetweenWorkers, IntoOneWorker, Moves
from vectasks.workers.process import ProcessWorker
from vectasks.workers.starting import require_descriptors
from vectasks.workers.threads import Preparations


class Place(Protocol):
    """Where samplers live: it makes the workers, and chooses how steps travel to them."""

    mp_ctx: BaseContext | None

    def make_workers(self, seeds: Sequence[int | None], options: VectorOptions) -> Sequence[Worker]:
        """Make the workers of as many samplers as there are seeds; they are not started here.

        Those of spare hosts come after those in which all samplers live at first.
        """

    def moves(self, homes: Homes) -> Moves:
        """Make what moves samplers from host to host."""

    def transport(
        self, layout: Layout | None, options: VectorOptions, exchange: Exchange
    ) -> StepTransport:
        """Choose how steps travel; ``layout`` None: samplers share no arrays."""

    def close(self) -> None:
        """Let go of what it holds."""


class InThisProcess:
    """Samplers in this process, as one worker."""

    mp_ctx: BaseContext | None = None

    def __init__(self) -> None:
        self._workers: list[InlineWorker] = []

    def make_workers(self, seeds: Sequence[int | None], options: VectorOptions) -> Sequence[Worker]:
        """Make one worker for all, and of spares one more than are needed, so that one has room."""
        num_spares = options.prepared_tasks + 1 if options.prepared_tasks else 0
        threads = Preparations() if num_spares else None
        self._workers = [InlineWorker(w, range(len(seeds)), threads) for w in range(1 + num_spares)]
        return self._workers

    def moves(self, homes: Homes) -> Moves:
        """Let hosts move, so that all current ones are in one worker."""
        current, *spares = self._workers
        return IntoOneWorker(current, spares) if spares else BetweenWorkers(homes)

    def transport(
        self, layout: Layout | None, options: VectorOptions, exchange: Exchange
    ) -> StepTransport:
        """Step tasks where they are, unless their steps are to be requests like any other."""
        results = _private(layout, options)
        if results is None or options.observation_transport == "pipe":
            return MessageTransport(results, exchange, off_buffer=())
        return InProcessTransport(results, self._workers[0], exchange)

    def close(self) -> None:
        """Let go of the worker."""
        self._workers = []


class ChildOptions(NamedTuple):
    """The options that only worker processes need.

    Attributes:
        max_processes: so many workers at most, the samplers spread evenly (None: one each).
        daemon: make workers daemonic; they may then start no processes of their own.
        rerun_main: let workers import the script that is ``__main__`` again, as CPython does.
    """

    max_processes: int | None
    daemon: bool
    rerun_main: bool


class InProcesses:
    """Samplers in processes of their own.

    Args:
        context: starts the processes.
        child_options: how many, and how.
    """

    def __init__(self, context: BaseContext, child_options: ChildOptions) -> None:
        self.mp_ctx: BaseContext | None = context
        self._context = context
        self._child_options = child_options
        self._memory: SharedMemory | None = None
        self._workers: list[ProcessWorker] = []

    def make_workers(self, seeds: Sequence[int | None], options: VectorOptions) -> Sequence[Worker]:
        """Make them, with memory to share if steps may travel by it."""
        max_processes, daemon, rerun_main = self._child_options
        count = len(seeds)
        num_workers = count if max_processes is None else min(max_processes, count)
        columns = np.array_split(np.arange(count), num_workers) * (1 + options.prepared_tasks)
        require_descriptors(len(columns))
        if options.observation_transport != "pipe" and not options.heterogeneous:
            self._memory = SharedMemory()
        self._workers = [
            ProcessWorker(
                number,
                ids.tolist(),
                self._context,
                memory=self._memory,
                seeds=[seeds[i] for i in ids],
                daemon=daemon,
                rerun_main=rerun_main,
            )
            for number, ids in enumerate(columns)
        ]
        return self._workers

    def moves(self, homes: Homes) -> Moves:
        """Let samplers move from worker to worker."""
        return BetweenWorkers(homes)

    def transport(
        self, layout: Layout | None, options: VectorOptions, exchange: Exchange
    ) -> StepTransport:
        """Share memory if there is some, and send messages otherwise."""
        if layout is None or self._memory is None:
            return MessageTransport(_private(layout, options), exchange)
        try:
            layout, mapped = _laid_out(layout, self._memory)
        except OSError as error:
            told = f"There is no shared memory of {layout.size_bytes()} bytes: {error}."
            if options.observation_transport == "slab":
                raise ResourceLimit(told) from error
            warnings.warn(
                f"{told} Steps go by pipes, which is slower.", RuntimeWarning, stacklevel=2
            )
            return MessageTransport(_private(layout, options), exchange)
        results = StepResults(layout, mapped, options.observation_transport == "slab")
        return SharedMemoryTransport(results, self._memory, self._workers, exchange)

    def close(self) -> None:
        """Give the memory back; the mapping, which holds a descriptor, goes with its last array."""
        self._workers = []
        if self._memory is not None:
            self._memory.close()


def _private(layout: Layout | None, options: VectorOptions) -> StepResults | None:
    if layout is None:
        return None
    return StepResults(layout, strict=options.observation_transport == "slab")


def _laid_out(layout: Layout, memory: SharedMemory) -> tuple[Layout, Any]:
    """Size and map the memory for a layout, with out-of-band data if there is room for it.

    Raises:
        OSError: there is not so much memory.
    """
    with_out_of_band = layout._replace(out_of_band_bytes=OUT_OF_BAND_BYTES)
    try:
        memory.resize(with_out_of_band.size_bytes())
        return with_out_of_band, memory.map(with_out_of_band.size_bytes())
    except OSError:  # the address space is limited, perhaps: these are a mebibyte per sampler
        memory.resize(layout.size_bytes())
        return layout, memory.map(layout.size_bytes())
