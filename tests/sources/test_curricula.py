"""Prioritized level replay and learning progress: the probabilities, computed by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from vectasks.errors import InvalidArgument
from vectasks.sources import (
    EpisodeOutcome,
    LearningProgressTasks,
    PrioritizedTasks,
    from_metric,
)


def levels(number: int) -> list[dict[str, Any]]:
    return [{"level": level} for level in range(number)]


def outcome(episode_return: Any = 0.0, **metrics: Any) -> EpisodeOutcome:
    return EpisodeOutcome(episode_return, length=1, metrics=metrics)


def play(source: Any, ends: Any, number: int) -> list[int]:
    """Play so many episodes; ``ends`` gives the outcome of a level's."""
    played = []
    for _ in range(number):
        keywords = source.next(0)
        source.ended(0, keywords, ends(keywords["level"]))
        played.append(keywords["level"])
    return played


def scored(scores: list[float], **options: Any) -> PrioritizedTasks:
    """A source whose levels have these scores, all set before anything was drawn."""
    source = PrioritizedTasks(levels(len(scores)), score=None, **options)
    for level, score in enumerate(scores):
        source.set_score({"level": level}, score)
    return source


# -- prioritized level replay: probabilities -------------------------------------------------------


def test_by_rank():
    """Ranks 2, 1, 3 have weights 1/2, 1, 1/3, squared: 9, 36 and 4 of 49."""
    source = scored([5.0, 7.0, -1.0], temperature=0.5, staleness=0)
    assert source.probabilities() == pytest.approx([9 / 49, 36 / 49, 4 / 49])


def test_equal_scores_share_their_ranks():
    """Ranks 1 to 4 have weights 1, 1/2, 1/3 and 1/4; the middle two have 5/12 each: of 25/12."""
    source = scored([2.0, 1.0, 3.0, 2.0], temperature=1, staleness=0)
    assert source.probabilities() == pytest.approx([5 / 25, 3 / 25, 12 / 25, 5 / 25])
    cold = scored([0.0] * 5, temperature=0.01, staleness=0)
    assert cold.probabilities() == pytest.approx([0.2] * 5)


def test_by_proportion():
    """Scores 1, 2, 0 and 3 to the power 2: 1, 4, 0 and 9 of 14."""
    source = scored([1, 2, 0, 3], prioritization="proportional", temperature=0.5, staleness=0)
    assert source.probabilities() == pytest.approx([1 / 14, 4 / 14, 0, 9 / 14])


@pytest.mark.parametrize("prioritization", ["rank", "proportional"])
def test_temperature(prioritization):
    cold = scored([1, 3, 2], prioritization=prioritization, temperature=1e-9, staleness=0)
    assert cold.probabilities() == pytest.approx([0, 1, 0])
    hot = scored([1, 3, 2], prioritization=prioritization, temperature=math.inf, staleness=0)
    assert hot.probabilities() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_scores_of_all_sizes(temperature):
    options = {"prioritization": "proportional", "temperature": temperature, "staleness": 0}
    assert scored([1e300, 0, 1e300], **options).probabilities() == pytest.approx([0.5, 0, 0.5])
    assert scored([0, 0, 0, 0], **options).probabilities() == pytest.approx([0.25] * 4)


def test_staleness():
    """Levels drawn 2, 7 and 3 draws ago, with ranks 1, 2 and 3."""
    source = scored([3, 2, 1], temperature=1, staleness=0.25)
    source.load_state_dict({**source.state_dict(), "num_drawn": 10, "last_drawn": [8, 3, 7]})
    by_score, by_age = np.array([6, 3, 2]) / 11, np.array([2, 7, 3]) / 12
    assert source.probabilities() == pytest.approx(0.75 * by_score + 0.25 * by_age)


