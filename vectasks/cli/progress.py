"""What commands that do many things show: a bar while they run, and a table of what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class JobBar:
    """A bar with counts; see :func:`job_bar`."""

    def __init__(self, progress: Progress, bar: TaskID) -> None:
        self._progress = progress
        self._bar = bar

    def show(self, *, total: int, done: int, skipped: int, failed: int) -> None:
        """So many are done, were done before, and failed."""
        counts = f"{done} done, {skipped} skipped, {failed} failed"
        completed = done + skipped + failed
        self._progress.update(self._bar, total=total, completed=completed, counts=counts)

    def end(self) -> None:
        """Take no more of the screen."""
        self._progress.stop()


@contextmanager
def job_bar(title: str) -> Iterator[JobBar]:
    """A progress bar on stderr, if that is a terminal: what is done, and the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield JobBar(progress, progress.add_task(title, total=None, counts=""))


def failures_table(failures: Iterable[tuple[str, str, str]]) -> None:
    """Print what failed: its name, the kind of error, the message."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(failures)
    if not rows:
        return
    table = Table("failed", "error", "message", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
