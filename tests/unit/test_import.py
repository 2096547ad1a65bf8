"""What ``import vectasks`` brings, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import vectasks

HEAVY = {"av", "cv2", "rich", "torch"}


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


def test_all_is_complete():
    modules = {name for name, value in vars(vectasks).items() if isinstance(value, type(sys))}
    public = {name for name in vars(vectasks) if not name.startswith("_")} - modules
    assert public == set(vectasks.__all__) - {"__version__"}


def test_every_error_is_exported():
    errors = {
        name
        for name, value in vars(vectasks.errors).items()
        if isinstance(value, type) and issubclass(value, vectasks.VectasksError)
    }
    assert errors <= set(vectasks.__all__)
