"""``vectasks eval MODULE:MAKE_SAMPLER --policy MODULE:FUNCTION --episodes N``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vectasks.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CommandError,
    at_least,
    load_arguments,
    load_callable,
    quieten_native_libraries,
    see_current_directory,
)
from vectasks.cli.progress import failures_table, job_bar

if TYPE_CHECKING:
    from vectasks.evaluation import Aggregate, EpisodeResult

_DESCRIPTION = """\
Play exactly so many episodes of a policy, or exactly the tasks of a file, each once, and say how
well it does. Ctrl-C ends it; the same command then plays the rest.
"""

_EPILOG = """\
A policy is a function of one list, the observations, or of two, with the action spaces; both have
an entry for each sampler that still plays, and so has the list of actions that it returns.
Beside the manifest, run.json, there are run.episodes.jsonl with a line of metrics an episode, and
run.videos. `vectasks report run.json -o report.html` makes a page of it all.

exit code: 0: all episodes were played; 1: some failed; 2: bad use; 130: Ctrl-C
"""


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a policy on exactly so many episodes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("sampler", metavar="MODULE:MAKE_SAMPLER", help="makes a task sampler")
    parser.add_argument("--policy", required=True, metavar="MODULE:FUNCTION", help="acts")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--episodes", type=at_least(1), metavar="N", help="how many")
    what.add_argument(
        "--tasks",
        type=Path,
        metavar="FILE",
        help="the tasks, JSON Lines: an object holds keywords of the sampler's next_task, anything "
        "else is its `task` (default: every task that the samplers have)",
    )
    parser.add_argument(
        "--args", default="{}", metavar="JSON", help="the sampler's keywords, an object"
    )
    parser.add_argument(
        "--samplers", type=at_least(1), default=4, metavar="N", help="at a time (default: 4)"
    )
    parser.add_argument(
        "--processes",
        type=at_least(0),
        metavar="N",
        help="0: no process but this one (default: one a core)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="(default: 0)")
    parser.add_argument(
        "--manifest",
        type=Path,
        default=Path("run.json"),
        help="what became of them (default: run.json)",
    )
    parser.add_argument(
        "--videos", type=at_least(0), default=0, metavar="N", help="film the first N episodes"
    )
    parser.add_argument("--force", action="store_true", help="also play what was played")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the metrics, and return the exit code."""
    quieten_native_libraries()
    see_current_directory()
    arguments = load_arguments(args.args)
    make_sampler = load_callable(args.sampler, "MODULE:MAKE_SAMPLER")
    policy = load_callable(args.policy, "MODULE:FUNCTION", "--policy")
    tasks = None if args.tasks is None else _read_tasks(args.tasks)

    from vectasks.evaluation import evaluate

    counts = {"done": 0, "failed": 0}
    processes = args.processes
    if processes is None:
        processes = min(os.cpu_count() or 1, args.samplers)
    with job_bar(args.sampler) as bar:

        def show(result: EpisodeResult, total: int) -> None:
            counts["done" if result.error is None else "failed"] += 1
            bar.show(total=total, skipped=0, **counts)

        try:
            report = evaluate(
                policy,
                make_sampler,
                [arguments] * args.samplers,
                episodes=args.episodes,
                tasks=tasks,
                seed=args.seed,
                max_processes=processes,
                manifest_path=args.manifest,
                videos=args.videos,
                force=args.force,
                on_episode=show,
            )
        except KeyboardInterrupt:
            bar.end()
            sys.stderr.write(
                f"vectasks: interrupted after {counts['done']} episodes; the same command plays "
                "the rest\n"
            )
            return EXIT_INTERRUPTED
    _print_metrics(report.aggregates)
    sys.stdout.write(f"{args.manifest}: {len(report.episodes)} episodes, ")
    sys.stdout.write(f"{report.num_failed} failed\n")
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
