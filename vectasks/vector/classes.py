"""The two vectors: one over worker processes, and its equal in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal

from vectasks._util.checks import whole_number
from vectasks.vector.api import BaseVectorSampledTasks
from vectasks.vector.exclusive import also_named
from vectasks.vector.options import VectorOptions
from vectasks.vector.places import ChildOptions, InProcesses, InThisProcess
from vectasks.workers.starting import DEFAULT_START_METHOD, start_context

__all__ = ["SingleProcessVectorSampledTasks", "VectorSampledTasks"]


class VectorSampledTasks(BaseVectorSampledTasks):
    """Samples tasks in parallel: worker processes own the task samplers, this object steps them.

    Args:
        make_sampler_fn: makes a task sampler; any callable that cloudpickle can carry. It is
            called in the worker, with one of ``sampler_fn_args`` as keywords, and with ``mp_ctx``
            if it has a parameter of that name.
        sampler_fn_args: one dict of keywords per sampler; they are never changed.
        callback_sensors: a suite with ``get_observations(env, task)``, or a sequence of sensors
            with ``uuid`` and ``get_observation(env, task)``, asked when an episode ends; the
            answer is in ``info["__AFTER_TASK_CALLBACK__"]``.
        auto_resample_when_done: go on to the next task in the step that ends one; otherwise a done
            sampler waits until all are done (or ``next_task`` is called).
        multiprocessing_start_method: "forkserver", "spawn" or "fork".
        mp_ctx: a context of ``multiprocessing`` or ``torch.multiprocessing``, instead of that.
        should_log: log what is started.
        max_processes: so many workers at most, the samplers spread evenly (None: one each).
        read_timeout: seconds that every call waits for its answers (None: without end).
        seed: seeds the very first tasks: one per sampler, or one int: each gets it plus its id.
        heterogeneous: allow samplers whose observation spaces differ in more than their bounds;
            their results are no arrays then.
        check_actions: refuse actions outside the action space.
        observation_transport: "auto", "slab" (shared memory) or "pipe".
        on_worker_death: "raise" WorkerDied, or "restart" the worker.
        max_restarts: how many restarts within any five minutes, all workers together; a death
            beyond them, or of a worker that is being set up, is raised after all.
        preload: modules that the forkserver imports before it forks the first worker.
        rerun_main: let workers import the script that is ``__main__`` again, as CPython does.
        start_timeout_s: seconds for the start of all workers together.
        close_grace_s: seconds that the workers have to close their tasks.
        daemon: make workers daemonic; they may then start no processes of their own.
        timing: record how long everything takes, for :meth:`stats` and :meth:`trace`. Where steps
            are short, True records some of them, which slows none; "all" records every one.
        name: what ``vectasks top --name`` finds it by.
        task_source: says what samplers' next tasks are, as a ``vectasks.sources.TaskSource`` does;
            it stays in this process. None: every sampler decides by itself.
        prepared_tasks: so many next tasks of each sampler are made by spares, in workers of their
            own, while its current one runs; a step that ends an episode then waits for no reset.
            Samplers should not share workers then: one that makes a task steps nobody meanwhile.

    Raises:
        InvalidArgument: an argument has a value that it cannot take.
        SetupError: a sampler could not be made or has no first task; nothing is left running.
        TaskSourceError: the task source raised, or has no first task for a sampler.
        ResourceLimit: there are too few descriptors for so many workers; nothing was started.
    """

    @also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None = None,
        callback_sensors: Any = None,
        auto_resample_when_done: bool = True,
        multiprocessing_start_method: str | None = DEFAULT_START_METHOD,
        mp_ctx: BaseContext | None = None,
        should_log: bool = True,
        max_processes: int | None = None,
        read_timeout: float | None = 60,
        *,
        seed: int | Sequence[int] | None = None,
        heterogeneous: bool = False,
        check_actions: bool = True,
        observation_transport: Literal["auto", "slab", "pipe"] = "auto",
        on_worker_death: Literal["raise", "restart"] = "raise",
        max_restarts: int = 10,
        preload: Sequence[str] = (),
        rerun_main: bool = False,
        start_timeout_s: float | None = 300,
        close_grace_s: float = 5.0,
        daemon: bool = False,
        timing: bool | Literal["all"] = False,
        name: str | None = None,
        task_source: Any = None,
        prepared_tasks: int = 0,
    ) -> None:
        if max_processes is not None:
            max_processes = whole_number("max_processes", max_processes, at_least=1)
        context = start_context(multiprocessing_start_method, mp_ctx, preload)

        options = VectorOptions(
            callback_sensors=callback_sensors,
            auto_resample_when_done=auto_resample_when_done,
            should_log=should_log,
            read_timeout=read_timeout,
            seed=seed,
            heterogeneous=heterogeneous,
            check_actions=check_actions,
            observation_transport=observation_transport,
            on_worker_death=on_worker_death,
            max_restarts=max_restarts,
            start_timeout_s=start_timeout_s,
            close_grace_s=close_grace_s,
            timing=timing,
            name=name,
            task_source=task_source,
            prepared_tasks=prepared_tasks,
        )
        place = InProcesses(
            context,
            ChildOptions(max_processes=max_processes, daemon=daemon, rerun_main=rerun_main),
        )
        start_method = context.get_start_method()
        super().__init__(make_sampler_fn, sampler_fn_args, options, place, start_method)


class SingleProcessVectorSampledTasks(BaseVectorSampledTasks):
    """The equal of :class:`VectorSampledTasks` in this process: same interface, no processes.

    For debugging, and for tasks that cost less than waking a process. Arguments are those of
    :class:`VectorSampledTasks`; the ones that only processes need are accepted and ignored.
    """

    @also_named(sampler_fn_args_list="sampler_fn_args", callback_sensor_suite="callback_sensors")
    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None = None,
        callback_sensors: Any = None,
        auto_resample_when_done: bool = True,
        should_log: bool = True,
        *,
        multiprocessing_start_method: str | None = None,
        mp_ctx: BaseContext | None = None,
        max_processes: int | None = None,
        read_timeout: float | None = 60,
        seed: int | Sequence[int] | None = None,
        heterogeneous: bool = False,
        check_actions: bool = True,
        observation_transport: Literal["auto", "slab", "pipe"] = "auto",
        on_worker_death: Literal["raise", "restart"] = "raise",
        max_restarts: int = 10,
        preload: Sequence[str] = (),
        rerun_main: bool = False,
        start_timeout_s: float | None = 300,
        close_grace_s: float = 5.0,
        daemon: bool = False,
        timing: bool | Literal["all"] = False,
        name: str | None = None,
        task_source: Any = None,
        prepared_tasks: int = 0,
    ) -> None:
        options = VectorOptions(
            callback_sensors=callback_sensors,
            auto_resample_when_done=auto_resample_when_done,
            should_log=should_log,
            read_timeout=read_timeout,
            seed=seed,
            heterogeneous=heterogeneous,
            check_actions=check_actions,
            observation_transport=observation_transport,
            on_worker_death=on_worker_death,
            max_restarts=max_restarts,
            start_timeout_s=start_timeout_s,
            close_grace_s=close_grace_s,
            timing=timing,
            name=name,
            task_source=task_source,
            prepared_tasks=prepared_tasks,
        )
        super().__init__(make_sampler_fn, sampler_fn_args, options, InThisProcess(), None)