def test_each_draw_makes_all_others_staler():
    source = scored([3, 2, 1], temperature=1, staleness=1)
    last = {level: 0 for level in range(3)}
    for number in range(1, 20):
        last[source.next(0)["level"]] = number
        ages = np.array([number - last[level] for level in range(3)])
        assert source.probabilities() == pytest.approx(ages / ages.sum())


def test_all_equally_fresh():
    assert scored([2, 1], temperature=1, staleness=1).probabilities() == pytest.approx([0.5, 0.5])


def test_untried_tasks_beside_tried_ones():
    """Two of four are tried: half of the draws replay, half are of the untried ones."""
    source = PrioritizedTasks(levels(4), score=None, temperature=1, staleness=0)
    assert source.probabilities() == pytest.approx([0.25] * 4)
    source.set_score({"level": 1}, 1.0)
    assert source.probabilities() == pytest.approx([0.25] * 4)
    source.set_score({"level": 2}, 2.0)
    assert source.probabilities() == pytest.approx([1 / 4, 1 / 2 / 3, 1 / 2 * 2 / 3, 1 / 4])
    assert source.scores == pytest.approx([math.nan, 1, 2, math.nan], nan_ok=True)


@pytest.mark.parametrize("replay", [0, 0.9, 1])
def test_a_fixed_probability_of_replay(replay):
    source = PrioritizedTasks(
        levels(3), score=None, temperature=1, staleness=0, replay_probability=replay
    )
    assert source.probabilities() == pytest.approx([1 / 3] * 3)
    source.set_score({"level": 1}, 1.0)
    assert source.probabilities() == pytest.approx([(1 - replay) / 2, replay, (1 - replay) / 2])


def test_samplers_do_not_try_the_same_task_at_once():
    source = PrioritizedTasks(levels(6), replay_probability=0)
    drawn = [source.next(sampler_id) for sampler_id in range(6)]
    assert sorted(keywords["level"] for keywords in drawn) == list(range(6))
    source.give_back(3, drawn[3])
    expected = [float(level == drawn[3]["level"]) for level in range(6)]
    assert source.probabilities() == pytest.approx(expected)
    assert source.next(6) == drawn[3]
    assert source.probabilities() == pytest.approx([1 / 6] * 6)  # more samplers than tasks


def test_drawn_as_often_as_probable():
    source = scored([1, 2, 3, 4], prioritization="proportional", temperature=1, staleness=0, seed=3)
    chances = source.probabilities()
    drawn = Counter(source.next(0)["level"] for _ in range(4000))
    for level, chance in enumerate(chances):  # five standard deviations
        assert abs(drawn[level] / 4000 - chance) < 5 * math.sqrt(chance * (1 - chance) / 4000)


# -- scores ----------------------------------------------------------------------------------------


def test_scores_by_the_error_of_the_return():
    source = PrioritizedTasks(levels(2), replay_probability=0)
    first, second = source.next(0), source.next(0)
    source.ended(0, first, outcome(4.0))
    assert source.scores[first["level"]] == 4  # nothing was expected
    source.ended(0, second, outcome(1.0))
    assert source.scores[second["level"]] == 3  # as all others: 4
    while (again := source.next(0)) != first:
        source.give_back(0, again)
    source.ended(0, again, outcome(6.0))
    assert source.scores[first["level"]] == 2  # 4 was expected
    while (again := source.next(0)) != first:
        source.give_back(0, again)
    source.ended(0, again, outcome(4.6))
    assert source.scores[first["level"]] == pytest.approx(0)  # 4 + 0.3 (6 - 4)


def test_returns_of_several_agents_are_averaged():
    source = PrioritizedTasks(levels(1))
    source.ended(0, source.next(0), outcome([1.0, 3.0]))
    assert source.scores == [2]
    source.ended(0, source.next(0), outcome(np.array([4.0, 6.0])))
    assert source.scores == [3]


def test_scores_from_a_metric_or_a_function():
    source = PrioritizedTasks(levels(1), score=from_metric("value_loss"))
    source.ended(0, source.next(0), outcome(value_loss=np.float32(0.5)))
    assert source.scores == [0.5]
    source = PrioritizedTasks(levels(1), score=lambda end: end.length * 3)
    source.ended(0, source.next(0), outcome())
    assert source.scores == [3]


