"""Batched computing: a task on every batch of some data, in worker processes or in this one."""

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
from vectasks.compute.task import Result, Task

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
