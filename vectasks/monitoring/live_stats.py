"""Live stats: a vector's figures, for whoever may look, in anonymous shared memory.

::

    parent ──> | head | a line per worker | a line per sampler |  rings of spans  | <── vectasks top
                                                 parent, workers (timing=True) ──┘

Nobody waits for anybody: writers write in passing, and who reads sees what is there. The memory has
no name, so none is left behind; another process finds it as a descriptor of the vector's process,
which only the owner of that process may open.

A *span* is one thing that took time: ``(code, begin_s, end_s, copied_s)``, in seconds of
``time.monotonic``, which all processes of a machine share. ``code`` says whose it is and what; a
step whose result was then written into the step buffer lasts until ``copied_s``. The spans of a
batch's steps are written together: one by one they would cost more than a short step takes. Where
batches are short not all of them are timed (see ``timing``); other commands always are.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import ResourceLimit
from vectasks.transport.memory import SharedMemory

MEMORY_NAME = "vectasks-board"
MAGIC = b"vtboard2"
#: The timings of so many steps are kept; older ones are written over.
STEPS_KEPT = 1024
#: Codes of spans are ``number * KINDS + kind``. In a worker the number is the sampler's id and the
#: kind a command; in the parent it is how many steps of samplers had been sent when it began.
KINDS = 32
#: Kinds of the parent's spans.
SEND, WAIT, TAKE = range(3)

_SPANS_A_STEP = 3  # in the parent; a sampler has one a step, and room for other commands
_SPAN = np.dtype([("code", "f8"), ("begin_s", "f8"), ("end_s", "f8"), ("copied_s", "f8")])
_FIELDS = 4  # values of a span

HEAD = np.dtype(
    [
        ("magic", "S8"),
        ("pid", "i8"),  # 0: the vector is closed
        ("num_workers", "i8"),
        ("num_samplers", "i8"),
        ("is_timed", "i8"),
        ("started_s", "f8"),  # all times are of time.monotonic
        ("called_s", "f8"),  # when the last call came in
        ("told_s", "f8"),  # when the rest was last brought up to date
        ("steps", "i8"),
        ("steps_per_s", "f8"),
        ("episodes", "i8"),
        ("restarts", "i8"),
        ("slab_inode", "i8"),  # where the tickets are; 0: there is no step buffer
        ("asked_at", "i8"),
        ("answered_at", "i8"),
        ("error_s", "f8"),
        ("name", "S64"),
        ("error", "S400"),
    ]
)
WORKER = np.dtype([("pid", "i8"), ("num_spans", "i8"), ("ring_at", "i8"), ("capacity", "i8")])
SAMPLER = np.dtype([("worker", "i8"), ("state", "i8")])


def spans_a_step(capacity: int) -> int:
    """So many spans a step writes at once: the oldest may be in the midst of being written over."""
    return capacity // STEPS_KEPT


class Lines(NamedTuple):
    """The arrays of live stats; ``workers`` has a line more, the parent's."""

    head: Any
    workers: Any
    samplers: Any

    @classmethod
    def on(cls, memory: Any, num_workers: int, num_samplers: int) -> Lines:
        """Lay the arrays over the memory of live stats."""
        workers_at = HEAD.itemsize
        samplers_at = workers_at + (num_workers + 1) * WORKER.itemsize
        return cls(
            np.ndarray((1,), HEAD, memory),
            np.ndarray((num_workers + 1,), WORKER, memory, workers_at),
            np.ndarray((num_samplers,), SAMPLER, memory, samplers_at),
        )

    def spans(self, memory: Any, worker: int) -> NDArray[Any]:
        """A copy of a worker's spans that are whole, oldest first."""
        line = self.workers[worker]
        capacity = int(line["capacity"])
        if capacity == 0:
            return np.empty(0, _SPAN)
        ring = np.ndarray((capacity,), _SPAN, memory, int(line["ring_at"]))
        count = int(line["num_spans"])
        numbers = np.arange(max(0, count - capacity), count)
        spans = ring[numbers % capacity]
        # Written over while it was copied, or perhaps just now.
        first = int(line["num_spans"]) - capacity + spans_a_step(capacity)
        return spans[numbers >= first]


