"""Read the parameters of a config's class from its annotations; pydantic checks them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vectasks._util.extras import require
from vectasks.errors import InvalidArgument
from vectasks.experiment.identifier import numpy_types

T = TypeVar("T")


class Kind(Enum):
    """The role of a parameter in the identity of its config."""

    #: Part of it.
    PARAM = "Param"
    #: Not part of it: how a task runs, not what it computes.
    META = "Meta"
    #: Part of it, and not to be set: a version, raised when the code changes.
    CONSTANT = "Constant"
    #: Not part of it, and set when the task is submitted: where the task writes.
    GENERATED = "pathgenerator"


Param = Annotated[T, Kind.PARAM]
"""``lr: Param[float]``: a parameter, part of the identity."""
Meta = Annotated[T, Kind.META]
"""``device: Meta[str] = "cpu"``: how a task runs, no part of the identity."""
Constant = Annotated[T, Kind.CONSTANT]
"""``version: Constant[int] = 2``: part of the identity, and not to be set."""


@dataclass(frozen=True)
class pathgenerator:
    """``Annotated[Path, pathgenerator("model.pt")]``: a file or folder that the task will write.

    Args:
        name: where, in the folder of the task's job.

    Raises:
        InvalidArgument: the name leads out of that folder.
    """

    name: str

    def __post_init__(self) -> None:
        path = PurePath(self.name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise InvalidArgument(f"pathgenerator: {self.name!r} lies outside of the job's folder.")


_UNIONS = (Union, UnionType)


class _Default(Enum):
    """The mark of a missing default: an enum's member, which stays identical when pickled."""

    UNSET = "unset"


_UNSET: Any = _Default.UNSET


@dataclass(frozen=True)
class _Field:
    default: Any
    default_factory: Callable[[], Any] | None
    ignore_default: bool


def field(
    *,
    default: Any = _UNSET,
    default_factory: Callable[[], Any] | None = None,
    ignore_default: bool = False,
) -> Any:
    """Declare a parameter's default.

    Args:
        default: the value; every config gets a copy of its own.
        default_factory: makes the value.
        ignore_default: leave the parameter out of the identity while it has its default: for one
            that is added to a config whose finished jobs shall stay finished.

    Raises:
        InvalidArgument: a default and a factory, or ``ignore_default`` without either.
    """
    if default is not _UNSET and default_factory is not None:
        raise InvalidArgument("field: give a default or a default_factory, not both.")
    if ignore_default and default is _UNSET and default_factory is None:
        raise InvalidArgument("field: ignore_default needs a default.")
    return _Field(default, default_factory, ignore_default)


class Parameter:
    """One parameter of a config's class.

    Attributes:
        name: what it is called.
        kind: what it is to the identity.
        hint: its type.
        path: the name of the file, of a generated path.
    """

    def __init__(self, name: str, hint: Any, kind: Kind, default: Any, path: str = "") -> None:
        self.name: str = name
        self.hint: Any = hint
        self.kind: Kind = kind
        self.path: str = path
        self._field = default if isinstance(default, _Field) else _Field(default, None, False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what pydantic made; it is made again where it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_checker"}

    def with_default(self, default: Any) -> Parameter:
        """Return the same parameter with another default, as a subclass may set it."""
        return Parameter(self.name, self.hint, self.kind, default, self.path)

    @property
    def ignores_default(self) -> bool:
        """True if it is no part of the identity while it has its default."""
        return self._field.ignore_default

    @property
    def has_default(self) -> bool:
        """True if it may be left out; an optional one is None then."""
        return (
            self._field.default is not _UNSET
            or self._field.default_factory is not None
            or (get_origin(self.hint) in _UNIONS and NoneType in get_args(self.hint))
        )

    def default(self) -> Any:
        """Return a copy of the default."""
        if self._field.default_factory is not None:
            return self._field.default_factory()
        return None if self._field.default is _UNSET else copy.deepcopy(self._field.default)

    def checked(self, value: Any) -> tuple[Any, str]:
        """Return the value converted to its type, and an error message that is "" if it is valid.

        Nothing is guessed: a text is no number and no number is a bool. But an int will do for a
        float, a text for a path, and numpy's scalars for Python's.
        """
        pydantic = require("pydantic", "experiment", "the parameters of configs")
        try:
            return self._checker.validate_python(value), ""
        except pydantic.ValidationError:
            pass
        try:
            return self._checker.validate_python(_without_numpy(value)), ""
        except pydantic.ValidationError as error:
            return value, "; ".join(map(self._told, error.errors(include_url=False)))

    @cached_property
    def _checker(self) -> Any:
        pydantic = require("pydantic", "experiment", "the parameters of configs")
        config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)
        return pydantic.TypeAdapter(_with_lenient_paths(self.hint, pydantic.Strict), config=config)

    def _told(self, error: Mapping[str, Any]) -> str:
        steps = [f"[{step!r}]" for step in error["loc"]]
        given = f"{error['input']!r:.100} ({type(error['input']).__name__})"
        return f"{self.name}{''.join(steps)}: {error['msg']}, got {given}"


