"""Holders of processes are ended once, by whoever finds out first, never by a fork's copy."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence

import pytest

from vectasks._util.closing import Closable
from vectasks.protocol import Failure


class Thing(Closable):
    """Counts how often it was ended and forgotten; closing it raises."""

    _holds = "thing"

    def __init__(self) -> None:
        self.num_ends = self.num_forgets = 0
        self._must_be_closed()

    def close(self) -> None:
        for number, failure in self._end():
            raise RuntimeError(f"{number}: {failure.message}")

    def _end_all(self) -> Sequence[tuple[int, Failure]]:
        self.num_ends += 1
        return [(3, Failure.of(ValueError("on purpose")))]

    def _forget(self) -> None:
        self.num_forgets += 1


WAYS: dict[str, Callable[[Thing], object]] = {
    "close": lambda thing: thing.close(),
    "with": lambda thing: thing.__exit__(None, None, None),
    "with an error": lambda thing: thing.__exit__(ValueError, ValueError(), None),
    "nobody holds it": lambda thing: thing.__del__(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("first", ["close", "nobody holds it"])
def test_it_is_ended_once(way: Callable[[Thing], object], first: str) -> None:
    thing = Thing()
    for end in (WAYS[first], way, way):
        with contextlib.suppress(RuntimeError):  # which close() raises
            end(thing)
        assert thing.num_ends == 1


def test_what_the_body_raised_is_worth_more(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="3: on purpose"), Thing():
        pass
    with caplog.at_level(logging.WARNING, "vectasks"), pytest.raises(KeyError), Thing():
        raise KeyError
    assert "closing thing 3" in caplog.text
    assert "on purpose" in caplog.text


def test_what_was_never_made_is_not_ended() -> None:
    thing = Thing.__new__(Thing)
    thing.__del__()


def test_a_forks_copy_lets_go_and_ends_nothing() -> None:
    thing, ended = Thing(), Thing()
    ended._end_quietly()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # no assertion may leave this process
        try:
            for way in WAYS.values():
                way(thing)
            told = (thing.num_ends, thing.num_forgets, ended.num_forgets)
            os.write(writer, repr(told).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == "(0, 1, 0)"
    os.waitpid(child, 0)
    assert (thing.num_ends, thing.num_forgets) == (0, 0)
    thing._end_quietly()
    assert thing.num_ends == 1


def test_it_cannot_be_pickled() -> None:
    thing = Thing()
    with pytest.raises(TypeError, match="Thing holds processes and cannot be pickled"):
        pickle.dumps(thing)
    thing._end_quietly()