class Ring(NamedTuple):
    """Where one process writes its spans; it travels to the worker."""

    memory: SharedMemory
    count_at: int
    ring_at: int
    capacity: int


class Recorder:
    """Writes spans into a ring.

    Attributes:
        pending: what :meth:`write` writes: all fields of one span, then of the next.
    """

    def __init__(self, ring: Ring, mapped: Any = None) -> None:
        mapped = ring.memory.map() if mapped is None else mapped
        size = ring.capacity * _SPAN.itemsize
        self._spans = memoryview(mapped)[ring.ring_at : ring.ring_at + size]
        count = np.ndarray((1,), np.int64, mapped, ring.count_at)
        self._count: Any = memoryview(cast("Any", count))
        self._capacity = ring.capacity
        self.pending: list[float] = []

    def write(self) -> None:
        """Write the pending spans, those of a few steps of all samplers at most."""
        values, count = self.pending, self._count[0]
        first = count % self._capacity
        until_end = (self._capacity - first) * _FIELDS
        if len(values) <= until_end:
            _write_values(self._spans, first, values)
        else:  # the rest goes to the beginning
            _write_values(self._spans, first, values[:until_end])
            _write_values(self._spans, 0, values[until_end:])
        self._count[0] = count + len(values) // _FIELDS
        values.clear()

    def add(self, code: int, begin_s: float, end_s: float) -> None:
        """Have one span written later."""
        self.pending += (code, begin_s, end_s, end_s)

    def record(self, code: int, begin_s: float, end_s: float) -> None:
        """Write one span, and what is pending."""
        self.add(code, begin_s, end_s)
        self.write()


def _write_values(spans: memoryview, first: int, values: Sequence[float]) -> None:
    struct.pack_into(f"={len(values)}d", spans, first * _SPAN.itemsize, *values)


