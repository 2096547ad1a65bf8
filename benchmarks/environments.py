"""A virtual environment for each library; one that cannot be made is kept with its reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contenders import ENVIRONMENTS

DEFAULT_DIR = Path.home() / ".cache" / "vectasks-benchmarks"
_CONSTRAINTS = Path(__file__).resolve().with_name("constraints.txt")
_VARIABLE = re.compile(r"[A-Z_]+=(?!=)")
_INSTALL_TIMEOUT_S = 1200
_AT_A_TIME = 3
_LIST_VERSIONS = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
)


def python_of(env_dir: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return env_dir / name / "bin" / "python"


def prepare(names: Iterable[str], env_dir: Path, again: bool) -> dict[str, str]:
    """Make the environments that are not there yet; the reasons of those that cannot be had.

    Args:
        names: of the environments.
        env_dir: where they live, between runs too.
        again: try again what failed in an earlier run.
    """
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        reasons = pool.map(lambda name: _prepare(name, env_dir, again), names := list(names))
    return {name: reason for name, reason in zip(names, reasons, strict=True) if reason}


def versions(env_dir: Path, name: str) -> dict[str, str]:
    """Return what is installed in an environment: version by distribution."""
    command = [str(python_of(env_dir, name)), "-c", _LIST_VERSIONS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def _prepare(name: str, env_dir: Path, again: bool) -> str:
    """Make one environment; the reason if that failed, else ""."""
    note = env_dir / name / "installed.json"
    steps = ENVIRONMENTS[name]
    if note.exists():
        known = json.loads(note.read_text())
        if known["steps"] == steps and not (known["reason"] and again):
            return known["reason"]
    sys.stderr.write(f"making the environment {name}\n")
    venv.create(env_dir / name, with_pip=True, clear=True)
    reason = ""
    for step in steps:
        reason = reason or _install(env_dir, name, step)
    note.write_text(json.dumps({"steps": steps, "reason": reason}))
    return reason


def install_options(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments for pip, and the environment variables that stand before them."""
    variables = [argument for argument in arguments if _VARIABLE.match(argument)]
    environ = {}
    for variable in variables:
        name, value = variable.split("=", 1)
        environ[name] = value.replace("{benchmarks}", str(_CONSTRAINTS.parent))
    return arguments[len(variables) :], environ


def _install(env_dir: Path, name: str, step: list[str]) -> str:
    pip = [str(python_of(env_dir, name)), "-m", "pip", "install", "--quiet"]
    arguments, environ = install_options(step)
    try:
        result = subprocess.run(
            [*pip, "-c", str(_CONSTRAINTS), *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"pip install took longer than {_INSTALL_TIMEOUT_S} s"
    if result.returncode == 0:
        return ""
    said = [line for line in result.stderr.splitlines() if re.match(r"\s*(ERROR|\w*Error):?", line)]
    return said[-1].strip() if said else f"pip install ended with status {result.returncode}"
