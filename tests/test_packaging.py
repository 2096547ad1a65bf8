"""Compare what setup.py promises with what the code asks for and what the pages tell."""

from __future__ import annotations

import ast
import itertools
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vectasks

PACKAGE = Path(vectasks.__file__).parent
ROOT = Path(__file__).parents[1]
FOR_DEVELOPERS = {"dev", "test"}


@pytest.fixture
def promised(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what setup.py tells setuptools."""
    told: dict[str, Any] = {}
    setuptools = SimpleNamespace(
        setup=told.update, find_packages=lambda **kwargs: [], Extension=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    monkeypatch.setitem(sys.modules, "Cython.Build", None)  # nothing is built here
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def _extras_that_errors_name() -> set[str]:
    """The literal ``extra`` of every call of ``require`` and its kin."""
    functions = {"require": 1, "missing": 1, "try_lock": 1}
    named = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            position = functions.get(node.func.id, len(node.args))
            if position < len(node.args):
                argument = node.args[position]
                if isinstance(argument, ast.Constant) and argument.value is not None:
                    named.add(argument.value)
    return named


def _package(requirement: str) -> str:
    return re.split(r"[\[><=;]", requirement)[0].lower()


def test_every_extra_that_an_error_names_exists(promised: dict[str, Any]) -> None:
    named = _extras_that_errors_name()
    assert {"evaluation", "sb3", "video"} <= named  # the search finds them
    assert named <= promised["extras_require"].keys()


def test_all_is_all_of_them(promised: dict[str, Any]) -> None:
    extras = promised["extras_require"]
    parts = [extras[name] for name in extras.keys() - FOR_DEVELOPERS - {"all"}]
    assert set(extras["all"]) == set().union(*parts)
    assert set(extras["all"]) < set(extras["test"])


def test_the_readme_tells_every_extra(promised: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(r'^\| `pip install "vectasks\[(\w+)\]"` \|', readme, re.MULTILINE)
    assert set(told) == promised["extras_require"].keys() - FOR_DEVELOPERS
    assert len(told) == len(set(told))


def test_the_tests_pin_what_is_promised(promised: dict[str, Any]) -> None:
    pinned = set()
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pinned |= {_package(line) for line in lines if "==" in line}
    of_extras = itertools.chain.from_iterable(promised["extras_require"].values())
    promises = [*promised["install_requires"], *of_extras]
    assert {_package(requirement) for requirement in promises} <= pinned


def test_the_wheel_has_what_is_no_python(promised: dict[str, Any]) -> None:
    shipped = {
        path for pattern in promised["package_data"]["vectasks"] for path in PACKAGE.glob(pattern)
    }
    built = {".py", ".pyc", ".so", ".pyd", ".c"}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in built}
    assert files == shipped
    assert PACKAGE / "evaluation" / "report.html.jinja" in shipped


def test_one_version_and_its_changes(promised: dict[str, Any]) -> None:
    assert promised["version"] == vectasks.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == vectasks.__version__
