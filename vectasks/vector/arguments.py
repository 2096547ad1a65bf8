"""Checks of what users pass to a vector: each returns what it was given, or says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vectasks._util.checks import checked_seed
from vectasks.errors import InvalidArgument, WrongCount
from vectasks.protocol import Command

# What a vector does by itself.
_INTERNAL = frozenset({Command.SETUP, Command.PREPARE})
_COMMANDS = {command.label: command for command in Command if command not in _INTERNAL}


def checked_sampler_args(make_sampler_fn: Any, sampler_fn_args: Any) -> Sequence[Mapping[str, Any]]:
    """One mapping of keywords per sampler, as a list."""
    if not callable(make_sampler_fn):
        raise InvalidArgument(
            f"make_sampler_fn must be callable, got {type(make_sampler_fn).__name__}."
        )
    if isinstance(sampler_fn_args, Mapping) or not isinstance(sampler_fn_args, Iterable):
        raise InvalidArgument(
            "sampler_fn_args must be a list with one dict of keywords per sampler, got "
            f"{type(sampler_fn_args).__name__}; for four equal samplers: [{{}}] * 4."
        )
    arguments = list(sampler_fn_args)
    if not arguments:
        raise InvalidArgument(
            "sampler_fn_args is empty: give one dict of keywords per sampler, at least one."
        )
    for position, item in enumerate(arguments):
        if not isinstance(item, Mapping):
            raise InvalidArgument(
                f"sampler_fn_args[{position}] must be a dict of keywords for make_sampler_fn, got "
                f"{type(item).__name__}."
            )
    return arguments


def one_seed_each(seed: int | Sequence[int] | None, count: int) -> list[int | None]:
    """The seed of each sampler: one int is for sampler 0, and each next one gets one more."""
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + i for i in range(count)]
    if isinstance(seed, (str, bytes)) or not isinstance(seed, Iterable):
        checked_seed(seed)
    seeds: list[int | None] = [checked_seed(item) for item in seed]
    if len(seeds) != count:
        raise WrongCount(f"seed has {len(seeds)} items for {count} samplers: give one for each.")
    return seeds


def command_named(command: Any) -> Command:
    """The command that a user named; as ``Command`` or by its string."""
    if isinstance(command, Command) and command not in _INTERNAL:
        return command
    known = _COMMANDS.get(command) if isinstance(command, str) else None
    if known is None:
        raise InvalidArgument(
            f"the command {command!r} is unknown; it can be {', '.join(sorted(_COMMANDS))}. "
            "To pause, resume and close there are the methods pause_at, resume_all and close."
        )
    return known


def checked_name(name: Any) -> str:
    """``name``, which must be a string."""
    if not isinstance(name, str):
        raise InvalidArgument(f"a name must be a string, got {name!r} ({type(name).__name__}).")
    return name


def name_and_data(command: Command, datum: Any) -> Any:
    """The datum of a command that takes a name and something: checked."""
    if isinstance(datum, str) and command is not Command.SET_ATTR:
        return datum
    if isinstance(datum, (tuple, list)) and len(datum) == 2:
        return (checked_name(datum[0]), datum[1])
    second = "value" if command is Command.SET_ATTR else "args"
    raise InvalidArgument(f"the data of {command.label} must be (name, {second}), got {datum!r}.")


def one_each(what: str, values: Iterable[Any], ids: Sequence[int]) -> list[Any]:
    """``values`` as a list with one an unpaused sampler."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidArgument(
            f"{what} must be a list with one item per sampler, got {type(values).__name__}."
        )
    items = list(values)
    if len(items) != len(ids):
        raise WrongCount(
            f"{what} has {len(items)} items for {len(ids)} unpaused samplers: give one each."
        )
    return items


def checked_keywords(keywords: Any) -> dict[str, Any]:
    """Keywords for ``next_task``: a mapping, or None for none."""
    if keywords is not None and not isinstance(keywords, Mapping):
        raise InvalidArgument(
            f"the data of next_task must be a dict of keywords (or None), got {keywords!r}."
        )
    return dict(keywords or {})