def _with_lenient_paths(hint: Any, strict: Any) -> Any:
    """Change a type such that paths may be given as text, which strict checking refuses."""
    if hint in (Path, PurePath):
        return Annotated[hint, strict(False)]
    origin, args = get_origin(hint), get_args(hint)
    if origin not in (*_UNIONS, list, tuple, dict, set, frozenset):
        return hint
    lenient = tuple(_with_lenient_paths(arg, strict) for arg in args)
    return Union[lenient] if origin in _UNIONS else origin[lenient]  # noqa: UP007


def _without_numpy(value: Any) -> Any:
    if isinstance(value, numpy_types("generic")):
        return value if value.dtype.kind in "mM" else value.item()  # a time is no number
    if type(value) in (list, tuple):
        return type(value)(map(_without_numpy, value))
    if type(value) is dict:
        return {_without_numpy(key): _without_numpy(item) for key, item in value.items()}
    return value


# -- reading a class --------------------------------------------------------------------------


def read_parameters(
    cls: type, inherited: Mapping[str, Parameter], names: Mapping[str, Any]
) -> dict[str, Parameter]:
    """Read the parameters of a class: the inherited ones, and those that it declares.

    Args:
        cls: the class; the fields among its attributes are taken off it.
        inherited: the parameters of its bases.
        names: what its annotations may name besides what its module does.

    Raises:
        NameError: an annotation names what does not exist (yet).
        InvalidArgument: a constant without a value.
    """
    declared = type("Declared", (), {"__module__": cls.__module__})
    declared.__annotations__ = dict(inspect.get_annotations(cls))
    hints = get_type_hints(declared, localns=dict(names), include_extras=True)
    parameters = {
        name: parameter.with_default(vars(cls)[name]) if name in vars(cls) else parameter
        for name, parameter in inherited.items()
    }
    for name, hint in hints.items():
        kinds = getattr(hint, "__metadata__", ())
        kind = next((kind for kind in kinds if isinstance(kind, (Kind, pathgenerator))), None)
        if kind is None:
            continue
        default = vars(cls).get(name, _UNSET)
        if isinstance(kind, pathgenerator):
            parameters[name] = Parameter(name, Path, Kind.GENERATED, _UNSET, kind.name)
            continue
        rest = tuple(other for other in kinds if other is not kind)
        inner = Annotated[(hint.__origin__, *rest)] if rest else hint.__origin__
        parameters[name] = Parameter(name, inner, kind, default)
        if kind is Kind.CONSTANT and not parameters[name].has_default:
            raise InvalidArgument(f"{cls.__name__}.{name}: a Constant needs its value: `= 1`.")
    for name, value in list(vars(cls).items()):
        if isinstance(value, _Field):
            delattr(cls, name)
    return parameters
