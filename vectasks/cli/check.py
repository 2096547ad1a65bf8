"""``vectasks check MODULE:MAKE_SAMPLER --args '{...}'``: hold a user's tasks to the contract."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from vectasks.cli import options
from vectasks.cli.common import EXIT_FAILED, load_callable, one_line, see_current_directory
from vectasks.cli.options import examples
from vectasks.errors import VectasksError
from vectasks.transport import compiled

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
_EPILOG = examples(
    'vectasks check my_tasks:make_sampler --args \'{"scene": "kitchen"}\'',
    note="Exit code: 0 if every rule holds, 1 if one is broken, 2 for bad use.",
)


@click.command(
    "check",
    epilog=_EPILOG,
    short_help="Hold your own tasks to the contract, and say how fast they are.",
)
@options.sampler()
@options.sampler_arguments()
@options.whole_number(
    "--samplers", 1, "How many you will run: for the suggested number of processes.", default=8
)
@options.whole_number("--steps", 1, "Of each check.", default=200)
@options.seed(42)
@click.option("--not-seeded", is_flag=True, help="set_seed does not determine the tasks.")
@click.option("--no-render", is_flag=True, help="The tasks cannot be seen.")
@click.option("--no-speed", is_flag=True, help="Leave the measuring out.")
def command(
    sampler: str,
    arguments: dict[str, Any],
    samplers: int,
    steps: int,
    seed: int,
    not_seeded: bool,
    no_render: bool,
    no_speed: bool,
) -> int:
    """Run your own task sampler through the contract suite, and measure it.

    MAKE_SAMPLER is what a vector is given: a function or a class that is called with the keywords
    of --args and returns a task sampler. MODULE is found as seen from the current directory.
    """
    see_current_directory()
    make_sampler = load_callable(sampler, "MODULE:MAKE_SAMPLER")

    from vectasks.testing.check import check_sampler

    printed = _Printer()
    printed.line(f"{sampler} with {json.dumps(arguments)}", "bold")
    counts = dict.fromkeys(_STYLES, 0)
    began_s = time.perf_counter()
    for finding in check_sampler(
        make_sampler,
        arguments,
        num_steps=steps,
        seed=seed,
        is_seeded=not not_seeded,
        render_mode=None if no_render else "rgb",
    ):
        counts[finding.outcome] += 1
        printed.finding(finding.outcome, finding.rule, finding.message, finding.duration_s)
    if not no_speed and sum(counts.values()) > 1:
        _report_speed(printed, make_sampler, arguments, samplers)
    total = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    printed.line("")
    printed.line(
        f"{total} in {time.perf_counter() - began_s:.1f} s",
        _STYLES["failed" if counts["failed"] else "ok"],
    )
    return EXIT_FAILED if counts["failed"] else 0


def _report_speed(
    printed: _Printer, make_sampler: Callable[..., Any], arguments: Any, num_samplers: int
) -> None:
    from vectasks.suggest import suggest_max_processes

    printed.line("")
    printed.line(f"Speed, for {num_samplers} samplers", "bold")
    try:
        suggestion = suggest_max_processes(make_sampler, [arguments] * num_samplers)
    except VectasksError as error:  # what is wrong has been told by the checks
        printed.line(f"  cannot be measured: {one_line(error)}", _STYLES["skipped"])
        return
    for number in _told_counts(num_samplers, suggestion.max_processes):
        processes = f"{number} worker process" + "es" * (number > 1)
        where = f"in {processes}" if number else "in this process"
        is_best = number == suggestion.max_processes
        printed.line(
            f"  {num_samplers / suggestion.predictions[number]:>12,.0f} steps/s expected {where}"
            + "  <- suggested" * is_best,
            _STYLES["ok"] if is_best else "",
        )
    printed.line(f"  {suggestion.reason}")
    printed.line(f"  The usual step is {compiled.describe()}.")


def _told_counts(num_samplers: int, best: int) -> list[int]:
    """A few numbers of processes: none, the powers of two, all, and the best."""
    powers = {2**k for k in range(num_samplers.bit_length()) if 2**k <= num_samplers}
    return sorted({0, num_samplers, best} | powers)


class _Printer:
    """The report, line by line as it comes: coloured by rich where that is installed."""

    def __init__(self) -> None:
        try:
            from rich.console import Console
        except ImportError:
            self._console: Any = None
        else:
            self._console = Console(highlight=False, soft_wrap=True)

    def finding(self, outcome: str, rule: str, message: str, duration_s: float) -> None:
        took = f"  ({duration_s:.1f} s)" if duration_s >= 0.1 else ""
        self.line(f"  {outcome:<7}  {rule}{took}", _STYLES[outcome], styled_to=9)
        for line in message.splitlines():
            if line.strip():
                self.line(f"           {line.strip()}")

    def line(self, text: str, style: str = "", styled_to: int | None = None) -> None:
        """Print one line, its first ``styled_to`` characters (or all) in the style."""
        if self._console is None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return
        from rich.text import Text

        rich_text = Text(text)
        rich_text.stylize(style, 0, styled_to)
        self._console.print(rich_text)
