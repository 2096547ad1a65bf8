"""Batched computing: a task on every batch of some data, in worker processes or in this one."""

from vectasks.compute.batch_task import Result, Task
from vectasks.compute.handlers import (
    MeanResult,
    OnlineMeanResultsHandler,
    ResultsCollector,
    ResultsHandler,
    SumResultsHandler,
)
from vectasks.compute.manager import TaskManager
from vectasks.compute.savers import NumpySaver, Saver, ZarrSaver
from vectasks.compute.sharing import shared_array

__all__ = [
    "MeanResult",
    "NumpySaver",
    "OnlineMeanResultsHandler",
    "Result",
    "ResultsCollector",
    "ResultsHandler",
    "Saver",
    "SumResultsHandler",
    "Task",
    "TaskManager",
    "ZarrSaver",
    "shared_array",
]
