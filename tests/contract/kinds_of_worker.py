"""The kinds of worker that the contract suite runs over, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.testing.toys import CountingTask, ToySampler, toy_args


@dataclass(frozen=True)
class Kind:
    """One kind of worker.

    Attributes:
        start_method: None for the in-process vector.
        max_processes: None for one process per sampler.
        transport: the one that steps take.
    """

    start_method: str | None = None
    max_processes: int | None = None
    transport: str = "auto"

    @property
    def is_in_process(self) -> bool:
        return self.start_method is None

    def __str__(self) -> str:
        kind = (
            "in-process"
            if self.is_in_process
            else f"{self.start_method}-{self.max_processes or 'N'}"
        )
        return kind if self.transport == "auto" else f"{kind}-{self.transport}"

    def make(self, make_sampler_fn: Any, sampler_fn_args: Any, **options: Any) -> Any:
        """A vector of this kind."""
        options.setdefault("should_log", False)
        options.setdefault("observation_transport", self.transport)
        if self.is_in_process:
            return SingleProcessVectorSampledTasks(make_sampler_fn, sampler_fn_args, **options)
        if "mp_ctx" not in options:
            options.setdefault("multiprocessing_start_method", self.start_method)
        options.setdefault("max_processes", self.max_processes)
        options.setdefault("read_timeout", 30)
        return VectorSampledTasks(make_sampler_fn, sampler_fn_args, **options)

    def toys(self, task_class: Any = CountingTask, count: int = 4, **options: Any) -> Any:
        """A vector of toy samplers; options of the vector are given as ``vector={...}``."""
        vector = options.pop("vector", {})
        return self.make(ToySampler, toy_args(task_class, count, **options), **vector)


IN_PROCESS = Kind()
SPAWN = Kind("spawn", 2)
QUICK = (IN_PROCESS, Kind("forkserver", 2))
EVERY = (
    IN_PROCESS,
    Kind("forkserver", 1),
    Kind("forkserver", 2),
    Kind("forkserver"),
    SPAWN,
    Kind("fork", 2),
)
LANES = (Kind(transport="pipe"), Kind("forkserver", 2, "pipe"), Kind("forkserver", 2, "slab"))
