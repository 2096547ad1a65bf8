"""The same on Ray actors; ray_script.py has what is run."""

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

SCRIPT = Path(__file__).with_name("ray_script.py")


@pytest.mark.slow  # Ray alone takes seconds to come up
@pytest.mark.timeout(200)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_compute_and_batches_on_ray(tmp_path: Path) -> None:
    files_of_ray = tempfile.mkdtemp(prefix="vectasks-ray-")  # short: sockets have paths in it
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(vectasks.__file__).parents[1]),
        "RAY_TMPDIR": files_of_ray,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's way to say: loopback addresses only
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with (tmp_path / "output").open("wb") as output:
        script = subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = script.wait(180)
        finally:
            if script.poll() is None:
                os.killpg(script.pid, signal.SIGKILL)
                script.wait()
            shutil.rmtree(files_of_ray, ignore_errors=True)
    assert code == 0, (tmp_path / "output").read_text()
