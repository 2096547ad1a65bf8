"""Pickling by value what other processes cannot import, as cloudpickle does it."""

from __future__ import annotations

import dis
import io
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

# The first that pickles functions of Python 3.11 and later; setup.py asks for the same.
_OLDEST = (2, 1)
if tuple(map(int, cloudpickle.__version__.split(".")[:2])) < _OLDEST:
    raise ImportError(
        f"vectasks needs cloudpickle 2.1 or later, and {cloudpickle.__version__} is installed: "
        "python -m pip install -U cloudpickle. (gym 0.17.3, which AllenAct needs, asks for an "
        "older one, but works with newer ones.)"
    )

_NAME_LOADS = frozenset({"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def dumps(
    value: Any, protocol: int = 5, buffer_callback: Callable[[Any], object] | None = None
) -> bytes:
    """Pickle ``value``; functions and classes that cannot be imported elsewhere go by value.

    Raises:
        Exception: it cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Cloudpickle's, which sends a function with the globals that its code names.

    A class in the function's code names globals by other instructions, because its own names come
    first. Cloudpickle does not look at these: making the class would raise a NameError.
    """

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType) and isinstance(reduced, tuple):  # it goes by value
            _, slots = reduced[2]
            for name in _loaded_names(obj.__code__):
                if name in obj.__globals__:
                    slots["__globals__"].setdefault(name, obj.__globals__[name])
        return reduced


def _loaded_names(code: types.CodeType) -> Iterator[str]:
    """The names that bodies of classes load, in this code and in whatever code is in it."""
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            for instruction in dis.get_instructions(part):
                if instruction.opname in _NAME_LOADS:
                    yield instruction.argval
            yield from _loaded_names(part)
