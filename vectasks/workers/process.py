"""Hosts in processes of their own: forkserver, spawn and fork."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.spawn
import select
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any

from vectasks.errors import InvalidArgument
from vectasks.messages import Failure, Reply, Request
from vectasks.workers import child
from vectasks.workers.base import Worker, WorkerEnded
from vectasks.workers.blocks import BlocksMoved
from vectasks.workers.channel import Channel, channel_pair
from vectasks.workers.lane import ParentLane, StepExtras, Steps
from vectasks.workers.slab import SharedMemory

#: What the forkserver imports after the user's modules: all that every worker needs.
_PRELOAD = (
    "vectasks.vector",
    "vectasks.envs",
    "vectasks.workers.child",
    "vectasks.workers.preload",
)

_start_lock = threading.Lock()


class ProcessWorker(Worker):
    """Hosts behind a channel in a child process.

    Args:
        number: its number among the workers of a vector, from 0.
        sampler_ids: the samplers whose hosts live in it.
        context: the multiprocessing context that starts it.
        memory: where a slab may be, once its layout is known.
        daemon: a daemonic child may not start children of its own.
        rerun_main: let the child import the user's ``__main__`` again, as CPython's default is.
    """

    reads_actions_from_slab = True

    def __init__(
        self,
        number: int,
        sampler_ids: Sequence[int],
        context: BaseContext,
        *,
        memory: SharedMemory | None = None,
        daemon: bool = False,
        rerun_main: bool = False,
    ) -> None:
        super().__init__(number, sampler_ids)
        self._memory = memory
        self._lane: ParentLane | None = None
        self._context = context
        self._daemon = daemon
        self._rerun_main = rerun_main
        self._process: Any = None
        self._channel: Channel | None = None
        self._failures: list[tuple[int, Failure]] = []

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; it is not waited for."""
        self.release()
        channel, there = channel_pair()
        # A forked child has the registrations already.
        registrations = (
            None if self._context.get_start_method() == "fork" else child.registrations()
        )
        process = self._context.Process(  # type: ignore[attr-defined]  # typeshed: on its subclasses
            target=child.run,
            args=(there, self._memory, registrations),
            name=f"vectasks-worker-{self.number}",
            daemon=self._daemon,
        )
        try:
            with contextlib.nullcontext() if self._rerun_main else _without_main():
                process.start()
        except BaseException:
            channel.close()
            raise
        finally:
            there.close()
        self._process, self._channel = process, channel
        if self._lane is not None:
            self.attach(self._lane)

    def pack(self, message: list[Request] | Steps | BlocksMoved) -> list[memoryview]:
        """Pickle the message."""
        return Channel.pack(message)

    def post(self, parcel: list[memoryview]) -> None:
        """Send the message, and ring its bell in the slab."""
        if self._channel is None:
            raise WorkerEnded(None)
        try:
            self._channel.post(parcel)
        except OSError:
            raise WorkerEnded(self._exitcode()) from None
        if self._lane is not None:
            self._lane.announce_message(self.number)

    def attach(self, lane: ParentLane) -> None:
        """Tell the child where it finds the slab."""
        self._lane = None  # this message itself is not announced: the child has no lane yet
        self.post(Channel.pack(lane.attach_message(self.number, self.sampler_ids)))
        self._lane = lane

    def wake(self) -> None:
        """Ring the channel, on which the child sleeps."""
        if self._channel is None:
            raise WorkerEnded(None)
        try:
            self._channel.ring()
        except OSError:
            raise WorkerEnded(self._exitcode()) from None

    def receive(self) -> list[Reply]:
        """The replies that have arrived."""
        if self._channel is None:
            raise WorkerEnded(None)
        replies: list[Reply] = []
        # Asked before the channel is emptied, so that nothing can arrive in between. A dead
        # process is not always the end of the channel: a process of the task's may hold it.
        ended = self._process.exitcode is not None
        try:
            while (message := self._channel.receive()) is not None:
                if isinstance(message, StepExtras):
                    assert self._lane is not None
                    for extra in message.extras:
                        self._lane.keep(extra)
                else:
                    replies += message
        except (EOFError, OSError):
            ended = True
        if ended and not replies:
            raise WorkerEnded(self._exitcode())
        return replies

    def descriptors(self) -> list[tuple[int, int]]:
        """The channel, and the process's sentinel: it becomes readable when the process dies."""
        if self._channel is None:
            return []
        return [
            (self._channel.fileno(), self._channel.events),
            (self._process.sentinel, select.POLLIN),
        ]

    def _exitcode(self) -> int | None:
        self._process.join(1.0)  # the channel may close a moment before the process has ended
        exitcode: int | None = self._process.exitcode
        return exitcode

    def ask_to_end(self) -> None:
        """Send END."""
        if self._channel is not None:
            with contextlib.suppress(WorkerEnded):
                self.post(Channel.pack(child.END))

    def join(self, timeout_s: float) -> bool:
        """Whether the process has ended; meanwhile its last messages are taken in."""
        if self._process is None:
            return True
        deadline = time.monotonic() + timeout_s
        if self._channel is not None:
            self._take_farewell(deadline)
        self._process.join(max(0.0, deadline - time.monotonic()))
        return self._process.exitcode is not None

    def _take_farewell(self, deadline: float) -> None:
        """Read until the channel ends, so that a child that still sends something can go."""
        assert self._channel is not None
        poll = select.poll()
        poll.register(self._channel.fileno(), self._channel.events)
        poll.register(self._process.sentinel, select.POLLIN)
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._channel.receive()
                if isinstance(message, list):
                    # Late replies to requests are nobody's now; failures of close() are told.
                    self._failures += [item for item in message if not isinstance(item, Reply)]
                if message is not None:
                    continue
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._process.exitcode is not None:
                    return
                poll.modify(self._channel.fileno(), self._channel.events)
                poll.poll(remaining * 1000)

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def release(self) -> list[tuple[int, Failure]]:
        """Close the channel and forget the process, which has ended."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None
        failures, self._failures = self._failures, []
        return failures


def start_context(start_method: str | None, mp_ctx: Any, preload: Sequence[str]) -> BaseContext:
    """The multiprocessing context to start workers with, its forkserver told what to preload.

    Raises:
        InvalidArgument: both or neither of the two were given, or there is no such start method.
    """
    if mp_ctx is not None and start_method not in (None, DEFAULT_START_METHOD):
        raise InvalidArgument(
            f"both multiprocessing_start_method={start_method!r} and mp_ctx={mp_ctx!r} were given; "
            "give one of them."
        )
    if mp_ctx is None and start_method is None:
        raise InvalidArgument(
            "neither multiprocessing_start_method nor mp_ctx was given; give one of them "
            f"(the default is {DEFAULT_START_METHOD!r})."
        )
    known = multiprocessing.get_all_start_methods()
    if mp_ctx is None:
        if start_method not in known:
            raise InvalidArgument(
                f"multiprocessing_start_method={start_method!r} is unknown; "
                f"this system has {known}."
            )
        mp_ctx = multiprocessing.get_context(start_method)
    elif not hasattr(mp_ctx, "Process") or not hasattr(mp_ctx, "get_start_method"):
        raise InvalidArgument(
            f"mp_ctx must be a multiprocessing context, got {mp_ctx!r}; make one by "
            "multiprocessing.get_context('forkserver')."
        )
    if mp_ctx.get_start_method() == "forkserver":
        _preload_forkserver([*preload, *_PRELOAD])
    context: BaseContext = mp_ctx
    return context


DEFAULT_START_METHOD = "forkserver"


def _preload_forkserver(modules: Sequence[str]) -> None:
    """Add to what the forkserver imports when it starts; a running one stays as it is."""
    server: Any = multiprocessing.forkserver._forkserver
    present = [name for name in server._preload_modules if name not in ("__main__", *_PRELOAD)]
    server.set_forkserver_preload(list(dict.fromkeys([*present, *modules])))


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start a child that does not run the user's ``__main__`` again.

    CPython tells a spawned child which file was ``__main__`` and the child runs it: that asks for
    an ``if __name__ == "__main__"`` guard and imports again whatever the script imports. Workers
    need none of it: functions of ``__main__`` travel by value. There is no option to leave it out,
    so what this thread sends is filtered while the child starts.
    """
    original = multiprocessing.spawn.get_preparation_data
    starting_thread = threading.get_ident()

    def prepare(name: str) -> dict[str, Any]:
        data = dict(original(name))
        if threading.get_ident() == starting_thread:
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    with _start_lock:
        multiprocessing.spawn.get_preparation_data = prepare
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original
