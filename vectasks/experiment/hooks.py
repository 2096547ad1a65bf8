"""Hooks: what a class's jobs need of their environment."""

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
        """Become a hook of a class."""
        return submit_hook_decorator(self)(cls)

    @abstractmethod
    def spec(self) -> Hashable:
        """What it asks for: of hooks of one class with the same spec, a job gets one."""

    @abstractmethod
    def process(self, job: Job, launcher: Launcher) -> None:
        """Change the job: ``job.environ["JAVA_HOME"] = ...``."""


def submit_hook_decorator(hook: SubmitHook) -> Callable[[type[ConfigT]], type[ConfigT]]:
    """What makes a hook one of a Config or Task class: ``@submit_hook_decorator(hook)``."""

    def decorate(cls: type[ConfigT]) -> type[ConfigT]:
        cls.__hooks__ = (*cls.__hooks__, hook)
        return cls

    return decorate


def apply_hooks(configs: Iterable[Config], job: Job, launcher: Launcher) -> None:
    """Have the hooks of some configs change a job, each spec once."""
    hooks = {(type(hook), hook.spec()): hook for config in configs for hook in config.__hooks__}
    for hook in hooks.values():
        hook.process(job, launcher)
