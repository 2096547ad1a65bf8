"""Spans are written some at once into a ring, and the last of them are read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vectasks.host.task_host import HostGroup
from vectasks.host.timed import TimedHostGroup
from vectasks.monitoring.board import KINDS, STEPS_KEPT, Board, Recorder

SAMPLERS = (0, 1, 2)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board([SAMPLERS], timed=True, name="of a test")
    yield made
    made.close()


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])  # of which 5 does not divide the capacity
def test_the_last_spans_are_read_in_order(board: Board, at_once: int) -> None:
    recorder = Recorder(board.rings[0])
    capacity = STEPS_KEPT * len(SAMPLERS)
    written = 0
    while written < 2 * capacity:
        for number in range(written, written + at_once):
            recorder.pending += (number % KINDS, number, number + 0.25, number + 0.5)
        recorder.write()
        written += at_once
    spans = board.spans(0)
    assert len(spans) == capacity - len(SAMPLERS)
    numbers = np.arange(written - len(spans), written)
    np.testing.assert_array_equal(spans["code"], numbers % KINDS)
    np.testing.assert_array_equal(spans["begin_s"], numbers)
    np.testing.assert_array_equal(spans["end_s"], numbers + 0.25)
    np.testing.assert_array_equal(spans["copied_s"], numbers + 0.5)


def test_spans_that_the_parent_has_not_written_yet_are_seen(board: Board) -> None:
    recorder = board.parent_recorder()
    recorder.pending += (1, 2.0, 3.0, 3.0)
    assert board.spans(-1).tolist() == [(1, 2.0, 3.0, 3.0)]
    recorder.pending += (2, 4.0, 5.0, 5.0)
    board.close()
    assert board.spans(-1)["code"].tolist() == [1, 2]


def test_a_step_lasts_until_what_it_gave_is_written(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(1, 100))
    monkeypatch.setattr("vectasks.host.timed._clock", lambda: next(times))
    monkeypatch.setattr(HostGroup, "step", lambda self, sampler_id, action, place=None: "given")
    group = TimedHostGroup(Recorder(board.rings[0]))
    for sampler_id in (2, 0):
        assert group.timed_step(sampler_id, 0) == "given"
    group.end_steps()
    group.end_steps()  # nothing came since
    assert board.spans(0).tolist() == [(2 * KINDS, 1, 2, 3), (0, 3, 4, 5)]


def test_a_step_that_is_cut_off_is_recorded_too(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: HostGroup, sampler_id: int, action: int, place: object = None) -> str:
        if action == 1:
            raise KeyboardInterrupt
        return "given"

    monkeypatch.setattr(HostGroup, "step", step)
    group = TimedHostGroup(Recorder(board.rings[0]))
    for cut_off in (False, True, False):
        group.timed_step(0, 0)
        if cut_off:
            with pytest.raises(KeyboardInterrupt):
                group.timed_step(1, 1)
        group.end_steps()
    assert board.spans(0)["code"].tolist() == [0, 0, KINDS, 0]
