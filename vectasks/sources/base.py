"""The interface of a task source: what the vector asks it, and what it tells it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

from vectasks.errors import InvalidArgument

#: Keywords for a sampler's ``next_task``.
Keywords = Mapping[str, Any]


class EpisodeOutcome(NamedTuple):
    """How an episode ended.

    Attributes:
        episode_return: the sum of its rewards: a float, or a list or array of floats [num_agents].
        length: the number of its steps.
        metrics: what the task's ``metrics()`` told.
        terminated: True if the task itself ended it (a goal, a failure).
        truncated: True if a limit ended it.
        info: the info of its last step.
    """

    episode_return: Any
    length: int
    metrics: Mapping[str, Any] = {}
    terminated: bool = True
    truncated: bool = False
    info: Mapping[str, Any] = {}


class TaskSource(abc.ABC):
    """One stream of tasks for all samplers of a vector.

    The vector's process keeps it and calls it from one thread. For each episode it asks for the
    keywords of the sampler's ``next_task`` (:meth:`next`) and reports what became of them, exactly
    once: :meth:`ended` if the episode was played to its end, :meth:`give_back` if it was not.
    In lockstep it draws by step, then by sampler id, so the order is the same in every run.

    A class that has a method ``next`` works without inheriting; the rest has defaults.
    """

    @abc.abstractmethod
    def next(self, sampler_id: int) -> Keywords | None:
        """Return the keywords of the sampler's next task, or None when there is none for it."""

    def ended(self, sampler_id: int, keywords: Keywords, outcome: EpisodeOutcome) -> None:  # noqa: B027
        """Take note of an episode that was played to its end.

        Args:
            sampler_id: the sampler that played it.
            keywords: what :meth:`next` returned for it.
            outcome: how it ended.
        """

    def give_back(self, sampler_id: int, keywords: Keywords) -> None:  # noqa: B027
        """Take back keywords whose episode was not played to its end.

        The vector was closed, dropped what it had prepared, or lost the sampler for good. A source
        that plays each task exactly once hands them out again.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, for :meth:`load_state_dict`.

        Tasks whose episodes have not ended count as given back. A source without state returns an
        empty dict.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of an equal source returned.

        Raises:
            InvalidArgument: the state is another source's.
        """
        if state:
            raise InvalidArgument(
                f"{type(self).__name__} keeps no state, got one with {sorted(map(str, state))}: it "
                "is another source's. Load it there, or override state_dict and load_state_dict."
            )


class _DuckTyped(TaskSource):
    """A source that does not inherit, with defaults for what it lacks."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def next(self, sampler_id: int) -> Keywords | None:
        keywords: Keywords | None = self._source.next(sampler_id)
        return keywords

    def ended(self, sampler_id: int, keywords: Keywords, outcome: EpisodeOutcome) -> None:
        if hasattr(self._source, "ended"):
            self._source.ended(sampler_id, keywords, outcome)

    def give_back(self, sampler_id: int, keywords: Keywords) -> None:
        if hasattr(self._source, "give_back"):
            self._source.give_back(sampler_id, keywords)

    def state_dict(self) -> dict[str, Any]:
        if not hasattr(self._source, "state_dict"):
            return super().state_dict()
        state: dict[str, Any] = self._source.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if hasattr(self._source, "load_state_dict"):
            self._source.load_state_dict(state)
        else:
            super().load_state_dict(state)


_METHODS = ("next", "ended", "give_back", "state_dict", "load_state_dict")


def check_source(source: Any) -> TaskSource:
    """Return ``source`` as a TaskSource; one that is duck-typed, with defaults for what it lacks.

    Raises:
        TypeError: it has no method ``next``, or has something else under a method's name.
    """
    if isinstance(source, TaskSource):
        return source
    expected = "a task source has a method next(sampler_id) that returns keywords or None"
    if isinstance(source, type):
        raise TypeError(f"a task source was expected, got the class {source.__name__}: make one.")
    given = f"{source!r:.60} ({type(source).__name__})"
    if not hasattr(source, "next"):
        hint = ""
        if isinstance(source, (list, tuple)):
            hint = " Make it one by vectasks.sources.TaskList(...)."
        elif callable(source) or hasattr(source, "__next__"):
            hint = " Make it one by vectasks.sources.TasksFrom(...)."
        raise TypeError(f"{expected}; {given} has none.{hint}")
    for name in _METHODS:
        if not callable(getattr(source, name, check_source)):
            raise TypeError(f"{expected}; of {given}, {name} is no method.")
    return _DuckTyped(source)
