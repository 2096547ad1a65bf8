"""Statistics of a metric over many episodes: robust means and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import real_number
from vectasks._util.extras import require
from vectasks.errors import InvalidArgument

_NUM_RESAMPLES = 5000
_MOST_NUMBERS_AT_ONCE = 10_000_000  # of the resamples that SciPy holds together


class Interval(NamedTuple):
    """A confidence interval; both ends are None where fewer than two values tell no spread."""

    low: float | None
    high: float | None


class Aggregate(NamedTuple):
    """A metric over episodes.

    Attributes:
        n: how many values it is made of.
        mean, mean_interval: the mean, and its bootstrap confidence interval.
        iqm, iqm_interval: the same of the middle half of the values: the interquartile mean.
        left_out: how many further values were told that are NaN, infinite or no number; they are
            in none of the others. Where nothing else was told, ``n`` is 0 and the rest NaN.
    """

    n: int
    mean: float
    mean_interval: Interval
    iqm: float
    iqm_interval: Interval
    median: float
    std: float
    minimum: float
    maximum: float
    left_out: int = 0


def aggregate(values: Iterable[Any], *, confidence: float = 0.95, seed: int = 0) -> Aggregate:
    """Compute mean and interquartile mean, each with a percentile bootstrap interval.

    Args:
        values: one an episode; those that are NaN, infinite or no number are left out and counted.
        confidence: the level of the intervals.
        seed: of the resampling; the same seed gives the same intervals.
    """
    told = [as_number(value) for value in values]
    array = np.array([number for number in told if number is not None and math.isfinite(number)])
    left_out = len(told) - len(array)
    if not len(array):
        none, nan = Interval(None, None), math.nan
        return Aggregate(0, nan, none, nan, none, nan, nan, nan, nan, left_out)
    with np.errstate(over="ignore", invalid="ignore"):  # of values near the greatest float
        return Aggregate(
            len(array),
            float(array.mean()),
            _interval(array, np.mean, confidence, seed),
            float(_interquartile_mean(array)),
            _interval(array, _interquartile_mean, confidence, seed),
            float(np.median(array)),
            float(array.std(ddof=1)) if len(array) > 1 else 0.0,
            float(array.min()),
            float(array.max()),
            left_out,
        )


def aggregate_all(
    episodes: Iterable[Mapping[str, Any]], *, confidence: float = 0.95
) -> dict[str, Aggregate]:
    """Aggregate every metric that is a number in one episode at least, by its name."""
    columns: dict[str, list[Any]] = {}
    for metrics in episodes:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    return {
        name: aggregate(column, confidence=confidence)
        for name, column in columns.items()
        if any(as_number(value) is not None for value in column)
    }


def as_number(value: Any) -> float | None:
    """Return a metric's value as a float, or None if it is no number."""
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    is_number = isinstance(value, Real)
    try:
        return float(value) if is_number else None
    except OverflowError:  # an integer beyond all floats
        return math.inf if value > 0 else -math.inf


def checked_confidence(confidence: Any) -> float:
    """Return the level of intervals as a float.

    Raises:
        InvalidArgument: it does not lie between 0 and 1.
    """
    level = real_number("confidence", confidence, positive=True)
    if level >= 1:
        raise InvalidArgument(
            f"confidence must lie between 0 and 1, as 0.95 does, got {confidence!r}."
        )
    return level


def _interquartile_mean(values: NDArray[np.float64], axis: int = -1) -> Any:
    stats = require("scipy.stats", "evaluation", "the interquartile mean")
    return stats.trim_mean(values, 0.25, axis=axis)


def _interval(array: NDArray[np.float64], statistic: Any, confidence: float, seed: int) -> Interval:
    if len(array) < 2:
        return Interval(None, None)
    stats = require("scipy.stats", "evaluation", "confidence intervals")
    result = stats.bootstrap(
        (array,),
        statistic,
        n_resamples=_NUM_RESAMPLES,
        batch=max(1, _MOST_NUMBERS_AT_ONCE // len(array)),
        vectorized=True,
        axis=-1,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(*map(float, result.confidence_interval))
