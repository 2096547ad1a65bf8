"""Things that the workers of a pool hold, and that tests of it wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0


class Unpicklable(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)
        self.lock = threading.Lock()


class Unbuildable:
    """Can be pickled, and not be built again."""

    def __reduce__(self) -> Any:
        return refuse, ()


class Late:
    """Cannot be pickled, for a reason that looks like one of sockets."""

    def __reduce__(self) -> Any:
        raise TimeoutError("too late for that")


def refuse() -> None:
    raise ValueError("not here")


class Thing:
    """The object that workers hold; waits are for files that the test makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Any] = []

    def note(self, value: Any) -> list[Any]:
        self.calls.append(value)
        return list(self.calls)

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def wait_for(self, name: str) -> str:
        (self.folder / f"at {name}").touch()
        while not (self.folder / name).exists():
            time.sleep(0.002)
        return name

    def fail(self) -> None:
        raise KeyError("no such thing")

    def fail_oddly(self) -> None:
        raise Unpicklable("odd", "one")

    def give(self, what: str) -> Any:
        return {"lock": threading.Lock, "late": Late, "unbuildable": Unbuildable}[what]()

    def die(self, how: str) -> None:
        if how == "exit":
            os._exit(3)
        if how == "sys.exit":
            sys.exit(4)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os.closerange(3, 512)  # descriptors that are not its own
        self.wait_for("never")

    async def sum_later(self, one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    def close(self) -> None:
        with (self.folder / "closed").open("a") as file:
            file.write("closed\n")


def error_of(future: Future[Any]) -> BaseException | None:
    return future.exception(PATIENCE_S)


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.002)
