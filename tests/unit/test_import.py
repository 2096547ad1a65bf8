"""What ``import vectasks`` brings, and what it leaves alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import vectasks
from vectasks import errors

HEAVY = {"av", "cv2", "filelock", "matplotlib", "pydantic", "rich", "scipy", "torch", "zarr"}


def _modules_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh process has loaded after ``statement``."""
    script = f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("module", ["vectasks", "vectasks.envs", "vectasks.cli"])
def test_import_is_light(module):
    assert not HEAVY & _modules_after(f"import {module}")


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
