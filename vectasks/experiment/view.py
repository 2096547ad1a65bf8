"""Show jobs as tables: those of a ``workdir``, and those of an experiment that waits for them."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vectasks.experiment.job import Job, JobState

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from vectasks.experiment.records import Record

_COLORS = {
    JobState.WAITING: "dim",
    JobState.RUNNING: "yellow",
    JobState.DONE: "green",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "magenta",
}
_REFRESHES_PER_S = 4
_MOST_RUNNING = 12


def table(records: Sequence[Record]) -> Table:
    """Make a table of jobs, a line each: state, times, tags, and a remark."""
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("job", "state", "started", "took", "experiment", "tags", ""):
        lines.add_column(title, overflow="fold", no_wrap=title in ("job", "state", "took"))
    for record in records:
        status = record.status
        started, end_s = "-", status.ended_s
        if status.started_s is not None:
            started = time.strftime("%m-%d %H:%M:%S", time.localtime(status.started_s))
            end_s = time.time() if record.state is JobState.RUNNING else end_s
        took_s = None if status.started_s is None or end_s is None else end_s - status.started_s
        lines.add_row(
            str(record.job),
            Text(str(record.state), style=_COLORS[record.state]),
            started,
            duration(took_s),
            Text(status.experiment),
            Text(_tags(record.job)),
            Text(record.remark.partition("\n")[0]),
        )
    return lines


@contextlib.contextmanager
def shown(name: str, jobs: Callable[[], list[Job]], wanted: bool | None) -> Iterator[None]:
    """Show the progress of jobs on stderr until the body ends.

    Args:
        name: the experiment's.
        jobs: gives the jobs as they are now.
        wanted: None: on a terminal, if there is anything to wait for.
    """
    if wanted is None:
        wanted = any(job.state in (JobState.WAITING, JobState.RUNNING) for job in jobs())
        if wanted:
            from rich.console import Console

            wanted = Console(stderr=True).is_terminal
    if not wanted:
        yield
        return
    from rich.console import Console
    from rich.live import Live

    started_s: dict[str, float] = {}
    with Live(
        console=Console(stderr=True),
        get_renderable=lambda: _progress(name, jobs(), started_s),
        refresh_per_second=_REFRESHES_PER_S,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield


def _progress(name: str, jobs: Sequence[Job], started_s: dict[str, float]) -> RenderableType:
    """Draw a bar, the number of jobs in each state, and the jobs that run."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    counts = Counter(job.state for job in jobs)
    num_ended = len(jobs) - counts[JobState.WAITING] - counts[JobState.RUNNING]
    told = Text(f"{name}  ")
    for state, color in _COLORS.items():
        if counts[state]:
            told.append(f"{counts[state]} {state}  ", style=color)
    running = [job for job in jobs if job.state is JobState.RUNNING]
    lines, now_s = [], time.monotonic()
    for job in running[:_MOST_RUNNING]:
        elapsed_s = now_s - started_s.setdefault(str(job.path), now_s)
        lines.append(Text(f"  {job}  {duration(elapsed_s)}  {_tags(job)}", style="dim"))
    if len(running) > _MOST_RUNNING:
        lines.append(Text(f"  and {len(running) - _MOST_RUNNING} more", style="dim"))
    bar = ProgressBar(total=max(1, len(jobs)), completed=num_ended, width=30)
    return Group(Columns([bar, told]), *lines)


def _tags(job: Job) -> str:
    return " ".join(f"{name}={value}" for name, value in job.tags.items())


def duration(seconds: float | None) -> str:
    """Format a time for people: 0.3 s, 42 s, 3:07, 2:00:00."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"
