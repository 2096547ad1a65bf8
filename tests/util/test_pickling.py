"""Pickling by value: functions travel with all the globals that their code names."""

from __future__ import annotations

import importlib
import pickle
import sys
import textwrap
from typing import Any

import cloudpickle
import pytest

from vectasks._util.pickling import dumps

BODIES = {
    "a class": """
        def make():
            class Made:
                size = math.pi
            return Made.size
    """,
    "a class in a class": """
        def make():
            class Outer:
                class Made:
                    size = math.pi
            return Outer.Made.size
    """,
    "a class in a function in a function": """
        def make():
            def inner():
                class Made:
                    size = math.pi
                return Made
            return inner().size
    """,
    "a class in a method": """
        def make():
            class Outer:
                def inner(self):
                    class Made:
                        size = math.pi
                    return Made
            return Outer().inner().size
    """,
    "a class beside a variable of the function": """
        def make():
            local = 1.0
            class Made:
                size = math.pi * local
            return Made.size
    """,
    "a loop in a class": """
        def make():
            class Made:
                sizes = [math.pi for _ in range(2)]
                for size in (math.pi,):
                    pass
            return Made.size
    """,
    "a base and a decorator": """
        def make():
            class Made(base):
                @decorate
                def size(self):
                    return math.pi
            return Made().size()
    """,
    "a function": """
        def make():
            return math.pi
    """,
}


@pytest.mark.parametrize("name", ["__main__", "a notebook"])
@pytest.mark.parametrize("body", BODIES)
def test_a_class_in_a_function_may_name_globals(body: str, name: str) -> None:
    def decorate(function: Any) -> Any:
        return function

    namespace: dict[str, Any] = {"__name__": name, "base": object, "decorate": decorate}
    exec("import math\n" + textwrap.dedent(BODIES[body]), namespace)
    assert pickle.loads(dumps(namespace["make"]))() == pytest.approx(3.1416, abs=1e-4)


def test_globals_that_are_not_named_stay_where_they_are() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "cannot": pickle, "size": 1}
    source = """
        lock = __import__("threading").Lock()
        def make():
            class Made:
                size = size
                cannot = 2
            return Made.size + Made.cannot
    """
    exec(textwrap.dedent(source), namespace)
    assert pickle.loads(dumps(namespace["make"]))() == 3


def test_a_name_that_exists_nowhere_is_the_functions_own_error() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def make():\n    class Made:\n        size = nowhere\n", namespace)
    with pytest.raises(NameError, match="nowhere"):
        pickle.loads(dumps(namespace["make"]))()


def test_a_cloudpickle_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where gym 0.17.3 was installed last, which asks for it."""
    monkeypatch.setattr(cloudpickle, "__version__", "1.6.0")
    monkeypatch.delitem(sys.modules, "vectasks._util.pickling")
    with pytest.raises(ImportError, match=r"needs cloudpickle 2\.1 or later, and 1\.6\.0"):
        importlib.import_module("vectasks._util.pickling")
