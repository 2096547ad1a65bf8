"""Hold imports to the layers that docs/architecture.md draws."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path
from typing import NamedTuple

import pytest

import vectasks

PACKAGE = Path(vectasks.__file__).parent

# From the bottom up; a module belongs to the first layer that names it or a package it is in.
# The package itself ("vectasks", its public names) stands above the vector, all the rest above it.
LAYERS = [
    ["_util.pickling", "_util.step_values"],
    ["_version", "errors", "task"],
    ["batch", "protocol"],
    ["_util"],
    ["spaces", "sources", "rendering.tiles", "rendering.captions", "rendering.window"],
    ["transport"],
    ["monitoring"],
    ["host"],
    ["replay.recording", "rendering", "workers"],
    ["replay"],
    ["vector"],
    ["pool", "suggest", "envs"],
    ["workers.pool"],  # a name that is documented there
    ["adapters"],
    [""],
]
THE_REST = len(LAYERS)

# Slow to import, or not installed everywhere: only inside the function that uses them, or in a
# module that is nothing without them and that nobody else imports.
HEAVY = {
    "av",
    "cv2",
    "filelock",
    "jinja2",
    "matplotlib",
    "pydantic",
    "ray",
    "rich",
    "scipy",
    "stable_baselines3",
    "submitit",
    "tensordict",
    "torch",
    "torchrl",
    "zarr",
}
HOMES = {
    "click": "cli",
    "jinja2": "evaluation.report",
    "submitit": "experiment.launchers",
    "ray": "pool.ray",
    "stable_baselines3": "adapters.sb3",
    "tensordict": "adapters.torchrl",
    "torchrl": "adapters.torchrl",
}
BUILT_ON = {
    "adapters.sb3": {"stable_baselines3"},
    "adapters.torchrl": {"tensordict", "torch", "torchrl"},
}


# Packages whose classes are built on a library; they ask for it when they are imported, by name.
ASKED_FOR = {"evaluation.manifest": {"pydantic"}, "evaluation.job_records": {"pydantic"}}


class Import(NamedTuple):
    """One imported name, as it is written out in full."""

    name: str
    runs_at_import: bool  # neither in a function nor under TYPE_CHECKING


class _Reader(ast.NodeVisitor):
    def __init__(self, module: str, is_package: bool) -> None:
        self.found: list[Import] = []
        self._package = module.split(".") if is_package else module.split(".")[:-1]
        self._runs_at_import = True

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, self._runs_at_import) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self._package[: len(self._package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        self.found += [Import(f"{base}.{alias.name}", self._runs_at_import) for alias in node.names]

    def visit_FunctionDef(self, node: ast.AST) -> None:
        self._visit_later(ast.iter_child_nodes(node))

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self._visit_later(node.body)
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def _visit_later(self, nodes: object) -> None:
        before, self._runs_at_import = self._runs_at_import, False
        for child in nodes:  # type: ignore[attr-defined]
            self.visit(child)
        self._runs_at_import = before


def read_imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    reader = _Reader(module, is_package)
    reader.visit(ast.parse(source))
    return reader.found


def _module_name(path: Path) -> str:
    parts = ("vectasks", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


IMPORTS = {
    _module_name(path): read_imports(
        path.read_text(encoding="utf-8"), _module_name(path), path.name == "__init__.py"
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}


def _our_module(name: str) -> str | None:
    """The module of ours that an imported name is, or is defined in."""
    if name.split(".")[0] != "vectasks":
        return None
    while name not in IMPORTS:
        name = name.rpartition(".")[0]
    return name


def _arrows(module: str) -> set[str]:
    """The modules that importing ``module`` or running its functions imports."""
    targets = {target for name, _ in IMPORTS[module] if (target := _our_module(name))}
    # Importing a.b runs a/__init__.py too; the root's is always there, that of _util is empty, and
    # one's own, near and far, are not asked.
    packages = {target.rpartition(".")[0] for target in targets} - {
        "",
        "vectasks",
        "vectasks._util",
    }
    return (targets - {module}) | (packages - {module, *_packages_of(module)})


def _packages_of(module: str) -> set[str]:
    """The packages that a module is in, near and far."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def _room(module: str) -> str:
    return module.removeprefix("vectasks").removeprefix(".")


def _layer(module: str) -> int:
    """The layer that names the module, or the nearest package that it is in."""
    room = _room(module)
    found = [
        (len(name), level)
        for level, names in enumerate(LAYERS)
        for name in names
        if room == name or (name and room.startswith(f"{name}."))
    ]
    return max(found)[1] if found else THE_REST


