"""The thread that serves a policy: it gathers requests, calls the policy and answers.

::

    clients ── Ask ──> sockets ──> queue ── max_batch, or max_wait_s ──> policy
       ^                                                                   │
       └──────────────── Told, one message a client and batch <────────────┘

One thread does all of it: while the policy is at work there is nobody to gather requests for, and
they wait in their sockets. It never waits for a client: what a socket does not take at once goes
later. So a client that dies, stops or says nonsense holds up nobody.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import select
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from vectasks.errors import LayoutError
from vectasks.protocol import Failure
from vectasks.rollouts.devices import Device, without_gradients
from vectasks.rollouts.policy_server import sockets
from vectasks.rollouts.policy_server.batching import ObservationLayout, split_decision
from vectasks.rollouts.policy_server.held_policy import HeldPolicy
from vectasks.rollouts.policy_server.messages import Answer, Ask, Result, Told
from vectasks.spaces import map_leaves
from vectasks.transport.channel import Channel, Unreadable

logger: logging.Logger = logging.getLogger("vectasks")

_LONGEST_INTRODUCTION_S = 60.0  # of whoever connects, until it has shown that it holds the key
_NO_DESCRIPTORS_PAUSE_S = 1.0


class Peer:
    """The server's end of one client's connection.

    It is a stranger, of whom nothing is unpickled, until it has shown that it holds the key.

    Args:
        end: the socket, which is closed with this.
        key: what it must hold.

    Attributes:
        late_s: by when it must have shown it.
        is_gone: whether it was closed.
    """

    def __init__(self, end: socket.socket, key: bytes) -> None:
        self._socket = end
        self._key = key
        self._nonce = os.urandom(sockets.NONCE_BYTES)
        self._introduction = b""
        self._channel: Channel | None = None
        self.late_s: float = time.monotonic() + _LONGEST_INTRODUCTION_S
        self.is_gone: bool = False
        self.events = selectors.EVENT_READ
        end.send(self._nonce)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> list[Any]:
        """Take in what has come, and send what waits.

        Raises:
            EOFError: it has hung up, or does not hold the key.
            OSError: the same.
        """
        if self._channel is None:
            self._take_introduction()
            if self._channel is None:
                return []
        self._channel.pump()
        messages = []
        while self._channel.has_news:
            messages.append(self._channel.receive())
        return messages

    def _take_introduction(self) -> None:
        wanted = sockets.NONCE_BYTES + sockets.PROOF_BYTES - len(self._introduction)
        try:
            received = self._socket.recv(wanted)
        except BlockingIOError:
            return
        if not received:
            raise EOFError
        self._introduction += received
        if len(received) < wanted:
            return
        nonces = self._nonce, self._introduction[: sockets.NONCE_BYTES]
        given = self._introduction[sockets.NONCE_BYTES :]
        if not sockets.is_proof(given, self._key, b"client", *nonces):
            logger.warning("a policy server refused a client that does not hold its key")
            raise EOFError
        self._socket.send(sockets.proof(self._key, b"server", *nonces))
        self._channel = Channel(self._socket)

    @property
    def is_stranger(self) -> bool:
        """Whether it has not yet shown that it holds the key."""
        return self._channel is None

    def post(self, parts: list[memoryview]) -> None:
        """Send a packed message; what does not go at once goes with later calls of ``receive``.

        Raises:
            OSError: it has hung up.
        """
        assert self._channel is not None
        self._channel.post(parts)

    @property
    def wanted_events(self) -> int:
        """What to wait for."""
        has_unsent = self._channel is not None and self._channel.events & select.POLLOUT
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if has_unsent else 0)

    def shut_down(self) -> None:
        """Have the client see the end, from any thread; the server's thread closes it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self.is_gone = True
        self._socket.close()


class _Request(NamedTuple):
    peer: Peer
    seq: int
    leaves: list[NDArray[Any]]
    came_s: float


