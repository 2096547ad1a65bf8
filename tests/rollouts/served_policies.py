"""Policies that wait for the test, and what clients in other processes do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vectasks.rollouts import PolicyClient

PATIENCE_S = 30.0
LONG_S = 3600.0  # a wait that no test waits for


def double(observations: Any) -> Any:
    """Twice the first number of each."""
    return 2 * observations[:, 0]


class GatedPolicy:
    """Notes the sizes of its batches, and waits in those that the test names.

    Args:
        gated: the numbers of the batches that wait for :meth:`open_gate`, from 0.
    """

    def __init__(self, *gated: int) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self._gated = gated
        self._gate = threading.Event()

    def __call__(self, observations: Any) -> Any:
        self.sizes.append(len(observations))
        if len(self.sizes) - 1 in self._gated:
            self.entered.set()
            assert self._gate.wait(PATIENCE_S)
        return double(observations)

    def wait_until_entered(self) -> None:
        assert self.entered.wait(PATIENCE_S)

    def open_gate(self) -> None:
        self._gate.set()


class Asking:
    """A thread that asks, and what came of it."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._ask()
        except BaseException as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert self.is_done
        if self._error is not None:
            raise self._error
        return self._result


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def see(number: float) -> Any:
    """An observation."""
    return np.array([number, 0.0], np.float32)


def ask_in_child(client: PolicyClient, number: float, pipe: Any) -> None:
    """Send what the server answers."""
    pipe.send(client.ask(see(number), PATIENCE_S))
    pipe.close()


def ask_and_be_killed(client: PolicyClient, number: float, pipe: Any) -> None:
    """Ask, and die of it when the pipe says so."""
    killer = threading.Thread(target=_die_when_told, args=(pipe,), daemon=True)
    killer.start()
    client.ask(see(number))


def _die_when_told(pipe: Any) -> None:
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)
