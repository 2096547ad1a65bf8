"""The context of this process: an experiment's block, a job, or neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from vectasks.errors import NoExperiment


class Context(Protocol):
    """The context of a call: an experiment, or a job's process."""

    workdir: Path

    def _submit(self, task: Any, timeout_s: float | None, max_retries: int) -> Any: ...


class InJob:
    """The context of a task that is executed.

    Attributes:
        workdir: the experiment's.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir

    def _submit(self, task: Any, timeout_s: float | None, max_retries: int) -> Any:
        raise NoExperiment(
            f"submit: {type(task).__name__} was submitted by a job. Only the script that opened "
            "the experiment submits; call execute() to run a task within this one."
        )


_contexts: list[Context] = []


def enter(context: Context) -> None:
    """Make this the current context."""
    _contexts.append(context)


def leave(context: Context) -> None:
    """Restore the previous context."""
    _contexts.remove(context)


def current(what: str) -> Context:
    """Return the innermost context; ``what`` needs it.

    Raises:
        NoExperiment: there is none.
    """
    if not _contexts:
        raise NoExperiment(
            f"{what} needs an experiment around it: `with experiment(workdir, name): ...`."
        )
    return _contexts[-1]
