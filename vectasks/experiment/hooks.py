"""Hooks: they prepare the environment of a class's jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from vectasks.experiment.config import Config
from vectasks.experiment.job import Job
from vectasks.experiment.launchers import Launcher

ConfigT = TypeVar("ConfigT", bound=Config)


class SubmitHook(ABC):
    """Changes the environment of the jobs of a class, when they are submitted.

    An instance decorates a Config or Task class: ``@needs_java(11)``. It is applied to the jobs of
    that task and its subclasses, and of the tasks that have such a config among their parameters.
    """

    def __call__(self, cls: type[ConfigT]) -> type[ConfigT]:
        """Add this hook to a class."""
        cls.__hooks__ = (*cls.__hooks__, self)
        return cls

    @abstractmethod
    def spec(self) -> Hashable:
        """Return what it asks for: of hooks of one class with the same spec, a job gets one."""

    @abstractmethod
    def process(self, job: Job, launcher: Launcher) -> None:
        """Change the job: ``job.environ["JAVA_HOME"] = ...``."""


def submit_hook_decorator(hook: SubmitHook) -> Callable[[type[ConfigT]], type[ConfigT]]:
    """Decorate a Config or Task class with a hook: ``@submit_hook_decorator(hook)``."""
    return hook


def apply_hooks(configs: Iterable[Config], job: Job, launcher: Launcher) -> None:
    """Apply the hooks of some configs to a job, each spec once."""
    hooks = {(type(hook), hook.spec()): hook for config in configs for hook in config.__hooks__}
    for hook in hooks.values():
        hook.process(job, launcher)
