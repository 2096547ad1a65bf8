"""Inject faults, to test what survives them: your training loop, your tasks, vectasks itself.

A :class:`Fault` is an action at a place: in which sampler, at which method, at which call of it.
The task sampler stays yours; :func:`with_faults` wraps whatever makes it::

    make, args = with_faults(
        MySampler,
        arguments,
        [
            Fault(kill(), sampler=1, at="step", call=3),
            Fault(fail(ValueError("no scene")), sampler=0, at="next_task", call=2),
            Fault(slow_down(0.5), sampler=2, at="render", times=math.inf),
        ],
    )
    with VectorSampledTasks(make, args, on_worker_death="restart") as tasks:
        ...
    assert make.times_fired(0) == 1

A fault fires once, unless ``times`` says otherwise. How often it did is kept in a file, which a
worker that is restarted finds again: a worker that was killed at its third step is not killed at
the third step of its successor.

An *action* is a function of ``proceed``, the call that it stands before: it may do something, call
``proceed()`` or not, and return what came of it or something else. Those below are made that way,
and so can be your own.
"""

from __future__ import annotations

import faulthandler
import functools
import inspect
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vectasks._util.checks import real_number, whole_number, whole_number_or_inf
from vectasks.task import RLStepResult

__all__ = [
    "ACTIONS",
    "CORRUPTIONS",
    "Action",
    "Fault",
    "FaultError",
    "Proceed",
    "close_descriptors",
    "corrupt",
    "crash",
    "exit_at_once",
    "exit_python",
    "fail",
    "forget_observation",
    "hang",
    "kill",
    "misshape",
    "run_out_of_memory",
    "slow_down",
    "spin",
    "spoil_info",
    "spoil_reward",
    "stop",
    "with_faults",
]

Proceed = Callable[[], Any]
Action = Callable[[Proceed], Any]

_OF_THE_SAMPLER = ("next_task", "reset", "set_seed")
_LOOK_EVERY_S = 0.005


class FaultError(RuntimeError):
    """The error that :func:`fail` raises by default."""


@dataclass(frozen=True)
class Fault:
    """A fault at one place.

    Attributes:
        action: what happens; see the functions of this module.
        sampler: in which sampler: its position in ``sampler_fn_args``.
        at: before which method of the task ("step", "get_observations", "render", "metrics",
            "close" or any other), or of the sampler ("next_task", "reset", "set_seed";
            "sampler.close" and so on where the task has such a method as well); "make" is the
            making of the sampler.
        call: at which call of that method, from 1, counted since the sampler was made.
        times: how often it fires in all: at that call and at the ones that follow, also after the
            worker was restarted, until it has fired so often (``math.inf``: always).
    """

    action: Action
    sampler: int = 0
    at: str = "step"
    call: int = 1
    times: float = 1

    def __post_init__(self) -> None:
        if not callable(self.action):
            raise TypeError(
                f"Fault: action must be a function of the call that it stands before, got "
                f"{self.action!r}; kill() and its kin (with brackets) give such functions."
            )
        whole_number("sampler", self.sampler)
        whole_number("call", self.call, at_least=1)
        whole_number_or_inf("times", self.times, at_least=1)

    @property
    def method(self) -> str:
        """The place, written out: "sampler.next_task" for "next_task"."""
        return f"sampler.{self.at}" if self.at in _OF_THE_SAMPLER else self.at


def with_faults(
    make_sampler_fn: Callable[..., Any],
    sampler_fn_args: Sequence[Mapping[str, Any]],
    faults: Sequence[Fault],
) -> tuple[FaultyMaker, list[dict[str, Any]]]:
    """Return both arguments of a vector, such that these faults happen in its samplers.

    Args:
        make_sampler_fn: makes a task sampler, from one of ``sampler_fn_args``. Methods are replaced
            on the sampler's and the tasks' instances, so these must allow it (no ``__slots__``).
        sampler_fn_args: one dict of keywords per sampler.
        faults: what goes wrong; of two at the same call, the first comes first.

    Raises:
        ValueError: a fault's sampler does not exist.
    """
    for fault in faults:
        if not 0 <= fault.sampler < len(sampler_fn_args):
            raise ValueError(
                f"with_faults: there is no sampler {fault.sampler}; the {len(sampler_fn_args)} "
                "samplers are numbered from 0."
            )
    arguments = [{**args, "fault_sampler": number} for number, args in enumerate(sampler_fn_args)]
    return FaultyMaker(make_sampler_fn, faults), arguments


