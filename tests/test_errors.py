"""The tree of errors in the docstring of ``vectasks.errors`` is that of its classes."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import pytest

from vectasks import errors

# One branch: its indentation, the class, and the built-in bases in brackets.
BRANCH = re.compile(
    r"    (?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: +(?:\((?P<bases>[\w., ]+)\))?.*)?$"
)


class Drawn(NamedTuple):
    parent: str | None
    bases: set[str]  # the built-in ones


def read_tree() -> dict[str, Drawn]:
    tree: dict[str, Drawn] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        branch = BRANCH.match(line)
        if branch is None:
            continue
        del ancestors[len(branch["indent"]) // 4 :]
        tree[branch["name"]] = Drawn(
            ancestors[-1] if ancestors else None,
            set((branch["bases"] or "").replace(" ", "").split(",")) - {""},
        )
        ancestors.append(branch["name"])
    return tree


TREE = read_tree()
CLASSES = {name: getattr(errors, name) for name in errors.__all__}


def test_every_class_is_drawn():
    assert TREE.keys() == CLASSES.keys()
    public = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert public == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_each_stands_below_its_base_class(name):
    ours = [base.__name__ for base in CLASSES[name].__bases__ if base.__name__ in CLASSES]
    parent = TREE[name].parent
    assert ours == ([parent] if parent else [])


@pytest.mark.parametrize("name", CLASSES)
def test_the_names_in_brackets_are_its_built_in_bases(name):
    builtin = {
        base.__qualname__ if base.__module__ == "builtins" else f"multiprocessing.{base.__name__}"
        for base in CLASSES[name].__bases__
        if base.__module__ != errors.__name__ and base is not Exception
    }
    assert TREE[name].bases == builtin
