"""The same on Ray actors; ray_script.py has what is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from on_ray import needs_ray, run_on_ray

SCRIPT = Path(__file__).with_name("ray_script.py")


@pytest.mark.slow  # Ray alone takes seconds to come up
@needs_ray
def test_compute_and_batches_on_ray(tmp_path: Path) -> None:
    run_on_ray(SCRIPT, tmp_path, tmp_path / "output", timeout_s=180)