def test_with_scores_of_the_learner_ends_teach_nothing():
    source = PrioritizedTasks(levels(1), score=None)
    source.ended(0, source.next(0), outcome(4.0))
    assert source.scores == pytest.approx([math.nan], nan_ok=True)
    with pytest.raises(InvalidArgument, match=r"none of the 1 tasks is {'level': 5}"):
        source.set_score({"level": 5}, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "3", [1.0, 2.0]])
def test_a_score_that_is_no_number_is_named_and_nothing_is_learnt(value):
    source = PrioritizedTasks(levels(1), score=lambda end: value)
    keywords = source.next(0)
    with pytest.raises(InvalidArgument, match="a score must be a finite number, got"):
        source.ended(0, keywords, outcome())
    assert not source.state_dict()["tried"][0]
    with pytest.raises(InvalidArgument, match="has no task"):
        source.give_back(0, keywords)  # it has ended


def test_a_metric_that_is_missing_is_named():
    source = PrioritizedTasks(levels(1), score=from_metric("value_loss"))
    with pytest.raises(InvalidArgument, match=r"from_metric\('value_loss'\).*\['reward'\]"):
        source.ended(0, source.next(0), outcome(reward=1.0))


def test_negative_scores_have_ranks_but_no_proportions():
    assert scored([-3, -1], temperature=1, staleness=0).probabilities() == pytest.approx(
        [1 / 3, 2 / 3]
    )
    with pytest.raises(InvalidArgument, match=r"proportional.*none may be negative"):
        scored([-3, -1], prioritization="proportional")


# -- learning progress ---------------------------------------------------------------------------


def test_averages_by_hand():
    """Fast 0 -> 0.5, slow 0 -> 0.1, then 0.75 and 0.19: the progress is 0.56."""
    source = LearningProgressTasks(levels(1), fast_rate=0.5, slow_rate=0.1)
    progress = []
    for episode_return in (0.0, 1.0, 1.0):
        source.ended(0, source.next(0), outcome(episode_return))
        progress.append(float(source.learning_progress[0]))
    assert progress == pytest.approx([0, 0.4, 0.56])


def test_each_task_is_tried_before_any_comes_again():
    source = LearningProgressTasks(levels(5))
    drawn = [source.next(sampler_id) for sampler_id in range(5)]
    assert sorted(keywords["level"] for keywords in drawn) == list(range(5))
    source.give_back(2, drawn[2])
    source.ended(0, drawn[0], outcome(1.0))
    assert source.next(2) == drawn[2]


def test_progress_and_exploration_share_the_draws():
    """Progress 0.4, -0.4 and 0: the absolute shares are 1/2, 1/2 and 0."""
    source = LearningProgressTasks(levels(3), fast_rate=0.5, slow_rate=0.1, explore=0.3)
    firsts = {0: 0.0, 1: 1.0, 2: 0.5}
    for _ in range(3):
        keywords = source.next(0)
        source.ended(0, keywords, outcome(firsts[keywords["level"]]))
    assert source.probabilities() == pytest.approx([1 / 3] * 3)
    state = source.state_dict()
    state["fast"], state["slow"] = [0.5, 0.5, 0.5], [0.1, 0.9, 0.5]
    source.load_state_dict(state)
    assert source.probabilities() == pytest.approx([0.45, 0.45, 0.1])


class Learner:
    """Learns levels 0 to 3 by playing them, each once the one before is known; others never."""

    def __init__(self) -> None:
        self.skill = [0.0] * 12
        self.rng = np.random.default_rng(0)

    def __call__(self, level: int) -> EpisodeOutcome:
        episode_return = self.skill[level] + 0.05 * self.rng.standard_normal()
        if level < 4 and (level == 0 or self.skill[level - 1] > 0.7):
            self.skill[level] = min(1.0, self.skill[level] + 0.02)
        return outcome(episode_return)

    def knows_all(self) -> bool:
        return min(self.skill[:4]) == 1


