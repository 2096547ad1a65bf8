"""A mixture draws from its sources by weights, and tells each of its own tasks."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from vectasks.errors import InvalidArgument
from vectasks.sources import EpisodeOutcome, TaskList, TaskMixture, TasksFrom

OUTCOME = EpisodeOutcome(episode_return=1.0, length=1)


def endless(kind: str) -> TaskList:
    return TaskList([{"kind": kind}], repeat=True)


def kinds(source: TaskMixture, number: int) -> list[str]:
    return [source.next(0)["kind"] for _ in range(number)]


def mixture_of(weights: list[float], **options: Any) -> TaskMixture:
    return TaskMixture([endless(kind) for kind in "abc"[: len(weights)]], weights, **options)


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.1], [7, 2, 1], [7e307, 2e307, 1e307]])
def test_proportions(weights):
    drawn = Counter(kinds(mixture_of(weights), 3000))
    for kind, expected in zip("abc", (0.7, 0.2, 0.1), strict=True):  # five standard deviations
        assert abs(drawn[kind] / 3000 - expected) < 5 * math.sqrt(expected * (1 - expected) / 3000)


def test_nothing_is_drawn_by_weight_zero():
    assert set(kinds(mixture_of([1, 0, 2]), 300)) == {"a", "c"}
    source = TaskMixture([TaskList([{"kind": "a"}]), endless("b")], [1, 0])
    assert [source.next(0), source.next(0)] == [{"kind": "a"}, None]


def test_the_seed_decides():
    first = kinds(mixture_of([1, 1]), 50)
    assert kinds(mixture_of([1, 1]), 50) == first
    assert kinds(mixture_of([1, 1], seed=1), 50) != first


def test_an_exhausted_source_is_left_out_until_it_has_tasks_again():
    finite = TaskList([{"kind": "finite"}] * 3)
    source = TaskMixture([finite, endless("a"), endless("b")], [100, 3, 1])
    drawn = [source.next(5) for _ in range(400)]
    counts = Counter(keywords["kind"] for keywords in drawn)
    assert counts["finite"] == 3
    assert 0.65 < counts["a"] / 397 < 0.85
    source.give_back(5, next(one for one in drawn if one["kind"] == "finite"))
    assert "finite" in kinds(source, 20)


def test_asking_an_exhausted_mixture_changes_nothing():
    source = TaskMixture([TaskList([{"kind": "a"}])], [1])
    drawn = source.next(0)
    before = source.state_dict()
    assert source.next(0) is None
    assert source.state_dict() == before
    source.give_back(0, drawn)
    assert source.next(0) == {"kind": "a"}


class Watched:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def next(self, sampler_id: int) -> dict[str, Any]:
        return {"level": 1}

    def ended(self, sampler_id: int, keywords: Any, outcome: EpisodeOutcome) -> None:
        self.told.append(("ended", sampler_id, outcome))

    def give_back(self, sampler_id: int, keywords: Any) -> None:
        self.told.append(("give_back", sampler_id))


def test_each_source_is_told_of_its_own_tasks():
    sources = [Watched(), Watched()]
    mixture = TaskMixture(sources, [1, 1])
    drawn = [mixture.next(sampler_id) for sampler_id in range(20)]
    for sampler_id, keywords in enumerate(drawn):
        if sampler_id % 2:
            mixture.ended(sampler_id, keywords, OUTCOME)
        else:
            mixture.give_back(sampler_id, keywords)
    told = [what for source in sources for what in source.told]
    assert len(told) == 20
    assert {what[1]: what[0] for what in told} == {
        sampler_id: "ended" if sampler_id % 2 else "give_back" for sampler_id in range(20)
    }
    assert all(source.told for source in sources)


def test_no_source_is_told_of_tasks_drawn_before_a_state_was_loaded():
    source = Watched()
    mixture = TaskMixture([source], [1])
    stale = [mixture.next(0), mixture.next(0)]
    mixture.load_state_dict(mixture.state_dict())
    mixture.ended(0, stale[0], OUTCOME)
    mixture.give_back(0, stale[1])
    assert source.told == []


def test_mixtures_of_mixtures_are_saved_and_loaded():
    def make() -> TaskMixture:
        inner = TaskMixture([TaskList([{"kind": i} for i in range(9)]), endless("a")], [2, 1])
        return TaskMixture([inner, endless("b")], [1, 1])

    source = make()
    for _ in range(7):
        source.ended(0, source.next(0), OUTCOME)
    again = make()
    again.load_state_dict(source.state_dict())
    assert kinds(again, 30) == kinds(source, 30)


def test_the_source_whose_state_does_not_fit_is_named():
    state = TaskMixture([endless("a"), endless("b")], [1, 1]).state_dict()
    with pytest.raises(InvalidArgument, match=r"TaskMixture, sources\[1\]: TaskList: .*another"):
        TaskMixture([endless("a"), endless("c")], [1, 1]).load_state_dict(state)
    with pytest.raises(InvalidArgument, match="num_sources is 2 there and 1 here"):
        TaskMixture([endless("a")], [1]).load_state_dict(state)
    TaskMixture([endless("a"), endless("b")], [3, 4]).load_state_dict(state)  # other weights


def test_a_mixture_with_what_cannot_be_saved_says_so():
    source = TaskMixture([TasksFrom(iter([{"kind": "a"}])), endless("b")], [1, 1])
    with pytest.raises(InvalidArgument, match=r"TasksFrom.state_dict"):
        source.state_dict()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1], "weights has 1 for 2 sources"),
        ([1, 2, 3], "weights has 3 for 2 sources"),
        ([1, -0.5], r"weights\[1\] must be a number of at least 0, got -0.5"),
        ([math.nan, 1], r"weights\[0\] must be a number .*got nan"),
        ([1, math.inf], r"weights\[1\] .*got inf"),
        ([1, "2"], r"weights\[1\] .*got '2'"),
        ([0, 0.0], "weights are all 0"),
        ({"a": 1, "b": 2}, "weights must be a list"),
        (None, "weights must be a list"),
        ("12", "weights must be a list"),
    ],
)
def test_bad_weights_are_named(weights, said):
    with pytest.raises(InvalidArgument, match=said):
        TaskMixture([endless("a"), endless("b")], weights)


def test_bad_sources_are_named():
    with pytest.raises(InvalidArgument, match="sources is empty"):
        TaskMixture([], [])
    with pytest.raises(TypeError, match="TaskList"):
        TaskMixture([[{"level": 1}]], [1])
    with pytest.raises(InvalidArgument, match="seed must be an integer"):
        mixture_of([1], seed=-1)
