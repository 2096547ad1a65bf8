"""Jobs by submitit; on this machine, by its local executor."""

from __future__ import annotations

import pytest
from failing import failing
from toy_jobs import Concat, Fail, Held, Hooked, HookedConfig, Say

from vectasks import InvalidArgument
from vectasks.experiment import JobState, SlurmLauncher, experiment

pytest.importorskip("submitit", reason="submitit is not installed")


@pytest.fixture
def launcher():
    return SlurmLauncher(cluster="local", max_jobs=2, timeout_min=1, environ={"TOY_LAUNCHER": "x"})


def test_jobs_run_fail_and_have_their_variables(tmp_path, launcher):
    with failing("RuntimeError: x is 7"), experiment(tmp_path, "slurm", launcher=launcher):
        say = Say(word="hello").submit()
        concat = Concat(parts=[say]).submit()
        fail = Fail(x=7).submit()
        hooked = Hooked(config=HookedConfig()).submit()
    assert concat.job.stdout.read_text() == "HELLO\n"
    assert hooked.job.stdout.read_text() == "config task x\n"
    assert fail.job.status().state is JobState.FAILED


def test_jobs_are_cancelled(tmp_path, meeting, launcher):
    begun, go, cleaned = meeting("begun"), meeting("go"), tmp_path / "cleaned"
    with (
        failing(error=ZeroDivisionError),
        experiment(tmp_path / "work", "slurm", launcher=launcher),
    ):
        held = Held(begun=begun, go=go, cleaned=cleaned).submit()
        begun.read_text()
        raise ZeroDivisionError
    assert held.job.status().state is JobState.CANCELLED
    assert cleaned.read_text() == "cleaned up"


def test_parameters_are_submitits(tmp_path):
    launcher = SlurmLauncher(cluster="local", nonsense=3)
    with failing("nonsense"), experiment(tmp_path, "slurm", launcher=launcher):
        Say(word="hello").submit()
    with pytest.raises(InvalidArgument, match="at least 1"):
        SlurmLauncher(max_jobs=0)
