"""The keyword arguments of a vector: described once, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vectasks._util.checks import (
    real_number,
    seconds_or_none,
    whole_number,
    whole_number_or_inf,
)
from vectasks.errors import InvalidArgument
from vectasks.sources.base import check_source

#: Of ``prepared_tasks``: more are a mistake.
MOST_PREPARED = 64

_CHOICES: dict[str, tuple[Any, ...]] = {
    "observation_transport": ("auto", "slab", "pipe"),
    "on_worker_death": ("raise", "restart"),
    "timing": (False, True, "all"),
}


@dataclass(frozen=True)
class VectorOptions:
    """The options of a vector, beside what makes its samplers.

    Attributes:
        callback_sensors: a suite with ``get_observations(env, task)``, or a sequence of sensors
            with ``uuid`` and ``get_observation(env, task)``, asked when an episode ends; the
            answer is in ``info["__AFTER_TASK_CALLBACK__"]``.
        auto_resample_when_done: go on to the next task in the step that ends one; otherwise a done
            sampler waits until all are done (or ``next_task`` is called).
        should_log: log what is started.
        read_timeout: seconds that every call waits for its answers (None: without end).
        seed: seeds the very first tasks: one per sampler, or one int: each gets it plus its id.
        heterogeneous: allow samplers whose observation spaces differ in more than their bounds;
            their results are no arrays then.
        check_actions: refuse actions outside the action space.
        observation_transport: "auto", "slab" (shared memory) or "pipe".
        on_worker_death: "raise" WorkerDied, or "restart" the worker.
        max_restarts: how many restarts within any five minutes, all workers together; a death
            beyond them, or of a worker that is being set up, is raised after all.
        start_timeout_s: seconds for the start of all workers together.
        close_grace_s: seconds that the workers have to close their tasks.
        timing: record how long everything takes, for ``stats()`` and ``trace()``. Where steps
            are short, True records some of them, which slows none; "all" records every one.
        name: what ``vectasks top --name`` finds it by.
        task_source: says what samplers' next tasks are, as a ``vectasks.sources.TaskSource`` does;
            it stays in this process. None: every sampler decides by itself.
        prepared_tasks: so many next tasks of each sampler are made by spares, in workers of their
            own, while its current one runs.

    Raises:
        InvalidArgument: one of them has a value that it cannot take.
    """

    callback_sensors: Any = None
    auto_resample_when_done: bool = True
    should_log: bool = True
    read_timeout: float | None = 60
    seed: int | Sequence[int] | None = None
    heterogeneous: bool = False
    check_actions: bool = True
    observation_transport: Literal["auto", "slab", "pipe"] = "auto"
    on_worker_death: Literal["raise", "restart"] = "raise"
    max_restarts: float = 10
    start_timeout_s: float | None = 300
    close_grace_s: float = 5.0
    timing: bool | Literal["all"] = False
    name: str | None = None
    task_source: Any = None
    prepared_tasks: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if not any(isinstance(value, type(one)) and value == one for one in choices):
                *others, last = map(repr, choices)
                raise InvalidArgument(
                    f"{name}={value!r} is unknown; use {', '.join(others)} or {last}."
                )
        checked = {
            "read_timeout": seconds_or_none("read_timeout", self.read_timeout),
            "start_timeout_s": seconds_or_none("start_timeout_s", self.start_timeout_s),
            "close_grace_s": real_number("close_grace_s", self.close_grace_s),
            "max_restarts": whole_number_or_inf("max_restarts", self.max_restarts),
            "prepared_tasks": whole_number("prepared_tasks", self.prepared_tasks, at_least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # as Python's numbers
        if self.prepared_tasks > MOST_PREPARED:
            raise InvalidArgument(
                f"prepared_tasks={self.prepared_tasks}: each is a host of its own, in further "
                f"worker processes; it must be from 0 to {MOST_PREPARED}, and 1 to 4 are usual."
            )
        if self.task_source is not None:
            try:
                object.__setattr__(self, "task_source", check_source(self.task_source))
            except TypeError as error:
                raise InvalidArgument(f"task_source: {error}") from None
