"""Channels: whole messages over a socket pair, whatever their size and however they arrive."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest

from vectasks.testing import assert_identical
from vectasks.transport.channel import Channel, Unreadable, channel_pair

LARGE = 4_000_000  # more than a socket holds
PATIENCE_S = 20.0


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Two channels that are each other's ends."""
    here, there = map(Channel, socket.socketpair())
    yield here, there
    here.close()
    there.close()


def arrived(channel: Channel, sender: Channel | None = None) -> Any:
    """The next message, while its sender goes on sending what did not go at once."""
    deadline = time.monotonic() + PATIENCE_S
    while (message := channel.receive()) is None:
        assert time.monotonic() < deadline, "the message did not come"
        if sender is not None:
            sender.pump()
    return message


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


MESSAGES = [
    "text",
    0,
    (),
    b"",
    {"k": [1, (2.5, None)]},
    np.arange(6).reshape(2, 3),
    np.zeros(0),
    np.zeros((3, 0, 2), np.uint8),
    np.arange(100_000, dtype=np.float32),
    np.arange(100_000).reshape(100, 1000)[::2, ::3],
    np.asfortranarray(np.arange(100_000.0).reshape(100, 1000)),
    {"many": [np.full(20_000, i % 256, np.uint8) for i in range(300)]},
    [np.full(LARGE, 3, np.uint8), "and", np.arange(LARGE // 8)],
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: f"{type(m).__name__}")
def test_a_message_comes_as_it_was_sent(message: Any, ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send(message)
    assert_identical(arrived(there, here), message)
    assert there.receive() is None


@pytest.mark.parametrize("num_items", [3, 10_000])
@pytest.mark.parametrize("format", ["d", "q", "n", "P", "c", "?"])
def test_a_memoryview_stays_one(ends: tuple[Channel, Channel], format: Any, num_items: int) -> None:
    memory = bytearray(b"\0\1\1\0\1\0\0\1" * num_items)
    view = memoryview(memory).cast(format)
    for sent in (view, view.toreadonly(), view[::2], memoryview(memory[:8]).cast("d", ())):
        here, there = ends
        here.send([sent])
        (received,) = arrived(there, here)
        assert isinstance(received, memoryview)
        for what in ("format", "shape", "readonly"):
            assert getattr(received, what) == getattr(sent, what), what
        assert received.tobytes() == sent.tobytes()


def test_messages_keep_their_order(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for i in range(50):
        here.send((i, np.full(1 if i % 3 else 50_000, i)))
    got = [arrived(there, here) for _ in range(50)]
    assert [i for i, _ in got] == list(range(50))
    assert all((array == i).all() for i, array in got)


def test_functions_travel(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    factor = 3
    here.send(lambda x: factor * x)
    assert arrived(there)(2) == 6


def test_received_arrays_can_be_written(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send([np.zeros(10), np.zeros(50_000)])
    for array in arrived(there, here):
        array[:] = 1


# -- nobody waits ----------------------------------------------------------------------------------


def test_sending_does_not_wait(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    message = np.arange(LARGE)
    here.send(message)
    assert here.events != there.events  # here waits for room as well
    assert_identical(arrived(there, here), message)
    assert here.events == there.events


def test_an_array_may_change_after_it_was_sent(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    array = np.zeros(LARGE, np.uint8)
    for value in (1, 2, 3):  # the first goes partly, the others wait behind it
        array[:] = value
        here.send(array)
    array[:] = 9
    for value in (1, 2, 3):
        assert (arrived(there, here) == value).all()


def test_much_both_ways_at_once(ends: tuple[Channel, Channel]) -> None:
    """Two ends that both send before they read do not wait for each other forever."""
    got: dict[int, Any] = {}

    def converse(number: int) -> None:
        for round_number in range(3):
            ends[number].send_blocking(np.full(LARGE, 10 * round_number + number, np.uint8))
        got[number] = [int(ends[number].receive_blocking()[-1]) for _ in range(3)]

    threads = [in_thread(lambda number=number: converse(number)) for number in (0, 1)]  # type: ignore[misc]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert got == {0: [1, 11, 21], 1: [0, 10, 20]}


def test_much_both_ways_in_one_thread(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send(np.full(LARGE, 1, np.uint8))
    there.send(np.full(LARGE, 2, np.uint8))
    assert arrived(here, there)[-1] == 2
    assert arrived(there, here)[-1] == 1


def test_blocking_calls_wait_for_each_other(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    got = []
    thread = in_thread(lambda: got.append(there.receive_blocking()))
    time.sleep(0.05)
    here.send_blocking("late")
    thread.join(PATIENCE_S)
    assert got == ["late"]


# -- pieces ----------------------------------------------------------------------------------------


def wire(*messages: Any) -> bytes:
    """The bytes that some messages travel as."""
    here, there = socket.socketpair()
    channel = Channel(here)
    chunks = []
    for message in messages:
        channel.send(message)
        channel.ring()
    channel.close()
    with there:
        while chunk := there.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


MIXED = [{"a": 1}, np.arange(3000, dtype=np.int64), "end", [np.zeros(20_000, np.uint8)] * 2]


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_messages_arrive_in_pieces(piece: int) -> None:
    data = wire(*MIXED)
    raw, there = socket.socketpair()
    channel = Channel(there)
    got = []
    with raw:
        for start in range(0, len(data), piece):
            raw.send(data[start : start + piece])
            while (message := channel.receive()) is not None:
                got.append(message)
    assert_identical(got, MIXED)
    with pytest.raises(EOFError):
        channel.receive()
    channel.close()


@pytest.mark.parametrize("missing", [1, 5, 100])
def test_a_message_that_was_cut_off_never_arrives(missing: int) -> None:
    raw, there = socket.socketpair()
    channel = Channel(there)
    with raw:
        raw.send(wire("whole") + wire(np.arange(300))[: -missing - 16])  # a ring has 16 bytes
    assert channel.receive() == "whole"
    for _ in range(2):
        with pytest.raises(EOFError):
            channel.receive()
    channel.close()


# -- the end ---------------------------------------------------------------------------------------


def test_the_end_comes_after_the_last_message(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for i in range(3):
        here.send(i)
    here.close()
    assert [there.receive() for _ in range(3)] == [0, 1, 2]
    for wait in (there.receive, there.receive_blocking, lambda: there.doze(10_000)):
        with pytest.raises(EOFError):
            wait()


def test_sending_to_a_closed_end(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    there.close()
    for tell in (lambda: here.send("x"), lambda: here.send_blocking("x"), here.ring):
        with pytest.raises(OSError, match=r"."):
            tell()


def test_an_end_that_closes_while_much_is_sent(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    errors = []

    def send() -> None:
        try:
            here.send_blocking(np.zeros(LARGE))
        except OSError as error:
            errors.append(error)

    thread = in_thread(send)
    time.sleep(0.05)
    there.close()
    thread.join(PATIENCE_S)
    assert len(errors) == 1


def test_closing_twice(ends: tuple[Channel, Channel]) -> None:
    for _ in range(2):
        ends[0].close()


def test_a_forked_child_keeps_no_parent_end_open() -> None:
    channel, there = channel_pair()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if channel.fileno() == -1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert channel.fileno() >= 0
    channel.close()
    there.close()


class Thing:
    """What a weak reference can be to."""


def test_a_message_that_was_received_is_not_kept(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send(Thing())
    received = weakref.ref(there.receive())
    assert received() is None


# -- what cannot travel ----------------------------------------------------------------------------


class Unbuildable(Exception):
    """Pickles, and cannot be made again from the pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_what_cannot_be_pickled_leaves_the_channel_as_it_was(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    with pytest.raises(TypeError, match="pickle"):
        here.send([np.zeros(50_000), threading.Lock()])
    here.send("next")
    assert there.receive() == "next"


def test_what_cannot_be_built_here_costs_its_own_message_only(
    ends: tuple[Channel, Channel],
) -> None:
    here, there = ends
    for message in ("before", Unbuildable("a", "b"), "after"):
        here.send(message)
    assert there.receive() == "before"
    unreadable = there.receive()
    assert isinstance(unreadable, Unreadable)
    assert "two" in str(unreadable.error)
    assert unreadable.envelope is None
    assert there.receive() == "after"
    assert there.receive() is None


@pytest.mark.parametrize("buffer", [b"", np.zeros(LARGE, np.uint8)], ids=["small", "large"])
def test_an_envelope_tells_whom_an_unreadable_message_is_for(
    buffer: Any, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    for message in (Unbuildable("a", "b"), "readable"):
        here.post(Channel.pack([buffer, message], envelope=[(1, 2)]))
    assert arrived(there, here).envelope == [(1, 2)]
    assert arrived(there, here)[1] == "readable"


# -- rings -----------------------------------------------------------------------------------------


def test_a_ring_wakes_and_is_no_message(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    started = time.monotonic()
    timer = threading.Timer(0.1, here.ring)
    timer.start()
    assert there.doze(10_000) is False
    assert 0.05 < time.monotonic() - started < 5
    timer.join()
    assert there.receive() is None


def test_a_message_wakes(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    timer = threading.Timer(0.05, here.send, ["m"])
    timer.start()
    assert there.doze(10_000) is True
    timer.join()
    assert there.receive() == "m"


def test_a_doze_ends_by_itself(ends: tuple[Channel, Channel]) -> None:
    started = time.monotonic()
    assert ends[1].doze(50) is False
    assert 0.04 < time.monotonic() - started < 5


def test_rings_among_messages_of_any_size(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.ring()
    here.send(np.full(LARGE, 1, np.uint8))
    here.ring()
    here.send("small")
    here.ring()
    assert arrived(there, here)[0] == 1
    assert arrived(there, here) == "small"
    assert there.receive() is None


def test_many_rings_that_nobody_hears(ends: tuple[Channel, Channel]) -> None:
    """They do not wait for room, and what is sent after them arrives."""
    here, there = ends
    for _ in range(200_000):
        here.ring()
    here.send("after")
    assert arrived(there, here) == "after"


def test_a_header_is_what_the_docstring_draws() -> None:
    array = np.arange(20_000, dtype=np.uint8)
    data = wire([array])
    num_buffers, label_size, body_size, buffer_size = struct.unpack_from("<IIQQ", data)
    assert (num_buffers, label_size, buffer_size) == (1, 0, 20_000)
    body, buffer = data[24 : 24 + body_size], data[24 + body_size : 24 + body_size + buffer_size]
    assert_identical(pickle.loads(body, buffers=[buffer]), [array])


class Named:
    """Is in a module of the test's choice."""


@pytest.mark.parametrize("where", ["__main__", "a module that is registered", "nowhere"])
def test_what_the_other_end_cannot_import_travels_by_value(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Local:
        pass

    here = sys.modules["__main__" if where == "__main__" else __name__]
    sent: Any = Local if where == "nowhere" else Named
    monkeypatch.setattr(Named, "__module__", here.__name__)
    monkeypatch.setattr(here, "Named", Named, raising=False)
    if where == "a module that is registered":
        cloudpickle.register_pickle_by_value(here)
    try:
        ends[0].send([np.zeros(LARGE, np.uint8), sent(), np.ones(LARGE, np.uint8)])
    finally:
        if where == "a module that is registered":
            cloudpickle.unregister_pickle_by_value(here)
    monkeypatch.delattr(here, "Named")  # as it is where it cannot be imported
    zeros, received, ones = arrived(ends[1], ends[0])
    assert type(received).__name__ == sent.__name__
    assert not zeros.any()
    assert ones.all()
