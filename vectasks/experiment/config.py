"""Configs, which describe a computation, and tasks, which are configs that carry it out."""

from __future__ import annotations

import contextlib
import copy
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from vectasks.errors import InvalidArgument
from vectasks.experiment import context
from vectasks.experiment.identifier import canonical, digest, text_of, type_name
from vectasks.experiment.job import Job
from vectasks.experiment.parameters import Kind, Parameter, read_parameters

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound="Config")

_STATE = "__vectasks__"


class _Tagged:
    def __init__(self, value: Any) -> None:
        self.value = value


def tag(value: T) -> T:
    """Tag a parameter's value where it is given: ``Train(lr=tag(0.1))`` has the tag ``lr: 0.1``."""
    return cast(T, _Tagged(value))


@dataclass
class _State:
    """The state of a config besides its parameters.

    Attributes:
        tags: its own tags.
        job: the job that it is an output of; a task's own, once it is submitted.
        identifier: of a config that was submitted, and that therefore does not change any more.
    """

    tags: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None
    identifier: str | None = None


class Config:
    """A set of typed parameters, with an identifier that says whether two configs are the same.

    A subclass declares parameters by annotations: ``x: Param[int]``, ``Meta[...]``,
    ``Constant[...] = 1``, ``Annotated[Path, pathgenerator("x.tsv")]``; with defaults as usual, or
    by :func:`field`. Other annotations and attributes mean nothing here.

    The name in its identifier is that of its module and class; ``__typename__ = "train"`` in the
    class's body gives it a name that outlives a move to another module.

    Args:
        **values: the parameters.

    Raises:
        InvalidArgument: parameters that are unknown, missing or of a wrong type, all of them
            named; or a task as a parameter that was not submitted.
    """

    __params__: ClassVar[Mapping[str, Parameter]] = {}
    __hooks__: ClassVar[tuple[Any, ...]] = ()

    #: In a job: the tags of the task, those of its dependencies included.
    __tags__: dict[str, Any]
    #: In a job: the folder of the task's job; in an output of another task, that one's.
    __taskdir__: Path
    #: In a job: the folder of the job, in its task and in all of its parameters.
    __maintaskdir__: Path

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = vars(cls).get("__typename__", "_")
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise InvalidArgument(f"{cls.__name__}.__typename__: {name!r} is no name for a folder.")
        with contextlib.suppress(NameError):  # an annotation names a class that is yet to come
            _read_parameters(cls, sys._getframe(1).f_locals)

    def __init__(self, **values: Any) -> None:
        vars(self)[_STATE] = _State()
        parameters = parameters_of(type(self))
        problems = [_unknown(name, parameters) for name in values if name not in parameters]
        for name, parameter in parameters.items():
            if name in values:
                if parameter.kind in (Kind.CONSTANT, Kind.GENERATED):
                    problems.append(f"{name}: a {parameter.kind.value} is not given")
                else:
                    problems += self._set(parameter, values[name])
            elif parameter.kind is Kind.GENERATED:
                continue
            elif parameter.has_default:
                problems += self._set(parameter, parameter.default())
            else:
                problems.append(f"{name}: missing")
        if problems:
            raise InvalidArgument(f"{type(self).__name__}: {'; '.join(problems)}.")

    def __setattr__(self, name: str, value: Any) -> None:
        parameter = parameters_of(type(self)).get(name)
        if parameter is None:
            super().__setattr__(name, value)
            return
        where = f"{type(self).__name__}.{name}"
        if parameter.kind in (Kind.CONSTANT, Kind.GENERATED):
            raise AttributeError(f"{where} is a {parameter.kind.value}; it cannot be set.")
        if _state(self).identifier is not None:
            raise AttributeError(f"{where} cannot change, it was submitted. Make a new config.")
        problems = self._set(parameter, value)
        if problems:
            raise InvalidArgument(f"{type(self).__name__}: {'; '.join(problems)}.")

    def __getattr__(self, name: str) -> Any:
        parameter = parameters_of(type(self)).get(name)
        if parameter is not None and parameter.kind is Kind.GENERATED:
            hint = "it is known once the task is submitted"
        else:
            hint = "there is no such attribute"
        raise AttributeError(f"{type(self).__name__}.{name}: {hint}", name=name, obj=self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in values_of(self).items())
        return f"{type(self).__name__}({shown})"

    def _set(self, parameter: Parameter, value: Any) -> list[str]:
        """Set a value; return what is wrong with it."""
        is_tagged = isinstance(value, _Tagged)
        value, problem = parameter.checked(value.value if is_tagged else value)
        if problem:
            return [problem]
        vars(self)[parameter.name] = value
        if is_tagged:
            _state(self).tags[parameter.name] = value
        return [
            f"{where}: the task {type(config).__name__} was not submitted; give what its submit() "
            "returns"
            for where, config in configs_in(value, parameter.name)
            if isinstance(config, Task) and _state(config).job is None
        ]

    # -- the identity -------------------------------------------------------------------------

    @property
    def identifier(self) -> str:
        """The hash of type and parameters: equal for equal ones, in every process and order.

        What another task puts out is told apart by that task, too.

        Raises:
            InvalidArgument: a parameter's value cannot be identified, or contains the config.
        """
        return self._identifier_within(type(self).__name__, ())

    def _identifier_within(self, where: str, holders: tuple[int, ...]) -> str:
        state = _state(self)
        if state.identifier is not None:
            return state.identifier
        holders = (*holders, id(self))
        parts = []
        for name, parameter in sorted(parameters_of(type(self)).items()):
            if parameter.kind not in (Kind.PARAM, Kind.CONSTANT):
                continue
            form = canonical(vars(self)[name], f"{where}.{name}", holders)
            if parameter.ignores_default and text_of(form) == text_of(
                canonical(parameter.default(), name)
            ):
                continue
            parts.append([name, form])
        output_of = None if state.job is None else state.job.identifier
        return digest([type_name(type(self)), parts, output_of])

    # -- tags and jobs ------------------------------------------------------------------------

    def tag(self: ConfigT, name: str, value: Any) -> ConfigT:
        """Add a tag, which is no part of the identity; returns the config."""
        _state(self).tags[name] = value
        return self

    def tags(self) -> dict[str, Any]:
        """Return the config's tags, its parameters' and those of the jobs whose outputs it holds.

        Its own go first; of the others those are left out that disagree.
        """
        found: dict[str, list[Any]] = {}
        for config in reachable(self):
            job = _state(config).job
            is_own = config is self and isinstance(self, Task)
            inherited = {} if job is None or is_own else job.tags
            for name, value in {**inherited, **_state(config).tags}.items():
                if value not in found.setdefault(name, []):
                    found[name].append(value)
        agreed = {name: values[0] for name, values in found.items() if len(values) == 1}
        return {**agreed, **_state(self).tags}

    @property
    def job(self) -> Job | None:
        """The job that this is an output of; of a task that was submitted, its own."""
        return _state(self).job


