"""Sources that choose among tasks by how their episodes went."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import real_number, whole_number
from vectasks.errors import InvalidArgument
from vectasks.sources.base import EpisodeOutcome, Keywords, TaskSource
from vectasks.sources.drawn import DrawnTasks, is_equal
from vectasks.sources.measures import Measure, checked_measure, checked_number, mean_return
from vectasks.sources.specs import check_state, checked_specs, digest

#: How much of a new return goes into the average of its task's returns ("return_error").
_RETURN_RATE = 0.3


class _Curriculum(TaskSource):
    """Draws tasks for ever, by probabilities that change with what is learnt of each task.

    Args:
        specs: the tasks.
        seed: of the draws.
        learnt: the names of what is learnt; each is an array of float64 [num_specs].
    """

    def __init__(self, specs: Iterable[Keywords], seed: int, learnt: Iterable[str]) -> None:
        self._specs = checked_specs(specs)
        self._seed = whole_number("seed", seed)
        self._num_drawn = 0
        self._tried = np.zeros(len(self._specs), bool)  # something is learnt of it
        self._learnt = {name: np.zeros(len(self._specs)) for name in learnt}
        self._out: DrawnTasks[int] = DrawnTasks(type(self).__name__)

    @abc.abstractmethod
    def _replay_probability(self) -> float:
        """Return the probability of a tried task, where there are untried ones, too."""

    @abc.abstractmethod
    def _preferences(self) -> NDArray[np.float64]:
        """Return the probabilities of the tried tasks, where one of them is drawn."""

    @abc.abstractmethod
    def _learn(self, number: int, outcome: EpisodeOutcome) -> None:
        """Learn from an episode of a task."""

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probability of each task to be drawn next: float64 [num_specs].

        Untried tasks that are out have none, as long as there are others.
        """
        fresh = ~self._tried
        fresh[self._out.items()] = False
        if not self._tried.any():
            return _shares(fresh)
        if not fresh.any():
            return self._preferences()
        replay = self._replay_probability()
        return replay * self._preferences() + (1 - replay) * _shares(fresh)

    def next(self, sampler_id: int) -> Keywords:
        """Return a task that is drawn by :meth:`probabilities`."""
        rng = np.random.default_rng([self._seed, self._num_drawn])
        chances = self.probabilities()
        number = int(rng.choice(len(chances), p=chances / chances.sum()))
        self._num_drawn += 1
        self._drew(number)
        keywords = dict(self._specs[number])  # so that each draw is an object of its own
        self._out.add(sampler_id, keywords, number)
        return keywords

    def _drew(self, number: int) -> None:
        """Take note of a draw, which is counted already."""

    def ended(self, sampler_id: int, keywords: Keywords, outcome: EpisodeOutcome) -> None:
        """Learn from the episode.

        Raises:
            InvalidArgument: it gives no finite number; then it counts, and nothing is learnt.
        """
        number = self._out.remove(sampler_id, keywords)
        if number is not None:
            self._learn(number, outcome)

    def give_back(self, sampler_id: int, keywords: Keywords) -> None:
        """Forget the draw: nothing is learnt from it."""
        self._out.remove(sampler_id, keywords)

    @functools.cached_property
    def _identity(self) -> Mapping[str, Any]:
        return {
            "source": type(self).__name__,
            "num_specs": len(self._specs),
            "specs": digest(self._specs),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state: what was learnt; tasks that are out count as given back."""
        learnt = {name: values.tolist() for name, values in self._learnt.items()}
        return {
            **self._identity,
            "num_drawn": self._num_drawn,
            "tried": self._tried.tolist(),
            **learnt,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a source of the same kind with the same tasks.

        Raises:
            InvalidArgument: the state is another source's; nothing has changed.
        """
        check_state(state, self._identity, ("num_drawn", "tried", *self._learnt))
        self._num_drawn = state["num_drawn"]
        self._tried = np.array(state["tried"], bool)
        self._learnt = {name: np.array(state[name], float) for name in self._learnt}
        self._out.disown()


class PrioritizedTasks(_Curriculum):
    """Prioritized level replay: tasks with high scores are played again more often.

    As in Jiang, Grefenstette and Rocktäschel, "Prioritized Level Replay" (ICML 2021). With some
    probability a task that was tried is replayed, otherwise an untried one is drawn uniformly.
    The probability of a replayed task is a mixture of two: by its score, and by its staleness,
    the number of draws since it was drawn last.

    Args:
        specs: the tasks, each as keywords for the sampler's ``next_task``.
        score: gives a finished episode's task its new score: ``"return_error"`` (how far the
            return is from the average of this task's earlier ones; at first, from the average of
            all tasks), :func:`from_metric`, or a function of the :class:`EpisodeOutcome`. None:
            scores are set by :meth:`set_score` alone.
        prioritization: ``"rank"``: by 1 / rank of the score, the highest having rank 1, where
            equal scores share the weights of their ranks; ``"proportional"``: by the score
            itself, which is never negative then.
        temperature: the weights are raised to the power 1 / temperature; a high one draws evenly.
        staleness: the share of staleness in the mixture, from 0 to 1 (the paper's rho).
        replay_probability: of replaying while there are untried tasks; None: the share of tasks
            that were tried.
        seed: of the draws.

    Raises:
        InvalidArgument: there are no tasks, one is no mapping, or an argument is out of its range.
    """

    def __init__(
        self,
        specs: Iterable[Keywords],
        *,
        score: str | Measure | None = "return_error",
        prioritization: str = "rank",
        temperature: float = 0.1,
        staleness: float = 0.1,
        replay_probability: float | None = None,
        seed: int = 0,
    ) -> None:
        learnt = ("scores", "num_returns", "average_returns", "last_drawn")
        super().__init__(specs, seed, learnt)
        self._measure: Measure | None = None
        self._scores_return_error = isinstance(score, str) and score == "return_error"
        if score is not None and not self._scores_return_error:
            self._measure = checked_measure("score", score, ready="return_error")
        if prioritization not in ("rank", "proportional"):
            raise InvalidArgument(
                f"prioritization must be 'rank' or 'proportional', got {prioritization!r:.60}."
            )
        self._by_rank = prioritization == "rank"
        self._temperature = real_number("temperature", temperature, positive=True, finite=False)
        self._staleness = _probability("staleness", staleness)
        if replay_probability is not None:
            replay_probability = _probability("replay_probability", replay_probability)
        self._fixed_replay_probability = replay_probability

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of each task, nan where it has none yet: float64 [num_specs]."""
        return np.where(self._tried, self._learnt["scores"], np.nan)

    def set_score(self, keywords: Keywords, score: float) -> None:
        """Set a task's score, as where the learner finds it in an update (the value loss, say).

        Raises:
            InvalidArgument: there is no such task, or the score is no finite number.
        """
        self._set_score(_find(self._specs, keywords), score)

    def _set_score(self, number: int, score: Any) -> None:
        checked = checked_number("a score", score)
        if checked < 0 and not self._by_rank:
            raise InvalidArgument(
                f"a score is {checked}: with prioritization='proportional' none may be negative. "
                "Use 'rank', or scores from 0."
            )
        self._learnt["scores"][number] = checked
        self._tried[number] = True

    def _learn(self, number: int, outcome: EpisodeOutcome) -> None:
        if self._measure is not None:
            self._set_score(number, self._measure(outcome))
        elif self._scores_return_error:
            self._learn_return(number, checked_number("the return", mean_return(outcome)))

    def _learn_return(self, number: int, new: float) -> None:
        averages, known = self._learnt["average_returns"], self._learnt["num_returns"] > 0
        if known[number]:
            expected = averages[number]
            averages[number] += _RETURN_RATE * (new - expected)
        else:
            expected = averages[known].mean() if known.any() else 0.0
            averages[number] = new
        self._learnt["num_returns"][number] += 1
        self._set_score(number, abs(new - expected))

    def _drew(self, number: int) -> None:
        self._learnt["last_drawn"][number] = self._num_drawn

    def _replay_probability(self) -> float:
        if self._fixed_replay_probability is not None:
            return self._fixed_replay_probability
        return float(self._tried.mean())

    def _preferences(self) -> NDArray[np.float64]:
        by_score = _shares(self._weights(self._learnt["scores"][self._tried]))
        by_age = _shares(self._num_drawn - self._learnt["last_drawn"][self._tried])
        preferences = np.zeros(len(self._specs))
        preferences[self._tried] = (1 - self._staleness) * by_score + self._staleness * by_age
        return preferences

    def _weights(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        power = 1 / self._temperature
        weights: NDArray[np.float64]
        if not self._by_rank:
            weights = (scores / (scores.max() or 1.0)) ** power  # no power of it is infinite
            return weights
        by_rank = (1 / np.arange(1, len(scores) + 1)) ** power
        # Equal scores share the weights of their ranks: no task is preferred by its place.
        _, which, counts = np.unique(-scores, return_inverse=True, return_counts=True)
        weights = np.add.reduceat(by_rank, counts.cumsum() - counts) / counts
        return weights[which]


class LearningProgressTasks(_Curriculum):
    """Tasks on which the policy is changing most, for better or worse, are drawn more often.

    The learning progress of a task is the distance between a fast and a slow moving average of a
    number of its episodes, as in Kanitscheider et al., "Multi-task curriculum learning in a
    complex, visual, hard-exploration domain: Minecraft" (2021), without their reweighting of small
    probabilities. Tasks are drawn in proportion to it, and a share of them uniformly, as in
    Portelas et al., "Teacher algorithms for curriculum learning of Deep RL in continuously
    parameterized environments" (CoRL 2019). Each task is tried once before any is drawn again.

    Args:
        specs: the tasks, each as keywords for the sampler's ``next_task``.
        measure: the number of an episode: ``"return"``, :func:`from_metric`, or a function of the
            :class:`EpisodeOutcome`. Numbers of different tasks should have the same scale.
        fast_rate: how much of a new number goes into the fast average, above ``slow_rate``.
        slow_rate: the same of the slow average.
        explore: the share of uniform draws, from 0 to 1.
        seed: of the draws.

    Raises:
        InvalidArgument: there are no tasks, one is no mapping, or an argument is out of its range.
    """

    def __init__(
        self,
        specs: Iterable[Keywords],
        *,
        measure: str | Measure = "return",
        fast_rate: float = 0.1,
        slow_rate: float = 0.01,
        explore: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(specs, seed, learnt=("fast", "slow"))
        is_return = isinstance(measure, str) and measure == "return"
        self._measure = (
            mean_return if is_return else checked_measure("measure", measure, ready="return")
        )
        self._fast_rate = _probability("fast_rate", fast_rate)
        self._slow_rate = _probability("slow_rate", slow_rate)
        if not 0 < self._slow_rate < self._fast_rate:
            raise InvalidArgument(
                f"fast_rate={fast_rate}, slow_rate={slow_rate}: the slow one must be above 0, and "
                "the fast one above it."
            )
        self._explore = _probability("explore", explore)

    @property
    def learning_progress(self) -> NDArray[np.float64]:
        """The absolute learning progress of each task: float64 [num_specs]."""
        return np.abs(self._learnt["fast"] - self._learnt["slow"])

    def _learn(self, number: int, outcome: EpisodeOutcome) -> None:
        new = checked_number("what is measured", self._measure(outcome))
        for name, rate in (("fast", self._fast_rate), ("slow", self._slow_rate)):
            average = self._learnt[name]
            average[number] += (new - average[number]) * (rate if self._tried[number] else 1)
        self._tried[number] = True

    def _replay_probability(self) -> float:
        return 0.0

    def _preferences(self) -> NDArray[np.float64]:
        progress = self.learning_progress
        return (1 - self._explore) * _shares(progress) + self._explore / len(progress)


def _shares(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Scale weights to a sum of 1; weights that are all 0 become equal."""
    if not weights.any():
        weights = np.ones(len(weights))
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _probability(name: str, value: Any) -> float:
    checked = real_number(name, value)
    if checked > 1:
        raise InvalidArgument(f"{name} must be from 0 to 1, got {value!r}.")
    return checked


def _find(specs: tuple[Keywords, ...], keywords: Any) -> int:
    for number, spec in enumerate(specs):
        if is_equal(spec, keywords):
            return number
    raise InvalidArgument(f"none of the {len(specs)} tasks is {keywords!r:.80}.")
