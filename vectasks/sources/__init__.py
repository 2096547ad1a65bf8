"""Task sources: one stream of tasks for all samplers of a vector."""

from vectasks.sources.base import EpisodeOutcome, TaskSource, check_source
from vectasks.sources.curricula import LearningProgressTasks, PrioritizedTasks
from vectasks.sources.measures import from_metric
from vectasks.sources.mixture import TaskMixture
from vectasks.sources.streams import TaskList, TasksFrom

__all__ = [
    "EpisodeOutcome",
    "LearningProgressTasks",
    "PrioritizedTasks",
    "TaskList",
    "TaskMixture",
    "TaskSource",
    "TasksFrom",
    "check_source",
    "from_metric",
]
