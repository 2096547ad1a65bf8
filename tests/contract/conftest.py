"""The kinds of worker that the contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kinds_of_worker import EVERY, LANES, QUICK, SPAWN, Kind

from vectasks.testing.toys import CountingTask

# The widest matrices leave to the slow run what takes longest to start (spawn imports everything
# anew, fork copies all that the tests imported), and what differs least from its neighbours.
_SLOWLY = (SPAWN, Kind("fork", 2), Kind("forkserver", 1), LANES[2])


def _some_slowly(kinds: tuple[Kind, ...]) -> tuple[Any, ...]:
    slow = pytest.mark.slow
    return tuple(pytest.param(kind, marks=slow) if kind in _SLOWLY else kind for kind in kinds)


@pytest.fixture(scope="module", params=EVERY, ids=str)
def every_kind(request: pytest.FixtureRequest) -> Kind:
    """Every kind of worker."""
    return request.param


@pytest.fixture(params=_some_slowly(EVERY + LANES), ids=str)
def every_lane(request: pytest.FixtureRequest) -> Kind:
    """Every kind of worker, and every transport of their steps."""
    return request.param


@pytest.fixture(params=QUICK + LANES[:2], ids=str)
def quick_lane(request: pytest.FixtureRequest) -> Kind:
    """The quick kinds, with either transport."""
    return request.param


@pytest.fixture(params=QUICK, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """In process, and one kind of process: for what does not depend on how these start."""
    return request.param


@pytest.fixture(params=_some_slowly(EVERY[1:]), ids=str)
def process_kind(request: pytest.FixtureRequest) -> Kind:
    """Every kind of worker that is a process."""
    return request.param


@pytest.fixture(params=_some_slowly(EVERY[1:] + LANES[1:]), ids=str)
def process_lane(request: pytest.FixtureRequest) -> Kind:
    """Every kind of worker that is a process, and every transport of their steps."""
    return request.param


@pytest.fixture(params=(Kind("forkserver", 2), Kind("fork", 2), LANES[1]), ids=str)
def some_process(request: pytest.FixtureRequest) -> Kind:
    """Processes that differ in what tells of their end, and in the transport of their steps."""
    return request.param


@pytest.fixture
def processes() -> Kind:
    """One kind of process, one per sampler: for what the in-process vector does not have."""
    return Kind("forkserver")


@pytest.fixture
def make(kind: Kind) -> Iterator[Callable[..., Any]]:
    """Makes vectors of toys of the quick kinds, and closes them after the test."""
    made = []

    def make_toys(task_class: Any = CountingTask, count: int = 4, **options: Any) -> Any:
        tasks = kind.toys(task_class, count, **options)
        made.append(tasks)
        return tasks

    yield make_toys
    for tasks in made:
        tasks.close()


@pytest.fixture(scope="module")
def shared(every_kind: Kind) -> Iterator[Any]:
    """Four counting samplers of every kind, shared by a module's tests."""
    tasks = every_kind.toys(max_steps=4)
    yield tasks
    tasks.close()


@pytest.fixture
def tasks(shared: Any) -> Any:
    """The shared vector, all samplers unpaused and at their first task's start."""
    shared.resume_all()
    shared.reset_all()
    return shared