class FaultyMaker:
    """Makes task samplers with faults, and counts those that fired; made by :func:`with_faults`."""

    def __init__(self, make_sampler_fn: Callable[..., Any], faults: Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        self._make_sampler_fn = make_sampler_fn
        self._home_pid = os.getpid()
        self._records = Path(tempfile.mkdtemp(prefix="vectasks-faults-"))
        self._remove = weakref.finalize(self, _remove_records, self._records, self._home_pid)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_remove"}

    @property
    def __signature__(self) -> inspect.Signature:
        # Hosts look here for ``mp_ctx``, which only some samplers take.
        try:
            return inspect.signature(self._make_sampler_fn)
        except (TypeError, ValueError):
            raise AttributeError("__signature__") from None

    def __call__(self, *, fault_sampler: int, **arguments: Any) -> Any:
        """Make a task sampler from its arguments, in which its faults will happen."""
        return _Watch(self, fault_sampler).make(arguments)

    def times_fired(self, number: int) -> int:
        """Count how often the fault at this position has fired, in whichever process."""
        try:
            return self._record(number).stat().st_size
        except FileNotFoundError:
            return 0

    def wait_until_fired(self, number: int, timeout_s: float = 30.0) -> None:
        """Wait for a fault to fire; it is then being carried out, in whichever process.

        Raises:
            TimeoutError: it has not within so many seconds.
        """
        deadline = time.monotonic() + real_number("timeout_s", timeout_s, finite=False)
        while not self.times_fired(number):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.faults[number]} did not fire within {timeout_s:g} s.")
            time.sleep(_LOOK_EVERY_S)

    def fire(self, number: int, proceed: Proceed) -> Any:
        """Record that a fault fires, and carry it out."""
        action = self.faults[number].action
        if getattr(action, "ends_process", False) and os.getpid() == self._home_pid:
            raise FaultError(
                f"{self.faults[number]} would end or stop your own process: samplers of "
                "SingleProcessVectorSampledTasks live in it. Use VectorSampledTasks."
            )
        with self._record(number).open("ab", buffering=0) as record:
            record.write(b"x")
        return action(proceed)

    def _record(self, number: int) -> Path:
        return self._records / str(number)


def _remove_records(records: Path, home_pid: int) -> None:
    if os.getpid() == home_pid:  # a forked worker has a copy of this finalizer
        shutil.rmtree(records, ignore_errors=True)


class _Watch:
    """Counts the calls of one sampler and its tasks, and fires the faults that are due."""

    def __init__(self, maker: FaultyMaker, sampler: int) -> None:
        self._maker = maker
        self._numbers = [n for n, fault in enumerate(maker.faults) if fault.sampler == sampler]
        self._calls: Counter[str] = Counter()

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """Make the sampler, with its faults."""
        make_sampler_fn = self._maker._make_sampler_fn
        sampler = self.run("make", functools.partial(make_sampler_fn, **arguments))
        self._replace(sampler, "sampler")
        next_task = sampler.next_task

        def watched_next_task(**keywords: Any) -> Any:
            task = next_task(**keywords)
            if task is not None:
                self._replace(task, "")
            return task

        sampler.next_task = watched_next_task
        return sampler

    def run(self, method: str, proceed: Proceed) -> Any:
        """Make one call: carry out the faults that are due, or else the call itself."""
        self._calls[method] += 1
        for number in reversed(self._numbers):
            fault = self._maker.faults[number]
            if (
                fault.method == method
                and self._calls[method] >= fault.call
                and self._maker.times_fired(number) < fault.times
            ):
                proceed = functools.partial(self._maker.fire, number, proceed)
        return proceed()

    def _replace(self, target: Any, whose: str) -> None:
        """Replace the methods of an instance that have a fault: of a "sampler", or of a task."""
        methods = {self._maker.faults[number].method for number in self._numbers}
        for method in methods - {"make"}:
            owner, _, name = method.rpartition(".")
            if owner != whose:
                continue
            original = getattr(target, name)
            if not isinstance(original, _WatchedMethod):  # samplers may give one task twice
                setattr(target, name, _WatchedMethod(self, method, original))


class _WatchedMethod:
    def __init__(self, watch: _Watch, method: str, original: Callable[..., Any]) -> None:
        self._watch, self._method, self._original = watch, method, original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        proceed = functools.partial(self._original, *args, **kwargs)
        return self._watch.run(self._method, proceed)


