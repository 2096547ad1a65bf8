"""The stream of tasks that a sampler's hosts go through side by side."""

from __future__ import annotations

from typing import Any

from vectasks.protocol import Command
from vectasks.vector.turns import Host, Stream

NEXT, CALL, SEED = Command.NEXT_TASK, Command.CALL_SAMPLER, Command.SEED


def stream_of(*items: Any) -> Stream:
    stream = Stream(0)
    for item in items:
        stream.add(*(item if isinstance(item, tuple) else (item,)))
    return stream


def host_at(position: int) -> Host:
    host: Any = Host(1, Any)  # type: ignore[arg-type]
    host.is_made, host.position = True, position
    return host


def test_what_lies_between() -> None:
    stream = stream_of(NEXT, NEXT, NEXT, (SEED, 7), NEXT, NEXT)
    assert stream.length == 6
    assert stream.between(0, 6, None) == [(NEXT, None, 3), (SEED, 7, 1), (NEXT, None, 2)]
    assert stream.between(1, 5, None) == [(NEXT, None, 2), (SEED, 7, 1), (NEXT, None, 1)]
    assert stream.between(2, 2, None) == []
    assert [stream.position_of_task(count) for count in (1, 2, 3, 4, 5)] == [5, 4, 2, 1, 0]


def test_who_was_asked_when_it_happened_is_not_asked_again() -> None:
    host, other = host_at(1), host_at(1)
    stream = stream_of(NEXT, (CALL, ("name", None), host), NEXT)
    assert stream.between(1, 2, host) == []
    assert stream.between(1, 2, other) == stream.between(1, 2, None) == [(CALL, ("name", None), 1)]


def test_tasks_that_nobody_played_are_cut() -> None:
    stream = stream_of(NEXT, NEXT, (CALL, "x"), NEXT)
    stream.cut(2)
    assert stream.between(0, stream.length, None) == [(NEXT, None, 1), (CALL, "x", 1)]
    assert stream.length == 2


def test_calls_that_are_made_again_and_again_are_forgotten() -> None:
    stream = stream_of(NEXT)
    hosts = [host_at(0), host_at(0)]
    for number in range(5000):
        stream.add(CALL, ("look", None), hosts[0])
        stream.add(NEXT)
        if number == 7:
            stream.add(CALL, ("set", [3]), hosts[0])
        for host in hosts:
            host.position = stream.length
        before = stream.length
        stream.fold(hosts)
        assert {host.position for host in hosts} == {stream.length}
        assert stream.length <= before
    assert len(stream.items) < 2100
    found = stream.between(0, stream.length, None)
    assert sum(times for command, _, times in found if command is NEXT) == 5001
    assert (CALL, ("set", [3]), 1) in found
