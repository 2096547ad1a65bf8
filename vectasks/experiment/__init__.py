"""Small reproducible experiments: configs, jobs, dependencies, caches.

A task is a config that computes something; submitted in an experiment, it runs in a process of its
own, after the tasks whose outputs it holds, and once: the same config is the same job for ever.
"""

from vectasks.errors import FailedExperiment
from vectasks.experiment.cache import cache
from vectasks.experiment.config import Config, Task, tag
from vectasks.experiment.hooks import SubmitHook, submit_hook_decorator
from vectasks.experiment.job import Job, JobState
from vectasks.experiment.launchers import Launcher, LocalLauncher, SlurmLauncher
from vectasks.experiment.parameters import Constant, Meta, Param, field, pathgenerator
from vectasks.experiment.scheduling import experiment

__all__ = [
    "Config",
    "Constant",
    "FailedExperiment",
    "Job",
    "JobState",
    "Launcher",
    "LocalLauncher",
    "Meta",
    "Param",
    "SlurmLauncher",
    "SubmitHook",
    "Task",
    "cache",
    "experiment",
    "field",
    "pathgenerator",
    "submit_hook_decorator",
    "tag",
]
