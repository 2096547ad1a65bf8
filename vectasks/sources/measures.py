"""What curricula learn from an episode: one number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from vectasks.errors import InvalidArgument
from vectasks.sources.base import EpisodeOutcome

#: A number of an episode that was played to its end.
Measure: TypeAlias = Callable[[EpisodeOutcome], float]


def from_metric(name: str) -> Measure:
    """Return a function that takes a number from the task's ``metrics()``.

    >>> success = from_metric("success")
    >>> success(EpisodeOutcome(episode_return=3.0, length=2, metrics={"success": 1.0}))
    1.0
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"from_metric: a metric's name was expected, got {name!r:.60}.")
    return functools.partial(_metric, name)


def _metric(name: str, outcome: EpisodeOutcome) -> Any:
    if name not in outcome.metrics:
        raise InvalidArgument(
            f"from_metric({name!r}): the task's metrics() told {sorted(map(str, outcome.metrics))}."
        )
    return outcome.metrics[name]


def mean_return(outcome: EpisodeOutcome) -> float:
    """Return the episode's return, the mean of all agents' where there are several."""
    return float(np.mean(outcome.episode_return))


def checked_measure(name: str, measure: Any, ready: str) -> Measure:
    """Return a measure that is not the ready one, ``ready``.

    Raises:
        InvalidArgument: it is no function.
    """
    if not callable(measure):
        raise InvalidArgument(
            f"{name} must be {ready!r}, from_metric('name of a metric') or your function of an "
            f"EpisodeOutcome; got {measure!r:.60} ({type(measure).__name__})."
        )
    checked: Measure = measure
    return checked


def checked_number(what: str, value: Any) -> float:
    """Return a measured value as a float.

    Raises:
        InvalidArgument: it is no finite number.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidArgument(
            f"{what} must be a finite number, got {value!r:.60} ({type(value).__name__})."
        )
    return number
