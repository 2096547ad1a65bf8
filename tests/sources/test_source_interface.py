"""What a task source is: a class of one's own, or anything with a method ``next``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from vectasks.errors import InvalidArgument
from vectasks.sources import (
    EpisodeOutcome,
    LearningProgressTasks,
    PrioritizedTasks,
    TaskList,
    TaskMixture,
    TasksFrom,
    TaskSource,
    check_source,
)

SPECS = [{"level": 1}, {"level": 2}]
OUTCOME = EpisodeOutcome(episode_return=1.5, length=3)


class OnlyNext:
    def next(self, sampler_id: int) -> Mapping[str, Any] | None:
        return {"level": sampler_id}


class Everything(OnlyNext):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def ended(self, *what: Any) -> None:
        self.told.append(("ended", *what))

    def give_back(self, *what: Any) -> None:
        self.told.append(("give_back", *what))

    def state_dict(self) -> dict[str, Any]:
        return {"told": len(self.told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.told.append(("load_state_dict", state))


def test_a_source_stays_itself():
    source = TaskList(SPECS)
    assert check_source(source) is source


def test_only_next_is_needed():
    source = check_source(OnlyNext())
    assert isinstance(source, TaskSource)
    keywords = source.next(7)
    assert keywords == {"level": 7}
    source.ended(7, keywords, OUTCOME)
    source.give_back(7, keywords)
    assert source.state_dict() == {}
    source.load_state_dict({})
    with pytest.raises(InvalidArgument, match="keeps no state"):
        source.load_state_dict({"told": 1})


def test_what_a_duck_has_is_called():
    duck = Everything()
    source = check_source(duck)
    keywords = source.next(2)
    source.ended(2, keywords, OUTCOME)
    source.give_back(2, keywords)
    assert source.state_dict() == {"told": 2}
    source.load_state_dict({"told": 0})
    assert duck.told == [
        ("ended", 2, keywords, OUTCOME),
        ("give_back", 2, keywords),
        ("load_state_dict", {"told": 0}),
    ]


class NoMethod(OnlyNext):
    ended = 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (SPECS, r"\(list\) has none.*TaskList"),
        ((spec for spec in SPECS), r"\(generator\) has none.*TasksFrom"),
        (lambda: iter(SPECS), r"\(function\) has none.*TasksFrom"),
        (7, r"method next\(sampler_id\).*7 \(int\) has none\.$"),
        (None, "NoneType"),
        (TaskList, "got the class TaskList: make one"),
        (NoMethod(), "ended is no method"),
    ],
)
def test_what_is_no_source_is_named(given, said):
    with pytest.raises(TypeError, match=said):
        check_source(given)


def test_a_subclass_needs_next_alone():
    class Constant(TaskSource):
        def next(self, sampler_id: int) -> Mapping[str, Any]:
            return {"level": 1}

    source = Constant()
    source.ended(0, source.next(0), OUTCOME)
    source.give_back(0, source.next(0))
    assert source.state_dict() == {}
    with pytest.raises(InvalidArgument, match=r"Constant keeps no state, got one with .'x'."):
        source.load_state_dict({"x": 1})
    with pytest.raises(TypeError, match="next"):
        type("Nothing", (TaskSource,), {})()


def generator():
    yield from SPECS


READY_MADE = {
    "list": lambda: TaskList(SPECS, repeat=True, shuffle_seed=1),
    "mixture": lambda: TaskMixture([TaskList(SPECS), TaskList(SPECS, repeat=True)], [1, 2]),
    "prioritized": lambda: PrioritizedTasks(SPECS),
    "progress": lambda: LearningProgressTasks(SPECS),
    "generator": lambda: TasksFrom(generator),
}


@pytest.mark.parametrize("make", READY_MADE.values(), ids=READY_MADE)
def test_states_are_plain(make):
    source = make()
    source.ended(0, source.next(0), OUTCOME)
    source.next(1)
    state = source.state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert pickle.loads(pickle.dumps(state)) == state
    before = json.dumps(state)
    again = make()
    again.load_state_dict(state)
    for _ in range(3):
        again.next(0)
    assert json.dumps(state) == before  # it is a copy


@pytest.mark.parametrize("make", READY_MADE.values(), ids=READY_MADE)
@pytest.mark.parametrize("other", READY_MADE.values(), ids=READY_MADE)
def test_states_of_other_sources_are_refused(make, other):
    source = make()
    first = source.next(0)
    if make is other:
        source.load_state_dict(other().state_dict())
        return
    with pytest.raises(InvalidArgument, match="another source's: source is "):
        source.load_state_dict(other().state_dict())
    source.ended(0, first, OUTCOME)  # nothing has changed


@pytest.mark.parametrize("make", READY_MADE.values(), ids=READY_MADE)
def test_what_is_no_state_is_refused(make):
    source = make()
    with pytest.raises(InvalidArgument, match=r"what state_dict.. returned.*NoneType"):
        source.load_state_dict(None)
    with pytest.raises(InvalidArgument, match="source is None there"):
        source.load_state_dict({})
    damaged = source.state_dict()
    del damaged["num_drawn"]
    with pytest.raises(InvalidArgument, match=r"damaged: it lacks .'num_drawn'."):
        source.load_state_dict(damaged)


@pytest.mark.parametrize("make", READY_MADE.values(), ids=READY_MADE)
def test_each_task_is_reported_once(make):
    source = make()
    keywords = source.next(3)
    for report in (
        lambda: source.ended(2, keywords, OUTCOME),
        lambda: source.give_back(3, {"level": 99}),
    ):
        with pytest.raises(InvalidArgument, match=r"sampler \d has no task .* out"):
            report()
    source.ended(3, keywords, OUTCOME)
    with pytest.raises(InvalidArgument, match="sampler 3 has no task"):
        source.ended(3, keywords, OUTCOME)
    with pytest.raises(InvalidArgument, match="sampler 3 has no task"):
        source.give_back(3, keywords)


@pytest.mark.parametrize("make", READY_MADE.values(), ids=READY_MADE)
def test_reports_of_tasks_drawn_before_a_state_was_loaded_are_ignored(make):
    source = make()
    state = source.state_dict()
    stale, other = source.next(0), source.next(0)
    source.load_state_dict(state)
    after = json.dumps(source.state_dict())
    source.ended(0, stale, OUTCOME)
    source.give_back(0, other)
    assert json.dumps(source.state_dict()) == after


SPECS_SOURCES = [TaskList, PrioritizedTasks, LearningProgressTasks]


@pytest.mark.parametrize("source", SPECS_SOURCES)
@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ([], "specs is empty"),
        (iter([]), "specs is empty"),
        ([{"level": 1}, 7], r"specs\[1\] must be keywords.*got 7 \(int\)"),
        ([{1: 2}], r"specs\[0\] must be keywords.*strings as keys"),
        ({"level": 1}, r"specs must be a list.*\(dict\)"),
        (None, "specs must be a list.*NoneType"),
        ("abc", r"specs\[0\]"),
    ],
)
def test_bad_specs_are_named(source, specs, said):
    with pytest.raises(InvalidArgument, match=said):
        source(specs)


@pytest.mark.parametrize("source", SPECS_SOURCES)
@pytest.mark.parametrize("others", [SPECS[:1], [*SPECS[:1], {"level": 3}], SPECS[::-1]])
def test_states_of_other_tasks_are_refused(source, others):
    with pytest.raises(InvalidArgument, match=r"another source's: .*specs is "):
        source(SPECS).load_state_dict(source(others).state_dict())


@pytest.mark.parametrize("source", SPECS_SOURCES)
def test_the_order_of_keywords_does_not_matter_to_a_state(source):
    state = source([{"a": 1, "b": 2}]).state_dict()
    source([{"b": 2, "a": 1}]).load_state_dict(state)


@pytest.mark.parametrize("source", SPECS_SOURCES)
def test_what_a_sampler_does_to_its_keywords_is_its_own(source):
    specs = [{"level": 1}]
    tasks = source(specs)
    drawn = tasks.next(0)
    drawn["level"] = 99
    tasks.give_back(0, drawn)
    assert tasks.next(0) == {"level": 1} == specs[0]
