"""Lists and generators: each task is played to its end exactly once."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vectasks.errors import InvalidArgument
from vectasks.sources import EpisodeOutcome, TaskList, TaskMixture, TasksFrom, TaskSource

OUTCOME = EpisodeOutcome(episode_return=1.0, length=1)


def levels(number: int) -> list[dict[str, Any]]:
    return [{"level": level} for level in range(number)]


def play_all(source: TaskSource, number: int = 10_000, sampler_id: int = 0) -> list[int]:
    played = []
    while len(played) < number and (keywords := source.next(sampler_id)) is not None:
        source.ended(sampler_id, keywords, OUTCOME)
        played.append(keywords["level"])
    return played


# -- exactly once, whatever happens ----------------------------------------------------------------


def plain(number: int) -> TaskSource:
    return TaskList(levels(number))


def shuffled(number: int) -> TaskSource:
    return TaskList(levels(number), shuffle_seed=5)


def generated(number: int) -> TaskSource:
    return TasksFrom(lambda: (dict(spec) for spec in levels(number)))


def mixed(number: int) -> TaskSource:
    half = number // 2
    parts = [levels(number)[:half], levels(number)[half:]]
    return TaskMixture([TaskList(part) for part in parts if part], [1] * (1 + bool(half)))


class ExactlyOnce(RuleBasedStateMachine):
    """The model: which levels were played to their ends, here and at the last save."""

    @initialize(make=st.sampled_from([plain, shuffled, generated, mixed]), number=st.integers(1, 8))
    def begin(self, make: Any, number: int) -> None:
        self.make = lambda: make(number)
        self.number = number
        self.source = self.make()
        self.out: list[tuple[int, Any]] = []
        self.stale: list[tuple[int, Any]] = []  # drawn before a state was loaded
        self.played: list[int] = []
        self.saved: tuple[str, list[int]] | None = None

    @rule(sampler_id=st.integers(0, 3))
    def draw(self, sampler_id: int) -> None:
        keywords = self.source.next(sampler_id)
        if keywords is None:
            assert len(self.played) + len(self.out) == self.number
        else:
            self.out.append((sampler_id, keywords))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), as_copy=st.booleans())
    def end(self, data: Any, as_copy: bool) -> None:
        sampler_id, keywords = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if as_copy and not self.stale:  # of equal ones a copy would be the stale one
            keywords = dict(keywords)
        self.source.ended(sampler_id, keywords, OUTCOME)
        self.played.append(keywords["level"])

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        self.source.give_back(*self.out.pop(data.draw(st.integers(0, len(self.out) - 1))))

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), ends=st.booleans())
    def report_stale(self, data: Any, ends: bool) -> None:
        late = self.stale.pop(data.draw(st.integers(0, len(self.stale) - 1)))
        if ends:
            self.source.ended(*late, OUTCOME)
        else:
            self.source.give_back(*late)

    @rule()
    def save(self) -> None:
        self.saved = (json.dumps(self.source.state_dict()), list(self.played))

    @precondition(lambda self: self.saved)
    @rule(anew=st.booleans())
    def load(self, anew: bool) -> None:
        state, played = self.saved  # type: ignore[misc]
        if anew:
            self.source, self.stale = self.make(), []
        else:
            self.stale += self.out
        self.source.load_state_dict(json.loads(state))
        self.out, self.played = [], list(played)

    @invariant()
    def nothing_is_out_twice(self) -> None:
        once = Counter(self.played + [keywords["level"] for _, keywords in self.out])
        assert max(once.values(), default=1) == 1

    def teardown(self) -> None:
        """Whatever came before: play the rest, and each level was played once."""
        if not hasattr(self, "source"):
            return
        for out in self.out:
            self.source.give_back(*out)
        rest = play_all(self.source)
        assert sorted(self.played + rest) == list(range(self.number))
        assert self.source.next(9) is None


@pytest.mark.guarantee("shared-tasks-once")
def test_each_task_is_played_to_its_end_exactly_once():
    run_state_machine_as_test(ExactlyOnce)


# -- a list ----------------------------------------------------------------------------------------


def test_once_in_order():
    source = TaskList(levels(3))
    assert [source.next(sampler_id) for sampler_id in (4, 0, 4, 0)] == [*levels(3), None]


def test_for_ever():
    assert play_all(TaskList(levels(3), repeat=True), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_each_pass_is_shuffled_anew_by_the_seed():
    played = play_all(TaskList(levels(20), repeat=True, shuffle_seed=3), 60)
    passes = [played[:20], played[20:40], played[40:]]
    assert [sorted(one) for one in passes] == [list(range(20))] * 3
    assert len({tuple(one) for one in [*passes, range(20)]}) == 4
    assert play_all(TaskList(levels(20), repeat=True, shuffle_seed=3), 60) == played
    assert play_all(TaskList(levels(20), repeat=True, shuffle_seed=4), 60) != played
    assert play_all(TaskList(levels(20), shuffle_seed=3)) == passes[0]


def test_what_is_given_back_comes_first_again():
    source = TaskList(levels(4))
    one, two, _ = (source.next(0) for _ in range(3))
    source.give_back(0, two)
    source.give_back(0, one)
    assert [source.next(1) for _ in range(4)] == [*levels(2), levels(4)[3], None]


def test_there_are_tasks_again_once_one_is_given_back():
    source = TaskList(levels(1))
    drawn = source.next(0)
    assert source.next(1) is None
    source.give_back(0, drawn)
    assert source.next(1) == {"level": 0}


@pytest.mark.guarantee("shared-tasks-once")
def test_every_pass_is_whole_although_tasks_are_given_back():
    source = TaskList(levels(3), repeat=True, shuffle_seed=0)
    played = []
    for turn in range(60):
        keywords = source.next(turn % 2)
        if turn % 3 == 0:
            source.give_back(turn % 2, keywords)
        else:
            source.ended(turn % 2, keywords, OUTCOME)
            played.append(keywords["level"])
        if len(played) % 3 == 0:
            assert len(set(Counter(played).values())) <= 1
    assert len(played) == 40


def test_saved_and_loaded_in_the_third_pass():
    source = TaskList(levels(5), repeat=True, shuffle_seed=2)
    play_all(source, 12)
    out = [source.next(1), source.next(2)]
    again = TaskList(levels(5), repeat=True, shuffle_seed=2)
    again.load_state_dict(source.state_dict())
    for sampler_id, keywords in enumerate(out, 1):
        source.give_back(sampler_id, keywords)
    assert play_all(again, 20) == play_all(source, 20)


@pytest.mark.parametrize("option", [{"repeat": True}, {"shuffle_seed": 1}, {"shuffle_seed": 0}])
def test_a_state_of_another_order_is_refused(option):
    with pytest.raises(InvalidArgument, match=f"another source's: {next(iter(option))} is "):
        TaskList(levels(2)).load_state_dict(TaskList(levels(2), **option).state_dict())


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_bad_seeds_are_named(seed):
    with pytest.raises(InvalidArgument, match="shuffle_seed must be an integer"):
        TaskList(levels(2), shuffle_seed=seed)


def test_keywords_may_be_arrays():
    specs = [{"goal": np.array([1.0, level])} for level in range(3)]
    source = TaskList(specs)
    drawn = [source.next(0) for _ in range(3)]
    source.ended(0, copy.deepcopy(drawn[1]), OUTCOME)
    source.ended(0, dict(drawn[2]), OUTCOME)
    with pytest.raises(InvalidArgument, match="has no task"):
        source.ended(0, {"goal": np.array([1.0, 1.0])}, OUTCOME)
    source.give_back(0, drawn[0])
    assert source.next(0)["goal"][1] == 0
    TaskList(specs).load_state_dict(source.state_dict())


def test_equal_tasks_are_different_ones():
    source = TaskList([{"level": 0}] * 3)
    drawn = [source.next(0) for _ in range(3)]
    source.ended(0, drawn[1], OUTCOME)
    source.give_back(0, drawn[0])
    assert source.state_dict()["again"] == [0, 2]


# -- a generator -----------------------------------------------------------------------------------


def count():
    for level in itertools.count():
        yield {"level": level}


def test_a_generator_is_asked_as_needed():
    asked = []

    def watched():
        for spec in levels(3):
            asked.append(spec["level"])
            yield spec

    source = TasksFrom(watched)
    assert asked == []
    source.next(0)
    assert asked == [0]
    assert play_all(source) == [1, 2]
    assert source.next(0) is None


def test_a_generator_is_restarted_and_goes_on():
    source = TasksFrom(count)
    drawn = [source.next(0) for _ in range(6)]
    source.ended(0, drawn[1], OUTCOME)
    source.give_back(0, drawn[4])
    for keywords in (drawn[0], drawn[3]):
        source.ended(0, keywords, OUTCOME)
    again = TasksFrom(count)
    again.load_state_dict(source.state_dict())
    assert play_all(again, 5) == [2, 4, 5, 6, 7]


@pytest.mark.parametrize("make", [count, lambda: iter(levels(9)), lambda: levels(9)])
def test_any_function_that_returns_something_iterable(make):
    assert play_all(TasksFrom(make), 3) == [0, 1, 2]


def test_an_iterator_cannot_be_saved():
    source = TasksFrom(count())
    assert play_all(source, 2) == [0, 1]
    said = r"made from a generator.*TasksFrom\(levels\), not TasksFrom\(levels\(\)\)"
    with pytest.raises(InvalidArgument, match=said):
        source.state_dict()
    with pytest.raises(InvalidArgument, match=said):
        source.load_state_dict(TasksFrom(count).state_dict())
    assert play_all(source, 2) == [2, 3]


@pytest.mark.parametrize("given", [3, None, levels(2), "levels"])
def test_neither_function_nor_iterator(given):
    with pytest.raises(InvalidArgument, match="tasks must be a function that returns an iterator"):
        TasksFrom(given)


@pytest.mark.parametrize("returned", [{"level": 1}, None, 3])
def test_a_function_that_returns_no_iterator(returned):
    def one_task():
        return returned

    with pytest.raises(InvalidArgument, match="one_task must return an iterator of keywords"):
        TasksFrom(one_task)


def test_a_generator_that_raises_does_not_seem_to_have_ended():
    def broken():
        yield {"level": 0}
        yield {"level": 1}
        raise OSError("no such scene")

    source = TasksFrom(broken)
    one = source.next(0)
    source.next(0)
    for _ in range(2):
        with pytest.raises(OSError, match="no such scene"):
            source.next(0)
    source.give_back(0, one)
    assert source.next(1) == {"level": 0}
    source.load_state_dict(source.state_dict())
    assert source.next(0) == {"level": 0}


def test_loading_a_state_mends_a_generator_that_raised():
    errors = [OSError("busy")]

    def unreliable():
        yield {"level": 0}
        if errors:
            raise errors.pop()
        yield {"level": 1}

    source = TasksFrom(unreliable)
    assert play_all(source, 1) == [0]
    for _ in range(2):
        with pytest.raises(OSError, match="busy"):
            source.next(0)
    source.load_state_dict(source.state_dict())
    assert play_all(source) == [1]


def test_a_generator_that_yields_no_keywords():
    source = TasksFrom(lambda: iter([{"level": 0}, 7]))
    source.next(0)
    with pytest.raises(TypeError, match=r"task 1 of the generator must be keywords.*7 \(int\)"):
        source.next(0)


def test_a_state_of_a_longer_generator_is_refused():
    source = TasksFrom(lambda: iter(levels(5)))
    play_all(source)
    other = TasksFrom(lambda: iter(levels(3)))
    other.next(0)
    with pytest.raises(InvalidArgument, match=r"5 tasks were drawn there.*ends after 3"):
        other.load_state_dict(source.state_dict())
    assert play_all(other) == [1, 2]
