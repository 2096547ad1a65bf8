"""Every exception that vectasks raises.

::

    VectasksError
    ├── UsageError                    the call was wrong: nothing was sent, nothing changed
    │   ├── InvalidArgument           (ValueError) unknown command, mode, start method, ...
    │   │   ├── WrongCount            one value per sampler was expected
    │   │   ├── SpaceMismatch         the samplers' spaces do not go together
    │   │   └── InvalidAction         an action outside its space
    │   ├── SamplerIndexError         (IndexError) no unpaused sampler at that index
    │   ├── WorkerIndexError          (IndexError) no worker of a pool has that number
    │   ├── AlreadyPending            (RuntimeError) a step or another call is still out
    │   ├── NothingPending            (RuntimeError) wait_step without async_step
    │   ├── VectorClosed              (RuntimeError) the vector is closed
    │   ├── PoolClosed                (RuntimeError) the worker pool is closed
    │   ├── SchedulerUnavailable      (RuntimeError) not started, stopped, or of another event loop
    │   ├── UnknownBatch              (LookupError) nothing was ever scheduled under this batch id
    │   ├── SamplerUnavailable        (RuntimeError) exhausted, failed, paused or busy
    │   ├── NoExperiment              (RuntimeError) a task was submitted outside of an experiment
    │   ├── ManifestBusy              (RuntimeError) another run is writing to this manifest
    │   └── DisplayUnavailable        (RuntimeError) "human" rendering without a screen
    ├── LayoutError                   (ValueError) a value does not fit the declared space
    ├── RemoteError                   the user's code raised where the sampler lives
    │   ├── SetupError                make_sampler_fn or the first task failed
    │   ├── TaskError                 a command failed in a task or a sampler
    │   │   └── TaskAttributeError    (AttributeError) the attribute does not exist
    │   ├── CallError                 a method of an object in a worker pool failed
    │   └── PolicyError               the policy of a PolicyServer failed
    ├── WorkerDied                    (EOFError) a worker process ended
    ├── TaskSourceError               (RuntimeError) a task source raised, or gave no mapping
    ├── PolicyServerClosed            (ConnectionError) a policy server was closed, or has died
    ├── ResourceLimit                 (OSError) the system grants too little to start workers
    ├── MissingExtra                  (ModuleNotFoundError) a package of an extra is not installed
    ├── RecordingError                (ValueError) a recording cannot be written or read
    ├── FailedExperiment              (RuntimeError) jobs of an experiment failed or were cancelled
    ├── ManifestError                 (ValueError) a manifest or its run log is damaged
    └── WaitTimeout                   (TimeoutError, multiprocessing.TimeoutError) no answer in time

    RemoteTraceback                   the ``__cause__`` of a RemoteError: its traceback as text

The names in brackets are the built-in exceptions that each can also be caught as.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "AlreadyPending",
    "CallError",
    "DisplayUnavailable",
    "FailedExperiment",
    "InvalidAction",
    "InvalidArgument",
    "LayoutError",
    "ManifestBusy",
    "ManifestError",
    "MissingExtra",
    "NoExperiment",
    "NothingPending",
    "PolicyError",
    "PolicyServerClosed",
    "PoolClosed",
    "RecordingError",
    "RemoteError",
    "RemoteTraceback",
    "ResourceLimit",
    "SamplerIndexError",
    "SamplerUnavailable",
    "SchedulerUnavailable",
    "SetupError",
    "SpaceMismatch",
    "TaskAttributeError",
    "TaskError",
    "TaskSourceError",
    "UnknownBatch",
    "UsageError",
    "VectasksError",
    "VectorClosed",
    "WaitTimeout",
    "WorkerDied",
    "WorkerIndexError",
    "WrongCount",
]

#: Stands for the exit code of a child that has ended, and how is not known.
UNKNOWN_EXITCODE = 256


class VectasksError(Exception):
    """Base of everything that vectasks raises."""


class UsageError(VectasksError):
    """The call was wrong; it was refused before anything was sent."""


class InvalidArgument(UsageError, ValueError):
    """An argument has a value that the call cannot take."""


class WrongCount(InvalidArgument):
    """A list does not hold one value per sampler."""


class SpaceMismatch(InvalidArgument):
    """Samplers have spaces that do not go together."""


class InvalidAction(InvalidArgument):
    """An action lies outside its sampler's action space."""


class SamplerIndexError(UsageError, IndexError):
    """There is no unpaused sampler at this index."""


class WorkerIndexError(UsageError, IndexError):
    """No worker of a pool has this number."""


class AlreadyPending(UsageError, RuntimeError):
    """A step (or another thread's call) is still out."""


class NothingPending(UsageError, RuntimeError):
    """There is no step to wait for."""


class VectorClosed(UsageError, RuntimeError):
    """The vector was closed."""


class PoolClosed(UsageError, RuntimeError):
    """The worker pool was closed."""


class SchedulerUnavailable(UsageError, RuntimeError):
    """The scheduler was not started, was stopped, or is called outside its event loop."""


class UnknownBatch(UsageError, LookupError):
    """Nothing was ever scheduled under this batch id."""


class SamplerUnavailable(UsageError, RuntimeError):
    """A sampler is in a state that does not allow the command."""


class NoExperiment(UsageError, RuntimeError):
    """There is no experiment around the call."""


class ManifestBusy(UsageError, RuntimeError):
    """Another run is writing to this manifest."""


