"""Hash values such that the hash is the same in every process and on every version of Python.

A value is first written down as JSON, in which every kind of value has a form of its own, so that
no two values look alike; the identifier is a hash of that text. A config stands in it as its own
identifier.
"""

from __future__ import annotations

import hashlib
import json
import sys
from enum import Enum, Flag
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable

from vectasks.errors import InvalidArgument

_HEX_DIGITS = 32


@runtime_checkable
class Identified(Protocol):
    """An object with its own identifier: a config."""

    def _identifier_within(self, where: str, holders: tuple[int, ...]) -> str:
        """Return the identifier; ``holders`` are the ids of its containers, to find cycles."""


def digest(form: Any) -> str:
    """Hash what :func:`canonical` returns: 32 hexadecimal digits."""
    return hashlib.sha256(text_of(form).encode()).hexdigest()[:_HEX_DIGITS]


def canonical(value: Any, where: str, holders: tuple[int, ...] = ()) -> Any:
    """Convert a value to JSON's types, in a form that no other value has.

    Args:
        value: of plain Python types, numpy's scalars and arrays, enums, paths, configs, and lists,
            tuples, sets and dicts of these.
        where: what the value is called in errors.
        holders: the ids of what holds this value.

    Raises:
        InvalidArgument: a value of another type, or one that contains itself.
    """
    if id(value) in holders:
        raise InvalidArgument(f"{where} contains itself: a config cannot be a part of its parts.")
    if isinstance(value, Identified) and not isinstance(value, type):
        return ["config", value._identifier_within(where, holders)]
    if isinstance(value, Enum):
        member = value.value if isinstance(value, Flag) else value.name
        return ["enum", type_name(type(value)), member]
    if isinstance(value, numpy_types("generic")):
        return _scalar_form(value, where)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return ["float", float.__repr__(value)]
    if isinstance(value, complex):
        return ["complex", *(float.__repr__(part) for part in (value.real, value.imag))]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, PurePath):
        return ["path", value.as_posix()]
    if isinstance(value, numpy_types("ndarray")):
        return _array_form(value, where)
    return _container_form(value, where, (*holders, id(value)))


def _container_form(value: Any, where: str, holders: tuple[int, ...]) -> list[Any]:
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(canonical(item, f"{where}[{i}]", holders) for i, item in enumerate(value))]
    if isinstance(value, dict):
        pairs = [
            [
                canonical(key, f"{where}'s key {key!r}"),
                canonical(item, f"{where}[{key!r}]", holders),
            ]
            for key, item in value.items()
        ]
        return ["dict", *sorted(pairs, key=text_of)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted((canonical(item, where, holders) for item in value), key=text_of)]
    raise InvalidArgument(
        f"{where} is a {type(value).__name__}, of which there is no telling whether two are the "
        "same. Give it as plain values, a numpy array, an enum, a path or a Config; or declare it "
        "as Meta, which is no part of the identity."
    )


def _scalar_form(scalar: Any, where: str) -> Any:
    """Convert a numpy scalar to Python's, if one holds the same value."""
    numpy = sys.modules["numpy"]
    if scalar.dtype.kind in "mM" or scalar.dtype.names is not None:
        return ["scalar", *_plain_form(numpy.asarray(scalar), where)]
    if scalar.dtype.char in "gG":  # a long double
        parts = (scalar.real, scalar.imag) if scalar.dtype.kind == "c" else (scalar,)
        return ["longdouble", *map(numpy.format_float_scientific, parts)]
    return canonical(scalar.item(), where)


def _array_form(array: Any, where: str) -> list[Any]:
    numpy = sys.modules["numpy"]
    if type(array) in (numpy.ndarray, numpy.memmap):
        return ["array", *_plain_form(array, where)]
    if array is numpy.ma.masked:
        return ["masked"]
    if isinstance(array, numpy.ma.MaskedArray):
        parts = (array.filled(), numpy.ma.getmaskarray(array), numpy.asarray(array.fill_value))
        return ["masked", _class_name(array), *(_plain_form(part, where) for part in parts)]
    attributes = canonical(getattr(array, "__dict__", {}), f"{where}'s attributes")
    return ["array", _class_name(array), *_plain_form(array, where), attributes]


def _class_name(array: Any) -> str:
    kind = type(array)
    is_numpys = kind.__module__.partition(".")[0] == "numpy"  # which moves its classes about
    return f"numpy.{kind.__name__}" if is_numpys else type_name(kind)


def _plain_form(array: Any, where: str) -> list[Any]:
    """Describe type, shape and content, but not the layout in memory."""
    if array.dtype.hasobject:
        raise InvalidArgument(f"{where} is an array of objects; give it as a list.")
    if array.dtype.names is not None:
        fields = [[name, *_plain_form(array[name], where)] for name in array.dtype.names]
        return ["fields", list(array.shape), *fields]
    little_endian = array.astype(array.dtype.newbyteorder("<"), order="C")
    content = hashlib.sha256(little_endian.tobytes()).hexdigest()
    return [little_endian.dtype.str, list(array.shape), content]


def numpy_types(name: str) -> tuple[Any, ...]:
    """Return a numpy type for ``isinstance``; an empty tuple while numpy is not imported."""
    numpy = sys.modules.get("numpy")
    return () if numpy is None else (getattr(numpy, name),)


def text_of(form: Any) -> str:
    """Return the text of a form. Forms are compared as texts, because ``1 == True`` in Python."""
    return json.dumps(form, separators=(",", ":"))


# -- the names of types -----------------------------------------------------------------------

_main_name: str | None = None


def type_name(kind: type) -> str:
    """Return a class's name in identifiers and folders: its ``__typename__``, or module and name.

    A class of a script has the same name whether the script is run or imported.
    """
    own: str | None = vars(kind).get("__typename__")
    return name_of(kind) if own is None else own


def name_of(named: Any) -> str:
    """Return the name of a class or function: its module and name."""
    module = main_name() if named.__module__ == "__main__" else named.__module__
    return f"{module}.{named.__qualname__}".replace(".<locals>", "")


def main_name() -> str:
    """Return the name under which the module that runs as ``__main__`` could be imported."""
    if _main_name is not None:
        return _main_name
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return Path(file).stem if file is not None and Path(file).is_file() else "__main__"


def set_main_name(name: str) -> None:
    """Set the name of ``__main__``: a job uses that of the experiment's script."""
    global _main_name
    _main_name = name