class LiveStats:
    """A vector's own end of its live stats.

    Args:
        worker_samplers: the samplers of each worker, of which several may have a sampler.
        timed: whether spans are kept.
        name: of the vector.
    """

    def __init__(self, worker_samplers: Sequence[Sequence[int]], *, timed: bool, name: str) -> None:
        self.is_timed = timed
        self.num_workers: int = len(worker_samplers)
        self._parent: Recorder | None = None
        num_samplers = len(set().union(*worker_samplers))
        ends_at = HEAD.itemsize + (self.num_workers + 1) * WORKER.itemsize
        ring_at = ends_at + num_samplers * SAMPLER.itemsize
        capacities = [0] * (self.num_workers + 1)
        if timed:
            capacities = [STEPS_KEPT * len(ids) for ids in worker_samplers]
            capacities.append(STEPS_KEPT * _SPANS_A_STEP)
        size_bytes = ring_at + sum(capacities) * _SPAN.itemsize
        self._memory = SharedMemory(MEMORY_NAME)
        self._mapped: Any
        try:
            self._memory.resize(size_bytes)
            self._mapped = self._memory.map()
        except OSError as error:
            self._memory.close()
            if timed:
                raise ResourceLimit(
                    f"There is no shared memory of {size_bytes} bytes, which timing=True needs: "
                    f"{error}."
                ) from error
            self._mapped = bytearray(size_bytes)  # nobody can look, which harms nobody
        self._lines = Lines.on(self._mapped, self.num_workers, num_samplers)
        head = self._lines.head
        head["num_workers"], head["num_samplers"] = self.num_workers, num_samplers
        head["is_timed"], head["started_s"] = timed, time.monotonic()
        head["name"] = name.encode(errors="replace")[:64]
        self.rings: list[Ring] = []
        for number, capacity in enumerate(capacities):
            self._lines.workers[number]["ring_at"] = ring_at
            self._lines.workers[number]["capacity"] = capacity
            count_at = HEAD.itemsize + number * WORKER.itemsize + WORKER.fields["num_spans"][1]  # type: ignore[index]
            self.rings.append(Ring(self._memory, count_at, ring_at, capacity))
            ring_at += capacity * _SPAN.itemsize
        if not timed:
            self._memory.close()  # the mapping is enough, and workers need none
        #: When the last call came: float64 [1], in seconds of ``time.monotonic``.
        self.called: Any = head["called_s"]
        self._called: Any = memoryview(cast("Any", self.called))
        #: From when on it is time to tell the rest.
        self.tell_next_s: float = 0.0
        self._is_open = True
        head["pid"] = os.getpid()
        head["magic"] = MAGIC  # last: now it can be read

    def parent_recorder(self) -> Recorder:
        """Writes the parent's spans; what is pending there is seen here."""
        self._parent = Recorder(self.rings[-1], self._mapped)
        return self._parent

    def call_came(self) -> bool:
        """Note that a call came in; whether it is time to tell the rest."""
        now_s = time.monotonic()
        self._called[0] = now_s
        return now_s >= self.tell_next_s

    def show_tickets(self, tickets_at: tuple[int, int, int] | None) -> None:
        """Tell where to see who has answered: the step buffer's inode and two offsets."""
        head = self._lines.head
        head["slab_inode"], head["asked_at"], head["answered_at"] = tickets_at or (0, 0, 0)

    def tell(
        self,
        steps: int,
        episodes: int,
        restarts: int,
        states: Sequence[int],
        homes: Sequence[int] | NDArray[np.int64],
        pids: Sequence[int],
    ) -> None:
        """Bring the live stats up to date."""
        if not self._is_open:
            return
        head, now_s = self._lines.head, time.monotonic()
        since_s = now_s - (float(head["told_s"][0]) or float(head["started_s"][0]))
        if since_s > 0.1:  # a rate over less says little
            head["steps_per_s"] = (steps - int(head["steps"][0])) / since_s
            head["steps"], head["told_s"] = steps, now_s
        head["episodes"], head["restarts"] = episodes, restarts
        self._lines.samplers["state"] = states
        self._lines.samplers["worker"] = homes
        self._lines.workers["pid"][:-1] = pids
        self.tell_next_s = now_s + 0.5

    def tell_error(self, error: BaseException) -> None:
        """Show the last error."""
        if self._is_open:
            text = f"{type(error).__name__}: {error}".encode(errors="replace")
            text = text[: HEAD["error"].itemsize]
            self._lines.head["error"], self._lines.head["error_s"] = text, time.monotonic()

    def spans(self, worker: int) -> NDArray[Any]:
        """A worker's spans, oldest first; the parent's are those of -1."""
        spans = self._lines.spans(self._mapped, worker)
        if worker == -1 and self._parent is not None:  # another thread may be at writing these
            pending = np.array(list(self._parent.pending), np.float64).view(_SPAN)
            return np.concatenate([spans, pending])
        return spans

    def pids(self) -> list[int]:
        """The workers' process ids, as they were last told."""
        pids: list[int] = self._lines.workers["pid"][:-1].tolist()
        return pids

    def close(self) -> None:
        """Give the memory back; what was timed can still be read."""
        if not self._is_open:
            return
        self._is_open = False
        if self._parent is not None:
            self._parent.write()
            self._parent = None
        self._lines.head["pid"] = 0
        kept = bytearray(self._mapped) if self.is_timed else bytearray()
        if self.is_timed:
            num_samplers = len(self._lines.samplers)
            self._lines = Lines.on(kept, self.num_workers, num_samplers)
        else:
            self._lines = Lines(*(line.copy() for line in self._lines))
        self._called = self.called = bytearray(1)
        self._mapped = kept
        self._memory.close()