# -- actions: the code raises ---------------------------------------------------------------------


def fail(error: BaseException | Callable[[], BaseException] = FaultError) -> Action:
    """Raise: an exception, or one that a class or function makes where the fault happens.

    In one process, an exception that is given keeps alive what it went through when it was raised
    (its traceback does); one that is made each time does not.
    """

    def act(proceed: Proceed) -> Any:
        raise error if isinstance(error, BaseException) else error()

    return act


def run_out_of_memory() -> Action:
    """Raise the MemoryError of a failed allocation; there is memory again afterwards."""

    def act(proceed: Proceed) -> Any:
        import resource  # there is none on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1, hard))
        try:
            bytearray(1 << 30)
            raise MemoryError("this system does not limit a process's memory")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return act


# -- actions: the process ends --------------------------------------------------------------------


def _ending_the_process(action: Action) -> Action:
    action.ends_process = True  # type: ignore[attr-defined]
    return action


def kill(signum: int = signal.SIGKILL) -> Action:
    """Send the process a signal; the kernel sends SIGKILL, too, when memory runs out."""

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        os.kill(os.getpid(), signum)
        return proceed()

    return act


def exit_at_once(code: int = 1) -> Action:
    """Exit the process without cleaning up, by ``os._exit``."""

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        os._exit(code)

    return act


def exit_python(code: int = 1) -> Action:
    """Call ``sys.exit``: the process ends unless somebody catches SystemExit."""
    code = whole_number("code", code)

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        sys.exit(code)

    return act


def crash() -> Action:
    """Crash the process by a segmentation fault."""

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        import ctypes

        faulthandler.disable()  # it is known where this comes from
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)

    return act


def close_descriptors() -> Action:
    """Close every descriptor from 3 on, also those of the worker's connections."""

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.closerange(3, min(soft, 1 << 16))
        return proceed()

    return act


# -- actions: nothing comes, or late --------------------------------------------------------------


def hang() -> Action:
    """Wait forever, without using the core."""

    def act(proceed: Proceed) -> Any:
        threading.Event().wait()

    return act


def spin() -> Action:
    """Compute without end."""

    def act(proceed: Proceed) -> Any:
        while True:
            pass

    return act


def stop() -> Action:
    """Stop the process (SIGSTOP); it goes on as before when it is continued."""

    @_ending_the_process
    def act(proceed: Proceed) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return proceed()

    return act


def slow_down(seconds: float) -> Action:
    """Sleep so many seconds, then make the call."""
    seconds = real_number("seconds", seconds)

    def act(proceed: Proceed) -> Any:
        time.sleep(seconds)
        return proceed()

    return act


# -- actions: what comes is wrong -----------------------------------------------------------------


def corrupt(change: Callable[[Any], Any]) -> Action:
    """Return the result changed by ``change``, by :func:`misshape` for instance."""

    def act(proceed: Proceed) -> Any:
        return change(proceed())

    return act


def misshape(result: Any) -> Any:
    """For :func:`corrupt`: make the observation (of a step, or by itself) float64 [7, 7]."""
    return _with_observation(result, np.zeros((7, 7), np.float64))


def forget_observation(result: Any) -> Any:
    """For :func:`corrupt`: make the observation (of a step, or by itself) None."""
    return _with_observation(result, None)


def spoil_reward(result: Any) -> Any:
    """For :func:`corrupt`: make the reward of a step a word."""
    return RLStepResult(*result)._replace(reward="much")


def spoil_info(result: Any) -> Any:
    """For :func:`corrupt`: put a lock, which cannot be pickled, into the info of a step."""
    return RLStepResult(*result)._replace(info={"lock": threading.Lock()})


def _with_observation(result: Any, observation: Any) -> Any:
    if isinstance(result, tuple) and hasattr(result, "reward"):
        return RLStepResult(*result)._replace(observation=observation)
    return observation


#: Everything that a fault can do, as the table of docs/reliability.md has it.
ACTIONS = (
    fail,
    run_out_of_memory,
    kill,
    exit_at_once,
    exit_python,
    crash,
    close_descriptors,
    hang,
    spin,
    stop,
    slow_down,
    corrupt,
)
#: Ready-made changes for :func:`corrupt`.
CORRUPTIONS = (misshape, forget_observation, spoil_reward, spoil_info)
