"""The client of a policy server: in any process, thread or event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from vectasks._util.checks import seconds_or_none
from vectasks.errors import (
    InvalidArgument,
    LayoutError,
    PolicyServerClosed,
    ResourceLimit,
    WaitTimeout,
)
from vectasks.protocol import Failure
from vectasks.rollouts.policy_server.batching import split_rows, stack_rows
from vectasks.rollouts.policy_server.connections import (
    Connection,
    LoopConnection,
    Parts,
    connect_loop,
    end_connecting,
    is_late,
)
from vectasks.rollouts.policy_server.messages import Answer, Ask, Result, policy_error
from vectasks.rollouts.policy_server.sockets import Address, closed, connect, shown
from vectasks.spaces import tensors_to_arrays
from vectasks.transport.channel import Channel, own_channel


class PolicyClient:
    """Asks a policy server, which ``server.client()`` makes it for.

    It can be pickled, sent to any process, and used in any thread and event loop there. Each of
    these has a connection of its own, which is made when it first asks: so nobody waits for another
    one's answer, and a forked process never uses its parent's.

    Args:
        address: where the server listens.
        key: which both hold.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._address = address
        self._key = key
        self._begin()

    def _begin(self) -> None:
        """Begin without connections; in a fork too, where they are the parent's."""
        self._pid = os.getpid()
        self._seqs = itertools.count()
        self._of_thread = threading.local()
        self._of_loops: dict[asyncio.AbstractEventLoop, asyncio.Task[LoopConnection]] = {}
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()  # of all threads

    def __reduce__(self) -> Any:
        return type(self), (self._address, self._key)

    def __repr__(self) -> str:
        return f"<PolicyClient of {shown(self._address)}>"

    # -- asking ---------------------------------------------------------------------------------

    def __call__(self, observation: Any, timeout_s: float | None = None) -> Any:
        """Return the action for an observation; :meth:`ask` tells more, and raises the same.

        Args:
            observation: numbers, text, arrays, tensors, or dicts and tuples of these.
            timeout_s: how long to wait; None: until it is answered or the server is gone.
        """
        return self.ask(observation, timeout_s).action

    def ask(self, observation: Any, timeout_s: float | None = None) -> Answer:
        """Return the action for an observation, the version of the policy, and what else it gave.

        Args:
            observation: numbers, text, arrays, tensors, or dicts and tuples of these.
            timeout_s: how long to wait; None: until it is answered or the server is gone.

        Raises:
            PolicyError: the policy raised, or did not give one row for each observation.
            LayoutError: the observation does not fit what the server takes.
            PolicyServerClosed: the server was closed, or its process ended.
            WaitTimeout: it was not answered in time, and is dropped.
            InvalidArgument: the observation cannot be pickled; nothing was sent.
            ResourceLimit: there are too few descriptors to connect.
        """
        return self.ask_many([observation], timeout_s)[0]

    def ask_many(self, observations: Sequence[Any], timeout_s: float | None = None) -> list[Answer]:
        """Ask for several observations at once; return their answers in order.

        Raises:
            PolicyError, LayoutError, PolicyServerClosed, WaitTimeout, InvalidArgument: as by
                :meth:`ask`; the first of them.
        """
        timeout_s, deadline_s = _limit(timeout_s)
        self._notice_fork()
        packed = dict(self._pack(observation) for observation in observations)
        connection: Connection | None = None
        try:
            connection = self._connection(deadline_s)
            results = connection.ask(packed, deadline_s)
        except BaseException as error:  # what is late, or half sent at Ctrl-C, goes with it
            self._of_thread.connection = None
            if connection is not None:
                connection.close()
            if isinstance(error, (EOFError, OSError)):
                raise self._explained(error, timeout_s) from None
            raise
        return [_answer(result) for result in results]

    async def act(self, observation: Any, timeout_s: float | None = None) -> Any:
        """Return the action for an observation, like a call; awaited in an event loop."""
        return (await self.ask_async(observation, timeout_s)).action

    async def ask_async(self, observation: Any, timeout_s: float | None = None) -> Answer:
        """Do what :meth:`ask` does in the running event loop; many may be out at once.

        The answer to one that is cancelled, or late, is dropped when it comes.

        Raises:
            PolicyError, LayoutError, PolicyServerClosed, WaitTimeout, InvalidArgument: as there.
        """
        timeout_s, deadline_s = _limit(timeout_s)
        self._notice_fork()
        seq, parts = self._pack(observation)
        connecting = self._connecting()
        try:
            if not connecting.done():
                await asyncio.wait([connecting], timeout=timeout_s)  # it goes on, for others
                if not connecting.done():
                    raise TimeoutError
            if connecting.cancelled():  # by close()
                raise EOFError
            result = await connecting.result().ask(seq, parts, deadline_s)
        except (EOFError, OSError) as error:
            if not is_late(error):
                self._forget(connecting)
            raise self._explained(error, timeout_s) from None
        return _answer(result)

    def as_policy(self, timeout_s: float | None = None) -> ServedPolicy:
        """Return a policy for ``EpisodeRunner``, ``collect`` and ``RolloutRunner`` that asks this.

        Args:
            timeout_s: how long to wait for answers; None: as for :meth:`ask`.
        """
        return ServedPolicy(self, timeout_s)

    def _pack(self, observation: Any) -> tuple[int, Parts]:
        seq = next(self._seqs)
        try:
            return seq, Channel.pack(Ask(seq, tensors_to_arrays(observation)), seq)
        except Exception as error:  # user code: pickling runs __reduce__ and __getstate__
            raise InvalidArgument(
                f"the observation cannot be sent to the policy server ({type(error).__name__}: "
                f"{error}); give numbers, text, arrays, and dicts and tuples of these. Nothing was "
                "sent."
            ) from error

    def _explained(self, error: BaseException, timeout_s: float | None) -> Exception:
        """Return what to raise where the connection failed."""
        if isinstance(error, (PolicyServerClosed, ResourceLimit)):
            return error
        if is_late(error) and timeout_s is not None:
            return WaitTimeout(
                f"the policy server at {shown(self._address)} did not answer within "
                f"{timeout_s:g} s; what was asked is dropped.",
                sampler_ids=(),
                timeout_s=timeout_s,
            )
        return closed(self._address)

    # -- connections ------------------------------------------------------------------------------

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def _connection(self, deadline_s: float | None) -> Connection:
        """Return this thread's."""
        found: Connection | None = getattr(self._of_thread, "connection", None)
        if found is None:
            end = connect(self._address, self._key, deadline_s)
            found = self._of_thread.connection = Connection(own_channel(end))
            with self._lock:
                self._connections.add(found)
        return found

    def _connecting(self) -> asyncio.Task[LoopConnection]:
        """Return the task that makes, or has made, the running event loop's."""
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is None:
            for ended in [other for other in list(self._of_loops) if other.is_closed()]:
                end_connecting(self._of_loops.pop(ended, None))
            found = self._of_loops[loop] = loop.create_task(connect_loop(self._address, self._key))
            found.add_done_callback(self._look_at)
        return found

    def _look_at(self, connecting: asyncio.Task[LoopConnection]) -> None:
        """Have the next one try again where this one failed."""
        if connecting.cancelled() or connecting.exception() is not None:
            self._forget(connecting)

    def _forget(self, connecting: asyncio.Task[LoopConnection]) -> None:
        loop = connecting.get_loop()
        if self._of_loops.get(loop) is connecting:
            del self._of_loops[loop]

    def close(self) -> None:
        """Close this process's connections; who waits fails, and who asks next connects anew."""
        if self._pid != os.getpid():
            return
        with self._lock:
            connections = list(self._connections)
        of_loops = list(self._of_loops.items())
        self._begin()
        for connection in connections:
            connection.shut_down()  # it is closed when its thread lets go
        for loop, connecting in of_loops:
            try:
                running = asyncio.get_running_loop()
            except RuntimeError:
                running = None
            if loop.is_closed() or loop is running:
                end_connecting(connecting)
            else:
                with contextlib.suppress(RuntimeError):  # it is closed by now
                    loop.call_soon_threadsafe(end_connecting, connecting)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # its making failed
            self.close()


