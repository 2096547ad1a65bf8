"""A child process and the channel to it: how any kind of worker starts, hangs up and ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from vectasks._util import gym_registry
from vectasks._util.interrupts import ctrl_c
from vectasks.transport.channel import Channel, channel_pair
from vectasks.workers import child, stacks
from vectasks.workers.forkserver import server
from vectasks.workers.popen import is_ours, process_class
from vectasks.workers.randomness import WorkerSeed

#: Held while a child is started or asked whether it has ended.
_start_lock = threading.RLock()

#: So long may a process take to end after it has hung up.
LONGEST_EXIT_S = 1.0


class ChildProcess:
    """A child process and the channel to it: how any kind of worker starts, hangs up and ends.

    Args:
        name: what the process is called.
        context: the multiprocessing context that starts it.
        daemon: a daemonic child may not start children of its own.
        rerun_main: let the child import the user's ``__main__`` again, as CPython's default is.
    """

    def __init__(
        self, name: str, context: BaseContext, *, daemon: bool = False, rerun_main: bool = False
    ) -> None:
        self._name = name
        self._context = context
        self._daemon = daemon
        self._rerun_main = rerun_main
        self._past_bytes = 0  # through channels that are closed
        self._process: Any = None
        self._channel: Channel | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def channel_bytes(self) -> int:
        """Bytes that went through its channels, both ways."""
        return self._past_bytes + (0 if self._channel is None else self._channel.num_bytes)

    @property
    def exitcode(self) -> int | None:
        """The exit code of the process that was started; None while it runs."""
        with _start_lock:  # a start asks every child, and of two who ask at once one is misled
            exitcode: int | None = self._process.exitcode
        return exitcode

    @property
    def has_hung_up(self) -> bool:
        """True if the other end of the channel is closed and every message was taken in."""
        return self._channel is None or self._channel.has_ended

    def begin(self, main: Callable[..., None], *args: Any) -> None:
        """Start the process, which runs ``main(child.Start, *args)``.

        It is not waited for.
        """
        with _ctrl_c_held_back(self._context):
            self._begin(main, args)

    def _seed(self) -> WorkerSeed | None:
        """Return the seed of the process that is started now."""
        return None

    def _begin(self, main: Callable[..., None], args: tuple[Any, ...]) -> None:
        channel, there = channel_pair()
        is_fork = self._context.get_start_method() == "fork"
        # A forked child has the registrations already.
        registrations = None if is_fork else gym_registry.registrations()
        process = process_class(self._context)(
            target=main,
            args=(child.Start(there, registrations, self._seed()), *args),
            name=self._name,
            daemon=self._daemon,
        )
        try:
            # A forked child runs nothing again, and would inherit what is held here.
            with contextlib.nullcontext() if is_fork else _prepared(self._rerun_main):
                process.start()
        except BaseException:
            channel.close()
            raise
        finally:
            there.close()
        self._process, self._channel = process, channel

    def take_in(self) -> list[Any]:
        """The messages that have come, perhaps none; ``Unreadable`` for what cannot be rebuilt."""
        messages: list[Any] = []
        channel = self._channel
        if channel is not None and channel.events & select.POLLOUT:
            with contextlib.suppress(OSError):  # what cannot be sent shows as the end, below
                channel.pump()
        while channel is not None:
            try:
                message = channel.receive()
            except EOFError:
                break
            if message is not None:
                messages.append(message)
            if not channel.has_news:  # what comes from now on wakes those who wait
                break
        return messages

    def descriptors(self) -> list[tuple[int, int]]:
        """The channel, and the process's sentinel: it becomes readable when the process dies."""
        if self._process is None:
            return []
        end = (self._process.sentinel, select.POLLIN)
        if self._channel is None:
            return [end]
        return [(self._channel.fileno(), self._channel.events), end]

    def ask_to_end(self) -> None:
        """Send END."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(child.END)

    def has_ended(self) -> bool:
        """Tell whether the process has ended; take in its last messages, so that it can end."""
        if self._process is None:
            return True
        # Asked before the channel is emptied, so that nothing can arrive in between.
        ended = self.exitcode is not None
        for message in self.take_in():
            self._take_late(message)
        if self.has_hung_up:
            self._close_channel()  # only the process itself is waited for now
        return ended

    def _take_late(self, message: Any) -> None:
        """Take in a message that came while the process was ending."""

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def let_go(self) -> None:
        """Close the channel and forget the process, which is killed if it still runs."""
        self._close_channel()
        if self._process is not None:
            if self.exitcode is None:
                self._process.kill()
                self._process.join()
            stacks.forget(self._process.pid)
            self._process.close()
            self._process = None

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._past_bytes += self._channel.num_bytes
            self._channel.close()
            self._channel = None


@contextlib.contextmanager
def _ctrl_c_held_back(context: BaseContext) -> Iterator[None]:
    """Start a child whole, and one in which Ctrl-C waits until the child ignores it.

    Half started, or not ignoring it yet, a child would end with a traceback. So would the fork
    server: it keeps Ctrl-C blocked, and its children unblock it.
    """
    start_method = context.get_start_method()
    ctrl_c.hold()
    with _somewhere():
        if start_method != "fork":  # its start would let Ctrl-C through again
            multiprocessing.resource_tracker.ensure_running()
        if start_method == "forkserver" and not is_ours(context):
            multiprocessing.forkserver.ensure_running()  # its other children are to get Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        if start_method == "forkserver" and is_ours(context):
            with _somewhere():
                server.ensure_running()
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ctrl_c.let_go()


@contextlib.contextmanager
def _prepared(rerun_main: bool) -> Iterator[None]:
    """Start a child that is prepared in another way than CPython's.

    CPython tells a child which file was ``__main__``, and the child runs it: that asks for an
    ``if __name__ == "__main__"`` guard and imports again whatever the script imports. Workers need
    none of it, since functions of ``__main__`` travel by value; only ``rerun_main`` asks for it.

    CPython tells a child the path of the working directory too. One that was deleted has none.

    There are no options for either, so what this thread sends is changed while the child starts.
    """
    original = multiprocessing.spawn.get_preparation_data
    starting_thread = threading.get_ident()

    def prepare(name: str) -> dict[str, Any]:
        if threading.get_ident() != starting_thread:
            return original(name)
        with _somewhere() as is_elsewhere:
            data = dict(original(name))
        link = f"/proc/{os.getpid()}/cwd"  # on Linux, it leads to a deleted directory too
        if is_elsewhere and Path(link).exists():
            data["dir"] = link
        if not rerun_main:
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    with _start_lock:
        multiprocessing.spawn.get_preparation_data = prepare
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original


@contextlib.contextmanager
def _somewhere() -> Iterator[bool]:
    """Leave a working directory that was deleted for a while; says whether it was.

    It has no path, and Python 3.13 may fail to start there.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        here = os.open(".", os.O_RDONLY)
        os.chdir("/")  # nobody misses it: a path relative to a deleted directory leads nowhere
        try:
            yield True
        finally:
            os.fchdir(here)
            os.close(here)
    else:
        yield False


def _renew_lock() -> None:
    global _start_lock
    _start_lock = threading.RLock()  # the thread that held it is not in this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