class Task(Config):
    """A config that computes something, as a job of an experiment."""

    def execute(self) -> None:
        """Do the work; users write this. Runs in its own process, in the folder of its job."""
        raise NotImplementedError(f"{type(self).__name__} has no execute().")

    def task_outputs(self, dep: Callable[[Any], Any]) -> Any:
        """Return what :meth:`submit` returns: by default the task itself.

        Args:
            dep: gives a config (a copy of it, but for the task itself) that depends on this task:
                whatever holds it as a parameter waits for the task. Configs that are returned
                without it carry no dependency.
        """
        return dep(self)

    def submit(self, *, timeout_s: float | None = None, max_retries: int = 0) -> Any:
        """Schedule the task to run once all that it depends on is done, unless it is done already.

        The same config is the same job, within an experiment and from one run to the next.

        Args:
            timeout_s: stop an execution after so long, and count it as failed.
            max_retries: execute it so often again if it fails.

        Returns:
            what :meth:`task_outputs` returns.

        Raises:
            NoExperiment: there is no experiment around this call.
            InvalidArgument: the config has no identity, or a part of it is another job's.
        """
        return context.current("submit")._submit(self, timeout_s, max_retries)


# -- for the rest of this package -------------------------------------------------------------


def parameters_of(cls: type[Config]) -> Mapping[str, Parameter]:
    """Return the parameters of a config's class, by their names.

    Raises:
        NameError: an annotation names what does not exist.
    """
    if "__params__" not in vars(cls):
        _read_parameters(cls, {})
    return cls.__params__


