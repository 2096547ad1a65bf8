"""Sources that hand out each task of a stream once: a list, and a generator of the user's own."""

from __future__ import annotations

import abc
import functools
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from vectasks._util.checks import whole_number
from vectasks.errors import InvalidArgument
from vectasks.sources.base import EpisodeOutcome, Keywords, TaskSource
from vectasks.sources.drawn import DrawnTasks
from vectasks.sources.specs import check_state, checked_specs, digest, is_keywords, no_keywords


class _Stream(TaskSource):
    """A numbered stream of tasks, each handed out until its episode has ended."""

    def __init__(self) -> None:
        self._num_drawn = 0
        self._again: list[tuple[int, Keywords]] = []  # a heap: what was given back
        self._out: DrawnTasks[tuple[int, Keywords]] = DrawnTasks(type(self).__name__)

    @abc.abstractmethod
    def _at(self, position: int) -> Keywords | None:
        """Return the task at the position after the last one that was asked for."""

    def next(self, sampler_id: int) -> Keywords | None:
        """Return the first task that was given back, otherwise the next one."""
        if self._again:
            position, spec = heapq.heappop(self._again)
        else:
            position, new = self._num_drawn, self._at(self._num_drawn)
            if new is None:
                return None
            spec = new
            self._num_drawn += 1
        keywords = dict(spec)  # so that each draw is an object of its own
        self._out.add(sampler_id, keywords, (position, spec))
        return keywords

    def ended(self, sampler_id: int, keywords: Keywords, outcome: EpisodeOutcome) -> None:
        """Count the task as played."""
        self._out.remove(sampler_id, keywords)

    def give_back(self, sampler_id: int, keywords: Keywords) -> None:
        """Hand the task out again before all others."""
        task = self._out.remove(sampler_id, keywords)
        if task is not None:
            heapq.heappush(self._again, task)

    def _progress(self) -> dict[str, Any]:
        """Return how far the stream has come; what is out counts as given back."""
        again = sorted(position for position, _ in [*self._again, *self._out.items()])
        return {"num_drawn": self._num_drawn, "again": again}

    def _go_on(self, num_drawn: int, again: list[tuple[int, Keywords]]) -> None:
        self._num_drawn = num_drawn
        self._again = sorted(again)
        self._out.disown()