def _may_import(module: str, target: str) -> bool:
    if _layer(module) != _layer(target):
        return _layer(module) > _layer(target)
    same_package = _room(module).split(".")[0] == _room(target).split(".")[0]
    return same_package or _layer(module) == THE_REST


@pytest.mark.parametrize("module", IMPORTS)
def test_arrows_point_down(module):
    upward = [target for target in _arrows(module) if not _may_import(module, target)]
    assert not upward, f"{module} imports {sorted(upward)}, which stand above it or beside it"


def test_no_cycle():
    graph = {module: _arrows(module) for module in IMPORTS}
    for module in graph:  # a package's __init__ gathers what its modules define
        graph[module] -= _packages_of(module)
    graphlib.TopologicalSorter(graph).prepare()


def test_every_layer_exists():
    known = {_room(module) for module in IMPORTS}
    assert {name for layer in LAYERS for name in layer} <= known


@pytest.mark.parametrize("module", IMPORTS)
def test_heavy_libraries_wait_for_their_use(module):
    early = {name for name, runs_at_import in IMPORTS[module] if runs_at_import}
    heavy = HEAVY & {name.split(".")[0] for name in early}
    assert heavy <= BUILT_ON.get(_room(module), ASKED_FOR.get(_room(module), set()))


def test_nobody_imports_what_is_built_on_a_heavy_library():
    for module in IMPORTS:
        assert not BUILT_ON.keys() & {_room(target) for target in _arrows(module)}, module


@pytest.mark.parametrize("module", IMPORTS)
def test_libraries_stay_in_their_rooms(module):
    for name, _ in IMPORTS[module]:
        home = HOMES.get(name.split(".")[0])
        assert home is None or _room(module).startswith(home), f"{name} belongs into {home}"


def test_the_reader_sees_every_kind_of_import():
    source = """
from typing import TYPE_CHECKING
import torch.nn
from . import base
from ..errors import VectasksError
if TYPE_CHECKING:
    import cv2
else:
    import av
def function():
    from vectasks.vector import VectorSampledTasks
    return lambda: __import__("nothing")
"""
    assert read_imports(source, "vectasks.workers.inline") == [
        Import("typing.TYPE_CHECKING", True),
        Import("torch.nn", True),
        Import("vectasks.workers.base", True),
        Import("vectasks.errors.VectasksError", True),
        Import("cv2", False),
        Import("av", True),
        Import("vectasks.vector.VectorSampledTasks", False),
    ]
    assert read_imports("from .base import Worker", "vectasks.workers", is_package=True) == [
        Import("vectasks.workers.base.Worker", True)
    ]


def test_the_rule_refuses_upward_arrows():
    assert _may_import("vectasks.vector", "vectasks.errors")
    assert _may_import("vectasks.workers.process", "vectasks.workers.child")
    assert _may_import("vectasks.cli.main", "vectasks.envs.gymnasium")
    assert not _may_import("vectasks.errors", "vectasks.protocol")
    assert not _may_import("vectasks.host.task_host", "vectasks.vector.states")
    assert not _may_import("vectasks.transport.shared_memory", "vectasks.workers.process")
    assert not _may_import("vectasks.workers.child", "vectasks.vector")
    assert not _may_import("vectasks.rendering.tiles", "vectasks.rendering.video")
    assert not _may_import("vectasks.vector", "vectasks")


# -- how the core is built -------------------------------------------------------------------------

CORE = ("host", "monitoring", "pool", "replay", "transport", "vector", "workers")
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for room in CORE
    for path in sorted((PACKAGE / room).glob("*.py"))
}
BASES = {
    node.name: [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def _ancestors(name: str) -> set[str]:
    """The classes of ours that a class inherits from, near and far."""
    bases = {base for base in BASES.get(name, ()) if base in BASES and base != name}
    return bases.union(*map(_ancestors, bases))


@pytest.mark.parametrize("path", TREES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_core_is_composed(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef):
            assert len(_ancestors(node.name)) <= 2, f"{node.name}: {_ancestors(node.name)}"
        if isinstance(node, ast.Assign):
            targets = [ast.unparse(target) for target in node.targets]
            assert not any(target.endswith(".__class__") for target in targets)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            assert "worker" not in ast.unparse(node.args[0]), ast.unparse(node)
