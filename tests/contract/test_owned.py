"""The caller owns what a step returns, whatever it holds: the task may reuse its objects."""

from __future__ import annotations

import threading
import types
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from vectasks import SingleProcessVectorSampledTasks
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler


class Held(NamedTuple):
    """Something that can change, and how it is changed and read."""

    make: Callable[[], Any]
    write: Callable[[Any, int], Any]
    read: Callable[[Any], int]


def holders() -> dict[str, Held]:
    """In a function, so that all of it travels by value."""
    import dataclasses

    @dataclasses.dataclass
    class Data:
        values: list[int]

    class Plain:
        def __init__(self) -> None:
            self.value = 0

    def first(value: Any) -> int:
        return next(iter(value))

    def put(value: Any, n: int) -> None:
        value[0] = n

    def replace(value: set[int], n: int) -> None:
        value.clear()
        value.add(n)

    return {
        "list": Held(lambda: [0], put, first),
        "array": Held(lambda: np.zeros(1), put, first),
        "deque": Held(lambda: deque([0], 1), deque.append, first),
        "deque of lists": Held(lambda: deque([[0]]), lambda v, n: put(v[0], n), lambda v: v[0][0]),
        "set": Held(lambda: {0}, replace, first),
        "bytearray": Held(lambda: bytearray(1), put, first),
        "defaultdict": Held(lambda: defaultdict(int), put, lambda v: v[0]),
        "dataclass": Held(lambda: Data([0]), lambda v, n: put(v.values, n), lambda v: v.values[0]),
        "object": Held(Plain, lambda v, n: setattr(v, "value", n), lambda v: v.value),
        "objects in a list": Held(
            lambda: [{"a": Plain()}],
            lambda v, n: setattr(v[0]["a"], "value", n),
            lambda v: v[0]["a"].value,
        ),
        "object array": Held(
            lambda: np.array([[0], None], object), lambda v, n: put(v[0], n), lambda v: v[0][0]
        ),
        "record": Held(lambda: np.zeros(1, [("a", "i4")])[0], put, lambda v: v[0]),
        "records": Held(
            lambda: np.zeros(1, [("a", "i4")]), lambda v, n: put(v[0], n), lambda v: v[0][0]
        ),
    }


@pytest.mark.parametrize("name", holders())
def test_infos_hold_what_their_step_gave(quick_lane: Any, name: str) -> None:
    held = holders()[name]

    class ReusingInfos(CountingTask):
        def begin(self) -> None:
            notes = self.env.notes
            if not notes:
                notes.update(count=0, held=held.make())
            held.write(notes["held"], 99)

        def info(self) -> Any:
            notes = self.env.notes
            notes["count"] += 1
            held.write(notes["held"], notes["count"])
            return {"count": notes["count"], "held": notes["held"]}

    args = toy_args(ReusingInfos, 3, max_steps=2)
    with quick_lane.make(ToySampler, args, max_processes=1) as tasks:
        infos = [result.info for _ in range(4) for result in tasks.step([0] * 3)]
        for _ in range(4):
            infos += tasks.step_batch([0] * 3).infos
        assert [held.read(info["held"]) for info in infos] == [info["count"] for info in infos]
        assert [info["count"] for info in infos[::3]] == list(range(1, 1 + len(infos) // 3))


def test_what_a_read_only_view_shows_stays() -> None:
    """In process only: a view cannot be pickled."""

    class ViewTask(CountingTask):
        def info(self) -> Any:
            self.env.notes["count"] = self.step_number
            return {"view": types.MappingProxyType(self.env.notes)}

    with SingleProcessVectorSampledTasks(ToySampler, toy_args(ViewTask, 1)) as tasks:
        infos = [tasks.step([0])[0].info for _ in range(3)]
        assert [info["view"]["count"] for info in infos] == [1, 2, 3]


def test_what_cannot_be_copied_stays_as_it_is() -> None:
    class LockTask(CountingTask):
        def info(self) -> Any:
            lock = self.env.notes.setdefault("lock", threading.Lock())
            return {"lock": lock, "both": [lock, [self.step_number]]}

    args = toy_args(LockTask, 1, max_steps=2)
    with SingleProcessVectorSampledTasks(ToySampler, args) as tasks:
        infos = [tasks.step([0])[0].info for _ in range(3)]
        assert len({id(info["lock"]) for info in infos}) == 1
        assert [info["both"][1] for info in infos] == [[1], [2], [1]]
        # Who asks for an object of the task's gets it.
        assert tasks.attr_at(0, "env").notes["lock"] is infos[0]["lock"]


def test_observations_hold_what_their_step_gave(kind: Any) -> None:
    """Where the space says nothing of them."""

    class DequeTask(CountingTask):
        space = None

        def get_observations(self) -> Any:
            seen = self.env.notes.setdefault("seen", deque(maxlen=2))
            seen.append(self.step_number)
            return {"seen": seen}

    args = toy_args(DequeTask, 1, max_steps=3)
    with kind.make(ToySampler, args, heterogeneous=True) as tasks:
        results = [tasks.step([0])[0] for _ in range(3)]
        assert [list(r.observation["seen"]) for r in results] == [[0, 1], [1, 2], [3, 0]]
        assert list(results[2].info["final_observation"]["seen"]) == [2, 3]
        first = tasks.next_task()[0]["seen"]
        tasks.step([0])
        assert list(first) == [0, 0]