class ServedPolicy:
    """A policy as ``EpisodeRunner`` and ``collect`` call it, which asks a policy server.

    It returns a dict of ``"action"``, what else the server's policy gave, and
    ``"policy_version"`` [n]: which version each row is of. Memories of recurrent policies go along:
    the server's policy then sees pairs of an observation and a memory.

    Args:
        client: asks.
        timeout_s: how long it waits; None: until the server answers or is gone.
    """

    def __init__(self, client: PolicyClient, timeout_s: float | None = None) -> None:
        self._client = client
        self._timeout_s = seconds_or_none("timeout_s", timeout_s, positive=True)

    def __call__(self, *inputs: Any) -> dict[str, Any]:
        """Ask for n observations (and memories), nested leaves [n, ...].

        Raises:
            PolicyError, LayoutError, PolicyServerClosed, WaitTimeout, InvalidArgument: as
                :meth:`PolicyClient.ask`.
        """
        observations = split_rows(inputs[0] if len(inputs) == 1 else inputs)
        answers = self._client.ask_many(observations, self._timeout_s)
        decision = {
            "action": stack_rows([answer.action for answer in answers]),
            "policy_version": np.array([answer.version for answer in answers], np.int64),
        }
        extras = stack_rows([answer.extras for answer in answers])
        return {**decision, **extras}


def _answer(result: Result) -> Answer:
    if isinstance(result, Failure):
        raise policy_error(result)
    if isinstance(result, LayoutError):
        raise result
    return result


def _limit(timeout_s: float | None) -> tuple[float | None, float | None]:
    """Return a checked limit, and when it is over."""
    timeout_s = seconds_or_none("timeout_s", timeout_s, positive=True)
    return timeout_s, None if timeout_s is None else time.monotonic() + timeout_s