class TaskList(_Stream):
    """A list of tasks for all samplers: each once, or for ever.

    A task whose episode was not played to its end is handed out again. So each is played to its
    end exactly once (in each pass, if the list repeats).

    Args:
        specs: the tasks, each as keywords for the sampler's ``next_task``.
        repeat: begin again after the last one, for ever.
        shuffle_seed: play each pass in a random order of its own; None: in the list's order.

    >>> source = TaskList([{"level": 1}, {"level": 2}])
    >>> source.next(sampler_id=0), source.next(sampler_id=1), source.next(sampler_id=0)
    ({'level': 1}, {'level': 2}, None)

    Raises:
        InvalidArgument: the list is empty, or holds something else than keywords.
    """

    def __init__(
        self,
        specs: Iterable[Keywords],
        *,
        repeat: bool = False,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        self._specs = checked_specs(specs)
        self._repeat = bool(repeat)
        if shuffle_seed is not None:
            shuffle_seed = whole_number("shuffle_seed", shuffle_seed)
        self._shuffle_seed = shuffle_seed
        self._order = (-1, np.arange(len(self._specs)))  # a pass, and its order

    def _at(self, position: int) -> Keywords | None:
        number, place = divmod(position, len(self._specs))
        if number > 0 and not self._repeat:
            return None
        if self._shuffle_seed is not None and self._order[0] != number:
            rng = np.random.default_rng([self._shuffle_seed, number])
            self._order = (number, rng.permutation(len(self._specs)))
        return self._specs[int(self._order[1][place])]

    @functools.cached_property
    def _identity(self) -> Mapping[str, Any]:
        return {
            "source": "TaskList",
            "num_specs": len(self._specs),
            "specs": digest(self._specs),
            "repeat": self._repeat,
            "shuffle_seed": self._shuffle_seed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state; tasks that are out count as given back."""
        return {**self._identity, **self._progress()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a list with the same tasks, order and repetition.

        Raises:
            InvalidArgument: the state is another source's; nothing has changed.
        """
        check_state(state, self._identity, ("num_drawn", "again"))
        again = [(position, self._at(position)) for position in state["again"]]
        self._go_on(state["num_drawn"], [(at, spec) for at, spec in again if spec is not None])


class TasksFrom(_Stream):
    """Tasks of the user's own generator, for all samplers.

    Args:
        tasks: a function that returns an iterator of keywords for ``next_task``, such as a
            generator function; or such an iterator, whose state cannot be saved then. When it
            ends, there are no more tasks. What it raises is raised by :meth:`next`, then and later.

    >>> def levels():
    ...     level = 0
    ...     while True:
    ...         level += 1
    ...         yield {"level": level}
    >>> TasksFrom(levels).next(sampler_id=0)
    {'level': 1}

    Raises:
        InvalidArgument: ``tasks`` is neither.
    """

    def __init__(self, tasks: Callable[[], Iterable[Keywords]] | Iterator[Keywords]) -> None:
        super().__init__()
        self._restart: Callable[[], Iterable[Keywords]] | None = None
        if isinstance(tasks, Iterator):
            self._tasks: Iterator[Keywords] = tasks
        elif callable(tasks):
            self._restart = tasks
            self._tasks = _iterator_of(tasks)
        else:
            raise InvalidArgument(
                "tasks must be a function that returns an iterator of keywords, or an iterator; "
                f"got {tasks!r:.60} ({type(tasks).__name__}). For a list there is TaskList."
            )
        self._error: Exception | None = None

    def _at(self, position: int) -> Keywords | None:
        if self._error is not None:  # a generator that raised would seem to have ended
            raise self._error
        try:
            return _pull(self._tasks, position)
        except Exception as error:
            self._error = error
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state: how many tasks were drawn, and which of them must be played again.

        Raises:
            InvalidArgument: an iterator was given, which cannot be restarted.
        """
        self._need_restart("state_dict")
        return {"source": "TasksFrom", **self._progress()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restart the generator and take from it what was drawn; it must yield the same again.

        Raises:
            InvalidArgument: the state is another source's, the generator now ends earlier, or
                an iterator was given; nothing has changed.
        """
        restart = self._need_restart("load_state_dict")
        check_state(state, {"source": "TasksFrom"}, ("num_drawn", "again"))
        tasks, wanted, again = _iterator_of(restart), set(state["again"]), []
        for position in range(state["num_drawn"]):
            spec = _pull(tasks, position)
            if spec is None:
                raise InvalidArgument(
                    f"TasksFrom: this state is another source's: {state['num_drawn']} tasks were "
                    f"drawn there, and the generator ends after {position} here."
                )
            if position in wanted:
                again.append((position, spec))
        self._tasks, self._error = tasks, None
        self._go_on(state["num_drawn"], again)

    def _need_restart(self, method: str) -> Callable[[], Iterable[Keywords]]:
        if self._restart is None:
            raise InvalidArgument(
                f"TasksFrom.{method}(): it was made from a {type(self._tasks).__name__}, which "
                "cannot be restarted. Give it the function that makes the generator: "
                "TasksFrom(levels), not TasksFrom(levels())."
            )
        return self._restart


def _iterator_of(make: Callable[[], Iterable[Keywords]]) -> Iterator[Keywords]:
    tasks = make()
    if isinstance(tasks, Mapping) or not isinstance(tasks, Iterable):
        raise InvalidArgument(
            f"TasksFrom: {getattr(make, '__name__', make)} must return an iterator of keywords, "
            f"returned {tasks!r:.60} ({type(tasks).__name__}). Let it yield them in a loop."
        )
    return iter(tasks)


def _pull(tasks: Iterator[Keywords], position: int) -> Keywords | None:
    """Return the next task of an iterator, None when it has ended."""
    try:
        spec: Keywords = next(tasks)
    except StopIteration:
        return None
    if not is_keywords(spec):
        raise TypeError(no_keywords(f"task {position} of the generator", spec))
    return spec