def test_the_curriculum_follows_a_learner():
    def learn(explore: float) -> list[int]:
        source = LearningProgressTasks(
            levels(12), fast_rate=0.2, slow_rate=0.05, explore=explore, seed=1
        )
        learner, played = Learner(), []
        while not learner.knows_all():
            played += play(source, learner, 1)
        return played

    played, uniform = learn(explore=0.2), learn(explore=1)
    assert len(played) < 0.6 * len(uniform)
    impossible = sum(level >= 4 for level in played)
    assert impossible < 0.5 * len(played)  # 8 of the 12 levels
    middles = [np.median([t for t, level in enumerate(played) if level == one]) for one in range(4)]
    assert middles == sorted(middles)  # one after another
    assert learn(explore=0.2) == played


@pytest.mark.parametrize("measure", ["return", lambda end: float(np.mean(end.episode_return))])
def test_measures(measure):
    source = LearningProgressTasks(levels(1), measure=measure, fast_rate=0.5, slow_rate=0.1)
    source.ended(0, source.next(0), outcome([0.0, 0.0]))
    source.ended(0, source.next(0), outcome([1.0, 1.0]))
    assert source.learning_progress == pytest.approx([0.4])
    with pytest.raises(InvalidArgument, match="what is measured must be a finite number, got nan"):
        source.ended(0, source.next(0), outcome(math.nan))
    assert source.learning_progress == pytest.approx([0.4])


# -- both ------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("kind", [PrioritizedTasks, LearningProgressTasks])


def noisy(level: int) -> EpisodeOutcome:
    return outcome(float(np.sin(level * 7)))


@BOTH
def test_the_seed_decides(kind):
    played = play(kind(levels(9), seed=5), noisy, 60)
    assert play(kind(levels(9), seed=5), noisy, 60) == played
    assert play(kind(levels(9), seed=6), noisy, 60) != played


@BOTH
def test_loaded_ones_go_on_as_if_nothing_had_been(kind):
    source = kind(levels(9), seed=5)
    play(source, noisy, 20)
    again = kind(levels(9), seed=5)
    again.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert play(again, noisy, 40) == play(source, noisy, 40)


@BOTH
def test_what_is_given_back_teaches_nothing(kind):
    source = kind(levels(3))
    source.give_back(0, source.next(0))
    assert not any(source.state_dict()["tried"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "value_lost"}, "score must be 'return_error', from_metric.*'value_lost' .str."),
        ({"score": 3}, "score must be"),
        ({"prioritization": "best"}, "'rank' or 'proportional', got 'best'"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"temperature": math.nan}, "temperature"),
        ({"staleness": 1.1}, "staleness must be from 0 to 1, got 1.1"),
        ({"staleness": -0.1}, "staleness must be a number of at least 0"),
        ({"replay_probability": 2}, "replay_probability must be from 0 to 1"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_arguments_of_prioritized_ones(options, said):
    with pytest.raises(InvalidArgument, match=said):
        PrioritizedTasks(levels(2), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measure": "reward"}, "measure must be 'return', from_metric.*'reward'"),
        ({"fast_rate": 0.01, "slow_rate": 0.1}, "slow one must be above 0, and the fast one"),
        ({"slow_rate": 0}, "slow one must be above 0"),
        ({"fast_rate": 1.5}, "fast_rate must be from 0 to 1"),
        ({"explore": math.nan}, "explore must be a number"),
    ],
)
def test_bad_arguments_of_learning_progress(options, said):
    with pytest.raises(InvalidArgument, match=said):
        LearningProgressTasks(levels(2), **options)


def test_a_metric_has_a_name():
    with pytest.raises(InvalidArgument, match="a metric's name was expected, got 3"):
        from_metric(3)
