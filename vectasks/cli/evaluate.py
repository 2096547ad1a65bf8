"""``vectasks eval MODULE:MAKE_SAMPLER --policy MODULE:FUNCTION --episodes N``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vectasks.cli import options
from vectasks.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CommandError,
    load_callable,
    quieten_native_libraries,
    see_current_directory,
)
from vectasks.cli.options import PATH, examples
from vectasks.cli.progress import failures_table, progress_bar

if TYPE_CHECKING:
    from vectasks.evaluation import Aggregate, EpisodeResult

_NOTE = """\
Beside the manifest, run.json, there are run.episodes.jsonl with a line of metrics an episode, and
run.videos. `vectasks report run.json -o report.html` makes a page of it all.

\b
Exit code: 0: all episodes were played; 1: some failed; 2: bad use; 130: Ctrl-C
"""


@click.command(
    "eval",
    epilog=examples(
        "vectasks eval my_tasks:make_sampler --policy my_policy:act --episodes 100",
        note=_NOTE,
    ),
    short_help="Evaluate a policy on exactly so many episodes.",
)
@options.sampler()
@options.policy(required=True)
@options.whole_number("--episodes", 1, "How many.")
@click.option(
    "--tasks",
    "tasks_path",
    type=PATH,
    metavar="FILE",
    show_default="every task that the samplers have",
    help="The tasks, JSON Lines: an object holds keywords of the sampler's next_task, anything "
    "else is its `task`.",
)
@options.sampler_arguments()
@options.whole_number("--samplers", 1, "At a time.", default=4)
@options.processes()
@options.seed(0)
@options.manifest()
@options.whole_number("--videos", 0, "Film the first N episodes.", default=0)
@click.option("--force", is_flag=True, help="Also play what was played.")
def command(
    sampler: str,
    policy: str,
    episodes: int | None,
    tasks_path: Path | None,
    arguments: dict[str, Any],
    samplers: int,
    processes: int | None,
    seed: int,
    manifest: Path,
    videos: int,
    force: bool,
) -> int:
    """Play exactly so many episodes of a policy, or exactly the tasks of a file, each once.

    The metrics say how well it does. Ctrl-C ends it; the same command then plays the rest.

    A policy is a function of one list, the observations, or of two, with the action spaces; both
    have an entry for each sampler that still plays, and so has the list of actions that it returns.
    """
    options.refuse_together(episodes=episodes, tasks=tasks_path)
    quieten_native_libraries()
    see_current_directory()
    make_sampler = load_callable(sampler, "MODULE:MAKE_SAMPLER")
    act = load_callable(policy, "MODULE:FUNCTION", "--policy")
    tasks = None if tasks_path is None else _read_tasks(tasks_path)

    from vectasks.evaluation import evaluate

    counts = {"done": 0, "failed": 0}
    if processes is None:
        processes = min(os.cpu_count() or 1, samplers)
    try:
        with progress_bar(sampler) as bar:

            def show(result: EpisodeResult, total: int) -> None:
                counts["done" if result.error is None else "failed"] += 1
                bar.show_counts(total=total, skipped=0, **counts)

            report = evaluate(
                act,
                make_sampler,
                [arguments] * samplers,
                episodes=episodes,
                tasks=tasks,
                seed=seed,
                max_processes=processes,
                manifest_path=manifest,
                videos=videos,
                force=force,
                on_episode=show,
            )
    except KeyboardInterrupt:
        sys.stderr.write(
            f"vectasks: interrupted after {counts['done']} episodes; the same command plays "
            "the rest\n"
        )
        return EXIT_INTERRUPTED
    _print_metrics(report.aggregates)
    print(f"{manifest}: {len(report.episodes)} episodes, {report.num_failed} failed")
    failures = [
        (f"episode {result.episode}", *result.error.partition(": ")[::2])
        for result in report.episodes
        if result.error is not None
    ]
    failures_table(failures)
    return EXIT_FAILED if failures else 0


def _read_tasks(path: Path) -> list[Any]:
    tasks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                tasks.append(json.loads(line))
            except ValueError as error:
                raise CommandError(f"{path}, line {number}: it is no JSON ({error})") from error
    if not tasks:
        raise CommandError(f"{path}: there is no task in it")
    return tasks


def _print_metrics(aggregates: dict[str, Aggregate]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("metric")
    left_out = ["left out"] if any(told.left_out for told in aggregates.values()) else []
    for title in ("mean", "95%", "IQM", "95%", "min", "max", *left_out):
        table.add_column(title, justify="right")
    for name, told in aggregates.items():
        cells = [f"{told.mean:.4g}", _range(*told.mean_interval)]
        cells += [f"{told.iqm:.4g}", _range(*told.iqm_interval)]
        cells += [f"{told.minimum:.4g}", f"{told.maximum:.4g}"]
        cells += [str(told.left_out) for _ in left_out]
        table.add_row(Text(name), *cells)
    console = Console()
    console.print(table)
    if left_out:
        console.print("left out: values that are NaN, infinite or no number")


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