def _read_parameters(cls: type[Config], names: Mapping[str, Any]) -> None:
    inherited: dict[str, Parameter] = {}
    for base in reversed(cls.__mro__[1:]):
        if issubclass(base, Config):
            inherited |= parameters_of(base)
    parameters = read_parameters(cls, inherited, names)
    for name in parameters:
        if hasattr(Task, name):
            raise InvalidArgument(
                f"{cls.__name__}.{name}: every task has a member of this name; choose another."
            )
    cls.__params__ = parameters


def _unknown(name: str, parameters: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, parameters, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(parameters) or 'none'}"
    return f"{name}: unknown ({meant})"


def _state(config: Config) -> _State:
    return cast(_State, vars(config)[_STATE])


def values_of(config: Config) -> dict[str, Any]:
    """Return the parameters' values, with those of paths that are known by now."""
    return {
        name: vars(config)[name] for name in parameters_of(type(config)) if name in vars(config)
    }


def configs_in(value: Any, where: str) -> Iterator[tuple[str, Config]]:
    """Yield the configs in a value, each with its path, but not the configs in these."""
    if isinstance(value, Config):
        yield where, value
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, item in enumerate(value):
            yield from configs_in(item, f"{where}/{i}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from configs_in(item, f"{where}/{key}")


def located(config: Config, everything: bool = False) -> Iterator[tuple[str, Config]]:
    """Return a config and all configs in it, each once, with its path from there.

    Outputs of jobs are among them, but what is in these only if ``everything`` is asked for.
    """
    seen: set[int] = set()
    todo = [("", config)]
    while todo:
        where, found = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield where, found
        if everything or found is config or _state(found).job is None:
            parts = [
                part
                for name, value in values_of(found).items()
                for part in configs_in(value, f"{where}/{name}" if where else name)
            ]
            todo += reversed(parts)


def reachable(config: Config) -> list[Config]:
    """Return a config and all configs in it, as far as the outputs of jobs."""
    return [found for _, found in located(config)]


def own_parts(task: Task) -> list[tuple[str, Config]]:
    """Return a task and the configs in it that are no outputs of jobs, with their paths."""
    return [
        (where, config)
        for where, config in located(task)
        if config is task or _state(config).job is None
    ]


def bind(task: Task, job: Job) -> None:
    """Bind a task and all configs in it to a job: they are frozen, and know their paths.

    Raises:
        InvalidArgument: a part of it that writes files belongs to another job.
    """
    paths: list[tuple[Config, str, Path]] = []
    parts = own_parts(task)
    for where, config in parts:
        folder = job.path if config is task else job.path / "out" / where
        for name, parameter in parameters_of(type(config)).items():
            if parameter.kind is not Kind.GENERATED:
                continue
            path = folder / parameter.path
            if vars(config).get(name, path) != path:
                raise InvalidArgument(
                    f"submit: {type(config).__name__}.{name} (the parameter {where} of "
                    f"{type(task).__name__}) is {vars(config)[name]} already, of another job. Make "
                    f"a new {type(config).__name__} for every task."
                )
            paths.append((config, name, path))
    for config, name, path in paths:
        vars(config)[name] = path
    for _, config in parts:
        _state(config).identifier = config.identifier
    _state(task).job = job


def output(config: ConfigT, job: Job) -> ConfigT:
    """Copy a config so that it depends on a job."""
    marked = copy.copy(config)
    vars(marked)[_STATE] = _State(dict(_state(config).tags), job)
    return marked


def jobs_of(task: Task) -> list[Job]:
    """Return the jobs that a task depends on, each once."""
    jobs = {
        job.path: job
        for config in reachable(task)
        if config is not task and (job := _state(config).job) is not None
    }
    return list(jobs.values())
