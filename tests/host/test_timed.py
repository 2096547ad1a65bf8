"""Hosts that record how long steps take, and the writing of what they gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vectasks.host.timed import TimedHostGroup
from vectasks.monitoring.live_stats import KINDS, LiveStats, Recorder


class Hosts(TimedHostGroup):
    """Hosts without tasks; the action 1 is cut off by Ctrl-C."""

    def step(self, sampler_id: int, action: int, place: object = None) -> Any:
        if action == 1:
            raise KeyboardInterrupt
        return "given"


@pytest.fixture
def live_stats() -> Iterator[LiveStats]:
    made = LiveStats([(0, 1, 2)], timed=True, name="of a test")
    yield made
    made.close()


def test_a_step_lasts_until_what_it_gave_is_written(
    live_stats: LiveStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(1, 100))
    monkeypatch.setattr("vectasks.host.timed._clock", lambda: next(times))
    hosts = Hosts(Recorder(live_stats.rings[0]))
    for sampler_id in (2, 0):
        assert hosts.timed_step(sampler_id, 0) == "given"
    hosts.end_steps()
    hosts.end_steps()  # nothing came since
    assert live_stats.spans(0).tolist() == [(2 * KINDS, 1, 2, 3), (0, 3, 4, 5)]


def test_a_step_that_is_cut_off_is_recorded_too(live_stats: LiveStats) -> None:
    hosts = Hosts(Recorder(live_stats.rings[0]))
    for cut_off in (False, True, False):
        hosts.timed_step(0, 0)
        if cut_off:
            with pytest.raises(KeyboardInterrupt):
                hosts.timed_step(1, 1)
        hosts.end_steps()
    assert live_stats.spans(0)["code"].tolist() == [0, 0, KINDS, 0]
