"""Ray actors as workers, on a cluster of two nodes on this machine; ray_script.py has the tests."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import vectasks

SCRIPT = Path(__file__).with_name("ray_script.py")
SCENARIOS = [
    "a_pool_of_actors",
    "what_cannot_be",
    "the_scheduler",
    "rollouts_of_local_vectors",
    "a_node_is_lost",
]

pytestmark = [
    pytest.mark.slow,  # the cluster alone takes seconds to come up
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What came of each scenario, and what was left running."""
    folder = tmp_path_factory.mktemp("ray")
    files_of_ray = tempfile.mkdtemp(prefix="vectasks-ray-")  # short: sockets have paths in it
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(vectasks.__file__).parents[1]),
        "RAY_TMPDIR": files_of_ray,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's way to say: loopback addresses only
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with (folder / "output").open("wb") as output:
        script = subprocess.Popen(
            [sys.executable, SCRIPT, folder / "results"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = script.wait(240)
        finally:
            if script.poll() is None:
                os.killpg(script.pid, signal.SIGKILL)
                script.wait()
            shutil.rmtree(files_of_ray, ignore_errors=True)
    assert code == 0, (folder / "output").read_text()
    return json.loads((folder / "results").read_text())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(told: Any, scenario: str) -> None:
    assert told[scenario] == "ok", told[scenario]


def test_every_scenario_was_asked_for_and_nothing_is_left(told: Any) -> None:
    assert set(told) == {*SCENARIOS, "left"}
    assert told["left"] == []
