"""The options that several commands share, and the kinds of values that click does not have.

Most functions return a decorator for a command's function, as ``click.option`` does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vectasks.cli.common import CommandError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: A file or folder, as a :class:`pathlib.Path`; whether it is there is not looked at.
PATH = click.Path(path_type=Path)


def at_least(minimum: int) -> Callable[[Any], int]:
    """Return the type of an option that is a whole number of at least ``minimum``."""

    def whole(value: Any) -> int:
        with contextlib.suppress(ValueError):
            if int(value) >= minimum:
                return int(value)
        raise click.BadParameter(f"must be a whole number of at least {minimum}, got {value!r}")

    return whole


def examples(*commands: str, note: str = "") -> str:
    """Return the end of a help page: commands to copy, and a note under them."""
    lines = ["\b", "Example:" if len(commands) == 1 else "Examples:"]  # \b: click keeps the lines
    lines += [f"  {command}" for command in commands]
    return "\n".join([*lines, "", note])


def whole_number(
    name: str, minimum: int, help: str, default: int | None = None, show_default: str | None = None
) -> Decorator:
    """An option whose value is a whole number of at least ``minimum``."""
    return click.option(
        name,
        type=at_least(minimum),
        default=default,
        metavar="N",
        show_default=show_default or True,
        help=help,
    )


def seed(default: int | None, help: str = "Of all randomness.") -> Decorator:
    """``--seed``: of whatever the command makes."""
    return whole_number("--seed", 0, help, default)


def processes() -> Decorator:
    """``--processes``: of the vector; None stands for one per core."""
    help = "Worker processes; 0: no process but this one."
    return whole_number("--processes", 0, help, show_default="one per core")


def sampler() -> Decorator:
    """The argument that names what makes a task sampler."""
    return click.argument("sampler", metavar="MODULE:MAKE_SAMPLER")


def sampler_arguments() -> Decorator:
    """``--args``: the sampler's keywords, as a dictionary named ``arguments``."""
    return click.option(
        "--args",
        "arguments",
        default="{}",
        callback=lambda context, parameter, text: _json_object(text),
        metavar="JSON",
        help="Keywords of MAKE_SAMPLER, a JSON object.",
    )


def policy(*, required: bool) -> Decorator:
    """``--policy``: the function that acts."""
    return click.option(
        "--policy",
        required=required,
        metavar="MODULE:FUNCTION",
        show_default=None if required else "random actions",
        help="The function that chooses actions.",
    )


def manifest() -> Decorator:
    """``--manifest``: where a run writes what became of its jobs."""
    return click.option(
        "--manifest",
        type=PATH,
        default="run.json",
        metavar="FILE",
        help="What became of them; a second run reads it.",
    )


def out(*names: str, help: str, default: str | None = None) -> Decorator:
    """``--out``: the file to write; required where there is no default."""
    return click.option(
        *names,
        "--out",
        type=PATH,
        metavar="FILE",
        help=help,
        **({"required": True} if default is None else {"default": default}),
    )


def refuse_together(**given: Any) -> None:
    """Refuse options that exclude each other.

    Args:
        given: their values; None and False stand for an option that was not given.

    Raises:
        click.UsageError: more than one was given.
    """
    names = [
        f"--{name}" for name, value in given.items() if value is not None and value is not False
    ]
    if len(names) > 1:
        raise click.UsageError(
            f"argument {names[1]}: not allowed with argument {names[0]}",
            click.get_current_context(),
        )


def _json_object(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise CommandError(f"--args {text}: it is no JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise CommandError(
            f'--args {text}: it must be a JSON object, as \'{{"scene": "kitchen"}}\', '
            f"not a {type(arguments).__name__}"
        )
    return arguments
