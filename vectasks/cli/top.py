"""``vectasks top``: a live view of a vector that runs in another process.

It maps the vector's live stats (see ``monitoring/live_stats.py``) through ``/proc/PID/fd``, for
reading only: the kernel lets nobody but the process's owner do that, and the vector does not
notice.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import numpy as np

from vectasks._util.extras import require
from vectasks.cli.options import examples
from vectasks.errors import InvalidArgument
from vectasks.monitoring.live_stats import KINDS, MAGIC, MEMORY_NAME, Lines
from vectasks.protocol import Command, SamplerState

if TYPE_CHECKING:
    from rich.console import RenderableType

_REFRESH_S = 0.5
_IDLE_S = 5.0  # without a call for so long, the last rate is none any more
_BAR_CELLS = 20
_PROC = Path("/proc")


class SamplerLine(NamedTuple):
    """One sampler's figures; latencies in seconds, None where nothing was timed."""

    sampler_id: int
    worker: int
    pid: int
    state: SamplerState
    p50_s: float | None
    p95_s: float | None


class Reading(NamedTuple):
    """Hold what live stats said at one time."""

    name: str
    pid: int
    is_closed: bool
    is_timed: bool
    num_workers: int
    age_s: float
    since_call_s: float
    steps: int
    steps_per_s: float
    episodes: int
    restarts: int
    error: str
    error_age_s: float
    samplers: list[SamplerLine]


class LiveStatsView:
    """Another process's live stats, mapped for reading.

    Raises:
        OSError: the process has ended, or is somebody else's.
        ValueError: there are no live stats in this memory.
    """

    def __init__(self, path: Path) -> None:
        self._memory = _mapped(path)
        head = Lines.on(self._memory, 0, 0).head
        if head["magic"][0] != MAGIC:
            raise ValueError(f"{path} holds no live stats of this version of vectasks")
        self._lines = Lines.on(
            self._memory, int(head["num_workers"][0]), int(head["num_samplers"][0])
        )
        self.pid: int = int(head["pid"][0])
        self.name: str = head["name"][0].decode(errors="replace")
        self._tickets: mmap.mmap | None = None

    def read(self) -> Reading:
        """Read the current figures."""
        head, now_s = self._lines.head[0].copy(), time.monotonic()
        since_call_s = now_s - (float(head["called_s"]) or float(head["started_s"]))
        busy = self._busy()
        rate = float(head["steps_per_s"])
        return Reading(
            self.name,
            self.pid,
            int(head["pid"]) == 0 or not (_PROC / str(self.pid)).exists(),
            bool(head["is_timed"]),
            int(head["num_workers"]),
            now_s - float(head["started_s"]),
            since_call_s,
            int(head["steps"]),
            0.0 if since_call_s > _IDLE_S else rate,
            int(head["episodes"]),
            int(head["restarts"]),
            head["error"].decode(errors="replace"),
            now_s - float(head["error_s"]),
            self._sampler_lines(busy),
        )

    def _sampler_lines(self, busy: set[int]) -> list[SamplerLine]:
        latencies = self._latencies()
        pids = self._lines.workers["pid"].tolist()
        return [
            SamplerLine(
                i,
                worker,
                pids[worker],
                SamplerState.BUSY if i in busy else SamplerState(state),
                *latencies.get(i, (None, None)),
            )
            for i, (worker, state) in enumerate(self._lines.samplers.tolist())
        ]

    def _latencies(self) -> dict[int, tuple[float, float]]:
        latencies = {}
        for worker in range(len(self._lines.workers) - 1):
            spans = self._lines.spans(self._memory, worker)
            samplers, kinds = np.divmod(spans["code"].astype(np.int64), KINDS)
            took_s = spans["copied_s"] - spans["begin_s"]
            for i in set(samplers.tolist()):
                its_s = took_s[(samplers == i) & (kinds == Command.STEP)]
                if len(its_s):
                    p50_s, p95_s = np.percentile(its_s, (50, 95)).tolist()
                    latencies[i] = (p50_s, p95_s)
        return latencies

    def _busy(self) -> set[int]:
        """The samplers that were asked for a step and have not answered."""
        head = self._lines.head[0]
        inode = int(head["slab_inode"])
        if not inode:
            return set()
        if self._tickets is None:
            for path, _ in _memory_files(self.pid):
                if path.stat().st_ino == inode:
                    self._tickets = _mapped(path)
                    break
            else:
                return set()
        shape = (len(self._lines.samplers),)
        asked, answered = (
            np.ndarray(shape, np.int64, self._tickets, int(head[where]))
            for where in ("asked_at", "answered_at")
        )
        return set(np.flatnonzero(asked > answered).tolist())


