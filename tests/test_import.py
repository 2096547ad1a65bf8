"""Check what ``import vectasks`` brings, and what it leaves alone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vectasks
from vectasks import errors

HEAVY = {
    "av",
    "cv2",
    "filelock",
    "jinja2",
    "matplotlib",
    "pydantic",
    "rich",
    "scipy",
    "torch",
    "zarr",
}


def _modules_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh process has loaded after ``statement``."""
    script = f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("module", ["vectasks", "vectasks.envs", "vectasks.cli.main"])
def test_import_is_light(module):
    assert not HEAVY & _modules_after(f"import {module}")


def test_the_package_leaves_the_command_line_alone():
    assert "click" not in _modules_after("import vectasks")


def test_all_names_resolve():
    assert [name for name in vectasks.__all__ if not hasattr(vectasks, name)] == []
    assert len(set(vectasks.__all__)) == len(vectasks.__all__)


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(vectasks.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vectasks")
        for alias in node.names
    }
    assert imported == set(vectasks.__all__)
    assert set(vectasks.__all__) <= set(dir(vectasks))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VectorSampledTask'"):
        _ = vectasks.VectorSampledTask


def test_every_error_is_exported():
    exported = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, vectasks.VectasksError)
    }
    assert exported <= set(vectasks.__all__)


# -- the other public modules ----------------------------------------------------------------------

PACKAGE = Path(vectasks.__file__).parent
API_PAGE = Path(__file__).parents[1] / "docs" / "api.md"
DOCUMENTED = re.findall(r"^::: (vectasks[\w.]*)", API_PAGE.read_text("utf-8"), re.MULTILINE)
# Some cannot be imported without a trainer's library, so their source is read.
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def _exported(tree: ast.Module) -> list[str]:
    (told,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return ast.literal_eval(told)


def _bound(tree: ast.Module) -> dict[str, ast.AST]:
    """Return the names that a module's own statements bind."""
    bound: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            bound[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            bound.update({alias.asname or alias.name: node for alias in node.names})
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound.update({ast.unparse(target): node for target in targets})
    return bound


TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in SOURCES.items()}


def _documented_names() -> dict[str, set[str]]:
    """The names that the page tells of, by the module that it has them from."""
    names: dict[str, set[str]] = {}
    for documented in DOCUMENTED:
        module, _, name = documented.rpartition(".")
        if name in _bound(TREES[module]):
            names.setdefault(module, set()).add(name)
        else:
            names.setdefault(documented, set())  # a whole module
    return names


PUBLIC = _documented_names()


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules_say_what_is_public(module):
    exported, bound = _exported(TREES[module]), _bound(TREES[module])
    assert set(exported) <= bound.keys()
    assert len(set(exported)) == len(exported)
    assert PUBLIC[module] <= set(exported)
    undocumented = [
        name
        for name in exported
        if isinstance(bound[name], (ast.ClassDef, ast.FunctionDef))
        and not ast.get_docstring(bound[name])
    ]
    assert undocumented == []
