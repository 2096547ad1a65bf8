"""A mixture of sources, drawn from by weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import real_number, whole_number
from vectasks.errors import InvalidArgument
from vectasks.sources.base import EpisodeOutcome, Keywords, TaskSource, check_source
from vectasks.sources.drawn import DrawnTasks
from vectasks.sources.specs import check_state


class TaskMixture(TaskSource):
    """A mixture of sources: each task is drawn from one of them, by weights.

    A source that has no task left is left out, until it has one again; the others keep their
    proportions. A source of weight 0 is never drawn from.

    Args:
        sources: what is mixed.
        weights: one for each source; they need not add up to 1.
        seed: of the draws.

    >>> from vectasks.sources import TaskList
    >>> easy = TaskList([{"level": 1}], repeat=True)
    >>> hard = TaskList([{"level": 9}], repeat=True)
    >>> TaskMixture([easy, hard], weights=[0.8, 0.2]).next(sampler_id=0)
    {'level': 1}

    Raises:
        InvalidArgument: there are no sources; a weight is missing, negative or no number, or
            all are 0.
        TypeError: one is no source.
    """

    def __init__(self, sources: Iterable[Any], weights: Iterable[float], *, seed: int = 0) -> None:
        self._sources = [check_source(source) for source in sources]
        if not self._sources:
            raise InvalidArgument("sources is empty: give at least one.")
        self._weights = _checked_weights(weights, len(self._sources))
        self._seed = whole_number("seed", seed)
        self._num_drawn = 0
        self._out: DrawnTasks[tuple[TaskSource, Keywords]] = DrawnTasks("TaskMixture")

    def next(self, sampler_id: int) -> Keywords | None:
        """Return the next task of a source that is drawn by the weights."""
        rng = np.random.default_rng([self._seed, self._num_drawn])
        weights = self._weights.copy()
        while weights.any():
            number = rng.choice(len(weights), p=weights / weights.sum())
            keywords = self._sources[number].next(sampler_id)
            if keywords is not None:
                self._num_drawn += 1
                self._out.add(sampler_id, keywords, (self._sources[number], keywords))
                return keywords
            weights[number] = 0
        return None

    def ended(self, sampler_id: int, keywords: Keywords, outcome: EpisodeOutcome) -> None:
        """Tell the source that gave the task."""
        drawn = self._out.remove(sampler_id, keywords)
        if drawn is not None:
            source, given = drawn
            source.ended(sampler_id, given, outcome)

    def give_back(self, sampler_id: int, keywords: Keywords) -> None:
        """Give the task back to the source that gave it."""
        drawn = self._out.remove(sampler_id, keywords)
        if drawn is not None:
            source, given = drawn
            source.give_back(sampler_id, given)

    def _identity(self) -> dict[str, Any]:
        return {"source": "TaskMixture", "num_sources": len(self._sources)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the states of all sources."""
        states = [source.state_dict() for source in self._sources]
        return {**self._identity(), "num_drawn": self._num_drawn, "sources": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a mixture of as many sources; the weights may be others.

        Raises:
            InvalidArgument: the state is another mixture's, or one in it is another source's;
                the sources before that one have loaded theirs then.
        """
        check_state(state, self._identity(), ("num_drawn", "sources"))
        for number, (source, inner) in enumerate(zip(self._sources, state["sources"], strict=True)):
            try:
                source.load_state_dict(inner)
            except InvalidArgument as error:
                raise InvalidArgument(f"TaskMixture, sources[{number}]: {error}") from error
        self._num_drawn = state["num_drawn"]
        self._out.disown()


def _checked_weights(weights: Any, num_sources: int) -> NDArray[np.float64]:
    if isinstance(weights, (str, Mapping)) or not isinstance(weights, Iterable):
        raise InvalidArgument(
            f"weights must be a list with one for each source, got {weights!r:.60}."
        )
    checked = [real_number(f"weights[{i}]", weight) for i, weight in enumerate(weights)]
    if len(checked) != num_sources:
        raise InvalidArgument(
            f"weights has {len(checked)} for {num_sources} sources: give each one."
        )
    if not any(checked):
        raise InvalidArgument("weights are all 0, so nothing could be drawn: give one above 0.")
    return np.asarray(checked) / max(checked)  # so that their sum is no infinity
