"""A vector mends deaths by itself up to a rate, told by a clock that the tests turn."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from vectasks import SamplerState, VectorSampledTasks, WorkerDied
from vectasks.protocol import Death
from vectasks.testing import toy_args
from vectasks.testing.toys import FailingTask, ToySampler
from vectasks.vector import supervision
from vectasks.vector.supervision import RESTART_WINDOW_S, RestartLimit


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_limit_is_a_rate() -> None:
    clock = Clock()
    limit = RestartLimit(2, window_s=10, clock=clock)
    assert limit.refusal() == ""
    clock.now_s += 6
    assert limit.refusal() == ""
    assert "2 restarts within 10 s" in limit.refusal()
    clock.now_s += 3.9
    assert "max_restarts=2" in limit.refusal()
    clock.now_s += 0.1  # the first one is ten seconds ago now; refusals do not count
    assert limit.refusal() == ""
    assert limit.refusal() != ""
    clock.now_s += 10
    assert [limit.refusal() for _ in range(2)] == ["", ""]


def test_no_restarts_at_all() -> None:
    assert "max_restarts=0" in RestartLimit(0).refusal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the vectors that the test makes."""
    clock = Clock()
    monkeypatch.setattr(supervision, "RestartLimit", functools.partial(RestartLimit, clock=clock))
    return clock


def failing(**options: Any) -> VectorSampledTasks:
    """One worker that exits in every second step."""
    return VectorSampledTasks(
        ToySampler,
        toy_args(FailingTask, 1, how="exit", fail_step=2, max_steps=9, **options),
        on_worker_death="restart",
        max_restarts=2,
        should_log=False,
    )


def test_a_long_run_survives_more_deaths_than_the_limit(clock: Clock) -> None:
    with failing() as tasks:
        restarted = 0
        for _ in range(14):
            restarted += "worker_restarted" in tasks.step([0])[0].info
            clock.now_s += RESTART_WINDOW_S / 3
        assert restarted == tasks.stats()["restarts"] == 7


def test_a_death_too_many_says_why_and_can_be_mended(clock: Clock) -> None:
    with failing() as tasks:
        for _ in range(5):
            tasks.step([0])
        with pytest.raises(WorkerDied, match=r"not restarted: .* 2 restarts within 300 s"):
            tasks.step([0])
        assert tasks.sampler_states[0] is SamplerState.FAILED
        tasks.restart_at(0)  # what the user asks for is not limited
        assert tasks.step([0])[0].observation.tolist() == [0, 0, 1]
        clock.now_s += RESTART_WINDOW_S
        assert "worker_restarted" in tasks.step([0])[0].info


def test_a_worker_that_dies_while_it_is_restarted_is_given_up(tmp_path: Any) -> None:
    marker = tmp_path / "second start"

    def make(**arguments: Any) -> ToySampler:
        if marker.exists():
            raise SystemExit(9)
        marker.touch()
        return ToySampler(**arguments)

    with VectorSampledTasks(
        make,
        toy_args(FailingTask, 1, how="kill", fail_step=1),
        on_worker_death="restart",
        should_log=False,
    ) as tasks:
        with pytest.raises(WorkerDied, match=r"code 9.*it died while it was set up") as caught:
            tasks.step([0])
        assert caught.value.exitcode == 9
        assert tasks.stats()["restarts"] == 1
        marker.unlink()
        tasks.restart_at(0)
        assert tasks.sampler_states[0] is SamplerState.READY


@pytest.mark.parametrize(
    ("exitcode", "told"),
    [
        (None, "closed its connection"),
        (0, "code 0, as by exit"),
        (3, "exited with code 3"),
        (-9, "killed by SIGKILL"),
        (-11, "killed by SIGSEGV"),
        (-200, "killed by signal 200"),
    ],
)
def test_how_a_worker_died(exitcode: int | None, told: str) -> None:
    line = Death(1, (2, 3), exitcode, False).describe()
    assert line.startswith("worker 1 (samplers 2, 3) ")
    assert told in line
