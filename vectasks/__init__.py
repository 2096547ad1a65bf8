"""vectasks: samples reinforcement-learning tasks in parallel.

Names are imported when they are first used, so that ``import vectasks`` costs next to nothing, and
a worker imports only what it needs.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from vectasks._version import __version__

if TYPE_CHECKING:
    from vectasks.batch import StepBatch
    from vectasks.errors import (
        AlreadyPending,
        CallError,
        DisplayUnavailable,
        FailedExperiment,
        InvalidAction,
        InvalidArgument,
        LayoutError,
        ManifestBusy,
        ManifestError,
        MissingExtra,
        NoExperiment,
        NothingPending,
        PolicyError,
        PolicyServerClosed,
        PoolClosed,
        RecordingError,
        RemoteError,
        ResourceLimit,
        SamplerIndexError,
        SamplerUnavailable,
        SchedulerUnavailable,
        SetupError,
        SpaceMismatch,
        TaskAttributeError,
        TaskError,
        TaskSourceError,
        UnknownBatch,
        UsageError,
        VectasksError,
        VectorClosed,
        WaitTimeout,
        WorkerDied,
        WorkerIndexError,
        WrongCount,
    )
    from vectasks.host.task_host import COMPLETE_TASK_CALLBACK_KEY, COMPLETE_TASK_METRICS_KEY
    from vectasks.protocol import Command, SamplerState, VectorState
    from vectasks.suggest import Suggestion, suggest_max_processes
    from vectasks.task import RLStepResult, Task, TaskLike, TaskSampler, TaskSamplerLike
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = [
    "COMPLETE_TASK_CALLBACK_KEY",
    "COMPLETE_TASK_METRICS_KEY",
    "AlreadyPending",
    "CallError",
    "Command",
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
    "RLStepResult",
    "RecordingError",
    "RemoteError",
    "ResourceLimit",
    "SamplerIndexError",
    "SamplerState",
    "SamplerUnavailable",
    "SchedulerUnavailable",
    "SetupError",
    "SingleProcessVectorSampledTasks",
    "SpaceMismatch",
    "StepBatch",
    "Suggestion",
    "Task",
    "TaskAttributeError",
    "TaskError",
    "TaskLike",
    "TaskSampler",
    "TaskSamplerLike",
    "TaskSourceError",
    "UnknownBatch",
    "UsageError",
    "VectasksError",
    "VectorClosed",
    "VectorSampledTasks",
    "VectorState",
    "WaitTimeout",
    "WorkerDied",
    "WorkerIndexError",
    "WrongCount",
    "__version__",
    "suggest_max_processes",
]

_HOMES = {
    "batch": ["StepBatch"],
    "host.task_host": ["COMPLETE_TASK_CALLBACK_KEY", "COMPLETE_TASK_METRICS_KEY"],
    "protocol": ["Command", "SamplerState", "VectorState"],
    "suggest": ["Suggestion", "suggest_max_processes"],
    "task": ["RLStepResult", "Task", "TaskLike", "TaskSampler", "TaskSamplerLike"],
    "vector": ["SingleProcessVectorSampledTasks", "VectorSampledTasks"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

logging.getLogger("vectasks").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The exceptions are all that is not listed.
    module = importlib.import_module(f"vectasks.{_HOME_OF.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
