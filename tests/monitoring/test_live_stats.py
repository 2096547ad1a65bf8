"""Spans are written some at once into a ring, and the last of them are read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vectasks.monitoring.live_stats import KINDS, STEPS_KEPT, LiveStats, Recorder

SAMPLERS = (0, 1, 2)


@pytest.fixture
def live_stats() -> Iterator[LiveStats]:
    made = LiveStats([SAMPLERS], timed=True, name="of a test")
    yield made
    made.close()


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])  # of which 5 does not divide the capacity
def test_the_last_spans_are_read_in_order(live_stats: LiveStats, at_once: int) -> None:
    recorder = Recorder(live_stats.rings[0])
    capacity = STEPS_KEPT * len(SAMPLERS)
    written = 0
    while written < 2 * capacity:
        for number in range(written, written + at_once):
            recorder.pending += (number % KINDS, number, number + 0.25, number + 0.5)
        recorder.write()
        written += at_once
    spans = live_stats.spans(0)
    assert len(spans) == capacity - len(SAMPLERS)
    numbers = np.arange(written - len(spans), written)
    np.testing.assert_array_equal(spans["code"], numbers % KINDS)
    np.testing.assert_array_equal(spans["begin_s"], numbers)
    np.testing.assert_array_equal(spans["end_s"], numbers + 0.25)
    np.testing.assert_array_equal(spans["copied_s"], numbers + 0.5)


def test_spans_that_the_parent_has_not_written_yet_are_seen(live_stats: LiveStats) -> None:
    recorder = live_stats.parent_recorder()
    recorder.pending += (1, 2.0, 3.0, 3.0)
    assert live_stats.spans(-1).tolist() == [(1, 2.0, 3.0, 3.0)]
    recorder.pending += (2, 4.0, 5.0, 5.0)
    live_stats.close()
    assert live_stats.spans(-1)["code"].tolist() == [1, 2]
