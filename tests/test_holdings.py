"""The fixture that blames a test for what it leaves behind: for its own, and for nobody else's."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from multiprocessing.connection import Connection

import pytest
from holdings import Holdings

# No descendant of the tests' process, since who started it ends at once. It does what a line tells.
STRANGER = """
import os, sys
if os.fork():
    os._exit(0)
import multiprocessing, select
from multiprocessing.shared_memory import SharedMemory

def make_and_drop():
    memory, lock = SharedMemory(create=True, size=10), multiprocessing.Lock()
    memory.close()
    memory.unlink()

print("ready", flush=True)
for line in sys.stdin:
    if line == "hold\\n":
        held = SharedMemory(create=True, size=10)
    elif line == "leave\\n":
        SharedMemory(create=True, size=10).close()  # it is unlinked at the end
    else:
        print("busy", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            make_and_drop()
        continue
    print("done", flush=True)
"""

Tell = Callable[[str], None]


@pytest.fixture
def tell_stranger() -> Iterator[Tell]:
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def tell(line: str) -> None:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline()

        yield tell
        process.stdin.close()
        process.stdout.read()  # until it has ended


def test_nobody_is_blamed_for_what_another_program_holds_or_leaves(tell_stranger: Tell) -> None:
    before = Holdings.now()
    for what in ("hold", "leave"):
        tell_stranger(what)
        assert Holdings.now().added_to(before) == {}


def test_nobody_is_blamed_beside_a_program_that_makes_and_drops_names(tell_stranger: Tell) -> None:
    before = Holdings.now()
    tell_stranger("make and drop")
    for _ in range(50):
        assert Holdings.now().added_to(before) == {}


def test_what_is_held_or_left_here_is_seen() -> None:
    before = Holdings.now()
    memory = shared_memory.SharedMemory(create=True, size=10)
    try:
        assert Holdings.now().added_to(before)["shared_memory"] == [memory.name]
        memory.close()  # nobody holds it any more, but there is its name
        assert Holdings.now().added_to(before) == {"shared_memory": [memory.name]}
    finally:
        memory.unlink()
    assert Holdings.now().added_to(before) == {}


NAME = f"vectasks-test-{os.getpid()}"  # a name that does not begin as those of multiprocessing do


def make_and_tell(pipe: Connection) -> None:
    memory = shared_memory.SharedMemory(NAME, create=True, size=10)
    pipe.send(None)
    pipe.recv()
    memory.close()
    memory.unlink()


def test_what_a_descendant_holds_is_seen() -> None:
    before = Holdings.now()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=make_and_tell, args=(there,))
    child.start()
    here.recv()
    assert Holdings.now().added_to(before)["shared_memory"] == [NAME]
    here.send(None)
    child.join()
    for end in (here, there, child):
        end.close()
    assert Holdings.now().added_to(before) == {}
