"""Ray actors as workers, on a cluster of two nodes on this machine; ray_script.py has the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from on_ray import needs_ray, run_on_ray

SCRIPT = Path(__file__).with_name("ray_script.py")
SCENARIOS = [
    "a_pool_of_actors",
    "what_cannot_be",
    "the_scheduler",
    "actors_run_on_no_cpu_of_their_own",
    "what_has_no_place_is_told_within_seconds",
    "rebuilding_a_task_has_its_own_limit",
    "rollouts_of_local_vectors",
    "runners_ask_one_policy_server",
    "a_node_is_lost",
]

pytestmark = [
    pytest.mark.slow,  # the cluster alone takes seconds to come up
    needs_ray,
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what came of each scenario, and what was left running."""
    folder = tmp_path_factory.mktemp("ray")
    run_on_ray(SCRIPT, folder / "results", folder / "output", timeout_s=240)
    return json.loads((folder / "results").read_text())


@pytest.mark.guarantee("nothing-lost", "no-room-on-ray", "lost-node")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(told: Any, scenario: str) -> None:
    assert told[scenario] == "ok", told[scenario]


def test_every_scenario_was_asked_for_and_nothing_is_left(told: Any) -> None:
    assert set(told) == {*SCENARIOS, "left"}
    assert told["left"] == []
