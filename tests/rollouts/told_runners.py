"""A runner that does what its tasks say, and what tests of the scheduler wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from vectasks.rollouts.scheduler import Scheduler, Status

PATIENCE_S = 30.0
HUNG_S = 0.5  # what a task may take where some hang


class Runner:
    """Does what its task says; waits are for files that the test makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, task: Any, run_id: int) -> dict[str, Any]:
        name, *rest = task if isinstance(task, tuple) else (task,)
        self.tell(f"at {name}")
        if name == "raise":
            raise ValueError("bad task")
        if name == "hang":
            self.wait_for("never")
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "once":  # fails in its first attempt
            first = not (self.folder / "tried").exists()
            (self.folder / "tried").touch()
            if first:
                self.run(rest[0], run_id)
        if name == "gate":  # and then does what comes behind it
            self.wait_for(rest[0])
            for then in rest[1:]:
                self.run(then, run_id)
        return {"task": task, "run_id": run_id, "pid": os.getpid(), "metrics": {"run": run_id}}

    def tell(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{line}\n")

    def wait_for(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.002)


def is_gate(task: Any) -> bool:
    return isinstance(task, tuple) and task[0] == "gate"


class AsyncRunner(Runner):
    """The same, awaiting."""

    async def run(self, task: Any, run_id: int) -> Any:  # type: ignore[override]
        while task == "hang" or (is_gate(task) and not (self.folder / task[1]).exists()):
            await asyncio.sleep(0.002)
        return super().run(task, run_id)


Main = Callable[[Scheduler], Awaitable[Any]]


def runner_of(folder: Path, backend: Any, runner: Any) -> Callable[..., Any]:
    """Runs a coroutine function with a started scheduler."""

    def run(main: Main, num_runners: int = 2, **options: Any) -> Any:
        async def start() -> Any:
            options.setdefault("close_grace_s", 0.5)
            options.setdefault("make_runner", lambda: runner(folder))
            async with Scheduler(num_runners=num_runners, backend=backend, **options) as scheduler:
                return await asyncio.wait_for(main(scheduler), PATIENCE_S)

        return asyncio.run(start())

    return run


def num_ok(statuses: list[Status]) -> int:
    return sum(status.ok for status in statuses)


async def log_has(folder: Path, line: str, count: int = 1) -> None:
    log = folder / "log"
    while not log.exists() or log.read_text().splitlines().count(line) < count:
        await asyncio.sleep(0.002)


async def until_done(scheduler: Scheduler, batch_id: Any, count: int) -> None:
    while scheduler.stats()["batches"][batch_id]["done"] < count:
        await asyncio.sleep(0.002)
