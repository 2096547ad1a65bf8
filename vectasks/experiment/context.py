"""Where this process is: in an experiment's block, in a job, or in neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from vectasks.errors import NoExperiment


class Context(Protocol):
    """What surrounds a call: an experiment, or a job's process."""

    workdir: Path

    def _submit(self, task: Any, timeout_s: float | None, max_retries: int) -> Any: ...


class InJob:
    """The surroundings of a task that is executed.

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
    """Make it the current one."""
    _contexts.append(context)


def leave(context: Context) -> None:
    """Go back to the one before."""
    _contexts.remove(context)


def current(what: str) -> Context:
    """The innermost one; ``what`` needs it.

    Raises:
        NoExperiment: there is none.
    """
    if not _contexts:
        raise NoExperiment(
            f"{what} needs an experiment around it: `with experiment(workdir, name): ...`."
        )
    return _contexts[-1]
