"""Look at what a late worker is doing: its state, and the Python stack of its main thread.

::

    parent                                    worker
    empty its file, send SIGURG  ──────────>  the handler writes the stack into the file
    read the file  <────────────────────────

Up to Python 3.12 the handler is faulthandler's, C code that needs no lock of the interpreter: a
worker that spins, sleeps, waits or is in native code shows its stack all the same, and goes on.
Python 3.13 changes a frame in steps that such a handler can see, and writes nonsense or dies of it,
once in a few hundred looks at a worker that computes. There the handler is a function in Python: it
runs between two instructions, so a worker in native code that does not return tells nothing.

SIGURG is ignored where nobody handles it, so a worker whose task has taken the handler away is not
harmed by being asked. Only the main thread's stack is written: that of a running thread cannot be
read safely.

On Linux the file is a memory file that the worker alone holds; the parent reaches it through
``/proc``, so being able to ask costs it no descriptor. Elsewhere it is a file in the directory for
temporary files.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from vectasks.host import task_host

_SIGNAL = signal.SIGURG
_BETWEEN_INSTRUCTIONS = sys.version_info >= (3, 13)
_IN_MEMORY = hasattr(os, "memfd_create")
_LONGEST_LOOK_S = 1.0
_QUIET_S = 0.05  # so long without another line: the stack is complete
_NAP_S = 0.002
_NUM_SHOWN = 4
_MOST_FRAMES = 100  # more are not written, as faulthandler has it
_OUTERMOST = b" in <module>\n"
_CUT = b"  ...\n"

_STOPPED = "is stopped (SIGSTOP or a debugger; SIGCONT lets it go on)"
_WORDS = {
    "R": "is computing",
    "S": "is waiting",
    "I": "is waiting",
    "D": "is waiting for a disk or another device",
    "U": "is waiting for a disk or another device",
    "T": _STOPPED,
    "t": _STOPPED,
    "Z": "has just ended",
    "X": "has just ended",
}
#: What calls the user's code, in a vector's worker and in a pool's.
_FLOORS = (
    task_host.__file__,
    *(
        str(Path(__file__).parents[1] / path)
        for path in ("host/step_rows.py", "workers/step_loop.py", "pool/objects.py")
    ),
)
_UNTOLD = (
    "has not told its stack: it is still starting, or its task closed the descriptor or replaced "
    f"the handler of {_SIGNAL.name}" + ", or is in native code" * _BETWEEN_INSTRUCTIONS
)


class Look(NamedTuple):
    """A worker's activity at one moment."""

    state: str  # as words that follow its name
    stack: str  # innermost call first; "" where there is none to be had


# -- in the worker ------------------------------------------------------------------------------

_descriptor = -1


def offer() -> None:
    """Let the parent ask this process for its stack."""
    global _descriptor
    inherited = _descriptor  # where a worker forks a worker of its own
    if _IN_MEMORY:
        fd = os.memfd_create(_name(os.getpid()))
    else:
        path = _temporary(os.getpid())
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    # Appended, because the parent empties it. A high number, because a task that closes descriptors
    # which are not its own then opens others with low numbers: the stack must not go there.
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    with contextlib.suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _high_descriptor())
        os.close(fd)
        fd = high
    _descriptor = fd
    if _BETWEEN_INSTRUCTIONS:
        signal.signal(_SIGNAL, _write_stack)
    else:
        # Chained to what does nothing, because only then does CPython give errno back: a system
        # call of the task's that failed just then would raise OSError(0) instead of its own error.
        faulthandler.register(_SIGNAL, file=fd, all_threads=False, chain=True)
    if inherited >= 0:
        with contextlib.suppress(OSError):
            os.close(inherited)


def _write_stack(signum: int, frame: FrameType | None) -> None:
    """Write what faulthandler would; called between two instructions of the main thread."""
    frames = [
        f'  File "{each.f_code.co_filename}", line {line} in {each.f_code.co_name}\n'
        for each, line in islice(traceback.walk_stack(frame), _MOST_FRAMES + 1)
    ]
    text = "".join(["Stack (most recent call first):\n", *frames[:_MOST_FRAMES]])
    with contextlib.suppress(OSError):  # the task closed the descriptor
        cut = _CUT * (len(frames) > _MOST_FRAMES)
        os.write(_descriptor, text.encode(errors="backslashreplace") + cut)


