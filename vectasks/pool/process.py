"""The workers of a pool in processes of their own.

::

    any thread                    the pool's thread                     worker
    submit ── Call ──────────────────── socket ──────────────────────>  calls the method
      └ its future is queued
                                  waits for sockets and sentinels  <──  Answer
                                  the oldest future of that worker

One thread a pool waits, for the channels and the ends of all workers together, so answers, deaths
and deadlines are events. It never waits for a worker: whoever restarts one waits for its end.
A worker answers in the order in which it was asked, which is why messages carry no number. A call
that was cancelled is answered too, and its answer dropped.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from vectasks.errors import ResourceLimit, SetupError
from vectasks.pool.backend import (
    RESTARTED,
    PoolBackend,
    death,
    unsendable_call,
    unsendable_object,
)
from vectasks.pool.futures import CallFuture, Cancellable
from vectasks.pool.objects import Call
from vectasks.pool.worker_process import Out, Settle, WorkerProcess
from vectasks.protocol import Failure, how_it_ended
from vectasks.transport.channel import Channel
from vectasks.workers.base import start_failed
from vectasks.workers.child_process import LONGEST_EXIT_S
from vectasks.workers.shutdown import end_workers
from vectasks.workers.starting import (
    DEFAULT_START_METHOD,
    DESCRIPTORS_A_WORKER,
    require_descriptors,
    start_context,
)

logger: logging.Logger = logging.getLogger("vectasks")


class ProcessBackend(PoolBackend):
    """Objects in child processes; arguments are as for ``WorkerPool``.

    Raises:
        ResourceLimit: a worker could not be started; none is left.
        InvalidArgument: ``make_object`` cannot be pickled.
    """

    def __init__(
        self,
        make_object: Callable[[], Any],
        num_workers: int,
        *,
        start_timeout_s: float | None,
        daemon: bool,
        tells_begun: bool,
    ) -> None:
        each = DESCRIPTORS_A_WORKER + 2  # both ends of its cancellation tokens
        require_descriptors(num_workers, "num_workers", each=each)
        try:
            self._first_message = Channel.pack(make_object)
        except Exception as error:  # user code: pickling runs __reduce__ and __getstate__
            raise unsendable_object(error) from error
        self._start_timeout_s = start_timeout_s
        context = start_context(DEFAULT_START_METHOD, None, ())
        self._new_worker = functools.partial(
            WorkerProcess, context=context, daemon=daemon, tells_begun=tells_begun
        )
        self._lock = threading.RLock()
        self._restarting = [threading.Lock() for _ in range(num_workers)]
        self._workers = [self._new_worker(number) for number in range(num_workers)]
        self._grace_s: float | None = None  # set when it is to end
        # By descriptor: whose it is, and whether it tells of the end; None: to be found again.
        self._watched: dict[int, tuple[WorkerProcess, bool]] | None = None
        self._poll = select.poll()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._thread = threading.Thread(target=self._serve, name="vectasks-pool", daemon=True)
        try:
            for worker in self._workers:
                self._start(worker)
            self._thread.start()
        except BaseException:
            for worker in self._workers:
                worker.let_go()
            self.forget()
            raise

    def _start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
        except (OSError, EOFError) as error:
            if isinstance(error, TimeoutError):  # it is of a handler of a signal
                raise
            count = len(self._workers)
            raise start_failed(worker.number, count, error, "num_workers") from error
        with self._lock:
            if self._start_timeout_s is not None:
                worker.deadline_s = time.monotonic() + self._start_timeout_s
            worker.ask(Out("setup", None), self._first_message)
            worker.end = None

    # -- from any thread ------------------------------------------------------------------------

    def submit(self, worker: int, call: Call) -> CallFuture:
        """Send the call."""
        packed = _packed(worker, call)
        future = CallFuture()
        future.set_running_or_notify_cancel()
        with self._lock:
            asked = self._workers[worker]
            end = asked.end
            if end is None:
                asked.ask(Out(call.method, future), packed)
                if asked.is_clogged:
                    self._look_anew()
        if end is not None:
            future.set_exception(end())
        return future

    def submit_ahead(self, worker: int, call: Call) -> CallFuture | None:
        """Send the call and a cancellation token for it."""
        packed = _packed(worker, call)
        with self._lock:
            asked = self._workers[worker]
            if asked.end is not None or not asked.has_room_ahead:
                return None
            future = Cancellable(functools.partial(self._cancel, asked))
            asked.ask_ahead(Out(call.method, future, is_ahead=True), packed)
            if asked.is_clogged:
                self._look_anew()
        return future

    def _cancel(self, worker: WorkerProcess, future: Future[Any]) -> bool:
        with self._lock:
            return worker.cancel(future)

    def restart(self, worker: int) -> None:
        """Kill the process and start another."""
        with self._restarting[worker]:
            with self._lock:
                old = self._workers[worker]
                if self._grace_s is not None:
                    return
                new = self._workers[worker] = self._new_worker(worker)
                old.end = old.end or (lambda: death(worker, RESTARTED))
                failed = old.abandon()
                self._look_anew()
            for settled in failed:
                settled()
            old.let_go()
            self._start_anew(new)

    def _start_anew(self, worker: WorkerProcess) -> None:
        try:
            self._start(worker)
        except ResourceLimit as error:
            text = f"could not be restarted: {error}"
            worker.end = lambda: death(worker.number, text)
            raise
        finally:
            self._look_anew()

    def is_alive(self, worker: int) -> bool:
        """Tell whether its process runs, as far as is known."""
        return self._workers[worker].end is None

    @property
    def pids(self) -> list[int | None]:
        """Of the processes that run."""
        with self._lock:
            return [None if worker.end is not None else worker.pid for worker in self._workers]

    def close(self, grace_s: float) -> Sequence[tuple[int, Failure]]:
        """Let the thread end all, and wait for it."""
        with self._lock:
            self._grace_s = grace_s
            self._ring()
        # A pool that the garbage collector finds may be found by any thread, this one too.
        if self._thread is threading.current_thread():
            return []
        self._thread.join()
        return [(w.number, w.last_words) for w in self._workers if w.last_words is not None]

    def forget(self) -> None:
        """Close the bell."""
        self._bell.close()
        self._ringer.close()

    def _look_anew(self) -> None:
        """Have the thread find out again what it waits for."""
        with self._lock:
            self._watched = None
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it has been rung so often that it will be heard
            self._ringer.send(b"!")

    # -- the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while self._grace_s is None:
                for settled in self._take_in(self._wait()):
                    settled()
        except BaseException:
            logger.exception("the thread of a worker pool failed; its workers are ended")
            raise
        finally:
            self._end()

    def _wait(self) -> dict[WorkerProcess, bool]:
        """The workers with news, and whether each has ended."""
        # Without the lock, which callers may hold: what they change rings the bell.
        watched = self._watched
        if watched is None:
            with self._lock:
                watched = self._watched = self._watch()
        news: dict[WorkerProcess, bool] = {}
        for descriptor, _ in self._poll.poll(self._timeout_ms()):
            if descriptor in watched:
                worker, is_sentinel = watched[descriptor]
                news[worker] = news.get(worker, False) or is_sentinel
            else:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
        return news

    def _watch(self) -> dict[int, tuple[WorkerProcess, bool]]:
        """Wait for all descriptors that there are now; whose each is."""
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        watched = {}
        for worker in self._workers:
            descriptors = worker.descriptors()
            for descriptor, events in descriptors:
                self._poll.register(descriptor, events)
                is_sentinel = descriptor == descriptors[-1][0]
                watched[descriptor] = worker, is_sentinel
        return watched

    def _timeout_ms(self) -> float | None:
        deadlines = [at_s for w in self._workers if (at_s := w.deadline_s) is not None]
        if not deadlines:
            return None
        return max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1

    def _take_in(self, news: dict[WorkerProcess, bool]) -> list[Settle]:
        """Take in answers; handle the exits of workers that ended, kill those that are late."""
        settled: list[Settle] = []
        with self._lock:
            for worker, has_ended in news.items():
                if self._workers[worker.number] is not worker:
                    continue  # it was replaced meanwhile
                was_clogged, had_hung_up = worker.is_clogged, worker.has_hung_up
                settled += worker.take_answers()
                if has_ended:
                    settled += self._handle_exit(worker)
                elif worker.has_hung_up and not had_hung_up:
                    # It is about to end, as a rule; if not, it is out of reach.
                    worker.deadline_s = time.monotonic() + LONGEST_EXIT_S
                    self._watched = None
                elif was_clogged and not worker.is_clogged:
                    self._watched = None
            now = time.monotonic()
            for worker in self._workers:
                if worker.deadline_s is not None and worker.deadline_s <= now:
                    self._overdue(worker)
        return settled

    def _handle_exit(self, worker: WorkerProcess) -> list[Settle]:
        exitcode = worker.exitcode
        if worker.end is None:
            worker.end = lambda: death(worker.number, how_it_ended(exitcode), exitcode)
        worker.deadline_s = None
        logger.warning("pool worker %d %s", worker.number, how_it_ended(exitcode))
        worker.let_go()
        self._watched = None
        return worker.abandon()

    def _overdue(self, worker: WorkerProcess) -> None:
        """Kill it; its end is noticed as any other."""
        worker.deadline_s = None
        if worker.has_hung_up:
            worker.end = lambda: death(worker.number, how_it_ended(None))
        else:
            worker.end = lambda: SetupError(
                f"the object of worker {worker.number} was not made within "
                f"{self._start_timeout_s:g} s, and the worker was killed; start_timeout_s sets how "
                "long is waited.",
                worker=worker.number,
                command="setup",
            )
        worker.kill()

    def _end(self) -> None:
        with self._lock:
            self._grace_s = grace_s = self._grace_s or 0.0  # from now on, none is restarted
        for restarting in self._restarting:
            restarting.acquire()
        with self._lock:
            for worker in self._workers:
                worker.close()
        try:
            end_workers(self._workers, grace_s)
        finally:
            for worker in self._workers:
                worker.let_go()
                for settled in worker.abandon():
                    settled()
            self.forget()


def _packed(worker: int, call: Call) -> list[memoryview]:
    try:
        return Channel.pack(call)
    except Exception as error:  # user code
        raise unsendable_call(worker, call, error) from error