def _mapped(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _memory_files(pid: int) -> Iterator[tuple[Path, str]]:
    """The anonymous memory files that a process holds, and their names."""
    for path in (_PROC / str(pid) / "fd").iterdir():
        try:
            target = str(path.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("/memfd:vectasks"):
            yield path, target.removeprefix("/memfd:").removesuffix(" (deleted)")


def find_live_stats(pid: int | None = None) -> list[LiveStatsView]:
    """The live stats of the vectors in a process; without one, in every process of this user's.

    Raises:
        InvalidArgument: there is no such process, or it is somebody else's.
    """
    if not (_PROC / "self" / "fd").exists():
        raise InvalidArgument("top: it looks into /proc, which only Linux has.")
    pids = [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]
    found: dict[int, LiveStatsView] = {}
    for candidate in pids if pid is None else [pid]:
        try:
            for path, name in _memory_files(candidate):
                inode = path.stat().st_ino
                if name == MEMORY_NAME and inode not in found:
                    view = LiveStatsView(path)
                    # A fork holds its parent's live stats, too: they are found there.
                    if view.pid in (candidate, pid):
                        found[inode] = view
        except FileNotFoundError:
            if pid is not None:
                raise InvalidArgument(f"top: there is no process {pid}.") from None
        except PermissionError:
            if pid is not None:
                raise InvalidArgument(
                    f"top: process {pid} is another user's; only its owner may look."
                ) from None
        except (OSError, ValueError):  # it ended, or closed its vector, meanwhile
            continue
    return sorted(found.values(), key=lambda live_stats: (live_stats.pid, live_stats.name))


def choose_vector(pid: int | None, name: str | None) -> LiveStatsView:
    """The one vector that is meant.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    found = [
        live_stats for live_stats in find_live_stats(pid) if name is None or live_stats.name == name
    ]
    where = "of yours is running" if pid is None else f"runs in process {pid}"
    if not found:
        named = "" if name is None else f" named {name!r}"
        raise InvalidArgument(f"top: no vector{named} {where}.")
    if len(found) > 1:
        several = ", ".join(f"{one.name!r} in process {one.pid}" for one in found)
        raise InvalidArgument(f"top: choose one by PID or --name; there are {several}.")
    return found[0]


# -- what is shown ----------------------------------------------------------------------------

_COLORS = {
    SamplerState.READY: "green",
    SamplerState.BUSY: "yellow",
    SamplerState.PAUSED: "dim",
    SamplerState.EXHAUSTED: "magenta",
    SamplerState.FAILED: "bold red",
}


def view(reading: Reading, most_rows: int | None = None) -> RenderableType:
    """A reading as a table; of more samplers than rows, the ones most worth seeing."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (reading.name, "bold"),
        f"  process {reading.pid}, {len(reading.samplers)} samplers in "
        f"{reading.num_workers} workers, up {reading.age_s:.0f} s\n",
        (f"{reading.steps_per_s:,.0f} steps/s", "bold cyan"),
        f"  {reading.steps:,} steps, {reading.episodes:,} episodes, {reading.restarts} restarts, "
        f"last call {reading.since_call_s:.1f} s ago",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("sampler", "worker", "pid"):
        table.add_column(title, justify="right")
    table.add_column("state")
    slowest_s = max((line.p95_s or 0.0 for line in reading.samplers), default=0.0)
    if reading.is_timed:
        table.add_column("p50", justify="right")
        table.add_column("p95", justify="right")
        table.add_column("")
    shown, left_out = reading.samplers, 0
    if most_rows is not None and len(shown) > most_rows:
        calm = (SamplerState.READY, SamplerState.BUSY)
        worth = sorted(shown, key=lambda line: (line.state in calm, -(line.p95_s or 0.0)))
        shown, left_out = sorted(worth[:most_rows]), len(shown) - most_rows
    for line in shown:
        cells = [str(line.sampler_id), str(line.worker), str(line.pid)]
        cells.append(f"[{_COLORS[line.state]}]{line.state.name}[/]")
        if reading.is_timed:
            cells += [_duration(line.p50_s), _duration(line.p95_s), _bar(line, slowest_s)]
        table.add_row(*cells)
    below = []
    if left_out:
        below.append(Text(f"... and {left_out} more samplers", style="dim"))
    if not reading.is_timed:
        below.append(Text("no latencies: the vector was made without timing=True", style="dim"))
    if reading.error:
        ago = f"last error, {reading.error_age_s:.0f} s ago: "
        below.append(Text.assemble((ago, "bold red"), reading.error))
    if reading.is_closed:
        below.append(Text("the vector is closed", style="bold"))
    return Group(head, Text(), table, *below)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _bar(line: SamplerLine, slowest_s: float) -> str:
    """The median as a full bar, what is beyond it up to p95 as a faint one."""
    if line.p50_s is None or line.p95_s is None or slowest_s <= 0:
        return ""
    usual = round(_BAR_CELLS * line.p50_s / slowest_s)
    rest = max(0, round(_BAR_CELLS * line.p95_s / slowest_s) - usual)
    return f"[cyan]{'█' * usual}[/][dim]{'░' * rest}[/]"


# -- the command ------------------------------------------------------------------------------


@click.command(
    "top",
    epilog=examples("vectasks top", "vectasks top 12345 --once"),
    short_help="Watch a running vector.",
)
@click.argument("pid", required=False, type=int)
@click.option("--name", help="The vector's name: VectorSampledTasks(..., name=NAME).")
@click.option("--once", is_flag=True, help="Print it once and end.")
def command(pid: int | None, name: str | None, once: bool) -> int:
    """Watch a vector that runs in another process; Ctrl-C ends the watching.

    PID is the vector's process; without it, the only vector of yours that runs is shown.
    """
    require("rich", None, "top")
    from rich.console import Console
    from rich.live import Live

    live_stats = choose_vector(pid, name)
    console = Console()
    if once or not console.is_terminal:
        console.print(view(live_stats.read()))
        return 0

    def now() -> RenderableType:
        return view(live_stats.read(), most_rows=max(1, console.height - 8))

    try:
        with Live(now(), console=console, screen=True, auto_refresh=False) as live:
            while not live_stats.read().is_closed:
                live.update(now(), refresh=True)
                time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    console.print(view(live_stats.read()))
    sys.stdout.flush()
    return 0
