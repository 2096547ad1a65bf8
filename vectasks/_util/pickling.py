"""Pickling by value what other processes cannot import, as cloudpickle does it."""

from __future__ import annotations

import dis
import io
import pickle
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import cloudpickle

# The first that pickles functions of Python 3.11 and later; setup.py asks for the same.
_OLDEST = (2, 1)
if tuple(map(int, cloudpickle.__version__.split(".")[:2])) < _OLDEST:
    raise ImportError(
        f"vectasks needs cloudpickle 2.1 or later, and {cloudpickle.__version__} is installed: "
        "python -m pip install -U cloudpickle. (gym 0.17.3, which AllenAct needs, asks for an "
        "older one, but works with newer ones.)"
    )

_DISPATCH_TABLE: Any = cloudpickle.CloudPickler.dispatch_table
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

    And a memoryview stays one: there, it becomes bytes, of whatever format.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {memoryview: lambda view: reduce_view(view)}, _DISPATCH_TABLE
    )

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


def reduce_view(view: memoryview) -> tuple[Callable[..., memoryview], tuple[Any, ...]]:
    """Return a function and its arguments that rebuild a memoryview, as ``__reduce__`` does."""
    if len(view.format) > 1 or 0 in (view.shape or ()):  # numpy knows these, and ``cast`` does not
        import numpy

        return memoryview, (numpy.asarray(view),)
    if view.c_contiguous:
        return _view_of, (pickle.PickleBuffer(view), view.format, view.shape)
    content = view.tobytes() if view.readonly else bytearray(view.tobytes())
    return _view_of, (content, view.format, view.shape)


def _view_of(buffer: Any, format: Any, shape: tuple[int, ...]) -> memoryview[Any]:
    view: memoryview[Any] = memoryview(buffer).cast("B").cast(format, shape)
    return view
