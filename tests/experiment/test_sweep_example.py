"""examples/sweep.py: a second run runs nothing; another learning rate runs its own jobs alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sweep.py"


@pytest.mark.guarantee("done-jobs")
@pytest.mark.slow
def test_the_sweep_pays_only_for_what_changed(tmp_path):
    def run(*learning_rates: str) -> tuple[str, list[str]]:
        before = set((tmp_path / "sweep").glob("jobs/*/*/status.json"))
        options = ["--steps", "512", "--seeds", "1", "--learning-rates", *learning_rates]
        done = subprocess.run(
            [sys.executable, "-X", "importtime", EXAMPLE, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
        imported = {name.partition(".")[0] for name in names}
        assert "pydantic" in imported
        assert not {"torch", "gymnasium", "matplotlib"} & imported  # so it is quick
        after = set((tmp_path / "sweep").glob("jobs/*/*/status.json"))
        return done.stdout, sorted(path.parts[-3] for path in after - before)

    table, ran = run("2e-3", "1e-3")
    assert ran == ["sweep.Evaluate"] * 2 + ["sweep.Report"] + ["sweep.Train"] * 2
    assert "0.002     1        32" in table
    again, ran = run("2e-3", "1e-3")
    assert ran == []
    assert again == table.replace("5 of 5", "0 of 5")
    _, ran = run("2e-3", "3e-3")
    assert ran == ["sweep.Evaluate", "sweep.Report", "sweep.Train"]
    for path in (tmp_path / "sweep").glob("jobs/sweep.Evaluate/*/returns.json"):
        assert len(json.loads(path.read_text())) == 32
    assert len(list((tmp_path / "sweep").glob("jobs/sweep.Report/*/returns.png"))) == 2
