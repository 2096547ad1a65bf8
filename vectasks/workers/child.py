"""The code that a worker process runs."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import multiprocessing.forkserver
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from typing import Any, NamedTuple

from vectasks._util.gym_registry import adopt_registrations
from vectasks.host.task_host import HostGroup
from vectasks.host.timed import TimedHostGroup
from vectasks.monitoring.live_stats import Recorder, Ring
from vectasks.protocol import Reply, Request, SendAlone
from vectasks.transport.channel import Channel, Unreadable, unreadable, unsendable
from vectasks.transport.memory import SharedMemory
from vectasks.transport.rollout_rows import RowsMoved
from vectasks.transport.step_protocol import Attach, Steps
from vectasks.workers import stacks
from vectasks.workers.randomness import WorkerSeed, seed_generators
from vectasks.workers.step_loop import StepServer

#: The message that asks a worker to close everything and to end.
END = "end"

_ORPHAN_GRACE_S = 1.0
_LOOK_FOR_ADOPTION_MS = 1000

logger: logging.Logger = logging.getLogger("vectasks.worker")


class Start(NamedTuple):
    """Everything that a worker process starts with.

    Attributes:
        end: the socket to the parent.
        registrations: what to register with Gymnasium; None: nothing.
        seed: what its random state is derived from; None: from the system's entropy.
    """

    end: socket.socket
    registrations: bytes | None
    seed: WorkerSeed | None


def run(
    start: Start,
    memory: SharedMemory | None,
    ring: Ring | None = None,
) -> None:
    """Carry out what arrives until END or the parent's end, then close every task and sampler.

    Args:
        start: what every worker begins with.
        memory: where the step buffer will be, once its layout is known; None: steps come by socket.
        ring: where to record how long everything takes; None: nowhere.
    """
    group: HostGroup = HostGroup()
    if ring is not None:
        group = TimedHostGroup(Recorder(ring))
        ring.memory.close()
    serve_until_end(
        start,
        serve=lambda channel: _serve(channel, group, memory),
        close=group.close,
    )


def serve_until_end(
    start: Start,
    *,
    serve: Callable[[Channel], None],
    close: Callable[[], Any],
) -> None:
    """The life of every worker process.

    Args:
        start: what every worker begins with.
        serve: carries out what arrives, and returns at END.
        close: closes what the worker holds; what it returns is sent to the parent.
    """
    # Ctrl-C is the parent's to handle; SIGTERM ends a worker even where the parent caught it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not faulthandler.is_enabled() and sys.stderr is not None:
        faulthandler.enable()
    gc.freeze()  # a collector that looks at what was inherited makes copies of its pages
    _leave_the_parents_forkserver()
    with contextlib.suppress(OSError, RuntimeError):  # without it, a timeout shows no stack
        stacks.offer()
    threading.Thread(
        target=_end_with_parent, args=(start.end,), name="vectasks-watchdog", daemon=True
    ).start()
    channel = Channel(start.end)
    try:
        seed_generators(start.seed)
        if start.registrations is not None:
            adopt_registrations(start.registrations)
        serve(channel)
    except (EOFError, OSError):
        close()  # the parent is gone: nobody is left to be told
        return
    last_words = close()
    try:
        channel.send_blocking(last_words)
    except OSError:
        pass
    finally:
        channel.close()


def _leave_the_parents_forkserver() -> None:
    """Let a forked worker start its own forkserver: it would take the parent's for its child."""
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_pid is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None


def _serve(channel: Channel, group: HostGroup, memory: SharedMemory | None) -> None:
    step_server: StepServer | None = None
    while True:
        message = channel.receive_blocking() if step_server is None else step_server.next_message()
        if isinstance(message, list):
            _answer(channel, [group.execute(request) for request in message], message)
        elif isinstance(message, Attach):
            assert memory is not None
            step_server = StepServer(message, memory, channel, group)
            # What imports and set-up left in memory stays: the collector need not look again.
            gc.collect()
            gc.freeze()
        elif isinstance(message, RowsMoved):
            assert step_server is not None
            step_server.move_row_sets(message)
        elif isinstance(message, Steps):
            assert step_server is not None
            step_server.serve_message(message)
        elif isinstance(message, Unreadable):
            _refuse(channel, step_server, message)
        else:  # END
            return


def _refuse(channel: Channel, step_server: StepServer | None, message: Unreadable) -> None:
    """Answer for requests or steps that cannot be unpickled here, as ``ProcessWorker`` sent them.

    One fails. Of several, perhaps only one is to blame: they are asked for again, one by one.
    """
    error, envelope = message
    if envelope is None:
        raise error  # not the user's
    if isinstance(envelope, list):
        requests, is_alone = envelope, len(envelope) == 1
    else:
        ticket, ids = envelope
        requests, is_alone = [(0, i) for i in ids], False
        if len(ids) == 1:
            assert step_server is not None
            step_server.fail_step(ticket, ids[0], unreadable(error))
            return
    value = unreadable(error) if is_alone else SendAlone()
    channel.send_blocking([Reply(seq, sampler_id, value) for seq, sampler_id in requests])


def _answer(channel: Channel, replies: list[Reply], requests: list[Request]) -> None:
    try:
        parts = channel.pack(replies)
    except Exception:  # user code: a value that cannot be pickled fails its own request only
        parts = channel.pack(
            [
                reply._replace(value=failure)
                if (failure := unsendable(reply.value, request.command.label)) is not None
                else reply
                for reply, request in zip(replies, requests, strict=True)
            ]
        )
    channel.post_blocking(parts)


def _end_with_parent(end: socket.socket) -> None:
    """End this process soon after its parent, even if a task is still busy.

    Args:
        end: the channel's socket, whose other end the parent alone holds.
    """
    # Signals are for the main thread: a task that handles them, and the stack that is asked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    parent: Any = parent_process()
    started_by = os.getppid()
    if parent is None:
        return
    poll = select.poll()
    poll.register(end, 0)  # tells of a hang-up only: what arrives is the main thread's to read
    # Under fork, siblings hold the other end of this one open, and so it tells of nothing there.
    poll.register(parent.sentinel, select.POLLIN)
    while os.getppid() == started_by:
        for fd, event in poll.poll(_LOOK_FOR_ADOPTION_MS):
            if not event & select.POLLNVAL:
                time.sleep(_ORPHAN_GRACE_S)  # the main thread sees the same and closes the tasks
                # As that ends: it may be busy, or step on by shared memory. A parent that lives
                # reads from the code that a task closed what these descriptors were.
                os._exit(0)
            poll.unregister(fd)  # a task closed it
    time.sleep(_ORPHAN_GRACE_S)
    os._exit(1)
