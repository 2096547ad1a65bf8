"""Helpers of the tests of deaths and of restarts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from vectasks import SamplerState
from vectasks.testing import toy_args
from vectasks.testing.faults import (
    Action,
    Fault,
    Proceed,
    close_descriptors,
    crash,
    exit_at_once,
    exit_python,
    fail,
    hang,
    kill,
    with_faults,
)
from vectasks.testing.toys import CountingTask, ToySampler

READY, FAILED = SamplerState.READY, SamplerState.FAILED
AT_ONCE_S = 10.0  # far below every timeout here, far above what a busy machine needs


def faulty(
    kind: Any, faults: list[Fault], task_class: Any = CountingTask, **vector: Any
) -> tuple[Any, Any]:
    """A vector of four samplers in which these faults happen, and what made them."""
    make, args = with_faults(ToySampler, toy_args(task_class, 4, max_steps=9), faults)
    return kind.make(make, args, **vector), make


def mates(kind: Any, sampler_id: int) -> tuple[int, ...]:
    """The samplers that live in the same worker."""
    per_worker = {None: 1, 1: 4, 2: 2}[kind.max_processes]
    first = sampler_id - sampler_id % per_worker
    return tuple(range(first, first + per_worker))


@contextmanager
def noticed_at_once() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_S


class Death(NamedTuple):
    action: Action
    exitcode: int | None
    told: str


def out_of_reach() -> Action:
    """Close all descriptors, and stay without a word."""
    shut, stay = close_descriptors(), hang()
    return lambda proceed: shut(lambda: stay(proceed))


DEATHS = {
    "SIGKILL": Death(kill(), -9, "SIGKILL"),
    "SIGTERM": Death(kill(signal.SIGTERM), -15, "SIGTERM"),
    "real-time signal": Death(kill(signal.SIGRTMIN + 3), -37, "37"),
    "segfault": Death(crash(), -11, "SIGSEGV"),
    "os._exit": Death(exit_at_once(7), 7, "code 7"),
    "sys.exit": Death(exit_python(3), 3, "code 3"),
    "sys.exit(0)": Death(exit_python(0), 0, "code 0"),
    "KeyboardInterrupt": Death(fail(KeyboardInterrupt), 1, "code 1"),
    "closed descriptors": Death(out_of_reach(), None, "descriptors"),
}

COMMANDS: dict[str, tuple[str, int, Callable[[Any], Any]]] = {
    "step_batch": ("step", 1, lambda tasks: tasks.step_batch([0] * 4)),
    "send": ("step", 1, lambda tasks: (tasks.send([0] * 4), tasks.recv())),
    "step_at": ("step", 1, lambda tasks: tasks.step_at(2, 0)),
    "next_task": ("next_task", 2, lambda tasks: tasks.next_task()),
    "reset_all": ("reset", 1, lambda tasks: tasks.reset_all()),
    "set_seeds": ("set_seed", 1, lambda tasks: tasks.set_seeds(3)),
    "get_observations": ("get_observations", 2, lambda tasks: tasks.get_observations()),
    "render": ("render", 1, lambda tasks: tasks.render("raw_rgb_list")),
    "call": ("add", 1, lambda tasks: tasks.call("add", [(1, 2)] * 4)),
    "call_sampler": ("sampler.scale", 1, lambda tasks: tasks.call_sampler("scale", [2] * 4)),
}


def end_idle_worker(tasks: Any, sampler_id: int) -> None:
    """Kill the worker of a sampler that is asked nothing, and wait until it is dead."""
    pid = tasks.call_at(sampler_id, "pid")
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end_of(pid)


def wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


IDLE: dict[str, Callable[[Any], Any]] = {
    "step": lambda tasks: tasks.step([0] * 4),
    **{name: reach for name, (_, _, reach) in COMMANDS.items()},
}


def hold_until(path: Path) -> Action:
    """An action that waits for a file."""
    name = str(path)

    def act(proceed: Proceed) -> Any:
        while not os.path.exists(name):  # noqa: PTH110  (travels by value)
            time.sleep(0.002)
        return proceed()

    return act
