"""Helpers that the subcommands share."""

from __future__ import annotations

import importlib
import operator
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXIT_FAILED = 1
EXIT_BAD_USE = 2
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """Something the user can put right; its message is the line that they see."""


def see_current_directory() -> None:
    """Let the modules that a user names be found here, as an installed command does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def quieten_native_libraries() -> None:
    """Keep greetings, and the search for a screen and a sound card, away; workers inherit this."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def load_callable(name: str, form: str, option: str = "") -> Callable[..., Any]:
    """Import and return the callable that a user named by its module and its name in it.

    Args:
        name: as the user wrote it.
        form: how it should be written: ``"MODULE:FUNCTION"``.
        option: what it was given for: ``"--policy"``.

    Raises:
        CommandError: there is no such thing, or it cannot be called.
    """
    told = f"{option} {name}".lstrip()
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise CommandError(f"{told}: it must be {form}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # user code
        raise CommandError(f"{told}: cannot be imported: {described(error)}") from error
    try:
        found = operator.attrgetter(path)(module)
    except AttributeError as error:
        raise CommandError(f"{told}: {_without(module, path)}") from error
    if not callable(found):
        raise CommandError(f"{told}: it is a {type(found).__name__}, and cannot be called")
    function: Callable[..., Any] = found
    return function


def _without(module: Any, path: str) -> str:
    known: Sequence[str] = [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    has = f" (it has {', '.join(known[:8])})" if known else ""
    return f"{module.__name__} has no {path}{has}"


def one_line(error: BaseException) -> str:
    """Return an error's message as one line."""
    return " ".join(str(error).split())


def described(error: BaseException) -> str:
    """Return an error's type and message, and where in the user's code it was raised."""
    text = f"{type(error).__name__}: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frame = frames[-1]
    if Path(frame.filename) == Path(__file__):  # the module itself was not found
        return text
    return f"{text} ({Path(frame.filename).name}:{frame.lineno})"
