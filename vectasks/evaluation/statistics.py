"""What many episodes say about a metric: robust means, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.extras import require

_NUM_RESAMPLES = 5000
_MOST_NUMBERS_AT_ONCE = 10_000_000  # of the resamples that SciPy holds together


class Interval(NamedTuple):
    """A confidence interval; both ends are None where one value alone tells nothing of spread."""

    low: float | None
    high: float | None


class Aggregate(NamedTuple):
    """A metric over episodes.

    Attributes:
        n: how many episodes told it.
        mean, mean_interval: the mean, and its bootstrap confidence interval.
        iqm, iqm_interval: the same of the middle half of the values: the interquartile mean.
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


def aggregate(values: Iterable[float], *, confidence: float = 0.95, seed: int = 0) -> Aggregate:
    """Mean and interquartile mean, each with a percentile bootstrap interval over the values.

    Args:
        values: one an episode; at least one.
        confidence: the level of the intervals.
        seed: of the resampling; the same seed gives the same intervals.
    """
    array = np.asarray(list(values), float)
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
    )


def aggregate_all(
    episodes: Iterable[Mapping[str, Any]], *, confidence: float = 0.95
) -> dict[str, Aggregate]:
    """The aggregate of every metric that is a number, by its name; NaN and None are left out."""
    columns: dict[str, list[float]] = {}
    for metrics in episodes:
        for name, value in metrics.items():
            if isinstance(value, (bool, int, float)) and np.isfinite(value):
                columns.setdefault(name, []).append(float(value))
    return {name: aggregate(column, confidence=confidence) for name, column in columns.items()}


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