def _high_descriptor() -> int:
    limit = os.sysconf("SC_OPEN_MAX")
    return 3 * (limit if 0 < limit < 1024 else 1024) // 4


# -- in the parent ------------------------------------------------------------------------------


def look_at(pids: Mapping[int, int], waited_s: float) -> dict[int, Look]:
    """Look at what some processes are doing; none of them is changed or held up by it.

    Args:
        pids: process ids of workers, by the worker's number.
        waited_s: how long the user waited for them: the look takes no longer, and a second at most.
    """
    looks = {}
    deadline = time.monotonic() + min(waited_s, _LONGEST_LOOK_S)
    with contextlib.ExitStack() as files:
        asked: dict[int, IO[bytes]] = {}
        for number, pid in pids.items():
            state = _WORDS.get(_state(pid), "is busy")
            looks[number] = Look(state, "")
            # A stopped process would answer only when it goes on.
            if state is not _STOPPED and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    asked[number] = files.enter_context(_ask(pid))
        for number, stack in _read(asked, deadline).items():
            looks[number] = looks[number]._replace(stack=stack)
    return looks


def describe(looks: Mapping[int, Look], pids: Mapping[int, int]) -> str:
    """Looks as the lines of an error message: without what is below the user's code."""
    lines = []
    for number, (state, stack) in list(looks.items())[:_NUM_SHOWN]:
        name = f"worker {number} (process {pids[number]})"
        if stack:
            lines += [f"{name} {state}, innermost call first:", *_of_the_user(stack)]
        elif state is _STOPPED:
            lines.append(f"{name} {state}.")
        else:
            lines.append(f"{name} {state} and {_UNTOLD}.")
    if len(looks) > _NUM_SHOWN:
        lines.append(f"{len(looks) - _NUM_SHOWN} more workers are late; their stacks: .stacks")
    return "\n".join(lines)


def forget(pid: int) -> None:
    """Remove what a process that has ended may have left."""
    if not _IN_MEMORY:
        _temporary(pid).unlink(missing_ok=True)


def _of_the_user(stack: str) -> list[str]:
    frames = stack.splitlines()[1:]  # less the title
    for number, frame in enumerate(frames):
        if number > 0 and any(f'"{file}"' in frame for file in _FLOORS):
            return frames[:number]
    return frames


def _ask(pid: int) -> IO[bytes]:
    # The file is found before the signal is sent: a stranger who was given the process id of a
    # worker that has ended has no such file.
    file = _path(pid).open("rb+", buffering=0)
    try:
        file.truncate(0)
        os.kill(pid, _SIGNAL)
    except BaseException:
        file.close()
        raise
    return file


def _read(asked: Mapping[int, IO[bytes]], deadline: float) -> dict[int, str]:
    """Read each file once nothing is added to it any more."""
    texts = dict.fromkeys(asked, b"")
    changed = dict.fromkeys(asked, time.monotonic())
    growing = set(asked)
    while growing and time.monotonic() < deadline:
        time.sleep(_NAP_S)
        for number in tuple(growing):
            text = os.pread(asked[number].fileno(), 1 << 20, 0)
            if text != texts[number]:
                texts[number], changed[number] = text, time.monotonic()
            elif text and (
                text.endswith((_OUTERMOST, _CUT)) or time.monotonic() - changed[number] > _QUIET_S
            ):
                growing.remove(number)
    return {number: text.decode(errors="replace") for number, text in texts.items() if text}


def _state(pid: int) -> str:
    """The letter that says what a process's main thread does; "" where nobody knows."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return ""
    try:
        told = subprocess.run(
            ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, timeout=1
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()[:1]


def _path(pid: int) -> Path:
    """Where this process finds the file of another one.

    Raises:
        OSError: it has none.
    """
    if not _IN_MEMORY:
        return _temporary(pid)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"/memfd:{_name(pid)} "):
                return link
    raise FileNotFoundError(pid)


def _name(pid: int) -> str:
    return f"vectasks-stack-{pid}"


def _temporary(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / _name(pid)
