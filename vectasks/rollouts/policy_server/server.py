"""PolicyServer: one policy that episode runners in many processes ask, in batches."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vectasks._util.checks import real_number, whole_number
from vectasks._util.closing import Closable
from vectasks.errors import InvalidArgument, PolicyServerClosed, UsageError
from vectasks.protocol import Failure
from vectasks.rollouts.devices import Device
from vectasks.rollouts.policy_server.batching import ObservationLayout
from vectasks.rollouts.policy_server.client import PolicyClient
from vectasks.rollouts.policy_server.held_policy import HeldPolicy
from vectasks.rollouts.policy_server.serving import Serving
from vectasks.rollouts.policy_server.sockets import KEY_BYTES, Listener, shown

logger: logging.Logger = logging.getLogger("vectasks")

_WILDCARDS = ("", "0.0.0.0", "::")


class PolicyServer(Closable):
    """Answers the observations of many clients by one policy, in batches.

    It lives in the process that makes it, the trainer's: a thread gathers requests and calls the
    policy. Its clients (:meth:`client`) are in any processes and threads. A batch is served as soon
    as ``max_batch`` requests wait, or ``max_wait_s`` after the server took in the first of them.

    A policy that raises fails the requests of that batch with ``PolicyError``, and the server goes
    on. An observation that does not fit fails alone, with ``LayoutError``.

    Args:
        policy: any callable that is given a batch of n observations, nested as one is (dicts and
            tuples), each leaf an array [n, *shape]. It returns a dict with ``"action"`` [n, ...],
            as for ``collect``; or a pair of actions and a dict of extras; or just the actions. All
            else in the dict goes to the clients too, each its row. Arrays, tensors (of any device),
            lists of n, and dicts and tuples of these will do. It is called by one thread.
        max_batch: how many observations a batch has at most. With as many runners as that, nobody
            waits for ``max_wait_s`` while all of them ask.
        max_wait_s: how long the first request of a batch waits for others, to the millisecond; 0:
            whoever is there when the policy is free.
        example: an observation as the policy takes it, for instance ``space.sample()``; others are
            held against its nesting, shapes and dtypes. None: the first one that comes is.
        device: where the policy wants tensors, which it then gets, without gradients; None: numpy
            arrays.
        version: of the policy; :meth:`update` counts it up.
        host: the name or address of this machine that clients on others reach it by; None: clients
            are on this machine.
        port: of the host; 0: any that is free.
        close_grace_s: how long :meth:`close` waits for the policy to return.

    Raises:
        InvalidArgument: an argument has a value that cannot be.
        LayoutError: the example is no observation.
        ResourceLimit: it cannot listen there.
        MissingExtra: tensors are wanted, and torch is not installed.
    """

    _holds = "policy server"

    def __init__(
        self,
        policy: Callable[[Any], Any],
        max_batch: int,
        max_wait_s: float,
        *,
        example: Any = None,
        device: Any = None,
        version: int = 0,
        host: str | None = None,
        port: int = 0,
        close_grace_s: float = 5.0,
    ) -> None:
        held = HeldPolicy(_checked_policy(policy), whole_number("version", version))
        max_batch = whole_number("max_batch", max_batch, at_least=1)
        max_wait_s = real_number("max_wait_s", max_wait_s)
        self._close_grace_s = real_number("close_grace_s", close_grace_s)
        port = whole_number("port", port)
        if port > 65535 or (port and host is None):
            raise InvalidArgument(f"port must be from 0 to 65535, and of a host, got {port!r}.")
        if host is not None and (not isinstance(host, str) or host in _WILDCARDS):
            raise InvalidArgument(
                "host must be the name or address of this machine that clients reach it by, as a "
                f"text, got {host!r}."
            )
        wanted = Device(device, "PolicyServer")
        self._key = os.urandom(KEY_BYTES)
        self._held = held
        layout = None if example is None else ObservationLayout(example)
        listener = Listener(host, port)
        self._address = listener.address
        self._serving = Serving(
            listener,
            self._key,
            held,
            layout=layout,
            max_batch=max_batch,
            max_wait_s=max_wait_s,
            device=wanted,
        )
        try:
            self._serving.thread.start()
        except BaseException:
            self._serving.stop()
            self._serving.forget()
            raise
        self._must_be_closed()

    def client(self) -> PolicyClient:
        """Return a client, which can be pickled, and used in any process that it is sent to.

        It holds the server's key: whoever has it can ask, and have things unpickled here.
        """
        return PolicyClient(self._address, self._key)

    @property
    def version(self) -> int:
        """The version of the policy that the next batch gets."""
        return self._held.version

    def update(
        self, policy: Callable[[Any], Any] | None = None, *, version: int | None = None
    ) -> None:
        """Swap the policy between two batches.

        When it returns, the policy of before is at work no more.

        Args:
            policy: the next one; None: it stays.
            version: its version; None: the next number.

        Raises:
            InvalidArgument: it cannot be called, or the version is no number.
            UsageError: from inside the policy or :meth:`updating`.
            PolicyServerClosed: the server was closed.
        """
        policy = None if policy is None else _checked_policy(policy)
        with self.updating(version=version):
            if policy is not None:
                self._held.policy = policy

    @contextlib.contextmanager
    def updating(self, *, version: int | None = None) -> Iterator[None]:
        """Hold the next batch back while a ``with`` block changes the policy's weights in place.

        Weights that change elsewhere, by an optimizer's step for instance, may change while a batch
        is at work, whose answers are then of both.

        Args:
            version: of the policy afterwards; None: the next number. It stays where the block
                raises.

        Raises:
            UsageError: from inside the policy or another such block.
            PolicyServerClosed: the server was closed.
        """
        if version is not None:
            version = whole_number("version", version)
        self._require_open("updating the policy")
        with self._held.updating():
            yield
            self._held.version = self._held.version + 1 if version is None else version

    def stats(self) -> dict[str, Any]:
        """Return what the server has done since it was made.

        Returns:
            a dict of ``clients`` (connections: one for each thread or event loop that asks),
            ``waiting``, ``requests``, ``answered``, ``failed`` (by the policy), ``refused``
            (observations that do not fit), ``dropped`` (their client has gone), ``batches``,
            ``failed_batches``, ``mean_batch_size``, ``mean_wait_s`` and ``longest_wait_s`` (from
            when the server took a request in to its batch's begin), ``policy_s`` (in the policy,
            with the making of its batches, all together) and ``version``.
        """
        serving = self._serving
        counts: dict[str, Any] = dict(serving.counts)
        num_served, wait_s = counts.pop("served"), counts.pop("wait_s")
        return {
            "clients": serving.num_clients,
            "waiting": serving.num_waiting,
            **counts,
            "mean_batch_size": num_served / max(1, counts["batches"]),
            "mean_wait_s": wait_s / max(1, num_served),
            "version": self.version,
        }

    # -- the end ------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it serves no more."""
        return not self._is_open or not self._serving.thread.is_alive()

    def close(self) -> None:
        """End it; works twice. Clients that wait fail with ``PolicyServerClosed`` at once.

        A policy that is at work has ``close_grace_s`` seconds to return; nothing can end it, so
        after these the thread is left to it, and ends when it returns.
        """
        self._end()

    def _end_all(self) -> Sequence[tuple[int, Failure]]:
        thread = self._serving.thread
        self._serving.stop()
        # A server that the garbage collector finds may be found by any thread, this one too.
        if thread is not threading.current_thread():
            thread.join(self._close_grace_s)
        if thread.is_alive():
            self._serving.refuse()
            logger.warning(
                "the policy of the server at %s is still at work, %g s after close()",
                *(shown(self._address), self._close_grace_s),
            )
        return []

    def _forget(self) -> None:
        self._serving.forget()

    def _require_open(self, what: str) -> None:
        if os.getpid() != self._owner_pid:
            raise UsageError(
                f"{what}: this policy server belongs to process {self._owner_pid}, and this is a "
                f"fork of it ({os.getpid()}); ask it by a client."
            )
        if self.is_closed:
            raise PolicyServerClosed(f"{what}: the policy server is closed; make another one.")


def _checked_policy(policy: Any) -> Callable[[Any], Any]:
    call = policy if inspect.isfunction(policy) else getattr(policy, "__call__", None)  # noqa: B004
    if not callable(policy) or inspect.iscoroutinefunction(call):
        raise InvalidArgument(
            f"policy must be a callable of a batch of observations, and not async, got {policy!r}."
        )
    checked: Callable[[Any], Any] = policy
    return checked
