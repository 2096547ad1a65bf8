"""Hosts in processes of their own: forkserver, spawn and fork."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any

from vectasks.monitoring.live_stats import Ring
from vectasks.protocol import Failure, Reply, Request
from vectasks.transport.channel import Channel, Unreadable
from vectasks.transport.memory import SharedMemory
from vectasks.transport.rollout_rows import RowsMoved
from vectasks.transport.shared_memory import SharedMemoryTransport
from vectasks.transport.step_protocol import Steps, StepsOutOfBand
from vectasks.workers import child
from vectasks.workers.base import Worker, WorkerEnded
from vectasks.workers.child_process import LONGEST_EXIT_S, ChildProcess
from vectasks.workers.randomness import WorkerSeed

_NAP_S = 0.002


class ProcessWorker(ChildProcess, Worker):
    """Hosts behind a channel in a child process.

    Args:
        number: its number among the workers of a vector, from 0.
        sampler_ids: the samplers whose hosts live in it.
        context: the multiprocessing context that starts it.
        memory: where a step buffer may be, once its layout is known.
        seeds: of its samplers; None for those that have none.
        daemon: a daemonic child may not start children of its own.
        rerun_main: let the child import the user's ``__main__`` again, as CPython's default is.
    """

    def __init__(
        self,
        number: int,
        sampler_ids: Sequence[int],
        context: BaseContext,
        *,
        memory: SharedMemory | None = None,
        seeds: Sequence[int | None] = (),
        daemon: bool = False,
        rerun_main: bool = False,
    ) -> None:
        Worker.__init__(self, number, sampler_ids)
        ChildProcess.__init__(
            self, f"vectasks-worker-{number}", context, daemon=daemon, rerun_main=rerun_main
        )
        self._memory = memory
        self._seeds = seeds
        self._num_starts = 0
        self._ring: Ring | None = None
        self._steps: SharedMemoryTransport | None = None
        self._failures: list[tuple[int, Failure]] = []

    def record_spans(self, ring: Ring) -> None:
        """Let the child record how long everything takes."""
        self._ring = ring

    def start(self) -> None:
        """Start the process; it is not waited for."""
        self.release()
        self.begin(child.run, self._memory, self._ring)
        self._num_starts += 1
        if self._steps is not None:
            self.attach(self._steps)

    def _seed(self) -> WorkerSeed | None:
        seeds = [seed for seed in self._seeds if seed is not None]
        return WorkerSeed(seeds, self.number, self._num_starts) if seeds else None

    def pack(self, message: list[Request] | Steps | RowsMoved) -> list[memoryview]:
        """Pickle the message, and beside it whom it is for."""
        return Channel.pack(message, _envelope(message))

    def post(self, packed: list[memoryview]) -> None:
        """Send the message, and ring its bell in the step buffer."""
        if self._channel is None:
            raise WorkerEnded(None)
        try:
            self._channel.post(packed)
        except OSError:
            raise WorkerEnded(self._last_exitcode()) from None
        if self._steps is not None:
            self._steps.signals.announce_message(self.number)

    def attach(self, steps: SharedMemoryTransport) -> None:
        """Tell the child where it finds the step buffer."""
        self._steps = None  # this message itself is not announced: the child cannot see that yet
        self.post(Channel.pack(steps.attach_message(self)))
        self._steps = steps

    def wake(self) -> None:
        """Ring the channel, on which the child sleeps."""
        if self._channel is None:
            raise WorkerEnded(None)
        try:
            self._channel.ring()
        except OSError:
            raise WorkerEnded(self._last_exitcode()) from None

    def receive(self) -> list[Reply | Unreadable]:
        """The replies that have arrived."""
        if self._channel is None:
            raise WorkerEnded(None)
        replies: list[Reply | Unreadable] = []
        # Asked before the channel is emptied, so that nothing can arrive in between. A dead
        # process is not always the end of the channel: a process of the task's may hold it.
        ended = self.exitcode is not None
        for message in self.take_in():
            if isinstance(message, StepsOutOfBand):
                assert self._steps is not None
                self._steps.keep(message.extras)
            elif isinstance(message, Unreadable):
                replies.append(message)
            else:
                replies += message
        if (ended or self.has_hung_up) and not replies:
            raise WorkerEnded(self._last_exitcode())
        return replies

    def _last_exitcode(self) -> int | None:
        """The exit code of a worker that hung up; None where it went on and had to be ended."""
        exitcode = self._await_end()  # it may hang up a moment before it has ended
        if exitcode is None:  # its task closed the channel: it is out of reach, yet it goes on
            self._process.kill()
            self._await_end()  # so that it writes nothing beside its successor
        return exitcode

    def _await_end(self) -> int | None:
        """The exit code, waited for a while.

        Joining could block: the sentinel, which it waits for first, is closed too where a task
        closed all descriptors.
        """
        deadline = time.monotonic() + LONGEST_EXIT_S
        exitcode = self.exitcode
        while exitcode is None and time.monotonic() < deadline:
            time.sleep(_NAP_S)
            exitcode = self.exitcode
        return exitcode

    def ask_to_end(self) -> None:
        """Send END."""
        if self._channel is not None:
            with contextlib.suppress(WorkerEnded):
                self.post(Channel.pack(child.END))

    def _take_late(self, message: Any) -> None:
        if isinstance(message, list):
            # Late replies to requests are nobody's now; failures of close() are told.
            self._failures += [item for item in message if not isinstance(item, Reply)]

    def release(self) -> list[tuple[int, Failure]]:
        """Close the channel and forget the process, which is killed if it still runs."""
        self.let_go()
        failures, self._failures = self._failures, []
        return failures


def _envelope(message: list[Request] | Steps | RowsMoved) -> Any:
    """Return the numbers by which a worker answers a message that it cannot unpickle."""
    if isinstance(message, list):
        return [tuple(request[:2]) for request in message]
    return (message.ticket, list(message.actions)) if isinstance(message, Steps) else None
