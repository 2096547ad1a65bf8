"""vectasks: samples reinforcement-learning tasks in parallel."""

import logging

from vectasks._version import __version__
from vectasks.batch import StepBatch
from vectasks.errors import (
    AlreadyPending,
    DisplayUnavailable,
    InvalidAction,
    InvalidArgument,
    LayoutError,
    NothingPending,
    RemoteError,
    SamplerIndexError,
    SamplerUnavailable,
    SetupError,
    TaskAttributeError,
    TaskError,
    UsageError,
    VectasksError,
    VectorClosed,
    WaitTimeout,
    WorkerDied,
    WrongCount,
)
from vectasks.host import COMPLETE_TASK_CALLBACK_KEY, COMPLETE_TASK_METRICS_KEY
from vectasks.ledger import SamplerState, VectorState
from vectasks.messages import Command
from vectasks.suggest import Suggestion, suggest_max_processes
from vectasks.task import RLStepResult, Task, TaskLike, TaskSampler, TaskSamplerLike
from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = [
    "COMPLETE_TASK_CALLBACK_KEY",
    "COMPLETE_TASK_METRICS_KEY",
    "AlreadyPending",
    "Command",
    "DisplayUnavailable",
    "InvalidAction",
    "InvalidArgument",
    "LayoutError",
    "NothingPending",
    "RLStepResult",
    "RemoteError",
    "SamplerIndexError",
    "SamplerState",
    "SamplerUnavailable",
    "SetupError",
    "SingleProcessVectorSampledTasks",
    "StepBatch",
    "Suggestion",
    "Task",
    "TaskAttributeError",
    "TaskError",
    "TaskLike",
    "TaskSampler",
    "TaskSamplerLike",
    "UsageError",
    "VectasksError",
    "VectorClosed",
    "VectorSampledTasks",
    "VectorState",
    "WaitTimeout",
    "WorkerDied",
    "WrongCount",
    "__version__",
    "suggest_max_processes",
]

logging.getLogger("vectasks").addHandler(logging.NullHandler())
