"""The policy that is served: used by one batch at a time, and changed in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vectasks.errors import PolicyServerClosed, UsageError


class HeldPolicy:
    """A policy and its version, which batches and updates take in turns.

    Whoever wants to update it comes before the next batch, however busy the server is.

    Attributes:
        policy: the policy.
        version: its version.
    """

    def __init__(self, policy: Callable[[Any], Any], version: int) -> None:
        self.policy: Callable[[Any], Any] = policy
        self.version: int = version
        self._changed = threading.Condition()
        self._num_updates = 0  # that wait, or are under way
        self._user: int | None = None  # the thread whose turn it is
        self._is_closed = False

    @contextlib.contextmanager
    def for_a_batch(self) -> Iterator[bool]:
        """Use it for one batch, once no update waits; False: it was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or (self._user is None and not self._num_updates)
            )
            is_open = not self._is_closed
            if is_open:
                self._user = threading.get_ident()
        try:
            yield is_open
        finally:
            if is_open:
                self._hand_on()

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Hold it between two batches.

        Raises:
            UsageError: by the policy itself, or inside another update of this thread.
            PolicyServerClosed: it was closed.
        """
        me = threading.get_ident()
        with self._changed:
            if self._user == me:
                raise UsageError(
                    "the policy cannot be updated from inside a batch, or inside another update: "
                    "that would wait for itself."
                )
            self._num_updates += 1
            try:
                self._changed.wait_for(lambda: self._is_closed or self._user is None)
                if self._is_closed:
                    raise PolicyServerClosed("the policy server was closed; make another one.")
            except BaseException:
                self._num_updates -= 1
                self._changed.notify_all()
                raise
            self._user = me
        try:
            yield
        finally:
            with self._changed:
                self._num_updates -= 1
            self._hand_on()

    def _hand_on(self) -> None:
        with self._changed:
            self._user = None
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no batch and no update any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
