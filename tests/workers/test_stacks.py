"""Looking at what a process does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vectasks.workers.stacks import look_at

SPINNING = """
from pathlib import Path
from vectasks.workers import stacks

def spin(depth):
    if depth:
        spin(depth - 1)
    while True:
        Path("nowhere").exists()

stacks.offer()
print("offered", flush=True)
spin(20)
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="there faulthandler writes the stack")
def test_a_process_that_computes_is_not_harmed_by_many_looks() -> None:
    with subprocess.Popen([sys.executable, "-c", SPINNING], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"offered\n"
            for _ in range(300):
                look = look_at({0: process.pid}, waited_s=10)[0]
                assert look.stack.endswith(" in <module>\n")
            assert process.poll() is None
        finally:
            process.kill()
