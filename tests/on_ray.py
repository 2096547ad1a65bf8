"""A script that is run on Ray, in a process of its own: Ray's threads and files go with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import vectasks

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)


def run_on_ray(script: Path, argument: Path, output: Path, timeout_s: float) -> None:
    """Run a script with one argument, and fail with what it printed if it does."""
    files_of_ray = tempfile.mkdtemp(prefix="vectasks-ray-")  # short: sockets have paths in it
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(vectasks.__file__).parents[1]),
        "RAY_TMPDIR": files_of_ray,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's way to say: loopback addresses only
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, script, argument],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            shutil.rmtree(files_of_ray, ignore_errors=True)
    assert code == 0, output.read_text()
