"""The progress bar of commands, and the table of failures that they print at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """A bar on stderr, if that is a terminal; see :func:`progress_bar`."""

    def __init__(self, progress: Progress, task_id: TaskID) -> None:
        self._progress = progress
        self._id = task_id

    def advance(self, number: int = 1) -> None:
        """Add to what is done."""
        self._progress.advance(self._id, number)

    def show(self, completed: int, title: str) -> None:
        """Say how much is done, under a new title."""
        self._progress.update(self._id, completed=completed, description=title)

    def show_counts(self, *, total: int, done: int, skipped: int, failed: int) -> None:
        """Say how many are done, were done before, and failed."""
        self._progress.update(
            self._id,
            total=total,
            completed=done + skipped + failed,
            counts=f"{done} done, {skipped} skipped, {failed} failed",
        )


@contextmanager
def progress_bar(title: str, total: int | None = None, unit: str | None = None) -> Iterator[Bar]:
    """Show a bar: what is done, and the time left.

    Args:
        title: stands before the bar.
        total: how many there are to do; None: not known yet.
        unit: of what is done, whose rate is shown; without it, there is room for counts.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.finished_speed or task.speed or 0:.0f} {unit}/s"

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}") if unit is None else Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield Bar(progress, progress.add_task(title, total=total, counts=""))


def failures_table(failures: Sequence[tuple[str, str, str]]) -> None:
    """Print what failed: its name, the kind of error, the message."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not failures:
        return
    table = Table("failed", "error", "message", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for failure in failures:
        table.add_row(*map(Text, failure))
    Console().print(table)