class DisplayUnavailable(UsageError, RuntimeError):
    """A window was asked for where there is no screen."""


class MissingExtra(VectasksError, ModuleNotFoundError):
    """A package that only an extra installs cannot be imported."""


class RecordingError(VectasksError, ValueError):
    """A recording cannot be written or read."""


class ManifestError(VectasksError, ValueError):
    """A manifest or its run log is damaged, or of a newer version; it was left as it is."""


class _Detailed:
    """An error whose attributes are pickled with it, beside its message."""

    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self._state())

    def _state(self) -> dict[str, Any]:
        return dict(vars(self))


class _Recorded(_Detailed):
    """An error that carries what is needed to replay the failed episodes."""

    #: Recordings by sampler id; one for each sampler that failed in the same call.
    recordings: Mapping[int, Any] = {}
    #: The errors of the other samplers that failed in the same call, by sampler id.
    also_failed: Mapping[int, LayoutError | RemoteError | WorkerDied] = {}
    #: What the other samplers answered to the same call, by sampler id.
    results: Mapping[int, Any] = {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recordings into a file: ``vectasks replay PATH`` reproduces the failure.

        Raises:
            RecordingError: there are none (the error was pickled, say), or they cannot be pickled.
            OSError: the file cannot be written.
        """
        save = getattr(self.recordings, "save", None)
        if save is None:
            raise RecordingError(
                "This error carries no recording: it was pickled, or it is of close(). Save it "
                "where it was raised."
            )
        save(path)

    def _state(self) -> dict[str, Any]:
        """Return what is pickled with the error: nothing that only cloudpickle can pickle."""
        return {name: value for name, value in vars(self).items() if name != "recordings"}


class LayoutError(_Recorded, VectasksError, ValueError):
    """A value does not have the shape or dtype that its space declares.

    Attributes:
        results: what the other samplers answered to the same call, by sampler id.
    """


class RemoteError(_Recorded, VectasksError):
    """The user's code raised in a worker.

    Attributes:
        sampler_id: the sampler it happened in; None in a worker of a pool.
        worker: the pool's worker it happened in; None in a vector.
        command: the name of the command or method that was running.
        remote_traceback: the traceback as text, as it was formatted where it happened.
        results: what the other samplers answered to the same call, by sampler id.
    """

    def __init__(
        self,
        message: str,
        *,
        sampler_id: int | None = None,
        worker: int | None = None,
        command: str,
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.sampler_id = sampler_id
        self.worker = worker
        self.command = command
        self.remote_traceback = remote_traceback


class SetupError(RemoteError):
    """``make_sampler_fn`` or the first task failed, or a pool's ``make_object``."""


class TaskError(RemoteError):
    """A command failed in a task, a task sampler or a callback sensor."""


class TaskAttributeError(TaskError, AttributeError):
    """The task or sampler has no such attribute."""


class TaskSourceError(VectasksError, RuntimeError):
    """A task source raised, gave what is no mapping, or had no task to begin with."""


class CallError(RemoteError):
    """A method of an object that lives in a worker pool failed."""


class PolicyError(RemoteError):
    """The policy of a ``PolicyServer`` failed on the batch that a request was in."""


class WorkerDied(_Recorded, VectasksError, EOFError):
    """A worker ended without being asked to.

    Attributes:
        worker: the worker's number, from 0.
        sampler_ids: the samplers that lived in it; none in a pool.
        exitcode: its exit code; minus the signal's number where a signal ended it; None if unknown.
        results: what the other samplers answered to the same call, by sampler id.
    """

    def __init__(
        self, message: str, *, worker: int, sampler_ids: Sequence[int] = (), exitcode: int | None
    ) -> None:
        super().__init__(message)
        self.worker = worker
        self.sampler_ids: tuple[int, ...] = tuple(sampler_ids)
        self.exitcode: int | None = None if exitcode == UNKNOWN_EXITCODE else exitcode


class FailedExperiment(_Detailed, VectasksError, RuntimeError):
    """Jobs of an experiment were not done; the message says which and why.

    Attributes:
        jobs: these jobs.
    """

    def __init__(self, message: str, *, jobs: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.jobs: tuple[Any, ...] = tuple(jobs)


class PolicyServerClosed(VectasksError, ConnectionError):
    """A policy server was closed, or its process ended, before it answered."""


class ResourceLimit(VectasksError, OSError):
    """The system grants too few descriptors, processes or memory; nothing is left running."""


class WaitTimeout(_Detailed, VectasksError, TimeoutError, multiprocessing.TimeoutError):
    """The samplers did not answer in time; nothing changed, and waiting again is allowed.

    Attributes:
        sampler_ids: the samplers that are awaited.
        timeout_s: how long was waited.
        stacks: the Python stack of each late worker, innermost call first, by the worker's number;
            one that is stopped, or still starts, has none. Not asked for by a wait of 0 seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        sampler_ids: Sequence[int],
        timeout_s: float,
        stacks: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.sampler_ids: tuple[int, ...] = tuple(sampler_ids)
        self.timeout_s = timeout_s
        self.stacks: dict[int, str] = dict(stacks or {})


class RemoteTraceback(Exception):
    """Carries the text of a remote traceback as the ``__cause__`` of a :class:`RemoteError`."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


def _rebuild(
    kind: type[VectasksError], args: tuple[Any, ...], state: dict[str, Any]
) -> VectasksError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
