"""Checks of what users pass to a vector: each returns what it was given, or says what is wrong."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from vectasks.errors import InvalidArgument, SamplerIndexError, WrongCount
from vectasks.messages import Command

_REAL: Any = (Real, np.integer, np.floating)
_COMMANDS = {command.label: command for command in Command if command is not Command.SETUP}


def checked_sampler_args(make_sampler_fn: Any, sampler_fn_args: Any) -> Sequence[Mapping[str, Any]]:
    """One mapping of keywords a sampler, as a list."""
    if not callable(make_sampler_fn):
        raise InvalidArgument(
            f"make_sampler_fn must be callable, got {type(make_sampler_fn).__name__}."
        )
    if isinstance(sampler_fn_args, Mapping) or not isinstance(sampler_fn_args, Iterable):
        raise InvalidArgument(
            "sampler_fn_args must be a list with one dict of keywords a sampler, got "
            f"{type(sampler_fn_args).__name__}; for four equal samplers: [{{}}] * 4."
        )
    arguments = list(sampler_fn_args)
    if not arguments:
        raise InvalidArgument(
            "sampler_fn_args is empty: give one dict of keywords a sampler, at least one."
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
    if isinstance(command, Command) and command is not Command.SETUP:
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
            f"{what} must be a list with one item a sampler, got {type(values).__name__}."
        )
    items = list(values)
    if len(items) != len(ids):
        raise WrongCount(
            f"{what} has {len(items)} items for {len(ids)} unpaused samplers: give one each."
        )
    return items


def is_whole_number(value: Any) -> bool:
    """Tell an integer, Python's or numpy's, from anything else; a flag is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def whole_number(name: str, value: Any, *, at_least: int = 0) -> int:
    """Return ``value``, an integer of Python or numpy, as an ``int``.

    Raises:
        InvalidArgument: it is no integer, or less than ``at_least``.
    """
    if not is_whole_number(value) or value < at_least:
        raise InvalidArgument(
            f"{name} must be an integer of at least {at_least}, "
            f"got {value!r} ({type(value).__name__})."
        )
    return int(value)


def whole_number_or_inf(name: str, value: Any, *, at_least: int = 0) -> float:
    """Return ``value``, an integer or infinity, as an ``int`` or ``math.inf``.

    Raises:
        InvalidArgument: it is neither, or less than ``at_least``.
    """
    if isinstance(value, (float, np.floating)) and value == math.inf:
        return math.inf
    return whole_number(name, value, at_least=at_least)


def real_number(
    name: str, value: Any, *, at_least: float = 0.0, finite: bool = True, positive: bool = False
) -> float:
    """Return ``value``, a number of Python or numpy, as a ``float``.

    Args:
        name: of the argument, for the message.
        value: what was given for it.
        at_least: the smallest that is taken.
        finite: whether infinity is refused; what is no number (nan) always is.
        positive: whether zero is refused too.

    Raises:
        InvalidArgument: it is no such number.
    """
    fits = (
        isinstance(value, _REAL)
        and not isinstance(value, (bool, np.bool_))
        and float(value) >= at_least
        and not (positive and float(value) <= 0)
        and not (finite and math.isinf(value))
    )
    if not fits:
        least = "above 0" if positive else f"of at least {at_least:g}"
        raise InvalidArgument(
            f"{name} must be a number {least}, got {value!r} ({type(value).__name__})."
        )
    return float(value)


def seconds_or_none(name: str, value: Any, *, positive: bool = False) -> float | None:
    """Return a limit in seconds as a ``float``; None, as infinity, is no limit.

    Raises:
        InvalidArgument: it is no such number.
    """
    if value is None:
        return None
    seconds = real_number(name, value, finite=False, positive=positive)
    return None if math.isinf(seconds) else seconds


def checked_ids(what: str, samplers: Any, known: Sequence[int], of_which: str) -> list[int]:
    """Return ids of samplers, from a list, an array or any other sequence, as a list.

    Raises:
        InvalidArgument: it is no sequence.
        SamplerIndexError: an id is no integer, is not among the ``known`` ones, which are those
            ``of_which`` kind, or is there twice.
    """
    expected = f"a list of ids of {of_which}, each once; these are {list(known)}"
    if isinstance(samplers, (str, bytes, Mapping)) or not isinstance(samplers, Iterable):
        raise InvalidArgument(
            f"{what}: samplers must be {expected}, got {samplers!r} ({type(samplers).__name__})."
        )
    items = list(samplers)
    try:
        # A mask of flags is not meant as ids 0 and 1.
        ids = [operator.index(item) for item in items if not isinstance(item, bool)]
    except TypeError:
        ids = []
    if len(ids) != len(items) or len(set(ids)) != len(ids) or not set(ids).issubset(known):
        raise SamplerIndexError(f"{what}: samplers must be {expected}, got {samplers!r}.")
    return ids


def checked_seed(seed: Any) -> int:
    """``seed`` as an int."""
    if not is_whole_number(seed):
        raise InvalidArgument(f"a seed must be an integer, got {seed!r} ({type(seed).__name__}).")
    return int(seed)


def checked_keywords(keywords: Any) -> dict[str, Any]:
    """Keywords for ``next_task``: a mapping, or None for none."""
    if keywords is not None and not isinstance(keywords, Mapping):
        raise InvalidArgument(
            f"the data of next_task must be a dict of keywords (or None), got {keywords!r}."
        )
    return dict(keywords or {})