class Serving:
    """Serves a policy until it is told to stop.

    Args:
        listener: where clients come from; it is closed with this.
        key: what clients must hold.
        held: the policy.
        layout: of the observations; None: that of the first one that comes.
        max_batch: how many observations the policy gets at most.
        max_wait_s: how long the first of a batch waits for others.
        device: where the policy wants tensors.

    Attributes:
        counts: what it has done.
    """

    def __init__(
        self,
        listener: sockets.Listener,
        key: bytes,
        held: HeldPolicy,
        *,
        layout: ObservationLayout | None,
        max_batch: int,
        max_wait_s: float,
        device: Device,
    ) -> None:
        self._listener = listener
        self._key = key
        self._held = held
        self._layout = layout
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._device = device
        self._queue: deque[_Request] = deque()
        self._peers: dict[int, Peer] = {}
        self._strangers: set[Peer] = set()
        self._accept_again_s: float | None = None  # when there may be descriptors again
        self._is_stopping = False
        self.counts: dict[str, float] = dict.fromkeys(
            ("requests", "answered", "batches", "failed_batches", "failed", "refused", "dropped"), 0
        )
        self.counts.update(served=0, wait_s=0.0, longest_wait_s=0.0, policy_s=0.0)
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        self._selector.register(listener.socket, selectors.EVENT_READ, self._accept)
        self.thread: threading.Thread = threading.Thread(
            target=self._serve, name="vectasks-policy-server", daemon=True
        )

    # -- from any thread ------------------------------------------------------------------------

    @property
    def num_clients(self) -> int:
        """How many connections there are."""
        return len(self._peers)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for a batch."""
        return len(self._queue)

    def stop(self) -> None:
        """Have all clients see the end now, and the thread end after the batch it is at."""
        self._is_stopping = True
        self._held.close()
        self._listener.remove()
        for peer in list(self._peers.values()):
            peer.shut_down()
        with contextlib.suppress(OSError):  # the thread has ended
            self._ringer.send(b"!")

    def refuse(self) -> None:
        """Have nobody wait to be accepted any more, where the thread does not end."""
        self._listener.forget()

    def forget(self) -> None:
        """Close, in a forked child, what is the parent's; or here, once the thread has ended."""
        self._listener.forget()
        for peer in list(self._peers.values()):
            peer.close()
        self._selector.close()
        self._bell.close()
        self._ringer.close()

    # -- the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                for key, _ in self._selector.select(self._timeout_s()):
                    react: Callable[[], None] = key.data
                    react()
                if self._is_stopping:
                    break
                self._look_at_the_time()
                if self._is_ripe():
                    self._serve_batch()
        except BaseException:
            logger.exception("the thread of a policy server failed; the server is closed")
            raise
        finally:
            self.stop()
            self.forget()
            self._peers.clear()
            self.counts["dropped"] += len(self._queue)
            self._queue.clear()

    def _timeout_s(self) -> float | None:
        if self._is_ripe():
            return 0.0
        due_s = [peer.late_s for peer in self._strangers]
        if self._queue:
            due_s.append(self._queue[0].came_s + self._max_wait_s)
        if self._accept_again_s is not None:
            due_s.append(self._accept_again_s)
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None

    def _is_ripe(self) -> bool:
        """Tell whether the next batch is due."""
        if not self._queue:
            return False
        is_full = len(self._queue) >= self._max_batch
        return is_full or time.monotonic() - self._queue[0].came_s >= self._max_wait_s

    def _look_at_the_time(self) -> None:
        now_s = time.monotonic()
        for peer in [peer for peer in self._strangers if peer.late_s <= now_s]:
            self._drop(peer)
        if self._accept_again_s is not None and self._accept_again_s <= now_s:
            self._accept_again_s = None
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def _accept(self) -> None:
        while True:
            try:
                end = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # it has hung up already
                continue
            except OSError as error:
                if not self._is_stopping:  # whoever waits to be accepted goes on waiting
                    logger.warning("a policy server can accept no client for now: %s", error)
                    self._selector.unregister(self._listener.socket)
                    self._accept_again_s = time.monotonic() + _NO_DESCRIPTORS_PAUSE_S
                return
            try:
                peer = Peer(end, self._key)
            except OSError:  # it has hung up already
                end.close()
                continue
            self._peers[peer.fileno()] = peer
            self._strangers.add(peer)
            self._selector.register(peer, peer.events, functools.partial(self._receive, peer))

    def _receive(self, peer: Peer) -> None:
        if peer.is_gone:
            return
        try:
            for message in peer.receive():
                self._take(peer, message)
            if not peer.is_stranger:
                self._strangers.discard(peer)
            self._wait_for(peer)
        except (EOFError, OSError):
            self._drop(peer)
        except Exception:  # what holds the key and says nonsense fails itself, and nobody else
            logger.exception("a policy server dropped a client that it does not understand")
            self._drop(peer)

    def _take(self, peer: Peer, message: Any) -> None:
        self.counts["requests"] += 1
        if isinstance(message, Unreadable):
            error = LayoutError(
                "the observation cannot be rebuilt in the policy server's process "
                f"({type(message.error).__name__}: {message.error}); send arrays, numbers and text."
            )
            self._refuse(peer, message.envelope, error)
            return
        ask = Ask(*message)
        try:
            if self._layout is None:
                self._layout = ObservationLayout(ask.observation)
            leaves = self._layout.leaves_of(ask.observation)
        except LayoutError as error:
            self._refuse(peer, ask.seq, error)
            return
        self._queue.append(_Request(peer, ask.seq, leaves, time.monotonic()))

    def _refuse(self, peer: Peer, seq: int, error: LayoutError) -> None:
        self.counts["refused"] += 1
        peer.post(Channel.pack([Told(seq, error)], [seq]))

    def _wait_for(self, peer: Peer) -> None:
        """Wait for room in its socket, too, while something waits to be sent."""
        if peer.events != peer.wanted_events:
            peer.events = peer.wanted_events
            self._selector.modify(peer, peer.events, functools.partial(self._receive, peer))

    def _drop(self, peer: Peer) -> None:
        """Forget a client, and what it has asked."""
        if peer.is_gone:
            return
        left = [request for request in self._queue if request.peer is not peer]
        self.counts["dropped"] += len(self._queue) - len(left)
        self._queue = deque(left)
        del self._peers[peer.fileno()]
        self._strangers.discard(peer)
        self._selector.unregister(peer)
        peer.close()

    # -- one batch ------------------------------------------------------------------------------

    def _serve_batch(self) -> None:
        with self._held.for_a_batch() as is_open:
            if not is_open:
                return
            size = min(self._max_batch, len(self._queue))
            requests = [self._queue.popleft() for _ in range(size)]
            began_s = time.monotonic()
            results = self._decide(requests)
            ended_s = time.monotonic()
        waits_s = [began_s - request.came_s for request in requests]
        self.counts["batches"] += 1
        self.counts["served"] += len(requests)
        self.counts["policy_s"] += ended_s - began_s
        self.counts["wait_s"] += sum(waits_s)
        self.counts["longest_wait_s"] = max(self.counts["longest_wait_s"], *waits_s)
        by_peer: dict[Peer, list[Told]] = {}
        for request, result in zip(requests, results, strict=True):
            by_peer.setdefault(request.peer, []).append(Told(request.seq, result))
        for peer, told in by_peer.items():
            self._tell(peer, told)

    def _decide(self, requests: list[_Request]) -> Sequence[Result]:
        """Ask the policy; what each request is to be told."""
        assert self._layout is not None
        policy, version = self._held.policy, self._held.version
        try:
            batch = self._layout.stack([request.leaves for request in requests])
            with without_gradients(self._device.device):
                given = policy(map_leaves(self._device.send, batch))
            rows = split_decision(given, len(requests))
        except BaseException as error:  # user code: whatever it raises, the others are served
            self.counts["failed_batches"] += 1
            return [Failure.of(error)] * len(requests)
        return [Answer(action, version, extras) for action, extras in rows]

    def _tell(self, peer: Peer, told: list[Told]) -> None:
        seqs = [each.seq for each in told]
        try:
            parts = Channel.pack(told, seqs)
        except Exception as error:  # user code: pickling runs __reduce__ and __getstate__
            told = [Told(seq, _unsendable(error)) for seq in seqs]
            parts = Channel.pack(told, seqs)
        num_failed = sum(isinstance(each.result, Failure) for each in told)
        self._count(num_failed, len(told) - num_failed)  # before anybody is told, who may look
        try:
            peer.post(parts)
            self._wait_for(peer)
        except OSError:
            self._count(-num_failed, num_failed - len(told))
            self.counts["dropped"] += len(told)
            self._drop(peer)

    def _count(self, num_failed: int, num_answered: int) -> None:
        self.counts["failed"] += num_failed
        self.counts["answered"] += num_answered


def _unsendable(error: Exception) -> Failure:
    explained = pickle.PicklingError(
        f"what the policy gave cannot be sent ({type(error).__name__}: {error}); return arrays, "
        "numbers and text."
    )
    explained.__cause__ = error
    return Failure.of(explained)
